"""One session with a sensor or an upload: the trampoline's hub end on a WebSocket, storing before
acknowledging."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from sie_core.trampoline import (
    CONFLICT,
    Accounting,
    AlertLevel,
    AlertReceived,
    Compression,
    Event,
    HelloReceived,
    Negotiated,
    PayloadReceived,
    PeerFinished,
    PeerShutdown,
    Side,
    Trampoline,
    Violation,
)
from sie_hub import log
from sie_hub.ingest.admission import Admitted
from sie_hub.ingest.budget import Budget
from sie_hub.ingest.ledger import Ledger
from sie_hub.ingest.metrics import HOPS, KEY_DIGITS, REPORTED, Metrics
from sie_hub.ingest.quota import Quotas
from sie_hub.ingest.store import Arrival, Fate, StreamWriter, TooManyStreams, Unstorable, UploadWriter
from sie_hub.nats_link import Link
from sie_hub.streams import MAX_MESSAGE, Source, stream_name

WAITING_OCTETS: Final = 4 << 20
"""Containers that wait to be stored, per session: eight of a sensor's largest. Beyond it nothing is read from
the socket, so that a slow disk slows the sensor down."""

RECORD_PAUSE: Final = 0.02
"""Seconds between two positions of a stream while more of its containers wait: a position is a write to disk
as a container is, and one says as much as several. A window of 32 allows 1,600 containers a second then."""

SEND_TIMEOUT: Final = 10.0
"""Seconds for a peer to take an acknowledgement of some 30 octets, or the answer to its ping."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that a peer has to answer the end of the WebSocket."""

CUT_TIMEOUT: Final = 3.0
"""Seconds between telling a peer why its session ends and cutting the connection. With one second for
noticing a change of the registry, a revoked sensor is off within five."""

_CODECS: Final = {Compression.NONE: "none", Compression.ZSTD: "zstd"}

_log = logging.getLogger(__name__)


class _Over(Exception):
    """The session has ended; ends its tasks."""


class Session:
    """One session, from the WebSocket's opening to its end.

    Three tasks share it: one takes messages in, one stores containers in order, one records positions and
    acknowledges. A fourth puts messages on the wire and keeps time.
    """

    def __init__(
        self,
        number: int,
        admitted: Admitted,
        websocket: web.WebSocketResponse,
        link: Link,
        metrics: Metrics,
        budget: Budget,
        ledger: Ledger,
        quotas: Quotas,
    ) -> None:
        self.number = number
        self.admitted = admitted
        self.over = asyncio.Event()
        self.outcome: str | None = None
        self._websocket = websocket
        self._link = link
        self._metrics = metrics
        self._ledger = ledger
        self._quotas = quotas
        self._trampoline = Trampoline(Side.HUB, {admitted.version}, now=time.monotonic())
        self._writer: StreamWriter | UploadWriter | None = None
        if admitted.version == 1:
            self._writer = UploadWriter(link, admitted.participant, admitted.name, admitted.source)
        self._stream = 0
        self._cut: Callable[[], None] | None = None
        self._cut_timer: asyncio.TimerHandle | None = None

        self._waiting: deque[tuple[Arrival, float]] = deque()  # not stored yet, the one in hand included
        self._waiting_octets = 0
        self._budget = budget
        self._received = 0  # the highest sequences that arrived, are in RAW, are acknowledged
        self._stored = 0
        self._acknowledged = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._unrecorded = asyncio.Event()
        self._wake = asyncio.Event()
        self._peer_finished = False
        self._alerts = log.Limited(_log, f"alerts of the peer of session {number}")

    async def run(self, after: "Session | None", cut: Callable[[], None]) -> None:
        """Serve the session to its end.

        `after` is an older session of the same identity, whose end is awaited before anything is read or
        written in its name. `cut` breaks the connection at once."""
        self._cut = cut
        reason = None
        try:
            if after is not None:
                await after.over.wait()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pace())
                tasks.create_task(self._take_in())
                tasks.create_task(self._store())
                tasks.create_task(self._acknowledge())
        except* _Over as over:
            reason = str(over.exceptions[0])
        finally:
            self._settle()
            log.event(
                _log,
                logging.INFO,
                "session ended",
                session=self.number,
                participant=self.admitted.participant,
                sensor=self.admitted.name,
                outcome=self.outcome,
                reason=self._trampoline.closed_reason or reason,
                position=self._stored or None,
            )

    def end(self, outcome: str, sentence: str) -> None:
        """Tell the peer why and close, within CUT_TIMEOUT whatever the peer does. May be called any time."""
        self.outcome = self.outcome or outcome
        self._trampoline.alert(AlertLevel.FATAL_ERROR, sentence)
        self._wake.set()
        if self._cut_timer is None and self._cut is not None:
            self._cut_timer = asyncio.get_running_loop().call_later(CUT_TIMEOUT, self._cut)

    def stop(self) -> None:
        """Ask the peer to stop sending; what has arrived is still stored and acknowledged."""
        self.outcome = self.outcome or "stopping"
        self._trampoline.shutdown()
        self._wake.set()

    # --- the four tasks ---------------------------------------------------------------------------------

    async def _pace(self) -> None:
        """Put on the wire what the trampoline has to say, and let it know the time."""
        while True:
            self._wake.clear()
            for message in self._trampoline.outgoing():
                await self._sent(self._websocket.send_bytes(message))
            if self._closed():
                if self._trampoline.finished:
                    self.outcome = self.outcome or "finished"
                await self._websocket.close(code=WSCloseCode.OK)
                raise _Over("closed")
            deadline = self._trampoline.deadline()
            try:
                async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                    await self._wake.wait()
            except TimeoutError:
                self._trampoline.tick(time.monotonic())
                if self._closed():
                    self.outcome = self.outcome or "silent"

    async def _take_in(self) -> None:
        """Read messages while there is room for what they bring."""
        while not self._closed():
            await self._take_in_next()
            if self._waiting_octets > WAITING_OCTETS or self._budget.exceeded:
                await self._wait_for_room()

    async def _take_in_next(self) -> None:
        """Read one message. In a method of its own, so that nothing holds its octets while the next one is
        awaited, which may be long."""
        message = await self._websocket.receive()
        if self._closed():
            return  # `_pace` is closing the connection in order
        if message.type is WSMsgType.PING:
            await self._sent(self._websocket.pong(message.data))
            return
        if message.type is WSMsgType.PONG:
            return
        if message.type is not WSMsgType.BINARY:
            await self._not_binary(message)
        for event in self._trampoline.receive(message.data, time.monotonic()):
            await self._on(event)
        self._wake.set()

    async def _sent(self, sending: Awaitable[None]) -> None:
        """Wait until there is room for what is sent. A peer that takes nothing is cut off: it would not take
        the end of the WebSocket either."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await sending
        except TimeoutError:
            self.outcome = self.outcome or "silent"
            if self._cut is not None:
                self._cut()
            raise _Over(f"the peer has taken nothing for {SEND_TIMEOUT:.0f} s") from None
        except ConnectionError:
            self.outcome = self.outcome or "peer_gone"
            raise _Over("the connection broke") from None

    async def _wait_for_room(self) -> None:
        """Leave the socket alone until there is room again: here, and in all sessions together."""
        self._trampoline.hold()
        while self._waiting_octets > WAITING_OCTETS:
            self._room.clear()
            await self._room.wait()
        await self._budget.room()
        self._trampoline.resume(time.monotonic())

    async def _store(self) -> None:
        """Store containers one after the other: each write is fenced by the one before."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            if not await self._store_next():
                return

    async def _store_next(self) -> bool:
        """Store the container that waits longest; returns whether the session goes on.

        In a method of its own, so that nothing holds its octets afterwards."""
        arrival, arrived_at = self._waiting[0]
        assert self._writer is not None
        try:
            fate = await self._writer.store(arrival)
        except Unstorable as failure:
            self.end("storage", str(failure))
            return False
        self._waiting.popleft()
        self._waiting_octets -= len(arrival.data)
        self._budget.give_back(len(arrival.data))
        self._room.set()
        self._count(fate.value, arrival)
        if fate is Fate.CONFLICT:
            self._alarm(f"container {arrival.sequence} arrived with another content than it has here")
            self.end("conflict", f"container {arrival.sequence} is stored here with another content")
            return False
        if fate is Fate.STORED:
            self._count_stored(arrival, time.monotonic() - arrived_at)
        self._stored = max(self._stored, arrival.sequence)
        self._unrecorded.set()
        return True

    async def _acknowledge(self) -> None:
        """Record positions and acknowledge them; several containers stored meanwhile become one position."""
        while True:
            await self._unrecorded.wait()
            self._unrecorded.clear()
            target = self._stored
            if isinstance(self._writer, StreamWriter) and target > self._acknowledged:
                try:
                    await self._writer.record(target)
                except Unstorable as failure:
                    self.end("storage", str(failure))
                    return
                self._acknowledged = target
                if not self._closed():
                    self._trampoline.send_ack(self._stream, target)
            self._finish_if_drained()
            self._wake.set()
            if self._waiting:
                await asyncio.sleep(RECORD_PAUSE)

    # --- events -----------------------------------------------------------------------------------------

    async def _not_binary(self, message: WSMessage) -> None:
        if message.type is WSMsgType.TEXT:
            self.outcome = self.outcome or "text_message"
            await self._websocket.close(code=WSCloseCode.UNSUPPORTED_DATA)
            raise _Over("a text message, where the protocol has binary ones alone")
        if message.type is WSMsgType.ERROR:
            too_large = getattr(message.data, "code", None) == WSCloseCode.MESSAGE_TOO_BIG
            self.outcome = self.outcome or ("too_large" if too_large else "bad_frame")
            raise _Over(f"not a WebSocket message: {message.data}")
        self.outcome = self.outcome or "peer_gone"
        raise _Over("the peer closed the connection")

    async def _on(self, event: Event) -> None:
        match event:
            case PayloadReceived():
                self._on_payload(event)
            case HelloReceived():
                await self._on_hello(event)
            case Accounting(counters):
                reported = {name: counters[name] for name in REPORTED if name in counters}
                for name, count in reported.items():
                    self._metrics.sensor_reported.labels(*self._labels, name).set(count)
                self._ledger.reported(*self._labels, reported, time.time())
            case AlertReceived(level, text, code):
                if code == CONFLICT and self.outcome != "conflict":
                    self._alarm(text)
                    self.outcome = self.outcome or "conflict"
                if level is AlertLevel.FATAL_ERROR:
                    self.outcome = self.outcome or "peer_reported"
                self._alerts.event(
                    logging.WARNING,
                    "the peer reported",
                    session=self.number,
                    alert=level.name.lower(),
                    text=text,
                )
            case Violation():
                self.outcome = self.outcome or "violation"
            case PeerFinished() | PeerShutdown():
                self._peer_finished = True
                self._unrecorded.set()
            case Negotiated():
                pass
            case _:
                raise AssertionError(f"an event of the sensor's side: {event}")

    async def _on_hello(self, hello: HelloReceived) -> None:
        source = Source(self.admitted.participant, self.admitted.name, stream_name(hello.stream))
        writer = StreamWriter(self._link, source, self.admitted.source)
        try:
            position = await writer.begin(self.admitted.channels)
        except TooManyStreams as refused:
            self.end("streams", str(refused))
            return
        except Unstorable as failure:
            self.end("storage", str(failure))
            return
        self._writer = writer
        self._stream = hello.stream
        self._received = self._stored = self._acknowledged = position
        log.event(
            _log,
            logging.INFO,
            "stream opened",
            session=self.number,
            participant=self.admitted.participant,
            sensor=self.admitted.name,
            stream=source.stream,
            position=position,
            next_sequence=hello.next_sequence,
            agent=hello.agent_version,
        )
        if self._closed():
            return
        if position >= hello.next_sequence:
            # The sensor learns it from the position and closes by itself, with a new stream for what it
            # holds.
            self._alarm(f"it will assign {hello.next_sequence} next, but {position} is stored already")
            self.outcome = self.outcome or "conflict"
        self._trampoline.send_ack(hello.stream, position, writer.digest)

    def _on_payload(self, payload: PayloadReceived) -> None:
        arrival = Arrival(
            payload.channel,
            payload.data,
            _CODECS[payload.compression],
            payload.sequence or 0,
            payload.digest.hex() if payload.digest is not None else "",
            payload.transactions,
        )
        self._metrics.received.inc()
        for hop, loss in zip(HOPS, (payload.link_loss, payload.path_loss), strict=True):
            if loss is not None:
                self._metrics.upload_lost_payloads.labels(*self._labels, hop).inc(loss.payloads)
                self._metrics.upload_lost_octets.labels(*self._labels, hop).inc(loss.octets)
                self._ledger.lost(*self._labels, hop, loss)
        size = len(payload.data)
        if payload.channel not in self.admitted.channels:
            allowed = ", ".join(map(str, sorted(self.admitted.channels)))
            self._count("channel", arrival)
            self.end("channel", f"channel {payload.channel} is not registered for you, only {allowed}")
        elif size > MAX_MESSAGE:
            self._count("size", arrival)
            self.end("too_large", f"a container of {size} octets, over the limit of {MAX_MESSAGE}")
        elif not self._quotas.allows(self._labels):
            self._count("quota", arrival)
            self.end("quota", f"more than {self._quotas.octets} octets within a day: send the rest later")
        else:
            self._metrics.gaps.inc(max(0, arrival.sequence - self._received - 1))
            self._received = max(self._received, arrival.sequence)
            self._waiting.append((arrival, time.monotonic()))
            self._waiting_octets += size
            self._budget.take(size)
            self._arrived.set()

    def _closed(self) -> bool:
        return self._trampoline.closed_reason is not None

    # --- accounts ---------------------------------------------------------------------------------------

    @property
    def _labels(self) -> tuple[str, str]:
        return self.admitted.participant, self.admitted.name

    def _alarm(self, text: str) -> None:
        self._metrics.conflicts.inc()
        participant, sensor = self._labels
        stream = stream_name(self._stream)
        log.event(
            _log,
            logging.ERROR,
            f"a sensor's state went back in time or was cloned: {text}",
            session=self.number,
            participant=participant,
            sensor=sensor,
            stream=stream,
        )

    def _count(self, outcome: str, arrival: Arrival) -> None:
        self._metrics.containers.labels(outcome).inc()
        self._metrics.transactions.labels(outcome).inc(arrival.transactions or 0)

    def _count_stored(self, arrival: Arrival, seconds: float) -> None:
        metrics = self._metrics
        self._quotas.spend(self._labels, len(arrival.data))
        metrics.octets.inc(len(arrival.data))
        metrics.store_seconds.observe(seconds)
        metrics.sensor_containers.labels(*self._labels).inc()
        metrics.sensor_transactions.labels(*self._labels).inc(arrival.transactions or 0)
        metrics.sensor_stored_at.labels(*self._labels).set_to_current_time()
        if self.admitted.key_sha256 is not None:
            key = self.admitted.key_sha256[:KEY_DIGITS]
            metrics.upload_key_used_at.labels(*self._labels, key).set_to_current_time()
            self._ledger.taken(*self._labels, len(arrival.data), time.time())

    def _finish_if_drained(self) -> None:
        if self._peer_finished and not self._waiting and self._stored == self._acknowledged:
            self._trampoline.finish()

    def _settle(self) -> None:
        """Account for what is left behind, and for the session itself."""
        if self._cut_timer is not None:
            self._cut_timer.cancel()
        for arrival, _arrived_at in self._waiting:
            self._count("lost" if self.admitted.version == 1 else "returned", arrival)
        self._waiting.clear()
        self._budget.give_back(self._waiting_octets)
        self.outcome = self.outcome or "failed"
        self._metrics.endings.labels(self.outcome).inc()
        self.over.set()
