"""Generated captures, kept in the user's cache folder, because a million packets take a minute."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.bench.generator import VERSION, generate
from tests.bench.truth import Truth
from tests.traffic.frames import PCAP_HEADER


@dataclass(frozen=True)
class Capture:
    """A capture of so many packets, the same of none, and the truth."""

    packets: int
    folder: Path

    @property
    def pcap(self) -> Path:
        """The capture."""
        return self.folder / "upstream.pcap"

    @property
    def empty(self) -> Path:
        """A capture without packets: reading it takes what starting a program takes."""
        return self.folder / "empty.pcap"

    @property
    def truth(self) -> Truth:
        """What the capture holds."""
        return Truth(self.folder / "truth.tsv")


def cache_folder() -> Path:
    """Where the workspace keeps what is slow to make."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sie-fleet" / "bench"


def capture(packets: int, seed: int) -> Capture:
    """The capture of these arguments, made if it is not there yet."""
    folder = cache_folder() / f"upstream-v{VERSION}-{seed}-{packets}"
    made = Capture(packets, folder)
    if folder.is_dir():
        return made
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Capture(packets, Path(tempfile.mkdtemp(dir=folder.parent, prefix="unfinished-")))
    try:
        generate(unfinished.pcap, unfinished.truth.path, packets, seed)
        unfinished.empty.write_bytes(PCAP_HEADER)
        unfinished.folder.chmod(0o755)
        unfinished.folder.rename(folder)
    except OSError:
        # Another run may have made the same meanwhile.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(unfinished.folder, ignore_errors=True)
    return made
