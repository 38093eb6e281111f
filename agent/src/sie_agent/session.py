"""One session with a hub: the trampoline over one WebSocket connection, fed from the spool.

Four tasks share the session, all in the event loop: one takes messages in, one puts them out, one takes the
time, and one settles acknowledgements with the spool. What waits for the disk does so in a thread, so that a
slow disk slows neither heartbeats nor anything else in the loop. A hub that is slow to acknowledge fills the
window, and the rest waits in the spool.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from websockets.exceptions import ConnectionClosed

from sie_agent.errors import SpoolError
from sie_agent.refusal import Ended, Refused
from sie_agent.spool import Entry, Spool
from sie_core import __version__
from sie_core.trampoline import (
    Acknowledged,
    AlertLevel,
    AlertReceived,
    Compression,
    Event,
    Negotiated,
    OutboundPayload,
    PeerShutdown,
    Side,
    State,
    StreamConflict,
    Trampoline,
    Violation,
)

TICK: Final = 1.0
"""Seconds between looks at the clock.

Heartbeats are ten times rarer, and their deadlines do not need more.
"""

ACCOUNTING_INTERVAL: Final = 10.0
"""Seconds between accounting records: as often as heartbeats, some 2 KB each."""

ACKNOWLEDGEMENT_TIMEOUT: Final = 300.0
"""Seconds that a payload may stay unacknowledged before the session is given up for another, perhaps with
another hub. 16 MiB in flight pass in that time on any link above 16 MiB / 300 s = 450 kbit/s."""

READ_AHEAD_CONTAINERS: Final = 8
READ_AHEAD_OCTETS: Final = 2 << 20
"""What is read from the spool in one go where much is pending, as far as the window has room for it. Going to
a thread and back for each container cost a tenth of the time that sending it took."""

SETTLE_PAUSE: Final = 0.05
"""Seconds between two settlements with the spool, which wait for its disk: where acknowledgements come
faster, several are settled as one. What is not settled when the power fails is sent again, and the hub has
it."""

FLUSH_TIMEOUT: Final = 0.3
"""Seconds for the last messages of a session that is over."""

_log = logging.getLogger(__name__)


class Wire(Protocol):
    """What a session needs of a WebSocket connection."""

    async def send(self, message: bytes, /) -> None:
        """Send one binary message; returns when there is room for another."""

    async def recv(self) -> bytes | str:
        """The next message; raises ConnectionClosed."""


class Observer(Protocol):
    """Whom a session tells how it goes."""

    def opened(self, position: int) -> None:
        """The hub has named its position: payloads flow."""

    def sent(self, octets: int) -> None:
        """A container has been put on the wire."""

    def alerted(self, level: AlertLevel, text: str) -> None:
        """The hub says something to a person."""

    def progressed(self) -> None:
        """The session's loop has turned once more."""

    def accounts(self) -> Mapping[str, int]:
        """The counters for the next accounting record."""


class Session:
    """One connection's worth of the trampoline."""

    def __init__(
        self,
        wire: Wire,
        spool: Spool,
        observer: Observer,
        *,
        channel: int,
        window: int,
        window_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.conflict = False
        """Whether the hub has other containers of the stream than the spool made."""
        self._wire = wire
        self._spool = spool
        self._observer = observer
        self._channel = channel
        self._clock = clock
        self._trampoline = Trampoline(Side.SENSOR, {2}, now=clock(), window=window, window_bytes=window_bytes)
        self._cursor: int | None = (
            None  # the last sequence that the hub has or was sent; None before its position
        )
        self._acknowledged = 0
        self._read: deque[tuple[Entry, bytes | None]] = deque()  # up to the cursor, and not sent yet
        self._something_to_do = asyncio.Event()
        self._something_to_settle = asyncio.Event()
        self._settled = asyncio.Event()
        self._next_accounting = 0.0
        self._told_of_disk = False

    @property
    def in_flight(self) -> int:
        """Containers that are sent and not acknowledged."""
        return self._trampoline.in_flight

    def wake(self) -> None:
        """There may be something new to send. To be called in the event loop."""
        self._something_to_do.set()

    async def run(self) -> None:
        """Carry the session until it ends. Returns when it ended in order.

        Raises Refused, Ended, ConnectionClosed or OSError when it did not.
        """
        work = [
            asyncio.create_task(task)
            for task in (self._receive(), self._send(), self._watch_time(), self._settle())
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await self._settle_now()
            await self._flush()
        if not self._trampoline.finished:
            raise Ended(self._trampoline.closed_reason or "the hub closed the connection")

    async def finish(self, seconds: float) -> None:
        """Give what is pending up to `seconds` to be acknowledged, then tell the hub that no more comes.

        `run` then returns as soon as the hub has answered.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._trampoline.state is State.OPEN and self._spool.ledger.pending_containers:
                    self._settled.clear()
                    await self._settled.wait()
        self._send_accounts()
        self._trampoline.finish()
        self.wake()

    async def _receive(self) -> None:
        while self._trampoline.state is not State.CLOSED:
            message = await self._wire.recv()
            if isinstance(message, str):
                self._trampoline.alert(
                    AlertLevel.FATAL_ERROR, "a text message, where only binary ones are spoken"
                )
                raise Ended("the hub broke the protocol: a text message")
            for event in self._trampoline.receive(message, self._clock()):
                await self._handle(event)
            self._observer.progressed()
            self.wake()

    async def _handle(self, event: Event) -> None:
        match event:
            case Negotiated():
                self._trampoline.send_hello(self._spool.stream, self._spool.next_sequence, __version__)
            case Acknowledged(sequence=sequence, digest=digest):
                if self._cursor is None:
                    if digest is not None and not await asyncio.to_thread(
                        self._spool.may_have_made, sequence, digest
                    ):
                        self._trampoline.report_conflict(sequence)
                        self.conflict = True
                        raise Refused(self._trampoline.closed_reason)
                    self._cursor = sequence
                    self._observer.opened(sequence)
                    self._send_accounts()
                self._acknowledged = sequence
                self._something_to_settle.set()
            case StreamConflict():
                self.conflict = True
                raise Refused(self._trampoline.closed_reason)
            case AlertReceived(level=level, text=text):
                if level is AlertLevel.FATAL_ERROR:
                    raise Refused(text)
                self._observer.alerted(level, text)
            case Violation(reason=reason):
                raise Ended(reason)
            case PeerShutdown():
                _log.info("the hub asks to stop sending")

    async def _send(self) -> None:
        while True:
            self._something_to_do.clear()
            for message in self._trampoline.outgoing():
                await self._wire.send(message)
            if self._trampoline.state is State.CLOSED:
                return
            self._observer.progressed()
            if not await self._next_payload():
                await self._something_to_do.wait()

    async def _next_payload(self) -> bool:
        """Queue the next container, if there is one and the window has room for it."""
        if not self._may_send():
            return False
        if not self._read:
            entries = self._take_ahead()
            if not entries:
                return False
            self._read.extend(await asyncio.to_thread(self._read_all, entries))
            if not self._may_send():  # the session may have closed meanwhile
                return False
        entry, data = self._read.popleft()
        if data is not None:
            self._trampoline.send_payload(
                OutboundPayload(
                    self._channel,
                    data,
                    Compression.ZSTD,
                    self._spool.stream,
                    entry.sequence,
                    entry.transactions,
                ),
                self._clock(),
            )
            self._observer.sent(len(data))
        return True

    def _take_ahead(self) -> list[Entry]:
        # No more than may be in flight, since what is taken is spared when the spool is trimmed.
        room = self._trampoline.room
        most = min(room.payloads, READ_AHEAD_CONTAINERS)
        most_octets = min(room.octets, READ_AHEAD_OCTETS)
        entries: list[Entry] = []
        octets = 0
        while self._cursor is not None and len(entries) < most and octets < most_octets:
            entry = self._spool.take(self._cursor)
            if entry is None:
                break
            self._cursor = entry.sequence
            entries.append(entry)
            octets += entry.octets
        return entries

    def _read_all(self, entries: Sequence[Entry]) -> list[tuple[Entry, bytes | None]]:
        return [(entry, self._spool.read(entry)) for entry in entries]

    def _send_accounts(self) -> None:
        if self._trampoline.state is State.OPEN:
            self._trampoline.send_accounting(self._observer.accounts())
            self._next_accounting = self._clock() + ACCOUNTING_INTERVAL

    def _may_send(self) -> bool:
        return self._trampoline.can_send

    async def _watch_time(self) -> None:
        while True:
            now = self._clock()
            self._trampoline.tick(now)
            self._observer.progressed()
            if self._trampoline.state is State.CLOSED:
                return
            oldest = self._trampoline.oldest_in_flight
            if oldest is not None and now - oldest > ACKNOWLEDGEMENT_TIMEOUT:
                raise Ended(f"the hub has acknowledged nothing for {ACKNOWLEDGEMENT_TIMEOUT:.0f} s")
            if now >= self._next_accounting:
                self._send_accounts()
            self.wake()
            await asyncio.sleep(TICK)

    async def _settle(self) -> None:
        while True:
            await self._something_to_settle.wait()
            self._something_to_settle.clear()
            await self._settle_now()
            await asyncio.sleep(SETTLE_PAUSE)

    async def _settle_now(self) -> None:
        try:
            await asyncio.to_thread(self._spool.acknowledge, self._acknowledged)
            self._told_of_disk = False
        except SpoolError as error:
            # The hub has them, so nothing is lost: the next acknowledgement settles these too.
            if not self._told_of_disk:
                _log.error("%s", error)
            self._told_of_disk = True
        self._settled.set()

    async def _flush(self) -> None:
        """Put out what is queued still: the alert or the Finished that explains the end to the hub."""
        with suppress(TimeoutError, ConnectionClosed, OSError):
            async with asyncio.timeout(FLUSH_TIMEOUT):
                for message in self._trampoline.outgoing():
                    await self._wire.send(message)
