"""Keys are rotated by the playbook that people use, in traffic: nothing is lost, counted twice or refused.

Nor is it when the playbook is killed in the middle: then it is run again.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest
from sie_lab import deploy
from sie_lab.hosts import on
from sie_lab.machine import REPOSITORY
from sie_lab.topology import Lab, Participant
from sie_lab.traffic import look_up_many

from sie_core import identity
from tests.fleet.holdings import status
from tests.fleet.lookups import Differences, Traffic, arrived
from tests.fleet.reader import Reader, await_true

PATIENCE = 90.0  # seconds for the sensors to be back on another key
METRICS = {"enrol": 9160, "ingest": 9161, "serve": 9163}
COUNTED = re.compile(r'^(\w+_total)\{[^}]*outcome="([a-z_]+)"[^}]*\} ([0-9.e+]+)$', re.MULTILINE)

OF_CA = "/etc/sie-hub/ca/ca.pem"
OF_INGEST = "/etc/sie-hub/tls/ingest.pem"
# Runs on the hub: $2 is what sha256sum said of the file $1.
UNTIL_CHANGED = 'while [ "$(sha256sum "$1")" = "$2" ]; do sleep 0.02; done'

ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


@pytest.fixture
def traffic(lab: Lab) -> Iterator[Traffic]:
    """Look-ups through every participant's resolver while the test runs."""
    made = Traffic(lab, list(lab.participants.values()))
    yield made
    made.stop()


def _refused(lab: Lab) -> dict[str, float]:
    """Everything that the hub's programs refused since they were started, by counter and outcome."""
    found = {}
    for port in METRICS.values():
        said = on(lab.hub, "/opt/sie/sie-hub/bin/python", "-c", ASK, f"http://127.0.0.1:{port}/metrics")
        for name, outcome, count in COUNTED.findall(said):
            if outcome.startswith(("refused_", "tls_", "conflict", "lost")) and float(count):
                found[f"{name} {outcome}"] = float(count)
    return found


def _refusals(lab: Lab) -> int:
    """What the sensors' own uplinks and renewals were refused since their agents started."""
    said = [status(p.sensor) for p in lab.participants.values()]
    return sum(s["uplink"]["refusals"] + s["identity"]["refused"] for s in said)


def _serials(lab: Lab) -> dict[str, str]:
    """The certificate that each port of the hub shows."""
    files = [f"/etc/sie-hub/tls/{name}.pem" for name in METRICS]
    return {
        file: identity.serial_text(identity.certificates_from_pem(on(lab.hub, "cat", file).encode())[0])
        for file in files
    }


def _trusted(lab: Lab) -> list[str]:
    pem = on(lab.hub, "cat", OF_CA).encode()
    return [identity.serial_text(one) for one in identity.certificates_from_pem(pem)]


def _issuer_is(participant: Participant, ca: str) -> bool:
    """Whether a sensor's certificate was issued by this CA, and the sensor is connected with it."""
    said = status(participant.sensor)
    pem = on(participant.sensor, "cat", "/var/lib/sie-agent/identity/certificate.pem").encode()
    (certificate,) = identity.certificates_from_pem(pem)
    return bool(
        said["uplink"]["state"] == "connected"
        and said["identity"]["serial"] == identity.serial_text(certificate)
        and identity.issued_by(certificate, identity.certificates_from_pem(ca.encode())[0])
    )


def _killed_once_changed(lab: Lab, rotate: str, file: str) -> None:
    """Begins a rotation at the hub, and kills it as soon as that file of the hub is another."""
    inventory = deploy.hub_inventory(lab, deploy.build_releases(lab))
    command = deploy.operator_command(lab, "rotate_keys", inventory, ["-e", f"rotate={rotate}"])
    before = on(lab.hub, "sha256sum", file).strip()
    with (
        deploy.log_of(lab, "rotate_keys-killed").open("w") as log,
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=deploy.operator_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as rotating,
    ):
        try:
            on(lab.hub, "timeout", str(PATIENCE), "sh", "-c", UNTIL_CHANGED, "sh", file, before)
        finally:
            os.killpg(rotating.pid, signal.SIGKILL)
    assert rotating.returncode == -signal.SIGKILL


def _answered(lab: Lab, reader: Reader, zone: str) -> None:
    """What is looked up now at each participant is answered."""
    names = {f"{p.name.replace('_', '-')}.{zone}": p for p in lab.participants.values()}
    for name, participant in names.items():
        look_up_many(lab, participant, [name])
    await_true(lambda: reader.counts(zone).keys() == names.keys(), PATIENCE, f"answers about {list(names)}")


def test_every_key_is_rotated_in_traffic(
    lab: Lab, reader: Reader, traffic: Traffic, to_stay: list[Differences]
) -> None:
    """A sensor's key, the hub's certificates, the CA: one after the other, under one stream of look-ups.

    The playbook is killed when the CA has a successor that no program knows yet.
    """
    participants = list(lab.participants.values())
    operators = partial(deploy.playbook, lab, "rotate_keys", None)
    refused_before, refused_by_hub = _refusals(lab), _refused(lab)

    before = {p.name: status(p.sensor)["identity"]["serial"] for p in participants}
    for participant in participants:
        assert deploy.playbook(lab, "rotate_keys", participant.name) > 0
    after = {p.name: status(p.sensor)["identity"]["serial"] for p in participants}
    assert all(before[name] != after[name] for name in before)
    assert _refused(lab) == refused_by_hub

    serials = _serials(lab)
    assert operators(["-e", "rotate=server_certificates"]) > 0
    assert all(old != new for old, new in zip(serials.values(), _serials(lab).values(), strict=True))
    assert _refused(lab) == {}, "counted from the programs' restart on"

    (old,) = _trusted(lab)
    _killed_once_changed(lab, "ca", OF_CA)
    halfway = _trusted(lab)
    assert halfway[1:] == [old]
    _answered(lab, reader, f"ca.{traffic.zone}")
    assert operators(["-e", "rotate=ca"]) > 0
    new = on(lab.hub, "cat", OF_CA)
    assert _trusted(lab) == halfway
    assert _refused(lab) == {}
    # Sensors take certificates of the new CA although nobody has told them of it.
    for participant in participants:
        assert deploy.playbook(lab, "rotate_keys", participant.name) > 0
        assert _issuer_is(participant, new)
    again = _trusted(lab)
    operators(["-e", "rotate=ca"])
    assert _trusted(lab) == again, "one succession at a time"

    with pytest.raises(Exception, match="sensors may hold certificates of the CA before this one"):
        operators(["-e", "rotate=ca_retire"])
    assert operators(["-e", "rotate=ca_retire", "-e", "hub_ca_overlap_days=0"]) > 0
    assert _trusted(lab) == again[:1]
    for participant in participants:
        await_true(partial(_issuer_is, participant, new), PATIENCE, f"{participant.name} connected")
    assert _refused(lab) == {}

    traffic.stop()
    to_stay.append(arrived(reader, traffic, participants))
    assert _refusals(lab) == refused_before
    assert json.loads(on(lab.hub, "/opt/sie/sie-hub/bin/sie-hub", "renewal", "list", "--json"))["renewals"]


def test_a_killed_rotation_is_taken_up_by_running_it_again(
    lab: Lab, reader: Reader, traffic: Traffic, to_stay: list[Differences]
) -> None:
    """Killed when ingest has another certificate on its disk than the one under which it serves."""
    participants = list(lab.participants.values())
    refused_before, refused_by_hub, serials = _refusals(lab), _refused(lab), _serials(lab)

    _killed_once_changed(lab, "server_certificates", OF_INGEST)
    halfway = _serials(lab)
    assert [file for file in serials if serials[file] != halfway[file]] == [OF_INGEST]
    _answered(lab, reader, f"halfway.{traffic.zone}")
    assert _refused(lab).items() <= refused_by_hub.items()

    assert deploy.playbook(lab, "rotate_keys", None, ["-e", "rotate=server_certificates"]) > 0
    assert all(old != new for old, new in zip(halfway.values(), _serials(lab).values(), strict=True))
    assert _refused(lab) == {}, "counted from the programs' restart on"

    traffic.stop()
    to_stay.append(arrived(reader, traffic, participants))
    assert _refusals(lab) == refused_before
