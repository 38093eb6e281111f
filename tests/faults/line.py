"""The line between sensors and hub: a router in a namespace of its own, on which packets are dropped,
answered by resets, and held up, and which counts what it does to them."""

import fcntl
import heapq
import itertools
import json
import math
import os
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.netns import Namespace

STRUCK: Final = 'counter name "struck"'
"""In a rule: count what it does."""

EITHER_WAY: Final = 'oifname { "hub", "sensor", "twin" }'
"""In a rule: packets on the last part of their way, so that a detour does not make them count twice."""

TOWARDS_HUB: Final = 'oifname "hub"'
TOWARDS_SENSOR: Final = 'oifname "sensor"'

CUT: Final = (f"{EITHER_WAY} {STRUCK} drop",)
"""Rules of a partition: nothing passes."""

_TUN_SET: Final = 0x400454CA
_TUN_PLAIN: Final = 0x1001  # IP packets, without a header of the device's own before them
_DETOUR: Final = "detour"
_TABLE: Final = "100"
_LARGEST: Final = 65_535
_LOOK: Final = 0.05


@dataclass(frozen=True)
class Leg:
    """An end of the line: a namespace with its addresses, the first of which the router routes to."""

    name: str
    namespace: Namespace
    network: str
    """The first three octets of a /24; the router is its .1."""
    hosts: tuple[int, ...] = (10,)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses at this end."""
        return tuple(f"{self.network}.{host}" for host in self.hosts)

    @property
    def router(self) -> str:
        """The router's address at this end."""
        return f"{self.network}.1"


class Line:
    """A router. Faults are rules of nftables in its forwarding path, one set at a time."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._legs: list[Leg] = []
        forwarding = ("net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
        self._run("sysctl", "-qw", *forwarding, "net.ipv4.conf.default.rp_filter=0")
        self._nft(
            "add table inet fault\n"
            "add counter inet fault passed\n"
            "add counter inet fault struck\n"
            "add chain inet fault forward { type filter hook forward priority 0; policy accept; }\n"
        )

    def join(self, leg: Leg) -> None:
        """Connect an end. No packet on the line is larger than what a network card would have sent."""
        far, near = "uplink", leg.name
        self._namespace.ip("link", "add", near, "type", "veth", "peer", far, "netns", leg.namespace.name)
        for place, interface in ((leg.namespace, far), (self._namespace, near)):
            features = [word for name in ("tso", "gso", "gro", "tx") for word in (name, "off")]
            subprocess.run(
                place.command("ethtool", "-K", interface, *features), check=True, capture_output=True
            )
            place.ip("link", "set", interface, "up")
        self._namespace.ip("address", "add", f"{leg.router}/24", "dev", near)
        for address in leg.addresses:
            leg.namespace.ip("address", "add", f"{address}/24", "dev", far)
        leg.namespace.ip("route", "add", "default", "via", leg.router)
        self._legs.append(leg)

    @contextmanager
    def imposing(self, *rules: str) -> Iterator[None]:
        """Impose a fault meanwhile; `struck` and `passed` count from its beginning."""
        self._nft("reset counters table inet fault")
        self._nft("".join(f"add rule inet fault forward {rule}\n" for rule in rules))
        try:
            yield
        finally:
            self._nft("flush chain inet fault forward")

    @property
    def struck(self) -> int:
        """Packets that met the last fault, also after it was lifted."""
        return self._count("struck")

    @property
    def passed(self) -> int:
        """Packets that its rules counted as having passed."""
        return self._count("passed")

    @contextmanager
    def delaying(self, seconds: float) -> Iterator["Detour"]:
        """Hold every packet up on its way meanwhile."""
        detour = self._namespace.inside(lambda: Detour(seconds))
        self._namespace.ip("link", "set", _DETOUR, "up")
        self._namespace.ip("route", "add", "default", "dev", _DETOUR, "table", _TABLE)
        for leg in self._legs:
            self._namespace.ip("rule", "add", "iif", leg.name, "lookup", _TABLE)
        detour.start()
        try:
            yield detour
        finally:
            for leg in self._legs:
                self._namespace.ip("rule", "del", "iif", leg.name, "lookup", _TABLE)
            detour.stop()

    def _count(self, name: str) -> int:
        said = self._run("nft", "-j", "list", "counter", "inet", "fault", name)
        (packets,) = [
            entry["counter"]["packets"] for entry in json.loads(said)["nftables"] if "counter" in entry
        ]
        return int(packets)

    def _nft(self, text: str) -> None:
        subprocess.run(
            self._namespace.command("nft", "-f", "-"), input=text.encode(), check=True, capture_output=True
        )

    def _run(self, *words: str) -> str:
        return subprocess.run(
            self._namespace.command(*words), check=True, capture_output=True, text=True
        ).stdout


class Detour:
    """Packets are routed through a device of ours, wait here, and go on: a delay that needs no kernel module.

    To be made in the router's namespace.
    """

    def __init__(self, seconds: float) -> None:
        self.delayed = 0
        """Packets that have gone on after their time."""
        self._seconds = seconds
        self._device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self._device, _TUN_SET, struct.pack("16sH22x", _DETOUR.encode(), _TUN_PLAIN))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="detour")

    def start(self) -> None:
        """Begin to pass packets on."""
        self._thread.start()

    def stop(self) -> None:
        """Pass on what waits, and remove the device."""
        self._stopping.set()
        self._thread.join()
        os.close(self._device)

    def _run(self) -> None:
        waiting: list[tuple[float, int, bytes]] = []
        numbers = itertools.count()
        arrivals = select.poll()  # which, unlike select, takes a descriptor of any number
        arrivals.register(self._device, select.POLLIN)
        while waiting or not self._stopping.is_set():
            patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else _LOOK
            if arrivals.poll(math.ceil(patience * 1000)):
                due = time.monotonic() + self._seconds
                heapq.heappush(waiting, (due, next(numbers), os.read(self._device, _LARGEST)))
            while waiting and waiting[0][0] <= time.monotonic():
                os.write(self._device, heapq.heappop(waiting)[2])
                self.delayed += 1
