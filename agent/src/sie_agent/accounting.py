"""The ledger: every transaction that reached the spool is acknowledged, pending or trimmed, and the sum says
so.

    captured = acknowledged + pending + trimmed

The counts survive restarts: those of what has left the spool are written down before it leaves, those of what
is in it stand in the files' names.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto


class Leaving(Enum):
    """Why containers leave the spool: the hub has them, or (all others) they are trimmed."""

    ACKNOWLEDGED = auto()
    FULL = auto()
    EXPIRED = auto()
    UNREADABLE = auto()


@dataclass(frozen=True)
class Ledger:
    """Transactions, and the containers that hold them, by what became of them since the spool was made."""

    acknowledged: int = 0
    pending: int = 0
    trimmed: int = 0
    trimmed_expired: int = 0
    """Of those trimmed: they were older than spool.max_age."""
    trimmed_unreadable: int = 0
    """Of those trimmed: the disk did not give them back."""
    acknowledged_containers: int = 0
    pending_containers: int = 0
    trimmed_containers: int = 0
    pending_octets: int = 0

    @property
    def captured(self) -> int:
        """Every transaction that reached the spool."""
        return self.acknowledged + self.pending + self.trimmed

    @property
    def trimmed_full(self) -> int:
        """Of those trimmed: the spool was full."""
        return self.trimmed - self.trimmed_expired - self.trimmed_unreadable

    def added(self, transactions: int, octets: int) -> "Ledger":
        """After one container has reached the spool."""
        return replace(
            self,
            pending=self.pending + transactions,
            pending_containers=self.pending_containers + 1,
            pending_octets=self.pending_octets + octets,
        )

    def settled(self, transactions: int, octets: int, containers: int, why: Leaving) -> "Ledger":
        """After containers have left the spool."""
        left = replace(
            self,
            pending=self.pending - transactions,
            pending_containers=self.pending_containers - containers,
            pending_octets=self.pending_octets - octets,
        )
        if why is Leaving.ACKNOWLEDGED:
            return replace(
                left,
                acknowledged=left.acknowledged + transactions,
                acknowledged_containers=left.acknowledged_containers + containers,
            )
        return replace(
            left,
            trimmed=left.trimmed + transactions,
            trimmed_expired=left.trimmed_expired + (transactions if why is Leaving.EXPIRED else 0),
            trimmed_unreadable=left.trimmed_unreadable + (transactions if why is Leaving.UNREADABLE else 0),
            trimmed_containers=left.trimmed_containers + containers,
        )
