"""A hub for the tests: a real WebSocket server over mutual TLS 1.3 on loopback, speaking the trampoline's
other end.
"""

import asyncio
import hashlib
import ipaddress
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from sie_core import identity, limits
from sie_core.errors import TrampolineMisuse
from sie_core.trampoline import (
    Accounting,
    AlertLevel,
    HelloReceived,
    PayloadReceived,
    PeerFinished,
    Side,
    Trampoline,
)


class Authority:
    """A certificate authority of an exchange, with the files that it has issued in one directory."""

    def __init__(self, directory: Path, exchange: str = "lab.example") -> None:
        self.directory = directory
        self.exchange = exchange
        directory.mkdir(parents=True, exist_ok=True)
        self._now = datetime.now(UTC)
        self._key = identity.generate_key(identity.KeyKind.ED25519, secrets.token_bytes)
        self._certificate = identity.make_ca(self._key, exchange, now=self._now, random=secrets.token_bytes)
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(identity.certificate_to_pem(self._certificate))

    def server(self, name: str = "server", *addresses: str) -> tuple[Path, Path]:
        """Certificate and key of a hub on the addresses (loopback unless given)."""
        key = identity.generate_key(identity.KeyKind.ED25519, secrets.token_bytes)
        certificate = identity.issue_server_certificate(
            key.public_key(),
            [],
            [ipaddress.ip_address(address) for address in addresses or ("127.0.0.1",)],
            self._certificate,
            self._key,
            now=self._now,
            random=secrets.token_bytes,
        )
        return self._write(name, certificate, key)

    def sensor(self, name: str = "sensor", *, age_days: int = 0) -> tuple[Path, Path]:
        """Certificate and key of the sensor isp_a/ns1, issued some days ago."""
        key = identity.generate_key(identity.KeyKind.ED25519, secrets.token_bytes)
        certificate = identity.issue_sensor_certificate(
            key.public_key(),
            identity.Identity(self.exchange, "isp_a", "ns1"),
            self._certificate,
            self._key,
            now=self._now - timedelta(days=age_days),
            random=secrets.token_bytes,
        )
        return self._write(name, certificate, key)

    def _write(self, name: str, certificate: object, key: identity.PrivateKey) -> tuple[Path, Path]:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        (directory / "certificate.pem").write_bytes(identity.certificate_to_pem(certificate))  # type: ignore[arg-type]
        (directory / "key.pem").write_bytes(identity.private_key_to_pem(key))
        return directory / "certificate.pem", directory / "key.pem"


@dataclass
class Hub:
    """What the hub has stored and seen, and how it behaves. Behaviour may be changed while it runs."""

    stored: dict[int, list[tuple[int, bytes, int]]] = field(default_factory=dict)
    """By stream: sequence, container, transactions; in the order of arrival, each sequence once."""
    received: list[int] = field(default_factory=list)
    """Every sequence that came, also again."""
    heard: list[bytes] = field(default_factory=list)
    """Every octet that came, by request and by message."""
    paths: list[str] = field(default_factory=list)
    serials: list[str] = field(default_factory=list)
    """Of the certificates that were shown, in the order of the sessions."""
    hellos: list[HelloReceived] = field(default_factory=list)
    accounts: list[dict[str, int]] = field(default_factory=list)
    sessions: int = 0
    finished: int = 0

    refuse_with: str | None = None
    """Answer the handshake with 403 and this text."""
    fatal_alert: str | None = None
    """Answer the hello with this fatal alert."""
    drop_after: int | None = None
    """Cut the connection, without a word, when so many more payloads have come, before acknowledging the
    last.
    """
    shutting_down: bool = False
    """Ask the sensors to stop sending, and finish the session when they have."""
    acknowledging: asyncio.Event = field(default_factory=asyncio.Event)
    """Acknowledge while this is set."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    port: int = 0

    def __post_init__(self) -> None:
        self.acknowledging.set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"wss://127.0.0.1:{self.port}"

    def sequences(self, stream: int) -> list[int]:
        """What is stored of a stream."""
        return [sequence for sequence, _, _ in self.stored.get(stream, [])]

    @property
    def transactions(self) -> int:
        """How many transactions are stored in all streams."""
        return sum(count for stream in self.stored.values() for _, _, count in stream)

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until something that the hub sees is true."""
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(condition)

    @asynccontextmanager
    async def listening(
        self, certificate: Path, key: Path, client_ca: Path, sock: socket.socket | None = None
    ) -> AsyncIterator[Server]:
        """Serve on loopback, or on a socket that listens already; all connections end with the context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        async with serve(
            self._serve,
            sock=sock or socket.create_server(("127.0.0.1", 0)),
            ssl=context,
            compression=None,
            ping_interval=None,
            max_size=limits.MAX_MESSAGE,
            process_request=self._admit,
            close_timeout=0.5,
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield server

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        self.heard.append(f"{request.path}\n{request.headers}".encode())
        if self.refuse_with is None:
            return None
        return connection.respond(HTTPStatus.FORBIDDEN, self.refuse_with)

    async def _serve(self, connection: ServerConnection) -> None:
        session = Trampoline(Side.HUB, {2}, now=time.monotonic())
        self.sessions += 1
        self.serials.append(connection.transport.get_extra_info("peercert")["serialNumber"])
        attendant = asyncio.create_task(self._attend(session, connection))
        try:
            await self._put_out(session, connection)
            while session.closed_reason is None:
                message = await connection.recv()
                assert isinstance(message, bytes)
                self.heard.append(message)
                for event in session.receive(message, time.monotonic()):
                    self._handle(session, event)
                    if self.drop_after == 0:
                        connection.transport.abort()
                        return
                await self._put_out(session, connection)
                await self._notify()
        except ConnectionClosed:
            pass
        finally:
            attendant.cancel()
            await self._notify()

    def _handle(self, session: Trampoline, event: object) -> None:
        match event:
            case HelloReceived(stream=stream):
                self.hellos.append(event)
                if self.fatal_alert is not None:
                    session.alert(AlertLevel.FATAL_ERROR, self.fatal_alert)
                else:
                    stored = [(sequence, data) for sequence, data, _ in self.stored.get(stream, [])]
                    position, data = max(stored, default=(0, b""))
                    session.send_ack(stream, position, hashlib.sha256(data).digest() if data else None)
            case PayloadReceived(stream=int(stream), sequence=int(sequence), transactions=int(transactions)):
                self.received.append(sequence)
                if sequence not in self.sequences(stream):
                    self.stored.setdefault(stream, []).append((sequence, event.data, transactions))
                if self.drop_after is not None:
                    self.drop_after -= 1
                elif self.acknowledging.is_set():
                    session.send_ack(stream, sequence)
            case Accounting(counters=counters):
                self.accounts.append(dict(counters))
            case PeerFinished():
                self.finished += 1
                session.finish()

    async def _attend(self, session: Trampoline, connection: ServerConnection) -> None:
        """Beat, and acknowledge what was held back once that is allowed again."""
        held_back = False
        while True:
            await asyncio.sleep(0.05)
            if held_back and self.acknowledging.is_set():
                for stream in self.stored:
                    with suppress(TrampolineMisuse):  # a stream of another session
                        session.send_ack(stream, max(self.sequences(stream)))
            held_back = not self.acknowledging.is_set()
            if self.shutting_down:
                session.shutdown()
            session.tick(time.monotonic())
            await self._put_out(session, connection)

    async def _put_out(self, session: Trampoline, connection: ServerConnection) -> None:
        for message in session.outgoing():
            await connection.send(message)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()
