"""python -m tests.bench: measure, compare with the truth, judge."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench import live, report, trampoline
from tests.bench.cache import Capture, cache_folder, capture
from tests.bench.measure import Usage, run
from tests.bench.outputs import compared, read_by_nmsgtool, written
from tests.bench.report import Bar, Row, at_most
from tests.bench.tools import (
    NMSGTOOL,
    NMSGTOOL_ZLIB,
    SENSOR,
    SENSOR_CLEARED,
    SENSOR_COMPATIBLE,
    SENSOR_COMPATIBLE_PLAIN,
    SENSOR_PLAIN,
    STORED,
    TCPDUMP,
    Tool,
    find,
    peers,
    sensors,
)

START_UPS: Final = 3

SENSOR_PART: Final = "sensor"
TRAMPOLINE_PART: Final = "trampoline"
PARTS: Final = (SENSOR_PART, TRAMPOLINE_PART)

EXIT_OK: Final = 0
EXIT_UNTRUE: Final = 1


def main() -> int:
    """Measure everything. Returns 1 if something is missing or wrong in what came out.

    How quick it is depends on the machine and on what else runs there: bars of that are only reported.
    """
    arguments = _arguments()
    out: Path = arguments.out or cache_folder() / "results"
    out.mkdir(parents=True, exist_ok=True)
    _say(f"a capture of {arguments.packets} packets, seed {arguments.seed}")
    whole = capture(arguments.packets, arguments.seed)
    rows: list[Row] = []
    bars: list[Bar] = []
    facts: dict[str, Any] = {
        "packets": arguments.packets,
        "seed": arguments.seed,
        "runs": arguments.runs,
    }
    if arguments.part in (SENSOR_PART, None):
        rows = _measured(arguments, [*sensors(), *([] if arguments.no_peers else peers())])
        bars += judged(rows)
        if not arguments.no_live:
            facts["live"], live_bars = live.measured(whole, _say)
            bars += live_bars
    if arguments.part in (TRAMPOLINE_PART, None):
        facts["trampoline"], trampoline_bars = trampoline.measured(whole, _say)
        bars += trampoline_bars
    measured = report.document(rows, bars, facts)
    (out / "benchmark.json").write_text(json.dumps(measured, indent=1) + "\n")
    if rows:
        (out / "benchmark.svg").write_text(report.plot(rows, measured))
    (out / "tables.md").write_text(report.markdown(measured, NMSGTOOL_ZLIB))
    print(report.text(rows, bars, NMSGTOOL_ZLIB))
    print(f"\n{measured['machine']}; commit {measured['commit']}; results in {out}")
    return EXIT_UNTRUE if any(bar.is_truth and bar.met is False for bar in bars) else EXIT_OK


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help="what to measure (default: everything)")
    parser.add_argument("--packets", type=int, default=int(os.environ.get("BENCH_PACKETS", 1_000_000)))
    parser.add_argument("--runs", type=int, default=int(os.environ.get("BENCH_RUNS", 5)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the folder of benchmark.json and benchmark.svg")
    parser.add_argument("--no-peers", action="store_true", help="measure the sensor alone")
    parser.add_argument("--no-live", action="store_true", help="leave out what needs root and tcpreplay")
    return parser.parse_args()


def _say(words: str) -> None:
    print(f"bench: {words}", file=sys.stderr, flush=True)


def _measured(arguments: argparse.Namespace, tools: Sequence[Tool]) -> list[Row]:
    """All tools in turn, as often as was asked for, and each output of the last turn compared."""
    whole = capture(arguments.packets, arguments.seed)
    read = {tool.name: _capture_for(tool, whole, arguments.seed) for tool in tools}
    rows = {tool.name: Row(tool.name, tool.version, read[tool.name].packets) for tool in tools}
    folder = Path(tempfile.mkdtemp(dir=cache_folder(), prefix="run-"))
    nmsgtool = find(NMSGTOOL)
    try:
        for turn in range(arguments.runs):
            for tool in tools:
                _say(f"run {turn + 1} of {arguments.runs}: {tool.name}")
                row = rows[tool.name]
                if turn < START_UPS:
                    row.start_ups.append(_run(tool, read[tool.name].empty, folder / "empty"))
                row.runs.append(_run(tool, read[tool.name].pcap, folder / "out"))
                file = written(tool, folder / f"out{tool.suffix}")
                row.octets = file.stat().st_size if file.exists() else 0
                if turn == arguments.runs - 1:
                    row.comparison = compared(tool, file, read[tool.name].truth)
                    if nmsgtool is not None and tool.view == STORED:
                        row.read_back = read_by_nmsgtool(nmsgtool, file, read[tool.name].truth)
                    for example in [] if row.comparison is None else row.comparison.examples():
                        _say(f"  {example}")
    finally:
        shutil.rmtree(folder)
    return list(rows.values())


def _capture_for(tool: Tool, whole: Capture, seed: int) -> Capture:
    if tool.packets is None or tool.packets >= whole.packets:
        return whole
    return capture(tool.packets, seed)


def _run(tool: Tool, pcap: Path, out: Path) -> Usage:
    for path in out.parent.glob(f"{out.name}*"):
        path.unlink()
    return run(
        tool.command(pcap, out.with_name(out.name + tool.suffix)), tool.environment, out.with_suffix(".log")
    )


def judged(rows: Sequence[Row]) -> list[Bar]:
    """The bars of replaying a file."""
    by_name = {row.tool: row for row in rows}
    plain, zlib, copy = by_name.get(NMSGTOOL), by_name.get(NMSGTOOL_ZLIB), by_name.get(TCPDUMP)

    def cpu(name: str, peer: Row | None) -> float | None:
        return by_name[name].cpu / peer.cpu if peer is not None and peer.cpu else None

    def octets(name: str) -> float | None:
        return by_name[name].octets / zlib.octets if zlib is not None and zlib.octets else None

    bars = [
        at_most("default: CPU, of nmsgtool -z", cpu(SENSOR, zlib), 1 / 10),
        at_most("default: octets, of nmsgtool -z", octets(SENSOR), 0.85),
        at_most("compatible: CPU, of nmsgtool -z", cpu(SENSOR_COMPATIBLE, zlib), 1 / 3),
        at_most("compatible: octets, of nmsgtool -z", octets(SENSOR_COMPATIBLE), 1.0),
    ]
    for name in (SENSOR_PLAIN, SENSOR_COMPATIBLE_PLAIN):
        mode = name.removeprefix("sie-agent --").replace(" --", " and ")
        bars.append(at_most(f"{mode}: CPU, of nmsgtool", cpu(name, plain), 1 / 3))
        bars.append(at_most(f"{mode}: CPU, of tcpdump's copy", cpu(name, copy), 5.0))
    for name in (SENSOR, SENSOR_CLEARED, SENSOR_PLAIN, SENSOR_COMPATIBLE, SENSOR_COMPATIBLE_PLAIN):
        comparison = by_name[name].comparison
        assert comparison is not None, "the sensor's output has transactions"
        bars.append(
            Bar(
                f"{name}: every transaction of the truth, and no other",
                f"{comparison.missing.total()} missing, {comparison.surplus.total()} more",
                comparison.equal,
                is_truth=True,
            )
        )
        if (read := by_name[name].read_back) is not None:
            bars.append(
                Bar(
                    f"{name}: nmsgtool reads all of it",
                    f"{read.missing.total()} missing, {read.surplus.total()} more",
                    read.equal,
                    is_truth=True,
                )
            )
    return bars


if __name__ == "__main__":
    sys.exit(main())
