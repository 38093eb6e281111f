"""`sie-agent run` with dnstap sources: what resolvers bring, who may bring it, and what is told of them."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sie_agent.accounting import Ledger
from sie_agent.config import DnstapConfig, load_config
from sie_agent.dnstap import NOTICES_BURST, NOTICES_PERIOD, DnstapSockets, DnstapStatus, Notices
from sie_agent.errors import AgentError
from sie_agent.spool import snapshot
from sie_agent.status import describe, table
from sie_core._native import Recorder, decode
from tests.agent_process import Running, running
from tests.dnstap import CLIENT_QUERY, RESOLVER_QUERY, RESOLVER_RESPONSE, VERSION, Sender, exchange, frame
from tests.netns import Namespace, namespace
from tests.traffic.frames import read_pcap

from .conftest import Traffic
from .test_service import STOP_WITHIN, put, reload

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root: run the tests as root")


@pytest.fixture
def wire() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def told(names: list[str], resolver: bytes = bytes(4), version: bytes = VERSION) -> bytes:
    """What a resolver tells of so many exchanges."""
    now = time.time()
    octets = b""
    for number, name in enumerate(names):
        query, response = exchange(name, number)
        for kind, message in ((RESOLVER_QUERY, query), (RESOLVER_RESPONSE, response)):
            octets += frame(kind, message, now, resolver=resolver, version=version)
    return octets


def recorded(spool: Path) -> list[dict[str, object]]:
    """The transactions that a spool holds."""
    return [
        payload["message"]
        for file in sorted(spool.glob("*.nmsg.zst"))
        for payload in decode(file.read_bytes(), limit=1 << 26)
    ]


def metrics(agent: Running) -> dict[tuple[str, tuple[str, ...]], float]:
    """What a scrape gives, by name and labels."""
    port = agent.metrics_port()

    def ask() -> str:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            return str(response.read().decode())

    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(agent.inside(ask))
        for sample in family.samples
    }


@needs_root
async def test_interfaces_and_resolvers_together(
    wire: Namespace, traffic: Traffic, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "dnstap.sock"
    config = config_file(sources=f'{{interface: {wire.inner}}}, {{dnstap: "unix:{path}"}}')
    async with running(wire, config, tmp_path) as agent:
        with Sender(path) as resolver:
            resolver.send(told([f"n{number}.example" for number in range(500)]))
            await put(wire, read_pcap(traffic.pcap))
            answered = traffic.transactions - traffic.unanswered + 500
            status = await agent.until(lambda status: status["captured"] == answered)
            (connection,) = status["dnstap"]["connections"]  # type: ignore[index]
            assert (connection["frames"], connection["resolver"]) == (1000, True)
            assert connection["version"] == "unbound 1.17.1"
            assert status["counters"]["dnstap_frames_passed"] == 1000  # type: ignore[index]
            scraped = metrics(agent)
            assert scraped["sie_agent_dnstap_frames_total", ("passed", "")] == 1000
            assert scraped["sie_agent_dnstap_connections_open", (f"unix:{path}", "yes")] == 1
            # What comes at the very end is written down too.
            resolver.send(frame(RESOLVER_QUERY, exchange("lost.example")[0], time.time()))
            assert await agent.stop() < STOP_WITHIN
    at_rest = snapshot(tmp_path / "spool")
    assert at_rest is not None
    assert at_rest.ledger.pending == traffic.transactions + 501
    assert not path.exists()


@needs_root
async def test_several_resolvers_come_go_and_come_back(
    wire: Namespace, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "dnstap.sock"
    sources = f'{{dnstap: "unix:{path}"}}, {{dnstap: "tcp:127.0.0.1:6053"}}'
    config = config_file(resolvers="[]", sources=sources, more="privacy: {clear_resolver_address: true}")
    own = bytes([192, 0, 2, 53])
    async with running(wire, config, tmp_path) as agent:
        over_tcp = agent.inside(lambda: Sender(("127.0.0.1", 6053)))
        with Sender(path) as first, over_tcp:
            first.send(told(["one.example"], resolver=own))
            over_tcp.send(told(["two.example"], resolver=own, version=b"pdns-recursor 4.8.8"))
            status = await agent.until(lambda status: status["captured"] == 2)
            assert len(status["dnstap"]["connections"]) == 2  # type: ignore[index]
            first.finish()
            with Sender(path) as again:
                again.send(frame(RESOLVER_QUERY, exchange("three.example")[0], time.time(), resolver=own))
                await agent.until(lambda status: status["counters"]["transactions_pending"] == 1)  # type: ignore[index]
                # A reload interrupts nobody: the query that waits is answered afterwards.
                config.write_text(config.read_text() + "transactions: {query_timeout: 30}\n")
                await reload(agent)
                again.send(frame(RESOLVER_RESPONSE, exchange("three.example")[1], time.time(), resolver=own))
                status = await agent.until(lambda status: status["captured"] == 3)
        status = await agent.until(lambda status: status["dnstap"]["connections"] == [])  # type: ignore[index]
        assert status["counters"]["dnstap_connections_finished"] == 1  # type: ignore[index]
        assert status["counters"]["dnstap_connections_lost"] == 2  # type: ignore[index]
        await agent.stop()
    written = recorded(tmp_path / "spool")
    assert sorted(str(one["qname_text"]) for one in written) == [
        "one.example.",
        "three.example.",
        "two.example.",
    ]
    assert all(one["resolver_address_zeroed"] and one["query_ip"] == bytes(4) for one in written)
    assert not any(own in packet for one in written for packet in one["response_packet"])  # type: ignore[attr-defined]
    assert "pdns-recursor 4.8.8, sends what a resolver asks" in agent.log.read_text()


@needs_root
async def test_knot_resolver_is_refused_with_the_reason(
    wire: Namespace, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "dnstap.sock"
    config = config_file(resolvers="[]", sources=f'{{dnstap: "unix:{path}"}}')
    async with running(wire, config, tmp_path) as agent:
        with Sender(path) as knot:
            query, _ = exchange("client.example")
            knot.send(frame(CLIENT_QUERY, query, time.time(), version=b"Knot Resolver 5.6.0"))
            assert knot.receive() == b""
        status = await agent.until(
            lambda status: status["counters"]["dnstap_connections_refused_clients"] == 1  # type: ignore[index]
        )
        reason = "the dnstap of Knot Resolver 5.6.0 tells of clients only, whom a sensor never records"
        assert reason in status["dnstap"]["last_refusal"]  # type: ignore[index]
        assert metrics(agent)["sie_agent_dnstap_connections_total", ("refused", "clients")] == 1
        assert status["captured"] == 0
        await agent.stop()
        assert reason in agent.log.read_text()


def test_endpoints_that_cannot_be_listened_on(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"sources: unix:/nonexistent/x: making the socket: No such file"):
        DnstapSockets([DnstapConfig("unix:/nonexistent/x")])
    with pytest.raises(AgentError, match="there is no group no-such-group on this host"):
        DnstapSockets([DnstapConfig(f"unix:{tmp_path}/x", group="no-such-group")])
    path = tmp_path / "socket"
    first = DnstapSockets([DnstapConfig(f"unix:{path}", mode=0o666)])
    assert path.stat().st_mode & 0o777 == 0o666
    with pytest.raises(AgentError, match="another program listens there"):
        DnstapSockets([DnstapConfig(f"unix:{path}")])
    first.close()
    assert not path.exists()


def test_counters_of_connections_add_up(tmp_path: Path) -> None:
    sockets = DnstapSockets([DnstapConfig(f"unix:{tmp_path}/socket")])
    counters = dict(sockets.counters())
    assert counters.pop("dnstap_connections_seen") == sum(counters.values()) == 0
    assert sockets.pump(Recorder([]), 0) == []
    assert sockets.status().endpoints == (f"unix:{tmp_path}/socket",)
    sockets.close()


def test_strangers_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    notices = Notices(lambda: now)
    with caplog.at_level(logging.INFO, "sie_agent"):
        for number in range(100):
            notices.tell([(True, f"refused {number}")])
        assert len(caplog.records) == NOTICES_BURST
        now += NOTICES_PERIOD
        notices.tell([(False, "a resolver")])
    lines = [record.getMessage() for record in caplog.records[NOTICES_BURST:]]
    assert lines == [
        f"dnstap: {100 - NOTICES_BURST} more lines about connections were not written",
        "dnstap: a resolver",
    ]


def test_the_table_names_each_endpoint_and_who_is_there(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    config = load_config(config_file(resolvers="[]", sources=f'{{dnstap: "unix:{path}"}}'))
    connections = tuple(
        {"endpoint": f"unix:{path}", "peer": "process 7", "version": version, "frames": 3, "resolver": proven}
        for version, proven in (("unbound 1.17.1", True), ("", False))
    )
    dnstap = DnstapStatus(
        (f"unix:{path}",), connections, f"unix:{path}: process 8 is refused: it sends no dnstap"
    )
    document = asdict(describe(config, None, Ledger(), running=True, dnstap=dnstap))
    assert table(document).splitlines()[3:7] == [
        f"dnstap        unix:{path}, 2 connected",
        "  from        process 7: unbound 1.17.1, 3 frames",
        "  from        process 7: a sender that does not tell its version, 3 frames, "
        "nothing of a resolver's yet",
        f"  refused     unix:{path}: process 8 is refused: it sends no dnstap",
    ]
