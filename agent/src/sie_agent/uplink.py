"""The uplink: finds a hub that takes the session, again and again, and says in one line why when none does.

The hubs are tried in their order. A round in which none took the session is followed by a pause, longer each
time; a session that opened makes the next pause short again.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from websockets.asyncio.client import ClientConnection, connect

from sie_agent.anchors import Anchors
from sie_agent.backoff import Backoff
from sie_agent.config import AgentConfig
from sie_agent.refusal import Failure, Refused, explain
from sie_agent.session import FLUSH_TIMEOUT, Session
from sie_agent.spool import Spool
from sie_core import __version__, limits
from sie_core.trampoline import AlertLevel

OPEN_TIMEOUT: Final = 15.0
"""Seconds for TCP, a proxy, TLS and the WebSocket handshake: some six round trips, which take 4 s by
satellite.
"""

CLOSE_TIMEOUT: Final = 0.3
"""Seconds for the WebSocket's closing handshake, and for the hub's answer to the last word of the trampoline:
whatever mattered was said before."""

IDENTITY_POLL: Final = 5.0
"""Seconds between looks for a certificate while there is none: an enrolment is noticed at once, as people see
it.
"""

TURN: Final = 1.0
"""Seconds between signs of life in a pause."""

STOP_WITHIN: Final = 1.2
"""Seconds in which `stop` is done, but for the WebSocket's closing handshake: what is pending drains in half
of them, and the hub answers in the rest. With CLOSE_TIMEOUT and a turn of the capture thread before, 0.2 s,
the program is gone within 2 s of its SIGTERM."""

_log = logging.getLogger(__name__)


class State(StrEnum):
    """Where the uplink is; the values stand in `sie-agent status --json`."""

    STARTING = "starting"
    NO_IDENTITY = "no_identity"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    STOPPED = "stopped"


@dataclass
class Counts:
    """What the uplink has done since the program started."""

    attempts: int = 0
    sessions: int = 0
    refusals: int = 0
    failures: int = 0
    stream_conflicts: int = 0
    sent_containers: int = 0
    sent_octets: int = 0


class Carrying(Protocol):
    """A session, of whatever kind, as the uplink knows it."""

    conflict: bool
    """Whether the hub has other containers of the stream than the spool made."""

    async def run(self) -> None:
        """Carry it until it ends. Returns when it ended in order."""

    @property
    def in_flight(self) -> int:
        """Containers that are sent and not acknowledged."""

    def wake(self) -> None:
        """There may be something new to send."""

    async def finish(self, seconds: float) -> None:
        """Give what is pending up to `seconds`, then end in order."""


class Uplink:
    """Carries the spool to the hub until told to stop. Lives in one event loop."""

    def __init__(
        self,
        config: AgentConfig,
        spool: Spool,
        accounts: Callable[[], Mapping[str, int]],
        progressed: Callable[[], None],
    ) -> None:
        self.state = State.STARTING
        self.hub: str | None = None
        """The hub of the session, or of the last attempt."""
        self.last_error: str | None = None
        """Why the last attempt or session ended; None while connected."""
        self.counts = Counts()
        self._config = config
        self._spool = spool
        self._accounts = accounts
        self._progressed = progressed
        self._backoff = Backoff(config.retry_min, config.retry_max, random.random)
        self._session: Carrying | None = None
        self._tls: ssl.SSLContext | None = None
        self._leaving: str | None = None  # why the session is ended for another, as the end of a sentence
        self._attempting: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._last_told: tuple[str | None, str] | None = None

    @property
    def in_flight(self) -> int:
        """Containers that are sent and not acknowledged."""
        return 0 if self._session is None else self._session.in_flight

    def wake(self) -> None:
        """The spool has something new. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._wake)

    async def run(self) -> None:
        """Connect, carry, and connect again, until `stop`."""
        while not self._stopping.is_set():
            ready = self._ready()
            pause = await self._round() if ready else min(IDENTITY_POLL, self._config.retry_max)
            if pause:
                await self._sleep(pause)
        self.state = State.STOPPED

    async def reconfigure(self, config: AgentConfig) -> None:
        """Go by another configuration from the next connection on.

        A session with a hub that is no longer listed is ended in order. Raises nothing.
        """
        self._config = config
        self._backoff = Backoff(config.retry_min, config.retry_max, random.random)
        if self._session is not None and self.hub not in self._ways():
            await self._leave("which the configuration no longer lists")

    async def renew(self) -> None:
        """There is another certificate: end the session in order, if there is one, and go on in a new one."""
        await self._leave("to come back with another certificate")

    async def _leave(self, why: str) -> None:
        self._leaving = why
        if self._session is not None:
            await self._session.finish(0)

    def _again(self) -> bool:
        """Whether the next connection is to come at once."""
        return self._leaving is not None

    async def stop(self, within: float = STOP_WITHIN) -> None:
        """End the session in order, if there is one, and make `run` return, within some seconds."""
        end = self._loop.time() + within
        self._stopping.set()
        patience = 0.0
        if self._session is not None:
            await self._session.finish(max(0.0, within - CLOSE_TIMEOUT - FLUSH_TIMEOUT))
            patience = max(0.0, end - FLUSH_TIMEOUT - self._loop.time())
        if self._attempting is not None:
            _, unfinished = await asyncio.wait({self._attempting}, timeout=patience)
            for attempt in unfinished:
                attempt.cancel()

    # --- what a session observes
    # ------------------------------------------------------------------------------

    def opened(self, position: int) -> None:
        """A hub has taken the session."""
        self.state = State.CONNECTED
        self.last_error = None
        self._last_told = None
        self.counts.sessions += 1
        self._backoff.reset()
        _log.info(
            "connected to %s: it has stream %016x up to container %d, %d containers are pending",
            self.hub,
            self._spool.stream,
            position,
            self._spool.ledger.pending_containers,
        )

    def sent(self, octets: int) -> None:
        """A container is on its way."""
        self.counts.sent_containers += 1
        self.counts.sent_octets += octets

    def alerted(self, level: AlertLevel, text: str) -> None:
        """The hub says something to a person."""
        _log.warning("%s says (%s): %s", self.hub, level.name.lower().replace("_", " "), text)

    def progressed(self) -> None:
        """The session's loop has turned."""
        self._progressed()

    def accounts(self) -> Mapping[str, int]:
        """The counters for the hub's ledger."""
        return self._accounts()

    # --- attempts
    # ---------------------------------------------------------------------------------------------

    def _ways(self) -> tuple[str, ...]:
        """Where a session may be had, in the order in which it is tried."""
        return self._config.hubs

    async def _round(self) -> float:
        """Try each hub once, until one takes the session and it ends; returns how long to pause."""
        self._leaving = None
        for hub in self._ways():
            if self._stopping.is_set():
                return 0.0
            sessions = self.counts.sessions
            self._attempting = asyncio.create_task(self._attempt(hub))
            try:
                await self._attempting
            except asyncio.CancelledError:
                if not self._stopping.is_set():
                    raise
                return 0.0
            finally:
                self._attempting = None
            self._progressed()
            if self._again():
                return 0.0
            if self.counts.sessions > sessions:
                break
        return self._backoff.pause()

    async def _attempt(self, way: str) -> None:
        self._begin(way)
        try:
            async with self._connect(way) as connection:
                session = Session(
                    connection,
                    self._spool,
                    self,
                    channel=self._config.channel,
                    window=self._config.window,
                    window_bytes=self._config.window_bytes,
                )
                await self._carry(session)
        except Exception as error:  # explain() raises again whatever is no reason but a fault of this program
            self._failed(explain(_Connection.cause_of(error)))

    def _begin(self, way: str) -> None:
        self.state = State.CONNECTING
        self.hub = way
        self.counts.attempts += 1

    def _connect(self, hub: str) -> connect:
        return connect(
            f"{hub}/session/{self._config.participant}.{self._config.sensor}",
            ssl=self._tls,
            compression=None,
            user_agent_header=f"sie-agent/{__version__}",
            open_timeout=OPEN_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            ping_interval=None,  # the trampoline has its own heartbeats, which say more
            max_size=limits.MAX_CONTROL,
            create_connection=_Connection,
        )

    async def _carry(self, session: Carrying) -> None:
        self._session = session
        try:
            await session.run()
            if self._leaving is not None:
                _log.info("left %s, %s", self.hub, self._leaving)
            elif not self._stopping.is_set():
                self._failed(Failure(False, "the hub ended the session in order"))
        except Refused:
            if session.conflict:
                await self._renew_stream()
            raise
        finally:
            self._session = None

    async def _renew_stream(self) -> None:
        self.counts.stream_conflicts += 1
        before = self._spool.stream
        await asyncio.to_thread(self._spool.renew_stream)
        _log.error(
            "the hub holds other containers of stream %016x than this spool made: the spool was restored "
            "from an older copy, or another machine is a copy of this one. Going on in the new stream %016x; "
            "up to %d transactions may be received twice",
            before,
            self._spool.stream,
            self._spool.ledger.pending,
        )

    def _failed(self, failure: Failure) -> None:
        self.last_error = failure.text
        if failure.refused:
            self.state = State.REFUSED
            self.counts.refusals += 1
        else:
            self.state = State.UNREACHABLE
            self.counts.failures += 1
        if self._last_told != (self.hub, failure.text):
            self._last_told = (self.hub, failure.text)
            what = "refused by" if failure.refused else "no session with"
            _log.warning(
                "%s %s: %s; trying again every %g to %g s",
                what,
                self.hub,
                failure.text,
                self._config.retry_min,
                self._config.retry_max,
            )

    def _ready(self) -> bool:
        """Whether there is what a session needs; looked at anew for every round, so that a renewed
        certificate is used as soon as it is there.
        """
        config = self._config
        if not config.certificate.exists() or not config.key.exists():
            self._without_identity(
                f"this sensor has no certificate in {config.identity_directory}: run "
                "`sie-agent identity enrol --token-file FILE`; until then everything is kept in the spool"
            )
            return False
        trusted = Anchors(config.ca, config.identity_directory).file()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(trusted)
        except OSError as error:
            self._without_identity(f"{trusted} cannot be used to check the hub: {_of_file(error)}")
            return False
        try:
            context.load_cert_chain(config.certificate, config.key)
        except OSError as error:
            self._without_identity(f"{config.certificate} and {config.key} cannot be used: {_of_file(error)}")
            return False
        self._tls = context
        return True

    def _without_identity(self, text: str) -> None:
        self.state = State.NO_IDENTITY
        self.hub = None
        self.last_error = text
        if self._last_told != (None, text):
            self._last_told = (None, text)
            _log.error("%s", text)

    def _wake(self) -> None:
        if self._session is not None:
            self._session.wake()

    async def _sleep(self, seconds: float) -> None:
        """Wait, turning every second, until the time is over or `stop` or `renew` is called."""
        end = self._loop.time() + seconds
        while not (self._stopping.is_set() or self._again()) and (left := end - self._loop.time()) > 0:
            self._progressed()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, TURN)):
                    await self._stopping.wait()


def uplink_of(config: AgentConfig) -> type[Uplink]:
    """The kind of uplink that a configuration asks for; what SSH needs is loaded only for that."""
    if config.drop is None:
        return Uplink
    from sie_agent.drop_uplink import DropUplink

    return DropUplink


class _Connection(ClientConnection):
    """A connection that keeps what it was lost by.

    In TLS 1.3 a server's alert about the client's certificate comes after the client's side of the handshake
    is over, so it meets the wait for the HTTP answer, and the library reports only that no answer came.
    """

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if exc is not None and self.protocol.handshake_exc is not None:
            self.protocol.handshake_exc.__cause__ = exc

    @staticmethod
    def cause_of(error: Exception) -> Exception:
        """The TLS error that an error of the library stands for, if there is one; otherwise itself."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLError):
                return cause
            cause = cause.__cause__
        return error


def _of_file(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return error.strerror or str(error)
