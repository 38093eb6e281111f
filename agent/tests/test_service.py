"""`sie-agent run` as systemd runs it: real packets on a real interface, a real hub, real signals."""

import asyncio
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sie_agent.spool import snapshot
from sie_core._native import decode
from tests.agent_process import Clock, Running, running
from tests.disk import small_disk
from tests.netns import Namespace, namespace
from tests.traffic.frames import read_pcap

from .conftest import Traffic
from .hub import Authority, Hub

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0,
        reason="capturing needs CAP_NET_RAW, and namespaces need root: run the tests as root",
    ),
]

STOP_WITHIN = 2.0


@pytest.fixture
def wire() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


async def put(wire: Namespace, frames: list[bytes]) -> None:
    await asyncio.to_thread(wire.put, frames)


async def test_live_packets_reach_the_hub_each_once(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], authority: Authority, tmp_path: Path
) -> None:
    hub = Hub()
    listener = wire.inside(lambda: socket.create_server(("127.0.0.1", 0)))
    port = listener.getsockname()[1]
    async with hub.listening(*authority.server(), authority.ca, sock=listener):
        config = config_file(f"wss://127.0.0.1:{port}", interface=wire.inner)
        async with running(wire, config, tmp_path) as agent:
            frames = read_pcap(traffic.pcap)
            await put(wire, frames)
            answered = traffic.transactions - traffic.unanswered
            await agent.until(lambda status: status["acknowledged"] == answered)
            assert hub.transactions == answered
            took = await agent.stop()
            assert took < STOP_WITHIN
        # What was waiting for a response is recorded by the stop, and the hub still gets it.
        assert hub.transactions == traffic.transactions
        assert hub.finished == 1
    at_rest = snapshot(tmp_path / "spool")
    assert at_rest is not None
    assert (at_rest.ledger.captured, at_rest.ledger.pending) == (traffic.transactions, 0)
    qnames = [
        message["message"]["qname_text"]
        for stream in hub.stored.values()
        for _, data, _ in stream
        for message in decode(data)
    ]
    assert len(qnames) == traffic.transactions
    assert not [qname for qname in qnames if "stub-secret" in qname]
    assert hub.accounts[-1]["captured"] == traffic.transactions
    log = agent.log.read_text()
    assert (
        f"stopped: captured {traffic.transactions} = acknowledged {traffic.transactions} + pending 0" in log
    )


async def test_without_a_hub_everything_waits_in_the_spool_and_a_stop_is_quick(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    async with running(wire, config_file(interface=wire.inner), tmp_path) as agent:
        await put(wire, read_pcap(traffic.pcap))
        answered = traffic.transactions - traffic.unanswered
        status = await agent.until(lambda status: status["captured"] == answered)
        assert status["pending"] == answered
        assert status["uplink"]["state"] in ("unreachable", "connecting")  # type: ignore[index]
        assert status["kernel_drops"] == 0
        counters = status["counters"]
        assert isinstance(counters, dict)
        outcomes = sum(
            value
            for name, value in counters.items()
            if name.startswith("packets_") and name != "packets_seen"
        )
        assert counters["packets_seen"] == outcomes
        assert await agent.stop() < STOP_WITHIN
    at_rest = snapshot(tmp_path / "spool")
    assert at_rest is not None
    assert at_rest.ledger.pending == traffic.transactions


async def test_a_stop_waits_no_longer_for_a_hub_that_says_nothing(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], authority: Authority, tmp_path: Path
) -> None:
    hub = Hub()
    hub.acknowledging.clear()
    listener = wire.inside(lambda: socket.create_server(("127.0.0.1", 0)))
    async with hub.listening(*authority.server(), authority.ca, sock=listener):
        config = config_file(f"wss://127.0.0.1:{listener.getsockname()[1]}", interface=wire.inner)
        async with running(wire, config, tmp_path) as agent:
            await put(wire, read_pcap(traffic.pcap))
            await agent.until(lambda status: status["in_flight"] == 4)
            assert await agent.stop() < STOP_WITHIN
    at_rest = snapshot(tmp_path / "spool")
    assert at_rest is not None
    assert at_rest.ledger.pending == traffic.transactions  # open transactions are written down all the same


async def test_a_stop_waits_for_no_renewal_that_gets_no_answer(
    wire: Namespace, config_file: Callable[..., Path], authority: Authority, tmp_path: Path
) -> None:
    listener = wire.inside(lambda: socket.create_server(("127.0.0.1", 0)))
    listener.settimeout(20)
    with listener:
        config = config_file(interface=wire.inner)
        enrol = f"uplink: {{enrol: 'https://127.0.0.1:{listener.getsockname()[1]}', "
        config.write_text(config.read_text().replace("uplink: {", enrol))
        authority.sensor(age_days=25)  # of 30: it is time
        async with running(wire, config, tmp_path) as agent:
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                assert await asyncio.to_thread(connection.recv, 1 << 14)  # its greeting; nobody answers
                assert await agent.stop() < STOP_WITHIN


async def test_a_kill_loses_nothing_that_had_reached_the_spool(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], authority: Authority, tmp_path: Path
) -> None:
    hub = Hub()
    hub.acknowledging.clear()
    listener = wire.inside(lambda: socket.create_server(("127.0.0.1", 0)))
    port = listener.getsockname()[1]
    async with hub.listening(*authority.server(), authority.ca, sock=listener):
        config = config_file(f"wss://127.0.0.1:{port}", interface=wire.inner)
        async with running(wire, config, tmp_path) as agent:
            await put(wire, read_pcap(traffic.pcap))
            status = await agent.until(lambda status: status["in_flight"] == 4)
            assert status["acknowledged"] == 0
            agent.process.kill()
            agent.process.wait()
        at_kill = snapshot(tmp_path / "spool")
        assert at_kill is not None
        hub.acknowledging.set()
        async with running(wire, config, tmp_path) as agent:
            await agent.until(lambda status: status["pending"] == 0)
            await agent.stop()
    assert hub.transactions == at_kill.ledger.pending
    assert len(hub.sequences(at_kill.stream)) == len(set(hub.sequences(at_kill.stream)))


async def test_an_interface_that_vanishes_is_told_once_and_picked_up_again(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    frames = read_pcap(traffic.pcap)
    async with running(wire, config_file(interface=wire.inner), tmp_path) as agent:
        await put(wire, frames[: len(frames) // 2])
        before = (await agent.until(lambda status: int(str(status["captured"])) > 0))["captured"]
        wire.unplug()
        await agent.until(lambda status: status["sources"][0]["failures"] >= 2)  # type: ignore[index]
        wire.plug()
        await agent.until(lambda status: status["sources"][0]["up"])  # type: ignore[index]
        await put(wire, frames[len(frames) // 2 :])
        await agent.until(lambda status: int(str(status["captured"])) > int(str(before)))
        await agent.stop()
    log = agent.log.read_text()
    assert log.count(f"no packets from {wire.inner}: ") == 1
    assert f"listening on {wire.inner} again" in log


async def test_a_stop_on_an_idle_interface_writes_down_what_the_kernel_had(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    """The packets are still in a block of the kernel's when the signal comes, and none follows."""
    async with running(wire, config_file(interface=wire.inner), tmp_path) as agent:
        await put(wire, read_pcap(traffic.pcap))
        assert await agent.stop() < STOP_WITHIN
    at_rest = snapshot(tmp_path / "spool")
    assert at_rest is not None
    assert at_rest.ledger.pending == traffic.transactions


async def test_the_watchdog_is_fed_while_all_turns(
    wire: Namespace, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    config = config_file(interface=wire.inner)
    async with running(wire, config, tmp_path, WATCHDOG_USEC="400000") as agent:
        for _ in range(3):
            await asyncio.to_thread(agent.notified, "WATCHDOG=1")
        summary = await asyncio.to_thread(agent.notified, "STATUS=")
        assert "1 of 1 interfaces up; uplink" in summary
        agent.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(agent.notified, "STOPPING=1")


async def test_a_clock_that_is_set_while_packets_come_loses_and_holds_up_nothing(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], authority: Authority, tmp_path: Path
) -> None:
    frames = read_pcap(traffic.pcap)
    queries = [frame for frame in frames if not is_response(frame)]
    asked, answered = traffic.transactions, traffic.transactions - traffic.unanswered
    clock, hub = Clock(tmp_path), Hub()
    listener = wire.inside(lambda: socket.create_server(("127.0.0.1", 0)))
    async with hub.listening(*authority.server(), authority.ca, sock=listener):
        config = config_file(f"wss://127.0.0.1:{listener.getsockname()[1]}", interface=wire.inner)
        async with running(wire, config, tmp_path, **clock.environment, WATCHDOG_USEC="4000000") as agent:
            for times, step in enumerate((3600, -3600), 1):
                await put(wire, queries)
                await agent.until(lambda status: counted(status)["transactions_pending"] == asked)
                # All that wait are an hour away from now, and are given up; then the clock is right again.
                clock.step(step)
                await agent.until(lambda status: counted(status)["transactions_pending"] == 0)
                clock.step(0)
                given_up = counted(await asyncio.to_thread(agent.status))["transactions_unanswered_query"]
                assert given_up == times * asked
            # All is as it was.
            await put(wire, frames)
            status = await agent.until(
                lambda status: counted(status)["transactions_query_response"] == answered
            )
            assert counted(status)["transactions_unsolicited_response"] == 0
            await agent.until(
                lambda status: status["pending"] == 0 and status["acknowledged"] == status["captured"]
            )
            await asyncio.to_thread(agent.notified, "WATCHDOG=1")
            assert await agent.stop() < STOP_WITHIN
    assert hub.transactions == 3 * asked
    assert hub.sessions == 1
    at_rest = snapshot(tmp_path / "spool")
    assert at_rest is not None
    assert (at_rest.ledger.captured, at_rest.ledger.pending) == (hub.transactions, 0)


def is_response(frame: bytes) -> bool:
    """Whether an Ethernet frame of the generated traffic carries a response: the QR bit of its DNS header."""
    ipv4 = frame[12:14] == b"\x08\x00"
    return frame[14 + (20 if ipv4 else 40) + 8 + 2] & 0x80 != 0


async def reload(agent: Running) -> str:
    """SIGHUP; returns what systemd is told at its beginning, once it is over."""
    agent.process.send_signal(signal.SIGHUP)
    begun = await asyncio.to_thread(agent.notified, "RELOADING=1")
    await asyncio.to_thread(agent.notified, "READY=1")
    return begun


async def test_a_reload_loses_neither_a_packet_nor_a_waiting_query(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    frames = read_pcap(traffic.pcap)
    answered = traffic.transactions - traffic.unanswered
    config = config_file(interface=wire.inner)
    async with running(wire, config, tmp_path) as agent:
        await put(wire, [frame for frame in frames if not is_response(frame)])
        before = await agent.until(
            lambda status: counted(status)["transactions_pending"] == traffic.transactions
        )
        config_file(
            interface=wire.inner,
            resolvers="[192.0.2.53, 192.0.2.99, '2001:db8::53']",
            more="transactions: {query_timeout: 30}",
        )
        begun = await reload(agent)
        assert re.search(r"^MONOTONIC_USEC=[0-9]+$", begun, re.MULTILINE)
        await put(wire, [frame for frame in frames if is_response(frame)])
        after = await agent.until(lambda status: counted(status)["transactions_query_response"] == answered)
        assert counted(after)["transactions_unsolicited_response"] == 0
        assert counted(after)["transactions_pending"] == traffic.unanswered
        assert f"reloaded {config}: resolvers, transactions.query_timeout" in agent.log.read_text()
        # And while packets stream in, reload upon reload: the kernel lets through what it does without.
        once = counted(after)["packets_seen"]
        streaming = asyncio.create_task(put(wire, frames))
        while not streaming.done():
            await reload(agent)
        await streaming
        again = await agent.until(lambda status: counted(status)["packets_seen"] == 2 * once)
        assert again["kernel_drops"] == 0
        assert counted(before)["messages_seen"] < counted(again)["messages_seen"]


async def test_other_resolvers_are_recorded_after_a_reload(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    async with running(wire, config_file(interface=wire.inner, resolvers="[203.0.113.1]"), tmp_path) as agent:
        await put(wire, read_pcap(traffic.pcap))
        config_file(interface=wire.inner)
        await reload(agent)
        assert counted(agent.status())["packets_seen"] == 0
        await put(wire, read_pcap(traffic.pcap))
        answered = traffic.transactions - traffic.unanswered
        await agent.until(lambda status: counted(status)["transactions_query_response"] == answered)


async def test_a_configuration_that_does_not_fit_changes_nothing(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    config = config_file(interface=wire.inner)
    async with running(wire, config, tmp_path) as agent:
        for wrong, why in (
            (
                {"more": "privacy: {local_zone: x}"},
                'privacy.local_zone: unknown key (did you mean "privacy.l',
            ),
            ({"metrics_port": 9}, "metrics.listen cannot change while the agent runs: restart it for that"),
            (
                {"resolvers": "[0.0.0.0/0]", "more": "privacy: {admit_every_address: false}"},
                "covers too much",
            ),
        ):
            config_file(**{"interface": wire.inner, **wrong})
            await reload(agent)
            (told,) = [line for line in agent.log.read_text().splitlines() if why in line]
            assert "not reloaded, the configuration stays as it was: " in told
        await put(wire, read_pcap(traffic.pcap))
        answered = traffic.transactions - traffic.unanswered
        await agent.until(lambda status: status["captured"] == answered)


def counted(status: dict[str, object]) -> dict[str, int]:
    counters = status["counters"]
    assert isinstance(counters, dict)
    return counters


OPEN_TRANSACTIONS = 100_000
CEILING = 96 << 20


def queries(count: int) -> Iterator[bytes]:
    """Ethernet frames of queries by the resolver, all different, with names of some 30 octets."""
    ethernet = bytes.fromhex("020000000002 020000000001 0800")
    for number in range(count):
        question = b"\x08%08x" % number + b"\x0eauthoritative7\x07example\x00" + b"\x00\x01\x00\x01"
        dns = struct.pack(">HHHHHH", number & 0xFFFF, 0, 1, 0, 0, 0) + question
        udp = struct.pack(">HHHH", 1024 + number % 60_000, 53, 8 + len(dns), 0) + dns
        words = [0x4500, 20 + len(udp), number & 0xFFFF, 0, 0x4011, 0, 0xC000, 0x0235, 0xC633, 0x6400]
        words[9] |= 1 + number % 200  # to 198.51.100.1 and on
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        words[5] = 0xFFFF & ~((total & 0xFFFF) + (total >> 16))
        yield ethernet + struct.pack(">10H", *words) + udp


async def test_memory_stays_below_the_ceiling_with_100000_open_transactions(
    wire: Namespace, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    config = config_file(interface=wire.inner, more="transactions: {query_timeout: 600}")
    async with running(wire, config, tmp_path) as agent:
        frames = list(queries(OPEN_TRANSACTIONS))
        # In portions that the ring of 16 MiB has room for, since a loaded machine may let the agent wait.
        for start in range(0, len(frames), 20_000):
            await put(wire, frames[start : start + 20_000])
            sent = min(start + 20_000, len(frames))
            await agent.until(lambda status, sent=sent: status["counters"]["packets_seen"] >= sent)  # type: ignore[misc]
        status = await agent.until(
            lambda status: status["counters"]["transactions_pending"] == OPEN_TRANSACTIONS  # type: ignore[index]
        )
        assert status["kernel_drops"] == 0
        assert agent.memory("VmRSS") < CEILING
        # Also while all of them are written down. What wait4 tells begins with the memory of this test.
        agent.process.send_signal(signal.SIGTERM)
        while agent.process.poll() is None:
            with suppress(ValueError):  # it has just ended
                assert agent.memory("VmHWM") < CEILING
            await asyncio.sleep(0.01)
        assert agent.process.returncode == 0
    at_rest = snapshot(tmp_path / "spool")
    assert at_rest is not None
    assert at_rest.ledger.pending == OPEN_TRANSACTIONS


async def test_a_full_disk_is_survived_and_counted(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    answered = traffic.transactions - traffic.unanswered
    spool = tmp_path / "spool"
    spool.mkdir()
    config = config_file(interface=wire.inner, spool=spool)
    with small_disk(spool, 1 << 20) as disk:
        async with running(wire, config, tmp_path) as agent:
            disk.fill()
            await put(wire, read_pcap(traffic.pcap))
            full = await agent.until(lambda status: lost(status) + int(str(status["captured"])) == answered)
            assert lost(full) > 0
            disk.empty()
            await put(wire, read_pcap(traffic.pcap))
            again = await agent.until(
                lambda status: lost(status) + int(str(status["captured"])) == 2 * answered
            )
            assert lost(again) == lost(full)
            await agent.stop()
    log = agent.log.read_text()
    assert log.count("takes no container: No space left on device; make room on its file system") == 1
    assert "the spool takes containers again" in log


def lost(status: dict[str, object]) -> int:
    return int(status["lost"]["disk"])  # type: ignore[index]


async def test_a_second_agent_on_the_same_spool_is_refused(
    wire: Namespace, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    config = config_file(interface=wire.inner)
    async with running(wire, config, tmp_path):
        second = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "sie_agent.cli", "run", "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert second.returncode == 1
    assert "is in use by another sie-agent: stop that one" in second.stderr


async def test_status_asks_the_running_agent(
    wire: Namespace, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    probe = wire.inside(lambda: socket.create_server(("127.0.0.1", 0)))
    port = probe.getsockname()[1]
    probe.close()
    config = config_file(interface=wire.inner, metrics_port=port)
    async with running(wire, config, tmp_path):
        command = wire.command(
            sys.executable, "-m", "sie_agent.cli", "status", "--config", str(config), "--json"
        )
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["running"] is True
        elsewhere = [sys.executable, "-m", "sie_agent.cli", "status", "--config", str(config), "--json"]
        done = await asyncio.to_thread(subprocess.run, elsewhere, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["running"] is False  # another namespace's loopback: the spool answers
