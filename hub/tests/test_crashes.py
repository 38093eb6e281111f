"""nats-server, ingest and refine as programs, killed at random moments: nothing lost, nothing twice."""

import asyncio
import random
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sie_core.trampoline import Compression
from sie_hub.ingest.ledger import Ledger
from sie_hub.registry import Registry
from sie_hub.streams import HEADER_RAW_FIRST, HEADER_RAW_LAST, HEADER_SEQUENCE

from .broker import Broker
from .conftest import Pki
from .hub import Hub
from .sample import Sample, counted, record
from .sensor import Sensor

KILLS_EACH = 7


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what only polling can see."""
    while not condition():  # noqa: ASYNC110  # in another process or in plain variables, without an event
        await asyncio.sleep(0.001)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Some 1,500 containers, in which names repeat with known multiplicity."""
    return record(tmp_path_factory.mktemp("sample"), 6000, container_bytes=2048)


@pytest.fixture
def hub(tmp_path: Path, pki: Pki, broker: Broker) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub", pki, broker, window=0.3)
    yield hub
    hub.stop_all()


@dataclass
class Chaos:
    """Kills the three programs in turns, at random points of a delivery, while containers are in flight."""

    hub: Hub
    sensor: Sensor
    random: random.Random
    in_flight: list[tuple[str, int]] = field(default_factory=list)

    async def rage(self) -> None:
        victims = ["nats-server", "ingest", "refine"] * KILLS_EACH
        self.random.shuffle(victims)
        step = len(self.sensor.containers) // (len(victims) + 1)
        for number, victim in enumerate(victims, start=1):
            # The sensor may not run ahead, or everything would be delivered before the last kill.
            self.sensor.limit = number * step
            moment = self.sensor.limit - self.random.randint(5, step)
            while not (self.sensor.acknowledged >= moment and self.sensor.in_flight > 0):
                if self.sensor.acknowledged == self.sensor.limit:
                    self.sensor.limit += 5  # the moment has passed unseen: make another one
                await asyncio.sleep(0.001)
            self.in_flight.append((victim, self.sensor.in_flight))
            self._kill(victim)
            await asyncio.sleep(self.random.uniform(0, 0.3))
            self._start(victim)
        self.sensor.limit = None

    def _kill(self, victim: str) -> None:
        if victim == "nats-server":
            self.hub.broker.kill()
        else:
            assert self.hub.stop(victim, signal.SIGKILL) == -signal.SIGKILL

    def _start(self, victim: str) -> None:
        if victim == "nats-server":
            self.hub.broker.start()
        else:
            self.hub.start(victim)


async def covered(broker: Broker, last: int) -> list[bytes]:
    """The messages of SIE once they cover RAW to `last`."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        messages = await broker.sie()
        if messages and messages[-1].number(HEADER_RAW_LAST) == last:
            expected = 1
            for message in messages:
                assert message.number(HEADER_RAW_FIRST) == expected
                expected = (message.number(HEADER_RAW_LAST) or 0) + 1
            return [message.data for message in messages]
        await asyncio.sleep(0.1)
    raise AssertionError(f"SIE does not reach {last} of RAW")


@pytest.mark.parametrize("seed", [1, 2])
async def test_kills_at_random_moments_lose_nothing_and_double_nothing(
    hub: Hub, pki: Pki, broker: Broker, sample: Sample, seed: int
) -> None:
    sensor = Sensor(
        hub.url,
        pki.client_context(pki.sensor()),
        list(sample.containers),
        transactions=1,
        compression=Compression.ZSTD,
    )
    hub.start("ingest")
    hub.start("refine")
    chaos = Chaos(hub, sensor, random.Random(seed))
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(sensor.deliver(timeout=None))
        tasks.create_task(chaos.rage())

    assert len(chaos.in_flight) == 3 * KILLS_EACH
    assert all(containers > 0 for _victim, containers in chaos.in_flight)
    assert sensor.sessions > KILLS_EACH
    raw = await broker.raw()
    assert [message.number(HEADER_SEQUENCE) for message in raw] == list(range(1, len(sample.containers) + 1))
    assert [message.data for message in raw] == sample.containers
    records = counted(await covered(broker, raw[-1].sequence))
    assert records.total() == sample.rrsets.total()
    assert records == sample.rrsets
    async with broker.link("ingest") as link:
        (account,) = await Ledger(link).accounts(Registry(hub.registry).participants)
    assert (account.stored_containers, account.stored) == (len(raw), len(raw) * sensor.transactions)


async def test_units_outlive_a_long_absence_of_nats_server(
    hub: Hub, pki: Pki, broker: Broker, sample: Sample
) -> None:
    containers = sample.containers[:60]
    sensor = Sensor(hub.url, pki.client_context(pki.sensor()), containers, compression=Compression.ZSTD)
    sensor.limit = 30
    hub.start("ingest")
    hub.start("refine")
    delivering = asyncio.create_task(sensor.deliver())
    await until(lambda: sensor.acknowledged == 30 and "ready" in hub.log("refine"))
    broker.kill()
    sensor.limit = None
    await asyncio.sleep(4)
    assert hub.running("ingest")
    assert hub.running("refine")
    broker.start()
    await delivering
    assert counted(await covered(broker, len(containers))).total() > 0
    assert "connected to nats-server again" in hub.log("ingest")
    assert "connected to nats-server again" in hub.log("refine")


async def test_revocation_reaches_a_live_session_within_five_seconds(
    hub: Hub, pki: Pki, broker: Broker
) -> None:
    """The whole path: a file is written, the program notices, the sensor reads why, the log says it."""
    sensor = Sensor(hub.url, pki.client_context(pki.sensor()), [b"one"])
    hub.start("ingest")
    await sensor.deliver(timeout=20)
    session = asyncio.create_task(sensor.session(until_acknowledged=1 << 60))
    opened = sensor.sessions + 1
    await until(lambda: sensor.sessions == opened)
    revoked = {"at": "2026-11-20T10:00:00Z", "reason": "key stolen"}
    began = time.monotonic()
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7, "revoked": revoked}})
    reason = await session
    assert time.monotonic() - began < 5
    assert "key stolen" in reason
    async with asyncio.timeout(5):  # the session's end reaches the sensor before the hub's log
        await until(lambda: "key stolen" in hub.log("ingest"))


async def test_stopping_is_orderly_and_quick(hub: Hub, pki: Pki, broker: Broker) -> None:
    sensor = Sensor(hub.url, pki.client_context(pki.sensor()), [b"one"])
    hub.start("ingest")
    hub.start("refine")
    await sensor.deliver(timeout=20)
    session = asyncio.create_task(sensor.session(until_acknowledged=1 << 60))
    opened = sensor.sessions + 1
    await until(lambda: sensor.sessions == opened)
    await until(lambda: "ready" in hub.log("refine"))
    assert hub.stop_gently("refine") == 0
    began = time.monotonic()
    assert await asyncio.to_thread(hub.stop_gently, "ingest") == 0
    assert time.monotonic() - began < 5
    assert await session == "both sides have finished"


def answer(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        text: str = response.read().decode()
        return text


async def test_metrics_are_answered_and_logs_hold_no_payload(
    hub: Hub, pki: Pki, broker: Broker, sample: Sample
) -> None:
    sensor = Sensor(
        hub.url,
        pki.client_context(pki.sensor()),
        sample.containers[:50],
        transactions=4,
        compression=Compression.ZSTD,
    )
    hub.start("ingest")
    hub.start("refine")
    await sensor.deliver(timeout=30)
    await covered(broker, 50)
    texts = {}
    for unit, port in hub.metrics.items():
        texts[unit] = await asyncio.to_thread(answer, f"http://127.0.0.1:{port}/metrics")
    assert 'sie_hub_ingest_containers_total{outcome="stored"} 50.0' in texts["ingest"]
    assert 'sie_hub_ingest_transactions_total{outcome="stored"} 200.0' in texts["ingest"]
    assert 'sie_hub_refine_containers_total{outcome="refined"} 50.0' in texts["refine"]
    for unit in ("ingest", "refine"):
        for owner, _rrtype, rdata in sample.rrsets:
            assert owner.removesuffix(".") not in hub.log(unit)
            assert not any(text in hub.log(unit) for text in rdata)


async def test_an_address_that_is_taken_ends_the_unit_with_a_sentence(hub: Hub, broker: Broker) -> None:
    hub.start("refine")
    await until(lambda: "ready" in hub.log("refine"))
    hub.start_another("refine")
    assert await asyncio.to_thread(hub.wait, "refine") == 1
    assert f"cannot answer /metrics on 127.0.0.1:{hub.metrics['refine']}" in hub.log("refine")
