"""The system calls that the spool is made of, on one directory.

The spool's promises are about what is on disk after a crash between any two of these calls, so they are few
and each says what it guarantees. The tests put a simulated disk in this class's place, which forgets whatever
was not synced.
"""

import os
from pathlib import Path


class Directory:
    """One directory of flat files. Every method raises OSError as the system gives it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """The names of all files, in no order."""
        return [path.name for path in self.path.iterdir()]

    def size(self, name: str) -> int:
        """The length of a file in octets."""
        return (self.path / name).stat().st_size

    def modified(self, name: str) -> float:
        """When a file was last written, in seconds since 1970 by the clock of that moment."""
        return (self.path / name).stat().st_mtime

    def read(self, name: str) -> bytes:
        """The whole of a file."""
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Create or overwrite a file, readable by its owner alone.

        Its content is durable when this returns.
        """
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, name: str) -> None:
        """Give the room of a file back and keep its name."""
        os.truncate(self.path / name, 0)

    def rename(self, old: str, new: str) -> None:
        """Put a file in another's place at once: whoever looks sees the one or the other."""
        (self.path / old).replace(self.path / new)

    def unlink(self, name: str) -> None:
        """Remove a file; one that is not there is removed already."""
        (self.path / name).unlink(missing_ok=True)

    def sync(self) -> None:
        """Make durable what was created, renamed and removed before."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
