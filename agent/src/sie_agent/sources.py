"""Where packets come from: network interfaces, each picked up again whenever it has vanished."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sie_agent.config import SourceConfig
from sie_agent.errors import AgentError, SourceError
from sie_core._native import Container, LiveSource, NativeError, Recorder

RINGS_OCTETS: Final = 32 << 20
"""The rings of all interfaces together: memory that the kernel fills while the agent is busy elsewhere."""

RING_OCTETS_MAX: Final = 16 << 20
"""The ring of one interface: at 300,000 packets of 150 octets a second, a third of a second."""

RING_OCTETS_MIN: Final = 2 << 20
"""Eight of the kernel's blocks: what is less runs full while the agent is not scheduled for a moment."""

DRAIN_TURN: Final = 1.0
"""Seconds in which what a stopped source still has is read: it ends by itself long before."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceStatus:
    """How one interface is. `failures` and `kernel_drops` count from the start of the program."""

    interface: str
    up: bool
    failures: int
    kernel_drops: int
    last_error: str | None


class Source(Protocol):
    """What the capture thread pumps."""

    def pump(self, recorder: Recorder, timeout: float) -> list[Container]:
        """Read for up to `timeout` seconds."""

    def drain(self, recorder: Recorder) -> Iterator[Container]:
        """Take in nothing more, and read what was taken in."""

    def close(self) -> None:
        """Stop listening."""


class Interfaces:
    """All network interfaces: one source, so that their packets come in the order of their times."""

    def __init__(self, interfaces: Sequence[SourceConfig], resolvers: Sequence[str]) -> None:
        """Open those that are there.

        Raises AgentError if the resolvers are too many for a filter, and on another system than Linux.
        """
        names = [(interface.interface, interface.promiscuous) for interface in interfaces]
        self._promiscuous = dict(names)
        try:
            self._live = LiveSource(
                names,
                resolvers,
                ring_bytes=ring_octets(len(names)),
                encapsulated=[source.interface for source in interfaces if source.encapsulated],
            )
        except NativeError as error:
            raise AgentError(f"the interfaces cannot be listened to: {error}") from error
        self._told: dict[str, SourceStatus] = {}
        self._tell()

    def pump(self, recorder: Recorder, timeout: float) -> list[Container]:
        """Read for up to `timeout` seconds."""
        containers = recorder.pump(self._live, timeout)
        self._tell()
        return containers

    def drain(self, recorder: Recorder) -> Iterator[Container]:
        """Take in nothing more, and read what was taken in."""
        self._live.drain()
        while True:
            yield from recorder.pump(self._live, DRAIN_TURN)
            if recorder.at_end:
                return

    def set_resolvers(self, resolvers: Sequence[str]) -> None:
        """Replace the kernel's filters; no packet that has passed the old ones is lost.

        Raises AgentError if the kernel does not take the new ones; the old ones then stay.
        """
        try:
            self._live.set_resolvers(resolvers)
        except NativeError as error:
            raise AgentError(f"the resolvers stay as they are: {error}") from error

    def statuses(self) -> list[SourceStatus]:
        """How each interface is. May be called from any thread."""
        return [SourceStatus(**status) for status in self._live.status()]

    def close(self) -> None:
        """Stop listening."""
        self._live.close()

    def _tell(self) -> None:
        """Log each interface that came or went since this was called last."""
        for status in self.statuses():
            before = self._told.get(status.interface)
            self._told[status.interface] = status
            if status.up and (before is None or not before.up):
                promiscuous = ", promiscuous" if self._promiscuous[status.interface] else ""
                again = " again" if before is not None else ""
                _log.info("listening on %s%s%s", status.interface, promiscuous, again)
            elif not status.up and (before is None or before.up):
                _log.error(
                    "no packets from %s: %s; trying again until it is there",
                    status.interface,
                    status.last_error,
                )


def check_system() -> None:
    """Raises SourceError where no interface can be listened to: on another system than Linux."""
    try:
        LiveSource.check_system()
    except NativeError as error:
        raise SourceError(f"the interfaces cannot be listened to: {error}") from error


def ring_octets(interfaces: int) -> int:
    """The size of the ring of each of so many interfaces."""
    return max(RING_OCTETS_MIN, min(RING_OCTETS_MAX, RINGS_OCTETS // interfaces))
