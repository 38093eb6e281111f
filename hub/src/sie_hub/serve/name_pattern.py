"""Names as readers write them: presentation form, with `*` as a whole first or last label for a wildcard.

www.example.com      that name
*.example.com        that domain and every name below it
www.example.*        every name that begins with these labels
"""

import re
from dataclasses import dataclass
from typing import Final

from sie_core._native import FormatError, name_from_text

WILDCARD: Final = "*"

_LABEL_PART: Final = re.compile(r"\\.|[^.\\]|\\\Z", re.DOTALL)
_ESCAPED_OR_UNPRINTABLE: Final = re.compile(rb"\\[\x21-\x7e]|\\?([^\x21-\x7e])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Exact:
    """One name, in wire form and lower-case."""

    wire: bytes


@dataclass(frozen=True, slots=True)
class Below:
    """A domain and every name below it; `wire` is the domain, in wire form and lower-case."""

    wire: bytes


@dataclass(frozen=True, slots=True)
class Beginning:
    """Every name whose first labels are these; `labels` is their wire form without the root, lower-case."""

    labels: bytes


NamePattern = Exact | Below | Beginning


def parse_pattern(octets: bytes) -> NamePattern:
    """Read a name or a wildcard; a final dot may be missing. Raises ValueError with a sentence.

    Octets that are no printable ASCII stand for themselves, so that a name in UTF-8 is found as it was seen.
    """
    labels = _labels(_printable(octets))
    if labels[-1] == "" and len(labels) > 1:
        labels.pop()
    left = labels[0] == WILDCARD
    right = labels[-1] == WILDCARD
    if not (left or right):
        if WILDCARD in labels:
            raise ValueError(
                r"a wildcard is the first or the last label; write \* for an asterisk that is meant"
            )
        return Exact(parse_name(octets))
    if left and right:
        raise ValueError(
            "a name takes one wildcard, as its first label or as its last, with labels beside it"
        )
    rest = labels[1:] if left else labels[:-1]
    if WILDCARD in rest:
        raise ValueError("a name takes one wildcard")
    wire = _wire(".".join(rest))
    return Below(wire) if left else Beginning(wire[:-1])


def parse_name(octets: bytes) -> bytes:
    """Read a name without wildcards into wire form, lower-case. Raises ValueError with a sentence."""
    return _wire(_printable(octets))


def _wire(text: str) -> bytes:
    if not text:
        raise ValueError("a name is missing; the root is written as a dot")
    try:
        return name_from_text(text).lower()
    except FormatError as error:
        raise ValueError(f"not a domain name: {error}") from None


def _printable(octets: bytes) -> str:
    """The text with every octet that is no printable ASCII, escaped or not, as \\DDD (RFC 1035 section
    5.1)."""

    def escape(found: re.Match[bytes]) -> bytes:
        octet: bytes | None = found[1]
        return found[0] if octet is None else b"\\%03d" % octet[0]

    return _ESCAPED_OR_UNPRINTABLE.sub(escape, octets).decode("ascii")


def _labels(text: str) -> list[str]:
    """The labels, split at the dots that are not escaped."""
    labels = [""]
    position = 0
    while position < len(text):
        part = _LABEL_PART.match(text, position)
        if part is None:
            labels.append("")
            position += 1
        else:
            labels[-1] += part[0]
            position = part.end()
    return labels
