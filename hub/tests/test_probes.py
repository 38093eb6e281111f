"""Probes from RAW to the sensor's question: real containers, a real nats-server, real mutual TLS."""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path

import aiohttp
import dns.flags
import dns.message
import dns.rrset
import pytest
import yaml
from prometheus_client import CollectorRegistry

from sie_core._native import PcapSource, Recorder, dedupe_records
from sie_hub.ingest import probe_door
from sie_hub.ingest.ledger import Ledger
from sie_hub.ingest.metrics import PROBE_QUESTIONS, Metrics
from sie_hub.ingest.quota import Quotas
from sie_hub.ingest.server import Server
from sie_hub.probes import Note
from sie_hub.refine import refiner
from sie_hub.refine.metrics import PROBES, TRANSACTIONS
from sie_hub.refine.metrics import Metrics as RefineMetrics
from sie_hub.refine.notes import NOTES_PER_SENSOR, Notes
from sie_hub.refine.refiner import Refiner
from sie_hub.registry import Registry, sha256_hex
from sie_hub.streams import VERSION_1, Source
from sie_hub.unit import Unit
from tests.traffic.frames import Frame, udp_frame, write_pcap

from .broker import Broker
from .conftest import Pki
from .hub import Hub

ZONE = "probe.example"
NONCE = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba98765432100123456789abcdef"
API_KEY = "an-api-key-of-the-tests-with-plenty-of-entropy"
RESOLVER, SERVER = IPv4Address("192.0.2.53"), IPv4Address("198.51.100.53")
SENSOR = Source("isp_a", "ns1", "0000000000000001")
TIME = 1_790_000_000.0


def container(directory: Path, names: list[str], *, unanswered: frozenset[str] = frozenset()) -> bytes:
    """What a sensor records while a resolver looks these names up."""
    frames = []
    for number, name in enumerate(names):
        query = dns.message.make_query(name, "A", flags=0)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        response.answer = [dns.rrset.from_text(query.question[0].name, 5, "IN", "A", "203.0.113.1")]
        time, port = TIME + number, 20_000 + number
        frames.append(Frame(time, udp_frame(RESOLVER, port, SERVER, 53, query.to_wire())))
        if name not in unanswered:
            answer = udp_frame(SERVER, 53, RESOLVER, port, response.to_wire())
            frames.append(Frame(time + 0.25, answer))
    path = directory / "probe.pcap"
    write_pcap(path, frames)
    recorder = Recorder([str(RESOLVER)], flush_interval=60.0)
    source = PcapSource(str(path))
    sealed = []
    while not recorder.at_end:
        sealed += recorder.pump(source, 1.0)
    [only] = sealed + recorder.finish()
    return only.data


async def put(broker: Broker, source: Source, data: bytes) -> None:
    async with broker.link("ingest") as link:
        await link.publish(source.raw_subject(202), data, {})


async def refine(broker: Broker, position: int, zone: str | None = ZONE) -> CollectorRegistry:
    """Refine up to a position of RAW. Returns the metrics."""
    async with broker.link("refine") as link:
        unit = Unit("refine")
        task = asyncio.create_task(Refiner(unit, link, 0.1, RefineMetrics(unit.metrics, link), zone).run())
        async with asyncio.timeout(15):
            while value(unit.metrics, "raw_position") < position:
                assert not task.done()
                await asyncio.sleep(0.01)
        unit.stop()
        await asyncio.gather(task)
        return unit.metrics


def value(metrics: CollectorRegistry, name: str, **labels: str) -> float:
    found = metrics.get_sample_value(f"sie_hub_refine_{name}", labels)
    assert found is not None, name
    return found


def outcomes(metrics: CollectorRegistry, name: str, every: tuple[str, ...]) -> dict[str, float]:
    counted = {outcome: value(metrics, f"{name}_total", outcome=outcome) for outcome in every}
    return {outcome: count for outcome, count in counted.items() if count}


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refiner, "IDLE", 0.05)


class Asking:
    """ingest in this process, and a way to ask it."""

    def __init__(self, hub: Hub, pki: Pki, metrics: CollectorRegistry) -> None:
        self.hub = hub
        self.pki = pki
        self.metrics = metrics
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def ask(
        self, path: str, sensor: str = "ns1", participant: str = "isp_a"
    ) -> tuple[int, dict[str, object]]:
        """Ask as a sensor does; the status and the document."""
        key = f"{participant}/{sensor}"
        if key not in self._contexts:
            self._contexts[key] = self.pki.client_context(self.pki.sensor(participant, sensor))
        url = self.hub.url.replace("wss", "https")
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{url}{path}", ssl=self._contexts[key]) as answer,
        ):
            return answer.status, json.loads(await answer.text())

    def outcomes(self) -> dict[str, float]:
        """The questions by outcome, which must be as many as the requests that were counted."""
        name = "sie_hub_ingest_probe_questions_total"
        counted = {o: self.metrics.get_sample_value(name, {"outcome": o}) or 0 for o in PROBE_QUESTIONS}
        requests = self.metrics.get_sample_value("sie_hub_ingest_connections_total", {"outcome": "probe"})
        assert sum(counted.values()) == requests
        return {outcome: count for outcome, count in counted.items() if count}


@pytest.fixture
def hub(pki: Pki, broker: Broker) -> Hub:
    hub = Hub(pki.directory.parent / "hub", pki, broker)
    sensors = {name: {"channels": [202], "source": number} for number, name in enumerate(("ns1", "ns2"), 7)}
    uploads = {"legacy": {"channels": [203], "source": 9, "key_sha256": [sha256_hex(API_KEY)]}}
    hub.register("isp_a", sensors, uploads=uploads)
    hub.register("uni_b", {"ns1": {"channels": [202], "source": 11}})
    document = yaml.safe_load(hub.path.read_text()) | {"probe": {"zone": ZONE}}
    hub.path.write_text(yaml.safe_dump(document))
    return hub


@pytest.fixture
async def asking(hub: Hub, pki: Pki, broker: Broker) -> AsyncIterator[Asking]:
    async with broker.link("ingest") as link:
        metrics, registry = CollectorRegistry(), Registry(hub.registry)
        server = Server(
            hub.config(), registry, link, Metrics(metrics, link, registry), Ledger(link), Quotas(1 << 30)
        )
        await server.start()
        yield Asking(hub, pki, metrics)
        await server.stop()


async def test_a_probe_is_told_to_its_sensor_and_to_nobody_else(
    broker: Broker, asking: Asking, tmp_path: Path
) -> None:
    assert await asking.ask("/probe") == (200, {"zone": ZONE})
    assert (await asking.ask(f"/probe/{NONCE}"))[0] == 404
    await put(broker, SENSOR, container(tmp_path, [f"{NONCE.upper()}.Probe.EXAMPLE"]))
    await refine(broker, 1)
    status, document = await asking.ask(f"/probe/{NONCE}")
    stored = document.pop("stored")
    assert isinstance(stored, float)
    assert stored > TIME
    assert (status, document) == (
        200,
        {
            "zone": ZONE,
            "nonce": NONCE,
            "transaction": "UDP_QUERY_RESPONSE",
            "asked": TIME,
            "answered": TIME + 0.25,
        },
    )
    for sensor, participant in (("ns2", "isp_a"), ("ns1", "uni_b")):
        assert (await asking.ask(f"/probe/{NONCE}", sensor, participant))[0] == 404
    # Another nonce of the same place is not taken for it.
    assert (await asking.ask(f"/probe/{NONCE[:2]}{OTHER[2:]}"))[0] == 404
    assert asking.outcomes() == {"zone": 1, "received": 1, "unknown": 4}


async def test_probe_names_reach_no_channel_and_every_transaction_has_one_outcome(
    broker: Broker, tmp_path: Path
) -> None:
    names = [
        *(f"www{number}.alpha.example" for number in range(5)),
        f"{NONCE}.{ZONE}",
        f"{NONCE}.{ZONE}",
        f"{OTHER}.{ZONE}",
        f"_.{ZONE}",
        ZONE,
        f"{NONCE}.{NONCE}.{ZONE}",
    ]
    await put(broker, SENSOR, container(tmp_path, names, unanswered=frozenset({f"{OTHER}.{ZONE}"})))
    metrics = await refine(broker, 1)
    transactions = outcomes(metrics, "transactions", TRANSACTIONS)
    assert transactions == {"observed": 5, "probe": 6}
    assert sum(transactions.values()) == len(names)
    probes = outcomes(metrics, "probes", PROBES)
    assert probes == {"noted": 2, "repeated": 1, "unnoted": 3}
    assert sum(probes.values()) == transactions["probe"]
    records = [record for message in await broker.sie() for record in dedupe_records(message.data)]
    assert len(records) == 5
    assert not [record for record in records if b"probe" in record[0]]


async def test_without_a_probe_zone_such_names_are_names_like_others(broker: Broker, tmp_path: Path) -> None:
    await put(broker, SENSOR, container(tmp_path, [f"{NONCE}.{ZONE}"]))
    metrics = await refine(broker, 1, zone=None)
    assert outcomes(metrics, "transactions", TRANSACTIONS) == {"observed": 1}
    assert outcomes(metrics, "probes", PROBES) == {}


async def test_a_question_that_cannot_be_answered_says_why(
    hub: Hub, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, document = await asking.ask("/probe/NO-NONCE")
    assert (status, document) == (400, {"error": "a nonce is 32 hexadecimal digits in lower case"})
    async with (
        aiohttp.ClientSession(headers={"X-API-Key": API_KEY}) as http,
        http.get(f"{hub.url.replace('wss', 'https')}/probe", ssl=asking.pki.client_context()) as answer,
    ):
        assert answer.status == 403
        assert "show a certificate" in await answer.text()
    monkeypatch.setattr(probe_door, "PER_SECOND", 0.001)
    statuses = [(await asking.ask("/probe"))[0] for _ in range(probe_door.BURST + 2)]
    assert Counter(statuses) == {200: probe_door.BURST, 429: 2}
    # Another sensor has an allowance of its own.
    assert (await asking.ask("/probe", "ns2"))[0] == 200
    monkeypatch.setattr("sie_hub.nats_link.REQUEST_TIMEOUT", 0.2)
    hub.broker.suspend()
    assert (await asking.ask(f"/probe/{NONCE}", "ns2"))[0] == 503
    hub.broker.resume()
    expected = {"malformed": 1, "no_certificate": 1, "zone": probe_door.BURST + 1, "limited": 2}
    assert asking.outcomes() == expected | {"unavailable": 1}


async def test_a_hub_without_a_probe_zone_says_so(broker: Broker, hub: Hub, pki: Pki) -> None:
    document = yaml.safe_load(hub.path.read_text())
    del document["probe"]
    hub.path.write_text(yaml.safe_dump(document))
    async with broker.link("ingest") as link:
        metrics, registry = CollectorRegistry(), Registry(hub.registry)
        server = Server(
            hub.config(), registry, link, Metrics(metrics, link, registry), Ledger(link), Quotas(1 << 30)
        )
        await server.start()
        asking = Asking(hub, pki, metrics)
        assert await asking.ask("/probe") == (404, {"error": "this hub has no probe zone"})
        assert asking.outcomes() == {"no_zone": 1}
        await server.stop()


def seen(number: int, *, whole: bool = True) -> tuple[str, str, float | None, float | None]:
    return (f"{number:032x}", "UDP_QUERY_RESPONSE", TIME, TIME if whole else None)


def test_a_flood_of_probes_is_limited_for_each_sensor() -> None:
    notes = Notes()
    notes.add(SENSOR, TIME, 100, [seen(number) for number in range(NOTES_PER_SENSOR + 3)])
    notes.add(Source("isp_a", "ns2", "0000000000000001"), TIME, 1, [seen(1)])
    notes.add(Source("isp_a", "legacy", VERSION_1), TIME, 2, [seen(2), seen(3)])
    notes.add(None, TIME, 1, [seen(4)])
    unnoted = 100 - (NOTES_PER_SENSOR + 3) + 2 + 1
    assert notes.counts == {"noted": NOTES_PER_SENSOR + 1, "limited": 3, "unnoted": unnoted}
    assert {(note.participant, note.sensor) for note in notes.notes} == {("isp_a", "ns1"), ("isp_a", "ns2")}
    assert len(notes.notes) == NOTES_PER_SENSOR + 1


def test_of_two_sightings_the_whole_one_is_told() -> None:
    notes = Notes()
    notes.add(SENSOR, TIME, 2, [seen(1, whole=False), seen(1)])
    notes.add(SENSOR, TIME + 1, 1, [seen(1, whole=False)])
    [note] = notes.notes
    assert note.whole
    assert +notes.counts == {"noted": 1, "repeated": 2}
    assert Note.from_bytes(note.as_bytes()) == note
