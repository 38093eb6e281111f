"""What the person at the terminal sees: every step, what it took, and the table at the end."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any


class Progress:
    """Steps on standard error, each on a line that is completed when the step is done."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show a step and what it took."""
        began = time.monotonic()
        print(f"  {what} ...", end="", file=sys.stderr, flush=True)
        try:
            yield
        except BaseException:
            print(file=sys.stderr, flush=True)
            raise
        print(f" {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Show that a step goes on."""
        print(".", end="", file=sys.stderr, flush=True)

    def say(self, sentence: str) -> None:
        """Show a sentence."""
        print(f"  {sentence}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class SensorRow:
    """One sensor's transactions: sealed into containers; stored by the hub; with their records in the store.

    `without_records` says why the others have none, by the hub's own outcomes.
    """

    sensor: str
    captured: int
    acknowledged: int
    searchable: int
    without_records: Mapping[str, int]


@dataclass(frozen=True)
class Report:
    """What the demonstration came to."""

    sensors: Sequence[SensorRow]
    rrsets: int
    api_url: str
    api_key: str
    command: str
    output: str | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The report for scripts."""
        return asdict(self)

    def as_text(self) -> str:
        """The report for people."""
        lines = ["", f"{'sensor':<16}{'captured':>10}{'acknowledged':>14}{'searchable':>12}"]
        for row in self.sensors:
            lines.append(f"{row.sensor:<16}{row.captured:>10}{row.acknowledged:>14}{row.searchable:>12}")
            if row.without_records:
                reasons = [
                    f"{number} {reason.replace('_', ' by ', 1)}"
                    for reason, number in row.without_records.items()
                ]
                lines.append(f"{'':<16}(the others hold no answer to keep: {', '.join(reasons)})")
        lines += ["", f"{self.rrsets} different RRsets can be asked for. Try:", "", f"  {self.command}", ""]
        if self.output is None:
            lines.append("  (dnsdbq is not installed here: Debian has it in the package dnsdbq)")
        else:
            lines += [f"  {line}" for line in self.output.splitlines()]
        return "\n".join([*lines, "", f"This took {self.seconds:.0f} seconds."])
