"""Live capture, in a network namespace: what the kernel's filter lets in, and what becomes of interfaces."""

import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from sie_core._native import CaptureError, LiveSource, NativeError, Recorder, decode
from tests.netns import Namespace, namespace

from .oracle import Oracle, comparable, same
from .traffic import LINK_TYPES, RESOLVERS, Traffic

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces and packet sockets"),
]

RING = 512 * 1024
NULL = 10  # an rrtype of any octets (RFC 1035 section 3.3.10)


@pytest.fixture
def wire() -> Iterator[Namespace]:
    """A pair of interfaces: `sensor0` is listened to, `wire0` is its far end. Only the test sends."""
    with namespace() as made:
        yield made


def listen(
    wire: Namespace,
    *interfaces: str,
    resolvers: list[str] = RESOLVERS,
    promiscuous: bool = False,
    **options: Any,
) -> LiveSource:
    named = [(interface, promiscuous) for interface in interfaces or ("sensor0",)]
    return wire.inside(lambda: LiveSource(named, resolvers, **options))


def pump_until(
    wire: Namespace, recorder: Recorder, source: LiveSource, done: Callable[[dict[str, int]], bool]
) -> bytes:
    """Pump until the counters say so; all containers. Inside, where interfaces are opened again."""
    octets = b""
    deadline = time.monotonic() + 20
    while not done(recorder.counters()):
        assert time.monotonic() < deadline, (recorder.counters(), source.status())
        containers = wire.inside(lambda: recorder.pump(source, 0.05))
        octets += b"".join(container.data for container in containers)
    return octets


def await_status(
    wire: Namespace, recorder: Recorder, source: LiveSource, done: Callable[[list[dict[str, Any]]], bool]
) -> None:
    pump_until(wire, recorder, source, lambda _: done(source.status()))


def query(family: int = 4) -> Packet:
    ends = {4: ("192.0.2.53", "203.0.113.1"), 6: ("2001:db8::53", "2001:db8:ffff::1")}
    source, destination = ends[family]
    network = IP(src=source, dst=destination) if family == 4 else IPv6(src=source, dst=destination)
    return network / UDP(sport=5300, dport=53) / DNS(id=7, rd=0, qd=[DNSQR(qname="www.example.")])


def response(family: int = 4, port: int = 5300, padding: int = 0) -> Packet:
    made = query(family)
    made.src, made.dst = made.dst, made.src
    made[UDP].sport, made[UDP].dport = 53, port
    made[DNS].qr = 1
    if padding:
        made[DNS].an = [DNSRR(rrname="www.example.", type="NULL", ttl=60, rdata=bytes(padding))]
    return made


def without_outer_tag(frame: bytes) -> bytes:
    """A frame as the kernel hands it over: the outermost VLAN tag goes into a field of its own."""
    return frame[:12] + frame[16:] if frame[12:14] in (b"\x81\x00", b"\x88\xa8") else frame


def framed(network: Packet, *tags: Packet) -> bytes:
    frame: Packet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for tag in tags:
        frame = frame / tag
    return bytes(frame / network)


# ---------------------------------------------------------------------- what is let in


@pytest.mark.parametrize("family", [4, 6])
def test_both_directions_of_both_families(wire: Namespace, family: int) -> None:
    recorder, source = Recorder(RESOLVERS), listen(wire)
    wire.put(interface="sensor0", frames=[framed(query(family))])
    pump_until(wire, recorder, source, lambda counters: counters["transactions_pending"] == 1)
    wire.put(interface="wire0", frames=[framed(response(family))])
    pump_until(wire, recorder, source, lambda counters: counters["transactions_query_response"] == 1)
    assert recorder.counters()["packets_seen"] == 2
    assert drops(source) == 0


def test_tagged_frames(wire: Namespace) -> None:
    """The kernel takes the outermost tag off; what is left must be recognised with none, one and two."""
    recorder, source = Recorder(RESOLVERS), listen(wire)
    stacks: list[list[Packet]] = [[], [Dot1Q(vlan=5)], [Dot1AD(vlan=6), Dot1Q(vlan=5)]]
    for family in (4, 6):
        for tags in stacks:
            for sender in ("wire0", "sensor0"):
                wire.put(
                    interface=sender, frames=[framed(query(family), *tags), framed(response(family), *tags)]
                )
    pairs = 2 * len(stacks) * 2
    pump_until(wire, recorder, source, lambda counters: counters["transactions_query_response"] == pairs)
    assert recorder.counters()["packets_seen"] == 2 * pairs


def taken(counters: dict[str, int]) -> int:
    return counters["messages_recorded"] + counters["transactions_pending"]


@pytest.mark.parametrize("encapsulated", [False, True])
def test_the_kernel_lets_in_what_the_oracle_records(wire: Namespace, encapsulated: bool) -> None:
    """Nothing that addresses and ports keep out reaches user space, nothing else is missing."""
    frames = [frame for _, frame in Traffic(seed=3, link="ethernet").take(150) if len(frame) >= 14]
    oracle = Oracle(RESOLVERS, LINK_TYPES["ethernet"], encapsulated=encapsulated)
    for frame in frames:
        oracle.see(0, without_outer_tag(frame))
    before = oracle.ledger()
    oracle.finish()
    # Compressed containers hold their transactions in another order.
    recorder = Recorder(RESOLVERS, codec="none")
    source = listen(wire, encapsulated=["sensor0"] if encapsulated else [])
    wire.put(interface="wire0", frames=frames)
    octets = pump_until(wire, recorder, source, lambda counters: taken(counters) >= taken(before))
    octets += b"".join(container.data for container in recorder.pump(source, 0.2))
    assert_kernel_refused(recorder.counters(), before)
    octets += b"".join(container.data for container in recorder.finish())
    assert_kernel_refused(recorder.counters(), oracle.ledger())
    # All were sent within a second: times cannot be compared, nor how long queries waited.
    unlike = ("time", "query_time", "response_time", "timeout")

    def without_times(transaction: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in transaction.items() if name not in unlike}

    found = [without_times(comparable(payload)) for payload in decode(octets)]
    for transaction, expected in zip(found, map(without_times, oracle.transactions), strict=True):
        assert same(transaction, expected), f"{transaction}\n{expected}"


def assert_kernel_refused(found: dict[str, int], expected: dict[str, int]) -> None:
    """The recorder saw everything of an oracle's ledger but what the kernel's filter is to refuse."""
    by_addresses = [
        f"packets_filtered_{reason}" for reason in ("direction", "both_listed", "port", "protocol")
    ]
    assert [found[name] for name in by_addresses] == [0] * len(by_addresses)
    # In datagrams alone is the header of a message read; what is too short for the reads is refused too.
    by_header = [f"messages_filtered_{reason}" for reason in ("direction", "opcode", "rd")]
    too_short = ["packets_rejected_malformed", "packets_filtered_no_data"]
    refused = {name: expected[name] - found[name] for name in by_addresses + by_header + too_short}
    assert all(count >= 0 for count in refused.values())
    assert all(refused[name] > 0 for name in by_addresses + by_header)
    messages = sum(refused[name] for name in by_header)
    assert expected["packets_passed"] - found["packets_passed"] == messages
    assert expected["messages_seen"] - found["messages_seen"] == messages
    assert expected["packets_seen"] - found["packets_seen"] == sum(refused.values())
    sums = ("packets_seen", "packets_passed", "messages_seen")
    judged = ("packets_", "messages_", "transactions_pending")
    same_in_both = [
        name for name in expected if name.startswith(judged) and name not in refused and name not in sums
    ]
    assert {name: found[name] for name in same_in_both} == {name: expected[name] for name in same_in_both}


def test_nothing_is_queued_before_the_filter_is_there(wire: Namespace) -> None:
    stub = query()
    stub.src, stub.dst = "203.0.113.9", "192.0.2.53"
    flood = [framed(stub)] * 200
    stop = threading.Event()

    def send_on() -> None:
        while not stop.is_set():
            wire.put(interface="wire0", frames=flood)

    sender = threading.Thread(target=send_on)
    sender.start()
    try:
        recorder = Recorder(RESOLVERS)
        for _ in range(20):
            source = listen(wire)
            recorder.pump(source, 0.03)
            source.close()
    finally:
        stop.set()
        sender.join()
    assert recorder.counters()["packets_seen"] == 0


def test_a_long_list_of_resolvers_is_taken_by_the_kernel(wire: Namespace) -> None:
    resolvers = [f"203.0.113.{number}" for number in range(0, 256, 2)]
    resolvers += [f"2001:db8:{number:x}::/48" for number in range(1, 60)]
    source = listen(wire, resolvers=[*resolvers, "192.0.2.53"])
    recorder = Recorder(RESOLVERS)
    made = query()
    made.dst = "203.0.113.1"
    wire.put(interface="wire0", frames=[framed(made)])
    pump_until(wire, recorder, source, lambda counters: counters["packets_passed"] == 1)


# ---------------------------------------------------------------------- several interfaces


def test_a_tap_gives_each_direction_an_interface_of_its_own(wire: Namespace) -> None:
    """The queries' block comes late, the responses' at once, since it is full: they pair all the same."""
    wire.plug("sensor1", "wire1")
    recorder, source = Recorder(RESOLVERS), listen(wire, "sensor0", "sensor1")
    rounds, others = 6, 3 * RING // 2 // 1000
    asked = [framed(query())]
    answered = [framed(response())] + [framed(response(port=5999, padding=900))] * others

    def send_all() -> None:
        for _ in range(rounds):
            wire.put(interface="wire0", frames=asked)
            wire.put(interface="wire1", frames=answered)

    sender = threading.Thread(target=send_all)
    sender.start()
    pump_until(wire, recorder, source, lambda counters: counters["packets_seen"] == rounds * (2 + others))
    sender.join()
    counters = recorder.counters()
    assert counters["transactions_query_response"] == rounds
    assert counters["transactions_unsolicited_response"] == rounds * others


def test_nobody_waits_for_an_interface_that_is_idle_or_not_there(wire: Namespace) -> None:
    wire.plug("sensor1", "wire1")
    recorder, source = Recorder(RESOLVERS), listen(wire, "sensor0", "sensor1", "sensor9")
    wire.put([framed(query()), framed(response())])
    started = time.monotonic()
    pump_until(wire, recorder, source, lambda counters: counters["transactions_query_response"] == 1)
    assert time.monotonic() - started < 1


def test_two_interfaces_that_see_the_same_packets_give_them_twice(wire: Namespace) -> None:
    recorder, source = Recorder(RESOLVERS), listen(wire, "sensor0", "wire0")
    wire.put([framed(query())] * 1000)
    pump_until(wire, recorder, source, lambda counters: counters["packets_seen"] == 2000)
    assert [status["kernel_drops"] for status in source.status()] == [0, 0]


def test_what_is_asked_for_must_make_sense(wire: Namespace) -> None:
    with pytest.raises(NativeError, match=r"interfaces: none is named"):
        LiveSource([], RESOLVERS)
    with pytest.raises(NativeError, match=r"interface sensor0 is named twice"):
        LiveSource([("sensor0", False), ("sensor0", True)], RESOLVERS)
    with pytest.raises(NativeError, match="ring_bytes = 1000: must be from 524288 to 1073741824"):
        listen(wire, ring_bytes=1000)


# ---------------------------------------------------------------------- what the kernel makes of packets


def test_each_packet_of_a_loopback_interface_is_seen_once(wire: Namespace) -> None:
    """A resolver and a server on one host, whose kernel fills in no checksum that could be judged."""
    for address in ("192.0.2.53/32", "203.0.113.1/32"):
        wire.ip("address", "add", address, "dev", "lo")
    recorder, source = Recorder(RESOLVERS), listen(wire, "lo")

    def exchange() -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        ):
            resolver.bind(("192.0.2.53", 5300))
            server.bind(("203.0.113.1", 53))
            resolver.sendto(bytes(query()[DNS]), ("203.0.113.1", 53))
            # As large as a datagram can be: one packet of 64 KiB on this interface.
            answer = bytearray(bytes(response()[DNS]))
            answer[6:8] = struct.pack("!H", 1)
            answer += struct.pack("!HHHIH", 0xC00C, NULL, 1, 60, 65507 - len(answer) - 12)
            server.sendto(answer + bytes(65507 - len(answer)), server.recvfrom(512)[1])

    wire.inside(exchange)
    octets = pump_until(wire, recorder, source, lambda counters: counters["packets_seen"] == 2)
    octets += b"".join(container.data for container in recorder.finish())
    (transaction,) = [payload["message"] for payload in decode(octets)]
    assert transaction["type"] == "UDP_QUERY_RESPONSE"
    assert "udp_checksum" not in transaction
    assert len(transaction["response_packet"][0]) == 65535
    wire.inside(lambda: recorder.pump(source, 0.2))
    assert recorder.counters()["packets_seen"] == 2


def large_answer(asked: bytes, records: int) -> bytes:
    """The answer to a query: so many TXT records of 255 octets."""
    header = struct.pack("!HHHHHH", int.from_bytes(asked[:2]), 0x8400, 1, records, 0, 0)
    record = struct.pack("!HHHIHB", 0xC00C, 16, 1, 60, 255, 254) + bytes(254)
    return header + asked[12:] + record * records


def test_segments_that_the_kernel_joins_are_read_whole(wire: Namespace) -> None:
    """The sending kernel leaves it to the network card to cut a segment of 64 KiB into packets: the interface
    shows it whole.
    """
    resolver, server, exchanges = "203.0.113.53", "203.0.113.1", 20
    wire.plug("sensor1", "wire1")
    for interface in ("sensor1", "wire1"):
        wire.ip("link", "set", interface, "mtu", "1500")
    with namespace() as far:
        wire.ip("link", "set", "wire1", "netns", far.name)
        wire.ip("address", "add", f"{resolver}/24", "dev", "sensor1")
        far.ip("address", "add", f"{server}/24", "dev", "wire1")
        far.ip("link", "set", "wire1", "up")
        recorder = Recorder([resolver])
        source = listen(wire, "sensor1", resolvers=[resolver])
        listener = far.inside(lambda: socket.create_server((server, 53)))
        asked = bytes(query()[DNS])
        answer = large_answer(asked, 230)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as stream:
                for _ in range(exchanges):
                    stream.read(2 + len(asked))
                    connection.sendall(struct.pack("!H", len(answer)) + answer)

        def resolve() -> None:
            with socket.create_connection((server, 53)) as connection, connection.makefile("rb") as stream:
                for _ in range(exchanges):
                    connection.sendall(struct.pack("!H", len(asked)) + asked)
                    stream.read(2 + len(answer))

        serving = threading.Thread(target=serve)
        serving.start()
        wire.inside(resolve)
        serving.join()
        listener.close()
        octets = pump_until(
            wire, recorder, source, lambda counters: counters["transactions_query_response"] == exchanges
        )
    octets += b"".join(container.data for container in recorder.finish())
    packets = [payload["message"]["response_packet"][0] for payload in decode(octets)]
    assert [packet.endswith(answer) for packet in packets] == [True] * exchanges
    assert recorder.counters()["packets_seen"] < exchanges * len(answer) / 1448, "nothing was joined"


# ---------------------------------------------------------------------- drops


def drops(source: LiveSource) -> int:
    return sum(status["kernel_drops"] for status in source.status())


def test_every_packet_is_seen_or_dropped_whatever_becomes_of_the_interface(wire: Namespace) -> None:
    recorder, source = Recorder(RESOLVERS), listen(wire, ring_bytes=RING)
    flood = [framed(response())] * 20_000
    for sent in (len(flood), 2 * len(flood)):
        wire.put(flood)
        pump_until(
            wire,
            recorder,
            source,
            lambda counters, sent=sent: counters["packets_seen"] + drops(source) >= sent,  # type: ignore[misc]
        )
        assert drops(source) > 0
        assert recorder.counters()["packets_seen"] + drops(source) == sent
        wire.unplug()
        await_status(wire, recorder, source, lambda statuses: not statuses[0]["up"])
        wire.plug()
        await_status(wire, recorder, source, lambda statuses: statuses[0]["up"])
    assert recorder.counters()["packets_seen"] + drops(source) == 2 * len(flood)


# ---------------------------------------------------------------------- interfaces that come and go


def test_interfaces_that_come_and_go_while_others_go_on(wire: Namespace) -> None:
    """One is there, one is not yet, one is down; then one vanishes and comes back as another."""
    wire.plug("sensor1", "wire1")
    wire.ip("link", "set", "sensor1", "down")
    recorder, source = Recorder(RESOLVERS), listen(wire, "sensor0", "sensor1", "sensor2")
    up, down, absent = source.status()
    assert up == {"interface": "sensor0", "up": True, "failures": 0, "kernel_drops": 0, "last_error": None}
    assert (down["up"], down["failures"]) == (False, 1)
    assert down["last_error"] == (
        "interface sensor1 is down or gone; bring it up (`ip link set dev sensor1 up`)"
    )
    assert absent["last_error"] == (
        "interface sensor2: there is none of this name; `ip link` lists those that there are"
    )
    wire.ip("link", "set", "sensor1", "up")
    wire.plug("sensor2", "wire2")
    await_status(wire, recorder, source, lambda statuses: all(status["up"] for status in statuses))
    assert [status["last_error"] for status in source.status()] == [None] * 3

    wire.put(interface="wire2", frames=[framed(query())])
    wire.unplug("sensor2")
    wire.put(interface="wire1", frames=[framed(response())])
    await_status(wire, recorder, source, lambda statuses: not statuses[2]["up"])
    counters = recorder.counters()
    assert counters["transactions_query_response"] == 1, "what was received before is not lost"
    assert "sensor2 is down or gone" in source.status()[2]["last_error"]

    wire.plug("other", "more")  # so that sensor2 gets another index
    wire.plug("sensor2", "wire2")
    wire.put(interface="wire0", frames=[framed(query())])
    await_status(wire, recorder, source, lambda statuses: statuses[2]["up"])
    wire.put(interface="wire2", frames=[framed(response())])
    pump_until(wire, recorder, source, lambda counters: counters["transactions_query_response"] == 2)
    assert recorder.counters()["packets_seen"] == 4
    assert source.status()[0]["failures"] == 0


def test_an_interface_is_picked_up_while_others_never_pause(wire: Namespace) -> None:
    wire.plug("sensor1", "wire1")
    recorder, source = Recorder(RESOLVERS), listen(wire, "sensor0", "sensor9")
    stop = threading.Event()

    def send_on() -> None:
        while not stop.is_set():
            wire.put([framed(response())] * 1000)

    sender = threading.Thread(target=send_on)
    sender.start()
    try:
        wire.plug("sensor9", "wire9")
        await_status(wire, recorder, source, lambda statuses: statuses[1]["up"])
    finally:
        stop.set()
        sender.join()


def test_promiscuous_is_for_each_opening(wire: Namespace) -> None:
    def promiscuity() -> str:
        shown = subprocess.run(
            ["ip", "-n", wire.name, "-d", "link", "show", "sensor0"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found = re.search(r"promiscuity (\d)", shown)
        assert found is not None
        return found[1]

    recorder, source = Recorder(RESOLVERS), listen(wire, promiscuous=True)
    assert promiscuity() == "1"
    wire.unplug()
    await_status(wire, recorder, source, lambda statuses: not statuses[0]["up"])
    wire.plug()
    await_status(wire, recorder, source, lambda statuses: statuses[0]["up"])
    assert promiscuity() == "1"
    source.close()
    assert promiscuity() == "0"
    assert not source.status()[0]["up"]


def test_without_permission_the_remedy_is_named() -> None:
    program = (
        "import os\n"
        "from sie_core._native import LiveSource\n"
        "os.setuid(65534)\n"
        "print(LiveSource([('lo', False)], ['192.0.2.53']).status()[0]['last_error'])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "interface lo: not permitted; capturing needs CAP_NET_RAW\n"


def test_a_closed_source_stays_closed(wire: Namespace) -> None:
    source = listen(wire)
    source.close()
    source.close()
    source.drain()
    assert drops(source) == 0
    with pytest.raises(CaptureError, match="the source is closed"):
        Recorder(RESOLVERS).pump(source, 0)
    with pytest.raises(CaptureError, match="the source is closed"):
        source.set_resolvers(RESOLVERS)


# ---------------------------------------------------------------------- changes


def of_resolver(address: str) -> bytes:
    made = query()
    made.src = address
    return framed(made)


def test_resolvers_are_replaced_under_traffic_without_loss(wire: Namespace) -> None:
    kept, changing = "192.0.2.53", "192.0.2.99"
    lists = ([kept, changing], [kept])
    recorder, source = Recorder([kept, changing]), listen(wire, resolvers=lists[0])
    frames, rounds = [of_resolver(kept)] * 100, 100

    def send_all() -> None:
        for _ in range(rounds):
            wire.put(frames)

    sender = threading.Thread(target=send_all)
    sender.start()
    changes = 0
    while sender.is_alive():
        source.set_resolvers(lists[changes % 2])
        changes += 1
        wire.inside(lambda: recorder.pump(source, 0.001))
    sender.join()
    assert changes > 20
    pump_until(wire, recorder, source, lambda counters: counters["packets_seen"] >= rounds * len(frames))
    assert drops(source) == 0

    before = recorder.counters()["packets_seen"]
    assert before == rounds * len(frames)
    source.set_resolvers(lists[1])
    wire.put([of_resolver(changing), of_resolver(kept)])
    pump_until(wire, recorder, source, lambda counters: counters["packets_seen"] > before)
    source.set_resolvers(lists[0])
    wire.put([of_resolver(changing)])
    pump_until(wire, recorder, source, lambda counters: counters["packets_seen"] == before + 2)


def test_an_interface_that_comes_back_has_the_filter_of_today(wire: Namespace) -> None:
    recorder, source = Recorder(["192.0.2.99"]), listen(wire)
    wire.unplug()
    await_status(wire, recorder, source, lambda statuses: not statuses[0]["up"])
    source.set_resolvers(["192.0.2.99"])
    wire.plug()
    await_status(wire, recorder, source, lambda statuses: statuses[0]["up"])
    wire.put([of_resolver("192.0.2.53"), of_resolver("192.0.2.99")])
    pump_until(wire, recorder, source, lambda counters: counters["packets_seen"] == 1)
    assert recorder.counters()["packets_passed"] == 1


def test_a_filter_that_is_refused_leaves_the_one_before(wire: Namespace) -> None:
    recorder, source = Recorder(RESOLVERS), listen(wire)
    with pytest.raises(NativeError, match=r"2000 .*4096"):
        source.set_resolvers([f"2001:db8::{number:x}" for number in range(2000)])
    wire.put([of_resolver("192.0.2.53")])
    pump_until(wire, recorder, source, lambda counters: counters["packets_passed"] == 1)


def test_filters_fit_into_the_memory_that_older_kernels_have_for_them(wire: Namespace) -> None:
    """20 KiB a socket before Linux 6.7, where the filter to come and the one before do not always fit beside
    each other.
    """
    subprocess.run(wire.command("sysctl", "-qw", "net.core.optmem_max=20480"), check=True)

    def resolvers(count: int) -> list[str]:
        return [f"192.0.2.{number}" for number in range(count)] + [
            f"2001:db8::{number:x}" for number in range(1, count + 1)
        ]

    def fits(count: int) -> bool:
        source = listen(wire, resolvers=resolvers(count))
        source.close()
        return bool(source.status()[0]["failures"] == 0)

    # One less, since the filter that lets nothing in takes a few octets.
    most = max(count for count in range(1, 40) if fits(count)) - 1
    assert most >= 4
    recorder, source = Recorder(resolvers(most)), listen(wire, resolvers=resolvers(most - 1))
    last = of_resolver(f"192.0.2.{most - 1}")
    source.set_resolvers(resolvers(most))
    wire.put([last])
    pump_until(wire, recorder, source, lambda counters: counters["packets_passed"] == 1)
    with pytest.raises(
        CaptureError, match=r"interface sensor0: the kernel has no memory for a filter of \d+"
    ):
        source.set_resolvers(resolvers(most + 2))
    wire.put([last])
    pump_until(wire, recorder, source, lambda counters: counters["packets_passed"] == 2)
    assert source.status()[0]["failures"] == 0


def test_what_was_received_before_the_end_is_given_out(wire: Namespace) -> None:
    """The kernel has not handed the block over yet when the source is told to end."""
    wire.plug("sensor1", "wire1")
    recorder, source = Recorder(RESOLVERS), listen(wire, "sensor0", "sensor1", "sensor9")
    frames = [framed(query())] * 5
    wire.put(frames)
    source.drain()
    started = time.monotonic()
    while not recorder.at_end:
        recorder.pump(source, 1)
    assert time.monotonic() - started < 0.5
    assert recorder.counters()["packets_seen"] == len(frames)
    wire.put([framed(response())])
    recorder.pump(source, 1)
    assert recorder.at_end
    assert recorder.counters()["packets_seen"] == len(frames)


# ---------------------------------------------------------------------- time


def test_a_pump_ends_when_its_time_is_over(wire: Namespace) -> None:
    recorder, source = Recorder(RESOLVERS), listen(wire)
    for patience in (0.0, 0.3):
        started = time.monotonic()
        assert recorder.pump(source, patience) == []
        assert patience <= time.monotonic() - started < patience + 1


def test_a_container_is_sealed_while_no_packet_comes(wire: Namespace) -> None:
    recorder, source = Recorder(RESOLVERS, flush_interval=0.3), listen(wire)
    wire.put(interface="wire0", frames=[framed(response())])
    started = time.monotonic()
    containers = recorder.pump(source, 10)
    assert sum(container.transactions for container in containers) == 1
    assert time.monotonic() - started < 5


def test_queries_expire_while_no_packet_comes(wire: Namespace) -> None:
    recorder, source = Recorder(RESOLVERS, query_timeout=1), listen(wire)
    wire.put(interface="wire0", frames=[framed(query())])
    pump_until(wire, recorder, source, lambda counters: counters["transactions_unanswered_query"] == 1)
    assert recorder.counters()["transactions_pending"] == 0
