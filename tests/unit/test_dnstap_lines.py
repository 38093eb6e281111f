"""The lines by which resolvers bring their dnstap: the role's, the page's, and those that are run."""

from pathlib import Path

import pytest
import yaml
from sie_lab.templates import render

from tests.docs.pages import blocks, read
from tests.unit.test_sensor_settings import ROLE, rendered

PAGE = "docs/how-to/dnstap.md"
SOCKET = "/run/sie-agent/dnstap.sock"
RUN = {"unbound": "unbound.conf.j2", "bind": "named.conf.j2", "pdns_recursor": "recursor.lua.j2"}
"""What the hosts of the scenario `dnstap` are configured by."""


def lines(text: str) -> set[str]:
    """The lines of a text without their indentation."""
    return {line.strip() for line in text.splitlines() if line.strip()}


def block(resolver: str) -> str:
    """What the role writes into a resolver's configuration."""
    known = yaml.safe_load((ROLE / "vars/debian.yml").read_text())
    said: str = rendered("{{ sensor_dnstap_programs[one].block }}", one=resolver, **known)
    return said


@pytest.mark.parametrize("resolver", RUN)
def test_the_role_writes_what_the_page_shows_and_the_scenario_runs(resolver: str) -> None:
    written = lines(block(resolver))
    assert any(SOCKET in line for line in written)
    assert any(written <= lines(shown.text) for shown in blocks(PAGE))
    assert written <= lines(
        render(RUN[resolver], dnstap=SOCKET, loopback="127.0.0.1", listen=[], asks_from=[])
    )


@pytest.mark.parametrize("file", sorted((ROLE / "vars").glob("*.yml")), ids=lambda path: path.stem)
def test_the_page_names_the_files_that_are_changed(file: Path) -> None:
    known = yaml.safe_load(file.read_text()).get("sensor_dnstap_known", {})
    told = read(PAGE)
    assert [one["config"] for one in known.values() if f"`{one['config']}`" not in told] == []
