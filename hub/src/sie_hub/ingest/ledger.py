"""The ledger: for each source, what it says that it captured, beside what of it is stored here.

A sensor's own words come in accounting records; what is stored of its streams stands beside their positions
and is exact through every crash, because it is written in the same message. An upload of version 1 has no
positions: its sums are kept here and written down from time to time, so that a crash can take back what came
in the last half minute.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from sie_core.trampoline import LossCounter
from sie_hub.ingest.store import standing_in
from sie_hub.nats_errors import Unavailable
from sie_hub.nats_link import Link, StoredMessage
from sie_hub.registry import Participant
from sie_hub.streams import LEDGER, LEDGER_SUBJECTS, POSITION, POSITION_SUBJECTS, Source

KEEP_INTERVAL: Final = 30.0
"""Seconds between two writings of an entry that changes: for 500 sensors some 17 messages a second, where
their containers are ten to fifty times that."""

LAST_WRITE_TIMEOUT: Final = 2.0
"""Seconds for writing down what changed last, when the unit stops."""

FATES: Final = ("acknowledged", "pending", "trimmed", "filtered", "rejected")
"""What becomes of everything that a sensor sees; with these names they stand in its accounting records."""


@dataclass(frozen=True, slots=True)
class Lost:
    """What an upload said that was lost on one hop: a lower bound."""

    payloads: int = 0
    octets: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one source from run to run. `at` (Unix time) is when it last reported or delivered."""

    at: float = 0.0
    reported: Mapping[str, int] = field(default_factory=dict)
    containers: int = 0
    octets: int = 0
    link: Lost = Lost()
    path: Lost = Lost()


@dataclass(frozen=True, slots=True)
class Account:
    """One line of the ledger. Transactions, unless a name says otherwise; None where nobody can know."""

    participant: str
    name: str
    acknowledges: bool
    """Whether deliveries are acknowledged: true for a sensor, false for an upload of version 1."""
    kept: Kept
    stored_containers: int
    stored: int | None = None

    @property
    def seen(self) -> int | None:
        """Everything that the sensor has judged: the sum of its fates."""
        reported = self.kept.reported
        return sum(reported.get(fate, 0) for fate in FATES) if reported else None

    @property
    def missing(self) -> int:
        """Transactions that the sensor believes to be here and that are not: anything but 0 is a loss."""
        return max(0, self.kept.reported.get("acknowledged", 0) - (self.stored or 0))

    @property
    def state(self) -> str:
        """How the two sides agree, in a word or two."""
        reported = self.kept.reported
        if not self.acknowledges:
            return "unacknowledged" if self.stored_containers else "never heard of"
        if not reported:
            return "never reported"
        if reported.get("captured", 0) != sum(reported.get(fate, 0) for fate in FATES[:3]):
            return "its own sum is wrong"
        return f"missing {self.missing}" if self.missing else "agrees"

    def as_document(self) -> dict[str, Any]:
        """The account as JSON has it."""
        return {
            "participant": self.participant,
            "source": self.name,
            "delivery": "acknowledged" if self.acknowledges else "unacknowledged",
            "state": self.state,
            "last_heard": _instant(self.kept.at) if self.kept.at else None,
            "seen": self.seen,
            "reported": dict(self.kept.reported),
            "missing": self.missing,
            "stored": {"containers": self.stored_containers, "transactions": self.stored},
            "lost_before": {"link": asdict(self.kept.link), "path": asdict(self.kept.path)},
        }


class Ledger:
    """The accounts of all sources, and the keeping of what nothing else keeps."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._kept: dict[tuple[str, str], Kept] = {}
        self._changed: set[tuple[str, str]] = set()

    async def load(self) -> None:
        """Take up what the last run has written. Waits for nats-server as long as it takes."""
        for subject in await self._link.persist(partial(self._link.subjects, LEDGER, LEDGER_SUBJECTS)):
            message = await self._link.persist(partial(self._link.last_message, LEDGER, subject))
            kept = None if message is None else _read(message)
            if kept is not None:
                participant, name = subject.split(".")[2:4]
                self._kept[participant, name] = kept

    def reported(self, participant: str, name: str, counters: Mapping[str, int], at: float) -> None:
        """A sensor has said how things stand."""
        self._change(participant, name, at=at, reported=dict(counters))

    def taken(self, participant: str, name: str, octets: int, at: float) -> None:
        """A container of an upload is stored."""
        kept = self._kept.get((participant, name), Kept())
        self._change(participant, name, at=at, containers=kept.containers + 1, octets=kept.octets + octets)

    def lost(self, participant: str, name: str, hop: str, loss: LossCounter) -> None:
        """An upload says that it has lost something on a hop: `link` or `path`."""
        before: Lost = getattr(self._kept.get((participant, name), Kept()), hop)
        now = Lost(before.payloads + loss.payloads, before.octets + loss.octets)
        self._change(participant, name, **{hop: now})

    async def accounts(self, participants: Mapping[str, Participant]) -> list[Account]:
        """Every source of the registry, and those that it knows no more. Raises Unavailable."""
        stored: dict[tuple[str, str], tuple[int, int]] = {}
        for subject in await self._link.subjects(POSITION, POSITION_SUBJECTS):
            message = await self._link.last_message(POSITION, subject)
            if message is not None:
                participant, name = subject.split(".")[2:4]
                containers, transactions = stored.get((participant, name), (0, 0))
                standing = standing_in(message)
                stored[participant, name] = (
                    containers + standing.containers,
                    transactions + standing.transactions,
                )
        written = {
            (participant, name)
            for _kv, _bucket, participant, name in (
                subject.split(".") for subject in await self._link.subjects(LEDGER, LEDGER_SUBJECTS)
            )
        }
        uploads = {(p.name, name) for p in participants.values() for name in p.uploads}
        sensors = {(p.name, name) for p in participants.values() for name in p.sensors}
        for purged in set(self._kept) - sensors - uploads - written - self._changed:
            del self._kept[purged]
        gone = (set(self._kept) | set(stored)) - sensors - uploads
        accounts = []
        for key in sorted(sensors | uploads | gone):
            kept = self._kept.get(key, Kept())
            if key in uploads or (key in gone and key not in stored and not kept.reported):
                accounts.append(Account(*key, False, kept, kept.containers))
            else:
                accounts.append(Account(*key, True, kept, *stored.get(key, (0, 0))))
        return accounts

    async def keep(self) -> None:
        """Write down what has changed, again and again."""
        while True:
            await asyncio.sleep(KEEP_INTERVAL)
            await self._link.wait_up()
            await self._write()

    async def write_all(self) -> None:
        """Write down what has changed since, if nats-server takes it soon."""
        try:
            async with asyncio.timeout(LAST_WRITE_TIMEOUT):
                await self._write()
        except TimeoutError:
            return

    async def _write(self) -> None:
        for key in list(self._changed):
            # What changes while it is written is written the next time.
            self._changed.discard(key)
            data = json.dumps(asdict(self._kept[key]), separators=(",", ":")).encode()
            try:
                await self._link.publish(Source(*key, "").ledger_subject, data, {})
            except Unavailable:
                self._changed.add(key)
                return

    def _change(self, participant: str, name: str, **changes: Any) -> None:
        key = (participant, name)
        self._kept[key] = replace(self._kept.get(key, Kept()), **changes)
        self._changed.add(key)


def _read(message: StoredMessage) -> Kept | None:
    """An entry as it was written; None for one that is none."""
    try:
        document = json.loads(message.data)
        return Kept(**{**document, "link": Lost(**document["link"]), "path": Lost(**document["path"])})
    except (ValueError, TypeError, KeyError):
        return None


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
