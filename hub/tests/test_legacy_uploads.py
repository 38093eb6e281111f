"""Version 1 with the programs that speak it: unmodified dnstap-sensor and nmsg-relay against a whole hub."""

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sie_core._native import decode
from sie_hub.nats_link import StoredMessage
from sie_hub.registry import sha256_hex
from sie_hub.streams import HEADER_SOURCE

from . import legacy
from .broker import Broker, free_port
from .conftest import Pki
from .hub import Hub
from .sample import counted, record

API_KEY = "an-api-key-of-the-tests-with-plenty-of-entropy"
UPLOADS = {"legacy": {"channels": [202, 203], "source": 9, "key_sha256": [sha256_hex(API_KEY)]}}

RESPONSES = 300
TRANSACTIONS = 500


class Numbers:
    """A unit's metrics, asked for over HTTP."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"

    async def get(self, name: str, **labels: str) -> float:
        """One sample's value now; 0 while there is none, or nobody answers."""
        try:
            async with aiohttp.ClientSession() as http, http.get(self._url) as answer:
                text = await answer.text()
        except aiohttp.ClientError:
            return 0.0
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0

    async def reach(self, value: float, name: str, **labels: str) -> None:
        """Wait until a sample is at least so large."""
        async with asyncio.timeout(20):
            while await self.get(name, **labels) < value:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.fixture
async def hub(pki: Pki, broker: Broker) -> AsyncIterator[Hub]:
    hub = Hub(pki.directory.parent / "hub", pki, broker)
    hub.register("isp_a", {}, uploads=UPLOADS)
    for unit in ("ingest", "refine"):
        hub.start(unit)
        await appears(lambda unit=unit: "ready" in hub.log(unit))  # type: ignore[misc]
    yield hub
    hub.stop_all()


@pytest.fixture
def ingest(hub: Hub) -> Numbers:
    return Numbers(hub.metrics["ingest"])


async def appears(condition: Callable[[], bool]) -> None:
    """Wait for what only polling can see in another program."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def payloads(containers: Iterable[bytes]) -> list[dict[str, Any]]:
    """Everything in containers that stand one after the other."""
    return [payload for data in containers for payload in decode(data)]


def submitted(name: str, *words: str | Path, hub: Hub) -> list[str | Path]:
    """The command line that has a program submit to this hub."""
    common = ["-apikey", API_KEY, "-flush", "50ms", "-heartbeat", "1s", "-retry", "500ms"]
    return [legacy.program(name), *words, *common, hub.url]


async def ledger(hub: Hub) -> dict[str, Any]:
    """The only account there is, as `sie-hub ledger` prints it."""
    words = [sys.executable, "-m", "sie_hub.cli", "ledger", "--json", "--config", str(hub.path)]
    done = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    output, _ = await done.communicate()
    assert done.returncode == 0
    (account,) = json.loads(output)
    return dict(account)


async def test_dnstap_sensor_submits_and_comes_back_after_a_restart_of_ingest(
    hub: Hub, ingest: Numbers, broker: Broker, pki: Pki, tmp_path: Path
) -> None:
    """It sends what resolvers were answered, and nothing of clients; a restart of ingest costs nothing."""
    frames = [legacy.dnstap(f"response {number} ".encode().ljust(200, b".")) for number in range(RESPONSES)]
    path = tmp_path / "dnstap.sock"
    words = submitted("dnstap-sensor", "-input", path, "-channel", "203", hub=hub)
    trusted = {"SSL_CERT_FILE": str(pki.ca_held.certificate)}
    with legacy.running(words, tmp_path / "sensor.log", trusted):
        await ingest.reach(1, "sie_hub_ingest_sessions", version="1")
        await appears(path.exists)
        with closing(legacy.FrameWriter(path)) as resolver:
            for frame in frames[: RESPONSES // 2]:
                resolver.write(frame)
            resolver.write(legacy.dnstap(b"what a client was answered", legacy.CLIENT_RESPONSE))
            await ingest.reach(1, "sie_hub_ingest_containers_total", outcome="stored")
            await arrive(broker, RESPONSES // 2)
            assert hub.stop_gently("ingest") == 0
            assert "both sides have finished" in hub.log("ingest")
            hub.start("ingest")
            await ingest.reach(1, "sie_hub_ingest_sessions", version="1")
            for frame in frames[RESPONSES // 2 :]:
                resolver.write(frame)
            raw = await arrive(broker, RESPONSES)
    got = payloads(message.data for message in raw)
    assert {(payload["vid"], payload["msgtype"]) for payload in got} == {(1, 13)}
    assert Counter(payload["message"]["payload"] for payload in got) == Counter(frames)
    assert {message.headers[HEADER_SOURCE] for message in raw} == {"9"}

    account = await ledger(hub)
    assert (account["participant"], account["source"]) == ("isp_a", "legacy")
    assert (account["delivery"], account["state"]) == ("unacknowledged", "unacknowledged")
    assert account["stored"] == {"containers": len(raw), "transactions": None}
    assert account["lost_before"]["link"] == {"payloads": 0, "octets": 0}


async def test_nmsg_relay_submits_what_refine_makes_records_of(
    hub: Hub, ingest: Numbers, broker: Broker, pki: Pki, tmp_path: Path
) -> None:
    sample = record(tmp_path, TRANSACTIONS, container_bytes=4096, codec="none")
    port = free_port()
    words = submitted("nmsg-relay", "-input", f"127.0.0.1/{port}", "-channel", "202", hub=hub)
    trusted = {"SSL_CERT_FILE": str(pki.ca_held.certificate)}
    with legacy.running(words, tmp_path / "relay.log", trusted):
        await ingest.reach(1, "sie_hub_ingest_sessions", version="1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for container in sample.containers:
                sender.sendto(container, ("127.0.0.1", port))
        raw = await arrive(broker, TRANSACTIONS)
        assert (await ledger(hub))["stored"]["containers"] == len(raw)
    assert payloads(message.data for message in raw) == payloads(sample.containers)
    refine = Numbers(hub.metrics["refine"])
    await refine.reach(len(raw), "sie_hub_refine_containers_total", outcome="refined")
    assert counted(message.data for message in await broker.sie()) == sample.rrsets


async def test_a_key_that_is_not_known_is_refused_and_counted(
    hub: Hub, ingest: Numbers, pki: Pki, tmp_path: Path
) -> None:
    words = submitted("nmsg-relay", "-input", f"127.0.0.1/{free_port()}", "-channel", "202", hub=hub)
    hub.register("isp_a", {}, uploads={})
    with legacy.running(words, tmp_path / "relay.log", {"SSL_CERT_FILE": str(pki.ca_held.certificate)}):
        await ingest.reach(1, "sie_hub_ingest_connections_total", outcome="refused_unknown_key")
        await appears(lambda: "bad status" in (tmp_path / "relay.log").read_text())


@pytest.mark.parametrize(
    ("name", "held"),
    [("dnstap-sensor", (1, 13, 24)), ("nmsg-relay", (1, 9, 40))],
    ids=lambda value: str(value),
)
async def test_what_these_programs_put_on_the_wire_is_taken(
    name: str, held: tuple[int, int, int], hub: Hub, ingest: Numbers, broker: Broker, pki: Pki
) -> None:
    """The octets of a session of the real program, said again: runs where the programs are not to be had."""
    request, frames = recorded(name)
    reader, writer = await asyncio.open_connection("localhost", hub.port, ssl=pki.client_context())
    writer.write(request + frames)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    raw = await arrive(broker, held[2])
    got = payloads(message.data for message in raw)
    assert {(payload["vid"], payload["msgtype"]) for payload in got} == {held[:2]}
    said = await reader.read()  # the hub answers Finished with Finished, and closes
    assert bytes.fromhex("080110012200") in said
    assert bytes.fromhex("08011005") in said
    writer.close()
    await writer.wait_closed()
    await ingest.reach(1, "sie_hub_ingest_sessions_ended_total", outcome="finished")
    digest = sha256_hex(API_KEY)[:12]
    who = {"participant": "isp_a", "sensor": "legacy", "key": digest}
    await ingest.reach(1.7e9, "sie_hub_ingest_upload_key_used_at_seconds", **who)


def recorded(name: str) -> tuple[bytes, bytes]:
    """A recording: the request, and the WebSocket frames behind it."""
    path = Path(__file__).parent / "recordings" / f"{name}-0.3.0.txt"
    comment, _, text = path.read_text().partition("\n")
    assert comment.startswith("#")
    head, _, digits = text.partition("\n\n")
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n", bytes.fromhex(digits)


async def arrive(broker: Broker, count: int) -> list[StoredMessage]:
    """Wait until RAW holds so many payloads, and no more."""
    async with asyncio.timeout(20):
        while True:
            raw = await broker.raw()
            if len(payloads(message.data for message in raw)) >= count:
                break
            await asyncio.sleep(0.05)
    assert len(payloads(message.data for message in raw)) == count
    return raw
