"""What a tool wrote, compared with the truth."""

import ipaddress
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import starmap
from pathlib import Path
from typing import IO, Final

from tests.bench import nmsg
from tests.bench.tools import CLEARED, STORED, Tool
from tests.bench.truth import ICMP, QUERY_RESPONSE, UNANSWERED, UNSOLICITED, Comparison, Truth, compare


def written(tool: Tool, out: Path) -> Path:
    """The file that a tool wrote when it was told to write `out`; some add to the name."""
    return next((path for path in sorted(out.parent.glob(f"{out.name}*")) if path.suffix != ".log"), out)


def compared(tool: Tool, path: Path, truth: Truth) -> Comparison | None:
    """An output against the truth, transaction by transaction; None for what has no transactions."""
    if tool.view is None:
        return None
    with _plain(path) as stream:
        return compare(_expected(tool.view, truth), starmap(nmsg.view, nmsg.transactions(stream, path.name)))


def read_by_nmsgtool(program: str, path: Path, truth: Truth) -> Comparison:
    """What nmsgtool makes of an output, against the truth: type, addresses, port and id of transactions."""
    expected = Counter("\t".join((row[0], *row[2:6])) for row in truth.rows())
    with (
        _plain(path) as stream,
        subprocess.Popen(
            [program, "-r", "/dev/stdin", "-J", "-"], stdin=stream, stdout=subprocess.PIPE
        ) as nmsgtool,
    ):
        assert nmsgtool.stdout is not None, "a pipe was asked for"
        comparison = compare(expected, map(_identity, nmsgtool.stdout))
    if nmsgtool.returncode != 0:
        raise nmsg.Unreadable(f"{path}: nmsgtool ended with {nmsgtool.returncode}")
    return comparison


_KINDS: Final = {
    "UDP_QUERY_RESPONSE": QUERY_RESPONSE,
    "UDP_UNANSWERED_QUERY": UNANSWERED,
    "UDP_UNSOLICITED_RESPONSE": UNSOLICITED,
    "ICMP": ICMP,
}


def _identity(line: bytes) -> str:
    """A message in nmsgtool's JSON as far as it tells one transaction from another."""
    message = json.loads(line)["message"]
    addresses = (ipaddress.ip_address(message[end]).packed.hex() for end in ("query_ip", "response_ip"))
    kind = _KINDS.get(message["type"], message["type"])
    return "\t".join((str(kind), *addresses, str(message["query_port"]), str(message["id"])))


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
