"""Programs of others that speak protocol version 1, unmodified: where they come from, how they are fed."""

import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

MODULES: Final = {
    "dnstap-sensor": "github.com/farsightsec/dnstap-sensor@v0.3.0",
    "nmsg-relay": "github.com/farsightsec/nmsg-relay@v0.3.0",
}

BUILD_SECONDS: Final = 600.0
"""Each is some ten modules to download and half a minute of compiling."""

NOT_SERVED: Final = re.compile(r"\b(403 Forbidden|404 Not Found|410 Gone)\b")
"""What Go says when the module proxy does not have a module, as against not being reached."""

DNSTAP: Final = b"protobuf:dnstap.Dnstap"
ACCEPT, START, READY = 1, 2, 4  # control frames of Frame Streams
CONTENT_TYPE: Final = 1
RESOLVER_RESPONSE: Final = 4
CLIENT_RESPONSE: Final = 6


def cache() -> Path:
    """Where the workspace keeps what is slow to make."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sie-fleet"


def program(name: str) -> Path:
    """The program: of a variable (dnstap-sensor by DNSTAP_SENSOR), or built once by `go install`.

    Skips the test, saying so, where there is no Go or the module proxy does not serve the module.
    """
    named = os.environ.get(name.upper().replace("-", "_"))
    if named is not None:
        return Path(named)
    module = MODULES[name]
    directory = cache() / "go" / module.rpartition("/")[2]
    if not (directory / name).exists():
        _install(module, directory)
    return directory / name


def _install(module: str, directory: Path) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("NO GO HERE: install golang-go, which `make test-unit` does as root")
    building = directory.with_name(f"{directory.name}.{os.getpid()}")
    done = subprocess.run(
        [go, "install", module],
        env={**os.environ, "GOBIN": str(building), "GOTOOLCHAIN": "local"},
        cwd=directory.anchor,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if NOT_SERVED.search(done.stdout):
        pytest.skip(f"the module proxy has no {module}: name the program by a variable (see legacy.program)")
    assert done.returncode == 0, done.stdout
    building.rename(directory)


@contextmanager
def running(
    words: Iterable[str | Path], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs meanwhile, its words in a log."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in words],
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


class FrameWriter:
    """A resolver's end of a bidirectional Frame Streams connection, as far as its reader needs it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(10)
        self._socket.connect(str(path))
        self._control(READY)
        escape, length = struct.unpack(">II", self._read(8))
        assert escape == 0
        accepted = self._read(length)
        assert struct.unpack(">I", accepted[:4]) == (ACCEPT,)
        self._control(START)

    def write(self, frame: bytes) -> None:
        """Send one data frame."""
        self._socket.sendall(struct.pack(">I", len(frame)) + frame)

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def _control(self, kind: int) -> None:
        field = struct.pack(">II", CONTENT_TYPE, len(DNSTAP)) + DNSTAP
        body = struct.pack(">I", kind) + field
        self._socket.sendall(struct.pack(">II", 0, len(body)) + body)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            assert more, "the reader closed the connection"
            data += more
        return data


def dnstap(response: bytes, kind: int = RESOLVER_RESPONSE) -> bytes:
    """A dnstap message around one DNS message: dnstap.proto's `type`, and `message` with its two fields."""
    message = _field(1, 0, _varint(kind)) + _field(14, 2, _varint(len(response)) + response)
    return _field(14, 2, _varint(len(message)) + message) + _field(15, 0, _varint(1))


def _field(number: int, wire: int, content: bytes) -> bytes:
    return _varint(number << 3 | wire) + content


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
