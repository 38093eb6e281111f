"""How many connections strangers may hold, and for how long without a request.

A connection costs a descriptor and 280 KiB, nearly all of it the read buffer of asyncio's TLS, before anybody
has shown a credential. So a port takes a bounded number of them, from one address only a part of it, and
closes what brings no request; each has an outcome.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address
from typing import Final

from aiohttp import web

IDLE_TIMEOUT: Final = 15.0
"""Seconds in which a connection must bring a request, the first or the next. A session's own WebSocket is no
longer bound by it."""

MAX_CONNECTIONS: Final = 1024
"""Of one port, handshakes included: 280 MiB. 500 sensors, each with a second connection while it comes back
from a network that failed, are 1,000."""

MAX_CONNECTIONS_OF_ADDRESS: Final = 128
"""Of one IPv4 address or one IPv6 network of 64 bits, which is what a subscriber has: an eighth of the port,
and room for a whole site of sensors or readers behind one translated address."""

OUTCOMES: Final = ("idle", "crowded", "crowded_address")
"""What became of connections that brought no request: closed after IDLE_TIMEOUT; closed at once because the
port was full; closed at once because too many were open from there."""


class Place:
    """One connection's place among those that a port takes."""

    __slots__ = ("_of", "_places")

    def __init__(self, places: "Places", of: str) -> None:
        self._places: Places | None = places
        self._of = of

    def leave(self) -> None:
        """Give the place back; again, nothing."""
        if self._places is not None:
            self._places.give_back(self._of)
            self._places = None


class Places:
    """The places of one port."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def take(self, address: str) -> Place | str:
        """A place for a connection from there, or the outcome of a connection for which there is none."""
        of = _origin(address)
        if self._taken.total() >= MAX_CONNECTIONS:
            return "crowded"
        if self._taken[of] >= MAX_CONNECTIONS_OF_ADDRESS:
            return "crowded_address"
        self._taken[of] += 1
        return Place(self, of)

    def give_back(self, of: str) -> None:
        """Take a place back from a connection from there."""
        self._taken[of] -= 1
        if not self._taken[of]:
            del self._taken[of]


def _origin(address: str) -> str:
    """Whom an address is counted with: itself, or its network of 64 bits."""
    if ":" not in address:
        return address
    network = int(IPv6Address(address.partition("%")[0])) >> 64 << 64
    return str(IPv6Address(network))


class Connection(asyncio.Protocol):
    """Stands in front of the application's protocol, and ends a connection that brings no request in time."""

    __slots__ = ("_count", "_idle", "_place", "_protocol")

    def __init__(self, protocol: asyncio.Protocol, place: Place, count: Callable[[str], None]) -> None:
        self._protocol = protocol
        self._place = place
        self._count = count
        self._idle: asyncio.TimerHandle | None = None

    def brought_request(self) -> None:
        """Say that there was a request: from here on the application has its own time-outs."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        assert isinstance(transport, asyncio.Transport)
        self._idle = asyncio.get_running_loop().call_later(IDLE_TIMEOUT, self._expire, transport)
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self.brought_request()
        self._place.leave()
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """For the application."""
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        """For the application."""
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """For the application."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """For the application."""
        self._protocol.resume_writing()

    def _expire(self, transport: asyncio.Transport) -> None:
        self._idle = None
        self._count("idle")
        transport.abort()


def note_request(request: web.BaseRequest) -> None:
    """Say that a request has come, to the connection that brought it; to be called before it is answered."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    if isinstance(protocol, Connection):
        protocol.brought_request()


@web.middleware
async def noting_requests(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """`note_request` as a middleware of an aiohttp application."""
    note_request(request)
    return await handler(request)
