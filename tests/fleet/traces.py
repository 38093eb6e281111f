"""Searches decoded data for addresses, as octets and as text.

Compressed files are never searched as they lie: an address inside them would not be found even where it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address


def forms(address: str) -> tuple[bytes, ...]:
    """Every form in which an address is searched: octets, and text as people and programs write it."""
    parsed = ip_address(address)
    texts = {str(parsed), parsed.exploded, parsed.reverse_pointer}
    if isinstance(parsed, IPv6Address):
        texts |= {f"::ffff:{parsed}", parsed.exploded.replace(":", "")}
    return (parsed.packed, *(text.encode() for text in sorted(texts)), *(t.upper().encode() for t in texts))


def octets(value: object) -> Iterator[bytes]:
    """Every octet string inside decoded data: keys and values, members, numbers as text."""
    match value:
        case bytes() | bytearray() | memoryview():
            yield bytes(value)
        case str():
            yield value.encode(errors="surrogateescape")
        case Mapping():
            for key, member in value.items():
                yield from octets(key)
                yield from octets(member)
        case list() | tuple() | set() | frozenset():
            for member in value:
                yield from octets(member)
        case None:
            return
        case _:
            yield repr(value).encode()


def found(data: object, addresses: Iterable[str]) -> set[str]:
    """Which of the addresses occur anywhere in the data."""
    haystack = b"\0\xff\0".join(octets(data))
    return {address for address in addresses if any(form in haystack for form in forms(address))}
