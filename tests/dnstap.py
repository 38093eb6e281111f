"""A resolver's end of dnstap, for tests: Frame Streams, and frames as Unbound writes them."""

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import dns.flags
import dns.message
import dns.name

CONTENT_TYPE: Final = b"protobuf:dnstap.Dnstap"
RESOLVER_QUERY, RESOLVER_RESPONSE, CLIENT_QUERY = 3, 4, 5
ACCEPT, START, STOP, READY, FINISH = 1, 2, 3, 4, 5
SERVER: Final = socket.inet_aton("198.51.100.53")
VERSION: Final = b"unbound 1.17.1"
PATIENCE: Final = 10.0


def varint(value: int) -> bytes:
    """A protobuf varint."""
    octets = b""
    while value > 0x7F:
        octets += bytes([value & 0x7F | 0x80])
        value >>= 7
    return octets + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    """A protobuf field: a varint, or octets."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def frame(
    kind: int,
    message: bytes,
    at: float,
    *,
    transport: int = 1,
    zone: str = "example.",
    resolver: bytes = bytes(4),
    version: bytes = VERSION,
) -> bytes:
    """A data frame; the resolver's own address is unspecified unless given."""
    query = kind in (RESOLVER_QUERY, CLIENT_QUERY)
    seconds, packet = (8, 10) if query else (12, 14)
    body = (
        field(1, kind)
        + field(3, transport)
        + field(4, resolver)
        + field(5, SERVER)
        + field(6, 40000)
        + field(7, 53)
        + field(seconds, int(at))
        + varint(seconds + 1 << 3 | 5)
        + struct.pack("<I", int(at % 1 * 1e9))
        + field(packet, message)
        + field(11, dns.name.from_text(zone).to_digestable())
    )
    outer = field(2, version) + field(14, body) + field(15, 1)
    return struct.pack(">I", len(outer)) + outer


def control(kind: int) -> bytes:
    """A control frame."""
    body = struct.pack(">I", kind)
    if kind in (ACCEPT, START, READY):
        body += struct.pack(">II", 1, len(CONTENT_TYPE)) + CONTENT_TYPE
    return struct.pack(">II", 0, len(body)) + body


def exchange(name: str, number: int = 7) -> tuple[bytes, bytes]:
    """A resolver's query for an address, and the response to it."""
    query = dns.message.make_query(name, "A", id=number)
    query.flags &= ~dns.flags.RD
    return query.to_wire(), dns.message.make_response(query).to_wire()


class Sender:
    """A resolver that has connected to a UNIX socket, or by TCP, and shaken hands."""

    def __init__(self, to: Path | tuple[str, int]) -> None:
        family = socket.AF_UNIX if isinstance(to, Path) else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(to) if isinstance(to, Path) else to)
        self.send(control(READY))
        assert self.receive() == control(ACCEPT)
        self.send(control(START))

    def send(self, octets: bytes) -> None:
        """Send octets as they are."""
        self._socket.sendall(octets)

    def receive(self) -> bytes:
        """What the other end has sent; nothing once it has closed."""
        return self._socket.recv(4096)

    def finish(self) -> None:
        """Stop as the protocol has it."""
        self.send(control(STOP))
        assert self.receive() == control(FINISH)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
