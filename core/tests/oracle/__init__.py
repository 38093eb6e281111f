"""What a sensor has to make of frames, decided a second time: with scapy, dnspython and plain lists.

The rules are those of docs/reference/packets-and-transactions.md; nothing here is shared with the code under
test, and nothing is quick.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scapy.layers.inet import UDP as UDPHeader

from . import contents, errors, stored
from .contents import Malformed, Question
from .packets import ICMP, ICMPV6, TCP, UDP, Datagrams, Packet, Refused, innermost, parsed
from .streams import Key, Streams

__all__ = ["Oracle", "comparable", "same"]

TIMEOUT = 60
FAILURES = {1, 2, 4, 5}
WANTED = {UDP, TCP, ICMP, ICMPV6}
QUERY_RESPONSE, UNANSWERED, UNSOLICITED = (
    "UDP_QUERY_RESPONSE",
    "UDP_UNANSWERED_QUERY",
    "UDP_UNSOLICITED_RESPONSE",
)


class Filtered(Exception):
    """The outcome of a message that is no part of a transaction."""


@dataclass(frozen=True)
class Message:
    time: int
    protocol: int
    resolver: bytes
    server: bytes
    port: int
    response: bool
    octets: bytes
    #: The IP datagram that it came in, its UDP header, and what the check of its checksum found.
    datagram: tuple[bytes, bytes] | None = None
    checksum: str | None = None
    question: Question | None = None

    @property
    def key(self) -> tuple[object, ...]:
        return (self.protocol, self.resolver, self.server, self.port, contents.number(self.octets, 0))

    @property
    def rcode(self) -> int:
        return self.octets[3] & 15


class Oracle:
    """Feed it frames; `ledger()` and `transactions` are what must come out.

    Times are in microseconds.
    """

    def __init__(
        self,
        resolvers: Iterable[str],
        link: int,
        *,
        table_max: int = 131072,
        encapsulated: bool = True,
    ) -> None:
        self._resolvers = [ipaddress.ip_network(resolver) for resolver in resolvers]
        self._link = link
        self._table_max = table_max
        self._encapsulated = encapsulated
        self._waiting: list[Message] = []
        self._now = 0
        self._datagrams = Datagrams(self._settle)
        self._streams = Streams(self._settle, self._deliver)
        self.transactions: list[dict[str, Any]] = []
        self._packets: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()

    def see(self, time: int, frame: bytes) -> None:
        self._now = time
        try:
            packet = innermost(self._link, frame, WANTED, encapsulated=self._encapsulated)
            if packet.piece is None:
                self._take(packet, 1)
            else:
                self._take_piece(packet)
        except Refused as refused:
            self._settle(str(refused), 1)
        self._settle_time(time)

    def finish(self) -> None:
        self._datagrams.finish()
        self._streams.finish()
        while self._waiting:
            self._give_up()

    def ledger(self) -> dict[str, int]:
        """Both stages; the first number of each is the sum of the others."""
        waiting = self._datagrams.waiting() + self._streams.waiting()
        packets = self._packets + Counter({"packets_waiting": waiting})
        messages = self._messages + Counter({"transactions_pending": len(self._waiting)})
        sums = {"packets_seen": packets.total(), "messages_seen": messages.total()}
        return {name: count for name, count in {**sums, **packets, **messages}.items() if count}

    def _settle(self, outcome: str, packets: int) -> None:
        self._packets[f"packets_{outcome}"] += packets

    def _judge(self, outcome: str, messages: int = 1) -> None:
        self._messages[f"messages_{outcome}"] += messages

    def _settle_time(self, now: int) -> None:
        self._datagrams.expire(now)
        self._streams.expire(now)
        while self._waiting and (
            len(self._waiting) > self._table_max
            or now // 1_000_000 - self._waiting[0].time // 1_000_000 > TIMEOUT
        ):
            self._give_up()

    # ------------------------------------------------------------------ packets

    def _take(self, packet: Packet, packets: int) -> None:
        try:
            if packet.protocol == UDP:
                self._take_udp(packet, packets)
            elif packet.protocol == TCP:
                self._take_tcp(packet, packets)
            else:
                self._take_icmp(packet, packets)
        except Refused as refused:
            self._settle(str(refused), packets)

    def _take_piece(self, piece: Packet) -> None:
        """Takes one of several pieces of a datagram; what resolvers send in pieces are answers to clients."""
        if not self._to_resolver(piece):
            raise Refused("filtered_direction")
        whole = self._datagrams.take(piece, self._now, lambda: self._judge_first(piece))
        if whole is None:
            return
        octets, packets = whole
        try:
            self._take(parsed(octets, WANTED), packets)
        except Refused as refused:
            self._settle(str(refused), packets)

    def _judge_first(self, piece: Packet) -> None:
        if piece.protocol not in {UDP, TCP}:
            raise Refused("filtered_protocol")
        if len(piece.payload) < 4:
            raise Refused("rejected_malformed")
        ports = (int.from_bytes(piece.payload[at : at + 2], "big") for at in (0, 2))
        if not self._ends(piece, *ports):
            raise Refused("filtered_direction")

    def _to_resolver(self, packet: Packet) -> bool:
        listed = self._listed(packet.source), self._listed(packet.destination)
        if listed[0] == listed[1]:
            raise Refused("filtered_both_listed" if listed[0] else "filtered_direction")
        return listed[1]

    def _ends(self, packet: Packet, sport: int, dport: int) -> bool:
        """Whether the packet comes from a server."""
        if 53 not in {sport, dport}:
            raise Refused("filtered_port")
        from_server = self._to_resolver(packet)
        if (sport if from_server else dport) != 53 or (packet.protocol == TCP and sport == dport):
            raise Refused("filtered_direction")
        return from_server

    def _listed(self, address: bytes) -> bool:
        own = ipaddress.ip_address(address)
        return any(own in resolvers for resolvers in self._resolvers)

    def _take_udp(self, packet: Packet, packets: int) -> None:
        if len(packet.payload) < 6:
            raise Refused("rejected_malformed")
        udp = UDPHeader(packet.payload[:8])
        response = self._ends(packet, udp.sport, udp.dport)
        if not 8 <= udp.len <= len(packet.payload):
            raise Refused("rejected_malformed")
        segment = packet.payload[: udp.len]
        self._settle("passed", packets)
        server, resolver = (
            (packet.source, packet.destination) if response else (packet.destination, packet.source)
        )
        port = udp.dport if response else udp.sport
        verdict = stored.verdict(packet.octets, segment) if response else None
        message = Message(
            self._now,
            UDP,
            resolver,
            server,
            port,
            response,
            segment[8:],
            (packet.octets, segment[:8]),
            verdict,
        )
        self._see_message(message)

    def _take_tcp(self, packet: Packet, packets: int) -> None:
        tcp = packet.payload
        if len(tcp) < 4:
            raise Refused("rejected_malformed")
        sport, dport = int.from_bytes(tcp[:2], "big"), int.from_bytes(tcp[2:4], "big")
        self._ends(packet, sport, dport)
        if len(tcp) < 20 or not 20 <= 4 * (tcp[12] >> 4) <= len(tcp):
            raise Refused("rejected_malformed")
        key = (packet.source, packet.destination, sport, dport)
        self._streams.take(key, tcp, self._now, packets)

    def _deliver(self, key: Key, octets: bytes, time: int) -> None:
        source, destination, sport, dport = key
        response = self._listed(destination)
        server, resolver = (source, destination) if response else (destination, source)
        self._see_message(
            Message(time, TCP, resolver, server, dport if response else sport, response, octets)
        )

    # ------------------------------------------------------------------ errors

    def _take_icmp(self, packet: Packet, packets: int) -> None:
        """Takes an error as a message, that of its quoted query."""
        if (packet.protocol == ICMP) != (packet.octets[0] >> 4 == 4):
            raise Refused("filtered_protocol")
        error = errors.read(packet)
        quoted = Packet(packet.octets, error.source, error.destination, error.protocol, packet.transport)
        if self._ends(quoted, error.sport, error.dport):
            raise Refused("filtered_direction")
        if not error.whole:
            raise Refused("filtered_no_data")
        self._settle("passed", packets)
        try:
            self._record(error)
        except Malformed:
            self._judge("rejected_malformed")
        except Filtered as filtered:
            self._judge(str(filtered))

    def _record(self, error: errors.Error) -> None:
        """Judges a quoted query like the query itself."""
        kind, ends = error.packet.protocol, (error.source, error.destination, error.sport)
        query = self._admitted(Message(self._now, kind, *ends, False, error.message))
        if query.question is None and contents.number(error.message, 4) == 1:
            raise Malformed
        if query.question is not None and contents.verdict_on_name(query.question[0]) is not None:
            raise Filtered("filtered_local_zone")
        self._judge("recorded")
        self._emit("ICMP", query, query.question, {"time": self._now, "icmp": error.as_stored()})

    # ------------------------------------------------------------------ messages

    def _see_message(self, message: Message) -> None:
        try:
            self._pair(self._admitted(message))
        except Malformed:
            self._judge("rejected_malformed")
        except Filtered as filtered:
            self._judge(str(filtered))

    def _admitted(self, message: Message) -> Message:
        if len(message.octets) < 12:
            raise Malformed
        flags = contents.number(message.octets, 2)
        for refused, outcome in [
            (bool(flags & 0x8000) != message.response, "filtered_direction"),
            (bool(flags & 0x7800), "filtered_opcode"),
            (bool(flags & 0x0100), "filtered_rd"),
        ]:
            if refused:
                raise Filtered(outcome)
        question = contents.question_of(message.octets)
        if question is not None and question[1] in contents.TRANSFERS:
            raise Filtered("filtered_qtype")
        # The messages of a transfer need not repeat its question.
        if (
            question is None
            and message.response
            and message.protocol == TCP
            and message.rcode not in FAILURES
        ):
            raise Filtered("filtered_qtype")
        if contents.is_inside(message.server):
            raise Filtered("filtered_scope")
        return Message(**{**message.__dict__, "question": question})

    # ------------------------------------------------------------------ pairing

    def _pair(self, message: Message) -> None:
        # What cannot be scrubbed is refused before anything else happens.
        verdict, _ = contents.verdict(message.octets), contents.kept(message.octets)
        if message.response:
            self._pair_response(message, verdict)
        elif verdict == "local" or (verdict is not None and message.question is None):
            raise Filtered("filtered_local_zone")
        else:
            # Of a single label the response decides.
            self._waiting.append(message)

    def _pair_response(self, message: Message, verdict: str | None) -> None:
        query = next((query for query in self._waiting if self._answers(query, message)), None)
        question = message.question
        facts: dict[str, Any] = {"rcode": message.rcode, "response_time": message.time}
        if query is not None:
            self._waiting.remove(query)
            facts["query_time"] = query.time
            if question is None and query.question is not None:
                question = query.question
                verdict = verdict or contents.verdict_on_name(question[0])
        if verdict is not None:
            self._judge("filtered_local_zone", 1 if query is None else 2)
            return
        self._judge("recorded", 1 if query is None else 2)
        if message.checksum is not None:
            facts["udp_checksum"] = message.checksum
        facts["response"] = self._as_stored(message)
        self._emit(UNSOLICITED if query is None else QUERY_RESPONSE, message, question, facts)

    @staticmethod
    def _answers(query: Message, response: Message) -> bool:
        if query.key != response.key:
            return False
        if query.question is None or response.question is None:
            return response.rcode in FAILURES
        return query.question == response.question

    def _give_up(self) -> None:
        query = self._waiting.pop(0)
        if query.question is not None and contents.verdict_on_name(query.question[0]) is not None:
            self._judge("filtered_local_zone")
            return
        self._judge("recorded")
        waited = (self._now - query.time) / 1_000_000
        self._emit(UNANSWERED, query, query.question, {"query_time": query.time, "timeout": waited})

    def _emit(self, kind: str, message: Message, question: Question | None, facts: dict[str, Any]) -> None:
        transaction = {
            "type": kind,
            "proto": message.protocol,
            "query_ip": message.resolver,
            "response_ip": message.server,
            "query_port": message.port,
            "response_port": 53,
            "id": contents.number(message.octets, 0),
        }
        if question is not None:
            transaction |= dict(zip(("qname", "qtype", "qclass"), question, strict=True))
        self.transactions.append(transaction | facts)

    @staticmethod
    def _as_stored(message: Message) -> dict[str, Any]:
        """What the stored packets must say, read by scapy."""
        ends = {"source": message.server, "destination": message.resolver, "sport": 53, "dport": message.port}
        kept = contents.kept(message.octets)
        if message.datagram is None:
            return ends | {"message": kept}
        facts = stored.udp(stored.bare(*message.datagram, message.octets))
        if kept == message.octets:
            return facts
        # Checksums are computed anew, unless the sender chose to send none.
        verdict = "ABSENT" if facts["checksum"] == "ABSENT" else "CORRECT"
        return facts | {"message": kept, "checksum": verdict}


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether a transaction is what the oracle says; what was rewritten only has to say the same."""
    message = expected.get("response", {}).get("message")
    if isinstance(message, list) and "response" in found:
        said = contents.reading(found["response"]["message"], scrub=False)
        found = found | {"response": found["response"] | {"message": said}}
    waited = abs(found.get("timeout", 0) - expected.get("timeout", 0))
    # Seconds as float, subtracted in another order.
    return waited < 1e-6 and found | {"timeout": None} == expected | {"timeout": None}


def comparable(payload: dict[str, Any]) -> dict[str, Any]:
    """A decoded dnsqr in the words of the oracle."""
    message = payload["message"]
    taken = [
        "type",
        "proto",
        "query_ip",
        "response_ip",
        "query_port",
        "response_port",
        "id",
        "qname",
        "qtype",
    ]
    taken += ["qclass", "rcode", "timeout", "udp_checksum"]
    transaction = {name: message[name] for name in taken if name in message}
    for name in ("query", "response"):
        times = zip(message[f"{name}_time_sec"], message[f"{name}_time_nsec"], strict=True)
        for seconds, nanoseconds in times:
            transaction[f"{name}_time"] = seconds * 1_000_000 + nanoseconds // 1000
    packets = message["response_packet"]
    if packets:
        transaction["response"] = stored.udp(*packets) if message["proto"] == UDP else stored.tcp(packets)
    if "icmp" in message:
        transaction |= {"time": round(payload["time"] * 1_000_000), "icmp": stored.icmp(message["icmp"])}
    return transaction
