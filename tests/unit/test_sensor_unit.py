"""The agent's unit: whatever is short, the resolver beside it has it first."""

import re
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "roles" / "sensor" / "templates" / "sie-agent.service.j2"
DEFAULTS = {"Nice": 0, "CPUWeight": 100, "IOWeight": 100, "OOMScoreAdjust": 0}
"""What a resolver's unit has that says nothing (systemd.exec(5), systemd.resource-control(5))."""


def setting(name: str) -> int:
    """The number that the unit gives a setting, which it has once."""
    (value,) = re.findall(rf"^{name}=(-?[0-9]+)$", UNIT.read_text(), re.MULTILINE)
    return int(value)


@pytest.mark.parametrize("name", ["Nice", "OOMScoreAdjust"])
def test_the_agent_waits_and_is_ended_first(name: str) -> None:
    assert setting(name) > DEFAULTS[name]


@pytest.mark.parametrize("name", ["CPUWeight", "IOWeight"])
def test_the_agent_has_the_smaller_share(name: str) -> None:
    assert setting(name) < DEFAULTS[name]
