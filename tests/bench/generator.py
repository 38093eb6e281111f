"""A resolver's upstream traffic of an exact number of packets, and its truth.

The mix: 5,000 questions a second over about 200,000 zones by Zipf; of the answers 21% referrals, 5% without
data, 3% for names that do not exist, 1% failures, 1% truncated and asked again over TCP, 1% fragmented; 2%
of the questions unanswered, a few of them refused by ICMP; 0.3% of the answers not asked for; 10% IPv6.
Questions have RD=0 and EDNS; 5% of the exchanges carry a cookie, 2% a client's subnet, a server's name or an
extended error: most of that a sensor must not store.
"""

import heapq
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import BinaryIO, Final, TextIO

from tests.bench import messages, packets, truth
from tests.bench.messages import Labels
from tests.bench.world import Server, World, Zone
from tests.traffic.frames import PCAP_HEADER, PCAP_RECORD

VERSION: Final = 2
"""Part of the cache's key: raise it when equal arguments would give other octets than before."""

START: Final = 1_760_000_000_000_000
"""Microseconds: the time of the first packet."""

RATE: Final = 5_000.0

IPV6_SHARE: Final = 0.1
UNANSWERED_SHARE: Final = 0.02
ICMP_SHARE: Final = 0.043
"""Of unanswered questions."""
UNSOLICITED_SHARE: Final = 0.003
OPTIONS_SHARE: Final = 0.07
"""Of exchanges with EDNS options beyond the bare record."""

KINDS: Final = ("answer", "referral", "nodata", "nxdomain", "failure", "truncated", "fragmented")
KIND_SHARES: Final = (68.0, 21.0, 5.0, 3.0, 1.0, 1.0, 1.0)

QTYPES: Final = (1, 28, 2, 5, 15, 16, 12, 6, 43, 48)
QTYPE_SHARES: Final = (48, 22, 3, 9, 4, 5, 3, 1, 4, 1)
APEX_TYPES: Final = frozenset({2, 6, 15, 43, 48})

MOST_PACKETS_OF_ONE: Final = 40
"""No exchange has more packets; the last ones are chosen so that the number comes out exactly."""

SHUFFLED_SHARE: Final = 0.05
REPEATED_SHARE: Final = 0.05
"""Of fragmented datagrams and of answers in several segments."""

REFUSED_SHARE: Final = 0.6
"""Of failures; the others are SERVFAIL."""


@dataclass(frozen=True, slots=True)
class Ends:
    """From where to where one question goes, and under which id."""

    server: Server
    family: int
    port: int
    id: int

    @property
    def there(self) -> packets.Path:
        """The way of the question."""
        return self.server.there[self.family]

    @property
    def back(self) -> packets.Path:
        """The way of the answer."""
        return self.server.back[self.family]


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the answer that it gets: bodies of messages, without ids."""

    qname: Labels
    qtype: int
    query: bytes
    response: bytes
    rcode: int = messages.NOERROR


def generate(capture: Path, expected: Path, total: int, seed: int) -> None:
    """Write a capture of `total` packets, and its truth. Equal arguments give equal octets."""
    with capture.open("wb", buffering=1 << 20) as pcap, expected.open("w", buffering=1 << 20) as lines:
        _Generator(World(seed), _Pcap(pcap), lines).run(total)


class _Pcap:
    """Puts frames into order of time as they are written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting: list[tuple[int, int, bytes]] = []
        self.frames = 0
        """How many were given, written or not."""
        file.write(PCAP_HEADER)

    def put(self, time: int, frame: bytes) -> None:
        """Take a frame of a time not before the one that was let out."""
        self.frames += 1
        heapq.heappush(self._waiting, (time, self.frames, frame))

    def let_out(self, until: int | None = None) -> None:
        """Write what came before a time, or all."""
        waiting = self._waiting
        while waiting and (until is None or waiting[0][0] < until):
            time, _, frame = heapq.heappop(waiting)
            size = len(frame)
            self._file.write(PCAP_RECORD.pack(*divmod(time, 1_000_000), size, size) + frame)


class _Generator:
    def __init__(self, world: World, pcap: _Pcap, lines: TextIO) -> None:
        self._world = world
        self._random: Random = world.random
        self._pcap = pcap
        self._lines = lines
        self._numbers = _port_and_id()
        self._answers: dict[tuple[Labels, int, str], Question] = {}

    def run(self, total: int) -> None:
        now = float(START)
        choices = max(1, total // 2)
        zones = iter(self._world.draw(choices))
        kinds = iter(self._random.choices(KINDS, KIND_SHARES, k=choices))
        while self._pcap.frames < total - MOST_PACKETS_OF_ONE:
            now += self._random.expovariate(RATE) * 1_000_000
            self._pcap.let_out(int(now))
            self._exchange(int(now), self._world.zone(next(zones)), next(kinds))
        while self._pcap.frames < total:
            now += self._random.expovariate(RATE) * 1_000_000
            ends, question = self._ask(self._world.zone(0), "answer")
            if self._pcap.frames == total - 1:
                self._unanswered(int(now), ends, question)
            else:
                self._answered(int(now), ends, question)
        self._pcap.let_out()

    # ------------------------------------------------------------------ scenes

    def _exchange(self, now: int, zone: Zone, kind: str) -> None:
        random = self._random.random
        ends, question = self._ask(zone, kind)
        if random() < UNANSWERED_SHARE:
            self._unanswered(now, ends, question)
            if random() < ICMP_SHARE:
                self._refused(now, ends, question)
        elif kind == "truncated":
            answered = self._answered(now, ends, question)
            again = Ends(ends.server, ends.family, *next(self._numbers))
            self._over_tcp(
                answered + 400, again, self._large(zone, question.qname, self._random.randint(4, 10))
            )
        elif kind == "fragmented":
            self._fragmented(now, ends, self._large(zone, question.qname, self._random.randint(7, 12)))
        else:
            if random() < UNSOLICITED_SHARE / 2:
                forged = Ends(ends.server, ends.family, ends.port, ends.id ^ 0x5555)
                self._unsolicited(now + 300, forged, question)
            answered = self._answered(now, ends, question)
            if random() < UNSOLICITED_SHARE / 2:
                self._unsolicited(answered + 500, ends, question)

    def _answered(self, now: int, ends: Ends, question: Question) -> int:
        query, wire, stored = self._messages(ends, question)
        answered = now + self._delay(ends.server)
        self._pcap.put(now, ends.there.udp(self._ident(), ends.port, 53, query))
        self._pcap.put(answered, ends.back.udp(self._ident(), 53, ends.port, wire))
        self._note(truth.QUERY_RESPONSE, ends, question, now, answered, wire, stored)
        return answered

    def _unanswered(self, now: int, ends: Ends, question: Question) -> None:
        query, _, _ = self._messages(ends, question)
        self._pcap.put(now, ends.there.udp(self._ident(), ends.port, 53, query))
        self._note(truth.UNANSWERED, ends, question, now)

    def _refused(self, now: int, ends: Ends, question: Question) -> None:
        refused = now + self._delay(ends.server)
        query = ends.there.udp(self._ident(), ends.port, 53, ends.id.to_bytes(2) + question.query)
        self._pcap.put(refused, ends.back.port_unreachable(self._ident(), query))
        protocol = (packets.ICMP, packets.ICMPV6)[ends.family]
        quoted = messages.head(ends.id.to_bytes(2) + question.query, question.qname)
        self._note(truth.ICMP, ends, question, None, refused, quoted, quoted, protocol)

    def _unsolicited(self, now: int, ends: Ends, question: Question) -> None:
        message = ends.id.to_bytes(2) + question.response
        self._pcap.put(now, ends.back.udp(self._ident(), 53, ends.port, message))
        self._note(truth.UNSOLICITED, ends, question, None, now, message, message)

    def _fragmented(self, now: int, ends: Ends, question: Question) -> None:
        query, wire, stored = self._messages(ends, question)
        self._pcap.put(now, ends.there.udp(self._ident(), ends.port, 53, query))
        answered = now + self._delay(ends.server)
        fragments = ends.back.udp_fragments(self._ident(), 53, ends.port, wire)
        if self._random.random() < SHUFFLED_SHARE:
            fragments.reverse()
        for number, frame in enumerate(fragments):
            self._pcap.put(answered + 12 * number, frame)
        complete = answered + 12 * (len(fragments) - 1)
        self._note(truth.QUERY_RESPONSE, ends, question, now, complete, wire, stored)

    def _over_tcp(self, now: int, ends: Ends, question: Question) -> None:
        """A connection for one question: opened, asked, answered in segments, closed by the resolver."""
        query, wire, stored = self._messages(ends, question)
        connection = _Connection(self._pcap, ends, self._random)
        asked, answered = connection.converse(now, self._delay(ends.server), query, wire)
        self._note(truth.QUERY_RESPONSE, ends, question, asked, answered, wire, stored, packets.TCP)

    # ------------------------------------------------------------------ messages

    def _ask(self, zone: Zone, kind: str) -> tuple[Ends, Question]:
        family = int(self._random.random() < IPV6_SHARE)
        asked = self._world.parents[zone.apex[1:]] if kind == "referral" else zone
        ends = Ends(self._random.choice(asked.servers), family, *next(self._numbers))
        qtype = self._random.choices(QTYPES, QTYPE_SHARES)[0]
        if kind == "nxdomain":
            qname: Labels = (b"%x" % self._random.getrandbits(32), *zone.apex)
            return ends, _question(zone, kind, qname, qtype)
        qname = zone.apex if qtype in APEX_TYPES else (self._random.choice(zone.hosts), *zone.apex)
        if kind == "failure":
            kind = "refused" if self._random.random() < REFUSED_SHARE else "failed"
        known = self._answers.get((qname, qtype, kind))
        if known is None:
            known = self._answers[qname, qtype, kind] = _question(zone, kind, qname, qtype)
        return ends, known

    def _large(self, zone: Zone, qname: Labels, records: int) -> Question:
        query = messages.body(0, qname, messages.TXT, payload_octets=4096)
        answer = zone.long_answer(qname, records)
        response = messages.body(messages.QR | messages.AA, qname, messages.TXT, (answer, (), ()))
        return Question(qname, messages.TXT, query, response)

    def _messages(self, ends: Ends, question: Question) -> tuple[bytes, bytes, bytes]:
        """The query, the response, and the response as it has to be stored."""
        query, response = question.query, question.response
        ident = ends.id.to_bytes(2)
        if self._random.random() >= OPTIONS_SHARE:
            return ident + query, ident + response, ident + response
        asked, answered, kept = self._options()
        wire = messages.with_options(response, answered)
        stored = messages.with_options(response, kept)
        return ident + messages.with_options(query, asked), ident + wire, ident + stored

    def _options(self) -> tuple[bytes, bytes, bytes]:
        """Options of a query, of its response, and those of the response that may be stored."""
        option, octets = messages.option, self._random.randbytes
        choice = self._random.random()
        if choice < 0.7:
            client = octets(8)
            asked = option(messages.COOKIE, client + octets(16))
            return asked, option(messages.COOKIE, client + octets(16)), b""
        if choice < 0.8:
            subnet = option(messages.CLIENT_SUBNET, b"\0\1\x18\0" + bytes((203, 0, 113)))
            return subnet, subnet, b""
        if choice < 0.9:
            server = option(messages.NSID, octets(4).hex().encode())
            return option(messages.NSID, b""), server, server
        code = struct.pack("!H", 22)
        return b"", option(messages.EXTENDED_ERROR, code + b"no reachable authority"), option(15, code)

    # ------------------------------------------------------------------ the rest

    def _delay(self, server: Server) -> int:
        return int(1_000_000 * server.round_trip * self._random.uniform(1.0, 1.3)) + 200

    def _ident(self) -> int:
        return self._random.getrandbits(16)

    def _note(
        self,
        kind: int,
        ends: Ends,
        question: Question,
        asked: int | None,
        answered: int | None = None,
        wire: bytes = b"",
        stored: bytes = b"",
        protocol: int = packets.UDP,
    ) -> None:
        line = truth.line(
            kind,
            protocol,
            ends.there.source.octets,
            ends.there.target.octets,
            ends.port,
            ends.id,
            messages.wire_name(question.qname),
            question.qtype,
            question.rcode if wire and kind != truth.ICMP else None,
            asked,
            answered,
            truth.digest(stored) if wire else truth.NOTHING,
        )
        self._lines.write(f"{line}\t{truth.digest(wire) if wire else truth.NOTHING}\n")


class _Connection:
    """The segments of a TCP connection on port 53."""

    def __init__(self, pcap: _Pcap, ends: Ends, random: Random) -> None:
        self._pcap = pcap
        self._ends = ends
        self._random = random
        self._here = random.getrandbits(32)
        self._there = random.getrandbits(32)

    def converse(self, now: int, delay: int, query: bytes, response: bytes) -> tuple[int, int]:
        """One question and its answer. Returns when each was complete."""
        self._from_resolver(now, packets.SYN)
        self._here += 1
        self._from_server(now + delay, packets.SYN | packets.ACK)
        self._there += 1
        self._from_resolver(now + delay + 20, packets.ACK)
        asked = now + delay + 60
        self._from_resolver(asked, packets.PSH | packets.ACK, _framed(query))
        self._here += len(query) + 2
        self._from_server(asked + delay, packets.ACK)
        complete = self._respond(asked + delay + 100, _framed(response))
        self._from_resolver(complete + 30, packets.ACK)
        self._from_resolver(complete + 60, packets.FIN | packets.ACK)
        self._here += 1
        self._from_server(complete + 60 + delay, packets.FIN | packets.ACK)
        self._there += 1
        self._from_resolver(complete + 80 + delay, packets.ACK)
        return asked, complete

    def _respond(self, now: int, octets: bytes) -> int:
        """The segments of the answer, now and then out of order or one of them twice."""
        start = self._there
        offsets = list(range(0, len(octets), packets.SEGMENT_OCTETS))
        if self._random.random() < SHUFFLED_SHARE:
            offsets.reverse()
        complete = now + 15 * (len(offsets) - 1)
        if self._random.random() < REPEATED_SHARE:
            # The same octets once more, before the last piece comes or behind it.
            offsets.insert(self._random.randrange(1, len(offsets) + 1), offsets[0])
            complete = now + 15 * max(offsets.index(offset) for offset in offsets)
        for number, offset in enumerate(offsets):
            self._there = start + offset
            piece = octets[offset : offset + packets.SEGMENT_OCTETS]
            self._from_server(now + 15 * number, packets.PSH | packets.ACK, piece)
        self._there = start + len(octets)
        return complete

    def _from_resolver(self, time: int, flags: int, payload: bytes = b"") -> None:
        numbers = (self._here, self._there if flags & packets.ACK else 0)
        self._pcap.put(
            time, self._ends.there.tcp(self._ident(), (self._ends.port, 53), numbers, flags, payload)
        )

    def _from_server(self, time: int, flags: int, payload: bytes = b"") -> None:
        numbers = (self._there, self._here)
        self._pcap.put(
            time, self._ends.back.tcp(self._ident(), (53, self._ends.port), numbers, flags, payload)
        )

    def _ident(self) -> int:
        return self._random.getrandbits(16)


def _framed(message: bytes) -> bytes:
    """RFC 1035 section 4.2.2."""
    return len(message).to_bytes(2) + message


def _port_and_id() -> Iterator[tuple[int, int]]:
    """Pairs of port and id, none twice in 2^31 exchanges, and in no order that a compressor sees."""
    modulus = 65536 * 64000
    number = 1
    while True:
        number = (number + 2_654_435_769) % modulus
        yield 1024 + number % 64000, number // 64000


def _question(zone: Zone, kind: str, qname: Labels, qtype: int) -> Question:
    """A question and the answer of a kind that is whole in one datagram."""
    flags = messages.QR | messages.AA
    rcode = messages.NOERROR
    sections: tuple[list[messages.Record], list[messages.Record], list[messages.Record]] = ([], [], [])
    match kind:
        case "answer":
            sections = zone.full_answer(qname, qtype)
        case "referral":
            flags, sections = messages.QR, ([], *zone.delegation)
        case "nodata":
            sections = ([], zone.start_of_authority, [])
        case "nxdomain":
            rcode, sections = messages.NXDOMAIN, ([], zone.start_of_authority, [])
        case "refused":
            flags, rcode = messages.QR, messages.REFUSED
        case "failed":
            flags, rcode = messages.QR, messages.SERVFAIL
        case "truncated":
            flags |= messages.TC
        case "fragmented":
            qtype = messages.TXT
        case _:
            raise AssertionError(f"no answer of kind {kind} in this world")
    response = messages.body(flags | rcode, qname, qtype, sections)
    return Question(qname, qtype, messages.body(0, qname, qtype), response, rcode)
