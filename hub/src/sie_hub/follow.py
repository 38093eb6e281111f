"""Reading a stream in its own order from a given sequence on, with nothing skipped unnoticed."""

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import Final

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from sie_hub import log
from sie_hub.nats_link import RETRY_WAIT, Link, StoredMessage

TRUSTED_FOR: Final = (
    30  # empty answers in a row after which a consumer is made anew, in case it is a dead one
)
FORGOTTEN_AFTER: Final = 60.0  # seconds after which nats-server drops a consumer that nobody asks
ANSWER_TIMEOUT: Final = 5.0  # seconds beyond its own timeout that a request may take before it is given up
BATCH: Final = 16  # messages asked for at once: at most 16 x 8 MiB = 128 MiB in memory

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Followed:
    """The next message of a stream, how many before it had vanished unread, and how many come after it."""

    message: StoredMessage
    missed: int
    pending: int


class Follower:
    """Reads the stream `stream` from sequence `start` on, over restarts of nats-server.

    It keeps the only cursor itself (`next`); the consumer in nats-server is a throw-away. When a message
    arrives that is not the next one, the consumer is made anew at the cursor: what was only lost on the way
    comes then, and what is missing even so is gone from the stream, which is reported with the message after
    it.
    """

    def __init__(self, link: Link, stream: str, start: int) -> None:
        self.next = start
        self._link = link
        self._stream = stream
        self._pull: JetStreamContext.PullSubscription | None = None
        self._fresh = False  # whether the consumer begins at the cursor, so that a hole means a loss
        self._empty = 0
        self._reconnects = link.reconnects

    async def fetch(self, most: int = BATCH, timeout: float = 1.0) -> list[Followed]:
        """The next messages, in order: none if none comes in time, or while nats-server is away."""
        try:
            async with asyncio.timeout(timeout):
                await self._link.wait_up()
        except TimeoutError:
            return []
        try:
            async with asyncio.timeout(timeout + ANSWER_TIMEOUT) as answer:
                pull = await self._consumer()
                messages = await pull.fetch(most, timeout=timeout)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            _heed_cancellation()
            # The library says in three ways that nothing came in time.
            quiet = (
                isinstance(error, (TimeoutError, nats.js.errors.FetchTimeoutError)) and not answer.expired()
            )
            await self._nothing_came(None if quiet else type(error).__name__)
            return []
        self._empty = 0
        followed: list[Followed] = []
        for message in messages:
            sequence = message.metadata.sequence.stream
            if sequence < self.next:
                continue
            if sequence > self.next and not self._fresh:
                await self._forget("a message is missing")
                break
            at = message.metadata.timestamp.timestamp()
            stored = StoredMessage(sequence, message.data, message.headers or {}, at, message.subject)
            followed.append(Followed(stored, sequence - self.next, message.metadata.num_pending))
            self.next = sequence + 1
            self._fresh = False
        return followed

    async def seek(self, sequence: int) -> None:
        """Go on from another sequence."""
        await self._forget(None)
        self.next = sequence

    async def close(self) -> None:
        """Stop reading."""
        await self._forget(None)

    async def _nothing_came(self, fault: str | None) -> None:
        """After an empty answer, or a fault instead of one: decide whether the consumer is still trusted."""
        self._empty += 1
        if fault is not None:
            await self._forget(fault)
            await asyncio.sleep(RETRY_WAIT)
        elif self._empty >= TRUSTED_FOR:
            await self._forget(None)

    async def _consumer(self) -> JetStreamContext.PullSubscription:
        if self._pull is not None and self._reconnects == self._link.reconnects:
            return self._pull
        await self._forget(None)
        self._reconnects = self._link.reconnects
        name = secrets.token_hex(8)
        jetstream = self._link.jetstream
        await jetstream.add_consumer(
            self._stream,
            ConsumerConfig(
                name=name,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self.next,
                ack_policy=AckPolicy.NONE,
                inactive_threshold=FORGOTTEN_AFTER,
                mem_storage=True,
            ),
        )
        self._pull = await jetstream.pull_subscribe_bind(stream=self._stream, consumer=name)
        self._fresh = True
        return self._pull

    async def _forget(self, why: str | None) -> None:
        pull, self._pull = self._pull, None
        self._empty = 0
        if pull is not None and why is not None:
            log.event(_log, logging.INFO, "reading anew", stream=self._stream, sequence=self.next, why=why)
        if pull is not None and self._link.connected:
            try:
                await pull.unsubscribe()
            except nats.errors.Error as error:
                log.event(_log, logging.INFO, "subscription already gone", why=type(error).__name__)


def _heed_cancellation() -> None:
    """Raise CancelledError if this task has been cancelled: nats-py turns that into errors of its own."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
