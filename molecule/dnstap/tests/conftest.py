"""The scenario's own house."""

import pytest
from sie_lab import topology
from sie_lab.cli import INVENTORIES
from sie_lab.topology import Lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    return topology.load(INVENTORIES["dnstap"])
