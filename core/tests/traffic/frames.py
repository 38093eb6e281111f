"""From IP packets to frames as vantage points see them: fragments, tags, tunnels, capture files."""

import random
from collections.abc import Iterable
from pathlib import Path

from scapy.contrib.erspan import ERSPAN_II
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, CookedLinux, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter

#: What a mirror sends its tunnels between.
MIRROR = {4: ("203.0.113.250", "203.0.113.251"), 6: ("2001:db8:aaaa::1", "2001:db8:aaaa::2")}
VXLAN_PORT = 4789


def fragments(packet: bytes, octets: int, identifier: int) -> list[bytes]:
    """A packet without IPv6 extension headers, in fragments of so many octets each (a multiple of 8)."""
    header_octets = 4 * (packet[0] & 15) if packet[0] >> 4 == 4 else 40
    header, payload = packet[:header_octets], packet[header_octets:]
    places = range(0, len(payload), octets)
    return [
        fragment(header, payload[place : place + octets], place, place + octets < len(payload), identifier)
        for place in places
    ]


def fragment(header: bytes, payload: bytes, place: int, more: bool, identifier: int) -> bytes:
    """One fragment of the datagram that has this IP header."""
    if header[0] >> 4 == 4:
        made = IP(header)
        made.frag, made.flags, made.id = place // 8, "MF" if more else 0, identifier % 2**16
        del made.len, made.chksum
        return bytes(made / Raw(payload))
    extension = bytes([header[6], 0]) + (place | more).to_bytes(2, "big") + identifier.to_bytes(4, "big")
    length = (8 + len(payload)).to_bytes(2, "big")
    return header[:4] + length + bytes([44]) + header[7:40] + extension + payload


def framed(source: random.Random, link: str, packet: bytes) -> bytes:
    """A frame of the link type around an IP packet."""
    ethertype = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    if link == "raw":
        return packet
    if link == "sll":
        return bytes(CookedLinux(proto=ethertype)) + packet
    frame = tagged(source)
    frame.lastlayer().type = ethertype
    return bytes(frame) + packet + b"\0" * source.choice([0, 0, 6])


def tagged(source: random.Random) -> Packet:
    """An Ethernet header, with none to three VLAN tags; only two are allowed."""
    frame: Packet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    tags = source.choices([0, 1, 2, 3], [6, 2, 1, 0.3])[0]
    for number in range(tags):
        frame = frame / (Dot1AD(vlan=7) if number == 0 and tags > 1 else Dot1Q(vlan=number + 1))
    return frame


def mirrored(source: random.Random, packet: bytes) -> bytes:
    """An IP packet that carries another in a tunnel, as mirrors send it."""
    ethertype = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    family = source.choice([4, 6])
    mirror, collector = MIRROR[family]
    outer: Packet = IP(src=mirror, dst=collector) if family == 4 else IPv6(src=mirror, dst=collector)
    frame = framed(source, "ethernet", packet)
    tunnels = [
        lambda: outer / GRE(proto=ethertype) / Raw(packet),
        lambda: outer / GRE(proto=ethertype, key_present=1, key=7) / Raw(packet),
        lambda: outer / GRE(proto=0x6558, chksum_present=1, seqnum_present=1) / Raw(frame),
        lambda: outer / GRE(proto=0x88BE, seqnum_present=1, seqence_number=9) / ERSPAN_II() / Raw(frame),
        lambda: outer / UDP(sport=49152, dport=VXLAN_PORT) / VXLAN(vni=7, flags="Instance") / Raw(frame),
    ]
    return bytes(source.choice(tunnels)())


def write_pcap(path: Path, frames: Iterable[tuple[float, bytes]], link: int) -> None:
    """A classic pcap file in microseconds."""
    with PcapWriter(str(path), linktype=link, sync=True, snaplen=262_144) as writer:
        writer.write_header(None)
        for time, octets in frames:
            seconds = int(time)
            writer.write_packet(octets, sec=seconds, usec=round((time - seconds) * 1_000_000))
