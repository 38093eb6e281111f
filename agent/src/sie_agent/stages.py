"""The recorder's counters by stage and outcome: how a name says both, and what adds up to what.

A packet is judged first, then the message that it carried or helped to carry; a dnstap frame stands in the
place of a packet. In each stage every unit has one outcome:

    seen = passed on + waiting + filtered (by policy) + rejected (malformed) + lost (no room)

so a counter is called `STAGE_OUTCOME` or `STAGE_OUTCOME_REASON`, and `STAGE_seen` is the sum of the others.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

STAGES: Final = ("packets", "dnstap_frames", "messages")

PASSED: Final = ("passed", "recorded")
"""The outcomes of what goes on to the next stage; they have no reasons."""

WAITING: Final = "waiting"
"""The outcome of what is not decided yet: a number that falls again."""

QUERIES_WAITING: Final = "transactions_pending"
"""The counter of the messages that wait: queries in the table."""

REFUSED: Final = ("filtered", "rejected", "lost")
"""The outcomes that have reasons."""


class Outcome(NamedTuple):
    """What a counter counts: the stage, what became of the units, and why (empty for what goes on)."""

    stage: str
    outcome: str
    reason: str


def outcome_of(counter: str) -> Outcome | None:
    """What a counter counts; None for one that is no outcome of a stage."""
    for stage in STAGES:
        outcome, _, reason = counter.removeprefix(f"{stage}_").partition("_")
        if counter.startswith(f"{stage}_") and outcome != "seen":
            return Outcome(stage, outcome, reason)
    return None


def outcomes(counters: Mapping[str, int], stage: str) -> Iterator[tuple[Outcome, int]]:
    """Every outcome of one stage with its count."""
    for counter, count in counters.items():
        outcome = outcome_of(counter)
        if outcome is not None and outcome.stage == stage:
            yield outcome, count


def fates(counters: Mapping[str, int]) -> dict[str, int]:
    """What never came to the spool, in two sums: `filtered` are the messages and the transactions that a rule
    kept out, `rejected` the messages that are malformed.
    """
    sums = {"filtered": 0, "rejected": 0}
    for counter, count in counters.items():
        unit, _, rest = counter.partition("_")
        outcome = rest.partition("_")[0]
        if unit in ("messages", "transactions") and outcome in sums:
            sums[outcome] += count
    return sums


def grouped(counters: Mapping[str, int], stage: str) -> dict[str, Any]:
    """One stage as a document: `seen`, what goes on, what waits, and per outcome the counts by reason."""
    document: dict[str, Any] = {"seen": counters.get(f"{stage}_seen", 0)}
    if stage == "messages":
        document[WAITING] = counters.get(QUERIES_WAITING, 0)
    for outcome, count in outcomes(counters, stage):
        if outcome.reason:
            document.setdefault(outcome.outcome, {})[outcome.reason] = count
        else:
            document[outcome.outcome] = count
    return document


def transactions(counters: Mapping[str, int]) -> dict[str, Any]:
    """The transactions as a document: `total`, by type what is recorded, `filtered` what is not wanted."""
    types: dict[str, int] = {}
    filtered: dict[str, int] = {}
    for counter, count in counters.items():
        kind = counter.removeprefix("transactions_")
        if kind == counter or kind == "pending":
            continue
        if kind.startswith("filtered_"):
            filtered[kind.removeprefix("filtered_")] = count
        else:
            types[kind] = count
    document: dict[str, Any] = {"total": sum(types.values()), **types}
    return {**document, "filtered": filtered} if filtered else document
