"""Ethernet frames of UDP datagrams, and pcap files of them."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

Address = IPv4Address | IPv6Address

PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
"""What a classic pcap file begins with: little-endian, microseconds, Ethernet."""

PCAP_RECORD = struct.Struct("<IIII")
"""What stands before a frame: seconds, microseconds, its octets in the file and on the wire."""

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
    checksum = checksum_of(pseudo_header + ports + b"\0\0" + payload) or 0xFFFF
    datagram = ports + struct.pack("!H", checksum) + payload
    if source.version == 6:
        header = struct.pack("!IHBB", 6 << 28, length, _UDP, _HOPS) + source.packed + target.packed
        return _MACS + b"\x86\xdd" + header + datagram
    unsummed = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, _HOPS, _UDP, 0)
    header_checksum = checksum_of(unsummed + source.packed + target.packed)
    header = unsummed[:10] + struct.pack("!H", header_checksum) + source.packed + target.packed
    return _MACS + b"\x08\x00" + header + datagram


def write_pcap(path: Path, frames: Iterable[Frame]) -> None:
    """Write a classic pcap file: little-endian, microseconds, Ethernet."""
    with path.open("wb") as file:
        file.write(PCAP_HEADER)
        for frame in frames:
            seconds, microseconds = divmod(round(frame.time * 1_000_000), 1_000_000)
            size = len(frame.data)
            file.write(PCAP_RECORD.pack(seconds, microseconds, size, size) + frame.data)


def read_pcap(path: Path) -> list[bytes]:
    """The frames of a file that `write_pcap` wrote."""
    data = path.read_bytes()
    frames, offset = [], len(PCAP_HEADER)
    while offset < len(data):
        _, _, size, _ = PCAP_RECORD.unpack_from(data, offset)
        offset += PCAP_RECORD.size
        frames.append(data[offset : offset + size])
        offset += size
    return frames


def checksum_of(octets: bytes, more: int = 0) -> int:
    """The Internet checksum (RFC 1071) of octets, and of 16-bit numbers whose sum is `more`.

    65,536 leaves a remainder of one when divided by 65,535: the sum of all 16-bit numbers, with carries taken
    around, is what the octets as one number leave.
    """
    total = int.from_bytes(octets if len(octets) % 2 == 0 else octets + b"\0") + more
    return (0xFFFF - total % 0xFFFF) % 0xFFFF if total else 0xFFFF
