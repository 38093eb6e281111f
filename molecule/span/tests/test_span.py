"""The sensor at the mirror port: it counts what is mirrored, and nothing when nothing is."""

import secrets
from collections.abc import Iterator

import pytest
from sie_lab import querylog, span, traffic
from sie_lab.topology import Lab, Participant

from tests.fleet.holdings import status
from tests.fleet.reader import Reader, await_true

LOOK_UPS = 25  # in each phase, over both families in turn
WITHIN = 15.0  # seconds from a look-up to the sensor's count, or to the analyst's answer


@pytest.fixture
def mirror(lab: Lab) -> Iterator[Participant]:
    """The participant behind the mirror, which is on before and after."""
    span.switch(lab, on_=True)
    yield next(p for p in lab.participants.values() if p.resolver is lab.span.of)
    span.switch(lab, on_=True)


def _seen(participant: Participant) -> int:
    """Packets that a sensor has seen since its agent started."""
    packets: int = status(participant.sensor)["counters"]["packets_seen"]
    return packets


def _look_up(lab: Lab, participant: Participant, phase: str, zone: str) -> int:
    """Looks up names of one phase; how many packets the name servers' log says that made upstream."""
    since = querylog.mark(lab)
    traffic.look_up_many(lab, participant, [f"n{number}.{phase}.{zone}" for number in range(LOOK_UPS)])
    packets = [e for e in querylog.entries(lab, since) if e.resolver in set(participant.resolver_address)]
    asked = {e.qname.lower() for e in packets if e.kind == "Q"}
    assert {f"n{number}.{phase}.{zone}." for number in range(LOOK_UPS)} <= asked
    return len(packets)


def test_without_the_mirror_the_sensors_count_stays_still(
    lab: Lab, reader: Reader, mirror: Participant
) -> None:
    zone = f"{secrets.token_hex(4)}.wild.example"
    traffic.look_up(lab, mirror, "primer.wild.example", "A")
    _look_up(lab, mirror, "primer", zone)
    await_true(lambda: reader.counts(f"primer.{zone}").total() == LOOK_UPS, WITHIN, "the primer, searchable")

    start = _seen(mirror)
    with_mirror = start + _look_up(lab, mirror, "before", zone)
    await_true(lambda: _seen(mirror) == with_mirror, WITHIN, f"{with_mirror} packets seen with the mirror")

    span.switch(lab, on_=False)
    assert not span.is_on(lab)
    assert _look_up(lab, mirror, "without", zone) >= 2 * LOOK_UPS
    # Another sensor has look-ups made later: what the one at the mirror had to count, it would have by now.
    elsewhere = next(p for p in lab.participants.values() if p is not mirror)
    there = _seen(elsewhere) + _look_up(lab, elsewhere, "elsewhere", zone)
    await_true(lambda: _seen(elsewhere) >= there, WITHIN, f"{there} packets seen by the other sensor")
    assert _seen(mirror) == with_mirror

    span.switch(lab, on_=True)
    # Packets keep their order, so that a count which is exact now has none of those without the mirror in it.
    again = with_mirror + _look_up(lab, mirror, "again", zone)
    await_true(lambda: _seen(mirror) == again, WITHIN, f"{again} packets seen with the mirror back")

    def searchable() -> dict[str, int]:
        return {
            phase: reader.counts(f"{phase}.{zone}").total()
            for phase in ("before", "without", "elsewhere", "again")
        }

    expected = {"before": LOOK_UPS, "without": 0, "elsewhere": LOOK_UPS, "again": LOOK_UPS}
    await_true(lambda: searchable() == expected, WITHIN, f"{expected} searchable")
