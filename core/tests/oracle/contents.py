"""What a message says, as dnspython reads names: its question, names of the inside, what is kept of it."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

import dns.exception
import dns.name

NSID, EXTENDED_ERROR = 3, 15
OPT = 41
TRANSFERS = {249, 251, 252}
SOA, HTTPS, MX, SRV, IPSECKEY = 6, 65, 15, 33, 45
#: Where in the rdata of a type names are: so many octets, then so many names.
NS, CNAME, PTR, SVCB = 2, 5, 12, 64
NAMES = {
    **dict.fromkeys((NS, CNAME, PTR), (0, 1)),
    **{SOA: (0, 2), MX: (2, 1), SRV: (6, 1), SVCB: (2, 1), HTTPS: (2, 1)},
}

Question = tuple[bytes, int, int]


class Malformed(Exception):
    """A message that cannot be judged."""


@dataclass(frozen=True)
class Record:
    owner: int
    rrtype: int
    rdata: int
    end: int


def number(octets: bytes, at: int) -> int:
    if at + 2 > len(octets):
        raise Malformed
    return int.from_bytes(octets[at : at + 2], "big")


def name_at(message: bytes, at: int) -> dns.name.Name:
    try:
        return dns.name.from_wire(message, at)[0]
    except dns.exception.DNSException as error:
        raise Malformed from error


def wire(name: dns.name.Name) -> bytes:
    octets = name.to_wire()
    assert octets is not None
    return octets


def question_of(message: bytes) -> Question | None:
    """The question if there is exactly one; a message may end with its header."""
    if len(message) < 12:
        raise Malformed
    if number(message, 4) != 1 or len(message) == 12:
        return None
    # Alone, the question has nothing before it that a pointer could point to.
    name = wire(name_at(message[12:], 0))
    end = 12 + len(name)
    return name, number(message, end), number(message, end + 2)


def _behind_name(message: bytes, at: int) -> int:
    while True:
        if at >= len(message):
            raise Malformed
        length = message[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            return at + 2
        if length > 63:
            raise Malformed
        at += 1 + length


def questions_end(message: bytes) -> int:
    at = 12
    for _ in range(number(message, 4)):
        if at == len(message):
            break
        at = _behind_name(message, at) + 4
        if at > len(message):
            raise Malformed
    return at


def records(message: bytes) -> Iterator[Record]:
    """The records; fewer than announced will do, if the message ends behind one of them."""
    at = questions_end(message)
    for _ in range(number(message, 6) + number(message, 8) + number(message, 10)):
        if at == len(message):
            return
        owner, fields = at, _behind_name(message, at)
        rdata = fields + 10
        at = rdata + number(message, fields + 8)
        if at > len(message):
            raise Malformed
        yield Record(owner, number(message, fields), rdata, at)


# ---------------------------------------------------------------------- names


def _reverse(network: str) -> dns.name.Name:
    """The reverse zone of a prefix that ends between labels."""
    parsed = ipaddress.ip_network(network)
    labels = parsed.network_address.reverse_pointer.split(".")
    unit = 8 if parsed.version == 4 else 4
    return dns.name.from_text(".".join(labels[len(labels) - 2 - parsed.prefixlen // unit :]))


LOCAL = [
    *map(dns.name.from_text, ("test", "localhost", "invalid", "local", "onion", "alt", "internal")),
    *map(dns.name.from_text, ("home.arpa", "resolver.arpa", "service.arpa")),
    *(_reverse(network) for network in ("10.0.0.0/8", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16")),
    *(_reverse(f"172.{octet}.0.0/16") for octet in range(16, 32)),
    *(_reverse(f"100.{octet}.0.0/16") for octet in range(64, 128)),
    *(_reverse(network) for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "0.0.0.0/8")),
    *(_reverse(network) for network in ("fd00::/8", "fc00::/8", "2001:db8::/32", "::1/128", "::/128")),
    *(_reverse(f"fe{digit}0::/12") for digit in "89ab"),
    _reverse("255.255.255.255/32"),
]


def is_local(name: dns.name.Name) -> bool:
    return any(name.is_subdomain(zone) for zone in LOCAL)


def is_single_label(name: dns.name.Name) -> bool:
    return len(name.labels) == 2


def verdict(message: bytes) -> str | None:
    """Whether the message tells of the inside: "local" if a name in it is; "single label" if its
    question has one label and the message does not show that the public root knows it; else None.
    """
    at = 12
    single: dns.name.Name | None = None
    for _ in range(number(message, 4)):
        if at == len(message):
            break
        name = name_at(message, at)
        if is_local(name):
            return "local"
        if at == 12 and is_single_label(name):
            single = name
        at = _behind_name(message, at) + 4
        if at > len(message):
            raise Malformed
    known = False
    for record in records(message):
        owner = name_at(message, record.owner)
        if is_local(owner) or any(is_local(name) for name in names_in(message, record)):
            return "local"
        known |= owner == single and not (record.rrtype in {0, OPT} or 128 <= record.rrtype <= 255)
    flags = number(message, 2)
    shown = known and flags & 0x8000 and not flags & 15
    return None if single is None or shown else "single label"


def verdict_on_name(name: bytes) -> str | None:
    """The verdict on a question to which no answer is known."""
    parsed = dns.name.from_wire(name, 0)[0]
    return "local" if is_local(parsed) else "single label" if is_single_label(parsed) else None


def names_in(message: bytes, record: Record) -> Iterator[dns.name.Name]:
    if record.rrtype == IPSECKEY and record.end - record.rdata < 2:
        # The second octet tells whether its gateway is a name.
        raise Malformed
    fixed, count = NAMES.get(record.rrtype, (0, 0))
    at = record.rdata + fixed
    for _ in range(count):
        yield name_at(message[: record.end], at)
        at = _behind_name(message[: record.end], at)


# ---------------------------------------------------------------------- addresses

INSIDE = [
    *map(ipaddress.ip_network, ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16")),
    *map(ipaddress.ip_network, ("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4")),
    *map(ipaddress.ip_network, ("::/128", "::1/128", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8")),
]


def is_inside(address: bytes) -> bool:
    """Whether a server's address is none of the public internet's."""
    own = ipaddress.ip_address(address)
    return any(own in network for network in INSIDE)


# ---------------------------------------------------------------------- what is kept


def options(message: bytes, record: Record) -> list[tuple[int, bytes]]:
    """The options of an OPT record that are whole."""
    found, at = [], record.rdata
    while at + 4 <= record.end and at + 4 + number(message, at + 2) <= record.end:
        end = at + 4 + number(message, at + 2)
        found.append((number(message, at), message[at + 4 : end]))
        at = end
    return found


def kept_options(message: bytes, record: Record) -> bytes:
    response = bool(number(message, 2) & 0x8000)
    octets = b""
    for code, data in options(message, record):
        if code == NSID or (code == EXTENDED_ERROR and len(data) >= 2):
            kept = data[:2] if code == EXTENDED_ERROR else data if response else b""
            octets += code.to_bytes(2, "big") + len(kept).to_bytes(2, "big") + kept
    return octets


def reading(message: bytes, *, scrub: bool) -> list[object]:
    """All that a message says, its names written out, so that two spellings of it compare equal."""
    said: list[object] = [message[: questions_end(message)]]
    for record in records(message):
        if record.rrtype == OPT and scrub:
            rdata: object = kept_options(message, record)
        elif record.rrtype in NAMES:
            fixed, _ = NAMES[record.rrtype]
            names = [wire(name) for name in names_in(message, record)]
            rdata = (message[record.rdata : record.rdata + fixed], names)
        else:
            rdata = message[record.rdata : record.end]
        fields = _behind_name(message, record.owner)
        said.append((wire(name_at(message, record.owner)), message[fields : fields + 8], rdata))
    return said


def kept(message: bytes) -> bytes | list[object]:
    """What is stored of a message: its own octets, or if options go, what it says without them."""
    found = list(records(message))
    end = found[-1].end if found else questions_end(message)
    for record in found:
        if record.rrtype == OPT and kept_options(message, record) != message[record.rdata : record.end]:
            return reading(message, scrub=True)
    return message[:end]
