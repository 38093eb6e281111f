"""The sensor's side of enrolment: what is on disk after a crash anywhere, and answers that are not taken.

The way to a real hub and back is tested in hub/tests/test_enrol.py; here a server of a few lines answers
what a hub never would.
"""

import base64
import contextlib
import http.server
import json
import os
import select
import socket
import socketserver
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from sie_agent import cli, enrolment
from sie_agent.anchors import Anchors
from sie_agent.config import AgentConfig, load_config
from sie_agent.enrolment import enrol, read_token
from sie_agent.errors import UsageError
from sie_agent.est import EnrolmentFailed
from sie_agent.identity_files import IdentityFiles, IdentityFilesError, load_authorities
from sie_core import identity
from sie_core.identity import Identity, KeyKind, PrivateKey, PublicKey

NOW = datetime.now(UTC)
WHO = Identity("lab.example", "isp_a", "ns1")
TOKEN = "A" * 43

Answer = Callable[[PublicKey], tuple[int, str, bytes]]


class Ca:
    """An authority in memory."""

    def __init__(self) -> None:
        self.key: PrivateKey = identity.generate_key(KeyKind.P256, os.urandom)
        self.certificate = identity.make_ca(self.key, "lab.example", now=NOW, random=os.urandom)

    def issue(self, key: PublicKey, who: Identity = WHO, *, at: datetime = NOW) -> x509.Certificate:
        return identity.issue_sensor_certificate(
            key, who, self.certificate, self.key, now=at, random=os.urandom
        )


class Server:
    """An HTTPS server on loopback that answers every request by `answer`."""

    def __init__(self, directory: Path) -> None:
        self.ca = Ca()
        self.ca_file = directory / "hub_ca.pem"
        self.ca_file.write_bytes(identity.certificate_to_pem(self.ca.certificate))
        key = identity.generate_key(KeyKind.P256, os.urandom)
        certificate = identity.issue_server_certificate(
            key.public_key(),
            ["localhost"],
            [ip_address("127.0.0.1")],
            self.ca.certificate,
            self.ca.key,
            now=NOW,
            random=os.urandom,
        )
        pem = directory / "server.pem"
        pem.write_bytes(identity.certificate_to_pem(certificate) + identity.private_key_to_pem(key))
        self.answer: Answer = lambda key: certs(self.ca.issue(key))
        self.asked: list[tuple[str, str]] = []
        owner = self

        self.authorities = [self.ca.certificate]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, content_type, answer = certs(*owner.authorities)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(answer)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.asked.append((self.path, self.headers["Authorization"]))
                key = identity.key_from_request(base64.b64decode(body))
                status, content_type, answer = owner.answer(key)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Location", "https://localhost:1/")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self.http = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.http.shutdown()
        self.thread.join(10)
        self.http.server_close()


def certs(*certificates: x509.Certificate) -> tuple[int, str, bytes]:
    encoded = base64.encodebytes(identity.encode_certs_only(certificates))
    return 200, "application/pkcs7-mime; smime-type=certs-only", encoded


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


def configured(directory: Path, server: Server | None, **uplink: str) -> AgentConfig:
    port = server.http.server_address[1] if server is not None else 1
    path = directory / "agent.yml"
    path.write_text(
        yaml.safe_dump(
            {
                "participant": "isp_a",
                "sensor": "ns1",
                "exchange": "lab.example",
                "channel": 202,
                "resolvers": ["192.0.2.53"],
                "sources": [{"interface": "lo"}],
                "uplink": {
                    "hubs": ["wss://localhost:1"],
                    "ca": str(directory / "hub_ca.pem"),
                    "enrol": f"https://localhost:{port}",
                    **uplink,
                },
                "identity": {"directory": str(directory / "identity")},
            }
        )
    )
    return load_config(path)


def run(config: AgentConfig, *, force: bool = False) -> enrolment.Enrolment:
    return enrol(config, lambda: TOKEN, force=force, clock=lambda: datetime.now(UTC), random=os.urandom)


def names(config: AgentConfig) -> list[str]:
    return sorted(path.name for path in config.identity_directory.iterdir())


def test_what_is_asked_and_what_is_on_disk(tmp_path: Path, server: Server) -> None:
    config = configured(tmp_path, server)
    done = run(config)
    assert done.changed
    assert done.standing.state == "valid"
    credentials = base64.b64encode(f"isp_a/ns1:{TOKEN}".encode()).decode()
    assert server.asked == [("/.well-known/est/simpleenroll", f"Basic {credentials}")]
    assert names(config) == ["certificate.pem", "key.pem"]
    assert stat.S_IMODE(config.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.identity_directory.stat().st_mode) == 0o700
    assert not run(config).changed
    assert len(server.asked) == 1


class Proxy(socketserver.StreamRequestHandler):
    """A proxy that knows CONNECT alone, and lets through who says that he is `user` with `pass word`."""

    asked: ClassVar[list[str]] = []

    def handle(self) -> None:
        lines = iter(lambda: self.rfile.readline().decode().strip(), "")
        words, *headers = lines
        self.asked.append(words)
        wanted = base64.b64encode(b"user:pass word").decode()
        if f"Proxy-Authorization: Basic {wanted}" not in headers:
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        host, port = words.split()[1].split(":")
        onward = socket.create_connection((host, int(port)))
        with onward, contextlib.suppress(ConnectionResetError):  # how some ends of TLS look
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            ends = {self.request: onward, onward: self.request}
            while True:
                readable, _, _ = select.select(list(ends), [], [])
                for end in readable:
                    if not (octets := end.recv(65536)):
                        return
                    ends[end].sendall(octets)


class ProxyServer(socketserver.ThreadingTCPServer):
    """Where it listens, of either family."""

    def __init__(self, place: tuple[str, int], handler: type[Proxy]) -> None:
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        super().__init__(place, handler)


@pytest.mark.parametrize("at", ["127.0.0.1", "[::1]"])
def test_the_hub_is_asked_through_a_proxy(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    config = configured(tmp_path, server)
    hub = f"localhost:{server.http.server_address[1]}"
    monkeypatch.delenv("no_proxy", raising=False)
    Proxy.asked.clear()
    with ProxyServer((at.strip("[]"), 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            place = f"{at}:{proxy.server_address[1]}"
            monkeypatch.setenv("https_proxy", f"http://{place}")
            with pytest.raises(EnrolmentFailed, match="407 Proxy Authentication Required"):
                run(config)
            monkeypatch.setenv("https_proxy", f"http://user:pass%20word@{place}")
            assert run(config).standing.state == "valid"
            before = list(Proxy.asked)
            monkeypatch.setenv("no_proxy", "localhost")
            assert run(config, force=True).changed
        finally:
            proxy.shutdown()
    assert {words.rpartition(" ")[0] for words in before} == {f"CONNECT {hub}"}
    assert Proxy.asked == before
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(EnrolmentFailed, match="https_proxy must be http://HOST:PORT"):
        run(config, force=True)


def stranger() -> PublicKey:
    return identity.generate_key(KeyKind.ED25519, os.urandom).public_key()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: lambda _key: certs(s.ca.issue(stranger())), "no certificate for this sensor's key"),
        (
            lambda s: lambda key: certs(s.ca.issue(key, Identity("lab.example", "isp_a", "ns2"))),
            "that of isp_a/ns2, this sensor is isp_a/ns1",
        ),
        (
            lambda s: lambda key: certs(s.ca.issue(key, Identity("other.example", "isp_a", "ns1"))),
            "belongs to other.example",
        ),
        (lambda _s: lambda key: certs(Ca().issue(key)), "was not issued by the CA"),
        (lambda s: lambda key: certs(s.ca.issue(key, at=NOW + timedelta(hours=3))), "check the clocks"),
        (lambda _s: lambda _key: (200, "text/html", b"<html>"), "is this the hub's enrolment port"),
        (lambda _s: lambda _key: (200, "application/pkcs7-mime", b"%%%"), "cannot be read"),
        (lambda _s: lambda _key: (200, "application/pkcs7-mime", b"AAAA"), "cannot be read"),
        (
            lambda _s: lambda _key: (200, "application/pkcs7-mime", b"A" * 100_000),
            "is this the hub's enrolment port",
        ),
        (lambda _s: lambda _key: (302, "text/plain", b"elsewhere"), "(status 302): elsewhere"),
        (lambda _s: lambda _key: (403, "text/plain", b"no\n\x1b[31mred"), "(status 403): no??[31mred"),
    ],
)
def test_answers_that_are_not_taken(
    tmp_path: Path, server: Server, make: Callable[[Server], Answer], words: str
) -> None:
    config = configured(tmp_path, server)
    server.answer = make(server)
    with pytest.raises(EnrolmentFailed) as failed:
        run(config)
    assert words in str(failed.value)
    assert "\n" not in str(failed.value)
    assert TOKEN not in str(failed.value)
    assert names(config) == ["key.new.pem"]


def test_our_certificate_is_found_among_others(tmp_path: Path, server: Server) -> None:
    config = configured(tmp_path, server)
    server.answer = lambda key: certs(
        server.ca.certificate, server.ca.issue(stranger()), server.ca.issue(key)
    )
    assert run(config).standing.state == "valid"


def test_a_lost_answer_is_asked_for_again_with_the_same_key(tmp_path: Path, server: Server) -> None:
    config = configured(tmp_path, server)
    good, keys = server.answer, []

    def lose(key: PublicKey) -> tuple[int, str, bytes]:
        keys.append(identity.fingerprint(key))
        return 500, "text/plain", b"lost"

    server.answer = lose
    for _ in range(2):
        with pytest.raises(EnrolmentFailed):
            run(config)
    server.answer = good
    done = run(config)
    assert keys == [done.standing.fingerprint] * 2


def test_the_old_identity_works_until_the_new_one_is_there(tmp_path: Path, server: Server) -> None:
    config = configured(tmp_path, server)
    before = run(config).standing
    server.answer = lambda _key: (503, "text/plain", b"not now")
    with pytest.raises(EnrolmentFailed):
        run(config, force=True)
    files = IdentityFiles(config.identity_directory)
    assert files.standing(WHO, config.ca, NOW) == before


@pytest.mark.parametrize("done", [0, 1, 2])
def test_an_installation_that_was_cut_short_is_finished(tmp_path: Path, server: Server, done: int) -> None:
    """After 0, 1 or 2 of the two renames of an installation."""
    config = configured(tmp_path, server)
    run(config)
    files = IdentityFiles(config.identity_directory)
    key = files.pending_key(os.urandom)
    certificate = server.ca.issue(key.public_key())
    pending = config.identity_directory / "certificate.new.pem"
    pending.write_bytes(identity.certificate_to_pem(certificate))
    if done >= 1:
        (config.identity_directory / "key.new.pem").replace(config.key)
    if done >= 2:
        pending.replace(config.certificate)
    files.settle()
    assert names(config) == ["certificate.pem", "key.pem"]
    standing = files.standing(WHO, config.ca, datetime.now(UTC))
    assert standing.state == "valid"
    assert standing.fingerprint == identity.fingerprint(key.public_key())


def test_a_certificate_without_its_key_is_not_installed(tmp_path: Path, server: Server) -> None:
    config = configured(tmp_path, server)
    before = run(config).standing
    pending = config.identity_directory / "certificate.new.pem"
    pending.write_bytes(identity.certificate_to_pem(server.ca.issue(stranger())))
    files = IdentityFiles(config.identity_directory)
    files.settle()
    assert names(config) == ["certificate.pem", "key.pem"]
    assert files.standing(WHO, config.ca, NOW) == before


def test_the_authorities_that_the_hub_names_are_learnt(tmp_path: Path, server: Server) -> None:
    """A certificate of the next CA is taken from a hub that proves itself by the one that is trusted."""
    config = configured(tmp_path, server)
    following = Ca()
    link = identity.link_ca(
        following.certificate, server.ca.certificate, server.ca.key, now=NOW, random=os.urandom
    )
    server.authorities = [following.certificate, server.ca.certificate, link]
    server.answer = lambda key: certs(following.issue(key))
    done = run(config)
    assert done.standing.state == "valid"
    assert names(config) == ["authorities.pem", "certificate.pem", "key.pem"]
    trusted = Anchors(config.ca, config.identity_directory)
    assert set(load_authorities(trusted.file())) == set(server.authorities[:2])
    # The same file is read by OpenSSL, which must pass over its first line.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(trusted.file())
    assert context.cert_store_stats()["x509_ca"] == 2
    # What somebody lays down in the place of uplink.ca counts more.
    config.ca.write_bytes(identity.certificate_to_pem(following.certificate))
    assert trusted.file() == config.ca


@pytest.mark.parametrize(
    "said",
    [
        "another exchange's",
        "expired",
        "no CA",
        "not self-signed",
        "a server's own",
        "linked by another",
        "linked as a server",
        "linked as a sensor",
        "of another kind",
        "five",
    ],
)
def test_authorities_that_are_not_learnt(tmp_path: Path, server: Server, said: str) -> None:
    config = configured(tmp_path, server)
    key = identity.generate_key(KeyKind.P256, os.urandom)

    def made(exchange: str = "lab.example", at: datetime = NOW) -> x509.Certificate:
        return identity.make_ca(key, exchange, now=at, random=os.urandom)

    def linked(root: x509.Certificate, by: Ca = server.ca) -> x509.Certificate:
        return identity.link_ca(root, by.certificate, by.key, now=NOW, random=os.urandom)

    def posing_as(
        issued: x509.Certificate, key: PrivateKey | rsa.RSAPrivateKey = key
    ) -> list[x509.Certificate]:
        """What whoever has stolen the key of a certificate can make of it: an authority of that name."""
        builder = x509.CertificateBuilder(issued.subject, issued.subject, key.public_key(), 1)
        builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=9))
        for extension in made().extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return [builder.sign(key, hashes.SHA256()), issued]

    five = [made() for _ in range(5)]
    of_server = identity.issue_server_certificate(
        key.public_key(), ["localhost"], [], server.ca.certificate, server.ca.key, now=NOW, random=os.urandom
    )
    server.authorities = {
        "another exchange's": [made("other.example"), linked(made("other.example"))],
        "expired": [made(at=NOW - timedelta(days=4000)), linked(made())],
        "no CA": [server.ca.issue(key.public_key()), linked(made())],
        "not self-signed": [linked(made())],
        "a server's own": [made()],
        "linked by another": [made(), linked(made(), Ca())],
        "linked as a server": posing_as(of_server),
        "linked as a sensor": posing_as(server.ca.issue(key.public_key())),
        "of another kind": posing_as(made(), rsa.generate_private_key(65537, 2048)),
        "five": [*five, linked(five[0])],
    }[said]
    server.answer = lambda _key: pytest.fail("asked for a certificate all the same")
    with pytest.raises(EnrolmentFailed, match=f"{5 if said == 'five' else 0} are authorities of lab.example"):
        run(config)
    assert not config.identity_directory.exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave files to another user")
def test_root_leaves_its_files_to_the_directorys_owner_and_follows_no_link(
    tmp_path: Path, server: Server
) -> None:
    config = configured(tmp_path, server)
    config.identity_directory.mkdir()
    os.chown(config.identity_directory, 64123, 64124)
    run(config)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in config.identity_directory.iterdir()}
    assert owners == {(64123, 64124)}

    victim = tmp_path / "victim"
    config.identity_directory.rename(victim)
    before = {path.name: path.read_bytes() for path in victim.iterdir()}
    config.identity_directory.symlink_to(victim)
    with pytest.raises(IdentityFilesError, match="a symbolic link"):
        run(config, force=True)
    assert {path.name: path.read_bytes() for path in victim.iterdir()} == before


def test_how_an_identity_can_stand(tmp_path: Path, server: Server) -> None:
    config = configured(tmp_path, server)
    files = IdentityFiles(config.identity_directory)
    assert files.standing(WHO, config.ca, NOW).state == "none"
    run(config)
    assert files.standing(WHO, config.ca, NOW + timedelta(days=31)).state == "expired"
    assert files.standing(Identity("lab.example", "isp_a", "ns2"), config.ca, NOW).state == "wrong_name"
    other = tmp_path / "other.pem"
    other.write_bytes(identity.certificate_to_pem(Ca().certificate))
    assert files.standing(WHO, other, NOW).state == "other_authority"
    config.key.write_bytes(identity.private_key_to_pem(identity.generate_key(KeyKind.ED25519, os.urandom)))
    assert files.standing(WHO, config.ca, NOW).state == "other_key"
    config.key.write_text("garbage")
    with pytest.raises(IdentityFilesError, match=r"key\.pem: no private key"):
        files.standing(WHO, config.ca, NOW)


def test_a_hub_that_is_not_there(tmp_path: Path, server: Server) -> None:
    config = configured(tmp_path, server, enrol="https://localhost:1")
    with pytest.raises(EnrolmentFailed, match="https://localhost:1: cannot be asked: Connection refused"):
        run(config)


def test_a_server_without_tls(tmp_path: Path, server: Server) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    plain = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=plain.handle_request)
    thread.start()
    config = configured(tmp_path, server, enrol=f"https://localhost:{plain.server_address[1]}")
    with pytest.raises(EnrolmentFailed, match="cannot be asked"):
        run(config)
    thread.join(10)
    plain.server_close()


def test_a_ca_file_that_is_none(tmp_path: Path, server: Server) -> None:
    config = configured(tmp_path, server)
    config.ca.write_text("none")
    with pytest.raises(IdentityFilesError, match=r"hub_ca\.pem: no certificate in PEM"):
        run(config)
    assert server.asked == []


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"short", b"with space in it and long", b"\xff" * 43, b"a" * 201, b"a" * 5000]
)
def test_what_is_no_token(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(text)
    with pytest.raises(UsageError, match="holds no token") as refused:
        read_token(path)
    assert refused.value.exit_code == 2


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_token(tmp_path / "absent")


def test_the_commands_speak_to_people_too(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(tmp_path, server)
    config = ["--config", str(tmp_path / "agent.yml")]
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert cli.main(["identity", "show", *config]) == 0
    assert "has not enrolled" in capsys.readouterr().out
    assert cli.main(["identity", "enrol", "--token-file", str(tmp_path / "token"), *config]) == 0
    said = capsys.readouterr()
    assert "key          SHA256:" in said.out
    assert TOKEN not in said.out + said.err
    assert cli.main(["identity", "show", "--json", *config]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["fingerprint"] in said.out
    server.answer = lambda _key: (403, "text/plain", b"no")
    assert cli.main(["identity", "enrol", "--force", "--token-file", str(tmp_path / "token"), *config]) == 1
    assert "the hub refused to enrol isp_a/ns1 (status 403): no" in capsys.readouterr().err


def test_without_an_enrolment_address_the_bundle_is_named(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "agent.yml"
    configured(tmp_path, server)
    document = yaml.safe_load(path.read_text())
    del document["uplink"]["enrol"]
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(UsageError, match=r"uplink\.enrol is not set"):
        run(load_config(path))
