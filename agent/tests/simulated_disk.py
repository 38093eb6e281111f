"""A disk that crashes: it stops at a chosen system call and then forgets whatever was not synced.

What a crash leaves of unsynced changes is chosen by the test: any of the directory's changes since its last
sync may have reached the disk and any may not, and a file that was being written holds any beginning of its
content.
"""

import errno
import time
from collections.abc import Callable
from pathlib import Path

from sie_agent.disk import Directory


class Crash(BaseException):
    """The machine stops here.

    Not an Exception, so that no handler of the code under test can go on after it.
    """


class _File:
    """The content of one file, and whether it has been synced."""

    def __init__(self) -> None:
        self.data = b""
        self.synced = False
        self.modified = time.time()


class SimulatedDisk(Directory):
    """A `Directory` in memory."""

    def __init__(self) -> None:
        super().__init__(Path("/simulated"))
        self.calls_left: int | None = None
        """How many more system calls are made before the machine stops; None: it runs on."""
        self.failing: Callable[[str], int | None] = lambda _call: None
        """Asked before every call with its name; an errno makes the call fail with it."""
        self._now: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._unsynced: list[tuple[str, _File | None]] = []

    def crash(self, survives: Callable[[], bool], written: Callable[[int], int]) -> None:
        """Become what is on disk after a crash.

        `survives` is asked for each unsynced change of the directory, `written` for the length that remains
        of an unsynced file.
        """
        for name, file in self._unsynced:
            if survives():
                _apply(self._durable, name, file)
        self._unsynced.clear()
        for file in self._durable.values():
            if not file.synced:
                file.data = file.data[: written(len(file.data))]
                file.synced = True
        self._now = dict(self._durable)
        self.calls_left = None

    def names(self) -> list[str]:
        self._call("names")
        return list(self._now)

    def size(self, name: str) -> int:
        return len(self._now[name].data)

    def modified(self, name: str) -> float:
        return self._now[name].modified

    def read(self, name: str) -> bytes:
        if name not in self._now:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        return self._now[name].data

    def write(self, name: str, data: bytes) -> None:
        self._call("create")
        file = _File()
        self._change(name, file)
        self._call("write")
        file.data = data
        self._call("fsync")
        file.synced = True

    def truncate(self, name: str) -> None:
        self._call("truncate")
        self._now[name].data = b""

    def rename(self, old: str, new: str) -> None:
        self._call("rename")
        file = self._now[old]
        self._change(new, file)
        self._change(old, None)

    def unlink(self, name: str) -> None:
        self._call("unlink")
        self._change(name, None)

    def sync(self) -> None:
        self._call("sync")
        for name, file in self._unsynced:
            _apply(self._durable, name, file)
        self._unsynced.clear()

    def _change(self, name: str, file: _File | None) -> None:
        _apply(self._now, name, file)
        self._unsynced.append((name, file))

    def _call(self, what: str) -> None:
        if self.calls_left is not None:
            if self.calls_left == 0:
                raise Crash
            self.calls_left -= 1
        code = self.failing(what)
        if code is not None:
            raise OSError(code, errno.errorcode[code])


def _apply(names: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file
