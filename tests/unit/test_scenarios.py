"""The scenarios: each is on the page of tests, and each playbook of the collection is run by one."""

import json
import re
from collections.abc import Mapping

import pytest
from sie_lab.deploy import operator_environment
from sie_lab.machine import run

from tests.docs.pages import COLLECTION, REPOSITORY, read
from tests.docs.where import PLAYBOOKS

SCENARIOS = {path.parent.name for path in (REPOSITORY / "molecule").glob("*/molecule.yml")}


def rows_below(heading: str) -> list[list[str]]:
    """The names in the first column of a table of the page."""
    table = read("docs/reference/tests.md").partition(heading)[2].partition("\n\n")[0]
    return [
        re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")
    ]


@pytest.mark.parametrize("heading", ["| scenario | proves |", "| scenario | check mode |"])
def test_the_page_of_tests_has_each_scenario_once(heading: str) -> None:
    named = [name for row in rows_below(heading) for name in row]
    assert sorted(named) == sorted(SCENARIOS)


def test_each_playbook_is_run_by_a_scenario() -> None:
    assert PLAYBOOKS.keys() == {path.stem for path in (COLLECTION / "playbooks").glob("*.yml")}
    for playbook, file in PLAYBOOKS.items():
        assert re.search(rf"\b{playbook}\b", (REPOSITORY / file).read_text()), f"{file}: {playbook}"
        assert file.split("/")[1] in SCENARIOS


def test_at_a_terminal_what_a_test_reads_of_ansible_has_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_FORCE_COLOR", "1")  # as molecule does there

    def said(environment: Mapping[str, str]) -> str:
        return run(["ansible", "localhost", "-m", "ansible.builtin.ping"], environment=environment)

    own = operator_environment()
    assert "\x1b[" in said({**own, "ANSIBLE_FORCE_COLOR": "1", "ANSIBLE_NOCOLOR": "false"})
    result = said(own)
    assert json.loads(result[result.index("{") :])["ping"] == "pong"
