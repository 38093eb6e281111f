"""One session by files: the spool into the hub's drop, and the hub's position back into the spool.

It goes by the trampoline's rules. The position says where to begin, a window bounds what is under way, and
only what the hub has stored is acknowledged: a file in the drop is not.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from sie_agent.apart import apart
from sie_agent.drop import Position, file_name
from sie_agent.refusal import Ended, Refused
from sie_agent.session import ACCOUNTING_INTERVAL, ACKNOWLEDGEMENT_TIMEOUT, Observer
from sie_agent.spool import Entry, Spool

POLL: Final = 1.0
"""Seconds between two looks for the hub's position, which looks as often for files."""


class Remote(Protocol):
    """The drop as a session needs it: sie_agent.drop.Drop; every call may block."""

    def position(self, stream: int) -> Position:
        """What the hub has stored of the stream."""

    def names(self) -> frozenset[str]:
        """What waits to be taken in."""

    def put(self, name: str, data: bytes) -> None:
        """Put a container there."""

    def put_accounts(self, counters: Mapping[str, int]) -> None:
        """Say how things stand."""


class _UnderWay(NamedTuple):
    sequence: int
    octets: int
    since: float


class DropSession:
    """Carries the spool until `finish`, or until something fails."""

    def __init__(
        self,
        remote: Remote,
        spool: Spool,
        observer: Observer,
        *,
        window: int,
        window_bytes: int,
        poll: float = POLL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.conflict = False
        """Whether the hub has other containers of the stream than the spool made."""
        self._remote = remote
        self._spool = spool
        self._observer = observer
        self._window = window
        self._window_bytes = window_bytes
        self._poll = poll
        self._clock = clock
        self._stream = spool.stream
        self._cursor = 0
        self._present: frozenset[str] = frozenset()
        self._under_way: deque[_UnderWay] = deque()
        self._next_look = 0.0
        self._next_accounting = 0.0
        self._finishing = False
        self._something_to_do = asyncio.Event()
        self._idle = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Containers in the drop that the hub has not stored yet."""
        return len(self._under_way)

    def wake(self) -> None:
        """There may be something new to send. To be called in the event loop."""
        self._something_to_do.set()

    async def finish(self, seconds: float) -> None:
        """Put what is pending for up to `seconds`, then let `run` return."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        self._finishing = True
        self.wake()

    async def run(self) -> None:
        """Carry the session until it is finished. Raises what the drop raises, Refused and Ended."""
        await self._begin()
        while not self._finishing:
            self._something_to_do.clear()
            self._observer.progressed()
            now = self._clock()
            if now >= self._next_look:
                await self._look()
            if now >= self._next_accounting:
                self._next_accounting = now + ACCOUNTING_INTERVAL
                await apart(self._remote.put_accounts, self._observer.accounts())
            entry = self._next()
            if entry is not None:
                self._idle.clear()
                await self._put(entry)
                continue
            self._idle.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._next_look - self._clock())):
                    await self._something_to_do.wait()

    async def _begin(self) -> None:
        position = await self._position()
        self._cursor = position
        # What an earlier session has put there and the hub has not taken in yet is not put there again.
        self._present = await apart(self._remote.names)
        self._observer.opened(position)

    async def _position(self) -> int:
        """What the hub has stored of the stream. Raises Refused if it is not of this spool's making."""
        sequence, digest = await apart(self._remote.position, self._stream)
        if sequence >= self._spool.next_sequence:
            self.conflict = True
            raise Refused(
                f"the hub holds container {sequence} of stream {self._stream:016x}, of which this sensor has "
                f"made only {self._spool.next_sequence - 1}: its state is older than the hub's"
            )
        if digest is not None and not await asyncio.to_thread(self._spool.may_have_made, sequence, digest):
            self.conflict = True
            raise Refused(
                f"the hub holds another container {sequence} of stream {self._stream:016x} than this sensor:"
                " one machine is a copy of another"
            )
        return sequence

    async def _look(self) -> None:
        """Settle what the hub has stored."""
        self._next_look = self._clock() + self._poll
        position = await self._position()
        await asyncio.to_thread(self._spool.acknowledge, position)
        while self._under_way and self._under_way[0].sequence <= position:
            self._under_way.popleft()
        if self._under_way and self._clock() - self._under_way[0].since > ACKNOWLEDGEMENT_TIMEOUT:
            raise Ended(f"the hub has taken nothing out of its drop for {ACKNOWLEDGEMENT_TIMEOUT:.0f} s")

    def _next(self) -> Entry | None:
        """The next container, if there is one and the window has room for it."""
        octets = sum(container.octets for container in self._under_way)
        if len(self._under_way) >= self._window or octets >= self._window_bytes:
            return None
        return self._spool.take(self._cursor)

    async def _put(self, entry: Entry) -> None:
        self._cursor = entry.sequence
        data = await asyncio.to_thread(self._spool.read, entry)
        if data is None:
            return
        name = file_name(self._stream, entry.sequence, entry.transactions)
        if name not in self._present:
            await apart(self._remote.put, name, data)
            self._observer.sent(len(data))
        self._under_way.append(_UnderWay(entry.sequence, len(data), self._clock()))
