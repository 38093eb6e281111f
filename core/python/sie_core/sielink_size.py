"""How much of an encoded message is something else than a container's data, found before anything is decoded.

Decoding 4 MiB of data is a copy; 4 MiB of the smallest fields are two million objects, which cost 90 MiB and
a fifth of a second, from whoever may send at all. So the fields of the message and of its payload are walked
first, by their tags and lengths (the wire format of protobuf), and nothing in them.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from sie_core.sielink_pb2 import Message, Payload

MAX_FIELDS: Final = 64
"""Fields of a message that are walked, and as many of its payload: a message with a container has six."""

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED: Final = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT: Final = 10  # octets of 64 bits, seven in each


class _Field(NamedTuple):
    number: int
    delimited: bool
    begins: int
    ends: int


def octets_beside_data(encoded: bytes) -> int:
    """The octets of a message that are not the data of its payload.

    Raises ValueError for what is no message, or has more than MAX_FIELDS fields.
    """
    beside = len(encoded)
    for field in _fields(encoded, 0, len(encoded)):
        if field.number == Message.PAYLOAD_FIELD_NUMBER and field.delimited:
            for inner in _fields(encoded, field.begins, field.ends):
                if inner.number == Payload.DATA_FIELD_NUMBER and inner.delimited:
                    beside -= inner.ends - inner.begins
    return beside


def _fields(encoded: bytes, at: int, end: int) -> Iterator[_Field]:
    for _ in range(MAX_FIELDS):
        if at == end:
            return
        tag, begins = _varint(encoded, at, end)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(encoded, begins, end)
        elif kind == _DELIMITED:
            length, begins = _varint(encoded, begins, end)
            at = begins + length
        elif kind in _FIXED:
            at = begins + _FIXED[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("a field beyond the end")
        yield _Field(tag >> 3, kind == _DELIMITED, begins, at)
    if at != end:
        raise ValueError(f"more than {MAX_FIELDS} fields")


def _varint(encoded: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for shift in range(_MAX_VARINT):
        if at == end:
            raise ValueError("a number beyond the end")
        octet = encoded[at]
        at += 1
        value |= (octet & 0x7F) << 7 * shift
        if octet < 0x80:
            return value, at
    raise ValueError(f"a number of more than {_MAX_VARINT} octets")
