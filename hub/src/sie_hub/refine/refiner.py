"""From RAW to SIE: one message of SIE for each window of RAW, each window exactly once.

A message of SIE names the range of RAW that it covers, both ends included; ranges follow one another
without a gap. So the last message of SIE says where to go on, whatever happened to the process that wrote
it, and `Nats-Expected-Last-Sequence` lets only the process that has seen it write the next one. A message
that names no range is none of refine's: it is passed over and counted."""

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from sie_hub import log
from sie_hub.follow import Followed, Follower
from sie_hub.nats_errors import Fenced, Unavailable
from sie_hub.nats_link import RETRY_WAIT, Link, StoredMessage, expect_last_of_stream
from sie_hub.probes import Note
from sie_hub.refine.metrics import Metrics
from sie_hub.refine.window import Output, Window
from sie_hub.streams import (
    HEADER_RAW_FIRST,
    HEADER_RAW_LAST,
    HEADER_RAW_MADE,
    HEADER_SOURCE,
    HEADER_WRITER,
    MAX_MESSAGE,
    PROBE,
    RAW,
    SIE,
    SIE_DEDUPLICATED,
    source_of_raw,
)
from sie_hub.unit import Unit, UnitFailed

IDLE: Final = 1.0  # seconds that one look for new containers may take
NOTE_TIMEOUT: Final = 10.0  # seconds that the notes of a window's probes may take
UNLIMITED: Final = 1 << 30  # containers in a window: as many as come

_log = logging.getLogger(__name__)


class Refiner:
    """Reads RAW in order, merges what it says, and writes SIE."""

    def __init__(
        self,
        unit: Unit,
        link: Link,
        window_seconds: float,
        metrics: Metrics,
        probe_zone: str | None = None,
    ) -> None:
        self._unit = unit
        self._link = link
        self._seconds = window_seconds
        self._metrics = metrics
        self._name = secrets.token_hex(8)
        self._probe_zone = probe_zone
        self._window = self._new_window()
        self._opened_at = 0.0
        self._first_stored_at = 0.0
        self._most = UNLIMITED
        self._written = 0  # the last sequence of SIE
        self._raw_made = ""
        self._rejected = log.Limited(_log, "containers rejected")

    async def run(self) -> None:
        """Refine until the unit is to stop. What is in the open window then is read again next time."""
        start = await self._unit.unless_stopped(self._resume())
        follower = Follower(self._link, RAW, start)
        self._unit.ready(f"refining from {start} of {RAW}")
        reconnects = self._link.reconnects
        while not self._unit.stopping.is_set():
            if self._link.reconnects != reconnects:
                reconnects = self._link.reconnects
                await self._unit.unless_stopped(self._link.persist(self._check_raw))
            for followed in await follower.fetch(timeout=self._patience()):
                await self._add(followed)
                if self._window.full or self._window.containers >= self._most:
                    again = await self._publish("size")
                    if again is not None:
                        await follower.seek(again)
                        break
            if self._window.containers and self._patience() <= 0:
                again = await self._publish("time")
                if again is not None:
                    await follower.seek(again)
            self._unit.progress()
        await follower.close()

    async def _resume(self) -> int:
        """The sequence of RAW to go on from: behind what SIE covers, or where RAW begins if SIE has
        nothing."""
        raw = await self._link.persist(lambda: self._link.state(RAW))
        self._raw_made = raw.made
        sie = await self._link.persist(lambda: self._link.state(SIE))
        self._written = sie.last
        message = await self._newest_own(sie.first, sie.last)
        covered = message.number(HEADER_RAW_LAST) if message is not None else None
        if message is None or covered is None:
            return raw.first
        if message.headers.get(HEADER_RAW_MADE) != raw.made:
            log.event(_log, logging.WARNING, f"{RAW} was made anew: refining it from its beginning")
            return raw.first
        return covered + 1

    async def _newest_own(self, first: int, last: int) -> StoredMessage | None:
        """The newest message of this part of SIE that names a range of RAW. What is passed over on the way is
        counted."""
        foreign = 0
        own = None
        for sequence in range(last, first - 1, -1):
            message = await self._link.persist(partial(self._link.message, SIE, sequence))
            if message is not None and _names_a_range(message):
                own = message
                break
            foreign += message is not None
        if foreign:
            self._metrics.foreign.inc(foreign)
            log.event(
                _log,
                logging.ERROR,
                f"{foreign} messages of {SIE} name no range of {RAW} and are passed over: who wrote them?",
                last=last,
            )
        return own

    async def _check_raw(self) -> None:
        """Raises UnitFailed when RAW is not the stream that this process has begun to read."""
        if (await self._link.state(RAW)).made != self._raw_made:
            raise UnitFailed(
                f"{RAW} was made anew under this process, which ends so that it begins anew, too"
            )

    async def _add(self, followed: Followed) -> None:
        message = followed.message
        if not self._window.containers:
            self._opened_at = time.monotonic()
            self._first_stored_at = message.time
        began = time.monotonic()
        # Off the loop, so that metrics and the watchdog go on; the interpreter is free while Rust works.
        fault = await asyncio.to_thread(
            self._window.add,
            message.sequence,
            message.data,
            followed.missed,
            source_of_raw(message.subject),
            message.time,
        )
        self._metrics.refine_seconds.observe(time.monotonic() - began)
        self._metrics.pending.set(followed.pending)
        if followed.missed:
            log.event(
                _log,
                logging.ERROR,
                f"{followed.missed} containers were gone from {RAW} before they were refined",
                before=message.sequence,
            )
        if fault is not None:
            self._rejected.event(
                logging.WARNING,
                "container rejected",
                sequence=message.sequence,
                source=f"{message.number(HEADER_SOURCE) or 0:08x}",
                reason=fault,
            )

    def _new_window(self) -> Window:
        return Window(probe_zone=self._probe_zone)

    def _patience(self) -> float:
        """Seconds for which to wait for more: until the window is over, and never long."""
        if not self._window.containers:
            return IDLE
        return min(IDLE, self._opened_at + self._seconds - time.monotonic())

    async def _publish(self, reason: str) -> int | None:
        """Close the window and publish it.

        Returns None, or the sequence of RAW to go back to: the records did not fit one message, and the next
        window will be made of half as many containers.
        """
        output = await asyncio.to_thread(self._window.close)
        self._window = self._new_window()
        too_large = len(output.data) > MAX_MESSAGE
        if too_large and output.containers > 1:
            self._most = output.containers // 2
            self._metrics.divided.inc()
            log.event(
                _log,
                logging.WARNING,
                f"records of {len(output.data)} octets do not fit a message of {MAX_MESSAGE}: refining again",
                first=output.first,
                containers=self._most,
            )
            return output.first
        if too_large:
            log.event(
                _log,
                logging.ERROR,
                f"container rejected: its records take {len(output.data)} octets, over {MAX_MESSAGE}",
                sequence=output.last,
            )
        probes_lost = 0 if too_large else await self._unit.unless_stopped(self._note(output.probes))
        began = time.monotonic()
        await self._unit.unless_stopped(self._write(b"" if too_large else output.data, output))
        self._most = min(2 * self._most, UNLIMITED)
        self._metrics.publish_seconds.observe(time.monotonic() - began)
        self._metrics.delay_seconds.observe(max(0.0, time.time() - self._first_stored_at))
        self._metrics.published(output, reason, too_large=too_large, probes_lost=probes_lost)
        return None

    async def _note(self, probes: Sequence[Note]) -> int:
        """Write down which probes are here, before it can be forgotten that they were; how many could not be.

        Twice does no harm: a note replaces its like. A probe can be made again, so nothing waits for it long.
        """
        written = 0
        try:
            async with asyncio.timeout(NOTE_TIMEOUT):
                for note in probes:
                    await self._link.persist(partial(self._link.publish, note.subject, note.as_bytes(), {}))
                    written += 1
        except TimeoutError:
            log.event(_log, logging.ERROR, f"{len(probes) - written} probes could not be noted in {PROBE}")
        return len(probes) - written

    async def _write(self, data: bytes, output: Output) -> None:
        """Write one message of SIE, exactly once, as long as it takes. Raises UnitFailed when fenced by a
        twin."""
        headers = {
            HEADER_RAW_FIRST: str(output.first),
            HEADER_RAW_LAST: str(output.last),
            HEADER_RAW_MADE: self._raw_made,
            HEADER_WRITER: self._name,
        }
        while True:
            await self._link.wait_up()
            try:
                self._written = await self._link.publish(
                    SIE_DEDUPLICATED, data, headers | expect_last_of_stream(self._written)
                )
            except (Fenced, Unavailable):
                await asyncio.sleep(RETRY_WAIT)
                if await self._settle(headers):
                    return
            else:
                return

    async def _settle(self, headers: dict[str, str]) -> bool:
        """See what has come of a write of unknown fate: whether the message with these headers is in SIE.

        Raises UnitFailed when SIE is not as this process has left it.
        """
        last = (await self._link.persist(lambda: self._link.state(SIE))).last
        if last < self._written:
            raise UnitFailed(
                f"{SIE} ends at {last}, but this process has written {self._written}: it was made anew"
            )
        newest = await self._newest_own(self._written + 1, last)
        if newest is not None and not _is_that(newest, headers):
            raise UnitFailed(
                f"another refine has written message {newest.sequence} of {SIE}; two at once would count "
                "everything twice, so this one ends"
            )
        self._written = last
        return newest is not None


def _names_a_range(message: StoredMessage) -> bool:
    first, last = message.number(HEADER_RAW_FIRST), message.number(HEADER_RAW_LAST)
    return first is not None and last is not None and first <= last and HEADER_RAW_MADE in message.headers


def _is_that(message: StoredMessage, headers: dict[str, str]) -> bool:
    return all(message.headers.get(name) == value for name, value in headers.items())
