"""The ledger: every transaction that reached the spool is acknowledged, pending or trimmed, and the sum says
so.

    captured = acknowledged + pending + trimmed

The counts survive restarts: those of what has left the spool are written down before it leaves, those of what
is in it stand in the files' names.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Ledger:
    """Transactions, and the containers that hold them, by what became of them since the spool was made."""

    acknowledged: int = 0
    pending: int = 0
    trimmed: int = 0
    acknowledged_containers: int = 0
    pending_containers: int = 0
    trimmed_containers: int = 0
    pending_octets: int = 0

    @property
    def captured(self) -> int:
        """Every transaction that reached the spool."""
        return self.acknowledged + self.pending + self.trimmed

    def added(self, transactions: int, octets: int) -> "Ledger":
        """After one container has reached the spool."""
        return replace(
            self,
            pending=self.pending + transactions,
            pending_containers=self.pending_containers + 1,
            pending_octets=self.pending_octets + octets,
        )

    def settled(self, transactions: int, octets: int, containers: int, *, acknowledged: bool) -> "Ledger":
        """After containers have left the spool, because the hub has them or (not `acknowledged`) to make
        room.
        """
        left = replace(
            self,
            pending=self.pending - transactions,
            pending_containers=self.pending_containers - containers,
            pending_octets=self.pending_octets - octets,
        )
        if acknowledged:
            return replace(
                left,
                acknowledged=left.acknowledged + transactions,
                acknowledged_containers=left.acknowledged_containers + containers,
            )
        return replace(
            left,
            trimmed=left.trimmed + transactions,
            trimmed_containers=left.trimmed_containers + containers,
        )
