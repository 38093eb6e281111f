"""What a running process has used so far, as the kernel counts it."""

import os
import time
from pathlib import Path
from typing import Final

from tests.bench.measure import Failed

SETTLE_SECONDS: Final = 20.0
SETTLED_SECONDS: Final = 2.0
SETTLED_CPU: Final = 0.011
"""Of a core, below which a program that has nothing to do is called settled: one tick of 10 ms a second."""


def cpu_of(process: int) -> float:
    """Seconds that a process and its threads have used, from /proc/PID/stat (proc(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_all() -> float:
    """Seconds that all processors were busy, with whatever, from the first line of /proc/stat (proc(5))."""
    user, nice, system, _idle, _iowait, *interrupts = (
        int(ticks) for ticks in Path("/proc/stat").read_text().partition("\n")[0].split()[1:8]
    )
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def resident_of(process: int) -> int:
    """The largest resident size so far, in octets."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise Failed(f"process {process} has no VmHWM")


def until_settled(*processes: int) -> None:
    """Wait until processes have done what they do after their start, which is no part of what is measured."""
    end = time.monotonic() + SETTLE_SECONDS
    used = [cpu_of(process) for process in processes]
    while time.monotonic() < end:
        time.sleep(SETTLED_SECONDS)
        before, used = used, [cpu_of(process) for process in processes]
        most = max(now - then for now, then in zip(used, before, strict=True))
        if most < SETTLED_CPU * SETTLED_SECONDS:
            return
