"""Where packets come from: network interfaces, each opened again whenever it has vanished."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from sie_agent.backoff import Backoff
from sie_agent.config import SourceConfig
from sie_core._native import CaptureError, Container, LiveSource, Recorder

REOPEN_MIN: Final = 0.5
REOPEN_MAX: Final = 15.0
"""Seconds between attempts to open an interface: opening is a few system calls, and packets pass by
meanwhile.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceStatus:
    """How one source is. `failures` and `kernel_drops` count from the start of the program."""

    interface: str
    up: bool
    failures: int
    kernel_drops: int
    last_error: str | None


class Source(Protocol):
    """What the capture thread pumps."""

    def pump(self, recorder: Recorder, timeout: float) -> list[Container] | None:
        """Read for up to `timeout` seconds; None, at once, if the source is down."""

    def status(self) -> SourceStatus:
        """How the source is. May be called from any thread."""

    def close(self) -> None:
        """Stop listening."""


class Interface:
    """One network interface."""

    def __init__(
        self,
        config: SourceConfig,
        resolvers: tuple[str, ...],
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._resolvers = resolvers
        self._clock = clock
        self._backoff = Backoff(REOPEN_MIN, REOPEN_MAX, jitter)
        self._live: LiveSource | None = None
        self._open_at = 0.0
        self._drops_before = 0
        self._drops = 0
        self._failures = 0
        self._error: str | None = None

    def pump(self, recorder: Recorder, timeout: float) -> list[Container] | None:
        """Read for up to `timeout` seconds; None, at once, if the interface is down."""
        if self._live is None:
            if self._clock() < self._open_at:
                return None
            self._open()
        if self._live is None:
            return None
        try:
            containers = recorder.pump(self._live, timeout)
            self._drops = self._drops_before + self._live.kernel_drops()
        except CaptureError as error:
            self._fail(error)
            return None
        return containers

    def status(self) -> SourceStatus:
        """How the interface is."""
        return SourceStatus(
            interface=self._config.interface,
            up=self._live is not None,
            failures=self._failures,
            kernel_drops=self._drops,
            last_error=self._error,
        )

    def close(self) -> None:
        """Stop listening."""
        live, self._live = self._live, None
        if live is not None:
            live.close()
        self._drops_before = self._drops

    def _open(self) -> None:
        config = self._config
        try:
            self._live = LiveSource(config.interface, self._resolvers, promiscuous=config.promiscuous)
        except CaptureError as error:
            self._fail(error)
            return
        _log.info(
            "listening on %s%s%s",
            config.interface,
            ", promiscuous" if config.promiscuous else "",
            "" if self._error is None else " again",
        )
        self._error = None
        self._backoff.reset()

    def _fail(self, error: CaptureError) -> None:
        self.close()
        self._failures += 1
        self._open_at = self._clock() + self._backoff.pause()
        if self._error is None:
            _log.error(
                "no packets from %s: %s; trying again every %g to %g s",
                self._config.interface,
                error,
                REOPEN_MIN,
                REOPEN_MAX,
            )
        self._error = str(error)
