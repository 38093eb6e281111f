"""Network namespaces with links on whose far ends a test puts frames."""

import ctypes
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_NUMBERS = itertools.count()
LARGEST_MTU = 65_535  # of a veth link: a frame that was joined or made up whole goes over it as it is


@dataclass(frozen=True)
class Namespace:
    """A namespace; at first with one link between `inner`, which is listened to, and `outer`."""

    name: str
    inner: str = "sensor0"
    outer: str = "wire0"

    def command(self, *words: str) -> list[str]:
        """The words of a command that runs inside."""
        return ["ip", "netns", "exec", self.name, *words]

    def ip(self, *words: str) -> None:
        """Run ip(8) on what is inside."""
        subprocess.run(["ip", "-n", self.name, *words], check=True)

    def plug(self, inner: str | None = None, outer: str | None = None) -> None:
        """Make a link and bring it up."""
        inner, outer = inner or self.inner, outer or self.outer
        self.ip("link", "add", inner, "type", "veth", "peer", "name", outer)
        for interface in (inner, outer):
            self.ip("link", "set", interface, "mtu", str(LARGEST_MTU), "up")

    def unplug(self, inner: str | None = None) -> None:
        """Take a link away."""
        self.ip("link", "del", inner or self.inner)

    def inside(self, call: Callable[[], T]) -> T:
        """Call in the namespace, in a thread of its own; sockets made there stay there."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                with Path(f"/run/netns/{self.name}").open() as file:
                    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0) != 0:
                        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                results.append(call())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def put(self, frames: list[bytes], interface: str | None = None) -> None:
        """Send frames from an interface: `outer` unless told otherwise, so that they arrive at `inner`."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((interface or self.outer, 0))
                for frame in frames:
                    raw.send(frame)

        self.inside(send)


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A namespace for one test, in which nothing but the test sends: no neighbour discovery."""
    made = Namespace(f"sie-test-{os.getpid()}-{next(_NUMBERS)}")
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    try:
        quiet = [f"net.ipv6.conf.{which}.disable_ipv6=1" for which in ("all", "default")]
        subprocess.run(made.command("sysctl", "-qw", *quiet), check=False)
        made.ip("link", "set", "lo", "up")
        made.plug()
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", made.name], check=True)
