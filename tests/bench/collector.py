"""python -m tests.bench.collector PROGRAM FILE OUT: have DNS-collector take in a capture or a file of dnstap
frames, and end it.

It runs until it is told to stop, and says that it has read a file only by deleting it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

QUIET: Final = 2.5
"""Seconds without a new line of output after which it has written everything: it flushes once a second."""

POLL: Final = 0.1
DEADLINE: Final = 600.0


def main(program: str, given: Path, out: Path) -> int:
    """Run it over one file. Returns its exit code."""
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix="collector-"))
    try:
        watched = folder / "watched"
        watched.mkdir()
        config = folder / "config.yml"
        # JSON is YAML too.
        mode = "dnstap" if given.suffix == ".fstrm" else "pcap"
        config.write_text(json.dumps(_config(watched, mode, out)))
        read = watched / given.name
        os.link(given, read)
        with subprocess.Popen([program, "-config", str(config)]) as collector:
            _wait(read, out, collector)
            collector.terminate()
        return collector.returncode
    finally:
        shutil.rmtree(folder)


def _config(watched: Path, mode: str, out: Path) -> dict[str, object]:
    ingest = {"watch-dir": str(watched), "watch-mode": mode, "delete-after": True}
    return {
        "global": {"trace": {"verbose": False}},
        "pipelines": [
            {"name": "in", "file-ingestor": ingest, "routing-policy": {"forward": ["out"]}},
            {"name": "out", "logfile": {"file-path": str(out), "mode": "text", "max-size": 4096}},
        ],
    }


def _wait(read: Path, out: Path, collector: subprocess.Popen[bytes]) -> None:
    """Until the file is gone and no more comes out."""
    began = changed = time.monotonic()
    size = -1
    while collector.poll() is None and time.monotonic() - began < DEADLINE:
        now = out.stat().st_size if out.exists() else 0
        if now != size or read.exists():
            size, changed = now, time.monotonic()
        if time.monotonic() - changed > QUIET:
            return
        time.sleep(POLL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
