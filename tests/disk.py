"""A small file system of its own, for tests in which a disk is full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PAGE: Final = 1 << 12


class Disk:
    """A file system that somebody else may fill."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ballast = directory / "ballast"

    @property
    def room(self) -> int:
        """Octets that are left."""
        state = os.statvfs(self._directory)
        return state.f_bavail * state.f_frsize

    def fill(self, room: int = 0) -> None:
        """Fill it with a file of somebody else's, but for some octets."""
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while file.write(bytes(_PAGE)):
                pass
        assert self.room == 0
        os.truncate(self._ballast, self._ballast.stat().st_size - room)

    def empty(self) -> None:
        """Take that file away."""
        self._ballast.unlink()


@contextmanager
def small_disk(directory: Path, octets: int) -> Iterator[Disk]:
    """A file system of so many octets at a directory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={octets}", "tmpfs", str(directory)], check=True)
    try:
        yield Disk(directory)
    finally:
        subprocess.run(["umount", str(directory)], check=True)
