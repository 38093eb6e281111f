"""The one way in which the hub's units talk to nats-server.

A `Link` outlives the server: it connects again for as long as the unit runs, and nothing is buffered while
it is down, because a message that is sent late would come after its own repetition. Every failure of a
request is one of two of `sie_hub.nats_errors`: `Unavailable`, where nobody knows whether the server has acted
on it, and `Fenced`, where it surely has not, because another writer was there before.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import Header

from sie_core.settings import Config
from sie_hub import log
from sie_hub.config import credential, read_secret
from sie_hub.nats_config import inbox_prefix
from sie_hub.nats_errors import Unavailable, refusal
from sie_hub.publisher import Publisher

REQUEST_TIMEOUT: Final = 5.0  # seconds: some 20 times the slowest write of 1 MiB measured with full syncing
RECONNECT_WAIT: Final = 0.25  # seconds between two attempts: the server itself is back within one or two
RETRY_WAIT: Final = 0.1  # seconds before a request is repeated on a link that is up
SERVER_PING: Final = 5  # seconds between pings of a silent server; three unanswered ones and it is gone

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message of a stream: its sequence in the stream, its data, its headers, when it was stored, and its
    subject where it was read in order."""

    sequence: int
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    time: float = 0.0  # Unix seconds
    subject: str = ""

    def number(self, header: str) -> int | None:
        """A header's value as a decimal number, or None when it is missing or none."""
        text = self.headers.get(header, "")
        return int(text) if text.isascii() and text.isdecimal() else None


@dataclass(frozen=True, slots=True)
class StreamRange:
    """The first sequence that a stream still has and the last it has given out; empty when last < first.

    `made` is when the stream was made, as ISO 8601 text: one that is made anew counts from 1 again.
    """

    first: int
    last: int
    made: str


class Link:
    """A connection to nats-server as one of its users.

    `on_lost` is called once, with a sentence, if the connection is closed for good, which happens to a user
    that nats-server does not know any more.
    """

    def __init__(self, url: str, user: str, password: str, on_lost: Callable[[str], None]) -> None:
        self.user = user
        self.reconnects = 0
        self._url = url
        self._password = password
        self._on_lost = on_lost
        self._client = Client()
        self._publisher = Publisher(self._client, REQUEST_TIMEOUT)
        self._up = asyncio.Event()
        self._asking: set[asyncio.Future[Any]] = set()
        self._closing = False
        self._complaint: str | None = None

    @property
    def jetstream(self) -> JetStreamContext:
        """The library's own view, for what this class does not offer."""
        return self._client.jetstream(timeout=REQUEST_TIMEOUT)

    @property
    def client(self) -> Client:
        """The library's connection."""
        return self._client

    @property
    def connected(self) -> bool:
        """Whether requests have a chance now."""
        return self._up.is_set()

    @property
    def under_way(self) -> int:
        """Publications that nats-server has not answered."""
        return self._publisher.under_way

    async def open(self) -> None:
        """Connect, waiting for the server as long as it takes."""
        await self._client.connect(
            self._url,
            name=f"sie-hub {self.user}",
            user=self.user,
            password=self._password,
            inbox_prefix=inbox_prefix(self.user),
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]  # annotated int, any number works
            ping_interval=SERVER_PING,
            pending_size=0,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
        )
        await self._publisher.start()
        self._mark_up()
        log.event(_log, logging.INFO, "connected to nats-server", url=self._url, user=self.user)

    async def close(self) -> None:
        """Leave. Requests that are under way fail with `Unavailable`."""
        self._closing = True
        self._mark_down()
        await self._client.close()

    async def wait_up(self) -> None:
        """Return when the link is up: at once, or after the next reconnection."""
        await self._up.wait()

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> int:
        """Publish to a stream and wait until it is on disk. Returns its sequence in the stream.

        Raises `Fenced` or `Unavailable`.
        """
        return await self._publisher.publish(subject, data, headers)

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None:
        """The last message of a subject, or None when there is none. Raises `Unavailable`."""
        try:
            found = await self._ask(self.jetstream.get_last_msg(stream, subject, direct=True))
        except nats.js.errors.NotFoundError:
            return None
        return StoredMessage(found.seq or 0, found.data or b"", found.headers or {})

    async def message(self, stream: str, sequence: int) -> StoredMessage | None:
        """A message by its sequence, or None when the stream has it no more. Raises `Unavailable`."""
        try:
            found = await self._ask(self.jetstream.get_msg(stream, sequence, direct=True))
        except nats.js.errors.NotFoundError:
            return None
        return StoredMessage(sequence, found.data or b"", found.headers or {})

    async def state(self, stream: str) -> StreamRange:
        """The range of a stream. Raises `Unavailable`."""
        info = await self._ask(self.jetstream.stream_info(stream))
        made = info.created.isoformat() if info.created is not None else ""
        return StreamRange(max(1, info.state.first_seq), info.state.last_seq, made)

    async def subjects(self, stream: str, pattern: str) -> dict[str, int]:
        """A stream's subjects that fit a pattern, with their numbers of messages. Raises `Unavailable`."""
        info = await self._ask(self.jetstream.stream_info(stream, subjects_filter=pattern))
        return dict(info.state.subjects or {})

    async def purge(self, stream: str, pattern: str) -> None:
        """Remove every message of a stream whose subject fits a pattern. Raises `Unavailable`."""
        await self._ask(self.jetstream.purge_stream(stream, subject=pattern))

    async def persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeat an attempt that changes nothing by being repeated until it is not `Unavailable`."""
        while True:
            await self.wait_up()
            try:
                return await attempt()
            except Unavailable:
                await asyncio.sleep(RETRY_WAIT)

    async def _ask(self, request: Coroutine[Any, Any, T]) -> T:
        """Await a request of the library, but no longer than the connection lives."""
        asking = asyncio.ensure_future(request)
        self._asking.add(asking)
        try:
            await asyncio.wait({asking})
            if asking.cancelled():
                raise Unavailable("the connection to nats-server was lost while a request was under way")
            return asking.result()
        except nats.js.errors.NotFoundError:
            raise
        except nats.js.errors.APIError as error:
            raise refusal({"description": error.description, "err_code": error.err_code}) from None
        except (TimeoutError, nats.errors.Error, OSError, json.JSONDecodeError) as error:
            raise Unavailable(f"nats-server did not answer: {type(error).__name__}") from None
        finally:
            self._asking.discard(asking)
            asking.cancel()

    def _mark_up(self) -> None:
        self._complaint = None
        self._up.set()

    def _mark_down(self) -> None:
        self._up.clear()
        for asking in self._asking:
            asking.cancel()
        self._publisher.give_up()

    async def _on_error(self, error: Exception) -> None:
        complaint = str(error) or type(error).__name__
        if complaint != self._complaint:
            self._complaint = complaint
            log.event(_log, logging.WARNING, "nats-server", problem=complaint, user=self.user)

    async def _on_disconnected(self) -> None:
        self._mark_down()
        if not self._closing:
            log.event(
                _log, logging.WARNING, "connection to nats-server lost; connecting again", user=self.user
            )

    async def _on_reconnected(self) -> None:
        self.reconnects += 1
        self._mark_up()
        log.event(_log, logging.INFO, "connected to nats-server again", user=self.user)

    async def _on_closed(self) -> None:
        self._mark_down()
        if not self._closing:
            self._on_lost(f"nats-server has closed the connection of the user {self.user} for good")


async def open_link(config: Config, user: str, on_lost: Callable[[str], None]) -> Link:
    """Connect as `user`, with the password of the credential `nats_password` or of nats.password_file.

    Raises ConfigError when there is no password to be read.
    """
    password = read_secret(credential("nats_password", config["nats.password_file"]))
    link = Link(config["nats.url"], user, password, on_lost)
    await link.open()
    return link


def expect_last_of_subject(sequence: int) -> dict[str, str]:
    """The header that lets a message in only if the last one of its subject has this sequence (0: none)."""
    return {Header.EXPECTED_LAST_SUBJECT_SEQUENCE: str(sequence)}


def expect_last_of_stream(sequence: int) -> dict[str, str]:
    """The header that lets a message in only if the last one of the stream has this sequence (0: none)."""
    return {Header.EXPECTED_LAST_SEQUENCE: str(sequence)}


def name_once(identifier: str) -> dict[str, str]:
    """The header by which a repetition within the stream's duplicate window is recognised."""
    return {Header.MSG_ID: identifier}
