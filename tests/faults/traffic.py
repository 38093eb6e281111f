"""The traffic of all faults, in batches that are made once."""

from collections import Counter
from functools import cache
from typing import Final

from tests.faults.transactions import Transaction, sent
from tests.traffic import Traffic, generate

BATCH: Final = 1000
"""Transactions of a batch: some 30 containers of 16 KiB."""

RATE: Final = 10
"""Transactions a second of a resolver for a thousand people or two, above which a sensor stands."""

TEN_MINUTES: Final = 600 * RATE // BATCH
"""Batches. They are sent as fast as the sensor takes them."""


@cache
def batch(number: int) -> Traffic:
    """One of the batches. What is unanswered is there as well, and stub clients beside it."""
    return generate(BATCH, seed=1000 + number, start=1_795_000_000.0)


def batches(first: int, number: int) -> list[Traffic]:
    """So many batches from one on."""
    return [batch(first + index) for index in range(number)]


def all_of(some: list[Traffic]) -> Counter[Transaction]:
    """The transactions of batches."""
    return sent(exchange for traffic in some for exchange in traffic.exchanges)
