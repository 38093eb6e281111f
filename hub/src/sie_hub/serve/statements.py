"""Questions as SQL. No I/O.

The text of every statement is put together from constants of this module; whatever a reader sent reaches the
engine as a bound parameter, octets as the hexadecimal digits of what has been parsed. Rows are merged before
time fences are applied, and come in the order of the table's key, so that a page can be asked for again.
"""

from typing import Final, NamedTuple

from sie_core._native import reverse_name
from sie_hub.serve.inverse_key import MAPPED_PREFIX, Kind, Span, span_below, span_of_prefix
from sie_hub.serve.name_pattern import Beginning, Below, Exact, NamePattern
from sie_hub.serve.question import (
    Fences,
    Question,
    RdataAddresses,
    RdataNames,
    RdataOctets,
    RRsets,
    Types,
    TypeSet,
    Verb,
)
from sie_hub.serve.rrtypes import AAAA, DNSSEC, NAME_OFFSET, A
from sie_hub.serve.schema import WEEK

QUERY_SECONDS: Final = 120
"""A query's time, its reader's slowness included. A scan looks at some 4 million names a
second on one core, so this is enough for 480 million."""

QUERY_MEMORY: Final = 256 << 20
"""A query's memory. Rows are merged in the order in which they are stored, so what a query holds is blocks,
not results."""

BLOCK_ROWS: Final = 4096
"""Rows read and answered at a time: some 1 MB, and 50 ms of rendering."""

_SETTINGS: Final = (
    f"SETTINGS max_execution_time = {QUERY_SECONDS}, max_memory_usage = {QUERY_MEMORY}, "
    f"max_block_size = {BLOCK_ROWS}, max_threads = 1, optimize_aggregation_in_order = 1"
)

_DNSSEC_LIST: Final = ", ".join(map(str, sorted(DNSSEC)))

_NAME_OFFSETS: Final = (
    "multiIf("
    + ", ".join(f"rrtype = {rrtype}, {offset}" for rrtype, offset in sorted(NAME_OFFSET.items()) if offset)
    + ", 0)"
)

_TIMES: Final = "min(time_first) AS first, max(time_last) AS last"


class Statement(NamedTuple):
    """SQL and the values for its parameters."""

    sql: str
    parameters: dict[str, str | int]


class _Builder:
    """Conditions and the values that they name."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.parameters: dict[str, str | int] = {}

    def number(self, value: int) -> str:
        return self._bind(value, "Int64")

    def octets(self, value: bytes) -> str:
        return f"unhex({self._bind(value.hex(), 'String')})"

    def add(self, condition: str) -> None:
        self.conditions.append(condition)

    def within(self, column: str, span: Span) -> str:
        low = f"{column} >= {self.octets(span.low)}"
        return low if span.high is None else f"{low} AND {column} < {self.octets(span.high)}"

    def add_types(self, types: Types) -> None:
        if types is TypeSet.ANY:
            self.add(f"rrtype NOT IN ({_DNSSEC_LIST})")
        elif types is TypeSet.ANY_DNSSEC:
            self.add(f"rrtype IN ({_DNSSEC_LIST})")
        else:
            self.add(f"rrtype = {self.number(types)}")

    def _bind(self, value: str | int, kind: str) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f"{{{name}:{kind}}}"


def statement(question: Question) -> Statement:
    """The query that answers a question; of its rows, one more than `limit` is asked for, to tell whether
    more exist.

    Columns of a look-up of RRsets: owner, rrtype, bailiwick, rdata (array), total, first, last; of records:
    owner, rrtype, rdata, total, first, last; of a summary: total, first, last. The limit is the reader's, the
    offset has been skipped.
    """
    builder = _Builder()
    if isinstance(question.selection, RRsets):
        table, key, shown = "rrset", "owner, rrtype, bailiwick, rdata", "owner, rrtype, bailiwick, rdata"
        _select_rrsets(builder, question.selection)
    else:
        table, key, shown = "rdata", "kind, key, rrtype, owner, rdata", "owner, rrtype, rdata"
        _select_records(builder, question.selection)
    columns = "" if question.verb is Verb.SUMMARIZE else f"{shown}, "
    group = key if question.merged else f"{key}, {WEEK}"
    order = key if question.merged else f"{key}, first"
    where = " AND ".join(f"({condition})" for condition in builder.conditions)
    having = " AND ".join(["total > 0", *_fences(builder, question.fences)])
    limit = f"LIMIT {builder.number(question.limit + 1)} OFFSET {builder.number(question.offset)}"
    return Statement(
        f"SELECT {columns}sum(count) AS total, {_TIMES} FROM sie.{table} WHERE {where} GROUP BY {group} "  # noqa: S608
        f"HAVING {having} ORDER BY {order} {limit} {_SETTINGS}",
        builder.parameters,
    )


def _select_rrsets(builder: _Builder, rrsets: RRsets) -> None:
    match rrsets.owner:
        case Beginning(labels):
            builder.add(f"startsWith(name, {builder.octets(labels)})")
        case owner:
            builder.add(builder.within("owner", _span(owner)))
    builder.add_types(rrsets.types)
    if rrsets.bailiwick is not None:
        builder.add(f"bailiwick = {builder.octets(rrsets.bailiwick)}")


def _select_records(builder: _Builder, selection: RdataNames | RdataAddresses | RdataOctets) -> None:
    match selection:
        case RdataAddresses(span, rrtype):
            builder.add(_kind(Kind.ADDRESS))
            builder.add(builder.within("key", span))
            builder.add_types(rrtype)
        case RdataNames(Beginning(labels), types):
            builder.add(_kind(Kind.NAME))
            # Length octets are below every letter, so `lower` changes letters of labels alone.
            builder.add(f"startsWith(lower(substring(rdata, 1 + {_NAME_OFFSETS})), {builder.octets(labels)})")
            builder.add_types(types)
        case RdataNames(name, types):
            builder.add(_kind(Kind.NAME))
            builder.add(builder.within("key", _span(name)))
            builder.add_types(types)
        case RdataOctets(prefix, types):
            # The first three parts are ranges of the key; the fourth has to look at every name.
            builder.add(
                f"{_kind(Kind.RAW)} AND {builder.within('key', span_of_prefix(prefix))}"
                f" OR {_kind(Kind.ADDRESS)} AND rrtype = {A}"
                f" AND {builder.within('key', span_of_prefix(MAPPED_PREFIX + prefix))}"
                f" OR {_kind(Kind.ADDRESS)} AND rrtype = {AAAA}"
                f" AND {builder.within('key', span_of_prefix(prefix))}"
                f" OR {_kind(Kind.NAME)} AND startsWith(rdata, {builder.octets(prefix)})"
            )
            builder.add_types(types)


def _span(pattern: NamePattern) -> Span:
    match pattern:
        case Exact(wire):
            key = reverse_name(wire)
            return Span(key, key + b"\0")  # nothing lies between the two
        case Below(wire):
            return span_below(wire)
        case Beginning():
            raise AssertionError("names that begin alike are no range of reversed names")


def _kind(kind: Kind) -> str:
    return f"kind = {int(kind)}"


def _fences(builder: _Builder, fences: Fences) -> list[str]:
    bounds = (
        ("first <=", fences.first_before),
        ("first >=", fences.first_after),
        ("last <=", fences.last_before),
        ("last >=", fences.last_after),
    )
    return [f"{comparison} {builder.number(value)}" for comparison, value in bounds if value is not None]
