"""Releases come and go in traffic: nothing is lost, and one under which a host is not well goes by itself."""

import json
import secrets
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from sie_lab import deploy, traffic
from sie_lab.hosts import on
from sie_lab.machine import CommandError
from sie_lab.topology import Host, Lab, Participant

from tests.fleet.holdings import status
from tests.fleet.lookups import Traffic, settled
from tests.fleet.reader import Reader, await_true
from tests.fleet.releases import Edit, release_id, variant
from tests.fleet.second import Second, second_sensor

WHO = "isp_a"
LOOK_UPS = 20  # through the sensor's own resolver, in each phase
PATIENCE = 120.0  # seconds for a playbook to come to the point, or for everything to arrive
VERIFY = ["-e", "sensor_verify_seconds=16"]  # for a sensor that will not connect
RELEASES = "/opt/sie/releases"
NEWER = "0.1.1"


class Releases(NamedTuple):
    """One in use at first, one that is newer, one that is not well, one that does not even start."""

    first: Path
    newer: Path
    unwell: Path
    dead: Path


@pytest.fixture(scope="module")
def agents(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    first, folder = deploy.build_releases(lab).agent, tmp_path_factory.mktemp("agents")
    nowhere = {"sie_agent/uplink.py": Edit("/session/", "/nowhere/")}
    dead = {"sie_agent/cli.py": Edit("from sie_core import __version__", "raise SystemExit(70)")}
    return Releases(
        first,
        variant(first, folder, NEWER),
        variant(first, folder, "0.1.2", nowhere),
        variant(first, folder, "0.1.3", dead),
    )


@pytest.fixture(scope="module")
def hubs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    first, folder = deploy.build_releases(lab).hub, tmp_path_factory.mktemp("hubs")
    body = "    async def body(unit: Unit) -> None:\n"
    fails = {"sie_hub/refine/cli.py": Edit(body, f'{body}        raise RuntimeError("on purpose")\n')}
    dead = {"sie_hub/cli.py": Edit("from sie_core import __version__", "raise SystemExit(70)")}
    return Releases(
        first,
        variant(first, folder, NEWER),
        variant(first, folder, "0.1.2", fails),
        variant(first, folder, "0.1.3", dead),
    )


@pytest.fixture
def flow(lab: Lab) -> Iterator[Traffic]:
    """Look-ups through every participant's resolver but that of the sensor that is restarted."""
    made = Traffic(lab, [p for p in lab.participants.values() if p.name != WHO])
    yield made
    made.stop()


@pytest.fixture
def second(lab: Lab) -> Iterator[Second]:
    """The sensor that comes after the canary, which is the participant's own."""
    with second_sensor(lab, lab.participant(WHO)) as made:
        yield made


def _links_to(host: Host, program: str) -> str:
    return on(host, "readlink", f"/opt/sie/{program}").strip().removeprefix("releases/")


def _runs_from(host: Host, unit: str, release: str) -> bool:
    process = on(host, "systemctl", "show", "--property=MainPID", "--value", unit).strip()
    started = on(host, "cat", f"/proc/{process}/cmdline", check=False)
    return started.startswith(f"/opt/sie/releases/{release}/bin/python")


def _in_use(host: Host, program: str) -> str:
    """The release that a host's link leads to, which must be the one that runs."""
    release = _links_to(host, program)
    assert _runs_from(host, "sie-hub-ingest" if program == "sie-hub" else program, release)
    return release


def _traces(host: Host) -> str:
    """What tells whether a playbook has touched a sensor's host: files, links, and the agent's run."""
    return "".join(
        (
            on(host, "systemctl", "show", "--property=MainPID,NRestarts,ActiveEnterTimestamp", "sie-agent"),
            on(host, "ls", "-l", "--full-time", "/opt/sie", RELEASES),
            on(host, "sh", "-c", deploy.CONFIGURED),
        )
    )


def _switched(host: Host) -> float:
    """When the link to the release in use was made, in Unix seconds."""
    return float(on(host, "stat", "--format=%.Y", "/opt/sie/sie-agent"))


def _report(participant: Participant) -> Path:
    """What a playbook has left when it last found the participant's own sensor well."""
    return participant.home / "reports" / f"{participant.name}-{participant.sensor_name}.md"


def _one_after_the_other(participant: Participant, second: Second, release: str) -> None:
    """Both are on the release, and the second was not switched before the first was well on it."""
    assert _in_use(participant.sensor, "sie-agent") == _in_use(second.host, "sie-agent") == release
    assert f"| release | {release} |" in _report(participant).read_text()
    well = _report(participant).stat().st_mtime
    assert _switched(participant.sensor) < well < _switched(second.host)


def _look_up(lab: Lab, participant: Participant, zone: str) -> None:
    traffic.look_up_many(lab, participant, [f"n{number}.{zone}" for number in range(LOOK_UPS)])


def _refused(lab: Lab, playbook: str, who: str | None, options: list[str], says: str) -> None:
    """A playbook fails and says why; AssertionError if it does not."""
    with pytest.raises(CommandError):
        deploy.playbook(lab, playbook, who, options)
    name = "-".join(filter(None, (playbook, who)))
    said = deploy.log_of(lab, name).read_text()
    assert says in said, said[-3000:]
    assert "Traceback" not in said


def test_a_hubs_releases_come_and_go_in_traffic(lab: Lab, reader: Reader, hubs: Releases) -> None:
    participants = list(lab.participants.values())
    flow = Traffic(lab, participants)
    first, newer = release_id(hubs.first), release_id(hubs.newer)
    upgrade = partial(deploy.playbook, lab, "upgrade", None)
    try:
        assert _in_use(lab.hub, "sie-hub") == first
        assert deploy.rehearse(lab, "upgrade", None, ["-e", f"hub_release={hubs.newer}"]) > 0
        assert upgrade(["-e", f"hub_release={hubs.newer}"]) > 0
        assert _in_use(lab.hub, "sie-hub") == newer
        assert NEWER in on(lab.hub, "sie-hub", "--version")
        assert upgrade(["-e", f"hub_release={hubs.newer}"]) == 0

        dead = ["-e", f"hub_release={hubs.dead}"]
        _refused(lab, "upgrade", None, dead, "Ask the installed program for its version")
        assert _in_use(lab.hub, "sie-hub") == newer
        back = f"was not well on {release_id(hubs.unwell)} and is back on {newer}, where it is well."
        _refused(lab, "upgrade", None, ["-e", f"hub_release={hubs.unwell}"], back)
        assert _in_use(lab.hub, "sie-hub") == newer

        assert deploy.rehearse(lab, "rollback", None) > 0
        assert deploy.playbook(lab, "rollback", None) > 0
        assert _in_use(lab.hub, "sie-hub") == first
        _refused(lab, "rollback", None, [], f"no release before {first} to go back to; give one of")
    finally:
        flow.stop()
    settled(reader, flow, participants)


def test_sensors_releases_come_and_go_in_traffic_a_canary_first(
    lab: Lab, reader: Reader, agents: Releases, second: Second, flow: Traffic
) -> None:
    """Their resolvers rest while they are restarted, since what passes a dead sensor is nobody's to count."""
    participant = lab.participant(WHO)
    sensor, zone = participant.sensor, f"{secrets.token_hex(4)}.wild.example"
    first, newer = release_id(agents.first), release_id(agents.newer)

    def hand_over(release: Path) -> None:
        deploy.playbook(lab, "onboard_participant", WHO, ["-e", f"onboard_release={release}"])

    assert _in_use(sensor, "sie-agent") == first
    _look_up(lab, participant, f"first.{zone}")
    hand_over(agents.newer)
    assert deploy.rehearse(lab, "upgrade", WHO) > 0
    assert deploy.playbook(lab, "upgrade", WHO, second.too) > 0
    _one_after_the_other(participant, second, newer)
    assert deploy.playbook(lab, "upgrade", WHO, second.too) == 0
    _look_up(lab, participant, f"newer.{zone}")

    untouched = _traces(second.host)
    hand_over(agents.dead)
    _refused(lab, "upgrade", WHO, second.too, "Ask the installed program for its version")
    assert _in_use(sensor, "sie-agent") == newer
    assert _traces(second.host) == untouched

    hand_over(agents.unwell)
    back = f"ns1 was not well on {release_id(agents.unwell)} and is back on {newer}, where it is well."
    failing = threading.Thread(target=_refused, args=(lab, "upgrade", WHO, [*VERIFY, *second.too], back))
    failing.start()
    await_true(
        partial(_captures_on, sensor, release_id(agents.unwell)), PATIENCE, "the release that is not well"
    )
    _look_up(lab, participant, f"unwell.{zone}")
    failing.join()
    assert _in_use(sensor, "sie-agent") == newer
    assert f"| release | {newer} |" in _report(participant).read_text()
    assert _traces(second.host) == untouched

    assert deploy.rehearse(lab, "rollback", WHO) > 0
    assert deploy.playbook(lab, "rollback", WHO, second.too) > 0
    _one_after_the_other(participant, second, first)
    _look_up(lab, participant, f"back.{zone}")
    hand_over(agents.first)

    flow.stop()
    settled(reader, flow, [p for p in lab.participants.values() if p is not participant])
    for phase in ("first", "newer", "unwell", "back"):
        await_true(
            partial(_searchable, reader, f"{phase}.{zone}"), PATIENCE, f"what was looked up in {phase}"
        )


def _captures_on(sensor: Host, release: str) -> bool:
    return _runs_from(sensor, "sie-agent", release) and bool(status(sensor)["running"])


def _searchable(reader: Reader, zone: str) -> bool:
    return reader.counts(zone).total() == LOOK_UPS


def test_a_release_that_cannot_read_what_is_kept_is_refused(
    lab: Lab, agents: Releases, tmp_path: Path
) -> None:
    sensor = lab.participant(WHO).sensor
    before = _in_use(sensor, "sie-agent")
    older = variant(agents.first, tmp_path, "0.0.9", state=0)
    deploy.playbook(lab, "onboard_participant", WHO, ["-e", f"onboard_release={older}"])
    _refused(lab, "upgrade", WHO, [], f"keeps the state of sie-agent in form 1 and {release_id(older)} reads")

    deploy.playbook(lab, "onboard_participant", WHO)
    folder = f"/opt/sie/releases/{release_id(older)}"
    on(sensor, "mkdir", folder)
    try:
        on(sensor, "tee", f"{folder}/manifest.json", stdin=json.dumps({"state": 0}))
        on(sensor, "tee", f"{folder}/installed", stdin="")
        to = ["-e", f"to={release_id(older)}"]
        _refused(lab, "rollback", WHO, to, f"and {release_id(older)} reads no newer form than 0")
    finally:
        on(sensor, "rm", "--recursive", folder)
    assert _in_use(sensor, "sie-agent") == before
