"""SIGKILL, twenty times each, in traffic: nothing that had reached a spool is lost or counted twice.

The truth is the name server's own log. Names repeat with known multiplicity, so that a container stored
twice or not at all changes a sum; before a kill the message server is held until containers are in flight.
"""

import contextlib
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
from sie_lab import querylog, traffic
from sie_lab.hosts import on
from sie_lab.topology import Host, Lab, Participant

from tests.fleet.holdings import status
from tests.fleet.lookups import PATIENCE, SEED, Traffic, settled
from tests.fleet.reader import Reader, await_true

KILLS = 20


def _main_pid(host: Host, unit: str) -> int:
    return int(on(host, "systemctl", "show", "--property=MainPID", "--value", unit))


def _kill(host: Host, unit: str) -> None:
    """SIGKILL to a unit's program, and wait for its successor. The count of restarts is put back before."""
    before = _main_pid(host, unit)
    on(host, "systemctl", "reset-failed", unit, check=False)
    on(host, "systemctl", "kill", "--signal=KILL", unit)

    def back() -> bool:
        state = on(host, "systemctl", "is-active", unit, check=False).strip()
        return state == "active" and _main_pid(host, unit) not in (0, before)

    await_true(back, PATIENCE, f"{unit} running again")


@contextlib.contextmanager
def _held(host: Host, unit: str) -> Iterator[None]:
    """A unit's program stands still."""
    on(host, "systemctl", "kill", "--signal=STOP", unit)
    try:
        yield
    finally:
        on(host, "systemctl", "kill", "--signal=CONT", unit, check=False)


def _in_flight(participants: list[Participant]) -> int:
    return sum(status(p.sensor)["in_flight"] for p in participants)


def _spooled(participant: Participant, transactions: int) -> bool:
    captured: int = status(participant.sensor)["captured"]
    return captured >= transactions


def _flying(participant: Participant) -> bool:
    return _in_flight([participant]) > 0


def _connected(participant: Participant) -> bool:
    return bool(status(participant.sensor)["uplink"]["state"] == "connected")


@pytest.mark.parametrize("unit", ["sie-hub-ingest", "sie-hub-refine", "sie-hub-serve", "nats-server"])
def test_killing_a_unit_of_the_hub_loses_and_repeats_nothing(lab: Lab, reader: Reader, unit: str) -> None:
    participants = list(lab.participants.values())
    dice = random.Random(SEED)
    flow = Traffic(lab, participants)
    try:
        for _ in range(KILLS):
            time.sleep(dice.uniform(0, 1))
            with contextlib.ExitStack() as standing:
                if unit in ("sie-hub-ingest", "nats-server"):
                    await_true(lambda: all(map(_connected, participants)), PATIENCE, "all sensors connected")
                    standing.enter_context(_held(lab.hub, "nats-server"))
                    await_true(lambda: _in_flight(participants) > 0, PATIENCE, "a container in flight")
                    assert _in_flight(participants) > 0
                if unit == "nats-server":
                    _kill(lab.hub, unit)
                    continue
                killing = threading.Thread(target=_kill, args=(lab.hub, unit))
                killing.start()
            killing.join()
    finally:
        flow.stop()
    settled(lab, reader, flow, participants)


@pytest.mark.parametrize("who", ["isp_a", "uni_b"])
def test_killing_a_sensor_loses_nothing_that_had_reached_its_spool(
    lab: Lab, reader: Reader, who: str
) -> None:
    """Its resolver rests while it is down, since what passes a dead sensor is nobody's to count."""
    participant = lab.participant(who)
    others = [p for p in lab.participants.values() if p is not participant]
    dice = random.Random(SEED)
    zone = f"{secrets.token_hex(4)}.wild.example"
    since = querylog.mark(lab)
    flow = Traffic(lab, others)
    try:
        for kill in range(KILLS):
            await_true(partial(_connected, participant), PATIENCE, "the sensor connected")
            with _held(lab.hub, "nats-server"):
                before = status(participant.sensor)["captured"]
                names = [f"k{kill}-{n}.{zone}" for n in range(3)] * 2 + [f"k{kill}-0.{zone}"]
                traffic.look_up_many(lab, participant, names)
                await_true(partial(_spooled, participant, before + len(names)), PATIENCE, "them in the spool")
                await_true(partial(_flying, participant), PATIENCE, "a container in flight")
                time.sleep(dice.uniform(0, 0.5))
                assert _flying(participant)
                _kill(participant.sensor, "sie-agent")
    finally:
        flow.stop()
    settled(lab, reader, flow, others)
    resolver = str(participant.resolver_address.v4), str(participant.resolver_address.v6)
    logged: Counter[str] = Counter()
    for (name, qtype, source), count in querylog.asked_of_holder(lab, since).items():
        if name.rstrip(".").endswith(zone) and qtype == "A" and source in resolver:
            logged[name.rstrip(".")] += count
    assert sum(logged.values()) >= KILLS * 7
    await_true(lambda: reader.counts(zone) == logged, PATIENCE, "what had reached the spool")
