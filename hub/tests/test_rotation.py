"""The succession of the issuing CA, judged by OpenSSL: who trusts the old one goes on."""

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from sie_core import files, identity
from sie_core.identity import Identity, KeyKind
from sie_hub.enrol import rotation
from sie_hub.enrol.authority import (
    AuthorityError,
    init_ca,
    load_ca,
    load_certificates,
    make_server_certificate,
)
from sie_hub.enrol.rotation import OVERLAP, Succession, retire_ca, rotate_ca
from sie_hub.tls import server_context

from .conftest import EXCHANGE

NOW = datetime.now(UTC)
WHO = Identity(EXCHANGE, "isp_a", "ns1")


class Hub:
    """The files of a hub's CA, and a copy of the certificate that was handed out before anything changed."""

    def __init__(self, root: Path, kind: KeyKind = KeyKind.P256) -> None:
        self.ca, self.tls, self.first = root / "ca", root / "tls", root / "first.pem"
        init_ca(self.ca, EXCHANGE, kind, now=NOW, random=os.urandom)
        shutil.copy(self.ca / "ca.pem", self.first)
        self.serve()

    def serve(self) -> bool:
        names, addresses = ["hub.example"], [ip_address("127.0.0.1")]
        made = make_server_certificate(
            self.ca, self.tls, "ingest", names, addresses, now=NOW, random=os.urandom
        )
        return made.changed

    def rotate(self, *, check: bool = False) -> Succession:
        return rotate_ca(self.ca, now=NOW, random=os.urandom, check=check)

    def sensor(self) -> bytes:
        """A certificate that this CA issues now, and its key, in PEM."""
        certificate, key = load_ca(self.ca / "ca.pem", self.ca / "ca.key")
        own = identity.generate_key(KeyKind.ED25519, os.urandom)
        made = identity.issue_sensor_certificate(
            own.public_key(), WHO, certificate, key, now=NOW, random=os.urandom
        )
        return identity.certificate_to_pem(made) + identity.private_key_to_pem(own)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.ca.iterdir()}


@pytest.fixture(params=list(KeyKind))
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Hub:
    return Hub(tmp_path, request.param)


def handshake(hub: Hub, trusted: Path, own: Path) -> str:
    """A sensor's handshake with the hub's port; the serial number of the certificate that the hub saw."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(trusted)
    context.load_cert_chain(own)
    listening = server_context(
        hub.tls / "ingest.pem", hub.tls / "ingest.key", client_authorities=hub.ca / "ca.pem"
    )
    seen: list[bytes | None] = []
    here, there = socket.socketpair()

    def answer() -> None:
        # A handshake that fails is the client's to tell.
        with (
            there,
            suppress(ssl.SSLError, ConnectionError),
            listening.wrap_socket(there, server_side=True) as accepted,
        ):
            seen.append(accepted.getpeercert(binary_form=True))
            accepted.sendall(b"done")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with here, context.wrap_socket(here, server_hostname="127.0.0.1") as asked:
            assert asked.recv(4) == b"done"
    finally:
        thread.join(10)
    authorities = load_certificates(hub.ca / "ca.pem")
    return identity.check_peer(seen[0], authorities=authorities, exchange=EXCHANGE, now=NOW).serial


def test_old_and_new_get_on_with_each_other_in_every_stage(hub: Hub, tmp_path: Path) -> None:
    """Both CAs' certificates are taken; who trusts the old CA alone and who trusts both take the hub's."""
    old = tmp_path / "old-sensor.pem"
    old.write_bytes(hub.sensor())
    before = hub.rotate(check=True)
    assert before.changed
    assert len(before.trusted) == 1
    assert sorted(hub.files()) == ["ca.key", "ca.pem"]

    done = hub.rotate()
    assert done.changed
    assert len(done.trusted) == 2
    assert sorted(hub.files()) == ["ca.key", "ca.pem", "link.pem"]
    assert stat.S_IMODE((hub.ca / "ca.key").stat().st_mode) == 0o600
    new = tmp_path / "new-sensor.pem"
    new.write_bytes(hub.sensor())
    pairs = [(trusted, own) for trusted in (hub.first, hub.ca / "ca.pem") for own in (old, new)]
    # The hub's own certificate is still of the old CA, then of the new one.
    serials = [handshake(hub, *pair) for pair in pairs]
    assert hub.serve()
    assert [handshake(hub, *pair) for pair in pairs] == serials
    assert len(set(serials)) == 2
    assert not hub.serve()


def test_without_the_link_who_trusts_the_old_one_alone_is_lost(hub: Hub, tmp_path: Path) -> None:
    """The handshakes of the test above depend on the link."""
    own = tmp_path / "sensor.pem"
    own.write_bytes(hub.sensor())
    hub.rotate()
    (hub.ca / "link.pem").unlink()
    assert hub.serve()
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(hub, hub.first, own)
    handshake(hub, hub.ca / "ca.pem", own)


def test_openssl_follows_the_link(hub: Hub) -> None:
    hub.rotate()
    hub.serve()
    server = hub.tls / "ingest.pem"
    words = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(hub.first)]
    with_link = subprocess.run(
        [*words, "-untrusted", str(server), str(server)], capture_output=True, text=True
    )
    assert with_link.returncode == 0, with_link.stderr
    without = subprocess.run([*words, str(server)], capture_output=True, text=True)
    assert without.returncode != 0


def test_one_succession_at_a_time(hub: Hub) -> None:
    hub.rotate()
    after = hub.files()
    again = hub.rotate()
    assert not again.changed
    assert hub.files() == after


@pytest.mark.parametrize("steps", range(6))
def test_a_succession_that_was_cut_short_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Cut before each of its six steps: three files laid down, three put in place."""
    hub = Hub(tmp_path)
    left = steps

    class CutError(Exception):
        pass

    def counted() -> None:
        nonlocal left
        if left == 0:
            raise CutError
        left -= 1

    replace_file, replace = files.replace_file, Path.replace

    def cutting_file(path: Path, data: bytes, *, mode: int) -> None:
        counted()
        replace_file(path, data, mode=mode)

    def cutting_replace(path: Path, place: Path) -> Path:
        if path.name.startswith("next."):
            counted()
        return replace(path, place)

    with monkeypatch.context() as patched:
        patched.setattr(rotation, "replace_file", cutting_file)
        patched.setattr(Path, "replace", cutting_replace)
        with pytest.raises(CutError):
            hub.rotate()
    waiting = {name: data for name, data in hub.files().items() if name == "next.key"}
    if steps == 5:
        with pytest.raises(AuthorityError, match="cut short, finish it by `sie-hub ca rotate`"):
            load_ca(hub.ca / "ca.pem", hub.ca / "ca.key")
    else:
        load_ca(hub.ca / "ca.pem", hub.ca / "ca.key")
    if steps >= 3:
        with pytest.raises(AuthorityError, match="cut short"):
            retire_ca(hub.ca, now=NOW + OVERLAP)
    done = hub.rotate()
    assert done.changed
    assert sorted(hub.files()) == ["ca.key", "ca.pem", "link.pem"]
    assert load_certificates(hub.ca / "ca.pem")[1:] == load_certificates(hub.first)
    (link,) = load_certificates(hub.ca / "link.pem")
    assert identity.issued_by(link, done.trusted[1])
    assert identity.public_key_of(link) == identity.public_key_of(done.issuing)
    if waiting:
        assert hub.files()["ca.key"] == waiting["next.key"]


def test_the_predecessor_is_trusted_until_nothing_is_lost_by_it(hub: Hub, tmp_path: Path) -> None:
    own = tmp_path / "sensor.pem"
    own.write_bytes(hub.sensor())
    assert not retire_ca(hub.ca, now=NOW).changed
    hub.rotate()
    hub.serve()
    with pytest.raises(AuthorityError, match=f"until {NOW + OVERLAP:%Y-%m-%d}"):
        retire_ca(hub.ca, now=NOW + OVERLAP - timedelta(minutes=1))
    assert retire_ca(hub.ca, now=NOW + OVERLAP, check=True).changed
    assert len(load_certificates(hub.ca / "ca.pem")) == 2
    done = retire_ca(hub.ca, now=NOW + OVERLAP)
    assert done.changed
    assert sorted(hub.files()) == ["ca.key", "ca.pem"]
    with pytest.raises(ssl.SSLError):
        handshake(hub, hub.ca / "ca.pem", own)
    assert hub.rotate().changed


def sie_hub(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sie_hub.cli", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_the_commands(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    said = sie_hub("ca", "rotate", "--directory", hub.ca)
    assert said.returncode == 0, said.stderr
    shown = json.loads(said.stdout)
    assert shown["changed"]
    assert shown["issuing"] == shown["trusted"][0]
    assert len(shown["trusted"]) == 2
    early = sie_hub("ca", "retire", "--directory", hub.ca)
    assert early.returncode == 1
    assert early.stderr.count("\n") == 1
    assert "--after" in early.stderr
    late = sie_hub("ca", "retire", "--directory", hub.ca, "--after", "0")
    assert late.returncode == 0, late.stderr
    assert json.loads(late.stdout) == {
        "changed": True,
        "issuing": shown["issuing"],
        "trusted": [shown["issuing"]],
        "retire_from": None,
    }
    server: list[str | Path] = [
        "ca",
        "server-certificate",
        "--ca-directory",
        hub.ca,
        "--out",
        hub.tls,
        "--as",
        "ingest",
    ]
    named = [*server, "--name", "hub.example", "--address", "127.0.0.1"]
    assert json.loads(sie_hub(*named).stdout)["changed"]
    assert not json.loads(sie_hub(*named).stdout)["changed"]
    assert json.loads(sie_hub(*named, "--renew").stdout)["changed"]
