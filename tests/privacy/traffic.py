"""What a sensor may see beside what it may record, all of it marked.

Whatever must never be recorded holds a mark: names begin with a label ``secret-00017``, options and stray
octets hold ``HIDDEN``, and hosts that have no part in an exchange between resolver and server have addresses
of their own. What is to be recorded has names that begin with ``public-00017``, so that a search that finds
nothing can be told from a search that does not find. A question that would be recorded but for what its
answer holds has a name that begins with ``paired-00017``.
"""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    fragment6,
)
from scapy.layers.l2 import GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.traffic.frames import Frame

RESOLVERS: Final = ("192.0.2.53", "192.0.2.54", "2001:db8::53", "2001:db8::54")
SERVERS: Final = (
    *("198.51.100.1", "198.51.100.77", "198.51.100.200"),
    *("2001:db8:5::1", "2001:db8:5:2::77", "2001:db8:5:ffff::200"),
)

# Each word is somebody whose address must not be recorded.
CLIENTS: Final = ("203.0.113.19", "203.0.113.201", "2001:db8:c11e::19", "2001:db8:c11e:7::201")
FORWARDERS: Final = ("203.0.113.53", "2001:db8:f0::53")
TUNNEL_ENDS: Final = ("192.0.2.241", "192.0.2.242", "2001:db8:7e::1", "2001:db8:7e::2")
ROUTERS: Final = ("192.0.2.129", "2001:db8:40::129")
PRIVATE_SERVERS: Final = (
    *("10.7.7.53", "172.20.9.53", "192.168.99.53", "100.71.9.53", "169.254.7.53", "127.0.7.53"),
    *("fd07:7::53", "fe80::7:53"),
)
STRANGERS: Final = CLIENTS + FORWARDERS + TUNNEL_ENDS + ROUTERS + PRIVATE_SERVERS

LOCAL_ZONES: Final = ("corp.example", "intern.a.example")
"""What the configuration names; `SPECIAL_USE` are some of the names that go without saying."""
SPECIAL_USE: Final = (
    *("local", "localhost", "test", "invalid", "onion", "alt", "internal", "home.arpa"),
    *("10.in-addr.arpa", "31.172.in-addr.arpa", "168.192.in-addr.arpa", "77.100.in-addr.arpa"),
    *("254.169.in-addr.arpa", "d.f.ip6.arpa", "8.e.f.ip6.arpa"),
)
EXCLUDED: Final = r"^pc-[0-9]+\."
PUBLIC_ZONES: Final = ("example", "a.example", "corporation.example", "local.example", "8.in-addr.arpa")

HIDDEN: Final = b"HIDDEN"
HARDWARE_ADDRESS: Final = bytes.fromhex("02d1d15ec7e7")
SERVER_ID: Final = b"public-ns1"

NSID, CLIENT_SUBNET, COOKIE, PADDING, EXTENDED_ERROR = 3, 8, 10, 12, 15
HARDWARE, VENDOR, UNKNOWN = 65001, 26946, 65279
ETHERNET_IN_GRE, ERSPAN_II = 0x6558, 0x88BE

LOCAL_IN_RDATA: Final = {
    "CNAME": "{}",
    "DNAME": "{}",
    "NS": "{}",
    "PTR": "{}",
    "MX": "10 {}",
    "SOA": "{} hostmaster.example. 1 2 3 4 5",
    "SRV": "0 0 5060 {}",
    "NAPTR": '10 10 "s" "SIP+D2U" "" {}',
    "RP": "{} example.",
    "AFSDB": "1 {}",
    "KX": "10 {}",
    "NSEC": "{} A RRSIG",
    "RRSIG": "A 13 2 3600 20300101000000 20200101000000 12345 {} AAAAAAAAAAA=",
    "SVCB": "1 {} port=853",
    "HTTPS": "1 {} alpn=h2",
    "IPSECKEY": "10 3 2 {} AQNRU3mG7TVTO2BkR47usntb102uFJtugbo6BSGvgqt4AQ==",
    "HIP": "2 200100107B1A74DF365639CC39F1D578 AwEAAbdxyhNuSutc5EMzxTs9LBPCIkOFH8cIvM4p9+LrV4e19WzK00+CI6zBCQTdtWsuxKbWIy87UOoJTwkUs7lBu+Upr1gsNrut79ryra+bSRGQb1slImA8YVJyuIDsj7kwzG7jnERNqnWxZ48AWkskmdHaVDP4BcelrTI3rMXdXF5D {}",  # noqa: E501
}
"""Rdata with a name in it, by type."""


@dataclass
class Marks:
    """What the traffic held."""

    public: set[str] = field(default_factory=set)
    secret: set[str] = field(default_factory=set)
    paired: set[str] = field(default_factory=set)
    servers: set[str] = field(default_factory=set)
    """Servers of exchanges that are to be recorded."""


class MixedTraffic:
    """Frames of an Ethernet in order of time, and the marks in them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._now = 1_700_000_000.0
        self._frames: list[Frame] = []
        self._number = 0
        self.marks = Marks()
        self.scenes: list[Callable[[], None]] = [
            self._upstream,
            self._upstream,
            self._upstream_by_tcp,
            self._unanswered,
            self._unreachable,
            self._unreachable_by_tcp,
            self._stub,
            self._stub_by_tcp,
            self._unreachable_stub,
            self._forwarder,
            self._both_listed,
            self._local_question,
            self._local_question_unanswered,
            self._local_answer,
            self._local_owner,
            self._local_second_question,
            self._local_question_refused,
            self._single_label,
            self._excluded_by_pattern,
            self._private_server,
            self._transfer,
            self._transfer_going_on,
            self._transfer_by_udp,
            self._other_opcode,
            self._transaction_key,
        ]

    def take(self, rounds: int) -> list[Frame]:
        """So many rounds of every scene, in random order."""
        scenes = self.scenes * rounds
        self._random.shuffle(scenes)
        for scene in scenes:
            scene()
        return sorted(self._frames, key=lambda frame: frame.time)

    # ------------------------------------------------------------------ upstream, to be recorded

    def _upstream(self) -> None:
        resolver, server = self._pair()
        query = self._query(self._public())
        self._exchange(resolver, server, query, self._answer(query))

    def _upstream_by_tcp(self) -> None:
        resolver, server = self._pair()
        query = self._query(self._public())
        self._connection(resolver, server, [query], [self._answer(query)])

    def _unanswered(self) -> None:
        resolver, server = self._pair()
        self.marks.servers.add(server)
        self._datagram(resolver, server, self._port(), 53, _wire(self._query(self._public())))

    def _unreachable(self) -> None:
        """A router says that a query did not arrive; it may quote as much as it likes."""
        resolver, server = self._pair()
        self.marks.servers.add(server)
        wire = _wire(self._query(self._public()))
        packet = _network(resolver, server) / UDP(sport=self._port(), dport=53) / Raw(wire)
        self._put(packet)
        self._put(self._refusal(ROUTERS, resolver, bytes(packet)))

    def _unreachable_by_tcp(self) -> None:
        """The same of the segment that carries a question."""
        resolver, server = self._pair()
        port = self._port()
        query = self._query(self._public())
        segment = _network(resolver, server) / TCP(sport=port, dport=53, flags="PA") / Raw(_framed(query))
        self._connection(resolver, server, [query], [], port)
        self._put(self._refusal(ROUTERS, resolver, bytes(segment)))

    # ------------------------------------------------------------------ others' traffic

    def _stub(self) -> None:
        client, resolver = self._ends(CLIENTS, RESOLVERS)
        query = self._query(self._secret(), rd=self._random.choice([True, True, False]))
        answer = self._answer(query, owner=query.question[0].name)
        self._exchange(client, resolver, query, answer, port=self._random.choice([53, self._port()]))

    def _stub_by_tcp(self) -> None:
        client, resolver = self._ends(CLIENTS, RESOLVERS)
        query = self._query(self._secret(), rd=self._random.choice([True, False]))
        port = self._random.choice([53, self._port()])
        self._connection(client, resolver, [query], [self._answer(query)], port)

    def _unreachable_stub(self) -> None:
        """A client that did not wait: its host or a router quotes the answer that came too late."""
        client, resolver = self._ends(CLIENTS, RESOLVERS)
        query = self._query(self._secret(), rd=True)
        answer = _wire(self._answer(query))
        packet = _network(resolver, client) / UDP(sport=53, dport=self._port()) / Raw(answer)
        self._put(self._refusal(CLIENTS, resolver, bytes(packet)))

    def _forwarder(self) -> None:
        resolver, forwarder = self._ends(RESOLVERS, FORWARDERS)
        query = self._query(self._secret(), rd=True)
        self._exchange(resolver, forwarder, query, self._answer(query))

    def _both_listed(self) -> None:
        family = self._random.choice([0, 2])
        query = self._query(self._secret())
        self._exchange(RESOLVERS[family], RESOLVERS[family + 1], query, self._answer(query))

    def _private_server(self) -> None:
        resolver, server = self._ends(RESOLVERS, PRIVATE_SERVERS)
        query = self._query(self._secret())
        exchange = self._random.choice([self._exchange, self._connection_of_one])
        exchange(resolver, server, query, self._answer(query))

    # ------------------------------------------------------------------ names that are kept out

    def _local_question(self) -> None:
        resolver, server = self._pair()
        query = self._query(self._local())
        exchange = self._random.choice([self._exchange, self._connection_of_one])
        exchange(resolver, server, query, self._answer(query, owner=query.question[0].name))

    def _local_question_unanswered(self) -> None:
        resolver, server = self._pair()
        name = self._random.choice([self._local(), f"{self._secret_label()}."])
        packet = (
            _network(resolver, server) / UDP(sport=self._port(), dport=53) / Raw(_wire(self._query(name)))
        )
        self._put(packet)
        if self._random.random() < 0.5:
            self._put(self._refusal(ROUTERS, resolver, bytes(packet)))

    def _local_answer(self) -> None:
        """Somebody's public name leads to an internal one."""
        resolver, server = self._pair()
        rrtype, rdata = self._random.choice(list(LOCAL_IN_RDATA.items()))
        query = self._query(self._paired())
        answer = self._answer(query)
        section = self._random.choice([answer.answer, answer.authority, answer.additional])
        owner = query.question[0].name
        section.append(dns.rrset.from_text(owner, 300, "IN", rrtype, rdata.format(self._local())))
        exchange = self._random.choice([self._exchange, self._connection_of_one])
        exchange(resolver, server, query, answer)

    def _local_owner(self) -> None:
        resolver, server = self._pair()
        query = self._query(self._paired())
        answer = self._answer(query)
        section = self._random.choice([answer.answer, answer.authority, answer.additional])
        section.append(dns.rrset.from_text(self._local(), 300, "IN", "A", "192.0.2.17"))
        self._exchange(resolver, server, query, answer)

    def _local_second_question(self) -> None:
        """Nobody asks so, but anybody can."""
        resolver, server = self._pair()
        query = self._query(self._paired())
        query.question += self._query(self._local()).question
        self._exchange(resolver, server, query, self._answer(query))

    def _local_question_refused(self) -> None:
        """The refusal repeats no question, so that the query's would be shown."""
        resolver, server = self._pair()
        name = self._random.choice([self._local(), f"{self._secret_label()}."])
        query = self._query(name)
        answer = dns.message.make_response(query)
        answer.set_rcode(self._random.choice([dns.rcode.REFUSED, dns.rcode.SERVFAIL]))
        answer.question = []
        self._exchange(resolver, server, query, answer)

    def _single_label(self) -> None:
        resolver, server = self._pair()
        query = self._query(f"{self._secret_label()}.")
        answer = self._answer(query, owner=dns.name.root)
        answer.set_rcode(self._random.choice([dns.rcode.NOERROR, dns.rcode.NXDOMAIN]))
        self._exchange(resolver, server, query, answer)

    def _excluded_by_pattern(self) -> None:
        resolver, server = self._pair()
        query = self._query(f"PC-{self._random.randrange(100)}.{self._secret_label()}.example.")
        self._exchange(resolver, server, query, self._answer(query))

    # ------------------------------------------------------------------ operations that carry whole zones

    def _transfer(self) -> None:
        resolver, server = self._pair()
        query = self._query(self._secret(), rdtype=self._random.choice(["AXFR", "IXFR"]))
        answer = self._answer(query)
        for _ in range(20):
            answer.answer.append(dns.rrset.from_text(self._secret(), 300, "IN", "A", "192.0.2.17"))
        self._connection(resolver, server, [query], [answer, answer])

    def _transfer_going_on(self) -> None:
        """What a sensor sees that was started in the middle: no question, neither asked nor repeated."""
        resolver, server = self._pair()
        answer = self._answer(self._query(self._secret(), rdtype="AXFR"))
        for _ in range(20):
            answer.answer.append(dns.rrset.from_text(self._secret(), 300, "IN", "A", "192.0.2.17"))
        answer.question = []
        self._connection(resolver, server, [], [answer, answer])

    def _transfer_by_udp(self) -> None:
        resolver, server = self._pair()
        query = self._query(self._secret(), rdtype="IXFR")
        self._exchange(resolver, server, query, self._answer(query))

    def _other_opcode(self) -> None:
        resolver, server = self._pair()
        query = self._query(self._secret(), rdtype="SOA")
        query.set_opcode(self._random.choice([dns.opcode.UPDATE, dns.opcode.NOTIFY, dns.opcode.STATUS]))
        exchange = self._random.choice([self._exchange, self._connection_of_one])
        exchange(resolver, server, query, dns.message.make_response(query))

    def _transaction_key(self) -> None:
        resolver, server = self._pair()
        query = self._query(self._secret(), rdtype="TKEY")
        exchange = self._random.choice([self._exchange, self._connection_of_one])
        exchange(resolver, server, query, self._answer(query))

    # ------------------------------------------------------------------ names

    def _label(self, kind: str, marks: set[str]) -> str:
        self._number += 1
        label = f"{kind}-{self._number:05}"
        marks.add(label)
        return label

    def _secret_label(self) -> str:
        return self._label("secret", self.marks.secret)

    def _public(self) -> str:
        return self._below_public_zone(self._label("public", self.marks.public))

    def _secret(self) -> str:
        return self._below_public_zone(self._secret_label())

    def _paired(self) -> str:
        return self._below_public_zone(self._label("paired", self.marks.paired))

    def _below_public_zone(self, label: str) -> str:
        return self._spell(f"{label}.{self._random.choice(PUBLIC_ZONES)}.")

    def _local(self) -> str:
        zone = self._random.choice(self._random.choice([LOCAL_ZONES, SPECIAL_USE]))
        return self._spell(f"{self._secret_label()}.{zone}.")

    def _spell(self, name: str) -> str:
        """Letters of either case, as resolvers write that want to be hard to fool."""
        return "".join(self._random.choice([letter.lower(), letter.upper()]) for letter in name)

    # ------------------------------------------------------------------ messages

    def _query(self, name: str, *, rdtype: str | None = None, rd: bool = False) -> dns.message.Message:
        rdtype = rdtype or self._random.choice(["A", "AAAA", "MX", "TXT", "NS"])
        query = dns.message.make_query(name, rdtype, id=self._random.randrange(65536))
        query.flags = dns.flags.RD if rd else dns.flags.Flag(0)
        if self._random.random() < 0.8:
            asked = _option(NSID, self._random.choice([b"", HIDDEN]))
            query.use_edns(options=[*self._private_options(), asked])
        return query

    def _answer(self, query: dns.message.Message, owner: Any = None) -> dns.message.Message:
        """An answer that repeats the question; an OPT record that dnspython writes last."""
        answer = dns.message.make_response(query)
        owner = owner or query.question[0].name
        for rrtype, rdata in self._random.sample(
            [
                ("A", "192.0.2.99"),
                ("AAAA", "2001:db8:99::1"),
                ("MX", "10 mail.a.example."),
                ("CNAME", "www.a.example."),
                ("TXT", '"text"'),
                ("SOA", "ns1.a.example. hostmaster.a.example. 1 2 3 4 5"),
            ],
            self._random.randint(0, 3),
        ):
            section = self._random.choice([answer.answer, answer.authority, answer.additional])
            section.append(dns.rrset.from_text(owner, 300, "IN", rrtype, rdata))
        if self._random.random() < 0.3:
            filler = " ".join(f'"{"x" * 200}"' for _ in range(self._random.randint(5, 9)))
            answer.additional.append(dns.rrset.from_text("filler.example.", 300, "IN", "TXT", filler))
        if query.edns >= 0:
            error = _option(EXTENDED_ERROR, b"\0\x16" + HIDDEN)
            options = [*self._private_options(), _option(NSID, SERVER_ID), error]
            self._random.shuffle(options)
            answer.use_edns(options=options)
        return answer

    def _private_options(self) -> list[dns.edns.Option]:
        client = ip_address(self._random.choice(CLIENTS))
        subnet = bytes([0, 1 if client.version == 4 else 2, client.max_prefixlen, 0]) + client.packed
        options = [
            _option(code, data)
            for code, data in (
                (CLIENT_SUBNET, subnet),
                (COOKIE, HIDDEN + b"-1"),
                (COOKIE, HIDDEN + b"0123456789" + HIDDEN),
                (PADDING, HIDDEN * 5),
                (HARDWARE, HARDWARE_ADDRESS),
                (VENDOR, b"ODNS" + HIDDEN),
                (UNKNOWN, HIDDEN),
            )
        ]
        return self._random.sample(options, self._random.randint(0, 4))

    # ------------------------------------------------------------------ packets

    def _ends(self, ones: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, str]:
        """One of each, of one family."""
        one = self._random.choice(ones)
        return one, self._random.choice([other for other in others if (":" in other) == (":" in one)])

    def _pair(self) -> tuple[str, str]:
        return self._ends(RESOLVERS, SERVERS)

    def _port(self) -> int:
        return self._random.randint(1024, 65535)

    def _exchange(
        self,
        asking: str,
        asked: str,
        query: dns.message.Message,
        answer: dns.message.Message,
        port: int | None = None,
    ) -> None:
        port = port or self._port()
        if self._is_public(query):
            self.marks.servers.add(asked)
        self._datagram(asking, asked, port, 53, self._second_opt(_wire(query)))
        self._datagram(asked, asking, 53, port, self._second_opt(_wire(answer)))

    def _second_opt(self, message: bytes) -> bytes:
        """Sometimes a second OPT record, of which RFC 6891 allows one, with something private in it."""
        if self._random.random() < 0.9:
            return message
        option = _option(COOKIE, HIDDEN + b"-1").to_wire() or b""
        opt = bytes(1) + struct.pack("!HHIHHH", 41, 1232, 0, 4 + len(option), COOKIE, len(option)) + option
        additional = int.from_bytes(message[10:12], "big") + 1
        return message[:10] + additional.to_bytes(2, "big") + message[12:] + opt

    def _is_public(self, query: dns.message.Message) -> bool:
        return query.question[0].name.labels[0].lower().startswith(b"public-")

    def _datagram(self, source: str, target: str, sport: int, dport: int, message: bytes) -> None:
        stray = self._random.choices(["", "message", "datagram", "headers"], [6, 1, 1, 1])[0]
        if stray == "message":
            message += HIDDEN
        udp = UDP(sport=sport, dport=dport) / Raw(message)
        network = _network(source, target)
        if stray == "headers":
            router = next(router for router in ROUTERS if (":" in router) == (":" in source))
            if ":" in source:
                hidden = [PadN(optdata=ip_address(router).packed)]
                network /= self._random.choice(
                    [
                        IPv6ExtHdrDestOpt(options=hidden),
                        IPv6ExtHdrHopByHop(options=hidden),
                        IPv6ExtHdrRouting(addresses=[router], segleft=0),
                    ]
                )
            else:
                network = _network(source, target, options=[IPOption_RR(routers=[router], pointer=8)])
        packet = network / udp
        if sport == 53 and self._random.random() < 0.1:
            packet[UDP].chksum = 0x2BAD
        if stray == "datagram":
            packet[UDP].len = 8 + len(message)
            packet = packet / Raw(HIDDEN)
        if self._random.random() < 0.2 and len(message) > 200:
            self._fragments(packet)
        else:
            self._put(packet)

    def _fragments(self, packet: Packet) -> None:
        if IP in packet:
            packet[IP].id = self._random.randrange(1, 65536)
            pieces = fragment(packet, self._random.choice([128, 256, 512]))  # type: ignore[no-untyped-call]
        else:
            payload = packet[UDP].copy()
            network = IPv6(src=packet[IPv6].src, dst=packet[IPv6].dst)
            header = IPv6ExtHdrFragment(id=self._random.randrange(1 << 32))
            whole = network / header / payload
            pieces = fragment6(whole, self._random.choice([1280, 1400]))  # type: ignore[no-untyped-call]
        self._random.shuffle(pieces)
        for piece in pieces:
            self._put(piece)

    def _connection_of_one(
        self, asking: str, asked: str, query: dns.message.Message, answer: dns.message.Message
    ) -> None:
        self._connection(asking, asked, [query], [answer])

    def _connection(
        self,
        asking: str,
        asked: str,
        queries: list[dns.message.Message],
        answers: list[dns.message.Message],
        port: int | None = None,
    ) -> None:
        """A TCP connection in segments of any size; without queries, what comes back from its middle on."""
        if queries and self._is_public(queries[0]):
            self.marks.servers.add(asked)
        port = port or self._port()
        there, back = self._random.randrange(1 << 32), self._random.randrange(1 << 32)

        def put(source: str, flags: str, sequence: int, data: bytes = b"") -> None:
            target, sport, dport = (asked, port, 53) if source == asking else (asking, 53, port)
            tcp = TCP(sport=sport, dport=dport, flags=flags, seq=sequence % (1 << 32), ack=1)
            self._put(_network(source, target) / tcp / Raw(data))

        if queries:
            put(asking, "S", there)
            put(asked, "SA", back)
        for source, start, messages in ((asking, there, queries), (asked, back, answers)):
            stream = b"".join(_framed(message) for message in messages)
            at = 0
            while at < len(stream):
                size = self._random.choice([100, 700, 1400])
                put(source, "PA", start + 1 + at, stream[at : at + size])
                at += size
            put(source, "FA", start + 1 + len(stream))

    def _refusal(self, senders: tuple[str, ...], receiver: str, quoted: bytes) -> Packet:
        """ICMP's word that a packet did not arrive; some routers append what they know (RFC 4884)."""
        sender = self._random.choice([sender for sender in senders if (":" in sender) == (":" in receiver)])
        quoted += self._random.choice([b"", HIDDEN])
        if ":" in receiver:
            return _network(sender, receiver) / ICMPv6DestUnreach(code=4) / Raw(quoted[:1200])
        return (
            _network(sender, receiver) / ICMP(type=3, code=3) / Raw(quoted[: self._random.choice([60, 540])])
        )

    # ------------------------------------------------------------------ frames

    def _put(self, packet: Packet) -> None:
        """Put a packet on the wire, as it is or as a mirror brings it."""
        self._now += self._random.uniform(0.001, 0.05)
        link = Ether(src=HARDWARE_ADDRESS, dst=HARDWARE_ADDRESS)
        inner = link / packet
        # A mirror of its own, or the resolver itself.
        tunnel = _network(*self._ends((*TUNNEL_ENDS[::2], RESOLVERS[0], RESOLVERS[2]), TUNNEL_ENDS[1::2]))
        ways = ["plain", "vlan", "qinq", "gre", "gre_ethernet", "erspan", "vxlan", "vxlan_in_gre"]
        way = self._random.choices(ways, [10, 1, 1, 1, 1, 1, 1, 1])[0]
        vxlan = UDP(sport=40000, dport=4789, chksum=0) / VXLAN(vni=7) / inner
        match way:
            case "plain":
                frame = bytes(inner) + self._random.choice([b"", b"", HIDDEN])
            case "vlan":
                frame = bytes(link / Dot1Q(vlan=7) / packet)
            case "qinq":
                frame = bytes(link / Dot1AD(vlan=7) / Dot1Q(vlan=8) / packet)
            case "gre":
                frame = bytes(link / tunnel / GRE(proto=0x0800 if IP in packet else 0x86DD) / packet)
            case "gre_ethernet":
                frame = bytes(link / tunnel / GRE(proto=ETHERNET_IN_GRE) / inner)
            case "erspan":
                gre = GRE(proto=ERSPAN_II, seqnum_present=1, sequence_number=self._number)
                frame = bytes(link / tunnel / gre / Raw(b"\x10\x07\0\x01\0\0\0\0") / inner)
            case "vxlan":
                frame = bytes(link / tunnel / vxlan)
            case _:
                mirror = _network(TUNNEL_ENDS[0], TUNNEL_ENDS[1])
                frame = bytes(link / tunnel / GRE(proto=0x0800) / mirror / vxlan)
        self._frames.append(Frame(self._now, frame))


def _network(source: str, target: str, **fields: Any) -> Packet:
    return (IPv6 if ":" in source else IP)(src=source, dst=target, **fields)


def _option(code: int, data: bytes) -> dns.edns.Option:
    return dns.edns.GenericOption(dns.edns.OptionType.make(code), data)


def _wire(message: dns.message.Message) -> bytes:
    wire: bytes = message.to_wire(max_size=65535)
    return wire


def _framed(message: dns.message.Message) -> bytes:
    wire = _wire(message)
    return len(wire).to_bytes(2, "big") + wire
