"""The spool: sealed containers on disk, from their sealing until the hub has acknowledged them.

    stream.json                           the stream's id, chosen at random when the spool is made
    position.json                         what has left: the acknowledged sequence and the counts of the
    ledger <sequence:020>.<transactions:08>.nmsg.zst     one container: one zstd frame around one NMSG
    container lock                                  held by the one program that uses the spool

Every file is written aside, synced and renamed, and the directory synced after it, so that a crash at any
moment leaves each file whole or absent. What leaves is first counted in position.json and then removed: a
file whose sequence is counted there is a leftover, which the next opening removes. So nothing is lost that
`append` has returned for, nothing is counted twice, and no sequence is ever used for two containers. There is
no index to repair.

All methods may be called from any thread. Those that write wait for the disk; `ledger` and `take` never do.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from sie_agent.accounting import Leaving, Ledger
from sie_agent.disk import Directory
from sie_agent.errors import SpoolError

MAX_CONTAINERS: Final = 1 << 17
"""Containers in the spool. At the one a second that a quiet sensor seals, a day and a half; the index of that
many takes 131,072 x 192 octets = 24 MiB of memory."""

LOOK_INTERVAL: Final = 60.0
"""Seconds between looks for containers that are too old: the shortest age allowed, so that none is kept for
longer than twice what was asked for, and looking costs nothing."""

STREAM_FILE: Final = "stream.json"
POSITION_FILE: Final = "position.json"
LOCK_FILE: Final = "lock"

_CONTAINER_NAME: Final = re.compile(r"([0-9]{20})\.([0-9]{8})\.nmsg\.zst")
_TEMPORARY_SUFFIX: Final = ".tmp"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_REMEDIES: Final = {
    errno.ENOSPC: "make room on its file system or lower spool.max_bytes",
    errno.EDQUOT: "raise the quota or lower spool.max_bytes",
    errno.EROFS: "mount its file system for writing",
    errno.EACCES: "let the user that the agent runs as write there",
    errno.EPERM: "let the user that the agent runs as write there",
    errno.ENOTDIR: "name a directory",
}


class Entry(NamedTuple):
    """One container in the spool: its sequence, how many transactions it holds, its octets on disk, and when
    it came, by the clock of the spool.
    """

    sequence: int
    transactions: int
    octets: int
    born: float

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.sequence:020d}.{self.transactions:08d}.nmsg.zst"


class Snapshot(NamedTuple):
    """What a spool holds, read without opening it."""

    stream: int
    ledger: Ledger


class _Position(NamedTuple):
    """position.json.

    `last` is the highest sequence given out when it was written; the files beside it may go on.
    """

    acknowledged: int = 0
    last: int = 0
    acknowledged_transactions: int = 0
    acknowledged_containers: int = 0
    trimmed_transactions: int = 0
    trimmed_containers: int = 0
    removing: tuple[int, ...] = ()
    """Sequences that are counted as trimmed and whose files may still be there."""
    expired_transactions: int = 0
    """Of the trimmed ones."""
    unreadable_transactions: int = 0
    """Of the trimmed ones."""


_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux's monotonic clock stops while the machine sleeps; other systems' have no second one to choose."""


def _since_boot() -> float:
    """Seconds that no step of the time of day moves; on Linux they go on while the machine sleeps."""
    return time.clock_gettime(_BOOT_CLOCK)


class Spool:
    """An open spool. Only one program has a spool open at a time."""

    def __init__(
        self,
        directory: Directory,
        max_bytes: int,
        new_stream: Callable[[], int],
        *,
        max_age: float = math.inf,
        clock: Callable[[], float] = _since_boot,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        """Read what is in `directory` (see `open_spool`); `new_stream` gives ids. Raises SpoolError.

        Ages go by `clock`, which no step of the time of day moves; only what a file brings from an earlier
        run is dated by `time_of_day`, and a date in the future counts as now.
        """
        self.on_append: Callable[[], None] = _nothing
        """Called after every append, from the thread that appended."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._new_stream = new_stream
        self._clock = clock
        self._time_of_day = time_of_day
        self._disk_lock = threading.Lock()  # one change of the directory at a time; held while the disk works
        self._state_lock = threading.Lock()  # entries, ledger, taken, last, stream; held for moments only
        self._entries: list[Entry] = []
        self._ledger = Ledger()
        self._taken_through = 0
        self._last = 0
        self._stream = 0
        self._acknowledged = 0
        self._stuck: set[int] = set()  # trimmed or given up, and the disk did not let the file go
        self._recover()

    @property
    def stream(self) -> int:
        """The stream's id, a positive 64-bit number."""
        with self._state_lock:
            return self._stream

    @property
    def next_sequence(self) -> int:
        """The sequence that the next container gets: one more than any ever given out in this spool."""
        with self._state_lock:
            return self._last + 1

    @property
    def ledger(self) -> Ledger:
        """The ledger as it is now."""
        with self._state_lock:
            return self._ledger

    def append(self, data: bytes, transactions: int) -> Entry:
        """Put a container in. It is durable when this returns.

        Makes room first where the bound is reached: the oldest containers that no session has taken yet are
        trimmed. Raises SpoolError if the disk does not take it; then the spool holds what it held before.
        """
        with self._disk_lock:
            entry = Entry(self._last + 1, transactions, len(data), self._clock())
            with self._state_lock:
                self._last = entry.sequence
            try:
                self._make_room(entry.octets)
                self._replace(entry.name, data)
            except OSError as wrong:
                # After a failed sync nobody knows whether the file is there, so its sequence is never used
                # again.
                self._remove_durably([entry])
                raise self._refusal("takes no container", wrong) from wrong
            with self._state_lock:
                self._entries.append(entry)
                self._ledger = self._ledger.added(transactions, entry.octets)
        self.on_append()
        return entry

    def take(self, after: int) -> Entry | None:
        """The first container behind sequence `after`, now marked as on its way, which spares it from
        trimming.
        """
        with self._state_lock:
            index = self._index_after(after)
            if index == len(self._entries):
                return None
            entry = self._entries[index]
            self._taken_through = max(self._taken_through, entry.sequence)
            return entry

    def held(self, sequence: int) -> Entry | None:
        """The container of that sequence, if it is still here."""
        with self._state_lock:
            index = self._index_after(sequence) - 1
            entry = self._entries[index] if index >= 0 else None
        return entry if entry is not None and entry.sequence == sequence else None

    def may_have_made(self, sequence: int, digest: bytes) -> bool:
        """Whether the hub's container of this sequence may be from here: it is, or is held here no more.

        What is not must not be taken for acknowledged, nor what lies before it. Raises SpoolError as `read`.
        """
        entry = self.held(sequence)
        data = self.read(entry) if entry is not None else None
        return data is None or hashlib.sha256(data).digest() == digest

    def read(self, entry: Entry) -> bytes | None:
        """A container's octets; None if it has left the spool, or is unreadable and hereby trimmed.

        Raises SpoolError if it is unreadable and cannot be trimmed either.
        """
        try:
            data = self._directory.read(entry.name)
        except OSError:
            data = b""
        if data and len(data) == entry.octets:
            return data
        with self._disk_lock:
            start = self._index_after(entry.sequence - 1)
            if self._entries[start : start + 1] == [entry]:
                self._settle(start, start + 1, Leaving.UNREADABLE)
        return None

    def acknowledge(self, sequence: int) -> None:
        """The hub has everything up to and including `sequence`: count it, then remove it.

        Raises SpoolError if the disk does not take the count; then the containers stay, and a later call
        settles them.
        """
        with self._disk_lock:
            end = self._index_after(sequence)
            if end:
                self._settle(0, end, Leaving.ACKNOWLEDGED)

    def set_bounds(self, max_bytes: int, max_age: float) -> None:
        """Other bounds from now on; what exceeds them is trimmed by the next append and `trim_expired`."""
        with self._disk_lock:
            self._max_bytes = max_bytes
            self._max_age = max_age

    def trim_expired(self) -> int:
        """Trim what is older than the age allowed and taken by no session; returns how many transactions.

        Raises SpoolError if the disk does not take the count; then they stay.
        """
        with self._disk_lock:
            before = self._ledger.trimmed
            with self._state_lock:
                start = self._index_after(self._taken_through)
                end = start
                oldest = self._clock() - self._max_age
                while end < len(self._entries) and self._entries[end].born < oldest:
                    end += 1
            if end > start:
                self._settle(start, end, Leaving.EXPIRED)
            return self._ledger.trimmed - before

    def renew_stream(self) -> None:
        """Go on under a new stream id, because the hub has other containers of this one than the spool made.

        Sequences go on rising; what is pending is sent in the new stream. Raises SpoolError.
        """
        with self._disk_lock:
            try:
                self._write_stream()
            except OSError as wrong:
                raise self._refusal("cannot begin a stream", wrong) from wrong

    # --- the rest is called with the disk lock held
    # -----------------------------------------------------------

    def _recover(self) -> None:
        """Make sense of what is on disk, removing what a crash has left half done."""
        try:
            names = self._directory.names()
            for name in names:
                if name.endswith(_TEMPORARY_SUFFIX):
                    self._directory.unlink(name)
            position = _read_position(self._directory, names)
            entries, leftovers = _inventory(self._directory, names, position, self._born)
            self._remove_durably(leftovers)
            self._entries = entries
            self._ledger = _ledger_of(position, entries)
            self._acknowledged = position.acknowledged
            self._last = max(
                position.last, position.acknowledged, *(entry.sequence for entry in entries[-1:]), 0
            )
            if STREAM_FILE in names:
                self._stream = _read_stream(self._directory)
            else:
                self._write_stream()
        except OSError as wrong:
            raise self._refusal("cannot be opened", wrong) from wrong

    def _make_room(self, octets: int) -> None:
        """Trim what no session has taken, from the oldest, until `octets` more fit."""
        with self._state_lock:
            start = self._index_after(self._taken_through)
            excess = self._ledger.pending_octets + octets - self._max_bytes
            surplus = len(self._entries) + 1 - MAX_CONTAINERS
            end = start
            while end < len(self._entries) and (excess > 0 or surplus > 0):
                excess -= self._entries[end].octets
                surplus -= 1
                end += 1
        if end > start:
            self._count_and_remove(start, end, Leaving.FULL)

    def _settle(self, start: int, end: int, why: Leaving) -> None:
        """Let entries leave, on a full disk too."""
        try:
            self._count_and_remove(start, end, why)
        except OSError as wrong:
            if why is Leaving.UNREADABLE or wrong.errno not in _NO_ROOM:
                raise self._refusal("cannot be settled", wrong) from wrong
            try:
                # Counting comes before removing, and a full disk has no room to count in. What is
                # acknowledged, or too old, is needed for its name, which holds the count, but no longer for
                # its octets.
                for entry in self._entries[start:end]:
                    self._directory.truncate(entry.name)
                self._count_and_remove(start, end, why)
            except OSError as still_wrong:
                raise self._refusal("cannot be settled", still_wrong) from still_wrong

    def _count_and_remove(self, start: int, end: int, why: Leaving) -> None:
        acknowledged = why is Leaving.ACKNOWLEDGED
        with self._state_lock:
            # They leave the list first, so that no session takes what is about to be trimmed.
            leaving = self._entries[start:end]
            del self._entries[start:end]
            ledger = self._ledger.settled(
                sum(entry.transactions for entry in leaving),
                sum(entry.octets for entry in leaving),
                len(leaving),
                why,
            )
        trimmed = () if acknowledged else tuple(entry.sequence for entry in leaving)
        position = _Position(
            acknowledged=leaving[-1].sequence if acknowledged else self._acknowledged,
            last=self._last,
            acknowledged_transactions=ledger.acknowledged,
            acknowledged_containers=ledger.acknowledged_containers,
            trimmed_transactions=ledger.trimmed,
            trimmed_containers=ledger.trimmed_containers,
            removing=(*self._stuck, *trimmed),
            expired_transactions=ledger.trimmed_expired,
            unreadable_transactions=ledger.trimmed_unreadable,
        )
        try:
            self._replace(POSITION_FILE, json.dumps(position._asdict()).encode())
        except OSError:
            with self._state_lock:
                self._entries[start:start] = leaving
            raise
        with self._state_lock:
            self._ledger = ledger
        self._acknowledged = position.acknowledged
        if acknowledged:
            for entry in leaving:
                with suppress(
                    OSError
                ):  # a file that stays is below the acknowledged sequence: it never counts
                    self._directory.unlink(entry.name)
        else:
            self._remove_durably(leaving)

    def _remove_durably(self, entries: Sequence[Entry]) -> None:
        """Remove files above the acknowledged sequence; position.json names for ever what may stay."""
        if not entries:
            return
        try:
            for entry in entries:
                self._directory.unlink(entry.name)
            self._directory.sync()
        except OSError:
            self._stuck.update(entry.sequence for entry in entries)

    def _write_stream(self) -> None:
        stream = self._new_stream()
        text = json.dumps(
            {"stream": f"{stream:016x}", "created": datetime.now(UTC).isoformat(timespec="seconds")}
        )
        self._replace(STREAM_FILE, text.encode())
        with self._state_lock:
            self._stream = stream

    def _replace(self, name: str, data: bytes) -> None:
        """Make a file durable as a whole: after a crash it is the old one, absent if there was none, or the
        new one.
        """
        temporary = f"{name}{_TEMPORARY_SUFFIX}"
        try:
            self._directory.write(temporary, data)
            self._directory.rename(temporary, name)
        except OSError:
            with suppress(OSError):  # the next opening removes it; what matters is the reason it is there
                self._directory.unlink(temporary)
            raise
        self._directory.sync()

    def _born(self, name: str) -> float:
        """When a file of an earlier run came, by this run's clock."""
        return self._clock() - max(0.0, self._time_of_day() - self._directory.modified(name))

    def _index_after(self, sequence: int) -> int:
        return bisect_right(self._entries, sequence, key=_sequence_of)

    def _refusal(self, what: str, wrong: OSError) -> SpoolError:
        return SpoolError(f"the spool {self._directory.path} {what}: {_because(wrong)}")


@contextmanager
def open_spool(path: Path, max_bytes: int, max_age: float = math.inf) -> Iterator[Spool]:
    """Open the spool in `path`, making it if there is none, and keep every other program out meanwhile.

    Raises SpoolError.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / LOCK_FILE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as wrong:
        raise SpoolError(f"the spool {path} cannot be opened: {_because(wrong)}") from wrong
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SpoolError(
                f"the spool {path} is in use by another sie-agent: stop that one, or name another spool"
            ) from None
        yield Spool(Directory(path), max_bytes, _random_stream, max_age=max_age)
    finally:
        os.close(lock)


def snapshot(path: Path) -> Snapshot | None:
    """What the spool in `path` holds, without opening it or changing anything; None if there is none.

    Meant for a spool that no program has open. Raises SpoolError.
    """
    directory = Directory(path)
    try:
        names = directory.names()
        if STREAM_FILE not in names:
            return None
        position = _read_position(directory, names)
        entries, _ = _inventory(directory, names, position, lambda _name: 0.0)
        return Snapshot(_read_stream(directory), _ledger_of(position, entries))
    except FileNotFoundError:
        return None
    except OSError as wrong:
        raise SpoolError(f"the spool {path} cannot be read: {_because(wrong)}") from wrong


def _inventory(
    directory: Directory, names: Iterable[str], position: _Position, born: Callable[[str], float]
) -> tuple[list[Entry], list[Entry]]:
    """The containers that are pending, by sequence, and those that are counted already and only left over."""
    entries: list[Entry] = []
    leftovers: list[Entry] = []
    removing = set(position.removing)
    for name in names:
        match = _CONTAINER_NAME.fullmatch(name)
        if match is None:
            continue
        entry = Entry(int(match[1]), int(match[2]), directory.size(name), born(name))
        counted = entry.sequence <= position.acknowledged or entry.sequence in removing
        (leftovers if counted else entries).append(entry)
    entries.sort()
    return entries, leftovers


def _ledger_of(position: _Position, entries: Iterable[Entry]) -> Ledger:
    ledger = Ledger(
        acknowledged=position.acknowledged_transactions,
        acknowledged_containers=position.acknowledged_containers,
        trimmed=position.trimmed_transactions,
        trimmed_expired=position.expired_transactions,
        trimmed_unreadable=position.unreadable_transactions,
        trimmed_containers=position.trimmed_containers,
    )
    for entry in entries:
        ledger = ledger.added(entry.transactions, entry.octets)
    return ledger


def _read_position(directory: Directory, names: Iterable[str]) -> _Position:
    if POSITION_FILE not in names:
        return _Position()
    document = _read_json(directory, POSITION_FILE)
    try:
        position = _Position(**{**document, "removing": tuple(document["removing"])})
    except (KeyError, TypeError):
        raise _damaged(directory, POSITION_FILE) from None
    counts = {**position._asdict(), "removing": 0}.values()
    if not all(isinstance(number, int) for number in (*counts, *position.removing)):
        raise _damaged(directory, POSITION_FILE)
    return position


def _read_stream(directory: Directory) -> int:
    text = _read_json(directory, STREAM_FILE).get("stream")
    if not isinstance(text, str) or re.fullmatch("[0-9a-f]{16}", text) is None:
        raise _damaged(directory, STREAM_FILE)
    return int(text, 16)


def _read_json(directory: Directory, name: str) -> dict[str, Any]:
    try:
        document = json.loads(directory.read(name))
    except ValueError:
        raise _damaged(directory, name) from None
    if not isinstance(document, dict):
        raise _damaged(directory, name)
    return document


def _damaged(directory: Directory, name: str) -> SpoolError:
    return SpoolError(
        f"{directory.path / name} is damaged: move the whole directory away (what is pending stays in it), "
        "and a new spool begins"
    )


def _because(wrong: OSError) -> str:
    """The system's reason and the remedy."""
    remedy = _REMEDIES.get(wrong.errno or 0, "look at its file system")
    return f"{wrong.strerror or wrong}; {remedy}"


def _random_stream() -> int:
    return secrets.randbits(64) or 1


def _sequence_of(entry: Entry) -> int:
    return entry.sequence


def _nothing() -> None:
    """Nobody waits for containers."""
