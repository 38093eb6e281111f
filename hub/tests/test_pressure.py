"""What one sensor can do to the others, and to ingest's memory."""

import asyncio
import gc
import os
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import aiohttp
import pytest

from sie_core.limits import MAX_PAYLOAD
from sie_core.trampoline import Compression, Negotiated, OutboundPayload, Side, Trampoline
from sie_hub.nats_link import Link

from .broker import Broker
from .conftest import Pki
from .hub import Hub
from .sensor import Sensor, numbered
from .test_ingest import Ingest, until

STREAM = 0xF100D


@pytest.fixture
def hub(tmp_path: object, pki: Pki, broker: Broker) -> Hub:
    hub = Hub(pki.directory.parent / "hub", pki, broker)
    hub.register("isp_a", {f"ns{n}": {"channels": [202], "source": n} for n in range(1, 6)})
    return hub


@pytest.fixture
async def link(broker: Broker) -> AsyncIterator[Link]:
    async with broker.link("ingest") as link:
        yield link


@pytest.fixture
async def ingest(hub: Hub, link: Link) -> AsyncIterator[Ingest]:
    ingest = Ingest(hub, link)
    await ingest.server.start()
    yield ingest
    await ingest.server.stop()


@contextmanager
def tracing() -> Iterator[Callable[[], int]]:
    """While it lasts, how many octets the hub holds, or the library that it publishes with, of what they have
    come by since it began."""
    ours = [tracemalloc.Filter(True, f"*/{package}/*", all_frames=True) for package in ("sie_hub", "nats")]

    def held() -> int:
        traces = tracemalloc.take_snapshot().filter_traces(ours)
        return sum(statistic.size for statistic in traces.statistics("filename"))

    tracemalloc.start(12)
    try:
        yield held
    finally:
        tracemalloc.stop()


async def flood(hub: Hub, pki: Pki, name: str, size: int) -> None:
    """A sensor without a window: sends the largest containers as fast as the hub reads, and never listens."""
    trampoline = Trampoline(Side.SENSOR, {2}, now=time.monotonic(), window=1 << 20, window_bytes=1 << 40)
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{hub.url}/session/x", ssl=pki.client_context(pki.sensor("isp_a", name)), max_msg_size=0
        ) as websocket,
    ):
        while not trampoline.can_send:
            for message in trampoline.outgoing():
                await websocket.send_bytes(message)
            for event in trampoline.receive(await websocket.receive_bytes(), time.monotonic()):
                if isinstance(event, Negotiated):
                    trampoline.send_hello(STREAM, 1, "flood")
        data = os.urandom(size)
        for sequence in range(1, 1_000_000):
            payload = OutboundPayload(202, data, Compression.NONE, STREAM, sequence, 1)
            trampoline.send_payload(payload, time.monotonic())
            for message in trampoline.outgoing():
                await websocket.send_bytes(message)


async def test_a_sensor_that_sends_more_than_it_may_slows_itself_down_and_nobody_else(
    ingest: Ingest, hub: Hub, pki: Pki
) -> None:
    flooding = asyncio.create_task(flood(hub, pki, "ns1", 1 << 20))
    await until(lambda: ingest.value("waiting_octets") > 0)
    others = [
        Sensor(hub.url, pki.client_context(pki.sensor("isp_a", f"ns{n}")), numbered(20)) for n in (2, 3, 4)
    ]
    most = 0.0
    delivering = asyncio.gather(*(sensor.deliver() for sensor in others))
    while not delivering.done():
        most = max(most, ingest.value("waiting_octets"))
        await asyncio.sleep(0.01)
    await delivering
    assert [sensor.acknowledged for sensor in others] == [20, 20, 20]
    assert not flooding.done()
    # Four MiB of its own, and the one that went beyond it; what the others have waiting is next to nothing.
    assert 1 << 20 <= most <= (4 << 20) + (1 << 20) + 3 * 20 * 400
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    await ingest.settled()


async def test_sessions_that_end_leave_no_container_behind_without_the_collector_s_help(
    ingest: Ingest, hub: Hub, pki: Pki, broker: Broker
) -> None:
    """ingest looks for cycles seldom, so none may hold what a peer has sent, nor may a session that waits."""
    sensors = [pki.client_context(pki.sensor("isp_a", f"ns{n}")) for n in (1, 2, 3)]
    largest = os.urandom(MAX_PAYLOAD)

    async def one_of_each() -> None:
        stored = Sensor(hub.url, sensors[0], [largest], stream=int.from_bytes(os.urandom(8)))
        await stored.deliver()
        refused = Sensor(hub.url, sensors[1], [largest], channel=999)
        await refused.session()
        back_in_time = Sensor(hub.url, sensors[2], [largest], stream=7)
        await back_in_time.session()
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{hub.url}/session/x", ssl=sensors[1]) as websocket,
        ):
            await websocket.send_bytes(bytes.fromhex("080210012200"))
            await websocket.send_bytes(largest)
            while not (await websocket.receive()).type.name.startswith("CLOS"):
                pass
        await ingest.settled()

    await one_of_each()  # what is made once and stays
    gc.collect()
    gc.disable()
    try:
        with tracing() as held:
            for _ in range(2):
                await one_of_each()
            # The library holds the last message that it was given: the last container of a stream.
            assert held() < 2 * MAX_PAYLOAD
    finally:
        gc.enable()


async def test_a_session_that_waits_holds_nothing_of_what_it_has_stored(
    ingest: Ingest, hub: Hub, pki: Pki
) -> None:
    sensors = [
        Sensor(hub.url, pki.client_context(pki.sensor("isp_a", f"ns{n}")), [os.urandom(MAX_PAYLOAD)])
        for n in range(1, 6)
    ]
    with tracing() as held:
        live = [asyncio.create_task(sensor.session(until_acknowledged=2)) for sensor in sensors]
        await until(lambda: all(sensor.acknowledged == 1 for sensor in sensors))
        assert held() < MAX_PAYLOAD
    for session in live:
        session.cancel()
    await asyncio.gather(*live, return_exceptions=True)


async def test_a_message_server_that_answers_nothing_costs_a_bounded_amount_of_memory(
    monkeypatch: pytest.MonkeyPatch, hub: Hub, pki: Pki, broker: Broker
) -> None:
    """Sensors come back and send again; what was given to the connection already does not pile up."""
    monkeypatch.setattr("sie_hub.nats_link.REQUEST_TIMEOUT", 0.5)
    monkeypatch.setattr("sie_hub.ingest.store.STORE_TIMEOUT", 1.0)  # two attempts, as in earnest
    container = os.urandom(1 << 20)
    async with broker.link("ingest") as link:
        ingest = Ingest(hub, link)
        await ingest.server.start()
        sensors = [
            Sensor(hub.url, pki.client_context(pki.sensor("isp_a", f"ns{n}")), [container] * 6)
            for n in range(1, 6)
        ]
        for sensor in sensors:
            sensor.limit = 1
        delivering = [asyncio.create_task(sensor.deliver()) for sensor in sensors]
        await until(lambda: all(sensor.acknowledged == 1 for sensor in sensors))
        broker.suspend()
        with tracing() as held:
            for sensor in sensors:
                sensor.limit = None
            most = 0
            async with asyncio.timeout(20):
                while ingest.outcomes("sessions_ended").get("storage", 0) < 3 * len(sensors):
                    most = max(most, held())
                    await asyncio.sleep(0.1)
        # Of each sensor the container that waits, the same for each attempt: here as a message, as a payload
        # and in the buffer of the socket, and twice in that of the sensor, which is in this process. When
        # they come again, three times here, nothing is read before their position is.
        assert most < len(sensors) * 6 * len(container)
        broker.resume()
        await asyncio.gather(*delivering)
        assert [message.data == container for message in await broker.raw()] == [True] * 30
        await ingest.server.stop()
