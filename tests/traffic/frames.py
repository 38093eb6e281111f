"""Ethernet frames of UDP datagrams, and pcap files of them."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

Address = IPv4Address | IPv6Address

_MACS = bytes.fromhex("020000000002 020000000001")
_UDP = 17
_HOPS = 64


@dataclass(frozen=True)
class Frame:
    """An Ethernet frame and its time in seconds."""

    time: float
    data: bytes


def udp_frame(source: Address, source_port: int, target: Address, target_port: int, payload: bytes) -> bytes:
    """A datagram over IPv4 (RFC 791) or IPv6 (RFC 8200), with its checksums."""
    length = 8 + len(payload)
    ports = struct.pack("!HHH", source_port, target_port, length)
    pseudo_header = source.packed + target.packed + struct.pack("!II", length, _UDP)
    checksum = _checksum(pseudo_header + ports + b"\0\0" + payload) or 0xFFFF
    datagram = ports + struct.pack("!H", checksum) + payload
    if source.version == 6:
        header = struct.pack("!IHBB", 6 << 28, length, _UDP, _HOPS) + source.packed + target.packed
        return _MACS + b"\x86\xdd" + header + datagram
    unsummed = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, _HOPS, _UDP, 0)
    header_checksum = _checksum(unsummed + source.packed + target.packed)
    header = unsummed[:10] + struct.pack("!H", header_checksum) + source.packed + target.packed
    return _MACS + b"\x08\x00" + header + datagram


def write_pcap(path: Path, frames: Iterable[Frame]) -> None:
    """Write a classic pcap file: little-endian, microseconds, Ethernet."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for frame in frames:
            seconds, microseconds = divmod(round(frame.time * 1_000_000), 1_000_000)
            size = len(frame.data)
            file.write(struct.pack("<IIII", seconds, microseconds, size, size) + frame.data)


def _checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
