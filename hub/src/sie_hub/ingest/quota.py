"""How much one sensor or upload may deliver: so much at once, and as much again within a day.

RAW keeps a day of everything, on one disk. Without a bound for each whoever holds one credential could fill
it in hours, and then nobody's data is stored.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

DAY: Final = 86400.0


@dataclass(slots=True)
class _Account:
    """What a source may still deliver, as of a time; below zero it has delivered more already."""

    left: float
    at: float


class Quotas:
    """What each source has left. Kept in memory: a restart gives everybody the whole again."""

    def __init__(self, octets: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.octets = octets
        self._clock = clock
        self._accounts: dict[tuple[str, str], _Account] = {}

    def allows(self, source: tuple[str, str]) -> bool:
        """Whether a source (participant and name) may deliver more now."""
        return self._account(source).left > 0

    def spend(self, source: tuple[str, str], octets: int) -> None:
        """So much of a source is stored."""
        self._account(source).left -= octets

    def _account(self, source: tuple[str, str]) -> _Account:
        now = self._clock()
        account = self._accounts.setdefault(source, _Account(self.octets, now))
        account.left = min(self.octets, account.left + (now - account.at) * self.octets / DAY)
        account.at = now
        return account
