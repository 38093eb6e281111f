"""IP datagrams of UDP, TCP and ICMP, whole and in fragments, with their checksums, made for quantity."""

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from tests.traffic.frames import checksum_of

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
FRAGMENT: Final = 44
ICMPV6: Final = 58

FIN: Final = 0x01
SYN: Final = 0x02
PSH: Final = 0x08
ACK: Final = 0x10

TO_SERVERS: Final = bytes.fromhex("020000000002 020000000001")
TO_RESOLVER: Final = bytes.fromhex("020000000001 020000000002")

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_UDP = struct.Struct("!HHHH")
_TCP = struct.Struct("!HHIIBBHHH")
_DONT_FRAGMENT = 0x4000
_MORE_FRAGMENTS = 0x2000
_TIME_TO_LIVE_SENT = 64

SEGMENT_OCTETS: Final = 1440
"""Payload of a TCP segment: what remains of 1,500 octets behind either IP header."""

FRAGMENT_OCTETS: Final = 1208
"""Payload of an IP fragment: a multiple of eight that fits the smallest MTU of IPv6, 1,280 octets."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address in four or sixteen octets, and their sum as the Internet checksum counts."""

    octets: bytes
    total: int

    @classmethod
    def of(cls, octets: bytes) -> "Address":
        """The address of so many octets."""
        return cls(octets, int.from_bytes(octets) % 0xFFFF)


@dataclass(frozen=True)
class Path:
    """One way between two addresses, and what its frames begin with."""

    source: Address
    target: Address
    macs: bytes
    hops: int = _TIME_TO_LIVE_SENT

    @cached_property
    def ethernet(self) -> bytes:
        """The Ethernet header."""
        return self.macs + (b"\x08\x00" if len(self.source.octets) == 4 else b"\x86\xdd")

    @cached_property
    def total(self) -> int:
        """The addresses' part of every checksum."""
        return self.source.total + self.target.total

    def udp(self, ident: int, source_port: int, target_port: int, payload: bytes) -> bytes:
        """A frame with a datagram."""
        return self._datagram(UDP, ident, self._udp(source_port, target_port, payload))

    def udp_fragments(self, ident: int, source_port: int, target_port: int, payload: bytes) -> list[bytes]:
        """The frames of a datagram's fragments, in order."""
        datagram = self._udp(source_port, target_port, payload)
        frames = []
        for offset in range(0, len(datagram), FRAGMENT_OCTETS):
            piece = datagram[offset : offset + FRAGMENT_OCTETS]
            more = offset + FRAGMENT_OCTETS < len(datagram)
            if len(self.source.octets) == 4:
                frames.append(self._ipv4(UDP, ident, piece, (_MORE_FRAGMENTS if more else 0) | offset // 8))
            else:
                header = struct.pack("!BBHI", UDP, 0, offset | more, ident << 16 | ident)
                frames.append(self._ipv6(FRAGMENT, header + piece))
        return frames

    def tcp(
        self, ident: int, ports: tuple[int, int], numbers: tuple[int, int], flags: int, payload: bytes = b""
    ) -> bytes:
        """A frame with a segment; `numbers` are sequence and acknowledgement."""
        header = _TCP.pack(*ports, *(number & 0xFFFFFFFF for number in numbers), 5 << 4, flags, 64240, 0, 0)
        checksum = self._transport_checksum(TCP, header + payload)
        return self._datagram(TCP, ident, header[:16] + struct.pack("!H", checksum) + header[18:] + payload)

    def port_unreachable(self, ident: int, frame: bytes) -> bytes:
        """A frame with an ICMP or ICMPv6 message that quotes the datagram of another frame."""
        quoted = frame[len(self.ethernet) :]
        if len(self.source.octets) == 4:
            message = struct.pack("!BBHI", 3, 3, 0, 0) + quoted
            return self._datagram(ICMP, ident, _with_checksum(message, checksum_of(message)))
        message = struct.pack("!BBHI", 1, 4, 0, 0) + quoted
        return self._datagram(
            ICMPV6, ident, _with_checksum(message, self._transport_checksum(ICMPV6, message))
        )

    def _udp(self, source_port: int, target_port: int, payload: bytes) -> bytes:
        length = 8 + len(payload)
        total = int.from_bytes(payload if length % 2 == 0 else payload + b"\0")
        checksum = 0xFFFF - (total + self.total + UDP + 2 * length + source_port + target_port) % 0xFFFF
        return _UDP.pack(source_port, target_port, length, checksum) + payload

    def _transport_checksum(self, protocol: int, octets: bytes) -> int:
        return checksum_of(octets, self.total + protocol + len(octets))

    def _datagram(self, protocol: int, ident: int, payload: bytes) -> bytes:
        if len(self.source.octets) == 4:
            return self._ipv4(protocol, ident, payload, _DONT_FRAGMENT)
        return self._ipv6(protocol, payload)

    def _ipv4(self, protocol: int, ident: int, payload: bytes, fragment: int) -> bytes:
        length = 20 + len(payload)
        total = 0x4500 + length + ident + fragment + (self.hops << 8 | protocol) + self.total
        header = _IPV4.pack(
            *(0x45, 0, length, ident, fragment, self.hops, protocol, (0xFFFF - total % 0xFFFF) % 0xFFFF),
            *(self.source.octets, self.target.octets),
        )
        return self.ethernet + header + payload

    def _ipv6(self, protocol: int, payload: bytes) -> bytes:
        header = _IPV6.pack(
            6 << 28, len(payload), protocol, self.hops, self.source.octets, self.target.octets
        )
        return self.ethernet + header + payload


def _with_checksum(icmp: bytes, checksum: int) -> bytes:
    return icmp[:2] + struct.pack("!H", checksum) + icmp[4:]
