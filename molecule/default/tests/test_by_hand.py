"""A certificate that people carry: the sensor's request, the playbook that signs, the answer put in place."""

import json
from pathlib import Path

import pytest
from cryptography import x509
from sie_lab import deploy, traffic
from sie_lab.hosts import on
from sie_lab.machine import CommandError
from sie_lab.topology import Lab

from sie_core import identity
from tests.fleet.holdings import status
from tests.fleet.reader import await_true

AGENT = "/opt/sie/sie-agent/bin/sie-agent"
FOLDER = "/var/lib/private/sie-agent/identity"
WITHIN = 30.0  # seconds for a running agent to take a certificate up, and for look-ups to arrive


def test_a_request_is_signed_by_the_playbook_and_the_sensor_comes_with_it(lab: Lab, tmp_path: Path) -> None:
    participant = lab.participant("isp_a")
    sensor, name = participant.sensor, participant.sensor_name
    request, carried = tmp_path / f"{name}.csr", tmp_path / f"{name}.pem"
    before = status(sensor)
    request.write_text(on(sensor, AGENT, "identity", "csr"))
    assert "PRIVATE KEY" not in request.read_text()

    def sign(who: str) -> int:
        values = (f"participant={participant.name}", f"sensor={who}", f"request={request}")
        return deploy.playbook(lab, "sign_request", None, [w for value in values for w in ("-e", value)])

    with pytest.raises(CommandError, match="is not a registered sensor in good standing"):
        sign("nobody")
    assert not carried.exists()
    assert sign(name) > 0
    assert sign(name) == 0, "what was signed is not signed again"
    (certificate, *_) = identity.certificates_from_pem(carried.read_bytes())
    assert identity.issued_by(certificate, _issuing(lab))

    on(sensor, "sh", "-c", "cat > /run/carried.pem", stdin=carried.read_text())
    installed = json.loads(on(sensor, AGENT, "identity", "install", "/run/carried.pem", "--json"))
    assert installed["changed"]
    assert installed["serial"] == identity.serial_text(certificate) != before["identity"]["serial"]
    said = deploy.log_of(lab, "sign_request")
    assert installed["fingerprint"] == identity.fingerprint(identity.public_key_of(certificate))
    assert said.exists()
    owner = on(sensor, "stat", "--format=%U %a", f"{FOLDER}/key.pem", FOLDER).split()
    assert owner[1] == "600"
    assert owner[0] == owner[2], "of the agent's user, whatever root has put there"

    def comes_with_it() -> bool:
        now = status(sensor)
        return bool(
            now["uplink"]["state"] == "connected"
            and now["identity"]["serial"] == installed["serial"]
            and now["uplink"]["sessions"] > before["uplink"]["sessions"]
        )

    await_true(comes_with_it, WITHIN, "the sensor with the certificate that was carried")
    acknowledged = status(sensor)["acknowledged"]
    traffic.look_up_many(lab, participant, [f"{installed['serial'][:8]}.wild.example"])
    await_true(lambda: status(sensor)["acknowledged"] > acknowledged, WITHIN, "a look-up delivered under it")


def _issuing(lab: Lab) -> x509.Certificate:
    return identity.certificates_from_pem(on(lab.hub, "cat", "/etc/sie-hub/ca/ca.pem").encode())[0]
