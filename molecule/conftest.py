"""The house under test: molecule's own, or what SIE_LAB names (lab, or an inventory's path)."""

import os
import time
from collections.abc import Iterator

import pytest
from sie_lab import deploy
from sie_lab.cli import house
from sie_lab.topology import Lab

from tests.fleet.lookups import WINDOWS_LATER, Differences
from tests.fleet.reader import Reader


@pytest.fixture(scope="session")
def lab() -> Lab:
    return house(os.environ.get("SIE_LAB", "molecule"))


@pytest.fixture(scope="session")
def reader(lab: Lab) -> Reader:
    """An analyst with the key that came with the first participant's onboarding."""
    return Reader(deploy.api_url(lab), deploy.api_key(lab))


@pytest.fixture(scope="module")
def to_stay() -> Iterator[list[Differences]]:
    """Where each test puts what it has found to be as it should: that is looked at again after the last."""
    noted: list[Differences] = []
    yield noted
    time.sleep(WINDOWS_LATER)
    assert [differing() for differing in noted] == [{} for _ in noted]
