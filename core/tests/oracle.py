"""What a sensor has to make of frames, decided a second time: with scapy, dnspython and plain lists.

The rules are those of docs/reference/packets-and-transactions.md; nothing here is shared with the code under
test, and nothing is quick.
"""

import ipaddress
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dns.exception
import dns.name
from scapy.layers.inet import IP, UDP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum

TIMEOUT = 60
FAILURES = {1, 2, 4, 5}
ETHERTYPES = {0x0800: 4, 0x86DD: 6}
VLAN_TAGS = {0x8100, 0x88A8, 0x9100}
EXTENSIONS = {0, 43, 60}
FRAGMENT = 44


class Refused(Exception):
    """The outcome of a packet that is not recorded."""


@dataclass(frozen=True)
class Message:
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    id: int
    flags: int
    question: tuple[bytes, int, int] | None
    datagram: bytes
    checksum: str

    @property
    def response(self) -> bool:
        return bool(self.flags & 0x8000)

    @property
    def rcode(self) -> int:
        return self.flags & 15


@dataclass(frozen=True)
class Waiting:
    key: tuple[bytes, bytes, int, int, int]
    question: tuple[bytes, int, int] | None
    time: int


class Oracle:
    """Feed it frames; `transactions` and `outcomes` are what must come out. Times are in microseconds."""

    def __init__(self, resolvers: Iterable[str], link: int, *, table_max: int = 131072) -> None:
        self._resolvers = [ipaddress.ip_network(resolver) for resolver in resolvers]
        self._link = link
        self._table_max = table_max
        self._waiting: list[Waiting] = []
        self._now = 0
        self.transactions: list[dict[str, Any]] = []
        self.outcomes: Counter[str] = Counter()

    def see(self, time: int, frame: bytes) -> None:
        self._now = time
        try:
            self._take(time, self._admitted(frame))
        except Refused as refused:
            self.outcomes[str(refused)] += 1
        while self._waiting and (
            len(self._waiting) > self._table_max
            or self._now // 1_000_000 - self._waiting[0].time // 1_000_000 > TIMEOUT
        ):
            self._give_up()

    def finish(self) -> None:
        while self._waiting:
            self._give_up()

    # ------------------------------------------------------------------ admission

    def _admitted(self, frame: bytes) -> Message:
        message = self._parsed(self._network(frame))
        listed = self._listed(message.source), self._listed(message.destination)
        server_port = message.destination_port if listed[0] else message.source_port
        for refused, outcome in [
            (not any(listed), "packets_filtered_direction"),
            (all(listed), "packets_filtered_both_listed"),
            (server_port != 53, "packets_filtered_direction"),
        ]:
            if refused:
                raise Refused(outcome)
        self.outcomes["packets_passed"] += 1
        if len(_payload(message.datagram)) < 12:
            raise Refused("messages_rejected_malformed")
        for refused, outcome in [
            (message.response != listed[1], "messages_filtered_direction"),
            (bool(message.flags & 0x7800), "messages_filtered_opcode"),
            (bool(message.flags & 0x0100), "messages_filtered_rd"),
        ]:
            if refused:
                raise Refused(outcome)
        message = self._with_question(message)
        if message.question is not None and message.question[1] in {249, 251, 252}:
            raise Refused("messages_filtered_qtype")
        return message

    def _listed(self, address: bytes) -> bool:
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._resolvers)

    def _network(self, frame: bytes) -> tuple[int, bytes]:
        if self._link == 101:
            version = frame[0] >> 4 if frame else 0
            if version not in {4, 6}:
                raise Refused("packets_rejected_malformed")
            return version, frame
        offset = 12 if self._link == 1 else 14
        for _ in range(3):
            if len(frame) < offset + 2:
                raise Refused("packets_rejected_malformed")
            ethertype = int.from_bytes(frame[offset : offset + 2], "big")
            if ethertype in ETHERTYPES:
                return ETHERTYPES[ethertype], frame[offset + 2 :]
            if ethertype not in VLAN_TAGS:
                break
            offset += 4
        raise Refused("packets_filtered_protocol")

    def _parsed(self, network: tuple[int, bytes]) -> Message:
        family, octets = network
        if len(octets) < (20 if family == 4 else 40):
            raise Refused("packets_rejected_malformed")
        transport, total, source, destination = self._ipv4(octets) if family == 4 else self._ipv6(octets)
        datagram = octets[:total]
        segment = datagram[transport:]
        if len(segment) < 6:
            raise Refused("packets_rejected_malformed")
        udp = UDP(segment)
        if 53 not in (udp.sport, udp.dport):
            raise Refused("packets_filtered_port")
        if not 8 <= udp.len <= len(segment):
            raise Refused("packets_rejected_malformed")
        segment = segment[: udp.len]
        # A message without a header is refused later; what its flags would be does not matter.
        identifier, flags = struct.unpack_from("!HH", segment[8:].ljust(4, b"\0"))
        return Message(
            source,
            destination,
            udp.sport,
            udp.dport,
            identifier,
            flags,
            None,
            datagram,
            self._checksum(family, datagram, segment),
        )

    @staticmethod
    def _ipv4(octets: bytes) -> tuple[int, int, bytes, bytes]:
        ip = IP(octets)
        if ip.version != 4 or ip.ihl < 5:
            raise Refused("packets_rejected_malformed")
        if ip.proto != 17:
            raise Refused("packets_filtered_protocol")
        if not ip.ihl * 4 <= ip.len <= len(octets):
            raise Refused("packets_rejected_malformed")
        if ip.frag or "MF" in str(ip.flags):
            raise Refused("packets_rejected_fragment")
        return ip.ihl * 4, ip.len, octets[12:16], octets[16:20]

    @staticmethod
    def _ipv6(octets: bytes) -> tuple[int, int, bytes, bytes]:
        ip = IPv6(octets)
        if ip.version != 6:
            raise Refused("packets_rejected_malformed")
        following, transport, fragment = ip.nh, 40, False
        for _ in range(4):
            if following not in EXTENSIONS | {FRAGMENT} or fragment:
                break
            if len(octets) < transport + 8:
                raise Refused("packets_rejected_malformed")
            # The first fragment and the last in one is none.
            fragment = (
                following == FRAGMENT and int.from_bytes(octets[transport + 2 : transport + 4]) & 0xFFF9 > 0
            )
            units = 0 if following == FRAGMENT else octets[transport + 1]
            following, transport = octets[transport], transport + 8 * (units + 1)
            if transport > len(octets):
                raise Refused("packets_rejected_malformed")
        if following != 17 and not (fragment and following in EXTENSIONS):
            raise Refused("packets_filtered_protocol")
        if not transport <= 40 + ip.plen <= len(octets):
            raise Refused("packets_rejected_malformed")
        if fragment:
            raise Refused("packets_rejected_fragment")
        return transport, 40 + ip.plen, octets[8:24], octets[24:40]

    @staticmethod
    def _checksum(family: int, datagram: bytes, segment: bytes) -> str:
        if segment[6:8] == b"\0\0":
            return "ABSENT"
        if family == 4:
            source, destination = (str(ipaddress.ip_address(datagram[at : at + 4])) for at in (12, 16))
            remainder = in4_chksum(17, IP(src=source, dst=destination), segment)
        else:
            source, destination = (str(ipaddress.ip_address(datagram[at : at + 16])) for at in (8, 24))
            remainder = in6_chksum(17, IPv6(src=source, dst=destination), segment)  # type: ignore[no-untyped-call]
        return "CORRECT" if remainder == 0 else "INCORRECT"

    @staticmethod
    def _with_question(message: Message) -> Message:
        payload = _payload(message.datagram)
        if int.from_bytes(payload[4:6], "big") != 1 or len(payload) == 12:
            return message
        try:
            # Alone, the question has nothing before it that a pointer could point to.
            name, used = dns.name.from_wire(payload[12:], 0)
        except dns.exception.DNSException as error:
            raise Refused("messages_rejected_malformed") from error
        fields = payload[12 + used : 16 + used]
        if len(fields) < 4:
            raise Refused("messages_rejected_malformed")
        question = (name.to_wire(), *struct.unpack("!HH", fields))
        return Message(**{**message.__dict__, "question": question})

    # ------------------------------------------------------------------ pairing

    def _take(self, time: int, message: Message) -> None:
        if not message.response:
            ends = (message.source, message.destination, message.source_port, message.destination_port)
            self._waiting.append(Waiting((*ends, message.id), message.question, time))
            return
        ends = (message.destination, message.source, message.destination_port, message.source_port)
        key = (*ends, message.id)
        query = next((query for query in self._waiting if self._answers(query, key, message)), None)
        question = message.question
        if query is not None:
            self._waiting.remove(query)
            question = question or query.question
        self._emit(
            "UDP_UNSOLICITED_RESPONSE" if query is None else "UDP_QUERY_RESPONSE",
            key,
            question,
            rcode=message.rcode,
            query_time=None if query is None else query.time,
            response_time=time,
            response_packet=_kept(message.datagram),
            udp_checksum=message.checksum,
        )

    @staticmethod
    def _answers(query: Waiting, key: tuple[bytes, bytes, int, int, int], response: Message) -> bool:
        if query.key != key:
            return False
        if query.question is None or response.question is None:
            return response.rcode in FAILURES
        return query.question == response.question

    def _give_up(self) -> None:
        query = self._waiting.pop(0)
        waited = (self._now - query.time) / 1_000_000
        self._emit("UDP_UNANSWERED_QUERY", query.key, query.question, query_time=query.time, timeout=waited)

    def _emit(
        self,
        kind: str,
        key: tuple[bytes, bytes, int, int, int],
        question: tuple[bytes, int, int] | None,
        **facts: Any,
    ) -> None:
        names = ("query_ip", "response_ip", "query_port", "response_port", "id")
        transaction = {"type": kind, **dict(zip(names, key, strict=True))}
        if question is not None:
            transaction |= dict(zip(("qname", "qtype", "qclass"), question, strict=True))
        transaction |= {name: fact for name, fact in facts.items() if fact is not None}
        self.transactions.append(transaction)
        self.outcomes["messages_recorded"] += 2 if kind == "UDP_QUERY_RESPONSE" else 1


def _segment(datagram: bytes) -> bytes:
    """UDP in a datagram that was found to be well-formed."""
    if datagram[0] >> 4 == 4:
        transport = 4 * (datagram[0] & 15)
    else:
        following, transport = datagram[6], 40
        while following in EXTENSIONS | {FRAGMENT}:
            units = 0 if following == FRAGMENT else datagram[transport + 1]
            following, transport = datagram[transport], transport + 8 * (units + 1)
    return datagram[transport : transport + int.from_bytes(datagram[transport + 4 : transport + 6])]


def _payload(datagram: bytes) -> bytes:
    """The DNS message of such a datagram."""
    return _segment(datagram)[8:]


def _kept(datagram: bytes) -> bytes:
    """What is stored of such a datagram: its base header and UDP."""
    if datagram[0] >> 4 == 4:
        ipv4 = IP(datagram[:20])
        ipv4.ihl, ipv4.len, ipv4.chksum = 5, None, None
        return bytes(ipv4 / _segment(datagram))
    ipv6 = IPv6(datagram[:40])
    ipv6.nh, ipv6.plen = 17, None
    return bytes(ipv6 / _segment(datagram))


def comparable(payload: dict[str, Any]) -> dict[str, Any]:
    """A decoded dnsqr in the words of the oracle."""
    message = payload["message"]
    taken = ["type", "query_ip", "response_ip", "query_port", "response_port", "id", "qname", "qtype"]
    taken += ["qclass", "rcode", "timeout", "udp_checksum"]
    transaction = {name: message[name] for name in taken if name in message}
    for name in ("query", "response"):
        times = zip(message[f"{name}_time_sec"], message[f"{name}_time_nsec"], strict=True)
        for seconds, nanoseconds in times:
            transaction[f"{name}_time"] = seconds * 1_000_000 + nanoseconds // 1000
    for packet in message["response_packet"]:
        transaction["response_packet"] = packet
    return transaction
