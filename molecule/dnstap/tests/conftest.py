"""The scenario's own house."""

import pytest
from sie_lab.cli import house
from sie_lab.topology import Lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    return house("dnstap")
