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
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from sie_core.limits import MAX_ACCOUNTING
from sie_hub.streams import MAX_MESSAGE

ROUND_FILES: Final = 64
"""Files of one account that are taken in before it is another one's turn."""

TORN_AFTER: Final = 600.0
"""Seconds without a change after which a file that is not whole will not become so any more."""

ABANDONED_AFTER: Final = 86400.0
"""Seconds after which a hidden file is what an upload that broke off has left."""

REFUSED_FILES: Final = 1000
REFUSED_OCTETS: Final = 1 << 30
"""Refused files that are kept, and their octets; of more the oldest go."""

NMSG_HEADER: Final = 10
ZSTD_MAGIC: Final = bytes.fromhex("28b52ffd")

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
    """What is next to be taken in, and how many files there are in all."""

    files: list[Waiting]
    total: int


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
    if file.size > MAX_MESSAGE:
        return Refusal(
            "size", f"it has {file.size} octets, over the limit of {MAX_MESSAGE}; make files smaller"
        )
    return None


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
            for directory in sorted(_names(up)):
                match = _CHANNEL.fullmatch(directory)
                if match is not None:
                    with _within(up, directory) as channel:
                        names = sorted(name for name in _names(channel) if not name.startswith("."))
                        total += len(names)
                        files += _files(channel, int(match[1]), names[: ROUND_FILES - len(files)])
        return Listing(files, total)

    def clear_abandoned(self) -> int:
        """Remove what uploads that broke off long ago have left; returns how many files."""
        removed = 0
        with self._opened() as up:
            for directory in _names(up):
                if _CHANNEL.fullmatch(directory) is None:
                    continue
                with _within(up, directory) as channel:
                    for name in _names(channel):
                        state = _look(name, channel) if name.startswith(".") else None
                        if state is not None and time.time() - state.st_mtime > ABANDONED_AFTER:
                            os.unlink(name, dir_fd=channel)
                            removed += 1
        return removed

    def read(self, file: Waiting) -> bytes:
        """The octets of a file."""
        with self._channel(file) as channel:
            return _read(file.name, channel, MAX_MESSAGE)

    def remove(self, file: Waiting) -> None:
        """Let a file go that is stored."""
        with self._channel(file) as channel:
            os.unlink(file.name, dir_fd=channel)

    def refuse(self, file: Waiting) -> None:
        """Lay a file aside for a person to look at."""
        aside = self._refused / f"{time.time_ns()}.{self.account}.ch{file.channel}.{_printable(file.name)}"
        with self._channel(file) as channel:
            os.rename(file.name, aside, src_dir_fd=channel)
        kept = [path for path in sorted(self._refused.iterdir(), reverse=True) if not path.is_dir()]
        octets = 0
        for count, path in enumerate(kept, start=1):
            octets += path.lstat().st_size
            if count > REFUSED_FILES or (octets > REFUSED_OCTETS and count > 1):
                path.unlink()

    def accounts(self) -> bytes | None:
        """What the sensor last said about itself; None if nothing."""
        with self._opened() as up:
            try:
                return _read("accounts.json", up, MAX_ACCOUNTING)
            except FileNotFoundError:
                return None

    def say_position(self, stream: int, position: int) -> None:
        """Tell the sensor what of its stream is stored durably."""
        text = json.dumps({"stream": f"{stream:016x}", "position": position})
        temporary = ".position.json.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._opened() as up:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=up)
            descriptor = os.open(temporary, flags, 0o600, dir_fd=up)
            with os.fdopen(descriptor, "w") as file:
                os.fchmod(descriptor, 0o644)  # readable by the account, which owns the directory around it
                file.write(f"{text}\n")
            os.replace(temporary, "position.json", src_dir_fd=up, dst_dir_fd=up)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = os.open(self._up, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _channel(self, file: Waiting) -> Iterator[int]:
        with self._opened() as up, _within(up, f"ch{file.channel}") as channel:
            yield channel


def forget_account(drop: Path, account: str, *, dry_run: bool) -> tuple[int, int]:
    """Remove an account's folder, and what of it was refused. Returns how many files there are in each.

    Where a link leads is not followed. Raises OSError.
    """
    root = drop / account
    waiting = sum(len(files) for _directory, _folders, files in os.walk(root))
    aside = drop / "refused"
    refused = (
        [path for path in aside.iterdir() if _account_of(path.name) == account] if aside.is_dir() else []
    )
    if not dry_run:
        for path in refused:
            path.unlink()
        with suppress(FileNotFoundError):
            shutil.rmtree(root)
    return waiting, len(refused)


def _account_of(refused: str) -> str:
    """The account that a refused file came from, by the name under which it was laid aside."""
    return refused.split(".", 2)[1] if refused.count(".") > 1 else ""


@contextmanager
def _within(parent: int, name: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def _files(directory: int, channel: int, names: Iterable[str]) -> Iterator[Waiting]:
    now = time.time()
    for name in names:
        state = _look(name, directory)
        if state is not None:
            regular = stat.S_ISREG(state.st_mode)
            yield Waiting(channel, name, state.st_size, max(0.0, now - state.st_mtime), regular)


def _look(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None  # it was renamed since


def _read(name: str, directory: int, most: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as file:
        return file.read(most + 1)


def _printable(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:120]
