"""The house under test: molecule's own, or with SIE_LAB=lab the one that `make lab` made."""

import os

import pytest
from sie_lab import topology
from sie_lab.cli import INVENTORIES
from sie_lab.topology import Lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    return topology.load(INVENTORIES[os.environ.get("SIE_LAB", "molecule")])
