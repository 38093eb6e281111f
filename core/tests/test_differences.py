"""Where the recorder deliberately does otherwise than nmsgtool's dnsqr, each of whose faults is shown here.

The list with the reasons is in docs/reference/packets-and-transactions.md.
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter

from sie_core._native import PcapSource, Recorder, decode

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "reference" / "packets-and-transactions.md"
HEADING = "## What differs from nmsgtool's dnsqr"

RESOLVERS = ("192.0.2.53", "2001:db8::53")
SERVERS = ("198.51.100.1", "2001:db8:1::1")
ROUTERS = ("203.0.113.254", "2001:db8:2::fe")
FAMILIES = pytest.mark.parametrize("family", [4, 6])
PORT = 50_123
RAW_IP = 101


def between(family: int, source: Sequence[str], destination: Sequence[str]) -> Packet:
    if family == 4:
        return IP(src=source[0], dst=destination[0])
    return IPv6(src=source[1], dst=destination[1])


def query_message(name: str = "www.example.") -> Packet:
    return DNS(id=7, rd=0, qd=[DNSQR(qname=name, qtype="TXT")])


def response_message(name: str = "www.example.", octets: int = 4) -> Packet:
    strings = [b"x" * min(200, octets - at) for at in range(0, octets, 200)]
    answer = DNSRR(rrname=name, type="TXT", rdata=strings)
    return DNS(id=7, qr=1, aa=1, rd=0, qd=[DNSQR(qname=name, qtype="TXT")], an=[answer])


def query(family: int, **names: str) -> Packet:
    return between(family, RESOLVERS, SERVERS) / UDP(sport=PORT, dport=53) / query_message(**names)


def response(family: int, **options: Any) -> Packet:
    return between(family, SERVERS, RESOLVERS) / UDP(sport=53, dport=PORT) / response_message(**options)


def recorded(
    tmp_path: Path, packets: Sequence[tuple[float, Packet]], **options: Any
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The transactions of packets, each with its time, and the counters."""
    path = tmp_path / "packets.pcap"
    with PcapWriter(str(path), linktype=RAW_IP, nano=True, sync=True) as writer:
        writer.write_header(None)
        for time, packet in packets:
            writer.write_packet(bytes(packet), sec=int(time), usec=round(time % 1 * 1_000_000_000))
    recorder, source = Recorder(RESOLVERS, codec="none", **options), PcapSource(str(path))
    containers = []
    while not recorder.at_end:
        containers += recorder.pump(source, 10)
    containers += recorder.finish()
    payloads = decode(b"".join(container.data for container in containers))
    return [payload["message"] for payload in payloads], recorder.counters()


def segments(family: int, source: Sequence[str], destination: Sequence[str], data: bytes) -> Iterator[Packet]:
    """A connection's beginning, and the data in segments of 40 octets."""
    sport, dport = (PORT, 53) if source is RESOLVERS else (53, PORT)
    yield between(family, source, destination) / TCP(sport=sport, dport=dport, flags="S", seq=999)
    for at in range(0, len(data), 40):
        tcp = TCP(sport=sport, dport=dport, flags="PA", seq=1000 + at, ack=1)
        yield between(family, source, destination) / tcp / Raw(data[at : at + 40])


def framed(message: Packet) -> bytes:
    return len(bytes(message)).to_bytes(2, "big") + bytes(message)


@FAMILIES
def test_tcp_is_recorded_in_both_families(tmp_path: Path, family: int) -> None:
    asked, answer = query_message(), response_message(octets=3000)
    packets = [
        *segments(family, RESOLVERS, SERVERS, framed(asked)),
        *segments(family, SERVERS, RESOLVERS, framed(answer)),
    ]
    (transaction,), counters = recorded(
        tmp_path, [(1 + number / 1000, p) for number, p in enumerate(packets)]
    )
    assert (transaction["type"], transaction["proto"]) == ("UDP_QUERY_RESPONSE", 6)
    assert transaction["query_ip"] == ip_address(RESOLVERS[family == 6]).packed
    assert (transaction["query_port"], transaction["response_port"]) == (PORT, 53)
    (packet,) = transaction["response_packet"]
    kept = (IP if family == 4 else IPv6)(packet)
    assert bytes(kept[TCP].payload) == framed(answer)
    checksum = kept[TCP].chksum
    del kept[TCP].chksum
    assert kept.__class__(bytes(kept))[TCP].chksum == checksum
    assert counters["packets_passed"] + counters["packets_filtered_no_data"] == len(packets)


@FAMILIES
def test_a_truncated_answer_and_its_retry_are_two_transactions(tmp_path: Path, family: int) -> None:
    truncated = response(family)
    truncated[DNS].tc, truncated[DNS].an = 1, []
    packets = [
        query(family),
        truncated,
        *segments(family, RESOLVERS, SERVERS, framed(query_message())),
        *segments(family, SERVERS, RESOLVERS, framed(response_message())),
    ]
    transactions, _ = recorded(tmp_path, [(1.0 + number, packet) for number, packet in enumerate(packets)])
    assert [(found["type"], found["proto"]) for found in transactions] == [
        ("UDP_QUERY_RESPONSE", 17),
        ("UDP_QUERY_RESPONSE", 6),
    ]


def unreachable(family: int, source: Sequence[str]) -> Packet:
    quote = Raw(bytes(query(family)))
    error = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    return between(family, source, RESOLVERS) / error / quote


@FAMILIES
@pytest.mark.parametrize("source", [SERVERS, ROUTERS])
def test_errors_are_recorded_in_both_families(tmp_path: Path, family: int, source: Sequence[str]) -> None:
    (error, asked), _ = recorded(tmp_path, [(1.0, query(family)), (1.1, unreachable(family, source))])
    assert (error["type"], error["proto"]) == ("ICMP", 1 if family == 4 else 58)
    assert (error["qname_text"], error["id"], error["query_port"]) == ("www.example.", 7, PORT)
    assert error["response_ip"] == ip_address(SERVERS[family == 6]).packed
    assert ip_address(ROUTERS[family == 6]).packed not in error["icmp"]
    assert asked["type"] == "UDP_UNANSWERED_QUERY", "it waits on: a response may come all the same"


def test_clearing_survives_an_unsolicited_response_over_ipv6(tmp_path: Path) -> None:
    (transaction,), _ = recorded(tmp_path, [(1.0, response(6))], clear_resolver_address=True)
    assert transaction["type"] == "UDP_UNSOLICITED_RESPONSE"
    assert transaction["resolver_address_zeroed"] is True


@FAMILIES
def test_clearing_leaves_nothing_of_the_resolver(tmp_path: Path, family: int) -> None:
    packets = [
        query(family),
        response(family),
        *segments(family, RESOLVERS, SERVERS, framed(query_message())),
        *segments(family, SERVERS, RESOLVERS, framed(response_message())),
        unreachable(family, SERVERS),
        *pieces(family, response(family, octets=3000)),
    ]
    transactions, _ = recorded(
        tmp_path,
        [(1.0 + number / 100, packet) for number, packet in enumerate(packets)],
        clear_resolver_address=True,
        keep_query_packets=True,
    )
    kinds = [(found["type"], found["proto"]) for found in transactions]
    assert sorted(kinds) == sorted(
        [
            ("UDP_QUERY_RESPONSE", 17),
            ("UDP_QUERY_RESPONSE", 6),
            ("ICMP", 1 if family == 4 else 58),
            ("UDP_UNSOLICITED_RESPONSE", 17),
        ]
    )
    address = ip_address(RESOLVERS[family == 6])
    for transaction in transactions:
        assert transaction["query_ip"] == bytes(len(address.packed))
        assert transaction["query_port"] == 0
        stored = [*transaction["query_packet"], *transaction["response_packet"], transaction.get("icmp", b"")]
        assert not any(address.packed in packet or PORT.to_bytes(2, "big") in packet for packet in stored)
        for packet in filter(None, stored):
            # The checksums are those of the packet as it is.
            parsed = (IP if family == 4 else IPv6)(packet)
            for layer in parsed.layers():
                if "chksum" in parsed[layer].fields:
                    del parsed[layer].chksum
                elif "cksum" in parsed[layer].fields:
                    del parsed[layer].cksum
            assert bytes(parsed) == packet
        assert transaction.get("udp_checksum") in (None, "CORRECT")


def pieces(family: int, packet: Packet) -> list[Packet]:
    if family == 4:
        return list(fragment(packet, fragsize=1200))  # type: ignore[no-untyped-call]
    # Its IPv6 header needs a fragment header to be cut behind.
    cut = IPv6(src=packet.src, dst=packet.dst) / IPv6ExtHdrFragment(id=7) / packet[UDP]
    return list(fragment6(cut, 1280))  # type: ignore[no-untyped-call]


@FAMILIES
def test_fragments_may_come_in_different_seconds(tmp_path: Path, family: int) -> None:
    cut = pieces(family, response(family, octets=3000))
    assert len(cut) > 2
    packets = [(1.0, query(family)), *((1.9 + number, piece) for number, piece in enumerate(cut))]
    (transaction,), counters = recorded(tmp_path, packets)
    assert (transaction["type"], transaction["udp_checksum"]) == ("UDP_QUERY_RESPONSE", "CORRECT")
    (packet,) = transaction["response_packet"]
    assert packet == bytes(whole(family))
    assert transaction["response_time_sec"] == [int(1.9 + len(cut) - 1)]
    assert counters["packets_passed"] == len(packets)


def whole(family: int) -> Packet:
    """The fragmented response, had it come in one piece."""
    packet = response(family, octets=3000)
    first = pieces(family, packet)[0]
    if family == 4:
        packet.id, packet.flags = first.id, 0
    return packet


def test_special_use_names_are_kept_out(tmp_path: Path) -> None:
    packets = [(1.0, query(4, name="printer.local.")), (1.1, response(4, name="printer.local."))]
    transactions, counters = recorded(tmp_path, packets)
    assert (transactions, counters["messages_filtered_local_zone"]) == ([], 2)


def test_servers_at_private_addresses_are_kept_out(tmp_path: Path) -> None:
    inside = between(4, RESOLVERS, ["10.0.0.53"]) / UDP(sport=PORT, dport=53) / query_message()
    transactions, counters = recorded(tmp_path, [(1.0, inside)])
    assert (transactions, counters["messages_filtered_scope"]) == ([], 1)


def test_multicast_dns_is_kept_out(tmp_path: Path) -> None:
    packet = between(4, RESOLVERS, ["224.0.0.251"]) / UDP(sport=5353, dport=5353) / query_message()
    transactions, counters = recorded(tmp_path, [(1.0, packet)])
    assert (transactions, counters["packets_filtered_port"]) == ([], 1)


def test_times_are_in_nanoseconds(tmp_path: Path) -> None:
    (transaction,), _ = recorded(tmp_path, [(1.000000001, query(4)), (1.5, response(4))])
    assert transaction["query_time_nsec"] == [1]


def test_every_difference_names_a_test_that_is_there() -> None:
    table = PAGE.read_text().split(HEADING)[1].splitlines()
    rows = [row.split("|")[1:-1] for row in table if row.startswith("| ")]
    tests = [match for row in rows[1:] for match in re.findall(r"`([\w.:]+)`", row[-1])]
    assert len(tests) == len(rows) - 1
    core = PROJECT / "core"
    sources = [*(core / "crates" / "passive_dns").rglob("*.rs"), *core.glob("tests/*.py")]
    for named in tests:
        file, _, test = named.rpartition("::")
        found = [source for source in sources if source.name == (file or Path(__file__).name)]
        definitions = (f"fn {test}(", f"def {test}(")
        assert any(definition in source.read_text() for source in found for definition in definitions), named
