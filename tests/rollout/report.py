"""The roll-out as a table, and whether it is what it should be."""

from collections.abc import Sequence
from typing import Final

from tests.bench.report import MEBIBYTE, commit, machine
from tests.rollout.play import Run

FROM_NOTHING: Final = "from nothing"
AGAIN: Final = "again, with nothing to change"
LOOKED_AT: Final = "preflight alone"
WITHOUT_PIPELINING: Final = "preflight alone, without pipelining"

HEADER: Final = (
    "| run | hosts | forks | seconds | a host, s | controller, CPU s a host | host, CPU s | controller, MiB "
    "| other programs, processors |",
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
)


def line(run: Run) -> str:
    """A row."""
    return (
        f"| {run.what} | {run.hosts} | {run.forks} | {run.wall:.0f} | {run.wall / run.hosts:.2f} "
        f"| {run.controller_cpu / run.hosts:.2f} | {run.hosts_cpu / run.hosts:.2f} "
        f"| {run.controller_resident / MEBIBYTE:.0f} | {run.other_cpu / run.wall:.1f} |"
    )


def text(sensors: int, seconds: float, touched: Sequence[str], runs: Sequence[Run]) -> str:
    """The table of docs/reference/rollout.md, what was found wrong, and where it was measured."""
    said = f"Onboarding {sensors} sensors took {seconds:.0f} s and touched of others: "
    return "\n".join(
        [*HEADER, *map(line, runs), "", said + (", ".join(touched) or "nothing"), *wrong(runs), "", _where()]
    )


def _where() -> str:
    return f"{machine()}; commit {commit()}"


def wrong(runs: Sequence[Run]) -> list[str]:
    """A sentence for each run that left a host out, or changed something, or nothing, against expectation."""
    found = []
    for run in runs:
        if len(run.changed) != run.hosts:
            found.append(
                f"{run.what}: {run.hosts - len(run.changed)} of {run.hosts} hosts did not come to the end."
            )
        surprising = [
            name for name, count in run.changed.items() if (count > 0) != (run.what == FROM_NOTHING)
        ]
        if surprising:
            found.append(
                f"{run.what}: changed something where it should not, or nothing: {', '.join(surprising)}."
            )
    return found


def true(touched: Sequence[str], runs: Sequence[Run]) -> bool:
    """Whether every host is as it should be, and nobody else was touched."""
    return not touched and not wrong(runs)
