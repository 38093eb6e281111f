"""Runs a command and says what it used: CPU seconds of all its processes and threads, and its largest
resident size.

Run as a script of its own, this is the small process between the benchmark and what is measured: a child
begins with its parent's resident size on its record, and this parent's is small.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class Failed(Exception):
    """A command that did not end well."""


@dataclass(frozen=True)
class Usage:
    """What one run of a command used."""

    cpu: float
    """Seconds, user and system."""

    wall: float
    resident: int
    """Octets."""


def run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Usage:
    """Run a command to its end; what it says goes to the log. Raises Failed.

    What earlier commands have written is on disk before, so that no command pays for another's octets.
    """
    os.sync()
    # -I and -S leave out what the helper has no need of, so that it stays small.
    helper = [sys.executable, "-I", "-S", str(Path(__file__)), str(log), *command]
    done = subprocess.run(helper, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
    code, cpu, wall, resident = json.loads(done.stdout)
    if code != 0:
        raise Failed(f"{command[0]} ended with {code}: {log.read_text(errors='replace')[-500:].strip()}")
    return Usage(cpu, wall, resident * 1024)


def _main() -> None:
    log, *command = sys.argv[1:]
    began = time.monotonic()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    redirected = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=redirected)
    _, status, used = os.wait4(child, 0)
    wall = time.monotonic() - began
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps([code, used.ru_utime + used.ru_stime, wall, used.ru_maxrss]))


if __name__ == "__main__":
    _main()
