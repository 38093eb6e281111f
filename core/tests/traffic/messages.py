"""DNS messages octet by octet, so that they can be odd: RFC 1035 section 4, RFC 3597, RFC 6891."""

import random
from collections.abc import Sequence

RESPONSE, AUTHORITATIVE, TRUNCATED = 0x8000, 0x0400, 0x0200

OPT = 41
#: EDNS options: RFC 7871, 7873, 5001, 8914, 7830, and what access networks add by themselves.
OPTIONS: list[tuple[int, bytes]] = [
    (8, b"\x00\x01\x18\x00\xcb\x00\x71"),
    (10, b"\x01\x02\x03\x04\x05\x06\x07\x08"),
    (3, b""),
    (3, b"ns1.example"),
    (15, b"\x00\x16"),
    (15, b"\x00\x12blocked for 203.0.113.200"),
    (12, b"\x00" * 20),
    (65001, b"\x02\x00\x5e\x10\x00\x01"),
    (26946, b"203.0.113.200"),
    (0, b""),
]


def name(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\x00"


def question(owner: bytes, rrtype: int, rrclass: int = 1) -> bytes:
    return owner + rrtype.to_bytes(2, "big") + rrclass.to_bytes(2, "big")


def record(owner: bytes, rrtype: int, rdata: bytes, ttl: int = 3600) -> bytes:
    numbers = rrtype.to_bytes(2, "big") + b"\x00\x01" + ttl.to_bytes(4, "big")
    return owner + numbers + len(rdata).to_bytes(2, "big") + rdata


def opt(options: Sequence[tuple[int, bytes]]) -> bytes:
    rdata = b"".join(code.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for code, data in options)
    return (
        b"\x00" + OPT.to_bytes(2, "big") + b"\x04\xd0\x00\x00\x80\x00" + len(rdata).to_bytes(2, "big") + rdata
    )


def message(identifier: int, flags: int, questions: Sequence[bytes], *sections: Sequence[bytes]) -> bytes:
    counts = [len(questions), *(len(section) for section in sections), 0, 0, 0][:4]
    header = b"".join(number.to_bytes(2, "big") for number in (identifier, flags, *counts))
    return header + b"".join(questions) + b"".join(octets for section in sections for octets in section)


def any_name(source: random.Random) -> bytes:
    """A name of any octets, dots, escapes and zeros among them, below `example`."""
    labels = [source.randbytes(source.choice([1, 2, 5, 63])) for _ in range(source.randint(1, 3))]
    return name(*labels, b"example")


def odd_exchange(source: random.Random, identifier: int) -> tuple[bytes, bytes]:
    """A query and its response, with something in them that parsers stumble over."""
    rrtype = source.choice([1, 28, 65, 99, 257, 65280, 65534])
    owner = source.choice([any_name(source), name(b"www", b"eXample"), b"\x00"])
    asked = question(owner, rrtype)
    records = [record(b"\xc0\x0c", rrtype, source.randbytes(source.randint(0, 40)))]
    records += source.choices(oddities(owner), k=source.randint(0, 2))
    query = message(identifier, 0, [asked], [], [], [opt([])])
    return query, message(identifier, RESPONSE | AUTHORITATIVE, [asked], records, [], [opt([])])


def oddities(owner: bytes) -> list[bytes]:
    """Records behind a question of that name: loops, pointers into the blue, odd labels, long names."""
    first = 12 + len(owner) + 4
    return [
        record((0xC000 | first).to_bytes(2, "big"), 1, b"\xcb\x00\x71\x01"),
        record(b"\x01a" + (0xC000 | first).to_bytes(2, "big"), 1, b"\xcb\x00\x71\x01"),
        record(b"\xff\xff", 1, b"\xcb\x00\x71\x01"),
        record(b"\xc0\x0c", 2, b"\xc0\x0c"),
        record(b"\xc0\x0c", 5, (0xC000 | first + 12).to_bytes(2, "big")),
        record(b"\xc0\x0c", 15, b"\x00\x0a\x04mail\xc0\x0c"),
        record(name(*[b"x" * 49] * 4, b"example"), 16, b"\x03abc"),
        record(name(b"\x00\xff.\\", b"example"), 65280, b"\xc0\x0c\x00\x00"),
    ]


def exchange_with_options(source: random.Random, identifier: int) -> tuple[bytes, bytes]:
    """A query and its response with EDNS options, and behind them records with compressed names."""
    asked = question(name(b"www", b"example"), 15)
    options = source.choices(OPTIONS, k=source.randint(0, 4))
    query = message(identifier, 0, [asked], [], [], [opt(source.choices(OPTIONS, k=source.randint(0, 3)))])
    answer = record(b"\xc0\x0c", 15, b"\x00\x0a\x04mail\xc0\x10")
    opted = opt(options)
    behind = 12 + len(asked) + len(answer) + len(opted)
    additional = [
        opted,
        record(b"\x04mail\xc0\x10", 1, b"\xcb\x00\x71\x19"),
        record((0xC000 | behind).to_bytes(2, "big"), 28, bytes.fromhex("20010db8" + "00" * 11 + "19")),
        record(b"\x02ns" + (0xC000 | behind + 5).to_bytes(2, "big"), 5, (0xC000 | behind).to_bytes(2, "big")),
    ]
    if source.random() < 0.5:
        additional = [*additional[1:2], opted]
    tail = source.choice([b"", b"", b"", b"tail"])
    flags = RESPONSE | AUTHORITATIVE
    return query, message(identifier, flags, [asked], [answer], [], additional) + tail


def large_exchange(source: random.Random, identifier: int, octets: int) -> tuple[bytes, bytes]:
    """A query and a response of exactly so many octets."""
    asked = question(name(b"large", b"example"), 65280)
    query = message(identifier, 0, [asked])
    flags = RESPONSE | AUTHORITATIVE
    empty = len(message(identifier, flags, [asked], [record(b"\xc0\x0c", 65280, b"")]))
    first = min(octets - empty, 60_000)
    records = [record(b"\xc0\x0c", 65280, source.randbytes(first))]
    if octets - empty > first:
        rest = octets - empty - first - len(record(b"\xc0\x0c", 65280, b""))
        records.append(record(b"\xc0\x0c", 65280, source.randbytes(rest)))
    return query, message(identifier, flags, [asked], records)
