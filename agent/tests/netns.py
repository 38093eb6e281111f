"""A network namespace with one link, on whose far end a test puts frames."""

import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PCAP_HEADER = struct.Struct("<IHHiIII")
PCAP_RECORD = struct.Struct("<IIII")
PCAP_MAGICS = {0xA1B2C3D4, 0xA1B23C4D}


@dataclass(frozen=True)
class Namespace:
    """A namespace holding the link between `inner`, which the sensor listens to, and `outer`."""

    name: str
    inner: str = "sensor0"
    outer: str = "wire0"

    def command(self, *words: str) -> list[str]:
        """The words of a command that runs inside."""
        return ["ip", "netns", "exec", self.name, *words]

    def plug(self) -> None:
        """Make the link and bring it up."""
        link = ["type", "veth", "peer", "name", self.outer]
        subprocess.run(["ip", "-n", self.name, "link", "add", self.inner, *link], check=True)
        for interface in (self.inner, self.outer, "lo"):
            # Nothing but the test's own frames: no neighbour discovery.
            subprocess.run(
                self.command("sysctl", "-qw", f"net.ipv6.conf.{interface}.disable_ipv6=1"), check=False
            )
            subprocess.run(["ip", "-n", self.name, "link", "set", interface, "up"], check=True)

    def unplug(self) -> None:
        """Take the link away."""
        subprocess.run(["ip", "-n", self.name, "link", "del", self.inner], check=True)

    def inside(self, make: Callable[[], T]) -> T:
        """Call `make` in the namespace, in a thread of its own; sockets that it makes stay there."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                with Path(f"/run/netns/{self.name}").open() as file:
                    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0) != 0:
                        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                results.append(make())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def put(self, frames: list[bytes]) -> None:
        """Put frames on the wire, so that they arrive at `inner`."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((self.outer, 0))
                for frame in frames:
                    raw.send(frame)

        self.inside(send)


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A namespace for one test."""
    made = Namespace(f"sie-agent-{os.getpid()}")
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    try:
        made.plug()
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", made.name], check=True)


def frames_of(pcap: Path) -> list[bytes]:
    """The frames of a little-endian pcap file."""
    data = pcap.read_bytes()
    magic: Any = PCAP_HEADER.unpack_from(data)[0]
    assert magic in PCAP_MAGICS
    frames, offset = [], PCAP_HEADER.size
    while offset < len(data):
        length = PCAP_RECORD.unpack_from(data, offset)[2]
        offset += PCAP_RECORD.size
        frames.append(data[offset : offset + length])
        offset += length
    return frames
