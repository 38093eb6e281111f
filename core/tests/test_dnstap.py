"""dnstap through the native module: a resolver that connects, and the page that says what becomes of it."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import pytest

from sie_core._native import (
    CaptureError,
    Container,
    DnstapSource,
    NativeError,
    PcapSource,
    Recorder,
    decode,
)
from tests.dnstap import (
    ACCEPT,
    FINISH,
    READY,
    RESOLVER_QUERY,
    RESOLVER_RESPONSE,
    SERVER,
    START,
    STOP,
    control,
    frame,
)

from .traffic import LINK_TYPES, Traffic, write_pcap

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dnstap.md"
DEADLINE = 10.0


def pump(recorder: Recorder, source: DnstapSource, counter: str, count: int) -> list[Container]:
    """Until the recorder or the source has counted so far."""
    containers = []
    until = time.monotonic() + DEADLINE
    while (recorder.counters() | source.status())[counter] < count:
        assert time.monotonic() < until, recorder.counters() | source.status()
        containers += recorder.pump(source, 0.02)
    return containers


def transactions(containers: list[Container]) -> list[dict[str, Any]]:
    return [payload["message"] for container in containers for payload in decode(container.data)]


def test_what_a_resolver_tells_becomes_transactions(tmp_path: Path) -> None:
    source = DnstapSource()
    assert source.listen(f"unix:{tmp_path}/dnstap.sock") is None
    recorder = Recorder([], keep_query_packets=True)
    query = dns.message.make_query("www.example", "A", id=7)
    query.flags &= ~dns.flags.RD
    response = dns.message.make_response(query)
    unanswered = dns.message.make_query("lost.example", "A", id=8)
    unanswered.flags &= ~dns.flags.RD
    recursive = dns.message.make_query("client.example", "A", id=9)
    now = time.time()
    with socket.socket(socket.AF_UNIX) as resolver:
        resolver.settimeout(DEADLINE)
        resolver.connect(f"{tmp_path}/dnstap.sock")
        resolver.sendall(control(READY))
        pump(recorder, source, "dnstap_connections_open", 1)
        recorder.pump(source, 0.02)
        assert resolver.recv(100) == control(ACCEPT)
        resolver.sendall(
            control(START)
            + frame(RESOLVER_QUERY, query.to_wire(), now)
            + frame(RESOLVER_RESPONSE, response.to_wire(), now + 0.25)
            + frame(RESOLVER_QUERY, unanswered.to_wire(), now, transport=2)
            + frame(RESOLVER_QUERY, recursive.to_wire(), now)
            + control(STOP)
        )
        containers = pump(recorder, source, "dnstap_connections_finished", 1)
        assert resolver.recv(100) == control(FINISH)
    written = {one["type"]: one for one in transactions(containers + recorder.finish())}
    assert set(written) == {"UDP_QUERY_RESPONSE", "UDP_UNANSWERED_QUERY"}
    answered, lost = written["UDP_QUERY_RESPONSE"], written["UDP_UNANSWERED_QUERY"]
    assert answered["qname_text"] == "www.example."
    assert answered["query_zone_text"] == "example."
    assert (answered["query_ip"], answered["query_port"]) == (bytes(4), 40000)
    assert (answered["response_ip"], answered["response_port"]) == (SERVER, 53)
    assert answered["query_packet"][0].endswith(query.to_wire())
    assert answered["response_packet"][0].endswith(response.to_wire())
    delay = answered["response_time_nsec"][0] - answered["query_time_nsec"][0]
    delay += 1e9 * (answered["response_time_sec"][0] - answered["query_time_sec"][0])
    assert delay == pytest.approx(250e6, abs=1000)
    assert (lost["proto"], lost["qname_text"]) == (6, "lost.example.")
    counters = recorder.counters()
    assert counters["messages_filtered_rd"] == 1
    assert counters["dnstap_frames_seen"] == counters["dnstap_frames_passed"] == 4
    ((trouble, notice),) = source.take_notices()
    assert not trouble
    assert notice.endswith("unbound 1.17.1, sends what a resolver asks")


def test_a_recorder_without_resolvers_lets_no_packet_in(tmp_path: Path) -> None:
    path = tmp_path / "traffic.pcap"
    write_pcap(path, Traffic(seed=1, link="ethernet").take(50), LINK_TYPES["ethernet"])
    recorder, source = Recorder([]), PcapSource(str(path))
    while not recorder.at_end:
        recorder.pump(source, 1.0)
    counters = recorder.counters()
    assert counters["packets_seen"] > 50
    assert counters["packets_passed"] == counters["packets_filtered_both_listed"] == 0


def test_a_closed_source(tmp_path: Path) -> None:
    path = tmp_path / "dnstap.sock"
    source = DnstapSource()
    source.listen(f"unix:{path}", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CaptureError, match="another program listens there"):
        DnstapSource().listen(f"unix:{path}")
    source.close()
    assert not path.exists()
    with pytest.raises(CaptureError, match="closed"):
        Recorder([]).pump(source, 0.0)
    with pytest.raises(CaptureError, match="closed"):
        source.listen(f"unix:{path}")


def test_bad_endpoints() -> None:
    with pytest.raises(NativeError, match=r"must be unix:/PATH or tcp:ADDRESS:PORT"):
        DnstapSource().listen("tcp:localhost:6000")
    with pytest.raises(NativeError, match="resolver"):
        DnstapSource().listen("tcp:127.0.0.1:0", senders=["resolver.example"])
    with pytest.raises(CaptureError, match="can be reached from other hosts"):
        DnstapSource().listen("tcp:0.0.0.0:0")
    assert DnstapSource().listen("tcp:0.0.0.0:0", senders=["192.0.2.53"])


def test_a_socket_belongs_to_its_group(tmp_path: Path) -> None:
    path, own, other = tmp_path / "dnstap.sock", os.getegid(), 4242
    source = DnstapSource()
    source.listen(f"unix:{path}", group=own)
    assert path.stat().st_gid == own
    source.close()
    if os.geteuid() == 0:
        source = DnstapSource()
        source.listen(f"unix:{path}", group=other)
        assert path.stat().st_gid == other
    else:
        with pytest.raises(CaptureError, match="giving the socket to its group: "):
            DnstapSource().listen(f"unix:{path}", group=other)


def test_what_was_sent_before_the_end_is_recorded(tmp_path: Path) -> None:
    source = DnstapSource()
    source.listen(f"unix:{tmp_path}/dnstap.sock")
    recorder = Recorder([])
    query = dns.message.make_query("www.example", "A", id=7)
    query.flags &= ~dns.flags.RD
    with socket.socket(socket.AF_UNIX) as resolver:
        resolver.connect(f"{tmp_path}/dnstap.sock")
        resolver.sendall(control(START))
        pump(recorder, source, "dnstap_connections_open", 1)
        resolver.sendall(frame(RESOLVER_QUERY, query.to_wire(), time.time()) * 10)
        source.drain()
        while not recorder.at_end:
            recorder.pump(source, DEADLINE)
    (container,) = recorder.finish()
    assert container.transactions == 10


def test_the_page_lists_every_counter() -> None:
    page = PAGE.read_text()
    connections = [name for name in DnstapSource().status() if name.startswith("dnstap_connections_")]
    for counter in connections:
        assert f"`{counter}`" in page, counter
    for counter in Recorder([]).counters():
        if counter.startswith("dnstap_frames_"):
            kind = counter.removeprefix("dnstap_frames_filtered")
            assert f"`{counter}`" in page or f"`{kind}`" in page, counter
