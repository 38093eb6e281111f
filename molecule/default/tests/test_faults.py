"""SIGKILL, twenty times each, in traffic: nothing that had reached a spool is lost or counted twice.

The truth is the name server's own log. Names repeat with known multiplicity, so that a container stored
twice or not at all changes a sum; before a kill the message server is held until containers are in flight.
"""

import contextlib
import random
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from sie_lab import querylog, traffic
from sie_lab.hosts import in_parallel, on
from sie_lab.topology import Host, Lab, Participant

from tests.fleet.holdings import running_status, status
from tests.fleet.lookups import (
    ANSWERED_WITHIN,
    PATIENCE,
    SEED,
    Differences,
    Traffic,
    arrived,
    asked_below,
    await_counts,
)
from tests.fleet.reader import Reader, await_true

KILLS = 20
KILLS_BESIDE = 3  # of a sensor beside which another is looked at


def _main_process(host: Host, unit: str) -> tuple[str, int]:
    """The state of a unit and the number of its program."""
    said = on(host, "systemctl", "show", "--property=ActiveState,MainPID", unit)
    shown = dict(line.split("=", 1) for line in said.splitlines())
    return shown["ActiveState"], int(shown["MainPID"])


def _kill(host: Host, unit: str) -> Callable[[], float]:
    """SIGKILL to a unit's program; how to wait for its successor. Earlier restarts are forgotten before."""
    _, before = _main_process(host, unit)
    on(host, "systemctl", "reset-failed", unit, check=False)
    on(host, "systemctl", "kill", "--signal=KILL", unit)

    def back() -> bool:
        state, now = _main_process(host, unit)
        return state == "active" and now not in (0, before)

    return partial(await_true, back, PATIENCE, f"{unit} running again")


@contextlib.contextmanager
def _held(host: Host, unit: str) -> Iterator[None]:
    """A unit's program stands still."""
    on(host, "systemctl", "kill", "--signal=STOP", unit)
    try:
        yield
    finally:
        on(host, "systemctl", "kill", "--signal=CONT", unit, check=False)


def _captured(participant: Participant) -> int:
    document = running_status(participant.sensor)
    return 0 if document is None else int(document["captured"])


def _flying(participant: Participant) -> bool:
    document = running_status(participant.sensor)
    return document is not None and document["in_flight"] > 0


def _connected(participant: Participant) -> bool:
    document = running_status(participant.sensor)
    return document is not None and document["uplink"]["state"] == "connected"


@pytest.mark.parametrize("unit", ["sie-hub-ingest", "nats-server"])
def test_killing_what_containers_are_on_the_way_through_loses_and_repeats_nothing(
    lab: Lab, reader: Reader, to_stay: list[Differences], unit: str
) -> None:
    participants = list(lab.participants.values())
    dice = random.Random(SEED)
    flow = Traffic(lab, participants)
    try:
        for _ in range(KILLS):
            time.sleep(dice.uniform(0, 1))
            await_true(lambda: all(map(_connected, participants)), PATIENCE, "all sensors connected")
            with _held(lab.hub, "nats-server"):
                await_true(lambda: any(map(_flying, participants)), PATIENCE, "a container in flight")
                assert any(map(_flying, participants))
                await_back = _kill(lab.hub, unit)
            await_back()
    finally:
        flow.stop()
    to_stay.append(arrived(reader, flow, participants))


def test_killing_what_answers_are_made_by_loses_and_repeats_nothing(
    lab: Lab, reader: Reader, to_stay: list[Differences]
) -> None:
    """Each of the two at moments of its own, whether the other is there or not."""
    participants = list(lab.participants.values())
    flow = Traffic(lab, participants)

    def kill_often(unit: str) -> None:
        dice = random.Random(f"{SEED} {unit}")
        for _ in range(KILLS):
            time.sleep(dice.uniform(0, 1))
            _kill(lab.hub, unit)()

    try:
        in_parallel(kill_often, ("sie-hub-refine", "sie-hub-serve"))
    finally:
        flow.stop()
    to_stay.append(arrived(reader, flow, participants))


def test_killing_sensors_loses_nothing_that_had_reached_their_spools(
    lab: Lab, reader: Reader, to_stay: list[Differences]
) -> None:
    """Both in each round. Their resolvers rest meanwhile: what passes a dead sensor is nobody's to count."""
    participants = list(lab.participants.values())
    dice = random.Random(SEED)
    zone = f"{secrets.token_hex(4)}.wild.example"
    since = querylog.mark(lab)

    def fill(participant: Participant, number: int) -> None:
        before, below = _captured(participant), f"{participant.name.replace('_', '-')}.{zone}"
        names = [f"k{number}-{n}.{below}" for n in range(3)] * 2 + [f"k{number}-0.{below}"]
        traffic.look_up_many(lab, participant, names)
        await_true(lambda: _captured(participant) >= before + len(names), PATIENCE, "them in the spool")
        await_true(partial(_flying, participant), PATIENCE, "a container in flight")

    def kill(participant: Participant) -> None:
        time.sleep(dice.uniform(0, 0.5))
        assert _flying(participant)
        _kill(participant.sensor, "sie-agent")()

    for number in range(KILLS):
        await_true(lambda: all(map(_connected, participants)), PATIENCE, "all sensors connected")
        with _held(lab.hub, "nats-server"):
            in_parallel(partial(fill, number=number), participants)
            in_parallel(kill, participants)
    asked = asked_below(lab, zone, since)
    assert sum(asked.values()) >= KILLS * 7 * len(participants)
    to_stay.append(await_counts(reader, zone, asked))


def _undisturbed(participant: Participant) -> dict[str, object]:
    """What of a sensor stays as it is while nothing happens to it: its process, its session, no loss."""
    document = status(participant.sensor)
    uplink = {name: document["uplink"][name] for name in ("attempts", "sessions", "refusals", "failures")}
    process = _main_process(participant.sensor, "sie-agent")
    return {"process": process, "stream": document["stream"], "lost": document["lost"], **uplink}


def test_killing_a_sensor_disturbs_no_other(lab: Lab, reader: Reader, to_stay: list[Differences]) -> None:
    """What is looked up at the other when the first dies is answered in the usual time, and all of it."""
    killed, other = lab.participants.values()

    def answered(zone: str) -> bool:
        return bool(reader.counts(zone))

    before = _undisturbed(other)
    flow = Traffic(lab, [other])
    try:
        for number in range(KILLS_BESIDE):
            zone = f"kill{number}.{flow.zone}"
            await_back = _kill(killed.sensor, "sie-agent")
            traffic.look_up_many(lab, other, [f"n.{zone}"])
            await_true(partial(answered, zone), ANSWERED_WITHIN, f"an answer about {zone}")
            await_back()
    finally:
        flow.stop()
    to_stay.append(arrived(reader, flow, [other]))
    assert _undisturbed(other) == before
