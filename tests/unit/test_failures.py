"""Every sentence that a diagnosis can print has its section in the reference, and no two share one."""

import ast
import inspect
from types import ModuleType

import pytest

import sie_agent.diagnose
import sie_agent.failures
import sie_hub.diagnose
import sie_hub.failures
from sie_core.diagnosis import Failure

from .failures_page import PAGE, page


def test_the_page_is_what_the_programs_say() -> None:
    assert PAGE.read_text() == page()


def test_no_failure_of_the_sensor_is_called_like_one_of_the_hub() -> None:
    assert not sie_agent.failures.FAILURES.keys() & sie_hub.failures.FAILURES.keys()


@pytest.mark.parametrize(
    ("program", "catalogue"),
    [(sie_agent.diagnose, sie_agent.failures), (sie_hub.diagnose, sie_hub.failures)],
    ids=["sie-agent", "sie-hub"],
)
def test_a_diagnosis_says_what_is_in_its_catalogue_and_all_of_it(
    program: ModuleType, catalogue: ModuleType
) -> None:
    tree = ast.parse(inspect.getsource(program))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "failures"
    }
    known = {name for name, value in vars(catalogue).items() if isinstance(value, Failure)}
    assert used == known
    made = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Failure"]
    assert made == []


@pytest.mark.parametrize(
    "failure", [*sie_agent.failures.FAILURES.values(), *sie_hub.failures.FAILURES.values()]
)
def test_every_failure_has_a_section_with_its_sentence_and_remedy(failure: Failure) -> None:
    section = PAGE.read_text().partition(f"\n### {failure.slug}\n")[2].partition("\n#")[0]
    assert failure.says in section
    assert failure.remedy in section
    assert failure.says.endswith(".")
    assert failure.remedy.endswith(".")
