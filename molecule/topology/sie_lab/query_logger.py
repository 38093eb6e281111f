"""Runs on the name servers' host, by the standard library alone: one line for each query and response.

Takes dnstap over Frame Streams (https://github.com/farsightsec/fstrm, bidirectional) on a UNIX socket.
Columns, separated by tabs: time (seconds), Q or R, name server, transport, resolver's address, its port,
response code, type (number), name, id.
"""

import ipaddress
import os
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

ACCEPT, START, STOP, READY, FINISH = 1, 2, 3, 4, 5
CONTENT_TYPE_FIELD = 1
CONTENT_TYPE = b"protobuf:dnstap.Dnstap"
DATA_LIMIT = 1 << 20  # octets of a frame; a message is 64 KiB at most

# dnstap.proto: fields of Dnstap and of Message, message types, socket protocols.
IDENTITY, MESSAGE = 1, 14
TYPE, TRANSPORT, QUERY_ADDRESS, QUERY_PORT = 1, 3, 4, 6
QUERY_SECONDS, QUERY_NANOSECONDS, QUERY_MESSAGE = 8, 9, 10
RESPONSE_SECONDS, RESPONSE_NANOSECONDS, RESPONSE_MESSAGE = 12, 13, 14
AUTH_QUERY, AUTH_RESPONSE = 1, 2
TRANSPORTS = {1: "udp", 2: "tcp"}


def control(kind: int) -> bytes:
    """A control frame, naming the content type where the protocol wants it."""
    body = struct.pack(">I", kind)
    if kind == ACCEPT:
        body += struct.pack(">II", CONTENT_TYPE_FIELD, len(CONTENT_TYPE)) + CONTENT_TYPE
    return struct.pack(">II", 0, len(body)) + body


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A protobuf varint and the offset after it."""
    value = shift = 0
    while True:
        octet = data[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7


def fields(data: bytes) -> dict[int, int | bytes]:
    """A protobuf message's fields by number (none that is read here repeats)."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            found[number], at = varint(data, at)
        elif wire == 2:
            length, at = varint(data, at)
            found[number] = data[at : at + length]
            at += length
        elif wire == 5:
            found[number] = struct.unpack_from("<I", data, at)[0]
            at += 4
        elif wire == 1:
            found[number] = struct.unpack_from("<Q", data, at)[0]
            at += 8
        else:
            raise ValueError(f"protobuf wire type {wire}")
    return found


def number(message: dict[int, int | bytes], field: int) -> int:
    """A numeric field, 0 if absent."""
    value = message.get(field, 0)
    return value if isinstance(value, int) else 0


def octets(message: dict[int, int | bytes], field: int) -> bytes:
    """A field of octets, empty if absent."""
    value = message.get(field, b"")
    return value if isinstance(value, bytes) else b""


def question(packet: bytes) -> tuple[str, int]:
    """Name (as asked, in presentation form) and type of the question, which is never compressed."""
    at, labels = 12, []
    while length := packet[at]:
        label = packet[at + 1 : at + 1 + length]
        labels.append("".join(chr(o) if 33 <= o < 127 and o not in b'.\\"' else f"\\{o:03}" for o in label))
        at += 1 + length
    return ".".join([*labels, ""]) or ".", struct.unpack_from(">H", packet, at + 1)[0]


def line(frame: bytes) -> str | None:
    """A frame as a line of the log; None for what is not an authoritative query or response."""
    outer = fields(frame)
    message = fields(octets(outer, MESSAGE))
    kind = number(message, TYPE)
    if kind == AUTH_QUERY:
        letter, packet = "Q", octets(message, QUERY_MESSAGE)
        seconds, nanoseconds = number(message, QUERY_SECONDS), number(message, QUERY_NANOSECONDS)
    elif kind == AUTH_RESPONSE:
        letter, packet = "R", octets(message, RESPONSE_MESSAGE)
        seconds, nanoseconds = number(message, RESPONSE_SECONDS), number(message, RESPONSE_NANOSECONDS)
    else:
        return None
    name, qtype = question(packet)
    columns = (
        f"{seconds}.{nanoseconds // 1000:06}",
        letter,
        octets(outer, IDENTITY).decode(),
        TRANSPORTS.get(number(message, TRANSPORT), "?"),
        ipaddress.ip_address(octets(message, QUERY_ADDRESS)),
        number(message, QUERY_PORT),
        packet[3] & 15,
        qtype,
        name,
        struct.unpack_from(">H", packet)[0],
    )
    return "\t".join(map(str, columns)) + "\n"


def exactly(stream: BinaryIO, size: int) -> bytes:
    """That many octets; EOFError if the sender went away."""
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def frames(stream: BinaryIO, connection: socket.socket) -> Iterator[bytes]:
    """Data frames of one sender, with its control frames answered."""
    while True:
        (size,) = struct.unpack(">I", exactly(stream, 4))
        if size > DATA_LIMIT:
            raise ValueError(f"frame of {size} octets; the limit is {DATA_LIMIT}")
        if size:
            yield exactly(stream, size)
            continue
        (size,) = struct.unpack(">I", exactly(stream, 4))
        (kind,) = struct.unpack(">I", exactly(stream, size)[:4])
        if kind == READY:
            connection.sendall(control(ACCEPT))
        elif kind == STOP:
            connection.sendall(control(FINISH))
            return


class Sender(socketserver.BaseRequestHandler):
    """One process of a name server."""

    server: "QueryLog"

    def handle(self) -> None:
        """Write what it sends until it goes."""
        try:
            for frame in frames(self.request.makefile("rb"), self.request):
                self.server.write(frame)
        except EOFError:
            print("a name server went away", file=sys.stderr)


class QueryLog(socketserver.ThreadingUnixStreamServer):
    """The log and those who write to it."""

    daemon_threads = True

    def __init__(self, path: str, log: TextIO) -> None:
        super().__init__(path, Sender)
        self.log = log
        self.turn = threading.Lock()

    def write(self, frame: bytes) -> None:
        """Append a frame's line, whole, at once."""
        if text := line(frame):
            with self.turn:
                self.log.write(text)
                self.log.flush()


def main() -> None:
    """Serve until killed. Arguments: the socket's path, the log's."""
    path, log_path = sys.argv[1:3]
    Path(path).unlink(missing_ok=True)
    with Path(log_path).open("a") as log, QueryLog(path, log) as server:
        Path(path).chmod(0o666)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.connect(os.environ["NOTIFY_SOCKET"])
            systemd.send(b"READY=1")
        server.serve_forever()


if __name__ == "__main__":
    main()
