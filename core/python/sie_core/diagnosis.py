"""A diagnosis: checks in the order in which data flows, and the first link that is broken. Pure.

What a program may say is broken stands in its catalogue, with the remedy. docs/reference/failures.md is made
of the catalogues, so that every sentence of a diagnosis has its section there. Evidence is numbers and what
is configured: never a key, never a name that was looked up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

PAGE: Final = "docs/reference/failures.md"


class State(StrEnum):
    """What a check found. `unknown`: it could not look, most often for something before it."""

    OK = "ok"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that can be broken: its section's name, what is the matter, and what to do."""

    slug: str
    says: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, with its evidence. `failure` is there if and only if the link is broken."""

    check: str
    state: State
    evidence: str
    failure: Failure | None = None

    def as_document(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        failure = self.failure
        return {
            "check": self.check,
            "state": self.state.value,
            "evidence": self.evidence,
            "failure": None if failure is None else failure.slug,
            "says": None if failure is None else failure.says,
            "remedy": None if failure is None else failure.remedy,
        }


def ok(check: str, evidence: str) -> Finding:
    """A link that holds."""
    return Finding(check, State.OK, evidence)


def unknown(check: str, evidence: str) -> Finding:
    """A link that could not be looked at."""
    return Finding(check, State.UNKNOWN, evidence)


def broken(check: str, failure: Failure, evidence: str) -> Finding:
    """A link that is broken."""
    return Finding(check, State.BROKEN, evidence, failure)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings about one host, in the order of the links."""

    subject: str
    at: datetime
    findings: Sequence[Finding]

    @property
    def first(self) -> Finding | None:
        """The first broken link; None if none is known to be."""
        return next((finding for finding in self.findings if finding.state is State.BROKEN), None)

    def as_document(self) -> dict[str, Any]:
        """The diagnosis as JSON has it."""
        return {
            "subject": self.subject,
            "at": self.at.isoformat(timespec="seconds"),
            "broken": None if self.first is None else self.first.as_document(),
            "findings": [finding.as_document() for finding in self.findings],
            "page": self.as_text(),
        }

    def as_text(self) -> str:
        """The diagnosis as one page: the broken link and its remedy first, then every check."""
        lines = [f"{self.subject}, {self.at:%Y-%m-%d %H:%M:%S} UTC"]
        first = self.first
        if first is None or first.failure is None:
            unseen = sum(finding.state is State.UNKNOWN for finding in self.findings)
            lines.append(f"No broken link was found; {unseen} of {len(self.findings)} checks could not look.")
        else:
            lines += [
                f"BROKEN LINK: {first.check}",
                f"  {first.failure.says}",
                f"  evidence: {first.evidence}",
                f"  remedy: {first.failure.remedy}",
                f"  more: {PAGE}#{first.failure.slug}",
            ]
        width = max((len(finding.check) for finding in self.findings), default=0)
        lines.append("")
        for finding in self.findings:
            state = finding.state.value.upper() if finding.state is State.BROKEN else finding.state.value
            lines.append(f"{state:<8} {finding.check:<{width}}  {finding.evidence}")
        later = [f for f in self.findings if f.failure is not None and f is not first]
        for finding in later:
            assert finding.failure is not None
            lines.append(f"also: {finding.check}: {finding.failure.says} {finding.failure.remedy}")
        return "\n".join(lines)


def by_slug(failures: Iterable[Failure]) -> Mapping[str, Failure]:
    """A catalogue by its sections' names. Raises ValueError where two share one."""
    catalogue: dict[str, Failure] = {}
    for failure in failures:
        if failure.slug in catalogue:
            raise ValueError(f"two failures are called {failure.slug}")
        catalogue[failure.slug] = failure
    return catalogue


def markdown(failures: Iterable[Failure]) -> str:
    """The catalogue as sections of the page of failures."""
    return "\n".join(f"### {f.slug}\n\n{f.says}\n\n**Remedy:** {f.remedy}\n" for f in failures)


def markdown_table(failures: Iterable[Failure]) -> str:
    """The catalogue as the table at the top of that page."""
    rows = [f"| [`{f.slug}`](#{f.slug}) | {f.says} | {f.remedy} |" for f in failures]
    return "\n".join(["| failure | what is the matter | remedy |", "|---|---|---|", *rows]) + "\n"
