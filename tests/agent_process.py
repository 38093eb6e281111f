"""`sie-agent run` as systemd runs it, as a child of a test: in a network namespace, with a notification
socket, and with a clock that the test may set."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError
from urllib.request import urlopen

from tests.netns import Namespace

T = TypeVar("T")


class Running:
    """A running agent in a namespace, as a child with systemd's notification socket."""

    def __init__(self, wire: Namespace, config: Path, directory: Path, **environment: str) -> None:
        self._wire = wire
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = directory / "notify"
        path.unlink(missing_ok=True)
        self._notify.bind(str(path))
        self._notify.settimeout(20)
        self.log = directory / f"log-{time.monotonic_ns()}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                wire.command(sys.executable, "-m", "sie_agent.cli", "run", "--config", str(config)),
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": str(path), **environment},
            )

    def notified(self, wanted: str) -> str:
        """Wait for a notification that contains a word."""
        while True:
            message = self._notify.recv(4096).decode()
            if wanted in message:
                return message

    def status(self) -> dict[str, object]:
        """Its status."""
        document: dict[str, object] = json.loads(self.page("status"))
        return document

    def page(self, name: str) -> bytes:
        """Ask it on its loopback, which is the namespace's."""
        port = self.metrics_port()

        def ask() -> bytes:
            with urlopen(f"http://127.0.0.1:{port}/{name}", timeout=5) as response:
                return bytes(response.read())

        return self.inside(ask)

    def inside(self, call: Callable[[], T]) -> T:
        """Call in the agent's namespace."""
        return self._wire.inside(call)

    def memory(self, which: str) -> int:
        """Octets, of a line of /proc/PID/status."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith(f"{which}:")]
        return int(line.split()[1]) << 10

    def metrics_port(self) -> int:
        for line in self.log.read_text().splitlines():
            if "metrics on port " in line:
                return int(line.rsplit(" ", 1)[1])
        raise AssertionError("the agent has not said where its metrics are")

    async def until(
        self, condition: Callable[[dict[str, object]], bool], seconds: float = 20
    ) -> dict[str, object]:
        """Wait until its status says so."""
        end = time.monotonic() + seconds
        while True:
            try:
                document = await asyncio.to_thread(self.status)
            except URLError:
                document = {}
            if document and condition(document):
                return document
            assert time.monotonic() < end, f"still {document}\n{self.log.read_text()}"
            await asyncio.sleep(0.05)

    async def stop(self) -> float:
        """SIGTERM; returns how long it took to end, which it must do well."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, 20)
        assert code == 0, self.log.read_text()
        return time.monotonic() - begun

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._notify.close()


@asynccontextmanager
async def running(
    wire: Namespace, config: Path, directory: Path, **environment: str
) -> AsyncIterator[Running]:
    agent = Running(wire, config, directory, **environment)
    try:
        await asyncio.to_thread(agent.notified, "READY=1")
        await agent.until(lambda status: all(source["up"] for source in status["sources"]))  # type: ignore[attr-defined]
        yield agent
    finally:
        agent.end()


class Clock:
    """The time of day of a running agent, by libfaketime; the kernel's, which packets have, stays."""

    def __init__(self, directory: Path) -> None:
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        self._file = directory / "clock"
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.step(0)

    def step(self, seconds: int) -> None:
        """Set it so far away from the true time."""
        aside = self._file.with_suffix(".aside")
        aside.write_text(f"{seconds:+d}")
        aside.rename(self._file)
