"""A CA whose key is not on the hub: made, used and asked by the commands, the key on standard input alone."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sie_core import identity
from sie_hub.cli import main

EXCHANGE = "sie.example"
NAMES = ("--name", "hub.example", "--address", "192.0.2.10")


class Done(NamedTuple):
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def ca(*words: str | Path, stdin: str = "") -> Done:
    """Run `sie-hub ca` in this process, with something on its standard input."""
    said, complained = io.StringIO(), io.StringIO()
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin.encode()))
    try:
        with redirect_stdout(said), redirect_stderr(complained):
            code = main(["ca", *map(str, words)])
    finally:
        sys.stdin = before
    return Done(code, said.getvalue(), complained.getvalue())


def answer(*words: str | Path, stdin: str = "") -> dict[str, Any]:
    done = ca(*words, stdin=stdin)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture
def key() -> str:
    return ca("key").stdout


@pytest.fixture
def hub(tmp_path: Path, key: str) -> Path:
    """What the hub has: the CA's certificate, made elsewhere."""
    made = answer("init", "--directory", tmp_path, "--exchange", EXCHANGE, "--key-stdin", stdin=key)
    assert made["changed"]
    return tmp_path


def asked(hub: Path, *words: str) -> dict[str, Any]:
    out = ("--ca", hub / "ca.pem", "--out", hub / "tls", "--as", "ingest")
    return answer("server-request", *out, *NAMES, *words)


def installed(hub: Path, certificate: str) -> dict[str, Any]:
    words = ("--ca", hub / "ca.pem", "--out", hub / "tls", "--as", "ingest")
    return answer("install-server", *words, stdin=certificate)


def test_the_ca_s_key_lies_nowhere(hub: Path, key: str) -> None:
    assert key.startswith("-----BEGIN PRIVATE KEY-----")
    assert [path.name for path in hub.iterdir()] == ["ca.pem"]
    again = answer("init", "--directory", hub, "--exchange", EXCHANGE, "--key-stdin", stdin=key)
    assert not again["changed"]
    other = ca("init", "--directory", hub, "--exchange", EXCHANGE, "--key-stdin", stdin=ca("key").stdout)
    assert other.returncode == 1
    assert "do not belong together" in other.stderr


def test_a_server_certificate_is_asked_for_here_and_signed_elsewhere(hub: Path, key: str) -> None:
    assert asked(hub, "--check") == {"changed": True, "request": None}
    assert not (hub / "tls").exists()
    first, again = asked(hub), asked(hub)
    waiting = (hub / "tls" / "ingest.new.key").read_bytes()
    assert (hub / "tls" / "ingest.new.key").stat().st_mode & 0o777 == 0o600
    for one in (first, again):
        assert "PRIVATE KEY" not in one["request"]
    signed = answer("sign-server", "--ca", hub / "ca.pem", *NAMES, stdin=key + again["request"])
    (certificate,) = identity.certificates_from_pem(signed["certificate"].encode())
    assert identity.server_names(certificate)[0] == ("hub.example",)
    (authority,) = identity.certificates_from_pem((hub / "ca.pem").read_bytes())
    assert identity.issued_by(certificate, authority)

    assert installed(hub, signed["certificate"]) == {"changed": True}
    assert installed(hub, signed["certificate"]) == {"changed": False}
    assert (hub / "tls" / "ingest.key").read_bytes() == waiting
    assert sorted(path.name for path in (hub / "tls").iterdir()) == ["ingest.key", "ingest.pem"]
    assert asked(hub) == {"changed": False, "request": None}
    assert asked(hub, "--renew")["request"] != again["request"]


def test_what_does_not_belong_together_is_refused(hub: Path, key: str, tmp_path: Path) -> None:
    request = asked(hub)["request"]
    other = ca("key").stdout
    sign = ("sign-server", "--ca", hub / "ca.pem", *NAMES)
    for stdin, words in (
        (other + request, "do not belong together"),
        (request, "the CA's key and a certificate request"),
        (key, "the CA's key and a certificate request"),
    ):
        refused = ca(*sign, stdin=stdin)
        assert refused.returncode == 1
        assert words in refused.stderr
    elsewhere = tmp_path / "another"
    answer("init", "--directory", elsewhere, "--exchange", EXCHANGE, "--key-stdin", stdin=other)
    foreign = answer("sign-server", "--ca", elsewhere / "ca.pem", *NAMES, stdin=other + request)
    install = ("install-server", "--ca", hub / "ca.pem", "--out", hub / "tls", "--as", "ingest")
    refused = ca(*install, stdin=foreign["certificate"])
    assert "was not issued by the CA" in refused.stderr
    mine = answer(*sign, stdin=key + request)["certificate"]
    (hub / "tls" / "ingest.new.key").unlink()
    asked(hub)
    assert "is not for the key" in ca(*install, stdin=mine).stderr


def test_a_sensor_s_request_is_signed_with_the_key_on_standard_input(hub: Path, key: str) -> None:
    sensors = identity.generate_key(identity.KeyKind.ED25519, lambda count: bytes(range(count)))
    der = identity.make_request(sensors, identity.Identity(EXCHANGE, "isp_a", "ns1"))
    request = identity.request_to_pem(der).decode()
    words = ("sign", "--ca-directory", hub, "--participant", "isp_a", "--sensor", "ns1", "--key-stdin", "-")
    signed = answer(*words, stdin=key + request)
    assert signed["fingerprint"] == identity.fingerprint(sensors.public_key())
    assert ca(*words, stdin=ca("key").stdout + request).returncode == 1
