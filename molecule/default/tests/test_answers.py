"""What resolvers looked up, the exchange answers: to the unmodified dnsdbq, within ten seconds."""

import secrets
import time

import pytest
from sie_lab import querylog, traffic
from sie_lab.topology import Lab

from tests.fleet.lookups import ANSWERED_WITHIN
from tests.fleet.reader import Reader, await_equal, await_true

PARTICIPANTS = ("isp_a", "uni_b")
KINDS = ("A", "AAAA", "NS", "MX", "TXT", "CNAME")


@pytest.fixture(scope="module", params=PARTICIPANTS)
def looked_up(request: pytest.FixtureRequest, lab: Lab) -> float:
    """One look-up of each kind through one participant's resolver; when the last of them was made."""
    participant = lab.participant(request.param)
    for name, qtype, expected in traffic.QUESTIONS:
        assert expected in traffic.look_up(lab, participant, name, qtype)
    return time.monotonic()


def _value_arguments(qtype: str, expected: str) -> list[str] | None:
    """How dnsdbq asks for a value: by address, by the name in it, or not at all."""
    if qtype in ("A", "AAAA"):
        return ["-i", expected]
    if qtype in ("NS", "CNAME", "MX"):
        return ["-n", expected.split()[-1]]
    return None


@pytest.mark.parametrize(("name", "qtype", "expected"), traffic.QUESTIONS)
def test_found_by_owner_and_by_value(
    looked_up: float, reader: Reader, name: str, qtype: str, expected: str
) -> None:
    left = max(1.0, looked_up + ANSWERED_WITHIN - time.monotonic())

    def by_owner() -> bool:
        return any(expected in row["rdata"] for row in reader.dnsdbq("-r", f"{name}/{qtype}"))

    def by_value() -> bool:
        arguments = _value_arguments(qtype, expected)
        return arguments is None or any(
            row["rrname"] == f"{name}." and row["rrtype"] == qtype for row in reader.dnsdbq(*arguments)
        )

    await_true(lambda: by_owner() and by_value(), left, f"{name} {qtype} {expected}")


def test_every_kind_is_asked_for() -> None:
    assert {qtype for _name, qtype, _value in traffic.QUESTIONS} == set(KINDS)


@pytest.mark.parametrize("who", PARTICIPANTS)
def test_counts_are_what_the_name_server_logged(lab: Lab, reader: Reader, who: str) -> None:
    participant = lab.participant(who)
    zone = f"{secrets.token_hex(4)}.wild.example"
    names = [f"n{number}.{zone}" for number in range(10)]
    before = querylog.mark(lab)
    for _ in range(3):
        traffic.look_up_many(lab, participant, names)
    resolver = set(map(str, participant.resolver_address))
    logged = {
        name: sum(
            count
            for (asked, qtype, source), count in querylog.asked_of_holder(lab, before).items()
            if asked.rstrip(".") == name and qtype == "A" and source in resolver
        )
        for name in names
    }

    assert all(count >= 3 for count in logged.values()), logged
    await_equal(lambda: reader.counts(zone), logged, ANSWERED_WITHIN, f"counts below {zone}")
