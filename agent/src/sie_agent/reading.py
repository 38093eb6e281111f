"""A file of packets, read from its beginning to its end into a recorder, and what came of it."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from sie_agent.errors import SourceError
from sie_agent.stages import STAGES, grouped, transactions
from sie_core._native import Container, FormatError, NativeError, PcapSource, Recorder

TURN: Final = 0.25
"""Seconds of reading between signs of progress."""


def open_file(name: str, speed: float | None = None) -> PcapSource:
    """Open a file of packets, to be read no faster than `speed` times real time. Raises SourceError."""
    try:
        return PcapSource(name, speed=speed)
    except NativeError as error:
        raise SourceError(str(error)) from error


def pump_all(
    recorder: Recorder,
    source: PcapSource,
    deliver: Callable[[Container], object],
    progress: Callable[[int], None],
) -> int:
    """Record a whole file, what waits at its end included; returns the octets of all containers.

    `progress` is told how many packets have been seen. Raises SourceError if the file cannot be read on.
    """
    octets = 0
    try:
        while not recorder.at_end:
            for container in recorder.pump(source, TURN):
                octets += len(container.data)
                deliver(container)
            progress(recorder.counters()["packets_seen"])
    except (FormatError, NativeError) as error:
        raise SourceError(str(error)) from error
    for container in recorder.finish():
        octets += len(container.data)
        deliver(container)
    return octets


def counts(name: str, counters: Mapping[str, int], octets: int, warning: str | None) -> dict[str, Any]:
    """The counts of a replay, by stage and outcome. Each group adds up to what is above it."""
    return {
        "file": name,
        **{stage: grouped(counters, stage) for stage in STAGES if f"{stage}_seen" in counters},
        "transactions": transactions(counters),
        "table_evicted": counters["table_evicted"],
        "containers": counters["containers_sealed"],
        "octets": octets,
        "warning": warning,
    }


def table(report: Mapping[str, Any]) -> str:
    """The counts for people."""
    rows: list[tuple[str, int | None, str]] = []
    for stage in STAGES:
        if stage in report and (report[stage]["seen"] or stage == "packets"):
            rows += _rows(f"{stage.replace('_', ' ')} seen", report[stage]["seen"], report[stage])
    recorded = report["transactions"]
    rows += _rows("transactions", recorded["total"], recorded)
    rows.append(("containers", report["containers"], f" of {report['octets']} octets"))
    width = max(len(name) for name, _, _ in rows)
    digits = max(len(str(count)) for _, count, _ in rows)
    lines = [f"{name:<{width}}  {count:>{digits}}{more}" for name, count, more in rows]
    return "\n".join([str(report["file"]), *lines])


def _rows(title: str, total: int, document: Mapping[str, Any]) -> list[tuple[str, int | None, str]]:
    """A stage's lines: its total, each outcome, and below an outcome the reasons that occurred."""
    rows: list[tuple[str, int | None, str]] = [(title, total, "")]
    for outcome, count in document.items():
        if outcome in ("seen", "total"):
            continue
        reasons = count if isinstance(count, dict) else {}
        rows.append((f"  {outcome.replace('_', ' ')}", sum(reasons.values()) if reasons else count, ""))
        rows += [
            (f"    {reason.replace('_', ' ')}", number, "") for reason, number in reasons.items() if number
        ]
    return rows


def warn(source: PcapSource) -> None:
    """Say on standard error why reading ended before the end of the file, if it did."""
    if source.warning is not None:
        print(f"sie-agent: warning: {source.warning}", file=sys.stderr)
