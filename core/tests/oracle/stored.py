"""Stored packets as scapy reads them: whole, well-formed, checksums right."""

import ipaddress
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.packet import Packet


def read(packet: bytes) -> Packet:
    """Its base header."""
    return IP(packet[:20]) if packet[0] >> 4 == 4 else IPv6(packet[:40])


def addresses(packet: bytes) -> tuple[bytes, bytes]:
    return (packet[12:16], packet[16:20]) if packet[0] >> 4 == 4 else (packet[8:24], packet[24:40])


def checksum(packet: bytes, protocol: int, segment: bytes) -> int:
    """Zero if the checksum within the segment is right."""
    source, destination = (str(ipaddress.ip_address(address)) for address in addresses(packet))
    if packet[0] >> 4 == 4:
        return int(in4_chksum(protocol, IP(src=source, dst=destination), segment))
    made = IPv6(src=source, dst=destination)
    return int(in6_chksum(protocol, made, segment))  # type: ignore[no-untyped-call]


def verdict(packet: bytes, segment: bytes) -> str:
    """What the check of a UDP checksum finds."""
    if segment[6:8] == b"\0\0":
        return "ABSENT"
    return "INCORRECT" if checksum(packet, 17, segment) else "CORRECT"


def header(packet: bytes) -> dict[str, Any]:
    """The base header, which has no options behind it and accounts for every octet."""
    made = read(packet)
    source, destination = addresses(packet)
    facts: dict[str, Any] = {"source": source, "destination": destination}
    if packet[0] >> 4 == 4:
        assert made.ihl == 5
        assert made.len == len(packet)
        assert made.frag == 0
        assert "MF" not in str(made.flags)
        again = made.copy()
        del again.chksum
        assert bytes(again)[10:12] == packet[10:12], "the header's checksum"
        return facts | {"hops": made.ttl, "class": made.tos, "id": made.id, "protocol": made.proto}
    assert made.plen == len(packet) - 40
    return facts | {"hops": made.hlim, "class": made.tc, "label": made.fl, "protocol": made.nh}


def body(packet: bytes) -> bytes:
    return packet[20:] if packet[0] >> 4 == 4 else packet[40:]


def bare(datagram: bytes, udp_header: bytes, message: bytes) -> bytes:
    """A UDP datagram without what stands between IP header and UDP header, and with this message."""
    made = read(datagram[: 20 if datagram[0] >> 4 == 4 else 40])
    length = 8 + len(message)
    if datagram[0] >> 4 == 4:
        made.ihl, made.len, made.frag, made.chksum = 5, 20 + length, 0, None
        made.flags = "DF" if "DF" in str(made.flags) else 0
    else:
        made.plen, made.nh = length, 17
    return bytes(made) + udp_header[:4] + length.to_bytes(2, "big") + udp_header[6:8] + message


def udp(packet: bytes) -> dict[str, Any]:
    facts, segment = header(packet), body(packet)
    made = UDP(segment[:8])
    assert facts["protocol"] == 17
    assert made.len == len(segment)
    ports = {"sport": made.sport, "dport": made.dport}
    return facts | ports | {"checksum": verdict(packet, segment), "message": segment[8:]}


def tcp(packets: list[bytes]) -> dict[str, Any]:
    """A message of one segment or two, behind its length."""
    facts: dict[str, Any] = {}
    data, sequence = b"", 1
    for packet in packets:
        facts, segment = header(packet), body(packet)
        assert facts["protocol"] == 6
        made = TCP(segment[:20])
        assert (made.seq, made.dataofs, str(made.flags)) == (sequence, 5, "PA")
        assert checksum(packet, 6, segment) == 0
        facts = {name: facts[name] for name in ("source", "destination")}
        facts |= {"sport": made.sport, "dport": made.dport}
        data += segment[20:]
        sequence += len(segment) - 20
    assert int.from_bytes(data[:2], "big") == len(data) - 2
    assert len(packets) == 1 or len(data) > 65_000
    return facts | {"message": data[2:]}


def icmp(packet: bytes) -> dict[str, Any]:
    """An error, and the packet that it quotes, which is whole."""
    facts, segment = header(packet), body(packet)
    if facts["protocol"] == 1:
        again = ICMP(segment)
        del again.chksum
        assert bytes(again)[2:4] == segment[2:4], "the checksum of ICMP"
    else:
        assert facts["protocol"] == 58
        assert checksum(packet, 58, segment) == 0
    quote = segment[8:]
    quoted, inner = header(quote), body(quote)
    ports = int.from_bytes(inner[:2], "big"), int.from_bytes(inner[2:4], "big")
    if quoted["protocol"] == 17:
        assert int.from_bytes(inner[4:6], "big") == len(inner)
        assert inner[6:8] == b"\0\0" or checksum(quote, 17, inner) == 0
        message = inner[8:]
    else:
        assert checksum(quote, 6, inner) == 0
        message = inner[22:]
        assert len(inner) == 20 or int.from_bytes(inner[20:22], "big") == len(message)
    return {
        "ends": (facts["source"], facts["destination"]),
        "error": (segment[0], segment[1], segment[4:8]),
        "quoted": (quoted["source"], quoted["destination"], *ports, quoted["protocol"]),
        "message": message,
    }
