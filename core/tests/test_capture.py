"""Live capture, in a network namespace: what the kernel's filter lets in, and what becomes of interfaces."""

import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from sie_core._native import CaptureError, LiveSource, NativeError, Recorder, decode

from .oracle import Oracle, comparable
from .traffic import LINK_TYPES, RESOLVERS, Traffic

T = TypeVar("T")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces and packet sockets"),
]

NAMESPACE = f"sie-core-{os.getpid()}"


def ip(*words: str) -> None:
    subprocess.run(["ip", "-n", NAMESPACE, *words], check=True)


def inside(call: Callable[[], T]) -> T:
    """Call in a thread that has entered the namespace; sockets made there stay there."""
    results: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with Path(f"/run/netns/{NAMESPACE}").open() as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@pytest.fixture
def wire() -> Iterator[None]:
    """A pair of interfaces: `sensor0` is listened to, `wire0` is its far end. Only the test sends."""
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        quiet = [f"net.ipv6.conf.{which}.disable_ipv6=1" for which in ("all", "default")]
        subprocess.run(["ip", "netns", "exec", NAMESPACE, "sysctl", "-qw", *quiet], check=False)
        ip("link", "add", "sensor0", "type", "veth", "peer", "name", "wire0")
        for interface in ("sensor0", "wire0", "lo"):
            ip("link", "set", interface, "up")
        yield
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=True)


def send(interface: str, frames: list[bytes]) -> None:
    def put() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((interface, 0))
            for frame in frames:
                raw.send(frame)

    inside(put)


def listen(interface: str = "sensor0", resolvers: list[str] = RESOLVERS, **options: Any) -> LiveSource:
    return inside(lambda: LiveSource(interface, resolvers, **options))


def pump_until(recorder: Recorder, source: LiveSource, done: Callable[[dict[str, int]], bool]) -> bytes:
    """Pump until the counters say so; all containers."""
    octets = b""
    deadline = time.monotonic() + 20
    while not done(recorder.counters()):
        assert time.monotonic() < deadline, recorder.counters()
        octets += b"".join(container.data for container in recorder.pump(source, 0.05))
    return octets


def query(family: int = 4) -> Packet:
    ends = {4: ("192.0.2.53", "203.0.113.1"), 6: ("2001:db8::53", "2001:db8:ffff::1")}
    source, destination = ends[family]
    network = IP(src=source, dst=destination) if family == 4 else IPv6(src=source, dst=destination)
    return network / UDP(sport=5300, dport=53) / DNS(id=7, rd=0, qd=[DNSQR(qname="www.example.")])


def response(family: int = 4) -> Packet:
    made = query(family)
    made.src, made.dst = made.dst, made.src
    made[UDP].sport, made[UDP].dport = 53, 5300
    made[DNS].qr = 1
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
def test_both_directions_of_both_families(wire: None, family: int) -> None:
    recorder, source = Recorder(RESOLVERS), listen()
    send("sensor0", [framed(query(family))])
    pump_until(recorder, source, lambda counters: counters["transactions_pending"] == 1)
    send("wire0", [framed(response(family))])
    pump_until(recorder, source, lambda counters: counters["transactions_query_response"] == 1)
    assert recorder.counters()["packets_seen"] == 2
    assert source.kernel_drops() == 0


def test_tagged_frames(wire: None) -> None:
    """The kernel takes the outermost tag off; what is left must be recognised with none, one and two."""
    recorder, source = Recorder(RESOLVERS), listen()
    stacks: list[list[Packet]] = [[], [Dot1Q(vlan=5)], [Dot1AD(vlan=6), Dot1Q(vlan=5)]]
    for family in (4, 6):
        for tags in stacks:
            for sender in ("wire0", "sensor0"):
                send(sender, [framed(query(family), *tags), framed(response(family), *tags)])
    pairs = 2 * len(stacks) * 2
    pump_until(recorder, source, lambda counters: counters["transactions_query_response"] == pairs)
    assert recorder.counters()["packets_seen"] == 2 * pairs


def taken(counters: dict[str, int]) -> int:
    return counters["messages_recorded"] + counters["transactions_pending"]


def test_the_kernel_lets_in_what_the_oracle_records(wire: None) -> None:
    """Nothing that is to be filtered reaches user space, nothing that is to be recorded is missing."""
    frames = [frame for _, frame in Traffic(seed=3, link="ethernet").take(150) if len(frame) >= 14]
    oracle = Oracle(RESOLVERS, LINK_TYPES["ethernet"])
    for frame in frames:
        oracle.see(0, without_outer_tag(frame))
    oracle.finish()
    recorded = oracle.outcomes["messages_recorded"]
    recorder, source = Recorder(RESOLVERS), listen()
    send("wire0", frames)
    octets = pump_until(recorder, source, lambda counters: taken(counters) >= recorded)
    octets += b"".join(container.data for container in recorder.pump(source, 0.2) + recorder.finish())
    counters = recorder.counters()
    # Lengths, names and what is asked for are not looked at in the kernel.
    unread = ["packets_rejected_malformed", "messages_rejected_malformed", "messages_filtered_qtype"]
    assert counters["messages_recorded"] == recorded
    assert counters["packets_seen"] == recorded + sum(counters[name] for name in unread)
    # All were sent within a second: times cannot be compared, nor how long queries waited.
    unlike = {"query_time", "response_time", "timeout"}

    def without_times(transaction: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in transaction.items() if name not in unlike}

    found = [without_times(comparable(payload)) for payload in decode(octets)]
    assert found == [without_times(transaction) for transaction in oracle.transactions]


def test_nothing_is_queued_before_the_filter_is_there(wire: None) -> None:
    stub = query()
    stub.src, stub.dst = "203.0.113.9", "192.0.2.53"
    flood = [framed(stub)] * 200
    stop = threading.Event()

    def send_on() -> None:
        while not stop.is_set():
            send("wire0", flood)

    sender = threading.Thread(target=send_on)
    sender.start()
    try:
        recorder = Recorder(RESOLVERS)
        for _ in range(20):
            source = listen()
            recorder.pump(source, 0.03)
            source.close()
    finally:
        stop.set()
        sender.join()
    assert recorder.counters()["packets_seen"] == 0


def test_a_long_list_of_resolvers_is_taken_by_the_kernel(wire: None) -> None:
    resolvers = [f"203.0.113.{number}" for number in range(0, 256, 2)]
    resolvers += [f"2001:db8:{number:x}::/48" for number in range(1, 60)]
    source = listen(resolvers=[*resolvers, "192.0.2.53"])
    recorder = Recorder(RESOLVERS)
    made = query()
    made.dst = "203.0.113.1"
    send("wire0", [framed(made)])
    pump_until(recorder, source, lambda counters: counters["packets_passed"] == 1)


# ---------------------------------------------------------------------- drops


def test_every_packet_is_seen_or_dropped(wire: None) -> None:
    recorder, source = Recorder(RESOLVERS), listen(ring_bytes=512 * 1024)
    sent = 20_000
    send("wire0", [framed(response())] * sent)
    pump_until(recorder, source, lambda counters: counters["packets_seen"] + source.kernel_drops() >= sent)
    assert source.kernel_drops() > 0
    assert recorder.counters()["packets_seen"] + source.kernel_drops() == sent


# ---------------------------------------------------------------------- interfaces


def test_an_interface_that_is_not_there_is_named(wire: None) -> None:
    with pytest.raises(CaptureError, match="interface span9: there is none of this name; `ip link` lists"):
        listen("span9")


def test_an_interface_that_goes_down_and_comes_back(wire: None) -> None:
    recorder, source = Recorder(RESOLVERS), listen()
    send("wire0", [framed(query())])
    ip("link", "set", "sensor0", "down")
    with pytest.raises(CaptureError, match="interface sensor0 is down or gone; bring it up"):
        pump_until(recorder, source, lambda _: False)
    assert recorder.counters()["packets_passed"] == 1, "what was received before is not lost"
    with pytest.raises(CaptureError, match="interface sensor0 is down or gone"):
        listen()
    ip("link", "set", "sensor0", "up")
    again = listen()
    send("wire0", [framed(response())])
    pump_until(recorder, again, lambda counters: counters["transactions_query_response"] == 1)


def test_an_interface_that_vanishes(wire: None) -> None:
    recorder, source = Recorder(RESOLVERS), listen()
    ip("link", "del", "sensor0")
    with pytest.raises(CaptureError, match="interface sensor0 is down or gone"):
        pump_until(recorder, source, lambda _: False)


def test_without_permission_the_remedy_is_named() -> None:
    program = (
        "import os\n"
        "from sie_core._native import CaptureError, LiveSource\n"
        "os.setuid(65534)\n"
        "try:\n"
        "    LiveSource('lo', ['192.0.2.53'])\n"
        "except CaptureError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "interface lo: not permitted; capturing needs CAP_NET_RAW\n"


def test_a_closed_source_stays_closed(wire: None) -> None:
    source = listen()
    source.close()
    source.close()
    assert source.kernel_drops() == 0
    with pytest.raises(CaptureError, match="the source is closed"):
        Recorder(RESOLVERS).pump(source, 0)


def test_a_ring_that_makes_no_sense(wire: None) -> None:
    with pytest.raises(NativeError, match="ring_bytes = 1000: must be from 524288 to 1073741824"):
        listen(ring_bytes=1000)


# ---------------------------------------------------------------------- time


def test_a_pump_ends_when_its_time_is_over(wire: None) -> None:
    recorder, source = Recorder(RESOLVERS), listen()
    for patience in (0.0, 0.3):
        started = time.monotonic()
        assert recorder.pump(source, patience) == []
        assert patience <= time.monotonic() - started < patience + 1


def test_a_container_is_sealed_while_no_packet_comes(wire: None) -> None:
    recorder, source = Recorder(RESOLVERS, flush_interval=0.3), listen()
    send("wire0", [framed(response())])
    started = time.monotonic()
    containers = recorder.pump(source, 10)
    assert sum(container.transactions for container in containers) == 1
    assert time.monotonic() - started < 5


def test_queries_expire_while_no_packet_comes(wire: None) -> None:
    recorder, source = Recorder(RESOLVERS, query_timeout=1), listen()
    send("wire0", [framed(query())])
    pump_until(recorder, source, lambda counters: counters["transactions_unanswered_query"] == 1)
    assert recorder.counters()["transactions_pending"] == 0
