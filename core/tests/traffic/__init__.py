"""Random DNS traffic as a sensor may see it, made with scapy, from a seed.

Upstream exchanges of listed resolvers with everything that may go wrong in them, among stub clients,
forwarders, other protocols and broken packets.
"""

import random
from collections.abc import Callable

from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRROPT
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from . import messages
from .connections import Connection, with_length
from .frames import fragments, framed, mirrored, write_pcap

__all__ = ["LINK_TYPES", "RESOLVERS", "Traffic", "write_pcap"]

RESOLVERS = ["192.0.2.53", "198.51.100.0/28", "2001:db8::53", "2001:db8:53::/48"]

LINK_TYPES = {"ethernet": 1, "raw": 101, "sll": 113}

LISTED = {4: ["192.0.2.53", "198.51.100.5"], 6: ["2001:db8::53", "2001:db8:53:1::5"]}
SERVERS = {4: ["203.0.113.1", "203.0.113.2"], 6: ["2001:db8:ffff::1", "2001:db8:ffff::2"]}
INSIDE = {4: ["10.0.0.1", "100.64.0.1", "127.0.0.1"], 6: ["fd00::1", "fe80::1", "::1"]}
ROUTERS = {4: "203.0.113.254", 6: "2001:db8:ffff::fe"}
CLIENTS = {4: ["192.0.2.54", "192.0.2.200"], 6: ["2001:db8::54", "2001:db8:1::1"]}
NAMES = ["example.", "www.example.", "a.very.long.chain.of.labels.under.example.", "."]
LOCAL_NAMES = ["printer.local.", "1.0.0.10.in-addr.arpa.", "intranet.", "host.corp.example.", "localhost."]
TYPES = ["A", "AAAA", "MX", "TXT", "NS"]
TRANSFERS = ["AXFR", "IXFR", "TKEY"]


class Traffic:
    """Frames in order of time; `take` gives them."""

    def __init__(self, seed: int, link: str) -> None:
        self._random = random.Random(seed)
        self._link = link
        self._now = 1_700_000_000.0
        self._frames: list[tuple[float, bytes]] = []

    def take(self, scenes: int) -> list[tuple[float, bytes]]:
        """So many scenes of a few packets each."""
        choices: list[tuple[int, Callable[[], None]]] = [
            (12, self._answered),
            (2, self._unanswered),
            (2, self._unsolicited),
            (2, self._repeated),
            (2, self._wrong_case),
            (2, self._failure_without_question),
            (1, self._query_without_question),
            (3, self._stub),
            (1, self._forwarder),
            (1, self._both_listed),
            (1, self._other_purpose),
            (1, self._other_port),
            (1, self._other_protocol),
            (1, self._inside),
            (1, self._local_name),
            (1, self._transfer),
            (2, self._with_options),
            (3, self._odd),
            (3, self._fragmented),
            (4, self._connection),
            (2, self._retry_over_tcp),
            (4, self._error),
            (2, self._damaged),
            (1, self._pause),
        ]
        weights = [weight for weight, _ in choices]
        for _ in range(scenes):
            self._random.choices(choices, weights)[0][1]()
        return sorted(self._frames, key=lambda frame: frame[0])

    # ------------------------------------------------------------------ scenes

    def _answered(self) -> None:
        query = self._query()
        self._send(self._later(0.001), query)
        self._send(self._later(self._random.uniform(0.01, 3)), self._response(query))

    def _unanswered(self) -> None:
        self._send(self._later(0.01), self._query())

    def _unsolicited(self) -> None:
        self._send(self._later(0.01), self._response(self._query()))

    def _repeated(self) -> None:
        query = self._query()
        for _ in range(self._random.randint(2, 3)):
            self._send(self._later(0.5), query)
        for _ in range(self._random.randint(1, 4)):
            self._send(self._later(0.1), self._response(query))

    def _wrong_case(self) -> None:
        query = self._query(name="WwW.eXaMpLe.")
        self._send(self._later(0.01), query)
        response = self._response(query)
        response[DNS].qd[0].qname = "www.example."
        self._send(self._later(0.01), response)

    def _failure_without_question(self) -> None:
        query = self._query()
        self._send(self._later(0.01), query)
        response = self._response(query, rcode=self._random.choice([0, 1, 2, 3, 4, 5]), records=0)
        response[DNS].qd = []
        self._send(self._later(0.01), response)

    def _query_without_question(self) -> None:
        query = self._query()
        query[DNS].qd = self._random.choice([[], [DNSQR(qname="a."), DNSQR(qname="b.")]])
        self._send(self._later(0.01), query)
        self._send(self._later(0.01), self._response(query, rcode=self._random.choice([0, 1]), records=0))

    def _stub(self) -> None:
        """A client of a resolver; some clients use port 53 themselves, and some do not desire recursion."""
        family = self._family()
        client, resolver = self._random.choice(CLIENTS[family]), self._random.choice(LISTED[family])
        query = self._message(
            family, client, resolver, self._random.choice([53, 40000]), 53, rd=self._random.choice([0, 1, 1])
        )
        self._send(self._later(0.01), query)
        self._send(self._later(0.01), self._response(query))

    def _forwarder(self) -> None:
        query = self._query(rd=1)
        self._send(self._later(0.01), query)
        self._send(self._later(0.01), self._response(query))

    def _both_listed(self) -> None:
        family = self._family()
        query = self._message(family, LISTED[family][1], LISTED[family][0], 40000, 53)
        self._send(self._later(0.01), query)
        self._send(self._later(0.01), self._response(query))

    def _other_purpose(self) -> None:
        """Updates and notifications; transfers of zones and keys."""
        query = self._query()
        query[DNS].opcode, qtype = self._random.choice([(2, 1), (4, 6), (5, 6), (0, 249), (0, 251), (0, 252)])
        query[DNS].qd[0].qtype = qtype
        self._send(self._later(0.01), query)
        self._send(self._later(0.01), self._response(query))

    def _other_port(self) -> None:
        query = self._query()
        query[UDP].dport = self._random.choice([5353, 123, 5300])
        query[UDP].sport = self._random.choice([40000, 53])
        self._send(self._later(0.01), query)

    def _other_protocol(self) -> None:
        family = self._family()
        resolver, server = LISTED[family][0], SERVERS[family][0]
        network = IP(src=resolver, dst=server) if family == 4 else IPv6(src=resolver, dst=server)
        body = [TCP(sport=40000, dport=53), ICMP(), Raw(b"\x00" * 20)]
        self._send(self._later(0.01), network / self._random.choice(body))
        if self._link == "ethernet":
            self._frames.append((self._later(0.01), bytes(Ether() / ARP())))

    def _inside(self) -> None:
        """A server that nobody outside can reach."""
        family = self._family()
        server = self._random.choice(INSIDE[family])
        query = self._message(family, LISTED[family][0], server, 40000, 53)
        self._send(self._later(0.01), query)
        self._send(self._later(0.01), self._response(query))

    def _local_name(self) -> None:
        """A name of the network's inside, asked for or told."""
        query = self._query(name=self._random.choice(LOCAL_NAMES))
        self._send(self._later(0.01), query)
        rcode = self._random.choice([0, 3])
        if self._random.random() < 0.7:
            self._send(self._later(0.01), self._response(query, rcode=rcode))
        query = self._query(name="www.example.")
        response = self._response(query, records=1)
        response[DNS].an = [DNSRR(rrname="www.example.", type="CNAME", rdata="www.local.", ttl=60)]
        self._send(self._later(0.01), query)
        self._send(self._later(0.01), response)

    def _transfer(self) -> None:
        query = self._query()
        query[DNS].qd[0].qtype = self._random.choice(TRANSFERS)
        self._send(self._later(0.01), query)
        self._send(self._later(0.01), self._response(query))
        # Over TCP, and continued by messages without the question.
        asked = messages.question(messages.name(b"inside", b"example"), 252)
        record = messages.record(messages.name(b"host", b"inside", b"example"), 1, b"\xcb\x00\x71\x01")
        begun = messages.message(7, messages.RESPONSE, [asked], [record])
        continued = messages.message(7, messages.RESPONSE, [], [record])
        self._connect([(messages.message(7, 0, [asked]), begun), (b"", continued), (b"", continued)])

    def _with_options(self) -> None:
        self._exchange(*messages.exchange_with_options(self._random, self._random.randint(0, 20)))

    def _odd(self) -> None:
        self._exchange(*messages.odd_exchange(self._random, self._random.randint(0, 20)))

    def _fragmented(self) -> None:
        """A large response, or a query, in pieces: in order or not, doubled, contradictory, incomplete."""
        large = self._random.choices([1_500, 4_000, 30_000], [6, 3, 1])[0]
        octets = messages.large_exchange(self._random, self._random.randint(0, 20), large)
        query, response = self._datagrams(*octets)
        if self._random.random() < 0.8:
            self._send(self._later(0.01), query)
            whole, size = response, self._random.choice([512, 1232, 1480])
        else:
            whole, size = query, 24
        pieces = fragments(bytes(whole), size, self._random.getrandbits(32))
        happening = self._random.random()
        index = self._random.randrange(len(pieces))
        if happening < 0.25:
            self._random.shuffle(pieces)
        elif happening < 0.35:
            pieces.insert(self._random.randint(0, len(pieces)), pieces[index])
        elif happening < 0.5:
            changed = bytearray(pieces[index])
            changed[-1] ^= 1
            pieces.insert(self._random.randint(0, len(pieces)), bytes(changed))
        elif happening < 0.6:
            del pieces[index]
        pause = self._random.choice([0.001, 0.001, 0.001, 20])
        for piece in pieces:
            self._send_octets(self._later(pause), piece)

    def _connection(self) -> None:
        """Several exchanges over one connection; some are large, and some are not for us."""
        makers = [messages.odd_exchange, messages.exchange_with_options]
        exchanges: list[tuple[bytes, bytes | None]] = [
            self._random.choice(makers)(self._random, self._random.randint(0, 20))
            for _ in range(self._random.randint(1, 4))
        ]
        if self._random.random() < 0.2:
            octets = self._random.choice([20_000, 65_535])
            exchanges.append(messages.large_exchange(self._random, 7, octets))
        if self._random.random() < 0.2:
            exchanges.append((exchanges[0][0], None))
        self._connect(exchanges)

    def _retry_over_tcp(self) -> None:
        """A truncated response, and the same question over TCP: two transactions."""
        query, response = messages.exchange_with_options(self._random, self._random.randint(0, 20))
        question = response[: response.index(b"\xc0")]
        flags = int.from_bytes(question[2:4], "big") | messages.TRUNCATED
        truncated = question[:2] + flags.to_bytes(2, "big") + b"\x00\x01" + bytes(6) + question[12:]
        self._exchange(query, truncated)
        self._connect([(query, response)])

    def _error(self) -> None:
        """An ICMP error that quotes a query, or something else."""
        family = self._family()
        resolver, server = self._random.choice(LISTED[family]), SERVERS[family][0]
        query, _ = messages.exchange_with_options(self._random, self._random.randint(0, 20))
        quoted = bytes(self._udp(resolver, server, 1024, 53, query))
        kind = self._random.choice(["udp", "udp", "udp", "tcp", "answer", "stranger", "port", "echo"])
        if kind == "tcp":
            connection = Connection(self._random, resolver, server, 1024)
            quoted = bytes(connection.segment(0, 0, with_length(query)))
        elif kind == "answer":
            quoted = bytes(self._udp(resolver, CLIENTS[family][0], 53, 1024, query))
        elif kind == "stranger":
            resolver = CLIENTS[family][0]
            quoted = bytes(self._udp(resolver, server, 1024, 53, query))
        elif kind == "port":
            quoted = bytes(self._udp(resolver, server, 1024, 5353, query))
        if self._random.random() < 0.5:
            self._send_octets(self._later(0.01), quoted)
        header = 20 if family == 4 else 40
        end = self._random.choice([len(quoted), header + 8, self._random.randint(header, len(quoted))])
        reporter = self._random.choice([server, ROUTERS[family]])
        error: Packet
        if family == 4:
            types = [(3, 3), (3, 1), (3, 4), (11, 0)]
            number, code = (8, 0) if kind == "echo" else self._random.choice(types)
            error = IP(src=reporter, dst=resolver) / ICMP(type=number, code=code, nexthopmtu=1400)
        else:
            errors = [ICMPv6DestUnreach(code=4), ICMPv6PacketTooBig(mtu=1280), ICMPv6TimeExceeded()]
            body = ICMPv6EchoRequest() if kind == "echo" else self._random.choice(errors)
            error = IPv6(src=reporter, dst=resolver) / body
        octets = bytearray(bytes(error / Raw(quoted[:end])))
        if self._random.random() < 0.1:
            octets[-1] ^= 1
        self._send_octets(self._later(0.01), bytes(octets))

    def _damaged(self) -> None:
        """A packet cut short, its own lengths left as they were; or one octet of it changed."""
        query = self._query()
        octets = bytearray(self._framed(query))
        place = self._random.randrange(len(octets))
        if self._random.random() < 0.5:
            del octets[place:]
        else:
            octets[place] ^= 1 << self._random.randrange(8)
        self._frames.append((self._later(0.01), bytes(octets)))

    def _pause(self) -> None:
        """Long enough for some queries, or all, to expire."""
        self._now += self._random.choice([10, 59, 61, 100])
        self._answered()

    # ------------------------------------------------------------------ messages

    def _exchange(self, query: bytes, response: bytes) -> None:
        """Both by UDP."""
        for packet in self._datagrams(query, response):
            self._send(self._later(self._random.uniform(0.01, 1)), packet)

    def _datagrams(self, query: bytes, response: bytes) -> tuple[Packet, Packet]:
        family = self._family()
        resolver, server = self._random.choice(LISTED[family]), self._random.choice(SERVERS[family])
        port = self._random.randint(1024, 1030)
        return self._udp(resolver, server, port, 53, query), self._udp(server, resolver, 53, port, response)

    @staticmethod
    def _udp(source: str, destination: str, sport: int, dport: int, octets: bytes) -> Packet:
        network = IP(src=source, dst=destination) if "." in source else IPv6(src=source, dst=destination)
        return network / UDP(sport=sport, dport=dport) / Raw(octets)

    def _connect(self, exchanges: list[tuple[bytes, bytes | None]]) -> None:
        """Over a connection, whose segments come while other things go on."""
        family = self._family()
        client, server = self._random.choice(LISTED[family]), self._random.choice(SERVERS[family])
        connection = Connection(self._random, client, server, self._random.randint(2000, 2005))
        time, pace = self._now, self._random.choice([0.001, 0.1, 2])
        for packet in connection.segments(exchanges):
            time = round(time + pace * self._random.uniform(0.5, 1), 6)
            if self._random.random() < 0.03:
                for piece in fragments(bytes(packet), 64, self._random.getrandbits(32)):
                    self._send_octets(time, piece)
            else:
                self._send(time, packet)

    def _family(self) -> int:
        return self._random.choice([4, 6])

    def _query(self, *, name: str | None = None, rd: int = 0) -> Packet:
        family = self._family()
        resolver, server = self._random.choice(LISTED[family]), self._random.choice(SERVERS[family])
        return self._message(family, resolver, server, self._random.randint(1024, 1030), 53, name=name, rd=rd)

    def _message(
        self,
        family: int,
        source: str,
        destination: str,
        sport: int,
        dport: int,
        *,
        name: str | None = None,
        rd: int = 0,
    ) -> Packet:
        network: Packet
        if family == 4:
            options = [IPOption_NOP()] * self._random.choice([0, 0, 0, 4])
            network = IP(src=source, dst=destination, options=options)
        else:
            network = IPv6(src=source, dst=destination)
            if self._random.random() < 0.1:
                network = network / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
            if self._random.random() < 0.1:
                network = network / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])
        name = name or self._mixed_case(self._random.choice(NAMES))
        dns = DNS(
            id=self._random.randint(0, 20),
            rd=rd,
            qd=[DNSQR(qname=name, qtype=self._random.choice(TYPES))],
            ar=[DNSRROPT(rclass=1232)] if self._random.random() < 0.5 else [],
        )
        return network / UDP(sport=sport, dport=dport) / dns

    def _response(self, query: Packet, *, rcode: int = 0, records: int | None = None) -> Packet:
        # Through its octets: a packet that was never built has no lengths, and options would be shared.
        response = query.__class__(bytes(query))
        response.src, response.dst = query.src, query.dst
        response.src, response.dst = response.dst, response.src
        udp, dns = response[UDP], response[DNS]
        udp.sport, udp.dport = query[UDP].dport, query[UDP].sport
        count = self._random.randint(0, 4) if records is None else records
        dns.qr, dns.aa, dns.rcode = 1, 1, rcode
        dns.an = [DNSRR(rrname="example.", type="A", rdata=f"203.0.113.{n}", ttl=60) for n in range(count)]
        dns.ancount = None
        del udp.len, udp.chksum
        if IP in response:
            del response[IP].len, response[IP].chksum
        else:
            del response[IPv6].plen
        checksum = self._random.random()
        if checksum < 0.1:
            udp.chksum = 0
        elif checksum < 0.2:
            udp.chksum = 0x1234
        return response

    def _mixed_case(self, name: str) -> str:
        return "".join(self._random.choice([letter.upper(), letter.lower()]) for letter in name)

    # ------------------------------------------------------------------ frames

    def _later(self, seconds: float) -> float:
        """Microseconds that a float and a pcap file both hold exactly enough."""
        self._now = round(self._now + seconds * self._random.uniform(0.5, 1), 6)
        return self._now

    def _framed(self, network: Packet | bytes) -> bytes:
        octets = bytes(network)
        if self._random.random() < 0.1:
            # What carries a packet of 64 KiB could not carry it in a tunnel.
            octets = mirrored(self._random, octets) if len(octets) < 60_000 else octets
        return framed(self._random, self._link, octets)

    def _send(self, time: float, network: Packet) -> None:
        self._send_octets(time, bytes(network))

    def _send_octets(self, time: float, octets: bytes) -> None:
        self._frames.append((time, self._framed(octets)))
