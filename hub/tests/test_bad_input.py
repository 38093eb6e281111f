"""Peers that send what they should not, or take their time: one table, against ingest as a program.

Each row is a peer that has every right to connect, or none, and does one bad thing, while a sensor of another
participant delivers. Asserted for each: what the peer is told; everything that is counted for it, that is one
outcome of its connection or session and one of each of its containers; that the neighbour's containers are
acknowledged in the same session as before; and how much memory ingest has taken at most meanwhile.
"""

import asyncio
import hashlib
import os
import re
import ssl
import struct
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sie_core import limits
from sie_core._native import decode
from sie_core.sielink_pb2 import (
    COMPRESSION_ZSTD,
    DATA_MESSAGE,
    HEARTBEAT,
    NMSG_CONTAINER,
    TOPOLOGY_MESSAGE,
    Message,
)
from sie_core.trampoline import Compression
from sie_hub.registry import sha256_hex
from sie_hub.streams import HEADER_SOURCE, MAX_MESSAGE

from .broker import Broker
from .conftest import Pki
from .hub import Hub
from .sample import record
from .sensor import Sensor, numbered

MORE_MEMORY = 3 * MAX_MESSAGE + (8 << 20)
"""What one bad peer may cost ingest, beyond what it had at rest: a container of the largest size as it is
read, put together and decoded, and 8 MiB for buffers of sockets and TLS (32 MiB)."""

BOMB = 1 << 30
"""What the zip bomb would inflate to: 64 times what a container may, in a few tens of KiB."""

REFINE_MORE_MEMORY = 2 * limits.MAX_INFLATED
"""What the bomb may cost refine: as much as a container may inflate to, once more while the buffer grows."""

STREAM = 0x1122334455667788
API_KEY = "an-api-key-of-the-tests-with-plenty-of-entropy"
BINARY, TEXT, CLOSE, PING = 0x82, 0x81, 0x88, 0x89


# --- the hub, and a neighbour -----------------------------------------------------------------------------


class Place:
    """A hub whose ingest is a program in a hurry, and the certificates to connect to it."""

    def __init__(self, directory: Path) -> None:
        self.pki = Pki(directory / "pki")
        self.broker = Broker(directory / "nats")
        self.broker.start()
        asyncio.run(self.broker.make_streams())
        self.hub = Hub(directory / "hub", self.pki, self.broker, program="hub.tests.hurried")
        self.hub.register("isp_a", {"ns1": {"channels": [202], "source": 7}})
        self.hub.register(
            "isp_b",
            {"ns1": {"channels": [202], "source": 8}},
            uploads={"legacy": {"channels": [203], "source": 9, "key_sha256": [sha256_hex(API_KEY)]}},
        )
        self.shown = {
            who: self.pki.sensor(*who.split("/")) for who in ("isp_a/ns1", "isp_b/ns1", "isp_c/ns1")
        }
        self.neighbour = Sensor(self.hub.url, self.pki.client_context(self.shown["isp_a/ns1"]))
        self.hub.start("ingest")

    def close(self) -> None:
        """End everything."""
        self.hub.stop_all()
        self.broker.kill()

    def counted(self, unit: str = "ingest") -> Counter[str]:
        """Every outcome so far, as `counter outcome`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.hub.metrics[unit]}/metrics") as answer:
            text = answer.read().decode()
        return Counter(
            {
                f"{family.name.removeprefix(f'sie_hub_{unit}_')} {sample.labels['outcome']}": int(
                    sample.value
                )
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if family.name.removeprefix(f"sie_hub_{unit}_") in COUNTERS and sample.name.endswith("_total")
            }
        )

    def memory(self, unit: str = "ingest") -> int:
        """The most octets of memory that a unit has had resident since `forget_memory`."""
        status = Path(f"/proc/{self.hub.pid(unit)}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10

    def forget_memory(self, unit: str = "ingest") -> None:
        """Let the most be what there is now (proc(5), clear_refs)."""
        Path(f"/proc/{self.hub.pid(unit)}/clear_refs").write_text("5")


COUNTERS = ("connections", "sessions_ended", "containers")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("place"))
    yield place
    place.close()


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for what is in another process."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # a metric of another process, not an event
            await asyncio.sleep(0.02)


# --- a bad peer -------------------------------------------------------------------------------------------


def frame(first: int, data: bytes, *, length: int | None = None) -> bytes:
    """A WebSocket frame as a client masks it, with a mask of zeros; possibly of a length that is a lie."""
    length = len(data) if length is None else length
    head = (
        struct.pack("!BB", first, 0x80 | length) if length < 126 else struct.pack("!BBQ", first, 0xFF, length)
    )
    return head + bytes(4) + data


def said(kind: int, version: int = 2) -> Message:
    return Message(protocolVersion=[version], messageType=kind)  # type: ignore[arg-type]


def greeting(interval: int = 60_000, version: int = 2) -> list[Message]:
    """A configuration, and a heartbeat that announces an interval in milliseconds."""
    configuration, beat = said(TOPOLOGY_MESSAGE, version), said(HEARTBEAT, version)
    configuration.topology.SetInParent()
    beat.heartbeat = interval
    return [configuration, beat]


def hello(next_sequence: int = 1000, stream: int = STREAM) -> Message:
    message = said(HEARTBEAT)
    message.hello.stream, message.hello.next_sequence = stream, next_sequence
    return message


def container(
    sequence: int,
    data: bytes = b"a container",
    *,
    channel: int = 202,
    stream: int = STREAM,
    zstd: bool = False,
) -> Message:
    message = said(DATA_MESSAGE)
    message.payload.channel, message.payload.payloadType = channel, NMSG_CONTAINER
    message.payload.data, message.payload.digest = data, hashlib.sha256(data).digest()
    message.payload.stream, message.payload.sequence, message.payload.transactions = stream, sequence, 1
    if zstd:
        message.payload.compressionType = COMPRESSION_ZSTD
    return message


def legacy(data: bytes) -> Message:
    message = said(DATA_MESSAGE, 1)
    message.payload.channel, message.payload.payloadType, message.payload.data = 203, NMSG_CONTAINER, data
    return message


class Peer:
    """A connection whose octets the test writes itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.acknowledged: int | None = None

    async def upgrade(self, key: str | None = None) -> str | None:
        """Open a WebSocket. Returns None, or the status and the sentence of a refusal."""
        header = "" if key is None else f"X-API-Key: {key}\r\n"
        self.writer.write(
            "GET /session/x HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"{header}\r\n".encode()
        )
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status = head.split()[1]
        return None if status == "101" else f"{status} {(await self.reader.read()).decode().strip()}"

    async def say(self, *messages: Message) -> None:
        """Messages, each in one frame. An end of the connection meanwhile is found by `told`."""
        for message in messages:
            await self.put(frame(BINARY, message.SerializeToString()))

    async def put(self, octets: bytes) -> None:
        """Octets."""
        self.writer.write(octets)
        try:
            await self.writer.drain()
        except ConnectionError:
            return

    async def greet(self, next_sequence: int = 1000) -> None:
        """Open a stream, and wait for its position."""
        await self.say(*greeting(), hello(next_sequence))
        while self.acknowledged is None:
            assert await self._hear() is None

    async def deliver(self, message: Message) -> None:
        """A container, and wait until it is acknowledged."""
        await self.say(message)
        while (self.acknowledged or 0) < message.payload.sequence:
            assert await self._hear() is None

    async def told(self) -> str:
        """What the hub says last: an alert's text, or the code of the WebSocket's end, or nothing."""
        last = ""
        try:
            async with asyncio.timeout(20):
                while True:
                    last = await self._hear() or last
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return last

    async def _hear(self) -> str | None:
        first, length = await self.reader.readexactly(2)
        if length == 126:
            length = int.from_bytes(await self.reader.readexactly(2), "big")
        octets = await self.reader.readexactly(length)
        if first == CLOSE:
            await self.put(frame(CLOSE, octets))
            code = int.from_bytes(octets[:2], "big")
            return None if code == 1000 else f"closed {code}: {octets[2:].decode()}"
        if first != BINARY:
            return None
        message = Message.FromString(octets)
        for ack in message.ack:
            self.acknowledged = ack.sequence
        return message.alert.message.decode() if message.HasField("alert") else None


async def broken_off(writer: asyncio.StreamWriter) -> None:
    """End a connection without a word."""
    writer.transport.abort()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


@asynccontextmanager
async def connected(place: Place, who: str | None = "isp_b/ns1") -> AsyncIterator[Peer]:
    """A connection over TLS, of somebody with a certificate or of nobody."""
    context = place.pki.client_context(place.shown[who] if who is not None else None)
    reader, writer = await asyncio.open_connection("localhost", place.hub.port, ssl=context)
    try:
        yield Peer(reader, writer)
    finally:
        await broken_off(writer)


@asynccontextmanager
async def in_session(place: Place, next_sequence: int = 1000) -> AsyncIterator[Peer]:
    """A session of version 2 with a stream that is open."""
    async with connected(place) as peer:
        assert await peer.upgrade() is None
        await peer.greet(next_sequence)
        yield peer


# --- oversized --------------------------------------------------------------------------------------------


async def announces_a_terabyte(place: Place) -> str:
    async with in_session(place) as peer:
        await peer.put(frame(BINARY, b"x" * 1000, length=1 << 40))
        return await peer.told()


async def sends_more_than_a_message_holds(place: Place) -> str:
    async with in_session(place) as peer:
        await peer.say(container(1, os.urandom(limits.MAX_DATA_MESSAGE)))
        return await peer.told()


async def grows_a_message_piece_by_piece(place: Place) -> str:
    async with in_session(place) as peer:
        telling = asyncio.create_task(peer.told())
        piece = os.urandom(1 << 18)
        await peer.put(frame(BINARY & 0x7F, piece))
        while not telling.done():
            await peer.put(frame(0, piece))
            await asyncio.wait({telling}, timeout=0.01)
        return telling.result()


async def sends_more_than_a_payload_holds(place: Place) -> str:
    async with in_session(place) as peer:
        await peer.say(container(1, os.urandom(limits.MAX_PAYLOAD + 1)))
        return await peer.told()


async def says_much_before_it_is_known(place: Place) -> str:
    async with connected(place) as peer:
        assert await peer.upgrade() is None
        long = said(TOPOLOGY_MESSAGE)
        long.topology.SetInParent()
        await peer.put(frame(BINARY, long.SerializeToString() + b"\x7a\x80\x80\x08" + bytes(1 << 17)))
        return await peer.told()


async def uploads_more_than_the_stream_holds(place: Place) -> str:
    async with connected(place, None) as peer:
        assert await peer.upgrade(API_KEY) is None
        await peer.say(*greeting(version=1), legacy(os.urandom(MAX_MESSAGE + 1)))
        return await peer.told()


# --- truncated --------------------------------------------------------------------------------------------


async def sends_half_a_message(place: Place) -> str:
    async with in_session(place) as peer:
        octets = container(1, b"x" * 500).SerializeToString()
        await peer.put(frame(BINARY, octets[: len(octets) // 2]))
        return await peer.told()


async def sends_half_a_container(place: Place) -> str:
    async with in_session(place) as peer:
        cut = container(1, b"x" * 500)
        cut.payload.data = cut.payload.data[:250]
        await peer.say(cut)
        return await peer.told()


async def leaves_within_a_frame(place: Place) -> str:
    async with in_session(place) as peer:
        await peer.put(frame(BINARY, container(1, b"x" * 500).SerializeToString())[:300])
        return ""


# --- interleaved ------------------------------------------------------------------------------------------


async def begins_a_message_within_another(place: Place) -> str:
    async with in_session(place) as peer:
        await peer.put(frame(BINARY & 0x7F, b"the beginning of one"))
        await peer.say(container(1))
        return await peer.told()


async def sends_two_streams_in_a_session(place: Place) -> str:
    async with in_session(place) as peer:
        await peer.deliver(container(1))
        await peer.say(container(2, stream=STREAM + 1))
        return await peer.told()


async def sends_out_of_order(place: Place) -> str:
    async with in_session(place) as peer:
        await peer.deliver(container(502))
        await peer.say(container(501))
        return await peer.told()


# --- replayed ---------------------------------------------------------------------------------------------


async def says_a_container_twice(place: Place) -> str:
    async with in_session(place) as peer:
        await peer.deliver(container(510))
        await peer.say(container(510))
        return await peer.told()


async def says_again_what_is_stored(place: Place) -> str:
    async with in_session(place) as peer:
        assert peer.acknowledged is not None
        await peer.say(container(peer.acknowledged))
        return await peer.told()


async def goes_back_in_time(place: Place) -> str:
    async with in_session(place, next_sequence=2) as peer:
        return f"position {peer.acknowledged}"


async def is_cloned(place: Place) -> str:
    """Two machines with one identity and one state: the second one's next container has a number that the
    first one's has already."""
    async with in_session(place) as first:
        assert first.acknowledged is not None
        taken = first.acknowledged + 1
        await first.deliver(container(taken, b"the first one's"))
        async with in_session(place, next_sequence=taken) as second:
            assert second.acknowledged == taken
            return await first.told()


# --- where it does not belong -----------------------------------------------------------------------------


async def sends_to_another_channel(place: Place) -> str:
    async with in_session(place) as peer:
        await peer.say(container(600, channel=204))
        return await peer.told()


async def is_of_no_participant(place: Place) -> str:
    async with connected(place, "isp_c/ns1") as peer:
        return await peer.upgrade() or ""


async def names_another_participant(place: Place) -> str:
    """The path, the stream's number and the sequences are the neighbour's; the certificate is its own."""
    async with in_session(place, next_sequence=700) as peer:
        assert place.neighbour.stream == STREAM
        await peer.deliver(container(601, b"of isp_b"))
    (mine,) = [message for message in await place.broker.raw() if message.data == b"of isp_b"]
    return f"stored under {mine.headers[HEADER_SOURCE]}"


# --- slow -------------------------------------------------------------------------------------------------


async def dribbles_its_handshake(place: Place) -> str:
    reader, writer = await asyncio.open_connection("localhost", place.hub.port)
    client_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    try:
        return await dribble(reader, writer, client_hello)
    finally:
        await broken_off(writer)


async def dribbles_its_request(place: Place) -> str:
    async with connected(place) as peer:
        return await dribble(peer.reader, peer.writer, b"GET /session/x HTTP/1.1\r\nHost: h")


async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, octets: bytes) -> str:
    """An octet at a time until the hub has enough of it. Returns what it said."""
    reading = asyncio.create_task(reader.read())
    for octet in octets * 1000:
        writer.write(bytes([octet]))
        done, _ = await asyncio.wait({reading}, timeout=0.2)
        if done:
            break
    try:
        return (await reading).decode()
    except (ConnectionError, ssl.SSLError):
        return ""


async def opens_and_says_nothing(place: Place) -> str:
    async with connected(place) as peer:
        assert await peer.upgrade() is None
        return await peer.told()


async def never_says_hello(place: Place) -> str:
    async with connected(place) as peer:
        assert await peer.upgrade() is None
        await peer.say(*greeting())
        return await peer.told()


async def dribbles_a_frame(place: Place) -> str:
    async with connected(place) as peer:
        assert await peer.upgrade() is None
        await peer.say(*greeting(interval=500), hello())
        telling = asyncio.create_task(peer.told())
        await peer.put(frame(BINARY, b"", length=limits.MAX_PAYLOAD))
        while not telling.done():
            await peer.put(b"x")
            await asyncio.wait({telling}, timeout=0.1)
        return telling.result()


async def never_reads(place: Place) -> str:
    """Asks for answers and takes none, until there is no room for more."""
    async with in_session(place) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        pings = frame(PING, bytes(125)) * 1000
        before = place.counted()
        ended = asyncio.create_task(until(lambda: (place.counted() - before)["sessions_ended silent"] == 1))
        while not ended.done():
            writing = asyncio.create_task(peer.put(pings))
            await asyncio.wait({writing, ended}, return_when=asyncio.FIRST_COMPLETED)
            writing.cancel()
        await ended
        return ""


# --- the table --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A bad peer: what it does, what it is told (a pattern), and everything that is counted for it."""

    does: Callable[[Place], Awaitable[str]]
    told: str
    counted: tuple[str, ...]


def ended(outcome: str, *containers: str) -> tuple[str, ...]:
    """A session's outcome, and those of its containers."""
    return (f"sessions_ended {outcome}", *(f"containers {container}" for container in containers))


OVERSIZED = [
    Row(announces_a_terabyte, "closed 1009", ended("too_large")),
    Row(sends_more_than_a_message_holds, "closed 1009", ended("too_large")),
    Row(grows_a_message_piece_by_piece, "closed 1009", ended("too_large")),
    Row(sends_more_than_a_payload_holds, "payload 1 of 4194305 octets, not in", ended("violation")),
    Row(says_much_before_it_is_known, "a message of 131082 octets, over 65536", ended("violation")),
    Row(uploads_more_than_the_stream_holds, "of 8384513 octets, over the limit", ended("too_large", "size")),
]
TRUNCATED = [
    Row(sends_half_a_message, "octets that is no sielink message", ended("violation")),
    Row(sends_half_a_container, "the digest of payload 1 does not match its data", ended("violation")),
    Row(leaves_within_a_frame, "", ended("peer_gone")),
]
INTERLEAVED = [
    Row(begins_a_message_within_another, "closed 1002", ended("bad_frame")),
    Row(
        sends_two_streams_in_a_session, "of stream 1122334455667789, the hello", ended("violation", "stored")
    ),
    Row(sends_out_of_order, "payload 501 after 502", ended("violation", "stored")),
]
REPLAYED = [
    Row(says_a_container_twice, "payload 510 after 510", ended("violation", "stored")),
    Row(says_again_what_is_stored, "payload 510 after 510", ended("violation")),
    Row(goes_back_in_time, "position 510", ended("conflict")),
    Row(
        is_cloned,
        "another session of this sensor was opened",
        (*ended("superseded", "stored"), *ended("conflict")),
    ),
]
MISPLACED = [
    Row(
        sends_to_another_channel,
        "channel 204 is not registered for you, only 202",
        ended("channel", "channel"),
    ),
    Row(
        is_of_no_participant, "403 isp_c/ns1 is not in the registry", ("connections refused_unknown_sensor",)
    ),
    Row(names_another_participant, "stored under 8", ended("peer_gone", "stored")),
]
SLOW = [
    Row(dribbles_its_handshake, "", ("connections tls_timeout",)),
    Row(dribbles_its_request, "", ("connections idle",)),
    Row(opens_and_says_nothing, "too slow: closing", ended("silent")),
    Row(never_says_hello, "too slow: closing", ended("silent")),
    Row(dribbles_a_frame, "silent for too long", ended("silent")),
    Row(never_reads, "", ended("silent")),
]
TABLE = OVERSIZED + TRUNCATED + INTERLEAVED + REPLAYED + MISPLACED + SLOW


@asynccontextmanager
async def delivering(place: Place) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The neighbour in a session of its own; what is yielded lets it deliver more and waits for it."""
    sensor = place.neighbour
    session = asyncio.create_task(sensor.session(until_acknowledged=1 << 60))

    async def more() -> None:
        sensor.containers += numbered(5)
        await until(lambda: sensor.acknowledged == len(sensor.containers) or session.done(), seconds=5)
        assert not session.done(), session.result()

    try:
        yield more
    finally:
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.does.__name__)
async def test_a_bad_peer_is_refused_with_a_reason_and_nobody_else_notices(row: Row, place: Place) -> None:
    await until(lambda: place.hub.running("ingest") and "taking containers" in place.hub.log("ingest"))
    async with delivering(place) as more:
        await more()
        delivered = len(place.neighbour.containers)
        place.forget_memory()
        rest, before = place.memory(), place.counted()

        told = await row.does(place)

        assert re.search(row.told, told), told
        await until(lambda: not Counter(row.counted) - (place.counted() - before))
        await more()
        counted = place.counted() - before
        del counted["connections accepted"]
        counted["containers stored"] -= len(place.neighbour.containers) - delivered
        assert +counted == Counter(row.counted)
        assert place.memory() - rest < MORE_MEMORY


# --- zip bombs --------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A zstd frame (RFC 8878) that does not say its size: the head of a container, then blocks of one octet,
    repeated 128 Ki times."""
    block = 1 << 17
    head = b"NMSG\x00\x02" + BOMB.to_bytes(4, "big")
    octets = bytes.fromhex("28b52ffd") + b"\x00\x38"  # no size, no checksum; a window of 128 KiB
    octets += (len(head) << 3).to_bytes(3, "little") + head
    octets += ((block << 3 | 1 << 1).to_bytes(3, "little") + b"\x00") * (BOMB // block)
    return octets + b"\x01\x00\x00"


@pytest.fixture
def quiet_place(tmp_path: Path) -> Iterator[Place]:
    """A hub to which nobody has sent anything yet, with refine."""
    place = Place(tmp_path)
    place.hub.start("refine")
    yield place
    place.close()


async def test_a_zip_bomb_is_stored_unopened_and_rejected_where_containers_are_opened(
    quiet_place: Place,
) -> None:
    """Ingest opens nothing, so it costs no more there than it is long; refine opens it as far as it may."""
    place, hub = quiet_place, quiet_place.hub
    await until(lambda: "taking containers" in hub.log("ingest") and "refining from" in hub.log("refine"))
    sample = record(hub.directory, 200)
    neighbour = Sensor(hub.url, place.neighbour.context, sample.containers, compression=Compression.ZSTD)
    for unit in ("ingest", "refine"):
        place.forget_memory(unit)
    rest = {unit: place.memory(unit) for unit in ("ingest", "refine")}
    async with in_session(place) as peer:
        await peer.deliver(container(1, bomb(), zstd=True))
        assert await neighbour.session() == "everything acknowledged"
        await until(lambda: place.counted("refine").total() == len(sample.containers) + 1)
        await peer.deliver(container(2))  # its session goes on: whoever passes a bomb on may not know it
    assert place.counted()["containers stored"] == len(sample.containers) + 2
    assert place.counted("refine")["containers refined"] == len(sample.containers)
    assert f'source=00000008 reason="inflates beyond the limit of {limits.MAX_INFLATED} ' in hub.log("refine")
    assert place.memory("ingest") - rest["ingest"] < MORE_MEMORY
    assert place.memory("refine") - rest["refine"] < REFINE_MORE_MEMORY


# --- another's name ---------------------------------------------------------------------------------------


async def test_who_a_container_says_that_it_comes_from_is_not_believed(quiet_place: Place) -> None:
    """NMSG payloads name source, operator and group. RAW has the registry's source beside them, SIE none."""
    place, hub = quiet_place, quiet_place.hub
    await until(lambda: "taking containers" in hub.log("ingest") and "refining from" in hub.log("refine"))
    forged = record(hub.directory, 50, source=7, operator=2, group=3)
    context = place.pki.client_context(place.shown["isp_b/ns1"])
    sensor = Sensor(hub.url, context, forged.containers, compression=Compression.ZSTD)
    assert await sensor.session() == "everything acknowledged"
    await until(lambda: place.counted("refine")["containers refined"] == len(forged.containers))
    raw, sie = await place.broker.raw(), await place.broker.sie()
    assert [said_source(message.data) for message in raw] == [{(7, 2, 3)}] * len(raw)
    assert {message.headers[HEADER_SOURCE] for message in raw} == {"8"}
    assert {source for message in sie for source in said_source(message.data)} == {(0, 0, 0)}
    assert not any(HEADER_SOURCE in message.headers for message in sie)


def said_source(container: bytes) -> set[tuple[int, int, int]]:
    return {(payload["source"], payload["operator"], payload["group"]) for payload in decode(container)}
