"""Files that are replaced at once or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(path: Path, data: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Put `data` in the place of `path`: whoever looks, also after a crash, sees the old file or the new
    one whole.

    The new file has `mode` from its first moment and, with `owner` (uid, gid), that owner. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # The mode asked for, whatever the process's umask made of it.
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make durable what was created, renamed and removed in a directory. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def acting_as_owner(directory: Path) -> Iterator[Path]:
    """For root: work with the rights of a directory's owner, so that what is made there is the owner's.

    Root must not follow with its own rights what an unprivileged user may have laid out for it (a symbolic
    link in the place of a file, or of the directory). Yields the directory as it is to be reached meanwhile:
    for root by the working directory, since the owner may not pass what is above it, as under systemd's
    /var/lib/private. Without effect for everybody else, and for a directory that is not there. The whole
    process changes its rights and its working directory: for commands, not for servers with threads. Raises
    OSError.
    """
    if os.geteuid() != 0 or not directory.exists():
        yield directory
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    before = os.open(".", flags)
    try:
        inside = os.open(directory, flags | os.O_NOFOLLOW)
        try:
            status = os.fstat(inside)
            os.fchdir(inside)
        finally:
            os.close(inside)
        with _rights_of(status):
            yield Path()
    finally:
        os.fchdir(before)
        os.close(before)


@contextmanager
def _rights_of(status: os.stat_result) -> Iterator[None]:
    group = os.getegid()
    os.setegid(status.st_gid)
    try:
        os.seteuid(status.st_uid)
        try:
            yield
        finally:
            os.seteuid(0)
    finally:
        os.setegid(group)
