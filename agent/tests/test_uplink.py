"""The uplink against a real WebSocket server over mutual TLS: nothing lost, nothing twice, and every refusal
has a reason.
"""

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sie_agent.config import AgentConfig, load_config
from sie_agent.session import SETTLE_PAUSE
from sie_agent.spool import Spool, open_spool
from sie_agent.uplink import State, Uplink

from .hub import Authority, Hub

TRANSACTIONS = 10


@pytest.fixture
def config(config_file: Callable[..., Path]) -> AgentConfig:
    return load_config(config_file())


@pytest.fixture
def spool(config: AgentConfig) -> Iterator[Spool]:
    with open_spool(config.spool_directory, config.spool_max_bytes) as opened:
        yield opened


@asynccontextmanager
async def running(config: AgentConfig, spool: Spool) -> AsyncIterator[Uplink]:
    """An uplink that runs until the context ends."""
    uplink = Uplink(config, spool, lambda: {"captured": spool.ledger.captured}, lambda: None)
    spool.on_append = uplink.wake
    task = asyncio.create_task(uplink.run())
    try:
        yield uplink
    finally:
        await uplink.stop()
        await asyncio.wait_for(task, 10)


def fill(spool: Spool, count: int) -> list[bytes]:
    containers = [f"container {spool.next_sequence + index}".encode() * 50 for index in range(count)]
    for container in containers:
        spool.append(container, TRANSACTIONS)
    return containers


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something of the agent's own that no event tells of."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the uplink's own state changes without an event
            await asyncio.sleep(0.01)


async def test_what_is_spooled_arrives_in_order_and_is_settled(
    config: AgentConfig, spool: Spool, authority: Authority
) -> None:
    hub = Hub()
    async with hub.listening(*authority.server(), authority.ca):
        expected = fill(spool, 20)
        async with running(replace(config, hubs=(hub.url,)), spool) as uplink:
            await until(lambda: spool.ledger.pending == 0)
            expected += fill(spool, 5)  # appended while connected
            await until(lambda: spool.ledger.pending == 0)
            assert uplink.state is State.CONNECTED
            assert uplink.in_flight == 0
        assert hub.finished == 1
        assert [data for _, data, _ in hub.stored[spool.stream]] == expected
        assert hub.transactions == 25 * TRANSACTIONS == spool.ledger.acknowledged
        assert hub.received == list(range(1, 26))
        assert hub.paths == ["/session/isp_a.ns1"]
        assert hub.accounts[0] == {"captured": 20 * TRANSACTIONS}


async def test_a_connection_lost_in_flight_repeats_what_was_not_acknowledged(
    config: AgentConfig, spool: Spool, authority: Authority
) -> None:
    hub = Hub()
    async with hub.listening(*authority.server(), authority.ca):
        expected = fill(spool, 12)
        hub.acknowledging.clear()
        async with running(replace(config, hubs=(hub.url,)), spool) as uplink:
            await hub.until(lambda: len(hub.received) == 4)  # the window is full
            assert uplink.in_flight == 4
            assert spool.ledger.acknowledged == 0
            hub.drop_after = 1
            hub.acknowledging.set()
            await hub.until(lambda: hub.drop_after == 0)
            hub.drop_after = None
            await until(lambda: spool.ledger.pending == 0)
        assert hub.sessions >= 2
        assert [data for _, data, _ in hub.stored[spool.stream]] == expected
        assert spool.ledger.acknowledged == 12 * TRANSACTIONS


async def test_what_the_hub_has_already_is_settled_and_not_sent_again(
    config: AgentConfig, spool: Spool, authority: Authority
) -> None:
    hub = Hub()
    expected = fill(spool, 6)
    hub.stored[spool.stream] = [(number + 1, expected[number], TRANSACTIONS) for number in range(4)]
    async with (
        hub.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(hub.url,)), spool),
    ):
        await until(lambda: spool.ledger.pending == 0)
    assert hub.received == [5, 6]
    assert hub.hellos[0].next_sequence == 7


async def test_a_restarted_agent_goes_on_where_the_hub_is(config: AgentConfig, authority: Authority) -> None:
    hub = Hub()
    async with hub.listening(*authority.server(), authority.ca):
        connected = replace(config, hubs=(hub.url,))
        hub.acknowledging.clear()
        with open_spool(config.spool_directory, config.spool_max_bytes) as spool:
            expected = fill(spool, 8)
            task = asyncio.create_task(Uplink(connected, spool, dict, lambda: None).run())
            await hub.until(lambda: len(hub.received) == 4)
            task.cancel()  # as good as a kill: nothing is settled, four containers were on their way
            await asyncio.gather(task, return_exceptions=True)
            assert spool.ledger.acknowledged == 0
        hub.acknowledging.set()
        with open_spool(config.spool_directory, config.spool_max_bytes) as spool:
            async with running(connected, spool):
                await until(lambda: spool.ledger.pending == 0)
            assert [data for _, data, _ in hub.stored[spool.stream]] == expected
            assert spool.ledger.acknowledged == 8 * TRANSACTIONS


async def test_a_slow_hub_pushes_back_into_the_spool(
    config: AgentConfig, spool: Spool, authority: Authority
) -> None:
    hub = Hub()
    hub.acknowledging.clear()
    async with (
        hub.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(hub.url,)), spool) as uplink,
    ):
        fill(spool, 50)
        await hub.until(lambda: len(hub.received) == config.window)
        fill(spool, 50)  # the spool still takes in, at once
        assert len(hub.received) == config.window == uplink.in_flight
        assert spool.ledger.pending == 100 * TRANSACTIONS
        hub.acknowledging.set()
        await until(lambda: spool.ledger.pending == 0)
    assert hub.received == list(range(1, 101))


async def test_what_is_read_ahead_is_within_the_window_so_that_the_rest_can_be_trimmed(
    config: AgentConfig, spool: Spool, authority: Authority
) -> None:
    hub = Hub()
    hub.acknowledging.clear()
    fill(spool, 50)
    async with (
        hub.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(hub.url,)), spool) as uplink,
    ):
        await hub.until(lambda: len(hub.received) == config.window)
        spool.set_bounds(spool.ledger.pending_octets + 300, config.spool_max_age)
        fill(spool, 30)  # the 30 oldest that are not on their way make room
        assert spool.ledger.trimmed_full == 30 * TRANSACTIONS
        hub.acknowledging.set()
        await until(lambda: spool.ledger.pending == 0)
        assert uplink.in_flight == 0
    assert hub.received == [*range(1, config.window + 1), *range(config.window + 31, 81)]


async def test_many_acknowledgements_are_settled_together(
    config: AgentConfig, spool: Spool, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[int] = []
    acknowledge = spool.acknowledge

    def acknowledged(last: int) -> None:
        settled.append(last)
        acknowledge(last)

    monkeypatch.setattr(spool, "acknowledge", acknowledged)
    hub = Hub()
    fill(spool, 200)
    async with (
        hub.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(hub.url,)), spool),
    ):
        began = time.monotonic()
        await until(lambda: spool.ledger.pending == 0)
        seconds = time.monotonic() - began
    assert settled == sorted(settled)
    assert len(settled) <= 3 + seconds / SETTLE_PAUSE < 200
    assert hub.received == list(range(1, 201))


async def test_a_hub_that_goes_down_in_order_is_found_again(
    config: AgentConfig, spool: Spool, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    async with (
        hub.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(hub.url,)), spool) as uplink,
    ):
        await until(lambda: uplink.state is State.CONNECTED)
        hub.shutting_down = True
        await until(lambda: uplink.counts.failures >= 1)
        assert "the hub ended the session in order" in caplog.text
        hub.shutting_down = False
        fill(spool, 3)
        await until(lambda: spool.ledger.pending == 0)


async def test_the_next_hub_is_tried_at_once(config: AgentConfig, spool: Spool, authority: Authority) -> None:
    refusing, taking = Hub(), Hub()
    refusing.refuse_with = "closed for maintenance"
    fill(spool, 3)
    async with (
        refusing.listening(*authority.server(), authority.ca),
        taking.listening(*authority.server(), authority.ca),
    ):
        hubs = ("wss://127.0.0.1:1", refusing.url, taking.url)
        async with running(replace(config, hubs=hubs, retry_min=60.0), spool) as uplink:
            await until(lambda: spool.ledger.pending == 0)
            assert uplink.hub == taking.url
            assert (uplink.counts.failures, uplink.counts.refusals) == (1, 1)


async def test_a_hub_that_knows_more_of_the_stream_leads_to_a_new_one(
    config: AgentConfig, spool: Spool, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    expected = fill(spool, 2)
    before = spool.stream
    hub.stored[before] = [(9, b"of a machine that was copied", 1)]
    async with (
        hub.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(hub.url,)), spool) as uplink,
    ):
        await until(lambda: spool.ledger.pending == 0)
        assert uplink.counts.stream_conflicts == 1
    assert spool.stream != before
    assert [data for _, data, _ in hub.stored[spool.stream]] == expected
    assert "another machine is a copy of this one" in caplog.text


async def test_a_hub_that_holds_another_container_of_a_sequence_leads_to_a_new_stream(
    config: AgentConfig, spool: Spool, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Both machines went on from the same spool, and the other one came first: no sequence is too high."""
    hub = Hub()
    expected = fill(spool, 3)
    before = spool.stream
    hub.stored[before] = [(1, b"of the copy", 1), (2, b"of the copy, too", 1)]
    async with (
        hub.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(hub.url,)), spool) as uplink,
    ):
        await until(lambda: spool.ledger.pending == 0)
        assert uplink.counts.stream_conflicts == 1
    assert [data for _, data, _ in hub.stored[spool.stream]] == expected
    assert hub.sequences(before) == [1, 2]
    assert "another machine is a copy of this one" in caplog.text


async def refused(
    config: AgentConfig,
    spool: Spool,
    caplog: pytest.LogCaptureFixture,
    sentence: str,
    state: State = State.REFUSED,
) -> None:
    """The uplink says `sentence` once in the log and in its status, and keeps trying."""
    caplog.set_level(logging.INFO, "sie_agent")
    async with running(config, spool) as uplink:
        await until(lambda: uplink.counts.refusals + uplink.counts.failures >= 3)
        assert uplink.last_error is not None
        assert sentence in uplink.last_error
        await until(lambda: uplink.state is state)
    lines = [record.getMessage() for record in caplog.records if sentence in record.getMessage()]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "trying again every" in lines[0]


async def test_refused_with_a_text(
    config: AgentConfig, spool: Spool, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    hub.refuse_with = "sensor ns1 of isp_a is revoked:\n key lost"
    async with hub.listening(*authority.server(), authority.ca):
        sentence = "HTTP 403: sensor ns1 of isp_a is revoked: key lost"
        await refused(replace(config, hubs=(hub.url,)), spool, caplog, sentence)


async def test_refused_by_an_alert_of_the_trampoline(
    config: AgentConfig, spool: Spool, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    hub.fatal_alert = "channel 202 is not this sensor's"
    async with hub.listening(*authority.server(), authority.ca):
        await refused(replace(config, hubs=(hub.url,)), spool, caplog, "channel 202 is not this sensor's")


@contextmanager
def tls_server(certificate: tuple[Path, Path], client_ca: Path) -> Iterator[str]:
    """A server that does nothing but handshakes and sends the alerts of those that fail, which asyncio's does
    not.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def handshakes() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # the test is over
            connection.settimeout(5)
            with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
                with suppress(OSError):
                    tls.do_handshake()
                with suppress(
                    OSError
                ):  # closing on unread octets would send a reset, which overtakes the alert
                    tls.shutdown(socket.SHUT_WR)
                    while socket.socket.recv(tls, 65536):
                        pass

    thread = threading.Thread(target=handshakes)
    thread.start()
    try:
        yield f"wss://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


async def test_refused_by_tls_for_an_unknown_authority(
    config: AgentConfig, spool: Spool, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = replace(config, identity_directory=Authority(tmp_path / "stranger").sensor()[0].parent)
    with tls_server(authority.server(), authority.ca) as url:
        sentence = (
            "the hub does not know the authority that issued this sensor's certificate (TLS alert unknown ca)"
        )
        await refused(replace(mine, hubs=(url,)), spool, caplog, sentence)


async def test_refused_by_tls_for_an_expired_certificate(
    config: AgentConfig, spool: Spool, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    old = replace(config, identity_directory=authority.sensor("old", age_days=90)[0].parent)
    with tls_server(authority.server(), authority.ca) as url:
        sentence = "this sensor's certificate has expired (TLS alert certificate expired)"
        await refused(replace(old, hubs=(url,)), spool, caplog, sentence)


async def test_a_hub_of_another_authority_is_not_trusted(
    config: AgentConfig, spool: Spool, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub, stranger = Hub(), Authority(tmp_path / "stranger")
    async with hub.listening(*stranger.server(), authority.ca):
        await refused(
            replace(config, hubs=(hub.url,)), spool, caplog, "the hub's certificate is not accepted"
        )
    assert hub.paths == []


async def test_a_hub_with_another_address_in_its_certificate_is_not_trusted(
    config: AgentConfig, spool: Spool, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    async with hub.listening(*authority.server("other", "192.0.2.1"), authority.ca):
        await refused(replace(config, hubs=(hub.url,)), spool, caplog, "IP address mismatch")


async def test_a_sensors_certificate_cannot_pose_as_the_hub(
    config: AgentConfig, spool: Spool, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    async with hub.listening(*authority.sensor("posing"), authority.ca):
        await refused(
            replace(config, hubs=(hub.url,)), spool, caplog, "the hub's certificate is not accepted"
        )
    assert hub.paths == []


async def test_nothing_listens(config: AgentConfig, spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    await refused(config, spool, caplog, "nothing listens there", State.UNREACHABLE)


async def test_something_else_listens(
    config: AgentConfig, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await refused(
            replace(config, hubs=(f"wss://127.0.0.1:{port}",)), spool, caplog, "TLS failed", State.UNREACHABLE
        )


async def test_without_a_certificate_it_names_the_command_and_notices_one(
    config: AgentConfig, spool: Spool, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    fill(spool, 1)
    empty = tmp_path / "identity"
    async with (
        hub.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(hub.url,), identity_directory=empty), spool) as uplink,
    ):
        await until(lambda: uplink.state is State.NO_IDENTITY)
        assert "sie-agent identity enrol" in caplog.text
        config.identity_directory.rename(empty)
        await until(lambda: spool.ledger.pending == 0)


async def test_an_unreadable_authority_is_named(
    config: AgentConfig, spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(replace(config, ca=tmp_path / "absent.pem"), spool) as uplink:
        await until(lambda: uplink.state is State.NO_IDENTITY)
    assert "absent.pem cannot be used to check the hub: No such file or directory" in caplog.text


async def test_a_proxy_that_refuses_is_named(
    config: AgentConfig, spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    monkeypatch.delenv("no_proxy", raising=False)
    async with server:
        await refused(config, spool, caplog, "the proxy does not let through", State.UNREACHABLE)


@pytest.mark.parametrize("at", ["127.0.0.1", "[::1]"])
async def test_through_a_proxy(
    config: AgentConfig, spool: Spool, authority: Authority, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    asked: list[bytes] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        asked.append(request.splitlines()[0])
        host, port = request.split()[1].decode().split(":")
        onward_reader, onward_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pipe(reader, onward_writer), pipe(onward_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(proxy, at.strip("[]"), 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("https_proxy", f"http://{at}:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    hub = Hub()
    fill(spool, 3)
    async with (
        server,
        hub.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(hub.url,)), spool),
    ):
        await until(lambda: spool.ledger.pending == 0)
    assert asked == [f"CONNECT 127.0.0.1:{hub.port} HTTP/1.1".encode()]


async def test_a_hub_that_is_no_longer_listed_is_left_in_order(
    config: AgentConfig, spool: Spool, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = Hub(), Hub()
    async with (
        old.listening(*authority.server(), authority.ca),
        new.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(old.url,)), spool) as uplink,
    ):
        fill(spool, 2)
        await until(lambda: spool.ledger.pending == 0)
        with caplog.at_level(logging.INFO, "sie_agent"):
            await uplink.reconfigure(replace(config, hubs=(new.url,)))
            fill(spool, 2)
            await until(lambda: spool.ledger.pending == 0)
        assert (old.finished, old.sequences(spool.stream)) == (1, [1, 2])
        assert new.sequences(spool.stream) == [3, 4]
        assert f"left {old.url}, which the configuration no longer lists" in caplog.messages
        assert uplink.counts.failures == 0


async def test_a_session_stays_while_its_hub_is_listed(
    config: AgentConfig, spool: Spool, authority: Authority
) -> None:
    hub = Hub()
    async with (
        hub.listening(*authority.server(), authority.ca),
        running(replace(config, hubs=(hub.url,)), spool) as uplink,
    ):
        fill(spool, 1)
        await until(lambda: spool.ledger.pending == 0)
        await uplink.reconfigure(replace(config, hubs=("wss://127.0.0.1:1", hub.url), window=8))
        fill(spool, 1)
        await until(lambda: spool.ledger.pending == 0)
        assert hub.sessions == 1


async def test_another_certificate_takes_over_and_nothing_is_refused_or_lost_between(
    config: AgentConfig, spool: Spool, authority: Authority
) -> None:
    hub = Hub()
    async with hub.listening(*authority.server(), authority.ca):
        expected = fill(spool, 5)
        async with running(replace(config, hubs=(hub.url,)), spool) as uplink:
            await until(lambda: spool.ledger.pending == 0)
            hub.acknowledging.clear()
            expected += fill(spool, 3)  # in flight while the certificate changes
            await hub.until(lambda: len(hub.received) == 8)
            certificate, key = authority.sensor("renewed")
            certificate.replace(config.certificate)
            key.replace(config.key)
            change = asyncio.create_task(uplink.renew())
            expected += fill(spool, 2)
            hub.acknowledging.set()
            await change
            await hub.until(lambda: hub.sessions == 2)
            await until(lambda: spool.ledger.pending == 0 and uplink.state is State.CONNECTED)
            assert uplink.counts.failures == uplink.counts.refusals == 0
            assert uplink.last_error is None
        assert [data for _, data, _ in hub.stored[spool.stream]] == expected
        assert hub.serials[0] != hub.serials[1]
