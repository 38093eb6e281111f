"""Records as refine makes them, and the messages that carry them, written here octet by octet."""

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

import dns.name
import dns.rdata

WEEK = 7 * 86_400


def name(text: str) -> bytes:
    """A name in wire form."""
    return dns.name.from_text(text).to_wire() or b""


def rdata(rrtype: str, text: str) -> bytes:
    """An rdata in wire form."""
    return dns.rdata.from_text("IN", rrtype, text).to_wire() or b""


def address(text: str) -> bytes:
    """The rdata of an A or AAAA record."""
    return ip_address(text).packed


@dataclass(frozen=True)
class Sample:
    """A record of the SIE channel; `row` is what the native module makes of it."""

    owner: str
    rrtype: int
    rdata: tuple[bytes, ...]
    time_first: int
    time_last: int
    bailiwick: str = "example."
    count: int = 1
    rrclass: int = 1
    ttl: int = 300

    def row(self) -> tuple[Any, ...]:
        """The tuple of `dedupe_records`."""
        return (
            name(self.owner),
            self.rrtype,
            self.rrclass,
            name(self.bailiwick),
            list(self.rdata),
            self.count,
            self.time_first,
            self.time_last,
            self.ttl,
        )

    def at(self, time: int, count: int = 1) -> "Sample":
        """The same RRset, seen at another time."""
        return replace(self, time_first=time, time_last=time, count=count)


def samples(now: int) -> list[Sample]:
    """One RRset of every kind that the query API has a word about."""
    return [
        Sample("www.example.", 1, (address("203.0.113.80"),), now - 50, now - 10, count=3),
        Sample("www.example.", 28, (address("2001:db8:ffff::80"),), now - 50, now - 10, count=2),
        Sample("alias.example.", 5, (name("www.example."),), now - 40, now - 40),
        Sample("example.", 2, (name("ns1.example."), name("ns2.example.")), now - 90, now - 5, ".", 9),
        Sample("example.", 2, (name("ns1.example."), name("ns2.example.")), now - 80, now - 7, count=4),
        Sample("example.", 15, (rdata("MX", "10 mail.example."),), now - 30, now - 30),
        Sample("example.", 6, (rdata("SOA", "ns1.example. h.example. 1 2 3 4 5"),), now - 30, now - 30),
        Sample("example.", 16, (rdata("TXT", '"v=spf1 -all" "x y"'),), now - 30, now - 30),
        Sample("empty.example.", 16, (b"\0",), now - 30, now - 30),
        Sample("_sip._tcp.example.", 33, (rdata("SRV", "1 2 5060 sip.example."),), now - 30, now - 30),
        Sample("svc.example.", 65, (rdata("HTTPS", "1 edge.example. alpn=h2"),), now - 30, now - 30),
        Sample("1.113.0.203.in-addr.arpa.", 12, (name("ptr.example."),), now - 30, now - 30, "arpa."),
        Sample("odd.example.", 65_534, (b"\xab\xcd",), now - 30, now - 30),
        Sample("broken.example.", 1, (b"\x01\x02\x03",), now - 30, now - 30),
        Sample(".", 2, (name("a.root.example."),), now - 30, now - 30, "."),
        Sample("0/25.2.0.192.in-addr.arpa.", 2, (name("ns1.example."),), now - 30, now - 30, "arpa."),
        Sample("a\\032b%_x.example.", 1, (address("203.0.113.81"),), now - 30, now - 30),
        Sample("b\\195\\188cher.example.", 1, (address("203.0.113.82"),), now - 30, now - 30),
        Sample("dot\\.ted.example.", 1, (address("203.0.113.83"),), now - 30, now - 30),
        Sample("\\*.example.", 1, (address("203.0.113.84"),), now - 30, now - 30),
        Sample("example.", 43, (rdata("DS", "4660 8 2 " + 64 * "a"),), now - 30, now - 30, "."),
        Sample("example.", 46, (_rrsig(),), now - 30, now - 30),
        Sample("www.other.test.", 1, (address("198.51.100.1"),), now - 20, now - 20, "other.test."),
    ]


def message(records: Iterable[Sample]) -> bytes:
    """A message of the SIE stream: one NMSG container (zlib) of dnsdedupe EXPIRATION records.

    wire-formats: NMSG version 2, flags 0x01; payloads of vendor 2, type 1; the fields of dnsdedupe by their
    numbers.
    """
    body = b"".join(_octets(1, _payload(record)) for record in records)
    compressed = struct.pack("!I", len(body)) + zlib.compress(body)
    return b"NMSG" + struct.pack("!BBI", 1, 2, len(compressed)) + compressed


def _payload(record: Sample) -> bytes:
    dedupe = (
        _octets(1, name(record.owner))
        + _number(2, record.rrtype)
        + _number(3, record.rrclass)
        + _number(4, record.ttl)
        + b"".join(_octets(5, item) for item in record.rdata)
        + _number(10, record.count)
        + _number(11, record.time_first)
        + _number(12, record.time_last)
        + _number(13, 1)
        + _octets(16, name(record.bailiwick))
    )
    nanoseconds = b"\x25" + struct.pack("<I", 0)
    return _number(1, 2) + _number(2, 1) + _number(3, record.time_last) + nanoseconds + _octets(5, dedupe)


def _octets(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _rrsig() -> bytes:
    text = "A 8 2 300 20261201000000 20261101000000 12345 example. " + 43 * "A" + "="
    return rdata("RRSIG", text)


def rows(records: Sequence[Sample]) -> list[tuple[Any, ...]]:
    """What `dedupe_records` makes of a message of these records."""
    return [record.row() for record in records]
