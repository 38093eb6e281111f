"""Every record has one outcome, and weeks begin on Mondays."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sie_hub.serve.admission import DAY, MAX_AHEAD, WEEK, Outcome, Record, admit, is_over, judge, monday_of

from .samples import Sample, address, rows

NOW = 1_800_000_000
GOOD = Sample("www.example.", 1, (address("203.0.113.1"),), NOW - 5, NOW - 1)


@pytest.mark.parametrize(
    ("sample", "outcome"),
    [
        (GOOD, Outcome.STORED),
        (replace(GOOD, rrclass=3), Outcome.FILTERED),
        (replace(GOOD, rdata=()), Outcome.REJECTED_EMPTY),
        (replace(GOOD, count=0), Outcome.REJECTED_EMPTY),
        (replace(GOOD, time_first=NOW), Outcome.REJECTED_TIME),
        (GOOD.at(NOW + MAX_AHEAD), Outcome.STORED),
        (GOOD.at(NOW + MAX_AHEAD + 1), Outcome.REJECTED_TIME),
        (GOOD.at(NOW - 60 * DAY), Outcome.STORED),
        (GOOD.at(NOW - 60 * DAY - WEEK), Outcome.TRIMMED),
        (GOOD.at(0), Outcome.TRIMMED),
    ],
)
def test_outcomes(sample: Sample, outcome: Outcome) -> None:
    admitted = admit([sample.row()], now=NOW, retention_days=60)
    assert admitted.outcomes[outcome] == 1
    assert sum(admitted.outcomes.values()) == 1
    assert (admitted.rrset_rows, admitted.rdata_rows) == ((1, 1) if outcome is Outcome.STORED else (0, 0))
    assert bool(admitted.rrset) == bool(admitted.rdata) == (outcome is Outcome.STORED)


@pytest.mark.parametrize("field", ["owner", "bailiwick"])
@pytest.mark.parametrize("octets", [b"", b"\x05abc", b"\x00\x00", b"\xc0\x0c", bytes([63]) + b"a" * 63])
def test_a_record_of_a_broken_name_is_rejected(field: str, octets: bytes) -> None:
    record = Record(**{**Record(*GOOD.row())._asdict(), field: octets})
    assert judge(record, now=NOW, retention_days=60) is Outcome.REJECTED_NAME


def test_the_outcomes_of_many_records_add_up() -> None:
    samples = [GOOD, replace(GOOD, count=0), GOOD.at(0), GOOD, replace(GOOD, rrclass=255)]
    admitted = admit(rows(samples), now=NOW, retention_days=60)
    assert sum(admitted.outcomes.values()) == len(samples)
    assert admitted.outcomes[Outcome.STORED] == admitted.rrset_rows == 2


def test_rows_are_hexadecimal_digits_and_numbers_alone() -> None:
    hostile = replace(GOOD, owner="'\\009\\010); drop table--.example.", rdata=(b"\n\n\t'\\", b"]"))
    admitted = admit([replace(hostile, rrtype=16).row()], now=NOW, retention_days=60)
    assert set(admitted.rrset + admitted.rdata) <= set(b"0123456789abcdef\t\n[',]")
    assert admitted.rrset.count(b"\n") == 1
    assert admitted.rdata.count(b"\n") == 2


@given(st.integers(0, (1 << 32) - 1))
def test_weeks_begin_on_mondays(time: int) -> None:
    monday = monday_of(time)
    if monday >= 0:
        assert datetime.fromtimestamp(monday, UTC).strftime("%a %H:%M:%S") == "Mon 00:00:00"
    assert monday <= time < monday + WEEK


@given(st.integers(0, (1 << 32) - 1), st.integers(1, 3660))
def test_a_week_is_over_when_its_last_second_is(time: int, days: int) -> None:
    monday = monday_of(time)
    last_second = monday + WEEK - 1
    assert is_over(monday, now=last_second + days * DAY + 1, retention_days=days)
    assert not is_over(monday, now=last_second + days * DAY, retention_days=days)
