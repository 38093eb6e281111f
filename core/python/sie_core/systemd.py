"""Telling systemd how a service is, by sd_notify(3), without a dependency.

Outside systemd (`$NOTIFY_SOCKET` not set) every call does nothing, so programs call without asking.
"""

import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Self

_USEC: Final = 1_000_000


class Notifier:
    """The notification socket of this service, made once at the start: `Notifier.from_environment()`.

    A notification never fails its caller: a datagram that systemd does not take is a notification that the
    watchdog will miss, and that is the right consequence.
    """

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        self._address = address
        self.watchdog_interval: float | None = watchdog / 2 if watchdog is not None else None
        """Seconds between calls of `watchdog()`: half of what the unit allows, as sd_watchdog_enabled(3)
        advises; None when the unit has no watchdog."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, pid: int | None = None) -> Self:
        """The notifier that `$NOTIFY_SOCKET`, `$WATCHDOG_USEC` and `$WATCHDOG_PID` describe."""
        address = environment.get("NOTIFY_SOCKET") or None
        meant_for = environment.get("WATCHDOG_PID")
        usec = environment.get("WATCHDOG_USEC", "")
        mine = meant_for is None or meant_for == str(os.getpid() if pid is None else pid)
        watchdog = int(usec) / _USEC if usec.isdigit() and int(usec) > 0 and mine else None
        return cls(address, watchdog if address is not None else None)

    def ready(self, status: str = "") -> None:
        """The service has started; units ordered after it may start."""
        self._send("READY=1", status)

    def reloading(self, status: str = "") -> None:
        """The service has begun to read its configuration again; `ready` ends it.

        With the time at which it began, as Type=notify-reload asks (systemd.service(5)).
        """
        began = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={began}", status)

    def stopping(self, status: str = "") -> None:
        """The service has begun to stop."""
        self._send("STOPPING=1", status)

    def watchdog(self) -> None:
        """The service is alive: call every `watchdog_interval` from the loop whose life matters."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("", text)

    def _send(self, state: str, status: str = "") -> None:
        if self._address is None:
            return
        lines = [state] if state else []
        if status:
            lines.append(f"STATUS={status.splitlines()[0]}")
        # A leading @ stands for the zero octet of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            try:
                sender.sendto("\n".join(lines).encode(), address)
            except OSError:
                return
