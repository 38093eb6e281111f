"""What a generated capture holds: a line for each transaction, written by the generator, never by a decoder
of ours.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final

QUERY_RESPONSE: Final = 1
UNANSWERED: Final = 2
UNSOLICITED: Final = 3
ICMP: Final = 5

NOTHING: Final = "-"


def digest(message: bytes) -> str:
    """Eight octets that stand for a DNS message."""
    return blake2b(message, digest_size=8).hexdigest()


def line(
    kind: int,
    protocol: int,
    resolver: bytes,
    server: bytes,
    port: int,
    ident: int,
    qname: bytes,
    qtype: int,
    rcode: int | None,
    asked: int | None,
    answered: int | None,
    message: str,
) -> str:
    """A transaction as one line of fields between tabs: `asked` and `answered` are the microseconds at which
    question and answer were complete, `message` is the answer's digest.
    """
    optional = "\t".join(NOTHING if value is None else str(value) for value in (rcode, asked, answered))
    return (
        f"{kind}\t{protocol}\t{resolver.hex()}\t{server.hex()}\t{port}\t{ident}\t{qname.hex()}\t{qtype}\t"
        f"{optional}\t{message}"
    )


@dataclass(frozen=True)
class Truth:
    """A truth file: each line ends with two digests, of the answer as a sensor has to store it, without a
    client's EDNS options, and as it travelled.
    """

    path: Path

    def stored(self) -> Counter[str]:
        """For a sensor that stores no client's EDNS options."""
        return Counter("\t".join((*common, stored)) for *common, stored, _ in self.rows())

    def cleared(self) -> Counter[str]:
        """For a sensor that also keeps the resolver's address and port to itself."""
        return Counter(
            "\t".join((kind, protocol, "0" * len(resolver), server, "0", *rest, stored))
            for kind, protocol, resolver, server, _, *rest, stored, _ in self.rows()
        )

    def wire(self) -> Counter[str]:
        """For a sensor that stores what it saw."""
        return Counter("\t".join((*common, wire)) for *common, _, wire in self.rows())

    def rows(self) -> Iterator[list[str]]:
        """The fields of each line."""
        with self.path.open() as file:
            for row in file:
                yield row.rstrip("\n").split("\t")


@dataclass(frozen=True)
class Comparison:
    """What a decoded output and the truth have in common, and what only one of them has."""

    transactions: int
    found: int
    missing: Counter[str] = field(default_factory=Counter)
    surplus: Counter[str] = field(default_factory=Counter)

    @property
    def equal(self) -> bool:
        """Whether both are the same, transaction by transaction."""
        return not self.missing and not self.surplus

    def examples(self, most: int = 3) -> list[str]:
        """Some differences, for people."""
        return [
            f"{word}: {text.replace(chr(9), ' ')}"
            for word, lines in (("missing", self.missing), ("not in the truth", self.surplus))
            for text in islice(lines, most)
        ]


def compare(expected: Counter[str], found: Iterable[str]) -> Comparison:
    """Compare an output with the truth, in the view that fits it."""
    seen = Counter(found)
    missing, surplus = expected - seen, seen - expected
    total = expected.total()
    return Comparison(total, total - missing.total(), missing, surplus)
