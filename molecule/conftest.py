"""The house under test: molecule's own, or what SIE_LAB names (lab, or an inventory's path)."""

import os

import pytest
from sie_lab import deploy
from sie_lab.cli import house
from sie_lab.topology import Lab

from tests.fleet.reader import Reader


@pytest.fixture(scope="session")
def lab() -> Lab:
    return house(os.environ.get("SIE_LAB", "molecule"))


@pytest.fixture(scope="session")
def reader(lab: Lab) -> Reader:
    """An analyst with the key that came with the first participant's onboarding."""
    return Reader(deploy.api_url(lab), deploy.api_key(lab))
