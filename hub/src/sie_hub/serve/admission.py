"""Which records enter the store, and which rows they become there.

A record is one observation of `sie_core._native.dedupe_records`. Each has one outcome, and every outcome is
counted:

| outcome | meaning |
|---|---|
| stored | it is in both tables |
| filtered | its class is not IN |
| rejected_empty | no rdata, or a count of 0: nothing was observed |
| rejected_name | its owner or bailiwick is not a name in wire form |
| rejected_time | it ends before it begins, or more than a day from now |
| trimmed | its week is over retention already |
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from sie_core._native import FormatError, reverse_name
from sie_hub.serve.inverse_key import inverse_key

CLASS_IN: Final = 1

DAY: Final = 86_400
WEEK: Final = 7 * DAY
FIRST_MONDAY: Final = 4 * DAY  # 1970-01-05: the Unix epoch was a Thursday

MAX_AHEAD: Final = DAY
"""How far a record may end after now. Clocks of sensors differ by seconds; a time beyond a day is a broken
clock, and would make a partition that retention keeps until that day."""


class Outcome(StrEnum):
    """What became of a record; the values are metric labels."""

    STORED = "stored"
    FILTERED = "filtered"
    REJECTED_EMPTY = "rejected_empty"
    REJECTED_NAME = "rejected_name"
    REJECTED_TIME = "rejected_time"
    TRIMMED = "trimmed"


class Record(NamedTuple):
    """One RRset as `dedupe_records` gives it: names and rdata in wire form, times in seconds UTC."""

    owner: bytes
    rrtype: int
    rrclass: int
    bailiwick: bytes
    rdata: list[bytes]
    seen: int
    time_first: int
    time_last: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Landed:
    """The weeks, by their Monday, whose rows of a message are in a table already."""

    rrset: frozenset[int] = frozenset()
    rdata: frozenset[int] = frozenset()


NOTHING_LANDED: Final = Landed()


@dataclass(slots=True)
class Admitted:
    """The rows of one SIE message as tab-separated data for the two tables, and how many of them."""

    rrset: bytes = b""
    rdata: bytes = b""
    rrset_rows: int = 0
    rdata_rows: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))


RRSET_COLUMNS: Final = "owner_hex, rrtype, bailiwick_hex, rdata_hex, name_hex, count, time_first, time_last"
RDATA_COLUMNS: Final = "kind, key_hex, rrtype, owner_hex, rdata_hex, count, time_first, time_last"


def admit(
    records: Iterable[Sequence[object]], *, now: int, retention_days: int, landed: Landed = NOTHING_LANDED
) -> Admitted:
    """The rows for a message's records, without those that have landed. `now` is seconds UTC."""
    admitted = Admitted()
    rrset_lines: list[str] = []
    rdata_lines: list[str] = []
    for fields in records:
        record = Record(*fields)  # type: ignore[arg-type]  # the native module's tuple, typed by its stub
        outcome = judge(record, now=now, retention_days=retention_days)
        admitted.outcomes[outcome] += 1
        if outcome is Outcome.STORED:
            owner = reverse_name(record.owner).hex()
            monday = monday_of(record.time_last)
            if monday not in landed.rrset:
                rrset_lines.append(_rrset_line(record, owner))
            if monday not in landed.rdata:
                rdata_lines.extend(_rdata_lines(record, owner))
    admitted.rrset = "".join(rrset_lines).encode("ascii")
    admitted.rdata = "".join(rdata_lines).encode("ascii")
    admitted.rrset_rows = len(rrset_lines)
    admitted.rdata_rows = len(rdata_lines)
    return admitted


def judge(record: Record, *, now: int, retention_days: int) -> Outcome:
    """What is to become of a record."""
    if record.rrclass != CLASS_IN:
        return Outcome.FILTERED
    if not record.rdata or record.seen == 0:
        return Outcome.REJECTED_EMPTY
    if not (_is_name(record.owner) and _is_name(record.bailiwick)):
        return Outcome.REJECTED_NAME
    if record.time_first > record.time_last or record.time_last > now + MAX_AHEAD:
        return Outcome.REJECTED_TIME
    if is_over(monday_of(record.time_last), now=now, retention_days=retention_days):
        return Outcome.TRIMMED
    return Outcome.STORED


def monday_of(time: int) -> int:
    """The Monday 00:00 UTC, in seconds, of the week in which a time lies."""
    return (time - FIRST_MONDAY) // WEEK * WEEK + FIRST_MONDAY


def is_over(monday: int, *, now: int, retention_days: int) -> bool:
    """Whether even the last second of the week that began on `monday` is older than the retention."""
    return monday + WEEK + retention_days * DAY <= now


def _is_name(wire: bytes) -> bool:
    try:
        reverse_name(wire)
    except FormatError:
        return False
    return True


def _rrset_line(record: Record, owner: str) -> str:
    rdata = ",".join([f"'{item.hex()}'" for item in record.rdata])
    return (
        f"{owner}\t{record.rrtype}\t{record.bailiwick.hex()}\t[{rdata}]\t{record.owner.hex()}"
        f"\t{record.seen}\t{record.time_first}\t{record.time_last}\n"
    )


def _rdata_lines(record: Record, owner: str) -> list[str]:
    tail = f"{record.seen}\t{record.time_first}\t{record.time_last}\n"
    lines = []
    for item in record.rdata:
        kind, key = inverse_key(record.rrtype, item)
        lines.append(f"{int(kind)}\t{key.hex()}\t{record.rrtype}\t{owner}\t{item.hex()}\t{tail}")
    return lines
