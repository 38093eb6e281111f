"""Folders that others fill: measured and removed without relying on how deep they are, or how full.

Whoever may make folders may make them deeper than a program can recurse, and hold more names than fit its
memory. Every step goes by open directories and follows no link. All functions raise OSError.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final, NamedTuple

MAX_DEPTH: Final = 8
"""Folders within folders that are looked into. What puts files here makes two: `up` and a channel's."""

MAX_ENTRIES: Final = 100_000
"""Names that are looked at in one go, some 0.5 s and 20 MB: the files of more than two months that a legacy
sensor makes one of a minute."""

_AT_ONCE: Final = 1000  # names read from a folder that is emptied


class Measured(NamedTuple):
    """What is below a folder: files and their octets, how many names were looked at, and whether there is
    more, deeper than MAX_DEPTH or above MAX_ENTRIES."""

    files: int = 0
    octets: int = 0
    entries: int = 0
    beyond: bool = False


@contextmanager
def within(parent: int | None, name: str) -> Iterator[int]:
    """A folder of a folder, opened; without one `name` is a path, whose way nobody else can change."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def names(directory: int, most: int = MAX_ENTRIES) -> list[str]:
    """The names in a folder, so many at most, in no order."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in islice(entries, most)]


def look(name: str, directory: int) -> os.stat_result | None:
    """What has a name in a folder; None if it was renamed since."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_folder(name: str, directory: int) -> bool:
    """Whether it is a folder, and no link to one."""
    state = look(name, directory)
    return state is not None and stat.S_ISDIR(state.st_mode)


def measure(directory: int, depth: int = MAX_DEPTH, entries: int = MAX_ENTRIES) -> Measured:
    """Measure a folder. What its owner keeps to itself is passed over; links count as what they are."""
    listed = names(directory, entries + 1)
    files = octets = 0
    seen = len(listed)
    beyond = seen > entries
    for name in listed:
        state = look(name, directory)
        if state is None:
            continue
        if not stat.S_ISDIR(state.st_mode):
            files += 1
            octets += state.st_size
        elif depth == 0 or seen >= entries:
            beyond = True
        else:
            inner = _measured(directory, name, depth - 1, entries - seen)
            files += inner.files
            octets += inner.octets
            seen += inner.entries
            beyond = beyond or inner.beyond
    return Measured(files, octets, seen, beyond)


def _measured(parent: int, name: str, depth: int, entries: int) -> Measured:
    try:
        with within(parent, name) as directory:
            return measure(directory, depth, entries)
    except OSError:
        return Measured()  # its owner keeps it to itself, or it is gone


def discard(name: str, parent: int, most: int = MAX_ENTRIES) -> bool:
    """Remove a file, or a folder with everything in it. Returns whether it is gone: so many names at most are
    removed in one go.

    Folders are moved up to the one that is removed before they are emptied, so that two are open at a time
    however deep they are.
    """
    if not is_folder(name, parent):
        os.unlink(name, dir_fd=parent)
        return True
    left = most
    with within(parent, name) as top:
        while left > 0 and (listed := names(top, min(left, _AT_ONCE))):
            for entry in listed:
                left -= 1
                if is_folder(entry, top):
                    left -= _lift(entry, top, left)
                else:
                    os.unlink(entry, dir_fd=top)
        gone = not names(top, 1)
    if gone:
        os.rmdir(name, dir_fd=parent)
    return gone


def _lift(name: str, top: int, most: int) -> int:
    """Remove the files of a folder, move its folders beside it, and remove it if it is empty then.

    Returns how many names were removed or moved."""
    done = 0
    with within(top, name) as folder:
        while done < most and (listed := names(folder, min(most - done, _AT_ONCE))):
            for entry in listed:
                if is_folder(entry, folder):
                    # A name that nobody can have laid something under before.
                    os.rename(entry, f".{secrets.token_hex(16)}", src_dir_fd=folder, dst_dir_fd=top)
                else:
                    os.unlink(entry, dir_fd=folder)
            done += len(listed)
        empty = not names(folder, 1)
    if empty:
        os.rmdir(name, dir_fd=top)
    return done
