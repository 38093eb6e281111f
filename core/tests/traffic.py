"""Random DNS traffic as a sensor may see it, made with scapy, from a seed.

Upstream exchanges of listed resolvers with everything that may go wrong in them, among stub clients,
forwarders, other protocols and broken packets.
"""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRROPT
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN
from scapy.layers.l2 import ARP, CookedLinux, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter

RESOLVERS = ["192.0.2.53", "198.51.100.0/28", "2001:db8::53", "2001:db8:53::/48"]

LINK_TYPES = {"ethernet": 1, "raw": 101, "sll": 113}

LISTED = {4: ["192.0.2.53", "198.51.100.5"], 6: ["2001:db8::53", "2001:db8:53:1::5"]}
SERVERS = {4: ["203.0.113.1", "203.0.113.2"], 6: ["2001:db8:ffff::1", "2001:db8:ffff::2"]}
CLIENTS = {4: ["192.0.2.54", "192.0.2.200"], 6: ["2001:db8::54", "2001:db8:1::1"]}
NAMES = ["example.", "www.example.", "a.very.long.chain.of.labels.under.example.", "."]
TYPES = ["A", "AAAA", "MX", "TXT", "NS"]


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
            (1, self._fragment),
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

    def _fragment(self) -> None:
        query = self._query()
        if IP in query:
            query[IP].flags, query[IP].frag = self._random.choice([("MF", 0), ("", 3)])
        else:
            network = query[IPv6].copy()
            network.remove_payload()
            query = network / IPv6ExtHdrFragment(m=1, id=7) / query[UDP].copy()
        self._send(self._later(0.01), query)

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

    def _framed(self, network: Packet) -> bytes:
        if self._link == "raw":
            return bytes(network)
        ethertype = 0x0800 if IP in network else 0x86DD
        if self._link == "sll":
            return bytes(CookedLinux(proto=ethertype) / network)
        frame: Packet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        tags = self._random.choices([0, 1, 2, 3], [6, 2, 1, 0.3])[0]
        for number in range(tags):
            frame = frame / (Dot1AD(vlan=7) if number == 0 and tags > 1 else Dot1Q(vlan=number + 1))
        padding = b"\0" * self._random.choice([0, 0, 6])
        return bytes(frame / network) + padding

    def _send(self, time: float, network: Packet) -> None:
        self._frames.append((time, self._framed(network)))


def write_pcap(path: Path, frames: Iterable[tuple[float, bytes]], link: int) -> None:
    """A classic pcap file in microseconds."""
    with PcapWriter(str(path), linktype=link, sync=True) as writer:
        writer.write_header(None)
        for time, octets in frames:
            seconds = int(time)
            writer.write_packet(octets, sec=seconds, usec=round((time - seconds) * 1_000_000))
