"""The question whether a token is good, as the role asks it before anything is installed."""

import base64
import http.server
import json
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sie_core import identity
from sie_core.identity import KeyKind
from tests.docs.pages import COLLECTION

PROGRAM = COLLECTION / "roles/sensor/files/standing.py"
NOW = datetime.now(UTC)
TOKEN = "A" * 43
GOOD = f"Basic {base64.b64encode(f'isp_a/ns1:{TOKEN}'.encode()).decode()}"


class Hub(http.server.BaseHTTPRequestHandler):
    """What enrol answers to the question."""

    def do_GET(self) -> None:
        good = self.path == "/.well-known/est/simpleenroll" and self.headers["Authorization"] == GOOD
        self.send_response(204 if good else 401)
        self.end_headers()
        if not good:
            self.wfile.write(b"this token is not known here\n")

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


class Proxy(socketserver.BaseRequestHandler):
    """Connects whoever asks by CONNECT with the hub, the only one that knows where it is."""

    hub: int
    asked: list[str]

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.request.recv(1)
        self.asked.append(head.decode().splitlines()[0])
        self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.hub)) as hub:
            back = threading.Thread(target=self._carry, args=(hub, self.request))
            back.start()
            self._carry(self.request, hub)
            back.join()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(ConnectionError):  # one side ends the connection without a word
            while octets := source.recv(65536):
                target.sendall(octets)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[..., tuple[str, list[str]]]]:
    """Asks about a token, through a proxy or not; the answer, and what the proxy was asked."""
    ca_key = identity.generate_key(KeyKind.P256, os.urandom)
    ca = identity.make_ca(ca_key, "lab.example", now=NOW, random=os.urandom)
    key = identity.generate_key(KeyKind.P256, os.urandom)
    names = ["hub.example", "localhost"]
    certificate = identity.issue_server_certificate(
        key.public_key(), names, [], ca, ca_key, now=NOW, random=os.urandom
    )
    file = tmp_path / "hub.pem"
    file.write_bytes(identity.certificate_to_pem(certificate) + identity.private_key_to_pem(key))
    hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    hub.socket = context.wrap_socket(hub.socket, server_side=True)
    proxy = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy)
    Proxy.hub, Proxy.asked = hub.server_address[1], []

    def asked(host: str, token: str, *, by_proxy: bool) -> tuple[str, list[str]]:
        question = {
            "url": f"https://{host}:{hub.server_address[1] if host == 'localhost' else 8444}",
            "ca": identity.certificate_to_pem(ca).decode(),
            "user": "isp_a/ns1",
            "token": token,
            "proxy": f"http://127.0.0.1:{proxy.server_address[1]}" if by_proxy else "",
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.read_text()],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout, Proxy.asked

    with serving(hub), serving(proxy):
        yield asked


@pytest.mark.parametrize(("token", "answer"), [(TOKEN, ""), ("B" * 43, "this token is not known here")])
def test_the_answer_is_the_hub_s_own_sentence_or_nothing(
    ask: Callable[..., tuple[str, list[str]]], token: str, answer: str
) -> None:
    assert ask("localhost", token, by_proxy=False) == (answer, [])


def test_behind_a_proxy_nothing_else_is_asked(ask: Callable[..., tuple[str, list[str]]]) -> None:
    answer, asked = ask("hub.example", TOKEN, by_proxy=True)
    assert answer == ""
    assert [line.rpartition(" ")[0] for line in asked] == ["CONNECT hub.example:8444"]


def test_who_is_not_the_hub_is_not_believed(ask: Callable[..., tuple[str, list[str]]]) -> None:
    answer, _ = ask("other.example", TOKEN, by_proxy=True)
    assert answer.startswith("no answer that can be believed")
