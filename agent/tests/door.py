"""What stands around a sensor that asks: a hub's HTTPS door over mutual TLS 1.3, a resolver, a proxy."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

from .hub import Authority


@dataclass
class Door:
    """What the hub answers, by path: a status and a document. `paths` are those that were asked."""

    answers: dict[str, tuple[int, object]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    clock_ahead: float = 0.0
    """Seconds by which the hub's clock is before this one's."""
    port: int = 0

    @property
    def url(self) -> str:
        """As `uplink.hubs` has it."""
        return f"wss://127.0.0.1:{self.port}"

    @contextmanager
    def open(self, authority: Authority) -> Iterator["Door"]:
        """Serve on loopback, with a certificate of the authority, to its sensors alone."""
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                door.paths.append(self.path)
                status, document = door.answers.get(self.path, (404, {"error": "not received"}))
                body = (document if isinstance(document, str) else json.dumps(document)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def date_time_string(self, timestamp: float | None = None) -> str:  # noqa: ARG002
                return formatdate(time.time() + door.clock_ahead, usegmt=True)

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(*authority.server("door"))
        context.load_verify_locations(authority.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        server.socket = context.wrap_socket(server.socket, server_side=True)
        self.port = server.server_port
        with _served(server):
            yield self


@contextmanager
def _served(server: HTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class Resolver:
    """A resolver that gives every name the same response code. `names` are those that were asked."""

    rcode: int = 0
    names: list[str] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def answering(self) -> Iterator["Resolver"]:
        """Answer on a UDP port of loopback."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(0.05)
            self.port = sock.getsockname()[1]
            over = threading.Event()
            thread = threading.Thread(target=self._serve, args=(sock, over), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                over.set()
                thread.join(5)

    def _serve(self, sock: socket.socket, over: threading.Event) -> None:
        while not over.is_set():
            try:
                question, peer = sock.recvfrom(512)
            except TimeoutError:
                continue
            labels, offset = [], 12
            while question[offset]:
                labels.append(question[offset + 1 : offset + 1 + question[offset]].decode())
                offset += 1 + question[offset]
            self.names.append(".".join(labels))
            # A stray answer of another id comes first, as somebody might send who guesses.
            sock.sendto(bytes([question[0] ^ 0xFF]) + question[1:2] + b"\x81\x83" + question[4:], peer)
            sock.sendto(question[:2] + bytes([0x81, 0x80 | self.rcode]) + question[4:], peer)


@contextmanager
def proxy(seen: list[str], at: str = "127.0.0.1") -> Iterator[int]:
    """An HTTP proxy on loopback that takes CONNECT; its port. `seen` gets what was asked for."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in at else socket.AF_INET

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            seen.append(self.path)
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=5) as beyond:
                self.send_response(200)
                self.end_headers()
                up = threading.Thread(target=_pump, args=(self.connection, beyond), daemon=True)
                up.start()
                _pump(beyond, self.connection)
                up.join(5)

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing."""

    server = Server((at, 0), Handler)
    with _served(server):
        yield server.server_port


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while octets := source.recv(1 << 16):
            target.sendall(octets)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()
