"""The place of a fault: hub and sensors in namespaces at the ends of a line, the real programs in them."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from hub.tests.broker import Broker, free_port
from hub.tests.conftest import EXCHANGE, Held, Pki
from hub.tests.hub import Hub
from sie_agent.accounting import Ledger
from sie_agent.spool import snapshot
from sie_hub.demo.programs import read_metrics
from sie_hub.streams import HEADER_SEQUENCE, RAW
from tests.agent_process import Running, running
from tests.disk import small_disk
from tests.faults.line import Leg, Line
from tests.faults.transactions import Transaction, contained
from tests.netns import namespace
from tests.traffic import RESOLVERS, Traffic

PARTICIPANT: Final = "isp_a"
SENSOR: Final = "ns1"
WINDOW: Final = 4
"""Containers in flight at most: few, so that a full window is a matter of kilobytes."""

RETRY_MAX: Final = 1.0
"""Seconds between attempts at most, where a sensor's default is 60: recovery is the product's own share."""

PATIENCE: Final = 60.0
"""Seconds for anything that is to happen: twice what the slowest takes on a busy machine."""

POLL: Final = 0.02

T = TypeVar("T")


class SensorHost:
    """A sensor's end of the line: identity, spool and configuration in a directory, and where it listens."""

    def __init__(self, leg: Leg, directory: Path, certificate: Held, ca: Path) -> None:
        self.leg = leg
        self.directory = directory
        self.spool = directory / "spool"
        self.identity = directory / "identity"
        self._ca = ca
        self.spool.mkdir(parents=True)
        self.identity.mkdir()
        (self.identity / "certificate.pem").write_bytes(certificate.certificate.read_bytes())
        (self.identity / "key.pem").write_bytes(certificate.key.read_bytes())

    @property
    def config(self) -> Path:
        """The agent's configuration."""
        return self.directory / "agent.yml"

    def configure(self, hubs: Sequence[str], enrol: str | None = None) -> None:
        """Write the agent's configuration."""
        uplink: dict[str, Any] = {"hubs": list(hubs), "ca": str(self._ca), "window": WINDOW}
        uplink |= {"retry_min": 0.1, "retry_max": RETRY_MAX}
        if enrol is not None:
            uplink["enrol"] = enrol
        document = {
            "participant": PARTICIPANT,
            "sensor": SENSOR,
            "exchange": EXCHANGE,
            "resolvers": [str(resolver) for resolver in RESOLVERS],
            "sources": [{"interface": self.leg.namespace.inner}],
            "container": {"max_bytes": "16 KiB", "flush_interval": 0.2},
            "spool": {"directory": str(self.spool)},
            "uplink": uplink,
            "identity": {"directory": str(self.identity)},
            "metrics": {"listen": "127.0.0.1:0"},
        }
        self.config.write_text(yaml.safe_dump(document))

    @asynccontextmanager
    async def running(self, **environment: str) -> AsyncIterator[Running]:
        """`sie-agent run`, listening."""
        async with running(self.leg.namespace, self.config, self.directory, **environment) as agent:
            yield agent

    async def see(self, traffic: Traffic) -> None:
        """Have traffic pass on the link that the sensor listens to."""
        frames = [frame.data for frame in traffic.frames]
        await asyncio.to_thread(self.leg.namespace.put, frames)

    async def record(self, agent: Running, traffic: Traffic) -> None:
        """The same, and wait until every answered transaction is in the spool, on disk."""
        before = captured(await asyncio.to_thread(agent.status))
        await self.see(traffic)
        goal = before + traffic.transactions - traffic.unanswered
        await agent.until(lambda status: captured(status) >= goal, PATIENCE)

    async def stop(self, agent: Running) -> None:
        """End the agent in order: what waited for a response is recorded. What the hub did not have time to
        acknowledge is sent by another run."""
        status = await asyncio.to_thread(agent.status)
        assert status["kernel_drops"] == 0, "this machine was too slow for its own traffic"
        await agent.stop()
        while self.ledger().pending:
            async with self.running() as again:
                await settled(again)
                await again.stop()

    def ledger(self) -> Ledger:
        """The spool's ledger, while no agent runs."""
        found = snapshot(self.spool)
        assert found is not None
        return found.ledger

    def pending(self) -> Counter[Transaction]:
        """What is in the spool."""
        return contained(path.read_bytes() for path in self.spool.glob("*.nmsg.zst"))


@dataclass(frozen=True)
class Outcome:
    """What a fault came to. `captured`, `lost` and `arrived` are transactions; `recovery` is in seconds."""

    captured: int
    lost: int
    arrived: int
    recovery: float
    proof: str
    """What shows that the fault was in force."""


class Place:
    """A hub that runs, and the line to it."""

    def __init__(self, directory: Path, stack: ExitStack, stream_disk: int | None) -> None:
        self._stack = stack
        self._directory = directory
        directory.mkdir(exist_ok=True)
        self.environment: dict[str, str] = {}
        """Of the hub's units, beside what every unit has."""
        self.hub_namespace = stack.enter_context(namespace())
        self.line = Line(stack.enter_context(namespace()))
        self._leg = Leg("hub", self.hub_namespace, "203.0.113", (10, 11))
        self.line.join(self._leg)
        self.pki = Pki(directory / "pki")
        self.broker = Broker(directory / "nats")
        self.stream_disk = (
            None if stream_disk is None else stack.enter_context(small_disk(self.broker.store, stream_disk))
        )
        self.hub = Hub(directory / "hub", self.pki, self.broker, address=self._leg.addresses[0])
        self.second_address = self._leg.addresses[1]

    def sensor(self, certificate: Held | None = None) -> SensorHost:
        """The sensor, configured for the hub."""
        return self._sensor_at("sensor", "198.51.100", certificate or self.pki.sensor())

    def twin(self, certificate: Held) -> SensorHost:
        """Another host, with the same configuration."""
        return self._sensor_at("twin", "192.0.2", certificate)

    def _sensor_at(self, name: str, network: str, certificate: Held) -> SensorHost:
        leg = Leg(name, self._stack.enter_context(namespace()), network)
        self.line.join(leg)
        host = SensorHost(leg, self._directory / name, certificate, self.pki.ca_held.certificate)
        host.configure([self.hub.url])
        return host

    async def inside(self, call: Callable[[], T]) -> T:
        """Call in the hub's namespace."""
        return await asyncio.to_thread(self.hub_namespace.inside, call)

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Await in the hub's namespace, in an event loop of its own."""

        async def asking() -> T:
            return await question()

        return await self.inside(lambda: asyncio.run(asking()))

    async def start(self) -> None:
        """Start nats-server and ingest."""
        await self.inside(self.broker.start)
        await self.ask(self.broker.make_streams)
        await self.start_unit("ingest")

    async def start_unit(self, unit: str) -> None:
        """Start a unit and wait until it does its work."""
        log = self.hub.directory / f"{unit}.log"
        before = self.hub.log(unit).count(" ready: ") if log.exists() else 0
        await self.inside(lambda: self.hub.start(unit, **self.environment))
        await until(lambda: self.hub.log(unit).count(" ready: ") > before)

    def configure_enrol(self) -> str:
        """Configure enrol, beside ingest; returns where sensors enrol."""
        server = self.pki.server("enrol", self.hub.address)
        port = free_port()
        document = yaml.safe_load(self.hub.path.read_text())
        document["ca"]["key"] = str(self.pki.ca_held.key)
        document["enrol"] = {
            "listen": [f"{self.hub.address}:{port}"],
            "certificate": str(server.certificate),
            "key": str(server.key),
            "state": str(self._directory / "enrol"),
        }
        self.hub.path.write_text(yaml.safe_dump(document))
        return f"https://{self.hub.address}:{port}"

    async def stored(self) -> int:
        """How many containers are in RAW."""

        async def ask() -> int:
            async with self.broker.link("ingest") as link:
                return (await link.state(RAW)).last

        return await self.ask(ask)

    async def metrics(self) -> dict[str, float]:
        """What ingest counts."""
        return await self.inside(lambda: read_metrics(self.hub.metrics["ingest"]))

    async def arrived(self) -> Counter[Transaction]:
        """What is in RAW."""
        return contained(message.data for message in await self.ask(self.broker.raw))

    async def each_once(self) -> None:
        """In RAW the sequences of one stream follow one another, without a gap and without a repetition."""
        sequences = [message.number(HEADER_SEQUENCE) for message in await self.ask(self.broker.raw)]
        assert sequences == list(range(1, len(sequences) + 1))

    async def compare(
        self,
        expected: Counter[Transaction],
        *sensors: SensorHost,
        lost: int = 0,
        shared: int = 0,
        recovery: float,
        proof: str,
    ) -> Outcome:
        """What came of it: what arrived is exactly what is expected, and so much was captured.

        `shared` transactions stand in the ledgers of two sensors, because one is a copy of the other.
        """
        ledgers = [sensor.ledger() for sensor in sensors]
        assert sum(ledger.pending + ledger.trimmed for ledger in ledgers) == 0
        arrived = await self.arrived()
        missing, more = expected - arrived, arrived - expected
        assert arrived == expected, f"{missing.total()} are missing, {more.total()} more than were sent"
        count = sum(ledger.captured for ledger in ledgers) - shared
        assert count == expected.total()
        return Outcome(count, lost, arrived.total(), recovery, proof)


@asynccontextmanager
async def place(
    directory: Path, stream_disk: int | None = None, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Place]:
    """A place with a hub that runs. Its streams are on a disk of so many octets, and its units have more in
    their environment, if given."""
    with ExitStack() as stack:
        made = await asyncio.to_thread(Place, directory, stack, stream_disk)
        made.environment |= environment or {}
        try:
            await made.start()
            yield made
        finally:
            await asyncio.to_thread(made.hub.stop_all)
            await asyncio.to_thread(made.broker.kill)


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait for what only polling can see."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # in another process, without an event
            await asyncio.sleep(POLL)


async def until_true(condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """The same where looking takes awaiting."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # in another process, without an event
            await asyncio.sleep(POLL)


async def settled(agent: Running) -> float:
    """Wait until everything is acknowledged; returns how many seconds that took."""
    began = time.monotonic()
    await agent.until(lambda status: status["pending"] == 0 and captured(status) > 0, PATIENCE)
    return time.monotonic() - began


def captured(status: dict[str, object]) -> int:
    """How many transactions have reached the spool."""
    return int(str(status["captured"]))


def in_flight(status: dict[str, object]) -> int:
    """How many containers are sent and not acknowledged."""
    return int(str(status["in_flight"]))


def uplink(status: dict[str, object]) -> dict[str, Any]:
    """How the uplink is."""
    found = status["uplink"]
    assert isinstance(found, dict)
    return found
