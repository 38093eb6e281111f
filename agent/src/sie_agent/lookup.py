"""One look-up of one name at one resolver over UDP, as a user's machine makes it (RFC 1035, section 4)."""

import secrets
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final

from sie_agent.errors import AgentError

TRIES: Final = 3
SECONDS_PER_TRY: Final = 2.0

_HEADER: Final = struct.Struct("!6H")  # id, flags, four counts
_RECURSION_DESIRED: Final = 0x0100
_RESPONSE: Final = 0x8000
_A_IN: Final = struct.pack("!2H", 1, 1)
_RCODES: Final = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


class NoAnswer(AgentError):
    """The resolver cannot be asked, or does not answer."""


@dataclass(frozen=True)
class Looked:
    """How a look-up ended: the response code by name, and how long it took in seconds."""

    rcode: str
    seconds: float


def look_up(name: str, resolver: str, port: int = 53) -> Looked:
    """Ask for the address of a name. Raises NoAnswer."""
    identifier = secrets.randbits(16)
    question = _query(name, identifier)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(resolver, port, type=socket.SOCK_DGRAM)[0]
    except OSError as error:
        raise NoAnswer(f"{resolver}: is no resolver's address: {error.strerror or error}") from None
    began = time.monotonic()
    why = f"no answer within {TRIES * SECONDS_PER_TRY:g} s"
    with socket.socket(family, kind, protocol) as client:
        for _ in range(TRIES):
            try:
                client.connect(address)
                client.send(question)
                rcode = _answer(client, question)
            except TimeoutError:
                continue
            except OSError as error:
                why = error.strerror or str(error)
                time.sleep(0.1)
                continue
            return Looked(_RCODES.get(rcode, f"response code {rcode}"), time.monotonic() - began)
    raise NoAnswer(f"{resolver}: {why.lower()}")


def _query(name: str, identifier: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.rstrip(".").split("."))
    return _HEADER.pack(identifier, _RECURSION_DESIRED, 1, 0, 0, 0) + labels + b"\0" + _A_IN


def _answer(client: socket.socket, question: bytes) -> int:
    """The response code of the answer to this question; others are passed over. Raises OSError."""
    deadline = time.monotonic() + SECONDS_PER_TRY
    while True:
        client.settimeout(max(0.001, deadline - time.monotonic()))
        message = client.recv(65535)
        if len(message) < _HEADER.size or message[:2] != question[:2]:
            continue
        flags = int.from_bytes(message[2:4])
        repeated = message[_HEADER.size : len(question)].lower() == question[_HEADER.size :].lower()
        if flags & _RESPONSE and (repeated or flags & 0xF):
            return flags & 0xF
