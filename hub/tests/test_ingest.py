"""Sessions with ingest: a real sensor end over real TLS, a real nats-server, ingest in this process."""

import asyncio
import json
import os
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

import aiohttp
import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from sie_core.identity import fingerprint, public_key_of
from sie_core.limits import MAX_PAYLOAD
from sie_core.sielink_pb2 import ACCOUNTING_RECORD, DATA_MESSAGE, NMSG_CONTAINER, TOPOLOGY_MESSAGE, Message
from sie_core.trampoline import Acknowledged, AlertLevel, Event, Trampoline
from sie_hub import log
from sie_hub.ingest import store
from sie_hub.ingest.ledger import Ledger, Lost
from sie_hub.ingest.metrics import CONNECTIONS, CONTAINERS, ENDINGS, Metrics
from sie_hub.ingest.quota import Quotas
from sie_hub.ingest.server import LARGEST_OF_UPLOAD, MAX_SESSIONS, Server
from sie_hub.nats_link import Link
from sie_hub.registry import Registry, sha256_hex
from sie_hub.streams import HEADER_SEQUENCE, HEADER_SOURCE, MAX_MESSAGE, POSITION

from .broker import Broker
from .conftest import Held, Pki
from .hub import Hub
from .sensor import Sensor, SessionRefused, numbered

API_KEY = "an-api-key-of-the-tests-with-plenty-of-entropy"
UPLOADS = {"legacy": {"channels": [203], "source": 9, "key_sha256": [sha256_hex(API_KEY)]}}


class Ingest:
    """ingest in this process, with its registry looked at when the test says so."""

    def __init__(self, hub: Hub, link: Link) -> None:
        self.hub = hub
        self.link = link
        self.registry = Registry(hub.registry)
        self.metrics = CollectorRegistry()
        self.ledger = Ledger(link)
        metrics = Metrics(self.metrics, link, self.registry)
        self.quotas = Quotas(1 << 30)
        self.server = Server(hub.config(), self.registry, link, metrics, self.ledger, self.quotas)

    def review(self) -> None:
        """What the unit does every second."""
        self.registry.reload()
        self.server.review()

    def value(self, name: str, **labels: str) -> float:
        """A metric's value now."""
        value = self.metrics.get_sample_value(f"sie_hub_ingest_{name}", labels)
        assert value is not None, (name, labels)
        return value

    def outcomes(self, name: str) -> dict[str, float]:
        """The outcomes of a counter that are not 0."""
        every = {"connections": CONNECTIONS, "sessions_ended": ENDINGS, "containers": CONTAINERS}[name]
        values = {outcome: self.value(f"{name}_total", outcome=outcome) for outcome in every}
        return {outcome: value for outcome, value in values.items() if value}

    async def settled(self) -> None:
        """Wait until no session is live, and check that everything has exactly one outcome."""
        await until(lambda: sum(self.value("sessions", version=v) for v in "12") == 0)
        assert self.outcomes("connections").get("accepted", 0) == sum(
            self.outcomes("sessions_ended").values()
        )
        assert self.value("containers_received_total") == sum(self.outcomes("containers").values())


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition that only polling can see."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is waited for is a metric, not an event
            await asyncio.sleep(0.01)


@pytest.fixture
def hub(tmp_path: object, pki: Pki, broker: Broker) -> Hub:
    return Hub(pki.directory.parent / "hub", pki, broker)


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sie_hub.ingest.server.ALL_WAITING_OCTETS", 500_000)


@pytest.fixture
async def ingest(hub: Hub, broker: Broker) -> AsyncIterator[Ingest]:
    async with broker.link("ingest") as link:
        ingest = Ingest(hub, link)
        await ingest.server.start()
        yield ingest
        await ingest.server.stop()


@pytest.fixture
def held(pki: Pki) -> Held:
    return pki.sensor()


@pytest.fixture
def sensor(hub: Hub, pki: Pki, held: Held) -> Sensor:
    return Sensor(hub.url, pki.client_context(held), numbered(20))


async def stored(broker: Broker) -> list[tuple[int | None, bytes]]:
    return [(message.number(HEADER_SEQUENCE), message.data) for message in await broker.raw()]


@asynccontextmanager
async def upload(hub: Hub, pki: Pki) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A session of version 1, opened as deployed clients open theirs."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{hub.url}/session/dnstap-client", ssl=pki.client_context(), headers={"X-API-Key": API_KEY}
        ) as websocket,
    ):
        await websocket.send_bytes(bytes.fromhex("080110012200"))  # the configuration of a legacy uploader
        await websocket.send_bytes(bytes.fromhex("0801100328b0ea01"))  # its first heartbeat, 30 s
        yield websocket


def legacy_payload(data: bytes, lost: int = 0, lost_before: int = 0) -> bytes:
    """A data message of version 1, whose sender says that it has dropped `lost` others and never got some."""
    message = Message(protocolVersion=[1], messageType=DATA_MESSAGE)
    message.payload.channel = 203
    message.payload.payloadType = NMSG_CONTAINER
    message.payload.data = data
    if lost:
        message.payload.linkLoss.payloads = lost
        message.payload.linkLoss.bytes = 100 * lost
    if lost_before:
        message.payload.pathLoss.payloads = lost_before
        message.payload.pathLoss.bytes = 100 * lost_before
    return message.SerializeToString()


# --- delivery ---------------------------------------------------------------------------------------------


async def test_containers_arrive_once_in_order_and_are_acknowledged(
    ingest: Ingest, sensor: Sensor, broker: Broker
) -> None:
    assert await sensor.session() == "everything acknowledged"
    assert await stored(broker) == list(enumerate(sensor.containers, start=1))
    assert {message.headers[HEADER_SOURCE] for message in await broker.raw()} == {"7"}
    await ingest.settled()
    assert ingest.outcomes("containers") == {"stored": 20}
    assert ingest.value("sensor_transactions_total", participant="isp_a", sensor="ns1") == 20
    assert ingest.value("store_seconds_count") == 20


async def test_a_backlog_is_acknowledged_several_containers_at_a_time(
    ingest: Ingest, hub: Hub, pki: Pki, held: Held, broker: Broker
) -> None:
    sensor = Sensor(hub.url, pki.client_context(held), numbered(150))
    await sensor.deliver()
    await ingest.settled()
    assert [sequence for sequence, _data in await stored(broker)] == list(range(1, 151))
    async with broker.administrator() as administrator:
        positions = (await administrator.state(POSITION)).last
        recorded = await administrator.last_message(POSITION, f"$KV.POSITION.isp_a.ns1.{sensor.stream:016x}")
    assert recorded is not None
    assert recorded.data == b"150"
    assert positions < 100


async def test_a_second_session_goes_on_where_the_first_one_stopped(
    ingest: Ingest, sensor: Sensor, broker: Broker
) -> None:
    await sensor.session(until_acknowledged=1)
    sensor.containers += numbered(30)[20:]
    assert await sensor.session() == "everything acknowledged"
    assert await stored(broker) == list(enumerate(numbered(30), start=1))
    await ingest.settled()


async def test_gaps_are_counted(ingest: Ingest, sensor: Sensor, broker: Broker) -> None:
    sensor.trimmed = {2, 3, 7}
    await sensor.session()
    assert [sequence for sequence, _data in await stored(broker)] == [
        n for n in range(1, 21) if n not in sensor.trimmed
    ]
    assert ingest.value("gap_containers_total") == 3
    await ingest.settled()


async def test_a_sensor_whose_state_went_back_in_time_is_noticed(
    ingest: Ingest, sensor: Sensor, hub: Hub, pki: Pki, held: Held, broker: Broker
) -> None:
    await sensor.session()
    restored = Sensor(hub.url, pki.client_context(held), [b"other"] * 5)
    reason = await restored.session()
    assert "its state is older than the hub's" in reason
    await ingest.settled()
    assert ingest.value("conflicts_total") == 1
    assert ingest.outcomes("sessions_ended") == {"peer_gone": 1, "conflict": 1}
    assert len(await stored(broker)) == 20


async def test_a_copy_of_a_sensor_is_noticed_by_the_container_at_the_position(
    ingest: Ingest, sensor: Sensor, hub: Hub, pki: Pki, held: Held, broker: Broker
) -> None:
    await sensor.session()
    copy = Sensor(hub.url, pki.client_context(held), [b"other"] * 25)
    reason = await copy.session()
    assert "the hub holds another payload 20" in reason
    await ingest.settled()
    assert ingest.value("conflicts_total") == 1
    assert ingest.outcomes("sessions_ended") == {"peer_gone": 1, "conflict": 1}
    assert copy.acknowledged == 0
    assert len(await stored(broker)) == 20


async def test_what_is_beyond_a_sensor_s_quota_stays_with_it(
    ingest: Ingest, sensor: Sensor, hub: Hub, pki: Pki, broker: Broker
) -> None:
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7}}, uploads=UPLOADS)
    ingest.review()
    sensor.limit = 3
    assert await sensor.session(until_acknowledged=3) == "everything acknowledged"
    ingest.quotas.spend(("isp_a", "ns1"), 2 * ingest.quotas.octets)
    sensor.limit = None
    sentence = f"more than {ingest.quotas.octets} octets within a day: send the rest later"
    assert sentence in await sensor.session()
    await ingest.settled()
    counted = ingest.outcomes("containers")
    assert (counted["stored"], len(await stored(broker))) == (3, 3)
    assert counted["quota"] >= 1
    async with upload(hub, pki) as websocket:  # the quota of another one
        await websocket.send_bytes(legacy_payload(b"NMSG one"))
        await until(lambda: ingest.outcomes("containers")["stored"] == counted["stored"] + 1)


async def test_a_sensor_begins_so_many_streams_in_a_day_and_goes_on_with_those(
    ingest: Ingest, sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_STREAMS", 2)
    for stream in (1, 2):
        sensor.stream = stream
        assert await sensor.session() == "everything acknowledged"
    sensor.stream = 3
    assert "isp_a/ns1 has begun 2 streams within a day" in await sensor.session()
    sensor.stream, sensor.containers = 2, [*sensor.containers, b"one more"]
    assert await sensor.session() == "everything acknowledged"
    await ingest.settled()
    assert ingest.outcomes("sessions_ended") == {"peer_gone": 3, "streams": 1}


async def test_an_upload_of_version_1_is_taken_without_acknowledgement(
    ingest: Ingest, hub: Hub, pki: Pki, broker: Broker
) -> None:
    hub.register("isp_a", {}, uploads=UPLOADS)
    ingest.review()
    async with upload(hub, pki) as websocket:
        first = Message.FromString((await websocket.receive(timeout=5)).data)
        assert (list(first.protocolVersion), first.messageType) == ([1], TOPOLOGY_MESSAGE)
        for data in (b"NMSG one", b"NMSG two"):
            await websocket.send_bytes(legacy_payload(data, lost=3, lost_before=5))
        await until(lambda: ingest.outcomes("containers") == {"stored": 2})
    assert [m.data for m in await broker.raw()] == [b"NMSG one", b"NMSG two"]
    assert {m.headers[HEADER_SOURCE] for m in await broker.raw()} == {"9"}
    for hop, payloads in (("link", 6), ("path", 10)):
        labels = {"participant": "isp_a", "sensor": "legacy", "hop": hop}
        assert ingest.value("upload_lost_payloads_total", **labels) == payloads
        assert ingest.value("upload_lost_octets_total", **labels) == 100 * payloads
    await ingest.settled()
    (account,) = await ingest.ledger.accounts(ingest.registry.participants)
    assert (account.state, account.acknowledges, account.stored, account.stored_containers) == (
        "unacknowledged",
        False,
        None,
        2,
    )
    assert (account.kept.octets, account.kept.link, account.kept.path) == (16, Lost(6, 600), Lost(10, 1000))


async def test_the_opening_answers_legacy_clients_without_extensions(
    ingest: Ingest, hub: Hub, pki: Pki
) -> None:
    """Their library takes any Sec-WebSocket-Extensions or -Protocol header for fatal."""
    hub.register("isp_a", {}, uploads=UPLOADS)
    ingest.review()
    reader, writer = await asyncio.open_connection("localhost", hub.port, ssl=pki.client_context())
    writer.write(
        b"GET /session/x?a=b HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://localhost/dnstap-client\r\n"
        b"Sec-WebSocket-Version: 13\r\nX-API-Key: " + API_KEY.encode() + b"\r\n\r\n"
    )
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    writer.close()
    await writer.wait_closed()
    assert head.startswith(b"http/1.1 101")
    assert b"upgrade: websocket\r\n" in head
    assert b"connection: upgrade\r\n" in head
    assert b"sec-websocket-extensions" not in head
    assert b"sec-websocket-protocol" not in head


async def test_what_a_sensor_reports_about_itself_is_shown(ingest: Ingest, sensor: Sensor) -> None:
    sensor.accounting = {"captured": 25, "acknowledged": 20, "pending": 4, "trimmed": 1, "of_no_interest": 9}
    await sensor.session()
    await until(
        lambda: (
            ingest.metrics.get_sample_value(
                "sie_hub_ingest_sensor_reported",
                {"participant": "isp_a", "sensor": "ns1", "counter": "captured"},
            )
            == 25
        )
    )
    assert (
        ingest.metrics.get_sample_value(
            "sie_hub_ingest_sensor_reported",
            {"participant": "isp_a", "sensor": "ns1", "counter": "of_no_interest"},
        )
        is None
    )


# --- back-pressure ----------------------------------------------------------------------------------------


async def test_a_slow_message_server_slows_the_sensor_down_and_loses_nothing(
    ingest: Ingest, sensor: Sensor, broker: Broker
) -> None:
    sensor.containers = [os.urandom(500_000) for _ in range(40)]
    delivering = asyncio.create_task(sensor.deliver())
    await until(lambda: sensor.acknowledged >= 2)
    broker.suspend()
    await asyncio.sleep(1.5)
    received = ingest.value("containers_received_total")
    at_rest = sensor.acknowledged
    await asyncio.sleep(0.5)
    # 4 MiB and what went beyond wait in ingest, the rest in the sensor; nothing more is taken in or
    # acknowledged.
    assert 4 << 20 < ingest.value("waiting_octets") <= (4 << 20) + 500_000
    assert ingest.value("containers_received_total") == received
    assert sensor.acknowledged == at_rest
    broker.resume()
    await delivering
    assert await stored(broker) == list(enumerate(sensor.containers, start=1))


async def test_a_message_server_that_stays_away_ends_the_session_with_a_reason(
    ingest: Ingest, sensor: Sensor, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sie_hub.ingest.store.STORE_TIMEOUT", 0.5)
    sensor.limit = 5
    await sensor.session(until_acknowledged=5)
    broker.kill()
    sensor.limit = None
    await sensor.session()
    assert "the hub's message server is away" in sensor.alerts[-1]
    await ingest.settled()
    assert ingest.outcomes("sessions_ended") == {"peer_gone": 1, "storage": 1}
    assert sensor.acknowledged == 5
    broker.start()
    await sensor.deliver()
    assert await stored(broker) == list(enumerate(sensor.containers, start=1))


# --- who may not ------------------------------------------------------------------------------------------


async def refused(sensor: Sensor) -> tuple[int, str]:
    with pytest.raises(SessionRefused) as caught:
        await sensor.session()
    return caught.value.status, caught.value.sentence


async def test_a_revoked_sensor_is_refused_with_since_when_and_why(
    ingest: Ingest, sensor: Sensor, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    revoked = {"at": "2026-11-20T10:00:00Z", "reason": "laptop lost"}
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7, "revoked": revoked}})
    ingest.review()
    sentence = "isp_a/ns1 has been revoked since 2026-11-20 10:00 UTC: laptop lost"
    assert await refused(sensor) == (403, sentence)
    assert {getattr(record, "fields", {}).get("text") for record in caplog.records} >= {sentence}
    assert ingest.outcomes("connections") == {"refused_revoked": 2}


async def test_a_revoked_certificate_is_refused_and_another_one_of_that_sensor_is_not(
    ingest: Ingest, sensor: Sensor, hub: Hub, pki: Pki, held: Held
) -> None:
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7, "revoked_serials": [held.serial]}})
    ingest.review()
    status, sentence = await refused(sensor)
    assert (status, sentence) == (403, f"the certificate {held.serial} of isp_a/ns1 is revoked; enrol again")
    renewed = Sensor(hub.url, pki.client_context(pki.sensor()), numbered(1))
    assert await renewed.session() == "everything acknowledged"


async def test_a_revoked_key_is_refused_whatever_certificate_it_has(
    ingest: Ingest, sensor: Sensor, hub: Hub, pki: Pki, held: Held
) -> None:
    certificate = x509.load_pem_x509_certificate(held.certificate.read_bytes())
    key = fingerprint(public_key_of(certificate))
    session = await idle(sensor)
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7, "revoked_keys": [key]}})
    ingest.review()
    sentence = f"the key {key} of isp_a/ns1 is revoked; make another one and enrol again"
    assert sentence in await session
    assert await refused(sensor) == (403, sentence)
    assert ingest.outcomes("sessions_ended") == {"refused_key_revoked": 1}
    other = Sensor(hub.url, pki.client_context(pki.sensor()), numbered(30))
    assert await other.session() == "everything acknowledged"


async def test_all_that_was_issued_until_a_moment_is_refused_whatever_its_key(
    ingest: Ingest, sensor: Sensor, hub: Hub, pki: Pki, held: Held
) -> None:
    """Who stole a key may have renewed its certificate for a key of his own, which nobody can name."""
    session = await idle(sensor)
    moment = pki.now.isoformat()
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7, "revoked_before": moment}})
    ingest.review()
    sentence = f"the certificate {held.serial} of isp_a/ns1 is revoked; enrol again"
    assert sentence in await session
    of_thief = pki.sensor()
    assert (await refused(Sensor(hub.url, pki.client_context(of_thief))))[0] == 403
    assert ingest.outcomes("sessions_ended") == {"refused_certificate_revoked": 1}
    later = Sensor(hub.url, pki.client_context(pki.sensor(at=pki.now + timedelta(seconds=1))), numbered(30))
    assert await later.session() == "everything acknowledged"


async def test_an_expired_certificate_is_refused_with_since_when(ingest: Ingest, hub: Hub, pki: Pki) -> None:
    old = pki.sensor(at=pki.now - timedelta(days=40), days=30)
    status, sentence = await refused(Sensor(hub.url, pki.client_context(old)))
    assert status == 403
    assert "expired" in sentence
    assert ingest.outcomes("connections") == {"refused_expired": 2}


async def test_a_sensor_that_is_not_in_the_registry_is_refused(ingest: Ingest, hub: Hub, pki: Pki) -> None:
    stranger = Sensor(hub.url, pki.client_context(pki.sensor("isp_a", "ns9")))
    assert await refused(stranger) == (403, "isp_a/ns9 is not in the registry of lab.example")
    assert ingest.outcomes("connections") == {"refused_unknown_sensor": 2}


async def test_a_participant_without_an_agreement_in_force_is_refused(
    ingest: Ingest, sensor: Sensor, hub: Hub
) -> None:
    ended = {"signed": "2024-01-01", "term_days": 365, "renews": False}
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7}}, agreement=ended)
    ingest.review()
    status, sentence = await refused(sensor)
    assert status == 403
    assert sentence == "isp_a/ns1 may not send: the agreement ended on 2024-12-31 and does not renew itself"


async def test_a_certificate_of_another_ca_fails_the_handshake_and_is_counted(
    ingest: Ingest, hub: Hub, pki: Pki, other_pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = other_pki.sensor()
    context = pki.client_context(foreign)
    with pytest.raises((ssl.SSLError, aiohttp.ClientError, ConnectionError)):
        await Sensor(hub.url, context).session()
    await until(lambda: ingest.outcomes("connections").keys() == {"tls_other_authority"})
    assert "another CA" in caplog.text


async def test_a_certificate_of_another_exchange_is_refused(ingest: Ingest, hub: Hub, pki: Pki) -> None:
    pki.exchange = "other.example"
    status, sentence = await refused(Sensor(hub.url, pki.client_context(pki.sensor())))
    assert status == 403
    assert "belongs to other.example, not to lab.example" in sentence


async def test_credentials_must_be_exactly_one(ingest: Ingest, sensor: Sensor, hub: Hub, pki: Pki) -> None:
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7}}, uploads=UPLOADS)
    ingest.review()
    sensor.headers = {"X-API-Key": API_KEY}
    assert await refused(sensor) == (403, "a certificate and an API key: show one of them")
    bare = Sensor(hub.url, pki.client_context())
    assert await refused(bare) == (401, "no certificate and no API key: enrol the sensor first")
    bare.headers = {"X-API-Key": "guessed"}
    assert await refused(bare) == (401, "the API key is not known here")
    assert ingest.outcomes("connections") == {
        "refused_two_credentials": 2,
        "refused_no_credential": 2,
        "refused_unknown_key": 2,
    }


async def test_a_key_opens_version_1_only_and_a_certificate_version_2_only(
    ingest: Ingest, hub: Hub, pki: Pki, held: Held
) -> None:
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7}}, uploads=UPLOADS)
    ingest.review()
    with_key = Sensor(hub.url, pki.client_context(), headers={"X-API-Key": API_KEY})
    assert "no version in common" in await with_key.session()
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{hub.url}/session/x", ssl=pki.client_context(held)) as websocket,
    ):
        await websocket.send_bytes(bytes.fromhex("080110012200"))
        answers = [Message.FromString((await websocket.receive(timeout=5)).data) for _ in range(2)]
    assert "no version in common" in answers[1].alert.message.decode()
    await ingest.settled()
    assert ingest.outcomes("sessions_ended") == {"violation": 2}


# --- who may not any more ---------------------------------------------------------------------------------


async def idle(sensor: Sensor) -> "asyncio.Task[str]":
    """A live session that has delivered everything and stays."""
    task = asyncio.create_task(sensor.session(until_acknowledged=1 << 60))
    await until(lambda: sensor.acknowledged == len(sensor.containers))
    return task


async def test_revocation_closes_a_live_session_with_its_reason(
    ingest: Ingest, sensor: Sensor, hub: Hub, broker: Broker
) -> None:
    session = await idle(sensor)
    revoked = {"at": "2026-11-20T10:00:00Z", "reason": "key stolen"}
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7, "revoked": revoked}})
    began = time.monotonic()
    ingest.review()
    assert "has been revoked since 2026-11-20 10:00 UTC: key stolen" in await session
    assert time.monotonic() - began < 4
    await ingest.settled()
    assert ingest.outcomes("sessions_ended") == {"refused_revoked": 1}
    assert len(await stored(broker)) == 20


async def test_a_participant_s_file_that_is_gone_closes_its_sessions(
    ingest: Ingest, sensor: Sensor, hub: Hub
) -> None:
    session = await idle(sensor)
    (hub.registry / "isp_a.yml").unlink()
    ingest.review()
    assert "is not in the registry" in await session


async def test_a_broken_registry_file_leaves_live_sessions_alone(
    ingest: Ingest, sensor: Sensor, hub: Hub, broker: Broker
) -> None:
    await sensor.session(until_acknowledged=1)
    (hub.registry / "isp_a.yml").write_text("participant: isp_a\nsensors: [")
    ingest.review()
    assert await sensor.session() == "everything acknowledged"
    assert ingest.registry.broken == 1


async def test_a_key_that_is_taken_out_closes_the_upload_s_session(
    ingest: Ingest, hub: Hub, pki: Pki
) -> None:
    hub.register("isp_a", {}, uploads=UPLOADS)
    ingest.review()
    async with upload(hub, pki) as websocket:
        await until(lambda: ingest.value("sessions", version="1") == 1)
        hub.register("isp_a", {}, uploads={"legacy": {"channels": [203], "source": 9, "key_sha256": []}})
        ingest.review()
        texts = [Message.FromString(frame.data).alert.message.decode() async for frame in websocket]
    assert texts[-1] == "the API key is not known here"
    await ingest.settled()


async def test_a_peer_that_does_not_listen_is_cut_off_all_the_same(
    ingest: Ingest, hub: Hub, pki: Pki, held: Held
) -> None:
    _reader, writer = await websocket_by_hand(hub, pki.client_context(held))
    await until(lambda: ingest.value("sessions", version="2") == 1)
    (hub.registry / "isp_a.yml").unlink()
    began = time.monotonic()
    ingest.review()
    await ingest.settled()
    assert time.monotonic() - began < 4
    writer.close()


async def test_the_newest_session_of_an_identity_wins(
    ingest: Ingest, sensor: Sensor, hub: Hub, pki: Pki, held: Held, broker: Broker
) -> None:
    first = await idle(sensor)
    second = Sensor(hub.url, pki.client_context(held), numbered(30))
    assert await second.session() == "everything acknowledged"
    assert "another session of this sensor was opened" in await first
    assert await stored(broker) == list(enumerate(numbered(30), start=1))
    await ingest.settled()
    assert ingest.outcomes("sessions_ended")["superseded"] == 1


async def test_stopping_lets_sensors_finish(ingest: Ingest, sensor: Sensor) -> None:
    session = await idle(sensor)
    await ingest.server.stop()
    assert await session == "both sides have finished"
    assert ingest.outcomes("sessions_ended") == {"stopping": 1}


# --- what is no session -----------------------------------------------------------------------------------


async def websocket_by_hand(
    hub: Hub, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket whose frames the test writes itself."""
    reader, writer = await asyncio.open_connection("localhost", hub.port, ssl=context)
    writer.write(
        b"GET /session/x HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def frame(first: int, data: bytes, *, masked: bool = True, length: int | None = None) -> bytes:
    """A WebSocket frame: first octet, payload, and possibly a length that is a lie."""
    mask = 0x80 if masked else 0
    if length is None and len(data) < 126:
        head = struct.pack("!BB", first, mask | len(data))
    else:
        head = struct.pack("!BBQ", first, mask | 127, len(data) if length is None else length)
    return head + (b"\0\0\0\0" if masked else b"") + data


@pytest.mark.parametrize(
    ("octets", "outcome"),
    [
        (frame(0x82, b"\xff\xff\xff garbage"), "violation"),
        (frame(0x82, b""), "violation"),
        (frame(0x82, bytes.fromhex("08021000")), "violation"),
        (frame(0x81, b"a text"), "text_message"),
        (frame(0x81, b"\xff\xfe"), "bad_frame"),
        (frame(0x83, b"a reserved opcode"), "bad_frame"),
        (frame(0xC2, b"a reserved bit"), "bad_frame"),
        (frame(0x80, b"a continuation of nothing"), "bad_frame"),
        (frame(0x82, b"", length=1 << 40), "too_large"),
        (frame(0x88, struct.pack("!H", 1000)), "peer_gone"),
    ],
)
async def test_garbage_ends_its_session_and_no_other(
    ingest: Ingest, hub: Hub, pki: Pki, sensor: Sensor, octets: bytes, outcome: str
) -> None:
    hub.register("isp_a", {n: {"channels": [202], "source": 7} for n in ("ns1", "ns2")})
    ingest.review()
    session = await idle(sensor)
    _reader, writer = await websocket_by_hand(hub, pki.client_context(pki.sensor("isp_a", "ns2")))
    writer.write(octets)
    await until(lambda: sum(ingest.outcomes("sessions_ended").values()) == 1)
    assert ingest.outcomes("sessions_ended") == {outcome: 1}
    assert not session.done()
    writer.close()
    session.cancel()


async def test_a_frame_over_the_limit_is_not_read_to_its_end(
    ingest: Ingest, hub: Hub, pki: Pki, held: Held
) -> None:
    """The length alone ends the session: none of the announced terabyte is waited for or kept."""
    _reader, writer = await websocket_by_hand(hub, pki.client_context(held))
    writer.write(frame(0x82, b"x" * 1000, length=1 << 40))
    await until(lambda: ingest.outcomes("sessions_ended") == {"too_large": 1})
    writer.close()


async def test_a_channel_that_is_not_the_sensor_s_ends_the_session(
    ingest: Ingest, sensor: Sensor, broker: Broker
) -> None:
    sensor.channel = 207
    await sensor.session()
    assert sensor.alerts == ["channel 207 is not registered for you, only 202"]
    await ingest.settled()
    assert ingest.outcomes("containers").keys() <= {"channel", "returned"}
    assert await broker.raw() == []


async def test_a_container_that_fits_no_message_ends_the_session(ingest: Ingest, hub: Hub, pki: Pki) -> None:
    hub.register("isp_a", {}, uploads=UPLOADS)
    ingest.review()
    async with upload(hub, pki) as websocket:
        await websocket.send_bytes(legacy_payload(bytes(MAX_MESSAGE + 1)))
        texts = [Message.FromString(frame.data).alert.message.decode() async for frame in websocket]
    assert texts[-1] == f"a container of {MAX_MESSAGE + 1} octets, over the limit of {MAX_MESSAGE}"
    await ingest.settled()
    assert ingest.outcomes("containers") == {"size": 1}
    assert ingest.outcomes("sessions_ended") == {"too_large": 1}


async def test_the_largest_container_fits(
    ingest: Ingest, sensor: Sensor, hub: Hub, pki: Pki, broker: Broker
) -> None:
    hub.register("isp_a", {"ns1": {"channels": [202], "source": 7}}, uploads=UPLOADS)
    ingest.review()
    sensor.containers = [os.urandom(MAX_PAYLOAD)]
    assert await sensor.session() == "everything acknowledged"
    largest = os.urandom(MAX_MESSAGE)
    async with upload(hub, pki) as websocket:
        await websocket.send_bytes(legacy_payload(largest))
        await until(lambda: ingest.outcomes("containers") == {"stored": 2})
    assert [data for _sequence, data in await stored(broker)] == [sensor.containers[0], largest]


async def test_requests_that_are_no_websocket_are_answered_and_counted(
    ingest: Ingest, hub: Hub, pki: Pki, held: Held
) -> None:
    async with aiohttp.ClientSession() as http:
        context = pki.client_context(held)
        base = f"https://localhost:{hub.port}"
        async with http.get(f"{base}/session/x", ssl=context) as answer:
            assert answer.status == 426
            assert answer.headers["Upgrade"] == "websocket"
        async with http.post(f"{base}/anything", ssl=context, data=b"x" * 1000) as answer:
            assert answer.status == 404
    reader, writer = await asyncio.open_connection("localhost", hub.port, ssl=context)
    writer.write(b"\x00\x01\x02 this is no HTTP\r\n\r\n")
    assert b"400" in (await reader.read()).splitlines()[0]
    writer.close()
    reader, writer = await asyncio.open_connection("localhost", hub.port)
    writer.write(b"SSH-2.0-nothing\r\n")
    await reader.read()
    writer.close()
    assert ingest.outcomes("connections") == {
        "not_websocket": 1,
        "not_found": 1,
        "not_http": 1,
        "tls_garbage": 1,
    }


async def test_an_accounting_record_that_is_none_is_a_violation(
    ingest: Ingest, hub: Hub, pki: Pki, held: Held
) -> None:
    message = Message(protocolVersion=[2], messageType=DATA_MESSAGE)
    message.payload.channel = 0
    message.payload.payloadType = ACCOUNTING_RECORD
    message.payload.data = json.dumps({"captured": "many"}).encode()
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{hub.url}/session/x", ssl=pki.client_context(held)) as websocket,
    ):
        await websocket.send_bytes(bytes.fromhex("080210012200"))
        await websocket.send_bytes(message.SerializeToString())
        await ingest.settled()
    assert ingest.outcomes("sessions_ended") == {"violation": 1}


async def test_an_upload_has_so_many_sessions_and_no_more(ingest: Ingest, hub: Hub, pki: Pki) -> None:
    hub.register("isp_a", {}, uploads=UPLOADS)
    ingest.review()
    async with AsyncExitStack() as stack:
        for _ in range(MAX_SESSIONS):
            await stack.enter_async_context(upload(hub, pki))
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stack.enter_async_context(upload(hub, pki))
        assert refused.value.status == 429
    await ingest.settled()
    async with upload(hub, pki) as websocket:
        assert (await websocket.receive(timeout=5)).type is aiohttp.WSMsgType.BINARY
    assert ingest.outcomes("connections") == {"accepted": MAX_SESSIONS + 1, "refused_sessions": 1}


async def test_a_message_of_version_1_is_read_to_what_can_be_stored(
    ingest: Ingest, hub: Hub, pki: Pki
) -> None:
    hub.register("isp_a", {}, uploads=UPLOADS)
    ingest.review()
    async with upload(hub, pki) as websocket:
        with suppress(ConnectionError):  # it is cut off while it still sends
            await websocket.send_bytes(legacy_payload(bytes(LARGEST_OF_UPLOAD)))
        await until(lambda: ingest.outcomes("sessions_ended") == {"too_large": 1})
    assert ingest.outcomes("containers") == {}


class Grumbler(Sensor):
    """A sensor that reports ever again."""

    def _on(self, event: Event, trampoline: Trampoline) -> None:
        super()._on(event, trampoline)
        if isinstance(event, Acknowledged):
            for _ in range(300):
                trampoline.alert(AlertLevel.WARNING, "something is not well")


async def test_a_peer_that_reports_without_end_does_not_fill_the_log(
    ingest: Ingest, hub: Hub, pki: Pki, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    grumbler = Grumbler(hub.url, pki.client_context(held), numbered(1))
    assert await grumbler.session() == "everything acknowledged"
    reports = [record for record in caplog.records if record.getMessage() == "the peer reported"]
    assert len(reports) == log.BURST


async def test_all_sessions_together_wait_within_a_budget(
    small_budget: None, ingest: Ingest, hub: Hub, pki: Pki, broker: Broker
) -> None:
    names = [f"ns{number}" for number in range(4)]
    hub.register("isp_a", {name: {"channels": [202], "source": n} for n, name in enumerate(names, start=1)})
    ingest.review()
    containers = [os.urandom(100_000) for _ in range(20)]
    sensors = [Sensor(hub.url, pki.client_context(pki.sensor("isp_a", name)), containers) for name in names]
    for sensor in sensors:
        sensor.limit = 1
    delivering = [asyncio.create_task(sensor.deliver()) for sensor in sensors]
    await until(lambda: all(sensor.acknowledged == 1 for sensor in sensors))
    broker.suspend()
    for sensor in sensors:
        sensor.limit = None
    await asyncio.sleep(1.0)
    # Each session may have let one container in before it saw that there is no room any more.
    assert 500_000 <= ingest.value("waiting_octets") <= 500_000 + len(sensors) * 100_000
    broker.resume()
    await asyncio.gather(*delivering)
    await ingest.settled()
    assert ingest.value("waiting_octets") == 0
    assert ingest.outcomes("containers") == {"stored": 80}
