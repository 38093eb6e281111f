"""ICMP and ICMPv6 errors, and the packets that they quote in part."""

from dataclasses import dataclass
from typing import Any

from scapy.layers.inet import ICMP as ICMPHeader

from . import contents, stored
from .contents import Malformed, Question
from .packets import EXTENSIONS, FRAGMENT, ICMP, ICMPV6, TCP, UDP, Packet, Refused
from .streams import begins_message

#: Destination unreachable and time exceeded; of ICMPv6 packet too big too.
ERRORS = {ICMP: {3, 11}, ICMPV6: {1, 2, 3}}


@dataclass(frozen=True)
class Error:
    """An error, and of the packet that did not arrive what is quoted of it."""

    packet: Packet
    source: bytes
    destination: bytes
    protocol: int
    sport: int
    dport: int
    #: The DNS message as far as it is quoted.
    message: bytes

    @property
    def whole(self) -> bool:
        """Whether the DNS header is quoted whole."""
        return len(self.message) >= 12

    @property
    def question(self) -> Question | None:
        if not self.whole:
            return None
        try:
            return contents.question_of(self.message)
        except Malformed:
            return None

    def kept(self) -> bytes:
        """The message up to the end of its question, and nothing announced behind it."""
        if not self.whole:
            return b""
        if self.question is None:
            return self.message[:4] + bytes(8)
        name, rrtype, rrclass = self.question
        fields = rrtype.to_bytes(2, "big") + rrclass.to_bytes(2, "big")
        return self.message[:4] + b"\x00\x01" + bytes(6) + name + fields

    def as_stored(self) -> dict[str, Any]:
        """What the stored datagram must say, read by scapy."""
        icmp = self.packet.payload
        rest = bytes(4)
        if self.packet.protocol == ICMP and icmp[:2] == b"\x03\x04":
            rest = b"\0\0" + icmp[6:8]
        elif self.packet.protocol == ICMPV6 and icmp[0] == 2:
            rest = icmp[4:8]
        # Routers stay unnamed.
        reporter = self.packet.source
        shown = reporter if reporter == self.destination else bytes(len(reporter))
        return {
            "ends": (shown, self.packet.destination),
            "error": (icmp[0], icmp[1], rest),
            "quoted": (self.source, self.destination, self.sport, self.dport, self.protocol),
            "message": self.kept(),
        }


def read(packet: Packet) -> Error:
    icmp = packet.payload
    if len(icmp) < 8:
        raise Refused("rejected_malformed")
    if icmp[0] not in ERRORS[packet.protocol]:
        raise Refused("filtered_protocol")
    quoted = _quote(packet, icmp[8:])
    if not _is_right(packet) or quoted.source != packet.destination:
        raise Refused("rejected_malformed")
    return quoted


def _is_right(packet: Packet) -> bool:
    if packet.protocol == ICMPV6:
        return stored.checksum(packet.octets, ICMPV6, packet.payload) == 0
    made = ICMPHeader(packet.payload)
    del made.chksum
    return bytes(made)[2:4] == packet.payload[2:4]


def _quote(packet: Packet, octets: bytes) -> Error:
    version = octets[0] >> 4 if octets else 0
    if version not in {4, 6} or len(octets) < (20 if version == 4 else 40):
        raise Refused("rejected_malformed")
    if version == 4:
        transport, protocol = 4 * (octets[0] & 15), octets[9]
        source, destination = octets[12:16], octets[16:20]
        end = int.from_bytes(octets[2:4], "big")
        if transport < 20 or int.from_bytes(octets[6:8], "big") & 0x1FFF:
            raise Refused("rejected_malformed")
    else:
        transport, protocol = 40, octets[6]
        source, destination = octets[8:24], octets[24:40]
        end = 40 + int.from_bytes(octets[4:6], "big")
    octets = octets[:end]
    for _ in range(5 if version == 6 else 0):
        extension = octets[transport : transport + 4]
        if protocol not in EXTENSIONS | {FRAGMENT} or len(extension) < 4:
            break
        if protocol == FRAGMENT and int.from_bytes(extension[2:4], "big") & 0xFFF8:
            raise Refused("rejected_malformed")
        transport += 8 if protocol == FRAGMENT else 8 * (extension[1] + 1)
        protocol = extension[0]
    if transport > len(octets):
        raise Refused("rejected_malformed")
    if protocol not in {UDP, TCP}:
        raise Refused("filtered_protocol")
    body = octets[transport:]
    if len(body) < 8:
        raise Refused("rejected_malformed")
    sport, dport, length = (int.from_bytes(body[at : at + 2], "big") for at in (0, 2, 4))
    if dport != 53:
        raise Refused("filtered_port")
    message = body[8 : max(8, length)] if protocol == UDP else b""
    if protocol == TCP and len(body) >= 20:
        data = body[4 * (body[12] >> 4) :]
        if begins_message((source, destination, sport, dport), data):
            message = data[2 : 2 + int.from_bytes(data[:2], "big")]
    return Error(packet, source, destination, protocol, sport, dport, message)
