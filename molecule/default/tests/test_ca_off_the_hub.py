"""The CA's key on the operator's machine, encrypted, and not on the hub: what it signs there holds here."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from sie_lab import deploy, traffic
from sie_lab.hosts import on
from sie_lab.machine import run
from sie_lab.topology import Lab, Participant

from sie_core import identity
from tests.fleet.holdings import status
from tests.fleet.kept import kept
from tests.fleet.reader import await_true

AGENT = "/opt/sie/sie-agent/bin/sie-agent"
CONFIGURED = "/etc/sie-hub"
CA_KEY = f"{CONFIGURED}/ca/ca.key"
ENROL = "/etc/systemd/system/sie-hub-enrol.service"
PASSPHRASE = "only for this test"
ANOTHER_NAME = "hub.sie-lab.example"  # the hub's servers need new certificates for it
DAYS = 90
WITHIN = 30.0  # seconds for a running agent to take a certificate up, and for look-ups to arrive
# Of ours on the hub, and what brings its programs back to it; the key comes on standard input.
PLACES = (CONFIGURED, ENROL)
BACK = """
systemctl daemon-reload && systemctl enable --now sie-hub-enrol.service
systemctl restart sie-hub-ingest.service sie-hub-serve.service
"""
HOLDERS = "grep -rlsF -e {line} /etc /opt /root /run /srv /tmp /var || true"


class Taken(NamedTuple):
    """Where the CA is, on the operator's machine, and a line of its key by which that is found in clear."""

    folder: Path
    line: str

    @property
    def options(self) -> list[str]:
        """What the inventory has more than before."""
        values = {
            "hub_ca": "controller",
            "hub_ca_dir": str(self.folder),
            "hub_ca_passphrase": PASSPHRASE,
            "hub_certificate_days": DAYS,
        }
        return ["-e", json.dumps(values), "--diff", "-vv"]


@pytest.fixture
def taken(lab: Lab, tmp_path: Path) -> Iterator[Taken]:
    """The CA's key taken off the hub as docs/how-to/ca-off-the-hub.md says; all is as before in the end."""
    folder, passphrase = tmp_path / "ca", tmp_path / "passphrase"
    folder.mkdir(mode=0o700)
    (folder / "ca.pem").write_text(on(lab.hub, "cat", f"{CONFIGURED}/ca/ca.pem"))
    passphrase.write_text(PASSPHRASE)
    key = on(lab.hub, "cat", CA_KEY)
    vault = ("--vault-password-file", passphrase, "--output", folder / "ca.key.vault")
    run(["ansible-vault", "encrypt", *vault, "-"], stdin=key)
    on(lab.hub, "shred", "--remove", CA_KEY)
    with ExitStack() as back:
        back.callback(_await_all, lab)
        back.callback(on, lab.hub, "sh", "-euc", BACK)
        back.callback(on, lab.hub, "sh", "-euc", f"umask 077; cat > {CA_KEY}", stdin=key)
        back.enter_context(kept(lab.hub, *PLACES))
        yield Taken(folder, key.splitlines()[1])


def _await_all(lab: Lab) -> None:
    everybody = list(lab.participants.values())
    await_true(lambda: all(map(_connected, everybody)), WITHIN, "the hub as before")


def _connected(participant: Participant) -> bool:
    return bool(status(participant.sensor)["uplink"]["state"] == "connected")


def _shows(lab: Lab, name: str) -> tuple[str, ...]:
    """The names for which a program of the hub has its certificate, once that holds by the CA."""
    pems = [on(lab.hub, "cat", f"{CONFIGURED}/{file}").encode() for file in (f"tls/{name}.pem", "ca/ca.pem")]
    (certificate, *_), (authority, *_) = map(identity.certificates_from_pem, pems)
    assert identity.issued_by(certificate, authority)
    return identity.server_names(certificate)[0]


def test_a_hub_without_the_ca_s_key(lab: Lab, taken: Taken, tmp_path: Path) -> None:
    """The hub's servers and a sensor get certificates by the key elsewhere; it delivers under it."""
    participant = lab.participant("isp_a")
    sensor, name = participant.sensor, participant.sensor_name
    names = json.dumps({"hub_names": [str(lab.hub.management), ANOTHER_NAME]})
    assert deploy.playbook(lab, "hub", None, [*taken.options, "-e", names, "--tags", "preflight,configure"])
    assert on(lab.hub, "sh", "-c", HOLDERS.format(line=taken.line)) == ""
    assert on(lab.hub, "systemctl", "is-active", "sie-hub-enrol", check=False).strip() == "inactive"
    for server in ("ingest", "serve"):
        assert ANOTHER_NAME in _shows(lab, server)

    before, request = status(sensor), tmp_path / f"{name}.csr"
    request.write_text(on(sensor, AGENT, "identity", "csr"))
    values = (f"participant={participant.name}", f"sensor={name}", f"request={request}")
    options = [*taken.options, *(word for value in values for word in ("-e", value))]
    assert deploy.playbook(lab, "sign_request", None, options)
    carried = (tmp_path / f"{name}.pem").read_text()
    on(sensor, "sh", "-c", "cat > /run/carried.pem", stdin=carried)
    installed = json.loads(on(sensor, AGENT, "identity", "install", "/run/carried.pem", "--json"))
    (certificate, *_) = identity.certificates_from_pem(carried.encode())
    assert installed["serial"] == identity.serial_text(certificate) != before["identity"]["serial"]
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life.days == DAYS

    await_true(partial(_comes_with, participant, installed["serial"]), WITHIN, "the sensor under it")
    acknowledged = status(sensor)["acknowledged"]
    traffic.look_up_many(lab, participant, [f"{installed['serial'][:8]}.wild.example"])
    await_true(lambda: status(sensor)["acknowledged"] > acknowledged, WITHIN, "a look-up delivered under it")
    for log in ("hub", "sign_request"):
        said = deploy.log_of(lab, log).read_text()
        assert taken.line not in said


def _comes_with(participant: Participant, serial: str) -> bool:
    now = status(participant.sensor)
    return _connected(participant) and bool(now["identity"]["serial"] == serial)
