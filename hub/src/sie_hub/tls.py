"""TLS for the hub's listening ports: contexts, and a site for aiohttp that accounts for handshakes that fail.

asyncio drops a failed handshake without a word, and without the alert that would tell the client why.
Here the connection is accepted in the clear and upgraded by `loop.start_tls`, so that a failure comes
back to us with the peer's address: it is counted, logged with its reason, and its alert is delivered
before the connection is closed.

Certificates of clients are verified by OpenSSL in everything but time. Whether one has expired is decided
above TLS (`sie_core.identity.check_peer`), where the refusal can be given a sentence that both sides log.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from aiohttp import web

from sie_core.settings import ConfigError
from sie_hub import connections, log
from sie_hub.connections import Connection, Place, Places

NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h, which Python's ssl does not name."""

HANDSHAKE_TIMEOUT: Final = 15.0
"""Seconds for a handshake: two round trips even of a satellite link take less than 2."""

LINGER: Final = 1.0
"""Seconds for which a refused connection is still read (and what comes is dropped), so that the peer gets the
alert before the reset that closing on unread octets would send."""

# X509_V_ERR_… of OpenSSL's x509_vfy.h.
_NO_ISSUER: Final = frozenset({2, 7, 18, 19, 20, 21})
"""No issuer found, or not trusted, or its signature does not fit."""
_INVALID_PURPOSE: Final = 26

_log = logging.getLogger(__name__)


class HandshakeFailure(NamedTuple):
    """A handshake that failed: a word for the counter, the peer's address, a sentence for the log."""

    reason: str
    peer: str
    text: str


REASONS: Final = (
    "other_authority",
    "wrong_usage",
    "bad_certificate",
    "refused_by_peer",
    "plain_http",
    "old_protocol",
    "garbage",
    "timeout",
    "closed",
)
"""Every value of `HandshakeFailure.reason`."""

OUTCOMES: Final = (*(f"tls_{reason}" for reason in REASONS), *connections.OUTCOMES)
"""What a site counts: connections that never brought a request."""


def server_context(certificate: Path, key: Path, *, client_authorities: Path | None = None) -> ssl.SSLContext:
    """A context for a listening port: TLS 1.3 alone.

    With `client_authorities` (a PEM file) a client may show a certificate issued by one of them; one of
    another authority or of a wrong usage ends the handshake, none at all does not. Its time is not looked
    at: see `check_peer`.

    Sessions are not resumed, because a resumed one would not show its certificate again.

    Raises ConfigError when a file cannot be used.
    """
    context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _ServerObject
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise ConfigError([f"{certificate} with {key}: cannot be used for TLS: {_why(error)}"]) from None
    if client_authorities is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= NO_CHECK_TIME
        try:
            context.load_verify_locations(client_authorities)
        except (OSError, ValueError) as error:
            raise ConfigError([f"{client_authorities}: no authorities for TLS: {_why(error)}"]) from None
    return context


class TlsSite(web.BaseSite):
    """A site of an aiohttp runner on one address, over TLS.

    `context` comes from `server_context`. `count` is called with one of OUTCOMES for each connection that
    never brought a request. `port` may be 0; `bound_port` is then the one that was given. The application
    has to say which connections have brought one (`connections.note_request`).
    """

    __slots__ = ("_context", "_host", "_port", "_strangers", "bound_port")

    def __init__(
        self,
        runner: web.BaseRunner,
        host: str,
        port: int,
        context: ssl.SSLContext,
        count: Callable[[str], None],
    ) -> None:
        super().__init__(runner)
        self._host = host
        self._port = port
        self._context = context
        self._strangers = _Strangers(count)
        self.bound_port = port

    @property
    def name(self) -> str:
        """The address as a URL."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"https://{host}:{self.bound_port}"

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        await super().start()
        application = cast(Callable[[], asyncio.Protocol], self._runner.server)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Upgrade(application, self._context, self._strangers), self._host, self._port
        )
        self._server = server
        self.bound_port = server.sockets[0].getsockname()[1]


class _Attempt:
    """One handshake: `error` is what OpenSSL said against it, `on_error` is called then."""

    def __init__(self, on_error: Callable[[], object]) -> None:
        self.error: ssl.SSLError | None = None
        self.on_error = on_error


# `start_tls` makes its SSL object within the caller's context, which is how that object learns whose it is.
_current_attempt: ContextVar[_Attempt | None] = ContextVar("_current_attempt", default=None)


class _ServerObject(ssl.SSLObject):
    """An SSL object that reports its failed handshake, and then reads on until the peer has had the alert."""

    attempt: _Attempt | None = None
    incoming: ssl.MemoryBIO

    def do_handshake(self) -> None:
        """As `ssl.SSLObject.do_handshake`, but a failure asks for more input, which flushes the alert."""
        if self.attempt is None:
            super().do_handshake()
            return
        if self.attempt.error is None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLSyscallError):
                raise
            except ssl.SSLError as error:
                self.attempt.error = error
                self.attempt.on_error()
            else:
                return
        self.incoming.read()
        raise ssl.SSLWantReadError


class _ServerContext(ssl.SSLContext):
    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if isinstance(made, _ServerObject):
            made.attempt = _current_attempt.get()
            made.incoming = incoming
        return made


class _Upgrade(asyncio.Protocol):
    """A connection just accepted: does the handshake and hands over to the application's protocol."""

    def __init__(
        self, application: Callable[[], asyncio.Protocol], context: ssl.SSLContext, strangers: "_Strangers"
    ) -> None:
        self._application = application
        self._context = context
        self._strangers = strangers
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        assert isinstance(transport, asyncio.Transport)
        place = self._strangers.admit(transport)
        if place is None:
            transport.abort()
            return
        # The loop itself refers to its tasks only weakly.
        self._task = asyncio.get_running_loop().create_task(self._upgrade(transport, place))

    async def _upgrade(self, transport: asyncio.Transport, place: Place) -> None:
        loop = asyncio.get_running_loop()
        peer = _peer_text(transport)
        attempt = _Attempt(lambda: loop.call_later(LINGER, transport.abort))
        _current_attempt.set(attempt)
        held = _Held()
        upgraded: asyncio.Transport | None = None
        error: BaseException | None = None
        try:
            upgraded = await loop.start_tls(
                transport, held, self._context, server_side=True, ssl_handshake_timeout=HANDSHAKE_TIMEOUT
            )
        except OSError as failure:
            error = failure
        if attempt.error is not None or upgraded is None:
            self._strangers.failed(_describe(attempt.error or error, peer))
            loop.call_later(LINGER, place.leave)
            return
        connection = Connection(self._application(), place, self._strangers.count)
        if not held.hand_over(connection, upgraded):
            place.leave()


class _Held(asyncio.Protocol):
    """What the peer sends right behind its handshake, before the application has its transport."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._ended = False
        self._lost = False

    def data_received(self, data: bytes) -> None:
        """Keep it: at most what one read of the socket held (256 KiB in asyncio)."""
        self._octets += data

    def eof_received(self) -> None:
        """Keep it."""
        self._ended = True

    def connection_lost(self, _error: Exception | None) -> None:
        """Nothing will be handed over."""
        self._lost = True

    def hand_over(self, protocol: asyncio.Protocol, transport: asyncio.Transport) -> bool:
        """Give the connection to another protocol, as if it had been there from the beginning. Returns
        whether there was still one to give."""
        if self._lost:
            return False
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._octets:
            protocol.data_received(bytes(self._octets))
        if self._ended:
            protocol.eof_received()
        return True


class _Strangers:
    """Who may connect to a site, and what is said of those that get no further."""

    def __init__(self, count: Callable[[str], None]) -> None:
        self.count = count
        self._places = Places()
        self._failures = log.Limited(_log, "TLS handshakes failed")
        self._crowd = log.Limited(_log, "connections were closed for want of room")

    def admit(self, transport: asyncio.Transport) -> Place | None:
        """A place for a connection just accepted, or None, which is counted and logged."""
        address: Any = transport.get_extra_info("peername")
        if not isinstance(address, tuple):
            self.failed(_describe(None, _peer_text(transport)))
            return None
        place = self._places.take(address[0])
        if isinstance(place, Place):
            return place
        self.count(place)
        self._crowd.event(
            logging.WARNING, "connection closed for want of room", peer=_peer_text(transport), outcome=place
        )
        return None

    def failed(self, failure: HandshakeFailure) -> None:
        """Account for a handshake that failed."""
        self.count(f"tls_{failure.reason}")
        self._failures.event(logging.WARNING, f"TLS handshake with {failure.peer} failed: {failure.text}")


def _describe(error: BaseException | None, peer: str) -> HandshakeFailure:
    """The reason of a failed handshake, from what OpenSSL or asyncio said."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _INVALID_PURPOSE:
            return HandshakeFailure("wrong_usage", peer, "the client's certificate is not for a TLS client")
        if error.verify_code in _NO_ISSUER:
            text = f"the client's certificate is of another CA ({error.verify_message})"
            return HandshakeFailure("other_authority", peer, text)
        return HandshakeFailure(
            "bad_certificate", peer, f"the client's certificate does not hold ({error.verify_message})"
        )
    if isinstance(error, ssl.SSLError):
        said = error.reason or str(error)
        readable = said.lower().replace("_", " ")
        if "HTTP" in said:
            return HandshakeFailure("plain_http", peer, "the client speaks HTTP without TLS")
        if "_ALERT_" in said:
            return HandshakeFailure("refused_by_peer", peer, f"the client refused ours ({readable})")
        if said in ("UNSUPPORTED_PROTOCOL", "NO_SHARED_CIPHER"):
            return HandshakeFailure("old_protocol", peer, f"the client does not speak TLS 1.3 ({readable})")
        if said == "UNEXPECTED_EOF_WHILE_READING":
            return HandshakeFailure("closed", peer, "the client closed the connection")
        return HandshakeFailure("garbage", peer, f"what the client sent is no TLS handshake ({readable})")
    if isinstance(error, ConnectionAbortedError):
        return HandshakeFailure("timeout", peer, f"not done within {HANDSHAKE_TIMEOUT:.0f} s")
    return HandshakeFailure("closed", peer, "the client closed the connection")


def _peer_text(transport: asyncio.BaseTransport) -> str:
    address: Any = transport.get_extra_info("peername")
    if not isinstance(address, tuple):
        return "a peer that is gone"
    host, port = address[:2]
    sock = transport.get_extra_info("socket")
    is_v6 = sock is not None and sock.family == socket.AF_INET6
    return f"[{host}]:{port}" if is_v6 else f"{host}:{port}"


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no PEM data").lower().replace("_", " ")
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
