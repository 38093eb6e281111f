"""Rows of the store as the JSON objects and lines that readers get. No I/O.

Framing: the Streaming API Framing of DNSDB API version 2: one JSON object a line, `begin` first, exactly one
of `succeeded`, `limited` and `failed` last; the clients abort at an empty line and ignore a last line without
its line break.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any, Final

import dns.exception
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from sie_core._native import FormatError, name_to_text, reverse_name
from sie_hub.serve.inverse_key import IPV4_OCTETS, IPV6_OCTETS
from sie_hub.serve.question import Question, RRsets
from sie_hub.serve.row_binary import Reader
from sie_hub.serve.rrtypes import AAAA, BARE_NAME, A, type_text

BEGIN: Final = b'{"cond":"begin"}\n'
ONGOING: Final = b'{"cond":"ongoing"}\n'
SUCCEEDED: Final = b'{"cond":"succeeded"}\n'
LIMITED: Final = b'{"cond":"limited","msg":"Result limit reached"}\n'

HUMAN_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
MAX_TIME: Final = (1 << 32) - 1


def failed(reason: str) -> bytes:
    """The last line of an answer that could not be finished."""
    return line({"cond": "failed", "msg": reason})


def line(value: Mapping[str, Any]) -> bytes:
    """One JSON object and its line break."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


class Rendering(ABC):
    """The blocks of one query becoming the lines of one answer.

    The query asks for one row more than the limit (see `statements`), so that `limited` is said only when
    more rows exist.
    """

    def __init__(self, question: Question) -> None:
        self.rows = 0
        """Rows taken so far."""
        self.full = False
        """Whether no further block is wanted."""
        self.more = False
        """Whether rows exist that the limit left out."""
        self._limit = question.limit
        self._human_time = question.human_time

    @abstractmethod
    def add(self, block: bytes) -> bytes:
        """Take a block of rows. Returns the lines to be sent for it."""

    def end(self) -> bytes:
        """The lines that end the answer."""
        return LIMITED if self.more else SUCCEEDED

    def _take(self, reader: Reader) -> bool:
        """Whether another row can be read from the block and is within the limit."""
        if reader.at_end:
            return False
        if self.rows == self._limit:
            self.full = self.more = True
            return False
        self.rows += 1
        return True

    def _time(self, seconds: int) -> int | str:
        return datetime.fromtimestamp(seconds, UTC).strftime(HUMAN_TIME) if self._human_time else seconds


class Rows(Rendering):
    """A look-up: one line for each RRset, or for each record."""

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        self._row = self._rrset if isinstance(question.selection, RRsets) else self._record

    def add(self, block: bytes) -> bytes:
        """Take a block of rows. Returns a line for each."""
        reader = Reader(block)
        lines = []
        while self._take(reader):
            lines.append(line({"obj": self._row(reader)}))
        return b"".join(lines)

    def _rrset(self, reader: Reader) -> dict[str, Any]:
        owner, rrtype = reader.string(), reader.number(2)
        bailiwick, rdata = reader.string(), reader.strings()
        return {
            **self._merged(reader),
            "rrname": name_to_text(reverse_name(owner)),
            "rrtype": type_text(rrtype),
            "bailiwick": name_to_text(bailiwick),
            "rdata": [rdata_text(rrtype, item) for item in rdata],
        }

    def _record(self, reader: Reader) -> dict[str, Any]:
        owner, rrtype, rdata = reader.string(), reader.number(2), reader.string()
        return {
            **self._merged(reader),
            "rrname": name_to_text(reverse_name(owner)),
            "rrtype": type_text(rrtype),
            "rdata": [rdata_text(rrtype, rdata)],
        }

    def _merged(self, reader: Reader) -> dict[str, Any]:
        return {
            "count": reader.number(8),
            "time_first": self._time(reader.number(4)),
            "time_last": self._time(reader.number(4)),
        }


class Summary(Rendering):
    """A summary: one line for all rows together, and none when there are no rows."""

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        self._max_count = question.max_count
        self._count = 0
        self._first = MAX_TIME
        self._last = 0

    def add(self, block: bytes) -> bytes:
        """Take a block of rows. Returns nothing: all is said at the end."""
        reader = Reader(block)
        while not self.full and self._take(reader):
            self._count += reader.number(8)
            self._first = min(self._first, reader.number(4))
            self._last = max(self._last, reader.number(4))
            # The row that reaches the maximum is summed whole, so the sum may be above it.
            self.full = self._max_count is not None and self._count >= self._max_count
        return b""

    def end(self) -> bytes:
        """The sum, and the line that ends the answer."""
        if self.rows == 0:
            return super().end()
        total = {
            "count": self._count,
            "num_results": self.rows,
            "time_first": self._time(self._first),
            "time_last": self._time(self._last),
        }
        return line({"obj": total}) + super().end()


def rdata_text(rrtype: int, wire: bytes) -> str:
    """An rdata in presentation form, never empty.

    Of an unknown type, or of octets that are not what the type says, the form of RFC 3597 section 5.
    """
    # Addresses and bare names are nine of ten rdata, and dnspython takes ten times as long for the same text.
    if rrtype == A and len(wire) == IPV4_OCTETS:
        return inet_ntop(AF_INET, wire)
    if rrtype == AAAA and len(wire) == IPV6_OCTETS:
        return inet_ntop(AF_INET6, wire)
    if rrtype in BARE_NAME:
        try:
            return name_to_text(wire)
        except FormatError:
            return _generic(wire)
    try:
        rdata = dns.rdata.from_wire(
            dns.rdataclass.IN, dns.rdatatype.RdataType.make(rrtype), wire, 0, len(wire)
        )
    except dns.exception.DNSException:
        return _generic(wire)
    if isinstance(rdata, dns.rdata.GenericRdata):
        return _generic(wire)
    # Without chunks, because a blank inside base64 or hexadecimal is for zone files.
    return rdata.to_text(chunksize=0)


def _generic(wire: bytes) -> str:
    return f"\\# {len(wire)} {wire.hex().upper()}".rstrip()
