"""From packets to the spool: one thread records, another writes, and neither ever waits for the hub.

All sources share one recorder and take turns in one thread; what arrives meanwhile waits in the kernel.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sie_agent.errors import SpoolError
from sie_agent.sources import Source
from sie_agent.spool import Spool
from sie_core._native import Container, Recorder

TURN: Final = 0.2
"""Seconds in which every source has had its turn: what a stop waits for, and what a container may be late by.
"""

SHARE_OF_SEVERAL: Final = 0.02
"""Seconds of one source's turn where another waits meanwhile. What a resolver brings waits in the 200 KiB of
a socket's buffer: at 20,000 messages of 300 octets a second, 120 KB come in this time. Fifty turns a second
cost less than a hundredth of a core."""

QUEUE_OCTETS: Final = 16 << 20
"""Sealed containers that wait for the disk. At the 5 MB a minute of an extremely busy resolver this bridges a
disk that hangs for three minutes, and it bounds the memory."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lost:
    """Transactions that were recorded and did not reach the spool, by where."""

    queue: int = 0
    """The disk was so slow that the queue before it was full."""
    disk: int = 0
    """The disk did not take them."""

    @property
    def total(self) -> int:
        """Wherever."""
        return self.queue + self.disk


class SpoolWriter:
    """Puts sealed containers into the spool, in a thread of its own. `offer` never waits."""

    def __init__(self, spool: Spool, queue_octets: int = QUEUE_OCTETS) -> None:
        self.failure: BaseException | None = None
        """What ended the thread, if it was not `close`: a fault of this program."""
        self._spool = spool
        self._limit = queue_octets
        self._queue: deque[Container] = deque()
        self._octets = 0
        self._changed = threading.Condition()
        self._closing = False
        self._lost_to_queue = 0
        self._lost_to_disk = 0
        self._lost_now = 0  # since the disk last took a container; 0 while all is well
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    @property
    def lost(self) -> Lost:
        """What did not reach the spool, since the start."""
        with self._changed:
            return Lost(self._lost_to_queue, self._lost_to_disk)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, container: Container) -> None:
        """Hand a container over, or count it as lost if too many wait already."""
        with self._changed:
            if self._octets + len(container.data) > self._limit:
                first = self._lost_to_queue == 0
                self._lost_to_queue += container.transactions
            else:
                first = False
                self._queue.append(container)
                self._octets += len(container.data)
                self._changed.notify()
        if first:
            _log.error(
                "the spool's disk is so slow that %d octets wait for it: what is recorded is lost until it "
                "catches up",
                self._limit,
            )

    def close(self) -> None:
        """Write what waits, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (container := self._next()) is not None:
                self._write(container)
        except BaseException as failure:
            self.failure = failure

    def _next(self) -> Container | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return None
            container = self._queue.popleft()
            self._octets -= len(container.data)
            return container

    def _write(self, container: Container) -> None:
        try:
            self._spool.append(container.data, container.transactions)
        except SpoolError as error:
            with self._changed:
                self._lost_to_disk += container.transactions
            if not self._lost_now:
                _log.error("%s; until then what is recorded is lost", error)
            self._lost_now += container.transactions
            return
        if self._lost_now:
            _log.warning("the spool takes containers again; %d transactions were lost", self._lost_now)
            self._lost_now = 0


class Capture:
    """Pumps the sources in a thread of its own until told to stop."""

    def __init__(
        self,
        recorder: Recorder,
        sources: Sequence[Source],
        deliver: Callable[[Container], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progressed_at = clock()
        """When the thread last came round, on `clock`."""
        self.failure: BaseException | None = None
        """What ended the thread, if it was not `stop`: a fault of this program."""
        self._recorder = recorder
        self._sources = sources
        self._deliver = deliver
        self._clock = clock
        self._stopping = threading.Event()
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._counters: Mapping[str, int] = MappingProxyType(recorder.counters())
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    @property
    def counters(self) -> Mapping[str, int]:
        """The recorder's counters, as of the last turn."""
        return self._counters

    def between_turns(self, do: Callable[[], None]) -> Future[None]:
        """Have `do` called in the capture thread between two turns, while no source is pumped.

        The future is done when it has returned; one that is asked for after `stop` never is.
        """
        future: Future[None] = Future()

        def call() -> None:
            try:
                do()
                future.set_result(None)
            except Exception as wrong:
                future.set_exception(wrong)

        self._asked.put(call)
        return future

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after delivering everything that was recorded, waiting queries included."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                while not self._asked.empty():
                    self._asked.get()()
                self._turn()
            self._finish()
        except BaseException as failure:
            self.failure = failure

    def _turn(self) -> None:
        share = TURN if len(self._sources) == 1 else SHARE_OF_SEVERAL
        for source in self._sources:
            for container in source.pump(self._recorder, share):
                self._deliver(container)
            self._counters = MappingProxyType(self._recorder.counters())
            self.progressed_at = self._clock()

    def _finish(self) -> None:
        for source in self._sources:
            for container in source.drain(self._recorder):
                self._deliver(container)
        for container in self._recorder.finish():
            self._deliver(container)
        self._counters = MappingProxyType(self._recorder.counters())
        for source in self._sources:
            source.close()
