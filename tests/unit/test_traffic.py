"""The generated traffic is what it says, as another implementation reads it."""

from pathlib import Path

from scapy.layers.dns import DNS
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet
from scapy.utils import PcapReader

from tests.traffic import RESOLVERS, STUB_ADDRESSES, STUB_LABEL, generate, write_pcap

START = 1_700_000_000.25


def test_equal_arguments_give_equal_traffic() -> None:
    one, other = generate(50, 3, START), generate(50, 3, START)
    assert one.frames == other.frames
    assert one.rrsets == other.rrsets
    assert generate(50, 4, START).frames != one.frames


def test_another_implementation_reads_every_packet(tmp_path: Path) -> None:
    traffic = generate(200, 1, START)
    path = tmp_path / "out.pcap"
    write_pcap(path, traffic.frames)
    with PcapReader(str(path)) as reader:
        packets = list(reader)
    assert len(packets) == len(traffic.frames)
    assert float(packets[0].time) == START
    assert all(_checksums_hold(packet) for packet in packets)
    assert all(packet[DNS].qdcount == 1 for packet in packets)


def test_the_truth_counts_what_the_resolver_exchanged_and_nothing_of_stubs(tmp_path: Path) -> None:
    traffic = generate(300, 2, START)
    path = tmp_path / "out.pcap"
    write_pcap(path, traffic.frames)
    with PcapReader(str(path)) as reader:
        packets = list(reader)
    resolvers, stubs = set(map(str, RESOLVERS)), set(map(str, STUB_ADDRESSES))
    asked = [packet for packet in packets if _source(packet) in resolvers and not packet[DNS].qr]
    answered = [packet for packet in packets if _target(packet) in resolvers and packet[DNS].qr]
    stubs_own = [packet for packet in packets if {_source(packet), _target(packet)} & stubs]
    assert len(asked) == traffic.transactions == 300
    assert len(answered) == traffic.transactions - traffic.unanswered
    assert len(stubs_own) == traffic.noise_frames > 0
    assert len(asked) + len(answered) + len(stubs_own) == len(packets)
    assert not any(packet[DNS].rd for packet in asked + answered)
    assert any(not packet[DNS].rd for packet in stubs_own), "a stub without RD must try to deceive"
    assert any(packet[UDP].sport == 53 for packet in stubs_own if not packet[DNS].qr)
    assert not any(STUB_LABEL in owner for owner, _, _ in traffic.rrsets)
    assert {rrtype for _, rrtype, _ in traffic.rrsets} >= {"A", "AAAA", "NS", "CNAME", "MX", "TXT"}


def _source(packet: Packet) -> str:
    return str(packet[IP].src if IP in packet else packet[IPv6].src)


def _target(packet: Packet) -> str:
    return str(packet[IP].dst if IP in packet else packet[IPv6].dst)


def _checksums_hold(packet: Packet) -> bool:
    """Whether scapy computes the same checksums when it has to."""
    again = packet.copy()
    del again[UDP].chksum
    if IP in again:
        del again[IP].chksum
    return bytes(again.__class__(bytes(again))) == bytes(packet)
