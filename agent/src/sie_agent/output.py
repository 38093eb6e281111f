"""A file of containers that only its owner can read."""

import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, NoReturn, Self

from sie_agent.errors import AgentError, UsageError

PIECE_OCTETS: Final = 128 << 10
"""What is written at once. For larger pieces the kernel looks for larger runs of free pages, which takes it
several times as long as copying the octets does."""


class Output:
    """A file to write containers to, or standard output.

    The file is made with mode 0600, and one that exists gets that mode before anything is written to it: what
    a resolver asks is nobody else's to read. What is no regular file, a pipe say, keeps its mode.
    """

    def __init__(self, name: str, extension: str) -> None:
        """`extension`, or what a name lacks of it, is added; "-" is standard output."""
        self.name = name if name == "-" else _extended(name, extension)
        """What was opened, as it is called."""
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Open it. Raises UsageError."""
        if self.name == "-":
            self._file = sys.stdout.buffer
            return self
        try:
            self._file = self._open(Path(self.name))
        except OSError as wrong:
            raise UsageError(f"--write {self.name}: {wrong.strerror}") from wrong
        return self

    def write(self, data: bytes) -> None:
        """Write a container. Raises AgentError, or BrokenPipeError if nobody reads standard output."""
        assert self._file is not None, "write is called inside the with statement"
        octets = memoryview(data)
        try:
            for start in range(0, len(octets), PIECE_OCTETS):
                self._file.write(octets[start : start + PIECE_OCTETS])
        except OSError as wrong:
            self._raise(wrong)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Write out what is buffered. Raises as `write` does, unless another error is on its way."""
        if self._file is None:
            return
        try:
            self._file.flush()
            if self.name != "-":
                self._file.close()
        except OSError as wrong:
            if kind is None:
                self._raise(wrong)

    @staticmethod
    def _open(path: Path) -> BinaryIO:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
        return os.fdopen(descriptor, "wb")

    def _raise(self, wrong: OSError) -> NoReturn:
        if self.name == "-" and isinstance(wrong, BrokenPipeError):
            raise wrong
        raise AgentError(
            f"--write {self.name}: {wrong.strerror}; what was written before is there"
        ) from wrong


def _extended(name: str, extension: str) -> str:
    """`out` and `out.nmsg` as `out.nmsg.zst`, where that is the extension."""
    if name.endswith(extension):
        return name
    first, dot, rest = extension[1:].partition(".")
    return f"{name}.{rest}" if dot and name.endswith(f".{first}") else f"{name}{extension}"
