"""The listening ports' TLS, over real sockets: who gets in, and what is said about those who do not."""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from sie_core.errors import IdentityRefused, Refusal
from sie_core.identity import check_peer
from sie_core.settings import ConfigError
from sie_hub import connections, log, tls

from .conftest import Pki

LOOPBACK = "127.0.0.1"
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Port:
    """A listening site whose one page says who the client is."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.counted: Counter[str] = Counter()
        self.port = 0
        self.site: tls.TlsSite
        self.failed = asyncio.Event()

    def count(self, reason: str) -> None:
        self.counted[reason] += 1
        self.failed.set()

    async def failure(self) -> None:
        await asyncio.wait_for(self.failed.wait(), 10)

    async def say_who(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        shown = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            peer = check_peer(
                shown, authorities=[self.pki.ca], exchange=self.pki.exchange, now=datetime.now(UTC)
            )
        except IdentityRefused as refused:
            return web.Response(status=403, text=f"{refused.reason}: {refused}")
        return web.Response(text=f"{peer.participant}/{peer.sensor}")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what only polling can see."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def port(pki: Pki) -> AsyncIterator[Port]:
    made = Port(pki)
    server = pki.server()
    context = tls.server_context(server.certificate, server.key, client_authorities=pki.ca_held.certificate)
    application = web.Application(middlewares=[connections.noting_requests])
    application.router.add_get("/", made.say_who)
    runner = web.AppRunner(application)
    await runner.setup()
    site = tls.TlsSite(runner, LOOPBACK, 0, context, made.count)
    await site.start()
    made.port = site.bound_port
    made.site = site
    yield made
    await runner.cleanup()


async def get(port: Port, context: ssl.SSLContext) -> bytes:
    """Send the request with nothing awaited in between, and read to the end."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port.port, ssl=context)
    try:
        writer.write(REQUEST)
        return await reader.read()
    finally:
        writer.close()


async def test_a_sensor_of_this_exchange_gets_in(port: Port, pki: Pki) -> None:
    answer = await get(port, pki.client_context(pki.sensor()))
    assert answer.endswith(b"isp_a/ns1")
    assert port.counted == Counter()


async def test_without_a_certificate_the_handshake_holds_and_the_application_refuses(
    port: Port, pki: Pki
) -> None:
    answer = await get(port, pki.client_context())
    assert b" 403 " in answer
    assert Refusal.MISSING.encode() in answer


async def test_a_certificate_of_another_ca_is_logged_with_its_reason_and_the_client_sees_the_alert(
    port: Port, pki: Pki, other_pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sie_hub.tls"), pytest.raises(ssl.SSLError) as seen:
        await get(port, pki.client_context(other_pki.sensor()))
    assert seen.value.reason == "TLSV1_ALERT_UNKNOWN_CA"
    await port.failure()
    assert port.counted == Counter(tls_other_authority=1)
    [line] = caplog.messages
    assert "127.0.0.1:" in line
    assert "another CA" in line


@pytest.mark.parametrize("early", [b"", REQUEST], ids=["waiting", "talking"])
async def test_the_alert_reaches_a_client_that_is_already_talking(
    port: Port, pki: Pki, other_pki: Pki, early: bytes
) -> None:
    """A TLS 1.3 client may send before the server has looked at its certificate; a close that discards unread
    octets would then reset the connection and could take the alert with it."""

    def talk() -> str:
        context = pki.client_context(other_pki.sensor())
        with (
            socket.create_connection((LOOPBACK, port.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            try:
                for _ in range(3 if early else 0):
                    client.sendall(early)
                client.recv(1)
            except ssl.SSLError as error:
                return error.reason
        return "no alert"

    assert await asyncio.to_thread(talk) == "TLSV1_ALERT_UNKNOWN_CA"


async def test_an_expired_certificate_passes_tls_and_is_refused_above_it_with_a_sentence(
    port: Port, pki: Pki
) -> None:
    expired = pki.sensor(at=datetime.now(UTC) - timedelta(days=10), days=7)
    answer = await get(port, pki.client_context(expired))
    assert b" 403 " in answer
    assert Refusal.EXPIRED.encode() in answer
    assert b"expired at" in answer
    assert port.counted == Counter()


async def test_the_hubs_own_certificate_is_no_clients(port: Port, pki: Pki) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        await get(port, pki.client_context(pki.server("another")))
    await port.failure()
    assert port.counted == Counter(tls_wrong_usage=1)


async def test_a_sensors_certificate_cannot_pose_as_the_hub(pki: Pki) -> None:
    """A client that trusts the exchange's CA alone still refuses a server that shows a sensor's
    certificate."""
    sensor = pki.sensor()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sensor.certificate, sensor.key)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), LOOPBACK, 0, ssl=context)
    number = server.sockets[0].getsockname()[1]
    client = pki.client_context()
    client.check_hostname = False
    async with server:
        with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
            await asyncio.open_connection(LOOPBACK, number, ssl=client)


async def raw(port: Port, octets: bytes) -> None:
    reader, writer = await asyncio.open_connection(LOOPBACK, port.port)
    writer.write(octets)
    if octets:
        await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (REQUEST, "plain_http"),
        (b"\x00" * 4000, "garbage"),
        (bytes(range(256)) * 40, "garbage"),
        (b"SSH-2.0-scanner\r\n", "garbage"),
        (b"", "closed"),
    ],
    ids=["plain HTTP", "zeros", "every octet", "ssh", "nothing"],
)
async def test_what_is_no_tls_is_closed_and_counted(
    port: Port, octets: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sie_hub.tls"):
        await asyncio.wait_for(raw(port, octets), 10)
        await port.failure()
    assert port.counted == Counter({f"tls_{reason}": 1})
    assert len(caplog.messages) == 1


async def test_tls_1_2_is_refused(port: Port, pki: Pki) -> None:
    context = pki.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        await get(port, context)
    await port.failure()
    assert port.counted == Counter(tls_old_protocol=1)


async def test_a_client_that_does_not_trust_us_is_counted_too(
    port: Port, other_pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    def distrust() -> None:
        context = other_pki.client_context()
        with (
            socket.create_connection((LOOPBACK, port.port), timeout=10) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(plain, server_hostname="localhost")

    with caplog.at_level(logging.WARNING, "sie_hub.tls"):
        await asyncio.to_thread(distrust)
        await port.failure()
    assert port.counted == Counter(tls_refused_by_peer=1)
    assert "unknown ca" in caplog.messages[0]


async def test_a_client_that_never_finishes_its_handshake_is_closed(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT", 0.1)
    reader, writer = await asyncio.open_connection(LOOPBACK, port.port)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    await port.failure()
    assert port.counted == Counter(tls_timeout=1)


async def test_the_log_is_bounded_and_the_count_is_not(
    port: Port, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BURST", 3)
    monkeypatch.setattr(log, "PERIOD", 0.1)
    strangers = tls._Strangers(port.count)
    with caplog.at_level(logging.WARNING, "sie_hub.tls"):
        for _ in range(10):
            strangers.failed(tls.HandshakeFailure("garbage", "192.0.2.1:1", "no"))
        assert len(caplog.messages) == 3
        await until(lambda: len(caplog.messages) == 4)
        strangers.failed(tls.HandshakeFailure("garbage", "192.0.2.1:1", "once more"))
    assert port.counted == Counter(tls_garbage=11)
    assert caplog.messages[3].startswith("7 more TLS handshakes failed")
    assert caplog.messages[4].endswith("once more")


async def test_many_at_once_each_get_their_own_answer(port: Port, pki: Pki, other_pki: Pki) -> None:
    good = pki.client_context(pki.sensor())
    bad = pki.client_context(other_pki.sensor())

    async def refused() -> str:
        with pytest.raises(ssl.SSLError) as seen:
            await get(port, bad)
        return str(seen.value.reason)

    wanted: list[Awaitable[bytes | str]] = []
    for _ in range(10):
        wanted += [get(port, good), refused()]
    answers = await asyncio.gather(*wanted)
    assert all(isinstance(answer, bytes) and answer.endswith(b"isp_a/ns1") for answer in answers[::2])
    assert set(answers[1::2]) == {"TLSV1_ALERT_UNKNOWN_CA"}
    assert port.counted == Counter(tls_other_authority=10)


async def silent(port: Port, pki: Pki) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose handshake is done and that asks nothing."""
    return await asyncio.open_connection(LOOPBACK, port.port, ssl=pki.client_context())


@pytest.mark.parametrize("begun", [b"", b"GET / HT"], ids=["nothing", "half a line"])
async def test_a_connection_that_brings_no_request_in_time_is_closed_and_counted(
    port: Port, pki: Pki, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connections, "IDLE_TIMEOUT", 0.2)
    reader, writer = await silent(port, pki)
    writer.write(begun)
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert port.counted == Counter(idle=1)


async def test_a_connection_that_has_brought_a_request_is_not_idle(
    port: Port, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_TIMEOUT", 0.2)
    reader, writer = await silent(port, pki)
    for _ in range(2):
        writer.write(REQUEST.replace(b"close", b"keep-alive"))
        await asyncio.wait_for(reader.readuntil(b"certificate"), 10)
        await asyncio.sleep(0.3)  # longer than it may be idle before its first request
    writer.close()
    assert port.counted == Counter()


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [("MAX_CONNECTIONS", "crowded"), ("MAX_CONNECTIONS_OF_ADDRESS", "crowded_address")],
)
async def test_there_is_room_for_so_many_connections_and_for_another_when_one_has_left(
    port: Port, pki: Pki, monkeypatch: pytest.MonkeyPatch, limit: str, outcome: str
) -> None:
    monkeypatch.setattr(connections, limit, 3)
    held = [await silent(port, pki) for _ in range(3)]
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await get(port, pki.client_context())
    assert port.counted == Counter({outcome: 1})
    for _reader, writer in held:
        writer.close()
        await writer.wait_closed()
    places = port.site._strangers._places
    await until(lambda: not places._taken)
    assert b" 403 " in await get(port, pki.client_context())


async def test_failed_handshakes_give_their_places_back(
    port: Port, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LINGER", 0.05)
    for _ in range(5):
        await raw(port, b"SSH-2.0-scanner\r\n")
    await until(lambda: port.counted.total() == 5)
    places = port.site._strangers._places
    await until(lambda: not places._taken)
    assert port.counted == Counter(tls_garbage=5)


@pytest.mark.parametrize(
    ("address", "neighbour", "together"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_whose_connections_are_counted_together(address: str, neighbour: str, together: bool) -> None:
    places = connections.Places()
    taken = [places.take(address) for _ in range(connections.MAX_CONNECTIONS_OF_ADDRESS)]
    assert all(isinstance(place, connections.Place) for place in taken)
    assert (places.take(neighbour) == "crowded_address") is together
    [place, *_] = taken
    assert isinstance(place, connections.Place)
    place.leave()
    place.leave()
    assert isinstance(places.take(address), connections.Place)
    assert places.take(address) == "crowded_address"


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.unlink(), lambda path: path.write_text("no PEM")],
    ids=["missing", "no PEM"],
)
@pytest.mark.parametrize("which", ["certificate", "key", "authorities"])
def test_a_file_that_cannot_be_used_is_named(pki: Pki, spoil: Spoil, which: str) -> None:
    server = pki.server()
    files = {"certificate": server.certificate, "key": server.key, "authorities": pki.ca_held.certificate}
    spoil(files[which])
    with pytest.raises(ConfigError) as raised:
        tls.server_context(server.certificate, server.key, client_authorities=files["authorities"])
    assert str(files[which]) in raised.value.problems[0]
