"""python -m tests.faults: inject every fault, one at a time, and write docs/reference/faults.md."""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.catalogue import FAULTS
from tests.faults.page import PAGE, write
from tests.faults.place import Outcome
from tests.faults.traffic import batches


def main() -> int:
    """Run all. Returns the exit code."""
    if os.geteuid() != 0:
        print("faults are injected on network namespaces, which need root", file=sys.stderr)
        return 1
    outcomes: dict[str, Outcome] = {}
    batches(0, max(fault.batches for fault in FAULTS))
    with tempfile.TemporaryDirectory(prefix="sie-faults-") as directory:
        for fault in FAULTS:
            began = time.monotonic()
            outcomes[fault.name] = asyncio.run(fault.inject(Path(directory) / fault.name))
            print(f"{fault.name}: {outcomes[fault.name]}, {time.monotonic() - began:.0f} s in all")
    write(outcomes)
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
