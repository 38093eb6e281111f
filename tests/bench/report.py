"""A run of the benchmark as a table for people, a plot, and an object for programs."""

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tests.bench.measure import Usage
from tests.bench.truth import Comparison

MEBIBYTE: Final = 1 << 20
MILLION: Final = 1_000_000
TEMPLATES: Final = Path(__file__).parent


@dataclass
class Row:
    """One tool and its runs."""

    tool: str
    version: str
    packets: int
    runs: list[Usage] = field(default_factory=list)
    start_ups: list[Usage] = field(default_factory=list)
    octets: int = 0
    comparison: Comparison | None = None
    read_back: Comparison | None = None
    """The same as nmsgtool reads it, of what is for nmsgtool to read."""

    @property
    def start_up(self) -> float:
        """CPU seconds that it takes to read an empty capture."""
        return median(run.cpu for run in self.start_ups)

    def per_million(self, cpu: float) -> float:
        """CPU seconds of a million packets, without the start."""
        return max(cpu - self.start_up, 0.0) * MILLION / self.packets

    @property
    def cpu(self) -> float:
        """The median run's CPU seconds of a million packets, without the start."""
        return self.per_million(median(run.cpu for run in self.runs))

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the most."""
        return self.per_million(min(run.cpu for run in self.runs)), self.per_million(
            max(run.cpu for run in self.runs)
        )

    @property
    def resident(self) -> int:
        """The largest resident size of all runs, in octets."""
        return max(run.resident for run in self.runs)

    @property
    def octets_each(self) -> float | None:
        """Octets of output for each transaction found."""
        if self.comparison is None or not self.comparison.found:
            return None
        return self.octets / self.comparison.found


@dataclass(frozen=True)
class Bar:
    """What was promised, and what came out; `met` is None where there is nothing to compare with."""

    promise: str
    value: str
    met: bool | None
    is_truth: bool = False
    """Whether it says that nothing is missing or wrong, on any machine; the others depend on the machine."""

    @property
    def verdict(self) -> str:
        """In words."""
        return {True: "met", False: "NOT MET", None: "not judged"}[self.met]


def at_most(promise: str, value: float | None, most: float) -> Bar:
    """A bar on a ratio or a size; None is what could not be measured."""
    if value is None:
        return Bar(promise, "-", None)
    return Bar(promise, f"{value:.3f} <= {most:.3f}", value <= most)


def text(rows: Sequence[Row], bars: Sequence[Bar], baseline: str) -> str:
    """The table."""
    return "\n".join([*(_table(rows, baseline) if rows else []), *_judgements(bars)])


def _table(rows: Sequence[Row], baseline: str) -> list[str]:
    base = next((row for row in rows if row.tool == baseline), None)
    lines = [
        f"{'':40}{'CPU s / 10^6 packets':>26}{'of':>8}{'start':>7}{'RSS':>6}{'output':>13}"
        f"{'per':>7}{'found':>9}{'of':>9}",
        f"{'':40}{'median [least - most]':>26}{_short(baseline):>8}{'s':>7}{'MiB':>6}{'octets':>13}"
        f"{'trans.':>7}{'':>9}{'truth':>9}",
    ]
    for row in rows:
        least, most = row.spread
        ratio = f"{row.cpu / base.cpu:.3f}" if base is not None and base.cpu else "-"
        each = "-" if row.octets_each is None else f"{row.octets_each:.1f}"
        found, total = ("-", "-")
        if row.comparison is not None:
            found, total = str(row.comparison.found), str(row.comparison.transactions)
        lines.append(
            f"{row.tool:40}{f'{row.cpu:.2f} [{least:.2f} - {most:.2f}]':>26}{ratio:>8}{row.start_up:>7.2f}"
            f"{row.resident / MEBIBYTE:>6.0f}{row.octets or '-':>13}{each:>7}{found:>9}{total:>9}"
        )
    return [*lines, ""]


def _judgements(bars: Sequence[Bar]) -> list[str]:
    lines = [f"{bar.promise:84}{bar.value:>20}  {bar.verdict}" for bar in bars]
    return [f"{'bar':84}{'measured':>20}  ", *lines]


def _short(name: str) -> str:
    return name if len(name) <= 7 else f"{name[:4]} {name.rpartition(' ')[2]}"


def document(rows: Sequence[Row], bars: Sequence[Bar], arguments: dict[str, Any]) -> dict[str, Any]:
    """Everything, for programs: what was measured when, where, of which commit, run by run."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": commit(),
        **arguments,
        "tools": [
            {
                "tool": row.tool,
                "version": row.version,
                "packets": row.packets,
                "cpu_per_million": row.cpu,
                "cpu_least": row.spread[0],
                "cpu_most": row.spread[1],
                "start_up": row.start_up,
                "resident": row.resident,
                "octets": row.octets,
                "octets_per_transaction": row.octets_each,
                "found": row.comparison and row.comparison.found,
                "truth": row.comparison and row.comparison.transactions,
                "not_in_truth": row.comparison and row.comparison.surplus.total(),
                "runs": [asdict(run) for run in row.runs],
            }
            for row in rows
        ],
        "bars": [{**asdict(bar), "verdict": bar.verdict} for bar in bars],
    }


def markdown(measured: dict[str, Any], baseline: str) -> str:
    """The tables of docs/reference/benchmark.md, from what `document` made."""
    tools = measured["tools"]
    base = next((tool["cpu_per_million"] for tool in tools if tool["tool"] == baseline), None)
    table = [
        f"| tool | CPU s per million packets, median (least to most) | of `{baseline}` | start, s | MiB "
        "| octets | a transaction | found of the truth | not in the truth |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for tool in tools:
        cpu, least, most = (tool[name] for name in ("cpu_per_million", "cpu_least", "cpu_most"))
        ratio = f"{cpu / base:.3f}" if base else "-"
        each = tool["octets_per_transaction"]
        found = "-" if tool["found"] is None else f"{tool['found']:,} of {tool['truth']:,}"
        surplus = "-" if tool["not_in_truth"] is None else f"{tool['not_in_truth']:,}"
        table.append(
            f"| {tool['tool']} | {cpu:.2f} ({least:.2f} to {most:.2f}) | {ratio} | {tool['start_up']:.2f} "
            f"| {tool['resident'] / MEBIBYTE:.0f} | {tool['octets'] or 0:,} "
            f"| {'-' if each is None else f'{each:.0f}'} | {found} | {surplus} |"
        )
    lines = [*table, ""] if tools else []
    lines += ["| bar | measured | |", "|---|--:|---|"]
    lines += [f"| {bar['promise']} | {bar['value']} | {bar['verdict']} |" for bar in measured["bars"]]
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], measured: dict[str, Any]) -> str:
    """CPU seconds and octets as bars, in SVG."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Loops in Python would leave nothing of the others to be seen.
    drawn = [row for row in rows if row.cpu > 0 and not row.tool.endswith("loop")]
    template = environment.get_template("plot.svg.j2")
    return template.render(
        rows=drawn,
        most_cpu=max((row.cpu for row in drawn), default=1),
        most_octets=max((row.octets for row in drawn), default=1) or 1,
        measured=measured,
    )


def machine() -> str:
    """The processor, how many of them, and the system."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"


def commit() -> str:
    """The revision of the checkout, with a plus if it holds more."""

    def said(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return (said("rev-parse", "--short", "HEAD") or "unknown") + (
        "+" if said("status", "--porcelain") else ""
    )
