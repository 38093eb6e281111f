"""The drop: containers that come as files over SSH, in one folder for each account.

    DROP/<account>/                 the account's root directory (chroot); it cannot change anything here
    DROP/<account>/up/ch<channel>/  where its files are put, under a hidden name first and then renamed
    DROP/<account>/up/accounts.json what a sensor says about itself
    DROP/<account>/up/position.json what of its stream is stored: the acknowledgement
    DROP/refused/                   files that were not taken, for a person to look at

The account says who sends; a file's name says nothing but which container it is. The owner of a folder may
lay anything into it, so nothing here follows a link or waits for a pipe, and every step goes by open
directories.
"""

import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from sie_core.limits import MAX_ACCOUNTING
from sie_hub.ingest.trees import MAX_ENTRIES, Measured, discard, is_folder, look, measure, names, within
from sie_hub.streams import MAX_MESSAGE

ROUND_FILES: Final = 64
"""Files of one account that are taken in before it is another one's turn."""

ROUND_OCTETS: Final = 64 << 20
"""And their octets, of which one file may have as many: a second of a slow disk."""

TRIMMED_FILES: Final = 1000
"""Files beyond its quota that are taken from an account before it is another one's turn: some seconds."""

TORN_AFTER: Final = 600.0
"""Seconds without a change after which a file that is not whole will not become so any more."""

ABANDONED_AFTER: Final = 86400.0
"""Seconds after which a hidden file is what an upload that broke off has left."""

REFUSED_FILES: Final = 1000
REFUSED_OCTETS: Final = 1 << 30
"""Refused files that are kept, and their octets; of more the oldest go."""

MAX_FILE: Final = 64 << 20
"""A file of others, which is held in memory while it is stored: thirteen times the 5 MB that an extremely
busy resolver makes in a minute."""

MAX_SAID: Final = 20
"""Refusals that an account can read of itself, the last ones."""

MAX_SAID_OCTETS: Final = 16 << 10
"""Twenty of some 300 octets, and as much again for names."""

NMSG_HEADER: Final = 10
ZSTD_MAGIC: Final = bytes.fromhex("28b52ffd")

FILES_OF_UP: Final = ("accounts.json", "position.json", "refused.txt")
"""What there is beside the folders of channels."""

_CHANNEL: Final = re.compile(r"ch([1-9][0-9]{0,4})")
_OF_SENSOR: Final = re.compile(r"([0-9a-f]{16})\.([0-9]{20})\.([0-9]{8})\.nmsg\.zst")
_OF_OTHERS: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\.nmsg")


class Numbered(NamedTuple):
    """What the name of a sensor's file says: the container's stream, sequence and count of transactions."""

    stream: int
    sequence: int
    transactions: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file in the drop: `age` is the seconds since it was changed last."""

    channel: int
    name: str
    size: int
    age: float
    regular: bool

    @property
    def numbered(self) -> Numbered | None:
        """What its name says, if it is a sensor's."""
        match = _OF_SENSOR.fullmatch(self.name)
        if match is None:
            return None
        return Numbered(int(match[1], 16), int(match[2]), int(match[3]))

    @property
    def named(self) -> bool:
        """Whether its name is one that a file here may have."""
        return self.numbered is not None or _OF_OTHERS.fullmatch(self.name) is not None

    @property
    def shown(self) -> str:
        """Where it is and how it is called, fit for a log."""
        return f"ch{self.channel}/{_printable(self.name)}"


class Listing(NamedTuple):
    """What is next to be taken in; how many files there are, and what all comes to, hidden ones included."""

    files: list[Waiting]
    total: int
    below: Measured

    def over(self, quota: int) -> bool:
        """Whether more is there than an account may have."""
        return self.below.octets > quota or self.below.beyond


class Refusal(NamedTuple):
    """Why a file is not taken: a word for the counter and a sentence."""

    outcome: str
    sentence: str


def refusal(file: Waiting, channels: frozenset[int]) -> Refusal | None:
    """Why a file cannot be taken, whatever is in it; None if it may."""
    if not file.regular:
        return Refusal("kind", "it is no plain file; put containers there and nothing else")
    if not file.named:
        return Refusal("name", "its name is neither STREAM.SEQUENCE.TRANSACTIONS.nmsg.zst nor NAME.nmsg")
    if file.channel not in channels:
        allowed = ", ".join(map(str, sorted(channels)))
        return Refusal(
            "channel", f"channel {file.channel} is not registered for this account, only {allowed}"
        )
    return oversize(file, file.size)


def oversize(file: Waiting, octets: int) -> Refusal | None:
    """Why a file with so many octets cannot be taken; None if it may. A file can grow after it was listed."""
    most = MAX_FILE if file.numbered is None else MAX_MESSAGE
    if octets > most:
        return Refusal("size", f"it has {octets} octets, over the limit of {most}; make files smaller")
    return None


def pieces(data: bytes, most: int = MAX_MESSAGE) -> list[bytes] | Refusal:
    """Whole NMSG containers as few messages of a stream, in order, each as large as can be."""
    at, begins, cut = 0, 0, []
    while at < len(data):
        length = NMSG_HEADER + int.from_bytes(data[at + 6 : at + NMSG_HEADER], "big")
        if length > most:
            return Refusal("size", f"it holds a container of {length} octets, over the limit of {most}")
        if at + length - begins > most:
            cut.append(data[begins:at])
            begins = at
        at += length
    return [*cut, data[begins:]]


def whole(data: bytes, *, compressed: bool) -> bool:
    """Whether octets are a zstd frame's beginning, or NMSG containers from the first to the last octet."""
    if compressed:
        return data.startswith(ZSTD_MAGIC)
    at = 0
    while at + NMSG_HEADER <= len(data) and data[at : at + 4] == b"NMSG":
        at += NMSG_HEADER + int.from_bytes(data[at + 6 : at + NMSG_HEADER], "big")
    return 0 < at == len(data)


class Folder:
    """The folder of one account. Raises OSError where the disk, or the rights on it, do not allow a thing."""

    def __init__(self, drop: Path, account: str) -> None:
        self.account = account
        self._up = drop / account / "up"
        self._refused = drop / "refused"

    @property
    def exists(self) -> bool:
        """Whether there is such an account."""
        return self._up.is_dir()

    def waiting(self) -> Listing:
        """What is to be taken in, in the order of channel and name, ROUND_FILES at most; no hidden files."""
        files: list[Waiting] = []
        total = 0
        with self._opened() as up:
            below = measure(up)
            for directory in sorted(names(up)):
                match = _CHANNEL.fullmatch(directory)
                if match is not None:
                    with within(up, directory) as channel:
                        shown = sorted(name for name in names(channel) if not name.startswith("."))
                        total += len(shown)
                        files += _files(channel, int(match[1]), shown[: ROUND_FILES - len(files)])
        return Listing(_of_one_turn(files), total, below)

    def clear_abandoned(self) -> int:
        """Remove what uploads that broke off long ago have left; returns how many files."""
        removed = 0
        with self._opened() as up:
            for directory in names(up):
                if _CHANNEL.fullmatch(directory) is None:
                    continue
                with within(up, directory) as channel:
                    for name in names(channel):
                        state = look(name, channel) if name.startswith(".") else None
                        if state is None or stat.S_ISDIR(state.st_mode):
                            continue
                        if time.time() - state.st_mtime > ABANDONED_AFTER:
                            os.unlink(name, dir_fd=channel)
                            removed += 1
        return removed

    def read(self, file: Waiting) -> bytes:
        """The octets of a file."""
        with self._channel(file) as channel:
            return _read(file.name, channel, MAX_FILE)

    def remove(self, file: Waiting) -> None:
        """Let a file go that is stored."""
        with self._channel(file) as channel:
            os.unlink(file.name, dir_fd=channel)

    def refuse(self, file: Waiting) -> None:
        """Lay a file aside for a person to look at."""
        aside = self._refused / f"{time.time_ns()}.{self.account}.ch{file.channel}.{_printable(file.name)}"
        with self._channel(file) as channel:
            os.rename(file.name, aside, src_dir_fd=channel)
        octets = 0
        with _opened(self._refused) as refused:
            for count, name in enumerate(sorted(names(refused), reverse=True), start=1):
                octets += _octets(name, refused)
                if count > REFUSED_FILES or (octets > REFUSED_OCTETS and count > 1):
                    discard(name, refused)

    def excess(self, quota: int) -> Iterator[Waiting]:
        """What waits beyond a quota of octets, or of MAX_ENTRIES files: in each channel hidden files, then
        what is last by name."""
        octets = count = 0
        with self._opened() as up:
            for directory in sorted(names(up)):
                match = _CHANNEL.fullmatch(directory)
                if match is not None:
                    with within(up, directory) as channel:
                        listed = names(channel, MAX_ENTRIES + TRIMMED_FILES)
                        listed.sort(key=lambda name: (name.startswith("."), name))
                        for file in _files(channel, int(match[1]), listed):
                            octets += file.size
                            count += 1
                            if octets > quota or count > MAX_ENTRIES:
                                yield file

    def discard_strays(self) -> int:
        """Remove what stands where nothing is looked for, and folders within channels. Returns how many."""
        removed = 0
        with self._opened() as up:
            for name in names(up):
                if _CHANNEL.fullmatch(name) is not None:
                    with within(up, name) as channel:
                        folders = [inner for inner in names(channel) if is_folder(inner, channel)]
                        removed += sum(_discarded(inner, channel) for inner in folders)
                elif name.removeprefix(".").removesuffix(".part").removesuffix(".new") not in FILES_OF_UP:
                    removed += _discarded(name, up)
        return removed

    def accounts(self) -> bytes | None:
        """What the sensor last said about itself; None if nothing."""
        with self._opened() as up:
            try:
                return _read("accounts.json", up, MAX_ACCOUNTING)
            except FileNotFoundError:
                return None

    def say_position(self, stream: int, position: int, digest: bytes | None) -> None:
        """Tell the sensor what of its stream is stored durably, and which container is at the position."""
        known = {"digest": digest.hex()} if digest is not None else {}
        document = {"stream": f"{stream:016x}", "position": position, **known}
        self._say("position.json", json.dumps(document))

    def say_refusal(self, sentence: str) -> None:
        """Tell whoever sends what was not taken, below what was told before."""
        with self._opened() as up:
            try:
                said = _read("refused.txt", up, MAX_SAID_OCTETS).decode(errors="replace").splitlines()
            except OSError:
                said = []  # nothing yet, or something else that its owner has laid there
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._say("refused.txt", "\n".join([*said, f"{at} {sentence}"][-MAX_SAID:]))

    def _say(self, name: str, text: str) -> None:
        temporary = f".{name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._opened() as up:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=up)
            descriptor = os.open(temporary, flags, 0o600, dir_fd=up)
            with os.fdopen(descriptor, "w") as file:
                os.fchmod(descriptor, 0o644)  # readable by the account, which owns the directory around it
                file.write(f"{text}\n")
            os.replace(temporary, name, src_dir_fd=up, dst_dir_fd=up)

    def _opened(self) -> AbstractContextManager[int]:
        return _opened(self._up)

    @contextmanager
    def _channel(self, file: Waiting) -> Iterator[int]:
        with self._opened() as up, within(up, f"ch{file.channel}") as channel:
            yield channel


def forget_account(drop: Path, account: str, *, dry_run: bool) -> tuple[int, int]:
    """Remove an account's folder, and what of it was refused. Returns how many files there are in each.

    Where a link leads is not followed. Raises OSError.
    """
    if not drop.is_dir():
        return 0, 0
    waiting, refused = 0, []
    with _opened(drop) as top:
        if is_folder(account, top):
            with within(top, account) as root:
                waiting = measure(root, entries=sys.maxsize - 1).files
            while not dry_run and not discard(account, top):
                continue
        if is_folder("refused", top):
            with within(top, "refused") as aside:
                refused = [name for name in names(aside) if _account_of(name) == account]
                for name in refused if not dry_run else ():
                    while not discard(name, aside):
                        continue
    return waiting, len(refused)


def _account_of(refused: str) -> str:
    """The account that a refused file came from, by the name under which it was laid aside."""
    return refused.split(".", 2)[1] if refused.count(".") > 1 else ""


def _opened(path: Path) -> AbstractContextManager[int]:
    return within(None, str(path))


def _of_one_turn(files: list[Waiting]) -> list[Waiting]:
    octets = 0
    for count, file in enumerate(files):
        octets += file.size if file.size <= MAX_FILE else 0  # larger ones are refused unread
        if count and octets > ROUND_OCTETS:
            return files[:count]
    return files


def _files(directory: int, channel: int, listed: Iterable[str]) -> Iterator[Waiting]:
    now = time.time()
    for name in listed:
        state = look(name, directory)
        if state is not None:
            regular = stat.S_ISREG(state.st_mode)
            yield Waiting(channel, name, state.st_size, max(0.0, now - state.st_mtime), regular)


def _octets(name: str, directory: int) -> int:
    """How much a file has, or a folder with everything in it."""
    state = look(name, directory)
    if state is None or not stat.S_ISDIR(state.st_mode):
        return 0 if state is None else state.st_size
    with within(directory, name) as folder:
        return state.st_size + measure(folder).octets


def _discarded(name: str, directory: int) -> bool:
    """Remove something as far as its owner lets us; whether it is gone."""
    try:
        return discard(name, directory)
    except OSError:
        return False  # what its owner keeps to itself


def _read(name: str, directory: int, most: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as file:
        return file.read(most + 1)


def _printable(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:120]
