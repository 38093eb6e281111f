"""From the SIE stream into the store, message by message, for as long as the unit runs."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from sie_core._native import FormatError, dedupe_records
from sie_hub import log
from sie_hub.follow import Followed, Follower
from sie_hub.nats_link import Link
from sie_hub.serve.errors import StoreError
from sie_hub.serve.metrics import Metrics
from sie_hub.serve.writer import Writer
from sie_hub.streams import SIE
from sie_hub.unit import Unit

BATCH: Final = 4
"""Messages asked for at once: at most 4 x 8 MiB wait here while one is being written."""

FIRST_RETRY: Final = 0.5
LAST_RETRY: Final = 30.0
"""Seconds between attempts at what the database refused, doubling: a full disk is looked at twice a
minute."""

EXPIRE_INTERVAL: Final = 3600.0
"""Seconds between looks for weeks that are over retention."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


class StreamReader:
    """Takes the SIE stream into the store, from the store's own position on."""

    def __init__(self, unit: Unit, link: Link, writer: Writer, metrics: Metrics) -> None:
        self._unit = unit
        self._link = link
        self._writer = writer
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")

    async def run(self) -> None:
        """Read until the unit is to stop. What has not been written then is read again next time."""
        try:
            while not self._unit.stopping.is_set():
                await self._follow()
        finally:
            await asyncio.to_thread(self._thread.shutdown)

    async def _follow(self) -> None:
        """Read until nats-server has been away: the stream may be another one when it is back."""
        await self._unit.unless_stopped(self._link.wait_up())
        reconnects = self._link.reconnects
        stream = (await self._unit.unless_stopped(self._link.persist(lambda: self._link.state(SIE)))).made
        position = await self._in_store(lambda: self._writer.position(stream))
        self._metrics.position.set(position)
        log.event(_log, logging.INFO, f"reading {SIE}", made=stream, sequence=position + 1)
        follower = Follower(self._link, SIE, position + 1)
        expire_at = 0.0
        while not self._unit.stopping.is_set():
            if time.monotonic() >= expire_at:
                await self._expire()
                expire_at = time.monotonic() + EXPIRE_INTERVAL
            batch = await follower.fetch(BATCH)
            if self._link.reconnects != reconnects:
                break
            for followed in batch:
                await self._take(stream, followed)
            self._unit.progress()
        await follower.close()

    async def _take(self, stream: str, followed: Followed) -> None:
        message = followed.message
        if followed.missed:
            self._metrics.lost(followed.missed)
            log.event(
                _log,
                logging.ERROR,
                f"{followed.missed} messages were gone from {SIE} before they were read",
                before=message.sequence,
            )
        began = time.monotonic()
        records, fault = await asyncio.to_thread(_records, message.data)
        admitted = await self._in_store(
            lambda: self._writer.write(stream, message.sequence, records, int(time.time()))
        )
        if fault is not None:
            log.event(_log, logging.ERROR, "message rejected", sequence=message.sequence, reason=fault)
        self._metrics.taken(message, admitted, followed.pending, rejected=fault is not None)
        self._metrics.write_seconds.observe(time.monotonic() - began)

    async def _expire(self) -> None:
        dropped = await self._in_store(lambda: self._writer.expire(int(time.time())))
        self._metrics.trimmed(dropped)

    async def _in_store(self, work: Callable[[], T]) -> T:
        """Do something in the writer's thread, and again while the database fails in it. Raises Stopped."""
        return await self._unit.unless_stopped(self._until_done(work))

    async def _until_done(self, work: Callable[[], T]) -> T:
        wait = FIRST_RETRY
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
            except StoreError as error:
                self._metrics.store_failures.labels("writing").inc()
                log.event(_log, logging.ERROR, "the store cannot be written", again_in=wait, problem=error)
            await asyncio.sleep(wait)
            wait = min(2 * wait, LAST_RETRY)


def _records(data: bytes) -> tuple[list[tuple[Any, ...]], str | None]:
    """A message's records, or none and why it cannot be read. A window without records is an empty
    message."""
    if not data:
        return [], None
    try:
        return list(dedupe_records(data)), None
    except FormatError as error:
        return [], str(error)
