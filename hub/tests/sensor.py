"""A sensor for tests: the trampoline's sensor end on a real WebSocket over real TLS, with a spool in
memory."""

import asyncio
import hashlib
import random
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

from sie_core.trampoline import (
    Acknowledged,
    AlertReceived,
    Compression,
    Event,
    Negotiated,
    OutboundPayload,
    Side,
    Trampoline,
)


class SessionRefused(Exception):
    """The hub answered the WebSocket's opening with an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{status}: {sentence}")
        self.status = status
        self.sentence = sentence


@dataclass
class Sensor:
    """A sensor with containers to deliver. `acknowledged` is what it may forget."""

    url: str
    context: ssl.SSLContext
    containers: list[bytes] = field(default_factory=list)
    channel: int = 202
    stream: int = 0x1122334455667788
    transactions: int = 1
    compression: Compression = Compression.NONE
    acknowledged: int = 0
    in_flight: int = 0
    sessions: int = 0
    alerts: list[str] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    trimmed: set[int] = field(default_factory=set)
    accounting: Mapping[str, int] = field(default_factory=dict)
    closed_reason: str | None = None
    limit: int | None = None  # send no container beyond this one yet
    _sent: int = 0
    _opened: bool = False

    async def session(self, *, until_acknowledged: int | None = None) -> str:
        """One session, until the hub ends it or everything (or so much) is acknowledged. Returns why it
        ended.

        Raises SessionRefused, aiohttp.ClientError or OSError when there is none.
        """
        goal = len(self.containers) if until_acknowledged is None else until_acknowledged
        async with aiohttp.ClientSession() as http:
            try:
                websocket = await http.ws_connect(
                    f"{self.url}/session/test", ssl=self.context, max_msg_size=0, headers=self.headers
                )
            except aiohttp.WSServerHandshakeError as error:
                raise await self._refusal(http, error) from None
            self.sessions += 1
            async with websocket:
                return await self._converse(websocket, goal)

    async def _converse(self, websocket: aiohttp.ClientWebSocketResponse, goal: int) -> str:
        trampoline = Trampoline(Side.SENSOR, {2}, now=time.monotonic())
        self._sent = 0
        self._opened = False
        receiving = asyncio.ensure_future(websocket.receive())
        try:
            while True:
                trampoline.tick(time.monotonic())
                while self._opened and trampoline.can_send and self._sent < self._sendable:
                    self._sent += 1
                    if self._sent not in self.trimmed:
                        trampoline.send_payload(self._payload(self._sent), time.monotonic())
                for message in trampoline.outgoing():
                    await websocket.send_bytes(message)
                self.in_flight = trampoline.in_flight
                if trampoline.closed_reason is not None:
                    return trampoline.closed_reason
                if self._opened and self.acknowledged >= goal:
                    return "everything acknowledged"
                await asyncio.wait({receiving}, timeout=0.02)
                if not receiving.done():
                    continue
                received = receiving.result()
                receiving = asyncio.ensure_future(websocket.receive())
                if received.type is not aiohttp.WSMsgType.BINARY:
                    return f"the hub closed ({received.type.name}, {websocket.close_code})"
                for event in trampoline.receive(received.data, time.monotonic()):
                    self._on(event, trampoline)
        finally:
            self.in_flight = 0
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    def _on(self, event: Event, trampoline: Trampoline) -> None:
        match event:
            case Negotiated():
                trampoline.send_hello(self.stream, len(self.containers) + 1, "test")
            case Acknowledged(_, sequence, digest):
                if digest is not None and hashlib.sha256(self.containers[sequence - 1]).digest() != digest:
                    trampoline.report_conflict(sequence)
                    return
                if not self._opened:
                    self._opened = True
                    self._sent = sequence
                    if self.accounting:
                        trampoline.send_accounting(self.accounting)
                self.acknowledged = max(self.acknowledged, sequence)
            case AlertReceived(_, text, _):
                self.alerts.append(text)

    async def deliver(self, *, timeout: float | None = 60.0) -> None:
        """Sessions, one after the other, until everything is acknowledged."""
        async with asyncio.timeout(timeout):
            while self.acknowledged < len(self.containers):
                try:
                    self.closed_reason = await self.session()
                except (SessionRefused, aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
                    self.closed_reason = repr(error)
                await asyncio.sleep(random.uniform(0.01, 0.1))

    @property
    def _sendable(self) -> int:
        return len(self.containers) if self.limit is None else min(self.limit, len(self.containers))

    def _payload(self, sequence: int) -> OutboundPayload:
        return OutboundPayload(
            self.channel,
            self.containers[sequence - 1],
            self.compression,
            self.stream,
            sequence,
            self.transactions,
        )

    async def _refusal(
        self, http: aiohttp.ClientSession, error: aiohttp.WSServerHandshakeError
    ) -> SessionRefused:
        """The sentence of a refusal: aiohttp keeps the status alone, so the question is asked once more."""
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        async with http.get(
            f"{self.url}/session/test", ssl=self.context, headers={**upgrade, **self.headers}
        ) as answer:
            return SessionRefused(error.status, (await answer.text()).strip())


def numbered(count: int, size: int = 400) -> list[bytes]:
    """Containers for tests that do not look inside: different octets for each number."""
    return [f"container {number} ".encode().ljust(size, b".") for number in range(1, count + 1)]


def by_sequence(containers: Sequence[bytes]) -> dict[int, bytes]:
    """What RAW should hold of these."""
    return dict(enumerate(containers, start=1))
