"""What came from RAW since the last output, merged. No I/O: containers in, one output and its accounts
out."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from sie_core._native import DedupeWindow, FormatError, name_from_text
from sie_core.limits import MAX_INFLATED
from sie_hub.probes import Note
from sie_hub.refine.notes import Notes
from sie_hub.streams import Source

MAX_RECORDS: Final = 100_000
"""Merged records after which a window is closed early: 100,000 of some 150 octets in memory are 15 MB."""

MAX_OCTETS: Final = 8 << 20
"""Octets of records, before compression, after which a window is closed early. Compressed they are a third,
so that a message of 8 MiB has room for what the container that crosses the line brings, too."""


@dataclass(frozen=True, slots=True)
class Output:
    """A closed window: the records, the range of RAW sequences that they cover, and what became of
    everything.

    `data` is empty when nothing in the range was worth a record. `counts` sums `DedupeWindow.add`'s accounts.
    `probes` are those to note, and `probe_counts` what became of all that there were.
    """

    data: bytes
    first: int
    last: int
    containers: int
    rejected: int
    lost: int
    octets: int
    counts: Counter[str] = field(default_factory=Counter)
    probes: tuple[Note, ...] = ()
    probe_counts: Counter[str] = field(default_factory=Counter)


class Window:
    """One window. It begins behind the last output: what vanished from RAW in between is part of its
    range. Names of the probe zone, where there is one, make no records."""

    def __init__(
        self, max_records: int = MAX_RECORDS, max_octets: int = MAX_OCTETS, *, probe_zone: str | None = None
    ) -> None:
        if probe_zone is None:
            self._records = DedupeWindow(max_entries=max_records)
        else:
            self._records = DedupeWindow(max_entries=max_records, probe_zone=name_from_text(probe_zone))
        self._probing = probe_zone is not None
        self._notes = Notes()
        self._max_octets = max_octets
        self._first = 0
        self._last = 0
        self._containers = 0
        self._rejected = 0
        self._lost = 0
        self._octets = 0
        self._counts: Counter[str] = Counter()

    @property
    def first(self) -> int:
        """The first RAW sequence that it covers; 0 while it is empty."""
        return self._first

    @property
    def containers(self) -> int:
        """How many containers it has seen, unreadable ones included."""
        return self._containers

    @property
    def full(self) -> bool:
        """Whether it must be closed before the next container."""
        return self._records.full or self._records.octets >= self._max_octets

    def add(
        self, sequence: int, container: bytes, missed: int, source: Source | None = None, stored: float = 0.0
    ) -> str | None:
        """Take in the container at a RAW sequence, before which `missed` others have vanished; `source` and
        `stored` say whose it is and since when it is there, in seconds since 1970.

        Returns why the container was rejected as a whole, or None.
        """
        if self._first == 0:
            self._first = sequence - missed
        self._last = sequence
        self._containers += 1
        self._lost += missed
        self._octets += len(container)
        try:
            counts = self._records.add(container, limit=MAX_INFLATED)
        except FormatError as error:
            self._rejected += 1
            return str(error)
        self._counts.update(counts)
        if self._probing and counts["probe"]:
            self._notes.add(source, stored, counts["probe"], self._records.take_probes())
        return None

    def close(self) -> Output:
        """Take everything out. The window is not used any more after that."""
        return Output(
            self._records.take(),
            self._first,
            self._last,
            self._containers,
            self._rejected,
            self._lost,
            self._octets,
            self._counts,
            self._notes.notes,
            self._notes.counts,
        )
