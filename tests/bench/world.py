"""The zones that the measured resolver asks: syllable-made domains, their servers and their records.

A zone is made when it is first asked for; equal seeds and equal questions give equal zones.
"""

import random
import struct
from functools import cached_property
from itertools import accumulate
from typing import Final

from tests.bench.messages import (
    AAAA,
    CNAME,
    DNSKEY,
    DS,
    MX,
    NS,
    PTR,
    RRSIG,
    SOA,
    TXT,
    A,
    Labels,
    Record,
    wire_name,
)
from tests.bench.packets import TO_RESOLVER, TO_SERVERS, Address, Path

RESOLVERS: Final = ("192.0.2.53", "2001:db8::53")

ZONES: Final = 200_000
REGISTRIES: Final = 40
PROVIDERS: Final = 2_000
"""Companies whose servers many zones share, the way it is with hosting."""

SIGNED_SHARE: Final = 0.12
HOSTED_SHARE: Final = 0.6
TALKATIVE_SHARE: Final = 0.35

ROOT: Final[Labels] = (b"example",)

_RESOLVER_V4: Final = Address.of(bytes((192, 0, 2, 53)))
_RESOLVER_V6: Final = Address.of(bytes.fromhex("20010db8" + "00" * 11 + "53"))
# RFC 2544 sets 198.18.0.0/15 aside for benchmarks: 131,072 addresses, so that servers do not repeat
# themselves more than they do in life.
_BENCHMARK_V4: Final = 0xC6120000
_BENCHMARK_V4_BITS: Final = 17
_DOCUMENTATION_V6: Final = bytes.fromhex("20010db8")

_HOSTS: Final = (b"www", b"mail", b"api", b"cdn", b"img", b"static", b"app", b"m", b"ns1", b"login", b"edge")
_CONSONANTS: Final = b"bcdfghjklmnprstvwz"
_VOWELS: Final = b"aeiou"
_TTLS: Final = (60, 300, 600, 1800, 3600, 14400, 86400)
_RSA_SIGNATURE_OCTETS: Final = 128
_ECDSA_SIGNATURE_OCTETS: Final = 64


class Server:
    """An authoritative server: its name, and the ways to it over both families."""

    def __init__(self, name: Labels, random: random.Random) -> None:
        self.name = name
        v4 = (_BENCHMARK_V4 | random.getrandbits(_BENCHMARK_V4_BITS)).to_bytes(4)
        v6 = _DOCUMENTATION_V6 + random.randbytes(6) + b"\0" * 5 + b"\x53"
        hops = random.randrange(40, 60)
        self.addresses: tuple[Record, Record] = ((name, A, 172800, (v4,)), (name, AAAA, 172800, (v6,)))
        self.round_trip = random.lognormvariate(-4, 0.8)
        ends = ((_RESOLVER_V4, Address.of(v4)), (_RESOLVER_V6, Address.of(v6)))
        self.there = tuple(Path(resolver, server, TO_SERVERS) for resolver, server in ends)
        self.back = tuple(Path(server, resolver, TO_RESOLVER, hops) for resolver, server in ends)


class Zone:
    """A zone with its servers."""

    def __init__(self, apex: Labels, servers: tuple[Server, ...], random: random.Random) -> None:
        self.apex = apex
        self.servers = servers
        self.signed = random.random() < SIGNED_SHARE
        self.talkative = random.random() < TALKATIVE_SHARE
        self._random = random
        self._signature = _ECDSA_SIGNATURE_OCTETS if random.random() < 0.6 else _RSA_SIGNATURE_OCTETS
        self._ttl = random.choice(_TTLS)
        self._key_tag = random.getrandbits(16)
        self.hosts = random.sample(_HOSTS, 3)

    @cached_property
    def name_servers(self) -> list[Record]:
        """Its NS RRset."""
        return [(self.apex, NS, 86400, (server.name,)) for server in self.servers]

    @cached_property
    def glue(self) -> list[Record]:
        """The addresses of its servers."""
        return [address for server in self.servers for address in server.addresses]

    @cached_property
    def delegation(self) -> tuple[list[Record], list[Record]]:
        """Authority and additional section of a referral to it."""
        authority = list(self.name_servers)
        if self.signed:
            authority += self.signed_set([self.delegation_signer])
        own = any(server.name[1:] == self.apex for server in self.servers)
        return authority, self.glue if own else self.glue[:2]

    @cached_property
    def delegation_signer(self) -> Record:
        """Its DS record."""
        digest = struct.pack("!HBB", self._key_tag, 13, 2) + self._random.randbytes(32)
        return (self.apex, DS, 3600, (digest,))

    @cached_property
    def start_of_authority(self) -> list[Record]:
        """Its SOA record, signed if the zone is."""
        numbers = struct.pack("!IIIII", 2026110100 + self._random.randrange(99), 7200, 900, 1209600, 300)
        return self.signed_set(
            [(self.apex, SOA, 3600, (self.servers[0].name, (b"hostmaster", *self.apex), numbers))]
        )

    def signed_set(self, records: list[Record]) -> list[Record]:
        """An RRset and, if the zone is signed, its RRSIG."""
        if not self.signed:
            return records
        owner, rrtype, ttl, _ = records[0]
        head = struct.pack("!HBBIIIH", rrtype, 13, len(owner), ttl, 1764000000, 1762700000, self._key_tag)
        # RFC 4034 section 3.1.7: the signer's name is never compressed.
        signed = head + wire_name(self.apex) + self._random.randbytes(self._signature)
        return [*records, (owner, RRSIG, ttl, (signed,))]

    def answer(self, owner: Labels, qtype: int) -> list[Record]:
        """The answer section for a name of the zone that has records of the type."""
        data = self._random
        ttl = self._ttl
        match qtype:
            case 1:  # A
                return self.signed_set([(owner, A, ttl, (_ipv4(data),)) for _ in range(_few(data))])
            case 28:  # AAAA
                return self.signed_set([(owner, AAAA, ttl, (_ipv6(data),)) for _ in range(_few(data))])
            case 2:  # NS
                return self.signed_set(self.name_servers)
            case 5:  # CNAME, followed by the address of its target
                target = (data.choice(_HOSTS), b"edge", *self.apex)
                alias = self.signed_set([(owner, CNAME, ttl, (target,))])
                return [*alias, *self.signed_set([(target, A, ttl, (_ipv4(data),))])]
            case 15:  # MX
                exchanges: list[Record] = [
                    (owner, MX, ttl, (struct.pack("!H", 10 * number), (b"mx%d" % number, *self.apex)))
                    for number in range(1, 1 + _few(data))
                ]
                return self.signed_set(exchanges)
            case 16:  # TXT
                return self.signed_set([(owner, TXT, ttl, (_text(data),)) for _ in range(_few(data))])
            case 12:  # PTR
                return self.signed_set([(owner, PTR, ttl, ((data.choice(_HOSTS), *self.apex),))])
            case 6:  # SOA
                return self.start_of_authority
            case 43:  # DS
                return self.signed_set([self.delegation_signer])
            case 48:  # DNSKEY
                heads = (struct.pack("!HBB", flags, 3, 13) for flags in (256, 257))
                return self.signed_set(
                    [(owner, DNSKEY, 3600, (head + data.randbytes(64),)) for head in heads]
                )
        raise AssertionError(f"no records of type {qtype} in this world")

    def full_answer(self, owner: Labels, qtype: int) -> tuple[list[Record], list[Record], list[Record]]:
        """The sections of an answer; about half of the servers add their zone's NS records and glue."""
        answer = self.answer(owner, qtype)
        if qtype == NS:
            return answer, [], self.glue
        if self.talkative:
            return answer, self.name_servers, self.glue
        return answer, [], []

    def long_answer(self, owner: Labels, records: int) -> list[Record]:
        """So many TXT records of 264 octets."""
        return [(owner, TXT, self._ttl, (_text(self._random, 250),)) for _ in range(records)]


class World:
    """All zones, the popular ones asked for more often than others (Zipf)."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._popularity = list(accumulate(1 / number for number in range(1, ZONES + 1)))
        self._indices = range(ZONES)
        self._registries = [(self._word(2), *ROOT) for _ in range(REGISTRIES)]
        self._providers: list[tuple[Server, ...]] = []
        for _ in range(PROVIDERS):
            self._providers.append(
                self._servers((self._word(3), self.random.choice(self._registries)[0], *ROOT))
            )
        self.parents = {
            registry: Zone(registry, self._servers(registry), self.random) for registry in self._registries
        }
        self._zones: dict[int, Zone] = {}

    def draw(self, number: int) -> list[int]:
        """The indices of so many zones, as they are asked for."""
        return self.random.choices(self._indices, cum_weights=self._popularity, k=number)

    def zone(self, index: int) -> Zone:
        """The zone of an index."""
        zone = self._zones.get(index)
        if zone is None:
            registry = self._registries[int(REGISTRIES * self.random.random() ** 3)]
            apex = (self._word(self.random.randrange(2, 5)), *registry)
            hosted = self.random.random() < HOSTED_SHARE
            provider = self._providers[int(PROVIDERS * self.random.random() ** 2)]
            zone = Zone(apex, provider if hosted else self._servers(apex), self.random)
            self._zones[index] = zone
        return zone

    def _servers(self, apex: Labels) -> tuple[Server, ...]:
        number = self.random.choices((2, 3, 4), (7, 1, 2))[0]
        return tuple(Server((b"ns%d" % place, *apex), self.random) for place in range(1, number + 1))

    def _word(self, syllables: int) -> bytes:
        choice = self.random.choice
        return bytes(letter for _ in range(syllables) for letter in (choice(_CONSONANTS), choice(_VOWELS)))


def _few(random: random.Random) -> int:
    return random.choices((1, 2, 3, 4), (6, 2, 1, 1))[0]


def _ipv4(random: random.Random) -> bytes:
    return (_BENCHMARK_V4 | random.getrandbits(_BENCHMARK_V4_BITS)).to_bytes(4)


def _ipv6(random: random.Random) -> bytes:
    return _DOCUMENTATION_V6 + random.randbytes(12)


def _text(random: random.Random, octets: int = 40) -> bytes:
    text = random.randbytes(octets // 2).hex().encode()
    return bytes((len(text),)) + text
