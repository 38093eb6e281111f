"""What systemd wants to hear from a service (sd_notify(3)), without its library."""

import os
import socket
from typing import Final

_VARIABLE: Final = "NOTIFY_SOCKET"


def notify(state: str) -> None:
    """Send a state such as `READY=1` or `WATCHDOG=1`. Does nothing when no service manager asked for it."""
    address = os.environ.get(_VARIABLE)
    if not address:
        return
    if address.startswith("@"):  # an abstract socket, which systemd writes with @ for its leading NUL
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall(state.encode())


def watchdog_interval() -> float | None:
    """Within how many seconds systemd expects each WATCHDOG=1; None when it does not watch us."""
    usec = os.environ.get("WATCHDOG_USEC")
    pid = os.environ.get("WATCHDOG_PID")
    if not usec or (pid and int(pid) != os.getpid()):
        return None
    return int(usec) / 1_000_000
