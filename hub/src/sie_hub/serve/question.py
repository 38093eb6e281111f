"""What a reader asks: the path and the parameters of a request, read and checked. No I/O.

Source: DNSDB API version 2, as its clients `dnsdbq` and `dnsdb2` use it; docs/reference/query-api.md says
what is answered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

from sie_hub.serve.errors import Refused
from sie_hub.serve.inverse_key import Span, address_key, leading_name, span_of_addresses
from sie_hub.serve.name_pattern import Exact, NamePattern, parse_name, parse_pattern
from sie_hub.serve.rrtypes import AAAA, ANY, A, type_number

DEFAULT_LIMIT: Final = 10_000
"""Rows answered when the reader names no limit: what the DNSDB documentation says."""

MAX_LIMIT: Final = 1_000_000
"""Rows answered at most, and with `limit=0`: some 200 MB of JSON, which a reader on 100 Mbit/s has in 16
s."""

MAX_OFFSET: Final = 3_000_000
"""Rows that may be skipped: what the DNSDB documentation says. Each costs as much as one that is answered."""

MAX_RAW_OCTETS: Final = 65_535
"""An rdata's length is a 16-bit number (RFC 1035 section 3.2.1)."""

MAX_PARAMETERS: Final = 50
MAX_DIGITS: Final = 18  # so that every number fits a signed 64-bit column

T = TypeVar("T")


class Verb(StrEnum):
    """What is wanted: rows, or one row that sums them up."""

    LOOKUP = "lookup"
    SUMMARIZE = "summarize"


class TypeSet(StrEnum):
    """A set of record types that is asked for by a name of its own."""

    ANY = "ANY"
    ANY_DNSSEC = "ANY-DNSSEC"


Types = TypeSet | int


@dataclass(frozen=True, slots=True)
class RRsets:
    """RRsets by their owner; `bailiwick` is a name in wire form."""

    owner: NamePattern
    types: Types
    bailiwick: bytes | None = None


@dataclass(frozen=True, slots=True)
class RdataNames:
    """Records whose rdata holds a name."""

    name: NamePattern
    types: Types


@dataclass(frozen=True, slots=True)
class RdataAddresses:
    """A or AAAA records by their address."""

    span: Span
    rrtype: int


@dataclass(frozen=True, slots=True)
class RdataOctets:
    """Records whose rdata in wire form begins with these octets."""

    prefix: bytes
    types: Types


Selection = RRsets | RdataNames | RdataAddresses | RdataOctets


@dataclass(frozen=True, slots=True)
class Fences:
    """Bounds on the merged times of a row, inclusive, in seconds UTC."""

    first_before: int | None = None
    first_after: int | None = None
    last_before: int | None = None
    last_after: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A request that can be answered."""

    verb: Verb
    selection: Selection
    fences: Fences = Fences()
    limit: int = DEFAULT_LIMIT
    offset: int = 0
    merged: bool = True
    human_time: bool = False
    max_count: int | None = None


def path_segments(raw_path: str) -> list[bytes]:
    """The segments of a request's path as it was sent: split first, percent-decoded then.

    So a label may hold an encoded slash (RFC 2317), and a segment `.` is the root's name. Repeated slashes at
    the beginning, which clients send whose server setting ends in one, count as one.
    """
    return [unquote_to_bytes(segment) for segment in raw_path.lstrip("/").split("/")]


def parse_question(verb: Verb, segments: list[bytes], raw_query: str, now: int) -> Question:
    """Read what follows the verb in the path, and the parameters. `now` is seconds UTC.

    Raises Refused: 400 for what cannot be read, 416 for an offset that is not permitted.
    """
    selection = _selection(segments)
    parameters = _parameters(raw_query)
    offset = _read(parameters, "offset", _whole, 0)
    if offset and verb is Verb.SUMMARIZE:
        raise Refused(416, "offset not allowed for this type of query")
    if offset > MAX_OFFSET:
        raise Refused(416, f"offset {offset} is over the maximum of {MAX_OFFSET}")
    limit = _read(parameters, "limit", _whole, DEFAULT_LIMIT)

    def time(text: str) -> int:
        value = _integer(text)
        return value if value >= 0 else now + value

    return Question(
        verb=verb,
        selection=selection,
        fences=Fences(
            first_before=_read(parameters, "time_first_before", time, None),
            first_after=_read(parameters, "time_first_after", time, None),
            last_before=_read(parameters, "time_last_before", time, None),
            last_after=_read(parameters, "time_last_after", time, None),
        ),
        limit=min(limit, MAX_LIMIT) if limit else MAX_LIMIT,
        offset=offset,
        merged=_read(parameters, "aggr", _boolean, True),
        human_time=_read(parameters, "humantime", _boolean, False),
        max_count=_read(parameters, "max_count", _whole, None),
    )


def _selection(segments: list[bytes]) -> Selection:
    match segments:
        case [b"rrset", b"name", owner, *rest] if len(rest) <= 2:
            bailiwick = _name(parse_name, rest[1]) if len(rest) == 2 else None
            return RRsets(_name(parse_pattern, owner), _types(rest[:1]), bailiwick)
        case [b"rrset", b"raw", digits, *rest] if len(rest) <= 1:
            return RRsets(_raw_name(digits), _types(rest))
        case [b"rdata", b"name", name, *rest] if len(rest) <= 1:
            return RdataNames(_name(parse_pattern, name), _types(rest))
        case [b"rdata", b"ip", addresses]:
            return _addresses(addresses)
        case [b"rdata", b"raw", digits, *rest] if len(rest) <= 1:
            return RdataOctets(_octets(digits), _types(rest))
    raise Refused(
        400,
        "the path must go on with rrset/name/OWNER[/RRTYPE[/BAILIWICK]], rrset/raw/HEX[/RRTYPE], "
        "rdata/name/NAME[/RRTYPE], rdata/ip/ADDRESS or rdata/raw/HEX[/RRTYPE]",
    )


def _name(read: Callable[[bytes], T], segment: bytes) -> T:
    try:
        return read(segment)
    except ValueError as error:
        raise Refused(400, str(error)) from None


def _types(segments: list[bytes]) -> Types:
    if not segments:
        return TypeSet.ANY
    text = segments[0].decode("ascii", "replace").upper()
    if text == TypeSet.ANY_DNSSEC:
        return TypeSet.ANY_DNSSEC
    try:
        number = type_number(text)
    except ValueError as error:
        raise Refused(400, str(error)) from None
    return TypeSet.ANY if number == ANY else number


def _octets(digits: bytes) -> bytes:
    try:
        octets = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        octets = b""
    if not octets or len(octets) * 2 != len(digits) or len(octets) > MAX_RAW_OCTETS:
        raise Refused(
            400, f"raw octets are 2 to {2 * MAX_RAW_OCTETS} hexadecimal digits, an even number of them"
        )
    return octets


def _raw_name(digits: bytes) -> Exact:
    wire = _octets(digits)
    if leading_name(wire) != wire:
        raise Refused(
            400,
            "the octets are not one domain name in wire form, from its first length octet to the root's 00",
        )
    return Exact(wire.lower())


def _addresses(segment: bytes) -> RdataAddresses:
    text = segment.decode("ascii", "replace")
    try:
        if "," in text:
            address, _, length = text.partition(",")
            if not (length.isdecimal() and length.isascii()):
                raise ValueError
            network = ip_network((_address(address), int(length)), strict=False)
            first, last = network.network_address, network.broadcast_address
        elif "-" in text:
            first, last = map(_address, text.split("-", 1))
        else:
            first = last = _address(text)
        if first.version != last.version or int(first) > int(last):
            raise ValueError
    except ValueError:
        raise Refused(
            400,
            "addresses are ADDRESS, ADDRESS,PREFIXLENGTH or FIRST-LAST, of one family and in this order",
        ) from None
    return RdataAddresses(
        span_of_addresses(address_key(first), address_key(last)), A if first.version == 4 else AAAA
    )


def _address(text: str) -> IPv4Address | IPv6Address:
    if "%" in text:
        raise ValueError("a zone index belongs to one host")
    return ip_address(text)


def _parameters(raw_query: str) -> dict[str, str]:
    try:
        # The last of repeated parameters counts; unknown ones are for other servers, or only for logs.
        return dict(parse_qsl(raw_query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS))
    except ValueError:
        raise Refused(400, f"more than {MAX_PARAMETERS} parameters") from None


def _read(parameters: dict[str, str], name: str, read: Callable[[str], T], default: T) -> T:
    text = parameters.get(name)
    if text is None:
        return default
    try:
        return read(text)
    except ValueError as error:
        raise Refused(400, f"{name} must be {error}") from None


def _integer(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= MAX_DIGITS):
        raise ValueError("a whole number of seconds, negative for before now")
    return int(text)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise ValueError("a whole number, 0 or more")
    return int(text)


def _boolean(text: str) -> bool:
    match text.lower():
        case "t" | "true" | "1":
            return True
        case "f" | "false" | "0":
            return False
    raise ValueError("t or f")
