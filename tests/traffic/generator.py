"""Frames of a resolver's traffic, in order of time, and the truth about them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.traffic.frames import Frame, udp_frame
from tests.traffic.world import HOSTS, World, Zone

RESOLVERS = (IPv4Address("192.0.2.53"), IPv6Address("2001:db8::53"))
STUB_ADDRESSES = tuple(map(ip_address, ("192.0.2.100", "192.0.2.101", "2001:db8::100", "2001:db8::101")))
STUB_LABEL = "stub-secret"

RATE = 500.0  # transactions a second of the packets' own clock
IPV6_SHARE = 0.1
REFERRAL_SHARE = 0.2
UNANSWERED_SHARE = 0.02
NOISE_EVERY = 5  # one exchange of a stub client for so many transactions

QUESTIONS = ("A", "AAAA", "CNAME", "MX", "TXT", "NS")
QUESTION_SHARES = (50, 20, 10, 7, 7, 6)
RCODES = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL)
RCODE_SHARES = (94, 5, 1)

RRset = tuple[str, str, tuple[str, ...]]
"""Owner in lower case, type, sorted rdata: all in presentation form."""


class Exchange(NamedTuple):
    """One transaction as it went over the wire: addresses, the resolver's port, and the DNS messages."""

    resolver: IPv4Address | IPv6Address
    port: int
    server: IPv4Address | IPv6Address
    query: bytes
    response: bytes | None


@dataclass
class Traffic:
    """Frames and their truth: every transaction in `exchanges`, in the order of their queries.

    `rrsets` counts in how many responses that a hub takes (NOERROR, answered in full) each RRset stands.
    """

    frames: list[Frame] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    transactions: int = 0
    unanswered: int = 0
    noise_frames: int = 0
    rrsets: Counter[RRset] = field(default_factory=Counter)


def generate(transactions: int, seed: int, start: float) -> Traffic:
    """The traffic of so many transactions from a time on. Equal arguments give equal octets."""
    world = World(seed)
    traffic = Traffic()
    for number in range(transactions):
        time = start + number / RATE
        _add_transaction(traffic, world, number, time)
        if number % NOISE_EVERY == 0:
            noise = list(_stub_exchange(world, number // NOISE_EVERY, time + 0.0003))
            traffic.noise_frames += len(noise)
            traffic.frames += noise
    traffic.frames.sort(key=lambda frame: frame.time)
    return traffic


def _add_transaction(traffic: Traffic, world: World, number: int, time: float) -> None:
    zone = world.zone()
    version = 6 if world.random.random() < IPV6_SHARE else 4
    referral = world.random.random() < REFERRAL_SHARE
    host = world.random.choice(HOSTS)
    rrtype = world.random.choices(QUESTIONS, QUESTION_SHARES)[0]
    query = _query(world, _question_name(zone, host, rrtype), "A" if rrtype == "CNAME" else rrtype)
    resolver = RESOLVERS[0 if version == 4 else 1]
    server = (world.tld if referral else zone).server_address(version)
    port = 1024 + number % 60_000
    asked = query.to_wire(want_shuffle=False)
    traffic.frames.append(Frame(time, udp_frame(resolver, port, server, 53, asked)))
    traffic.transactions += 1
    if world.random.random() < UNANSWERED_SHARE:
        traffic.unanswered += 1
        traffic.exchanges.append(Exchange(resolver, port, server, asked, None))
        return
    response = _referral(query, zone) if referral else _answer(world, query, zone, host, rrtype)
    if response.rcode() == dns.rcode.NOERROR:
        traffic.rrsets.update(_observed(response))
    delay = world.random.uniform(0.001, 0.05)
    answered = response.to_wire(want_shuffle=False)
    traffic.frames.append(Frame(time + delay, udp_frame(server, 53, resolver, port, answered)))
    traffic.exchanges.append(Exchange(resolver, port, server, asked, answered))


def _question_name(zone: Zone, host: str, rrtype: str) -> str:
    return zone.apex if rrtype in ("MX", "TXT", "NS") else f"{host}.{zone.apex}"


def _query(world: World, name: str, rrtype: str) -> dns.message.QueryMessage:
    query = dns.message.make_query(name, rrtype, use_edns=0, payload=1232, flags=0)
    query.id = world.random.getrandbits(16)
    return query


def _answer(
    world: World, query: dns.message.QueryMessage, zone: Zone, host: str, rrtype: str
) -> dns.message.Message:
    response = dns.message.make_response(query, recursion_available=False)
    response.flags |= dns.flags.AA
    response.set_rcode(world.random.choices(RCODES, RCODE_SHARES)[0])
    if response.rcode() == dns.rcode.NOERROR:
        response.answer = zone.records(host, rrtype)
        if rrtype != "NS":
            response.authority = [zone.name_servers]
        response.additional = zone.glue
    elif response.rcode() == dns.rcode.NXDOMAIN:
        response.authority = [zone.start_of_authority]
    return response


def _referral(query: dns.message.QueryMessage, zone: Zone) -> dns.message.Message:
    response = dns.message.make_response(query, recursion_available=False)
    response.authority = [zone.name_servers]
    response.additional = zone.glue
    return response


def _observed(response: dns.message.Message) -> set[RRset]:
    """The RRsets of a response, each once however many sections hold it."""
    return {
        (
            found.name.to_text().lower(),
            dns.rdatatype.to_text(found.rdtype),
            tuple(sorted(rdata.to_text().lower() for rdata in found)),
        )
        for section in (response.answer, response.authority, response.additional)
        for found in section
    }


def _stub_exchange(world: World, number: int, time: float) -> Iterator[Frame]:
    """A question of a stub client to the resolver and its answer, in one of the ways that might deceive a
    sensor."""
    stub = STUB_ADDRESSES[number % len(STUB_ADDRESSES)]
    resolver = RESOLVERS[0 if stub.version == 4 else 1]
    port = 53 if number % 3 == 0 else 30_000 + number % 10_000
    query = _query(world, f"{STUB_LABEL}-{number}.example.", "A")
    if number % 5:
        query.flags |= dns.flags.RD
    response = dns.message.make_response(query, recursion_available=True)
    response.answer = [dns.rrset.from_text(query.question[0].name, 60, "IN", "A", str(STUB_ADDRESSES[0]))]
    yield Frame(time, udp_frame(stub, port, resolver, 53, query.to_wire(want_shuffle=False)))
    yield Frame(time + 0.0002, udp_frame(resolver, 53, stub, port, response.to_wire(want_shuffle=False)))
