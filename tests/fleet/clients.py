"""Those who show an API key, without pause while a test lasts: a reader, and an upload of version 1."""

import contextlib
import http.client
import re
import socket
import ssl
import threading
from pathlib import Path

RECORDING = Path(__file__).parents[2] / "hub" / "tests" / "recordings" / "nmsg-relay-0.3.0.txt"
CONTAINERS = 4  # in the recorded session
TIMEOUT = 20.0  # seconds


def unchecked() -> ssl.SSLContext:
    """TLS with whoever answers: the lab's certificate is the lab's own."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Asking:
    """A client in a thread of its own, which goes over to another key when it is told."""

    def __init__(self, address: tuple[str, int], key: str) -> None:
        self.address = address
        self.key = key
        self.welcome = 0
        """How often it was taken."""
        self.refused: list[str] = []
        """What it was told otherwise since it was taken first: a key is not in force at once."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """End it, once what is under way is done."""
        self._over.set()
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

    def once(self, key: str) -> str:
        """Show a key once: an empty text if it was taken, otherwise what was said."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                said = self.once(self.key)
            except OSError as error:
                said = str(error)
            if not said:
                self.welcome += 1
            elif self.welcome:
                self.refused.append(said)


class AskingReader(Asking):
    """Asks serve again and again."""

    def once(self, key: str) -> str:
        host, port = self.address
        with contextlib.closing(
            http.client.HTTPSConnection(host, port, context=unchecked(), timeout=TIMEOUT)
        ) as connection:
            connection.request("GET", "/dnsdb/v2/rate_limit", headers={"X-API-Key": key})
            answer = connection.getresponse()
            text = answer.read().decode()
            return "" if answer.status == http.client.OK else f"{answer.status} {text}"


class LegacyUpload(Asking):
    """Says a recorded session of nmsg-relay again and again; its end is answered when all is stored."""

    def once(self, key: str) -> str:
        head, _, digits = RECORDING.read_text().partition("\n")[2].partition("\n\n")
        request = re.sub(r"(?m)^X-Api-Key: .*$", f"X-Api-Key: {key}", head).replace("\n", "\r\n")
        plain = socket.create_connection(self.address, timeout=TIMEOUT)
        with unchecked().wrap_socket(plain) as end:
            end.sendall(f"{request}\r\n\r\n".encode() + bytes.fromhex(digits))
            answer = b""
            while part := end.recv(4096):
                answer += part
        first = answer.partition(b"\r\n")[0].decode()
        finished = bytes.fromhex("08011005") in answer
        return "" if first.startswith("HTTP/1.1 101 ") and finished else first or "no answer"
