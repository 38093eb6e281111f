"""dnstap that resolvers bring: the endpoints where they connect, and what is told of those that do."""

import grp
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sie_agent.config import DnstapConfig
from sie_agent.errors import AgentError
from sie_core._native import Container, DnstapSource, NativeError, Recorder

DRAIN_TURN: Final = 1.0
"""Seconds in which what a stopped source still has is read: it ends by itself long before."""

NOTICES_PERIOD: Final = 60.0
NOTICES_BURST: Final = 10
"""Lines of the log about connections in so many seconds: whoever reaches a socket can cause them. A resolver
that is restarted causes one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DnstapStatus:
    """How the endpoints are, and who is connected."""

    endpoints: tuple[str, ...]
    connections: tuple[dict[str, Any], ...]
    """Each with `endpoint`, `peer`, `version` (as the sender says), `frames`, and `resolver`: whether a
    message of a resolver's has come."""
    last_refusal: str | None


class Notices:
    """Lines that others cause: the first ones of each period are written, then how many were not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._written = 0
        self._withheld = 0

    def tell(self, notices: Sequence[tuple[bool, str]]) -> None:
        """Log sentences, each with whether something is wrong."""
        if self._clock() - self._began >= NOTICES_PERIOD:
            if self._withheld:
                _log.warning("dnstap: %d more lines about connections were not written", self._withheld)
            self._began = self._clock()
            self._written = self._withheld = 0
        for trouble, sentence in notices:
            if self._written < NOTICES_BURST:
                self._written += 1
                _log.log(logging.WARNING if trouble else logging.INFO, "dnstap: %s", sentence)
            else:
                self._withheld += 1


class DnstapSockets:
    """All dnstap endpoints: one source, so that a resolver that is busy waits for no silent one."""

    def __init__(self, endpoints: Sequence[DnstapConfig]) -> None:
        """Listen on each. Raises AgentError if one cannot be listened on."""
        self._endpoints = tuple(endpoint.endpoint for endpoint in endpoints)
        self._source = DnstapSource()
        self._notices = Notices()
        try:
            for endpoint in endpoints:
                self._source.listen(
                    endpoint.endpoint,
                    mode=endpoint.mode,
                    group=None if endpoint.group is None else _number_of(endpoint.group),
                    senders=endpoint.senders or None,
                )
        except NativeError as error:
            self._source.close()
            raise AgentError(f"sources: {error}") from error
        _log.info("listening for dnstap on %s", ", ".join(self._endpoints))

    def pump(self, recorder: Recorder, timeout: float) -> list[Container]:
        """Read for up to `timeout` seconds."""
        containers = recorder.pump(self._source, timeout)
        self._notices.tell(self._source.take_notices())
        return containers

    def drain(self, recorder: Recorder) -> Iterator[Container]:
        """Take in no connection more, and read what was sent before."""
        self._source.drain()
        while True:
            yield from self.pump(recorder, DRAIN_TURN)
            if recorder.at_end:
                return

    def status(self) -> DnstapStatus:
        """Who is connected. May be called from any thread."""
        status = self._source.status()
        return DnstapStatus(self._endpoints, tuple(status["connections"]), status["last_refusal"])

    def counters(self) -> Mapping[str, int]:
        """Connections, by how they ended: `dnstap_connections_seen` is the sum of all others."""
        status = self._source.status()
        return {name: count for name, count in status.items() if name.startswith("dnstap_connections_")}

    def close(self) -> None:
        """Stop listening, and close every connection."""
        self._source.close()


def _number_of(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise AgentError(
            f"sources: there is no group {group} on this host for the dnstap socket; make it, or name the "
            "one that the resolver runs in"
        ) from None
