"""Enrolment over real sockets: the unit as a program, our client as a program, and openssl with curl as a
client that is not ours. And what an attacker would try."""

import base64
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sie_core import identity
from sie_core.errors import IdentityRefused, Refusal
from sie_core.identity import Identity, KeyKind
from sie_hub.enrol.state import MAX_ISSUED
from sie_hub.enrol.tokens import TokenStore

from .broker import free_port
from .conftest import EXCHANGE, Pki
from .enrol_unit import Enrol, running

CURL = shutil.which("curl")
OPENSSL = shutil.which("openssl")
not_ours = pytest.mark.skipif(
    CURL is None or OPENSSL is None, reason="curl and openssl, a client that is not ours, are not installed"
)
REVOKED_SERIAL = "5e1a1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enrol]:
    with running(tmp_path_factory.mktemp("enrol")) as made:
        yield made


Key = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return identity.generate_key(KeyKind.ED25519, os.urandom)


def csr(key: Key, sensor: str = "ns1") -> bytes:
    return identity.make_request(key, Identity(EXCHANGE, "isp_a", sensor))


def greedy_csr(key: Key) -> bytes:
    """A request that asks for everything it should not get."""
    builder = x509.CertificateSigningRequestBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "uni_b/ns9")])
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
        critical=True,
    )
    builder = builder.add_extension(
        x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier(f"sie://{EXCHANGE}/uni_b/ns9"),
                x509.DNSName("localhost"),
                x509.IPAddress(ip_address("127.0.0.1")),
            ]
        ),
        critical=False,
    )
    builder = builder.add_extension(
        x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


# --- our client, as a program ----------------------------------------------------------------------------


class Agent:
    """The files of a sensor that is to enrol, and `sie-agent identity` run on them."""

    def __init__(self, directory: Path, hub: Enrol, sensor: str, *, ca: Path | None = None) -> None:
        directory.mkdir()
        self.identity = directory / "identity"
        self.token_file = directory / "token"
        self.config = directory / "agent.yml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "participant": "isp_a",
                    "sensor": sensor,
                    "exchange": EXCHANGE,
                    "channel": 202,
                    "resolvers": ["192.0.2.53"],
                    "sources": [{"interface": "lo"}],
                    "spool": {"directory": str(directory / "spool")},
                    "uplink": {
                        "hubs": ["wss://localhost:1"],
                        "ca": str(ca or hub.ca),
                        "enrol": hub.url,
                    },
                    "identity": {"directory": str(self.identity)},
                }
            )
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sie_agent.cli", "identity", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=60,
        )

    def enrol(self, token: str, *more: str) -> subprocess.CompletedProcess[str]:
        self.token_file.write_text(f"{token}\n")
        return self.run("enrol", "--token-file", str(self.token_file), "--json", *more)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.identity.iterdir()}


def test_our_client_enrols_and_both_sides_show_the_same_key(hub: Enrol, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "sensor", hub, "ns1")
    done = agent.enrol(hub.token("ns1"))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["changed"] is True
    assert (said["state"], said["participant"], said["sensor"]) == ("valid", "isp_a", "ns1")
    lifetime = datetime.fromisoformat(said["not_after"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < lifetime <= timedelta(days=30)

    assert sorted(agent.files()) == ["certificate.pem", "key.pem"]
    assert (agent.identity / "key.pem").stat().st_mode & 0o777 == 0o600
    certificate = x509.load_pem_x509_certificate((agent.identity / "certificate.pem").read_bytes())
    peer = identity.check_peer(
        certificate.public_bytes(Encoding.DER),
        authorities=[hub.pki.ca],
        exchange=EXCHANGE,
        now=datetime.now(UTC),
    )
    assert peer.fingerprint == said["fingerprint"]

    listed = hub.run("token", "list", "--config", str(hub.config), "--json")
    [token] = [one for one in json.loads(listed.stdout)["tokens"] if one["sensor"] == "ns1"]
    assert token["bound_key"] == said["fingerprint"]
    assert [one["serial"] for one in token["issued"]] == [said["serial"]]
    assert f"key={said['fingerprint']}" in hub.log() or f'key="{said["fingerprint"]}"' in hub.log()


def test_enrolling_again_changes_nothing_and_needs_no_token(hub: Enrol, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "sensor", hub, "ns2")
    assert agent.enrol(hub.token("ns2")).returncode == 0
    before = agent.files()
    again = agent.run("enrol", "--token-file", str(tmp_path / "no-such-file"), "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["changed"] is False
    assert agent.files() == before


def test_force_makes_a_new_key(hub: Enrol, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "sensor", hub, "ns3")
    first = json.loads(agent.enrol(hub.token("ns3")).stdout)
    second = json.loads(agent.enrol(hub.token("ns3"), "--force").stdout)
    assert second["changed"] is True
    assert second["fingerprint"] != first["fingerprint"]
    shown = json.loads(agent.run("show", "--json").stdout)
    assert {**shown, "changed": True} == second


def test_a_refusal_is_the_hubs_own_sentence(hub: Enrol, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "sensor", hub, "ns4")
    done = agent.enrol("A" * 43)
    assert done.returncode == 1
    assert "the hub refused to enrol isp_a/ns4 (status 401): this token is not known here" in done.stderr
    assert sorted(agent.files()) == ["key.new.pem"]
    shown = json.loads(agent.run("show", "--json").stdout)
    assert shown["state"] == "none"
    # The key that waited is the one that is enrolled in the end: an answer may have been lost.
    waiting = agent.files()["key.new.pem"]
    assert agent.enrol(hub.token("ns4")).returncode == 0
    assert agent.files()["key.pem"] == waiting


def test_our_client_trusts_the_pinned_authority_alone(hub: Enrol, tmp_path: Path) -> None:
    other = Pki(tmp_path / "other")
    agent = Agent(tmp_path / "sensor", hub, "ns5", ca=other.ca_held.certificate)
    token = hub.token("ns5")
    done = agent.enrol(token)
    assert done.returncode == 1
    assert "does not prove that it is the hub" in done.stderr
    [unused] = [one for one in TokenStore(hub.state).list() if one.sensor == "ns5"]
    assert unused.state(datetime.now(UTC)) == "open"


# --- a client that is not ours --------------------------------------------------------------------------


def openssl(*arguments: str, data: bytes | None = None) -> bytes:
    assert OPENSSL is not None
    return subprocess.run(
        [OPENSSL, *arguments], input=data, capture_output=True, check=True, timeout=60
    ).stdout


def curl(*arguments: str) -> bytes:
    assert CURL is not None
    return subprocess.run(
        [CURL, "--silent", "--show-error", "--fail-with-body", *arguments],
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout


@not_ours
def test_openssl_and_curl_get_the_authority(hub: Enrol, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    body = curl("--cacert", str(hub.ca), "--dump-header", str(headers), f"{hub.url}/.well-known/est/cacerts")
    lines = headers.read_text().lower().splitlines()
    assert "content-type: application/pkcs7-mime; smime-type=certs-only" in lines
    assert "content-transfer-encoding: base64" in lines
    printed = openssl("pkcs7", "-inform", "DER", "-print_certs", data=base64.b64decode(body))
    assert x509.load_pem_x509_certificate(printed) == hub.pki.ca


@not_ours
@pytest.mark.parametrize(
    "algorithm", [["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], ["ed25519"]], ids=["P-256", "Ed25519"]
)
def test_openssl_and_curl_enrol(hub: Enrol, tmp_path: Path, algorithm: list[str]) -> None:
    key, request, answer = tmp_path / "key.pem", tmp_path / "request", tmp_path / "answer.pem"
    openssl("genpkey", "-algorithm", *algorithm, "-out", str(key))
    der = openssl("req", "-new", "-key", str(key), "-subj", "/CN=whatever", "-outform", "DER")
    request.write_bytes(openssl("base64", data=der))
    sensor = "ns6" if len(algorithm) == 1 else "ns7"
    body = curl(
        "--cacert",
        str(hub.ca),
        "--user",
        f"isp_a/{sensor}:{hub.token(sensor)}",
        "--header",
        "Content-Type: application/pkcs10",
        "--header",
        "Content-Transfer-Encoding: base64",
        "--data-binary",
        f"@{request}",
        f"{hub.url}/.well-known/est/simpleenroll",
    )
    answer.write_bytes(openssl("pkcs7", "-inform", "DER", "-print_certs", data=base64.b64decode(body)))
    openssl("verify", "-CAfile", str(hub.ca), "-purpose", "sslclient", str(answer))
    assert openssl("x509", "-in", str(answer), "-noout", "-pubkey") == openssl(
        "pkey", "-in", str(key), "-pubout"
    )
    text = openssl("x509", "-in", str(answer), "-noout", "-text").decode()
    assert f"URI:sie://{EXCHANGE}/isp_a/{sensor}" in text
    with pytest.raises(subprocess.CalledProcessError):
        openssl("verify", "-CAfile", str(hub.ca), "-purpose", "sslserver", str(answer))


# --- what an attacker would try --------------------------------------------------------------------------


def test_a_request_that_asks_for_more_gets_no_more(hub: Enrol) -> None:
    key = new_key()
    certificate = hub.enrol("ns8", hub.token("ns8"), greedy_csr(key))
    plain = hub.enrol("ns9", hub.token("ns9"), csr(new_key(), "ns9"))
    assert identity.public_key_of(certificate).public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ) == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    extensions = certificate.extensions
    assert [type(one.value) for one in extensions] == [type(one.value) for one in plain.extensions]
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [
        x509.UniformResourceIdentifier(f"sie://{EXCHANGE}/isp_a/ns8")
    ]
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    assert "uni_b" not in certificate.subject.rfc4514_string()


def test_a_certificate_that_a_sensor_signs_is_worth_nothing(hub: Enrol) -> None:
    """The key of a sensor's certificate signs a certificate for another sensor: its issuer is no CA."""
    key = new_key()
    mine = hub.enrol("ns10", hub.token("ns10"), greedy_csr(key))
    forged = (
        x509.CertificateBuilder(
            issuer_name=mine.subject,
            subject_name=mine.subject,
            public_key=new_key().public_key(),
            serial_number=1,
            not_valid_before=mine.not_valid_before_utc,
            not_valid_after=mine.not_valid_after_utc,
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"sie://{EXCHANGE}/uni_b/ns9")]),
            critical=False,
        )
        .sign(key, None)
    )
    with pytest.raises(IdentityRefused) as refused:
        identity.check_peer(
            forged.public_bytes(Encoding.DER),
            authorities=[hub.pki.ca],
            exchange=EXCHANGE,
            now=datetime.now(UTC),
        )
    assert refused.value.reason is Refusal.OTHER_AUTHORITY


def test_a_sensors_certificate_cannot_pose_as_the_hub(hub: Enrol, tmp_path: Path) -> None:
    """Asked for with the hub's names and serverAuth, shown by a server: our client refuses it."""
    key = new_key()
    certificate = hub.enrol("ns11", hub.token("ns11"), greedy_csr(key))
    pem, key_file = tmp_path / "posing.pem", tmp_path / "posing.key"
    pem.write_bytes(identity.certificate_to_pem(certificate))
    key_file.write_bytes(identity.private_key_to_pem(key))
    port = free_port()
    script = (
        "import ssl, socket, sys\n"
        "c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[1], sys.argv[2])\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[3]))); print('listening', flush=True)\n"
        "s.settimeout(30); plain, _ = s.accept()\n"
        "try:\n c.wrap_socket(plain, server_side=True)\n"
        "except ssl.SSLError as error:\n print(error.reason, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(pem), str(key_file), str(port)], stdout=subprocess.PIPE, text=True
    ) as posing:
        assert posing.stdout is not None
        assert posing.stdout.readline() == "listening\n"
        agent = Agent(tmp_path / "sensor", hub, "ns12")
        document = yaml.safe_load(agent.config.read_text())
        document["uplink"]["enrol"] = f"https://localhost:{port}"
        agent.config.write_text(yaml.safe_dump(document))
        done = agent.enrol(hub.token("ns12"))
        assert done.returncode == 1
        assert "does not prove that it is the hub" in done.stderr
        assert "ALERT" in posing.stdout.readline()


def test_a_second_key_is_refused_and_alarmed(hub: Enrol) -> None:
    token = hub.token("ns13")
    mine, thief = new_key(), new_key()
    first = hub.enrol("ns13", token, csr(mine, "ns13"))
    alarms = hub.count("refused_other_key")
    status, sentence = hub.refused("ns13", token, csr(thief, "ns13"))
    assert (status, "another key" in sentence) == (403, True)
    assert hub.count("refused_other_key") == alarms + 1
    [line] = [line for line in hub.log().splitlines() if "ALARM" in line and "isp_a/ns13" in line]
    assert "critical" in line
    assert identity.fingerprint(mine.public_key()) in line
    assert identity.fingerprint(thief.public_key()) in line
    # The one that came first may still ask again.
    again = hub.enrol("ns13", token, csr(mine, "ns13"))
    assert again.serial_number != first.serial_number


@pytest.mark.parametrize(
    ("make_token", "sensor", "status", "words"),
    [
        (lambda _hub: "A" * 43, "ns14", 401, "not known here"),
        (lambda hub: hub.token("ns14", age=timedelta(hours=2)), "ns14", 403, "expired"),
        (lambda hub: hub.token("ns15"), "ns14", 403, "not for isp_a/ns14"),
        (lambda hub: hub.token("ns14", "uni_b"), "ns14", 403, "not for isp_a/ns14"),
        (lambda hub: hub.token("gone"), "gone", 403, "revoked: the host was stolen"),
        (lambda hub: hub.token("unheard-of"), "unheard-of", 403, "not in the registry"),
        (lambda hub: hub.token("../ns14"), "../ns14", 401, "PARTICIPANT/SENSOR"),
        (lambda _hub: "", "ns14", 401, "HTTP Basic"),
    ],
    ids=[
        "unknown",
        "expired",
        "other sensor",
        "other participant",
        "revoked",
        "unregistered",
        "path",
        "empty",
    ],
)
def test_tokens_that_open_nothing(
    hub: Enrol, make_token: Callable[[Enrol], str], sensor: str, status: int, words: str
) -> None:
    answered, sentence = hub.refused(sensor, make_token(hub), csr(new_key()))
    assert answered == status
    assert words in sentence


def test_a_participant_without_agreement_enrols_nothing(hub: Enrol) -> None:
    status, sentence = hub.refused("ns1", hub.token("ns1", "late"), csr(new_key()), "late")
    assert status == 403
    assert "terminated" in sentence


def test_a_refused_request_leaves_the_token_open(hub: Enrol) -> None:
    token = hub.token("ns16")
    assert hub.refused("ns16", token, b"no request")[0] == 400
    assert hub.enrol("ns16", token, csr(new_key(), "ns16"))


def test_a_token_whose_certificate_was_revoked_is_spent(hub: Enrol) -> None:
    """Whoever stole the key may have the token as well."""
    token, key = hub.token("ns17"), new_key()
    certificate = hub.enrol("ns17", token, csr(key, "ns17"))
    path = hub.directory / "participants" / "isp_a.yml"
    document = yaml.safe_load(path.read_text())
    document["sensors"]["ns17"]["revoked_serials"] = [f"0{identity.serial_text(certificate)}"]
    fresh = path.with_name(".isp_a.new")
    fresh.write_text(yaml.safe_dump(document))
    fresh.replace(path)
    deadline = datetime.now(UTC) + timedelta(seconds=10)
    status, sentence = 200, ""
    while status == 200 and datetime.now(UTC) < deadline:
        hub.pause(0.2)
        status, _headers, body = hub.ask("isp_a/ns17", token, base64.b64encode(csr(key, "ns17")))
        sentence = body.decode()
    assert status == 403
    assert "is revoked" in sentence


def test_certificates_without_end_are_not_given(hub: Enrol) -> None:
    token, request = hub.token("ns18"), csr(new_key(), "ns18")
    for _ in range(MAX_ISSUED):
        hub.enrol("ns18", token, request)
    assert hub.refused("ns18", token, request)[0] == 429


def unsigned_csr() -> bytes:
    """The request of one key with the public key of another: no proof of possession."""
    mine, victim = new_key(), new_key()
    der = bytearray(csr(mine))
    raw = mine.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    at = bytes(der).index(raw)
    der[at : at + len(raw)] = victim.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return bytes(der)


def csr_with(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: b"", "no certificate request"),
        (lambda: os.urandom(300), "no certificate request"),
        (lambda: csr(new_key())[:-1], "no certificate request"),
        (unsigned_csr, "not signed with the key"),
        (lambda: csr_with(rsa.generate_private_key(65537, 2048)), "neither Ed25519 nor P-256"),
        (lambda: csr_with(ec.generate_private_key(ec.SECP384R1())), "neither Ed25519 nor P-256"),
        (lambda: b"\x30" * 20000, "no larger than"),
    ],
    ids=["nothing", "garbage", "cut", "another's key", "RSA", "P-384", "large"],
)
def test_requests_that_are_refused(hub: Enrol, make: Callable[[], bytes], words: str) -> None:
    status, sentence = hub.refused("ns19", hub.token("ns19"), make())
    assert status == 400
    assert words in sentence


def test_a_body_that_is_no_base64_or_of_another_type(hub: Enrol) -> None:
    token = hub.token("ns20")
    assert hub.ask("isp_a/ns20", token, b"\xff\xfe")[0] == 400
    assert hub.ask("isp_a/ns20", token, csr(new_key()), content_type="application/json")[0] == 400


def test_401_says_how_to_authenticate(hub: Enrol) -> None:
    status, headers, _body = hub.ask("isp_a/ns1", "wrong-but-long-enough", b"AAAA")
    assert status == 401
    assert headers["WWW-Authenticate"].startswith("Basic ")


def test_other_addresses_are_not_found(hub: Enrol) -> None:
    before = hub.count("not_found")
    for path in ("fullcmc", "serverkeygen", "../../etc/passwd"):
        status, headers, body = hub.ask("isp_a/ns1", "x", b"", path=path)
        assert status == 404
        assert headers["Server"] == "sie-hub"
        assert b"EST" in body
    status, headers, _body = hub.ask("isp_a/ns1", "x", b"", path="cacerts")
    assert (status, headers["Allow"]) == (405, "GET,HEAD")
    assert hub.count("not_found") == before + 4


def test_garbage_inside_tls_is_closed_and_counted(hub: Enrol) -> None:
    before = hub.count("not_http")
    context = ssl.create_default_context(cafile=str(hub.ca))
    with (
        socket.create_connection(("localhost", hub.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"\x00\x01\x02 garbage\r\n\r\n")
        answer = b""
        while octets := tls.recv(4096):
            answer += octets
    assert answer.startswith(b"HTTP/1.0 400") or answer.startswith(b"HTTP/1.1 400")
    assert hub.count("not_http") == before + 1
    assert "is no HTTP" in hub.log()
    assert "Traceback" not in hub.log()


# --- the operator's commands -----------------------------------------------------------------------------


def test_a_token_is_issued_shown_once_listed_and_revoked(hub: Enrol) -> None:
    config = ("--config", str(hub.config), "--json")
    who = ("--participant", "isp_a", "--sensor", "ns21")
    issued = json.loads(hub.run("token", "issue", *who, *config).stdout)
    assert issued["changed"] is True
    assert issued["user"] == "isp_a/ns21"
    hub.secrets.append(issued["secret"])
    again = json.loads(hub.run("token", "issue", *who, "--unless-valid", *config).stdout)
    assert (again["changed"], again["secret"]) == (False, None)
    assert again["token"]["id"] == issued["token"]["id"]
    listed = hub.run("token", "list", "--participant", "isp_a", *config)
    assert issued["secret"] not in listed.stdout
    assert issued["token"] in json.loads(listed.stdout)["tokens"]
    revoked = json.loads(hub.run("token", "revoke", issued["token"]["id"], *config).stdout)
    assert revoked["changed"] is True
    assert hub.refused("ns21", issued["secret"], csr(new_key()))[0] == 403


@pytest.mark.parametrize(
    ("who", "words"),
    [
        (("isp_a", "unheard-of"), "not in the registry"),
        (("isp_a", "gone"), "revoked"),
        (("late", "ns1"), "terminated"),
    ],
)
def test_no_token_is_issued_that_would_open_nothing(hub: Enrol, who: tuple[str, str], words: str) -> None:
    done = hub.run("token", "issue", "--participant", who[0], "--sensor", who[1], "--config", str(hub.config))
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stdout == ""


def test_without_json_the_token_alone_is_on_standard_output(hub: Enrol) -> None:
    done = hub.run(
        "token", "issue", "--participant", "isp_a", "--sensor", "ns22", "--config", str(hub.config)
    )
    hub.secrets.append(done.stdout.strip())
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", done.stdout)
    assert "for isp_a/ns22, good until" in done.stderr


def test_a_tokens_standing_is_told_without_using_it(hub: Enrol) -> None:
    token, before = hub.token("ns24"), hub.count("standing")
    assert hub.standing("isp_a/ns24", token) == (204, "")
    status, sentence = hub.standing("isp_a/ns24", token[:-1])
    assert (status, sentence) == (
        401,
        "this token is not known here: ask the exchange's operator for a new one",
    )
    assert hub.standing("isp_a/ns1", token) == (403, "this token is not for isp_a/ns1")
    status, sentence = hub.standing("isp_a/ns99", hub.token("ns99"))
    assert status == 403
    assert "is not in the registry" in sentence
    # Whoever asked first has not bound it: any key may use it, and whoever has it may ask again.
    hub.enrol("ns24", token, csr(new_key(), "ns24"))
    assert hub.standing("isp_a/ns24", token) == (204, "")
    assert hub.count("standing") == before + 2


def test_the_counters_add_up(hub: Enrol) -> None:
    """Every request of a few has one outcome."""
    names = ("authorities", "enrolled", "enrolled_again", "refused_bad_request")
    before = {name: hub.count(name) for name in names}
    token, key = hub.token("ns23"), new_key()
    hub.enrol("ns23", token, csr(key, "ns23"))
    hub.enrol("ns23", token, csr(key, "ns23"))
    hub.refused("ns23", token, b"")
    context = ssl.create_default_context(cafile=str(hub.ca))
    with urllib.request.urlopen(f"{hub.url}/.well-known/est/cacerts", timeout=20, context=context) as answer:
        assert answer.status == 200
    assert {name: hub.count(name) - before[name] for name in names} == dict.fromkeys(names, 1.0)
