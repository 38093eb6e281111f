"""The probes of one window: which of them are noted, so that their sensors can ask. Pure."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from sie_hub.probes import Note
from sie_hub.streams import FILES, VERSION_1, Source

NOTES_PER_SENSOR: Final = 8
"""Probes of one sensor that are noted in one window. A sensor makes one at a time; each costs a write of some
300 octets to disk, so that a sensor that makes nothing else costs refine no more than a few milliseconds."""

Seen = tuple[str, str, float | None, float | None]
"""A probe as `DedupeWindow.take_probes` gives it: nonce, type, when asked, when answered."""


class Notes:
    """What is noted of the probes of a window, and what became of all of them.

    `counts`: each transaction that asked for a name of the probe zone is `noted`, `repeated` (of a nonce that
    is noted in this window), `limited` (its sensor has made too many) or `unnoted` (no nonce, or of an
    upload, which has no certificate to ask with).
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._noted: dict[tuple[str, str], dict[str, Note]] = {}

    @property
    def notes(self) -> tuple[Note, ...]:
        """The notes, each once."""
        return tuple(note for notes in self._noted.values() for note in notes.values())

    def add(self, source: Source | None, stored: float, total: int, seen: Iterable[Seen]) -> None:
        """Take in the probes of one container: `total` in all, of which `seen` have a nonce."""
        if source is None or source.stream in (VERSION_1, FILES):
            self.counts["unnoted"] += total
            return
        with_nonce = list(seen)
        self.counts["unnoted"] += total - len(with_nonce)
        noted = self._noted.setdefault((source.participant, source.sensor), {})
        for nonce, transaction, asked, answered in with_nonce:
            note = Note(source.participant, source.sensor, nonce, transaction, asked, answered, stored)
            known = noted.get(nonce)
            if known is not None:
                self.counts["repeated"] += 1
                # A resolver asks more than one server; the transaction that says most is the one to tell of.
                if note.whole and not known.whole:
                    noted[nonce] = note
            elif len(noted) < NOTES_PER_SENSOR:
                self.counts["noted"] += 1
                noted[nonce] = note
            else:
                self.counts["limited"] += 1
