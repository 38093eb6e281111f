"""What a tool wrote, compared with the truth."""

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import starmap
from pathlib import Path
from typing import IO

from tests.bench import nmsg
from tests.bench.tools import CLEARED, STORED, Tool
from tests.bench.truth import Comparison, Truth, compare


def written(tool: Tool, out: Path) -> Path:
    """The file that a tool wrote when it was told to write `out`; some add to the name."""
    return next((path for path in sorted(out.parent.glob(f"{out.name}*")) if path.suffix != ".log"), out)


def compared(tool: Tool, path: Path, truth: Truth) -> Comparison | None:
    """An output against the truth, transaction by transaction; None for what has no transactions."""
    if tool.view is None:
        return None
    with _plain(path) as stream:
        return compare(_expected(tool.view, truth), starmap(nmsg.view, nmsg.transactions(stream, path.name)))


def _expected(view: str, truth: Truth) -> Counter[str]:
    return {STORED: truth.stored, CLEARED: truth.cleared}.get(view, truth.wire)()


@contextmanager
def _plain(path: Path) -> Iterator[IO[bytes]]:
    """A file of NMSG containers, out of its zstd frames if it is in such."""
    if path.suffix != ".zst":
        with path.open("rb") as file:
            yield file
        return
    with subprocess.Popen(["zstd", "-dcq", str(path)], stdout=subprocess.PIPE) as zstd:
        assert zstd.stdout is not None, "a pipe was asked for"
        yield zstd.stdout
    if zstd.returncode != 0:
        raise nmsg.Unreadable(f"{path}: zstd ended with {zstd.returncode}")
