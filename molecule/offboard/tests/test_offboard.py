"""A participant leaves by the playbook of the operator, while another one stays; then it comes back."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sie_lab import deploy, domains
from sie_lab.hosts import on
from sie_lab.machine import CommandError
from sie_lab.topology import Lab, Participant

from tests.fleet.holdings import status
from tests.fleet.lookups import Traffic
from tests.fleet.reader import Reader, await_true

PLAYBOOK = "offboard_participant"
HUB = "/opt/sie/sie-hub/bin/sie-hub"
PATIENCE = 60.0  # seconds for containers to arrive, and for a sensor to notice


@pytest.fixture
def leaving(lab: Lab) -> Participant:
    """The last one; the first one's reader is the one that tests ask with."""
    return list(lab.participants.values())[-1]


@pytest.fixture
def staying(lab: Lab) -> Participant:
    return next(iter(lab.participants.values()))


@pytest.fixture
def traffic(lab: Lab) -> Iterator[Traffic]:
    """Look-ups through every participant's resolver while the test runs."""
    made = Traffic(lab, list(lab.participants.values()))
    yield made
    made.stop()


def options(lab: Lab, leaving: Participant, *, confirm: str) -> list[str]:
    operator = domains.state(lab) / "operator"
    given = {
        "participant": leaving.name,
        "confirm": confirm,
        "output": str(operator / "offboarding"),
        "secrets_folder": str(deploy.handed_over(lab, leaving)),
        "signing_key": str(operator / "onboarding_key"),
    }
    return ["-e", json.dumps(given)]


def certificate(lab: Lab, leaving: Participant) -> Path:
    return domains.state(lab) / "operator" / "offboarding" / f"{leaving.name}-offboarding.json"


def stored(lab: Lab, participant: Participant) -> int:
    """Transactions of a participant that are stored, by the ledger."""
    accounts = json.loads(on(lab.hub, HUB, "ledger", "--json"))
    return sum(a["stored"]["transactions"] or 0 for a in accounts if a["participant"] == participant.name)


def registered(lab: Lab, participant: Participant) -> str:
    return on(lab.hub, "cat", f"/etc/sie-hub/participants/{participant.name}.yml")


def test_nothing_is_purged_that_nobody_has_confirmed(lab: Lab, leaving: Participant) -> None:
    before = registered(lab, leaving)
    with pytest.raises(CommandError):
        deploy.playbook(lab, PLAYBOOK, None, options(lab, leaving, confirm="somebody"))
    assert registered(lab, leaving) == before
    assert not certificate(lab, leaving).exists()


def test_a_participant_leaves_and_the_other_stays(
    lab: Lab, reader: Reader, leaving: Participant, staying: Participant, traffic: Traffic
) -> None:
    await_true(lambda: stored(lab, leaving) > 0, PATIENCE, "containers of who leaves")
    given = options(lab, leaving, confirm=leaving.name)
    assert deploy.rehearse(lab, PLAYBOOK, None, given) > 0
    assert not certificate(lab, leaving).exists()
    refusals, delivered = status(staying.sensor)["uplink"]["refusals"], stored(lab, staying)

    assert deploy.playbook(lab, PLAYBOOK, None, given) > 0

    record = json.loads(certificate(lab, leaving).read_text())
    assert record["sensors"].keys() == {leaving.sensor_name}
    assert record["purged"]["raw_containers"] > 0
    assert record["purged"]["reader_keys"] == 1
    text = certificate(lab, leaving).with_suffix(".txt").read_text()
    assert "they carry no source" in text
    assert record["merged_rows_gone"] in text
    assert verified(lab, certificate(lab, leaving))
    assert not list(deploy.handed_over(lab, leaving).glob("*passphrase*"))
    assert stored(lab, leaving) == 0
    journal = ["journalctl", "--quiet", "--lines=1", f"--until={record['begun'].replace('T', ' ')[:19]} UTC"]
    assert on(lab.hub, *journal) == ""

    await_true(
        lambda: "revoked" in str(status(leaving.sensor)["uplink"]), PATIENCE, "the refusal and its reason"
    )
    await_true(lambda: stored(lab, staying) > delivered, PATIENCE, "containers of who stays")
    assert status(staying.sensor)["uplink"]["refusals"] == refusals
    assert reader.counts("example")

    written = {path: path.read_bytes() for path in certificate(lab, leaving).parent.iterdir()}
    assert deploy.playbook(lab, PLAYBOOK, None, given) == 0
    assert {path: path.read_bytes() for path in certificate(lab, leaving).parent.iterdir()} == written


def verified(lab: Lab, path: Path) -> bool:
    """Whether the certificate bears the signature that the operator's bundles bear."""
    key = (domains.state(lab) / "operator" / "onboarding_key.pub").read_text()
    signers = path.parent.parent / "offboarding_signers"
    signers.write_text(f"operator {key}")
    command = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", "operator", "-n", "sie-offboarding"]
    with path.open("rb") as signed:
        done = subprocess.run([*command, "-s", f"{path}.sig"], stdin=signed, capture_output=True, check=False)
    return done.returncode == 0


def test_it_may_come_back(lab: Lab, leaving: Participant) -> None:
    """With an empty spool, and a token and keys of its own: what was purged stays so."""
    on(
        leaving.sensor,
        "sh",
        "-c",
        "systemctl stop sie-agent && rm -rf /var/lib/sie-agent /var/lib/private/sie-agent",
    )
    on(lab.hub, HUB, "registry", "sensor", "reinstate", leaving.name, leaving.sensor_name)
    deploy.playbook(lab, "onboard_participant", leaving.name, ["-e", "reissue=true"])
    deploy.playbook(lab, "configure_my_sensor", leaving.name)
    await_true(lambda: stored(lab, leaving) > 0, PATIENCE, "containers of who came back")
