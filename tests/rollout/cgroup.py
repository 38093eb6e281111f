"""What a group of processes has used, those that have ended included.

Control groups of both versions count it (Linux, admin-guide/cgroup-v1/cpuacct.rst and cgroup-v2.rst).
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
ACCOUNTING: Final = "cpuacct"  # of version 1; version 2 counts in every group
V2_CONTROLLERS: Final = ROOT / "cgroup.controllers"
NANOSECONDS: Final = 1e-9
MICROSECONDS: Final = 1e-6
KIBIBYTE: Final = 1024
END_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Group:
    """One control group."""

    folder: Path

    def cpu(self) -> float:
        """Seconds of user and system time so far."""
        usage = self.folder / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) * NANOSECONDS
        fields = dict(line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) * MICROSECONDS

    def resident(self) -> int:
        """Octets that the processes of now hold, with what several share counted once (PSS, proc(5))."""
        total = 0
        for process in (self.folder / "cgroup.procs").read_text().split():
            try:
                lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):  # it has ended since
                continue
            total += sum(int(line.split()[1]) * KIBIBYTE for line in lines if line.startswith("Pss:"))
        return total

    def enter(self, *command: str) -> list[str]:
        """The words of a command that runs in this group, with everything that it starts."""
        return ["/bin/sh", "-c", f'echo $$ > "{self.folder}/cgroup.procs" && exec "$@"', "sh", *command]


def of(process: int) -> Group:
    """The group that a process is in."""
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if ACCOUNTING in controllers.split(","):
            return Group(ROOT / ACCOUNTING / path.lstrip("/"))
        if controllers == "" and V2_CONTROLLERS.exists():
            return Group(ROOT / path.lstrip("/"))
    raise OSError(f"process {process} is in no control group that counts")


@contextmanager
def made(name: str) -> Iterator[Group]:
    """A group of that name; what still runs in it at the end is ended, such as connections that ssh keeps."""
    top = ROOT if V2_CONTROLLERS.exists() else ROOT / ACCOUNTING
    folder = top / name
    folder.mkdir(exist_ok=True)
    try:
        yield Group(folder)
    finally:
        _end(folder / "cgroup.procs")
        folder.rmdir()


def _end(processes: Path) -> None:
    end = time.monotonic() + END_SECONDS
    while (left := processes.read_text().split()) and time.monotonic() < end:
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        time.sleep(0.05)
