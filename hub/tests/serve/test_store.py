"""The store: written exactly once, merged, kept for its time, and answering as a plain model does."""

import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import dns.name
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sie_hub.serve.admission import DAY, RDATA_COLUMNS, RRSET_COLUMNS, WEEK, Outcome, admit, monday_of
from sie_hub.serve.answer import rdata_text
from sie_hub.serve.engine import NO_PARAMETERS, Connection, Engine, Parameters
from sie_hub.serve.errors import StoreError, StoreUnusable
from sie_hub.serve.question import Verb
from sie_hub.serve.row_binary import Reader
from sie_hub.serve.rrtypes import DNSSEC, type_text
from sie_hub.serve.schema import VERSION, open_store
from sie_hub.serve.writer import Writer

from .asking import ask
from .conftest import RETENTION_DAYS, STREAM
from .samples import Sample, address, name, rows

ROOT = Path(__file__).parents[3]

T = TypeVar("T")

OTHER_STREAM = "2026-11-22T00:00:00+00:00"


def number(store: Engine, query: str) -> int:
    return Reader(store.connection().execute(query)).number(8)


def total(store: Engine, table: str = "rrset") -> int:
    return number(store, f"SELECT sum(count) FROM sie.{table}")


def test_a_message_that_comes_again_changes_nothing(
    store: Engine, writer: Writer, content: list[Sample], now: int
) -> None:
    before = total(store), total(store, "rdata")
    assert before[0] == sum(sample.count for sample in content)
    assert before[1] == sum(sample.count * len(sample.rdata) for sample in content)
    for _ in range(3):
        writer.write(STREAM, 1, rows(content), now)
    assert (total(store), total(store, "rdata")) == before
    writer.write(STREAM, 2, rows(content), now)
    assert (total(store), total(store, "rdata")) == (2 * before[0], 2 * before[1])


def test_the_position_is_kept_for_each_stream(store: Engine, writer: Writer, now: int) -> None:
    assert writer.position(STREAM) == 0
    writer.write(STREAM, 7, [], now)
    writer.write(STREAM, 8, [], now)
    writer.write(OTHER_STREAM, 1, [], now)
    again = Writer(store.connection(), RETENTION_DAYS)
    assert (again.position(STREAM), again.position(OTHER_STREAM)) == (8, 1)


def test_the_same_sequence_of_another_stream_is_another_message(
    store: Engine, writer: Writer, content: list[Sample], now: int
) -> None:
    before = total(store)
    writer.write(OTHER_STREAM, 1, rows(content), now)
    assert total(store) == 2 * before


def test_one_message_is_one_block_however_large(store: Engine, writer: Writer, now: int) -> None:
    store.connection().execute("SYSTEM STOP MERGES")
    sample = Sample("x.example.", 1, (address("203.0.113.1"),), now, now)
    many = [(bytes([5]) + b"%05d" % item + name("example."), *sample.row()[1:]) for item in range(70_000)]
    writer.write(STREAM, 1, many, now)
    assert writer.rows() == {"rrset": 70_000, "rdata": 70_000}
    assert number(store, "SELECT count() FROM system.parts WHERE active AND table IN ('rrset', 'rdata')") == 2


def test_weeks_over_retention_are_dropped_whole_and_counted(store: Engine, writer: Writer, now: int) -> None:
    base = Sample("www.example.", 1, (address("203.0.113.1"), address("203.0.113.2")), now, now)
    ages = [0, 7, 14, 21]
    writer.write(STREAM, 1, rows([base.at(now - age * DAY, count=age + 1) for age in ages]), now)
    assert writer.expire(now) == {"rrset": 0, "rdata": 0}
    oldest = monday_of(now - 21 * DAY)
    assert writer.expire(oldest + WEEK + RETENTION_DAYS * DAY - 1) == {"rrset": 0, "rdata": 0}
    assert writer.expire(oldest + WEEK + RETENTION_DAYS * DAY) == {"rrset": 1, "rdata": 2}
    assert total(store) == 1 + 8 + 15
    assert writer.expire(now + 200 * DAY) == {"rrset": 3, "rdata": 6}
    assert ask(store.connection(), "rrset/name/www.example", "", now).objects == []


def test_a_store_is_opened_again_as_it_was(tmp_path: Path, now: int) -> None:
    store = open_store(tmp_path / "store")
    sample = Sample("www.example.", 1, (address("203.0.113.1"),), now, now, count=5)
    Writer(store.connection(), RETENTION_DAYS).write(STREAM, 3, [sample.row()], now)
    store.close()
    store = open_store(tmp_path / "store")
    writer = Writer(store.connection(), RETENTION_DAYS)
    assert writer.position(STREAM) == 3
    writer.write(STREAM, 3, [sample.row()], now)
    assert total(store) == 5
    store.close()


def test_a_store_of_another_version_is_refused_with_both_numbers(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.connection().execute("INSERT INTO sie.version SELECT {version:UInt32}", {"version": VERSION + 1})
    store.close()
    with pytest.raises(
        StoreUnusable, match=f"version {VERSION + 1}, and this program works with version {VERSION}"
    ):
        open_store(tmp_path / "store")


class Interrupted(Connection):
    """A connection on which the first statement of a kind fails: before it is done, or when it is done."""

    def __init__(self, inner: Connection, beginning: str, *, done: bool) -> None:
        self._inner = inner
        self._beginning = beginning
        self._done = done
        self.happened = False

    def execute(self, sql: str, parameters: Parameters = NO_PARAMETERS) -> bytes:
        return self._interrupt(sql, lambda: self._inner.execute(sql, parameters))

    def insert(self, statement: str, rows: bytes) -> None:
        self._interrupt(statement, lambda: self._inner.insert(statement, rows))

    def _interrupt(self, sql: str, run: Callable[[], T]) -> T:
        if self.happened or self._beginning not in sql:
            return run()
        self.happened = True
        if self._done:
            run()
        raise StoreError("interrupted")


@pytest.mark.parametrize("anew", [False, True], ids=["same process", "next process"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("table", ["rrset", "rdata", "position"])
def test_a_write_interrupted_at_any_statement_is_completed_and_not_repeated(
    store: Engine, now: int, table: str, done: bool, anew: bool
) -> None:
    for sequence in range(1, 4):
        connection = Interrupted(store.connection(), f"INSERT INTO sie.{table} ", done=done)
        writer = Writer(connection, RETENTION_DAYS)
        message = message_number(sequence, now)
        with pytest.raises(StoreError, match="interrupted"):
            writer.write(STREAM, sequence, message, now)
        assert connection.happened
        if anew:
            writer = Writer(store.connection(), RETENTION_DAYS)
        admitted = writer.write(STREAM, sequence, message, now)
        assert admitted.outcomes[Outcome.STORED] == 2
        assert (total(store), total(store, "rdata")) == (2 * sequence, 3 * sequence)
        assert writer.position(STREAM) == sequence


@pytest.mark.parametrize("merged_before", [False, True])
@pytest.mark.parametrize("week", [0, 1])
@pytest.mark.parametrize("table", ["rrset", "rdata"])
def test_a_week_that_landed_alone_is_not_written_again(
    store: Engine, now: int, table: str, week: int, merged_before: bool
) -> None:
    """A process dies between the parts of one insert: the week that is in place stays, the other comes."""
    writer = Writer(store.connection(), RETENTION_DAYS)
    for sequence in (1, 2):
        writer.write(STREAM, sequence, message_number(sequence, now), now)
    part = admit([message_number(3, now)[week]], now=now, retention_days=RETENTION_DAYS)
    columns, lines = {"rrset": (RRSET_COLUMNS, part.rrset), "rdata": (RDATA_COLUMNS, part.rdata)}[table]
    store.connection().insert(f"INSERT INTO sie.{table} ({columns}) FORMAT TabSeparated", lines)
    if merged_before:
        store.connection().execute(f"OPTIMIZE TABLE sie.{table} FINAL")
    again = Writer(store.connection(), RETENTION_DAYS)
    assert again.position(STREAM) == 2
    again.write(STREAM, 3, message_number(3, now), now)
    assert (total(store), total(store, "rdata")) == (2 * 3, 3 * 3)


def test_what_another_stream_wrote_is_not_taken_for_the_next_message(store: Engine, now: int) -> None:
    """nats-server comes back with the stream that it had before another."""
    for sequence, stream in enumerate((STREAM, OTHER_STREAM, STREAM, OTHER_STREAM), 1):
        writer = Writer(store.connection(), RETENTION_DAYS)
        writer.write(stream, writer.position(stream) + 1, message_number(sequence, now), now)
        assert (total(store), total(store, "rdata")) == (2 * sequence, 3 * sequence)


def test_a_week_dropped_since_the_position_was_written_is_neither_landed_nor_missed(
    store: Engine, now: int
) -> None:
    writer = Writer(store.connection(), RETENTION_DAYS)
    for sequence in (1, 2):
        writer.write(STREAM, sequence, message_number(sequence, now), now)
    later = monday_of(now - 9 * DAY) + WEEK + RETENTION_DAYS * DAY
    assert writer.expire(later)["rrset"] > 0
    again = Writer(store.connection(), RETENTION_DAYS)
    again.write(STREAM, 3, message_number(3, now)[:1], now)
    assert total(store) == 3


KILLED_STREAM = "2026-11-21T00:00:00+00:00"


def message_number(sequence: int, now: int) -> list[tuple[Any, ...]]:
    """Two records, one of them of nine days ago, so that the message is in two partitions."""
    recent = Sample("www.example.", 1, (address("203.0.113.1"), address("203.0.113.2")), now, now)
    old = Sample(f"n{sequence % 17}.example.", 2, (b"\0",), now - 9 * DAY, now - 9 * DAY)
    return rows([recent, old])


WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from hub.tests.serve.test_store import KILLED_STREAM, message_number
    from sie_hub.serve.schema import open_store
    from sie_hub.serve.writer import Writer
    now = int(sys.argv[3])
    writer = Writer(open_store(Path(sys.argv[1])).connection(), 60)
    sequence = writer.position(KILLED_STREAM)
    while True:
        print(sequence, flush=True)
        sequence += 1
        writer.write(KILLED_STREAM, sequence, message_number(sequence, now), now)
    """
)


def test_a_killed_writer_loses_nothing_and_repeats_nothing(tmp_path: Path, now: int) -> None:
    """SIGKILL at whatever moment: the next one goes on at its position, and all sums are exact."""
    seen = 0
    for attempt in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "store"), str(ROOT), str(now)],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            position = int(process.stdout.readline())
            assert position >= seen, "a write that was reported is in the store"
            deadline = time.monotonic() + 0.1 * (attempt + 1)
            while time.monotonic() < deadline:
                seen = int(process.stdout.readline())
            process.kill()
            seen = max([seen, *map(int, process.stdout.read().split())])
    store = open_store(tmp_path / "store")
    writer = Writer(store.connection(), RETENTION_DAYS)
    position = writer.position(KILLED_STREAM)
    assert position >= seen > 8
    # The message that was under way at the last kill may be in a table before the position says so.
    assert position * 2 <= total(store) <= position * 2 + 2
    writer.write(KILLED_STREAM, position + 1, message_number(position + 1, now), now)
    assert total(store) == (position + 1) * 2
    assert total(store, "rdata") == (position + 1) * 3
    assert ask(store.connection(), "rrset/name/www.example", "", now).objects[0]["count"] == position + 1
    store.close()


# ---- against a plain model
# ------------------------------------------------------------------------------------

LABELS = st.sampled_from(["a", "b", "www", "a-b", "\\000", "\\255", "\\003www"])
OWNERS = st.lists(LABELS, min_size=0, max_size=3).map(lambda labels: ".".join([*labels, "example."]))
NAMES = OWNERS.map(name)
RDATA = st.one_of(
    st.tuples(st.just(1), st.sampled_from(["203.0.113.1", "203.0.113.2", "198.51.100.9"]).map(address)),
    st.tuples(st.just(28), st.sampled_from(["2001:db8::1", "2001:db8:1::2"]).map(address)),
    st.tuples(st.just(2), NAMES),
    st.tuples(st.just(15), NAMES.map(lambda wire: b"\0\x0a" + wire)),
    st.tuples(st.just(16), st.sampled_from([b"\1x", b"\0", b"\3a\nb"])),
    st.tuples(st.just(47), NAMES.map(lambda wire: wire + b"\0\1\x40")),
)
NOW = 1_800_000_000
SAMPLES = st.builds(
    lambda owner, typed, first, length, count, bailiwick: Sample(
        owner, typed[0], (typed[1],), NOW - first - length, NOW - first, bailiwick, count
    ),
    OWNERS,
    RDATA,
    st.integers(0, 30 * DAY),
    st.integers(0, 3 * DAY),
    st.integers(1, 9),
    st.sampled_from(["example.", "."]),
)
TYPES = st.sampled_from(["ANY", "ANY-DNSSEC", "A", "NS", "MX", "NSEC"])
FENCES = st.one_of(
    st.just(""),
    st.tuples(
        st.sampled_from(["time_first_before", "time_first_after", "time_last_before", "time_last_after"]),
        st.integers(NOW - 30 * DAY, NOW),
    ).map(lambda fence: f"{fence[0]}={fence[1]}"),
)


def matches(pattern: str, wire: bytes) -> bool:
    """Whether a name fits a name or wildcard, by dnspython's idea of names."""
    target = dns.name.from_wire(wire, 0)[0]
    if pattern.startswith("*."):
        return bool(target.is_subdomain(dns.name.from_text(pattern[2:])))
    if pattern.endswith(".*"):
        first = dns.name.from_text(pattern[:-2]).labels[:-1]
        return bool(target.labels[: len(first)] == first and len(target.labels) > len(first))
    return bool(target == dns.name.from_text(pattern))


def of_types(rrtype: int, wanted: str) -> bool:
    if wanted in ("ANY", "ANY-DNSSEC"):
        return (rrtype in DNSSEC) == (wanted == "ANY-DNSSEC")
    return type_text(rrtype) == wanted


def holds(fence: str, first: int, last: int) -> bool:
    if not fence:
        return True
    key, _, bound = fence.partition("=")
    value = first if "first" in key else last
    return value <= int(bound) if "before" in key else value >= int(bound)


def merged(samples: list[Sample], key: Any) -> dict[Any, tuple[int, int, int]]:
    """Count, first and last by key."""
    found: dict[Any, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[key(sample)].append(sample)
    return {
        group: (
            sum(sample.count for sample in members),
            min(sample.time_first for sample in members),
            max(sample.time_last for sample in members),
        )
        for group, members in found.items()
    }


PATTERNS = st.one_of(OWNERS, OWNERS.map(lambda owner: f"*.{owner}"), OWNERS.map(lambda owner: f"{owner}*"))


def quoted(pattern: str) -> str:
    return pattern.replace("%", "%25").replace("\\", "%5C")


@given(
    st.lists(st.lists(SAMPLES, max_size=8), min_size=1, max_size=3),
    st.lists(st.tuples(PATTERNS, TYPES, FENCES), min_size=4, max_size=8),
)
@settings(max_examples=15, deadline=None)
def test_answers_are_those_of_a_plain_model(
    tmp_path_factory: pytest.TempPathFactory,
    messages: list[list[Sample]],
    questions: list[tuple[str, str, str]],
) -> None:
    store = open_store(tmp_path_factory.mktemp("store"))
    try:
        connection = store.connection()
        writer = Writer(connection, 3660)
        for sequence, message in enumerate(messages, 1):
            writer.write(STREAM, sequence, rows(message), NOW)
        everything = [sample for message in messages for sample in message]
        for pattern, types, fence in questions:
            chosen = [
                sample
                for sample in everything
                if matches(pattern, name(sample.owner)) and of_types(sample.rrtype, types)
            ]
            expected = {
                (owner, type_text(rrtype), bailiwick, (rdata_text(rrtype, rdata[0]),), *numbers)
                for (owner, rrtype, bailiwick, rdata), numbers in merged(
                    chosen, lambda s: (_text(s.owner), s.rrtype, s.bailiwick, s.rdata)
                ).items()
                if holds(fence, numbers[1], numbers[2])
            }
            answered = ask(connection, f"rrset/name/{quoted(pattern)}/{types}", fence, NOW)
            assert answered.ending == "succeeded"
            assert len(answered.objects) == len(expected)
            assert {
                (
                    row["rrname"],
                    row["rrtype"],
                    row["bailiwick"],
                    tuple(row["rdata"]),
                    row["count"],
                    row["time_first"],
                    row["time_last"],
                )
                for row in answered.objects
            } == expected
            summary = ask(connection, f"rrset/name/{quoted(pattern)}/{types}", fence, NOW, Verb.SUMMARIZE)
            assert bool(summary.objects) == bool(expected)
            if expected:
                assert summary.objects[0]["num_results"] == len(expected)
                assert summary.objects[0]["count"] == sum(row[4] for row in expected)

            inverse = [
                sample
                for sample in everything
                if of_types(sample.rrtype, types)
                and (offset := {2: 0, 15: 2, 47: 0}.get(sample.rrtype)) is not None
                and matches(pattern, sample.rdata[0][offset:])
            ]
            expected_inverse = {
                (owner, type_text(rrtype), rdata_text(rrtype, rdata[0]), *numbers)
                for (owner, rrtype, rdata), numbers in merged(
                    inverse, lambda s: (_text(s.owner), s.rrtype, s.rdata)
                ).items()
                if holds(fence, numbers[1], numbers[2])
            }
            answered = ask(connection, f"rdata/name/{quoted(pattern)}/{types}", fence, NOW)
            assert {
                (
                    row["rrname"],
                    row["rrtype"],
                    row["rdata"][0],
                    row["count"],
                    row["time_first"],
                    row["time_last"],
                )
                for row in answered.objects
            } == expected_inverse
            assert len(answered.objects) == len(expected_inverse)
    finally:
        store.close()


def _text(owner: str) -> str:
    return dns.name.from_text(owner).to_text()


def test_pages_follow_one_another_without_gap_or_repetition(
    store: Engine, content: list[Sample], now: int
) -> None:
    connection = store.connection()
    whole = ask(connection, "rrset/name/*.example", "", now).objects
    paged = []
    for offset in range(0, len(whole) + 3, 3):
        page = ask(connection, "rrset/name/*.example", f"limit=3&offset={offset}", now)
        paged += page.objects
        assert page.ending == ("limited" if offset + 3 < len(whole) else "succeeded")
    assert paged == whole


def test_weeks_apart_come_apart_with_aggr_false(store: Engine, writer: Writer, now: int) -> None:
    base = Sample("www.example.", 1, (address("203.0.113.1"),), now, now)
    writer.write(STREAM, 1, rows([base.at(now, 2), base.at(now - 60, 3), base.at(now - 14 * DAY, 4)]), now)
    connection = store.connection()
    for path in ("rrset/name/www.example", "rdata/ip/203.0.113.1"):
        assert [row["count"] for row in ask(connection, path, "aggr=f", now).objects] == [4, 5]
        assert [row["count"] for row in ask(connection, path, "", now).objects] == [9]


def test_a_summary_stops_when_its_count_is_reached(store: Engine, content: list[Sample], now: int) -> None:
    connection = store.connection()
    whole = ask(connection, "rrset/name/*.example", "", now).objects
    stopped = ask(connection, "rrset/name/*.example", "max_count=5", now, Verb.SUMMARIZE)
    sums = list(accumulate(row["count"] for row in whole))
    reached = next(total for total in sums if total >= 5)
    assert stopped.objects[0]["num_results"] == sums.index(reached) + 1
    assert stopped.objects[0]["count"] == reached
    assert stopped.ending == "succeeded"
    limited = ask(connection, "rrset/name/*.example", "limit=2", now, Verb.SUMMARIZE)
    assert limited.objects[0]["num_results"] == 2
    assert limited.ending == "limited"


@pytest.mark.parametrize(
    ("digits", "types", "expected"),
    [
        ("cb007150", "", {"A"}),
        ("cb0071", "/A", {"A"}),
        ("20010db8ffff", "", {"AAAA"}),
        ("036e7331", "", {"NS", "SOA"}),
        ("000a046d61696c", "", {"MX"}),
        ("abcd", "", {"TYPE65534"}),
        ("010203", "", {"A"}),
        ("0c763d737066", "/TXT", set()),
        ("0b763d73706631", "/TXT", {"TXT"}),
        ("1234", "", set()),
        ("1234", "/DS", {"DS"}),
    ],
)
def test_raw_octets_find_every_rdata_that_begins_with_them(
    store: Engine, content: list[Sample], now: int, digits: str, types: str, expected: set[str]
) -> None:
    answered = ask(store.connection(), f"rdata/raw/{digits}{types}", "", now)
    assert {row["rrtype"] for row in answered.objects} == expected


def test_no_row_has_a_count_of_zero(store: Engine, writer: Writer, now: int) -> None:
    empty = Sample("www.example.", 1, (address("203.0.113.1"),), now, now, count=0)
    admitted = writer.write(STREAM, 1, [empty.row()], now)
    assert admitted.rrset_rows == 0
    store.connection().execute(
        f"INSERT INTO sie.rrset ({RRSET_COLUMNS}) VALUES ('00', 1, '00', ['01020304'], '00', 0, 1, 1)"
    )
    assert ask(store.connection(), "rrset/name/.", "", now).objects == []
