"""What processes show of themselves to whoever may look: their words and their environment.

Seen from this machine, whose /proc has the processes of the lab's hosts, too.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK = """
import os, select, sys
seen = set()
while True:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        for what in ("cmdline", "environ"):
            try:
                with open(f"/proc/{pid}/{what}", "rb") as file:
                    seen.add(file.read())
            except OSError:  # it has ended
                pass
    if select.select([sys.stdin], [], [], 0.02)[0]:
        break
sys.stdout.buffer.write(b"\\0".join(seen))
"""


class Watch:
    """What was seen, once the watch is over: words and assignments, each ended by a zero octet."""

    def __init__(self) -> None:
        self.seen = b""


@contextmanager
def watched() -> Iterator[Watch]:
    """Look at every process again and again, some ten to thirty times a second, until the block ends."""
    watch = Watch()
    with subprocess.Popen(
        [sys.executable, "-c", _LOOK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as looking:
        try:
            yield watch
        finally:
            watch.seen, _ = looking.communicate()
