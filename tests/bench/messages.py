"""DNS messages in wire form (RFC 1035 section 4), with name compression, from plain tuples.

Made for quantity: a message is put together in some microseconds, and most are made once and sent often.
"""

import struct
from collections.abc import Sequence
from typing import Final

Labels = tuple[bytes, ...]
"""A name without its root label."""

Record = tuple[Labels, int, int, tuple["bytes | Labels", ...]]
"""Owner, type, TTL, and rdata as parts: octets, or names to compress."""

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
MX: Final = 15
TXT: Final = 16
AAAA: Final = 28
OPT: Final = 41
DS: Final = 43
RRSIG: Final = 46
DNSKEY: Final = 48
IN: Final = 1

QR: Final = 0x8000
AA: Final = 0x0400
TC: Final = 0x0200

NOERROR: Final = 0
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
REFUSED: Final = 5

NSID: Final = 3
CLIENT_SUBNET: Final = 8
COOKIE: Final = 10
EXTENDED_ERROR: Final = 15

PAYLOAD_OCTETS: Final = 1232
DNSSEC_OK: Final = 0x8000


def wire_name(labels: Labels) -> bytes:
    """A name, uncompressed."""
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def option(code: int, octets: bytes) -> bytes:
    """An EDNS option (RFC 6891 section 6.1.2)."""
    return struct.pack("!HH", code, len(octets)) + octets


def body(
    flags: int,
    qname: Labels,
    qtype: int,
    sections: Sequence[Sequence[Record]] = ((), (), ()),
    payload_octets: int = PAYLOAD_OCTETS,
) -> bytes:
    """A message of one question without its id, which comes before it. It ends with an OPT record without
    options (RFC 6891).
    """
    answer, authority, additional = map(len, sections)
    out = bytearray(struct.pack("!HHHHH", flags, 1, answer, authority, additional + 1))
    offsets: dict[Labels, int] = {}
    _put_name(out, qname, offsets)
    out += struct.pack("!HH", qtype, IN)
    for section in sections:
        for owner, rrtype, ttl, rdata in section:
            _put_name(out, owner, offsets)
            out += struct.pack("!HHIH", rrtype, IN, ttl, 0)
            start = len(out)
            for part in rdata:
                if isinstance(part, bytes):
                    out += part
                else:
                    _put_name(out, part, offsets)
            struct.pack_into("!H", out, start - 2, len(out) - start)
    out += struct.pack("!BHHIH", 0, OPT, payload_octets, DNSSEC_OK, 0)
    return bytes(out)


def with_options(body: bytes, options: bytes) -> bytes:
    """A message from `body` with these options in its OPT record."""
    return body[:-2] + struct.pack("!H", len(options)) + options


def head(message: bytes, qname: Labels) -> bytes:
    """What a sensor keeps of a quoted query: the header, announcing the question alone, and the question."""
    end = 12 + sum(1 + len(label) for label in qname) + 1 + 4
    return message[:4] + struct.pack("!HHHH", 1, 0, 0, 0) + message[12:end]


def _put_name(out: bytearray, labels: Labels, offsets: dict[Labels, int]) -> None:
    # A message begins with its id, two octets that are not in the buffer.
    for index, label in enumerate(labels):
        rest = labels[index:]
        offset = offsets.get(rest)
        if offset is not None:
            out += struct.pack("!H", 0xC000 | offset)
            return
        if len(out) + 2 < 0x4000:
            offsets[rest] = len(out) + 2
        out.append(len(label))
        out += label
    out.append(0)
