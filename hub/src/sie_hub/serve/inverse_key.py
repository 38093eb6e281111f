"""The key under which the store finds an rdata again, and ranges of keys.

An entry of the inverse table is found by its kind and its key:

| kind | key | types |
|---|---|---|
| ADDRESS | 16 octets, an IPv4 address as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2) | A, AAAA |
| NAME | the name in the rdata, lower-case, labels reversed | those of `rrtypes.NAME_OFFSET` |
| RAW | the rdata | all others, and those of the types above whose rdata is not what the type says |

Names with their labels reversed (`3com7example0` for example.com) sort by domain, so that a domain and all
names below it are one range. A label's length octet is at most 63 and so never a letter: lower-casing octet
by octet is lower-casing the name.
"""

from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from sie_core._native import FormatError, reverse_name
from sie_hub.serve.rrtypes import AAAA, NAME_OFFSET, A

IPV4_OCTETS: Final = 4
IPV6_OCTETS: Final = 16
MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"
MAX_OCTET: Final = 0xFF


class Kind(IntEnum):
    """What a key is made of. The numbers are stored."""

    ADDRESS = 1
    NAME = 2
    RAW = 3


class Span(NamedTuple):
    """All octet strings from `low` to before `high`; without `high`, to the end."""

    low: bytes
    high: bytes | None


def inverse_key(rrtype: int, rdata: bytes) -> tuple[Kind, bytes]:
    """Where an rdata (wire form, uncompressed) is found in the inverse table."""
    if rrtype == A and len(rdata) == IPV4_OCTETS:
        return Kind.ADDRESS, MAPPED_PREFIX + rdata
    if rrtype == AAAA and len(rdata) == IPV6_OCTETS:
        return Kind.ADDRESS, rdata
    offset = NAME_OFFSET.get(rrtype)
    if offset is not None:
        name = leading_name(rdata[offset:])
        if name is not None:
            return Kind.NAME, reverse_name(name.lower())
    return Kind.RAW, rdata


def leading_name(data: bytes) -> bytes | None:
    """The uncompressed name with which `data` begins, or None if it begins with none."""
    position = 0
    while position < len(data):
        length = data[position]
        position += 1 + length
        if length == 0:
            name = data[:position]
            try:
                reverse_name(name)
            except FormatError:
                return None
            return name
    return None


def address_key(address: IPv4Address | IPv6Address) -> bytes:
    """The key of an address."""
    return MAPPED_PREFIX + address.packed if isinstance(address, IPv4Address) else address.packed


def span_of_prefix(prefix: bytes) -> Span:
    """All octet strings that begin with `prefix`."""
    return Span(prefix, after_all_with(prefix))


def span_of_addresses(first: bytes, last: bytes) -> Span:
    """All address keys from `first` to `last`, both included."""
    return Span(first, after_all_with(last))


def after_all_with(prefix: bytes) -> bytes | None:
    """The least octet string above every one that begins with `prefix`; None if there is none."""
    stem = prefix.rstrip(bytes([MAX_OCTET]))
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def span_below(wire: bytes) -> Span:
    """The reversed keys of a name (wire form, any letter case) and of every name below it."""
    return span_of_prefix(reverse_name(wire.lower())[:-1])
