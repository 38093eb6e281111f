"""The runbook has a row for every failure that programs and playbooks report: the list is the code's."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sie_agent.refusal import _TLS_ALERTS
from sie_hub.enrol import est
from sie_hub.ingest import metrics as ingest
from sie_hub.refine import metrics as refine
from sie_hub.serve import metrics as serve
from sie_hub.serve.admission import Outcome
from tests.docs.pages import COLLECTION, REPOSITORY, outside

PAGE = "docs/runbook.md"
WHO = ("who", "hub", "participant", "both", "reader", "")
SOURCES = ("agent/src", "hub/src", "core/python")
SPAN = re.compile(r"`([^`]+)`")

WELL = {
    *("accepted", "probe", "finished", "stored", "refined", "observed", "succeeded"),
    *("enrolled", "enrolled_again", "renewed", "renewed_again", "authorities", "standing"),
}
"""Outcomes that are as they should be."""

SECTIONS = {
    "Connections to ingest": {*ingest.CONNECTIONS},
    "Sessions of ingest": {end for end in ingest.ENDINGS if not end.startswith("refused_")},
    "Containers": {*ingest.CONTAINERS},
    "The drop": {*ingest.DROP},
    "Enrolment": {o for o in est.OUTCOMES if not o.startswith(("tls_", "crowded", "idle", "not_http"))},
    "Refine": {*refine.CONTAINERS, *refine.TRANSACTIONS, "filtered_meta"},
    "Serve and its readers": {*map(str, Outcome), *serve.ENDINGS, *serve.FAILURES, *serve.MESSAGES},
}

ELSEWHERE = {
    "ValueError": "a value of a configuration: one line of the kind FILE: KEY: TEXT",
    "argparse.ArgumentTypeError": "wrong usage, which argparse says",
    "AssertionError": "a fault of ours, with a traceback",
    "TrampolineMisuse": "a fault of ours",
    "DemoFailed": "the demonstration",
    "_Broken": "what ends a session as `violation`",
    "BrokenRecord": "what ends a session as `violation`",
    "OSError": "caught where it is raised",
    "DoorClosed": "carries a Failure, which is looked for by itself",
    "StoreError": "a fault of ours",
}
"""Errors whose sentences have no row of their own, and why."""
NOT_FOR_OPERATORS = (
    "hub/src/sie_hub/demo",
    "hub/src/sie_hub/serve/question.py",
    "hub/src/sie_hub/serve/api.py",
    "agent/src/sie_agent/failures.py",
    "hub/src/sie_hub/failures.py",
)
"""Sentences for others, and those of the diagnoses, which have a page of their own (test_failures.py)."""


def cells_of(line: str) -> list[str]:
    """The cells of a table's row; none of another line."""
    if not line.startswith("| ") or set(line) <= set("|- "):
        return []
    return [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


def rows() -> Iterator[tuple[str, str]]:
    """(heading of the section, first two cells) of each row of the tables with four columns."""
    heading = ""
    for _, line in outside(PAGE):
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        if len(cells := cells_of(line)) == 4:
            yield heading, f"{cells[0]} {cells[1]}"


ROWS = list(rows())
PATTERNS = [
    re.compile(".*".join(map(re.escape, span.split("…"))), re.DOTALL)
    for _, cells in ROWS
    for span in SPAN.findall(cells)
    if len(span.replace("…", "").strip()) > 3
]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_outcome_has_its_row(section: str) -> None:
    named = {span for heading, cells in ROWS if heading == section for span in SPAN.findall(cells)}
    assert not SECTIONS[section] - WELL - named


def test_every_row_says_what_it_means_and_who_acts_does_something() -> None:
    for _, line in outside(PAGE):
        cells = cells_of(line)
        assert len(cells) in (0, 2, 4), line
        if len(cells) == 4:
            assert cells[0], line
            assert cells[1], line
            assert cells[2] in WHO, line
            assert cells[3] or not cells[2] or "below" in cells[1], line


def template(node: ast.expr) -> str | None:
    """The text of a literal, `…` for what is put in; none for what is not one."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
    return None


def sentences() -> Iterator[tuple[str, str]]:
    """(place, sentence) of what is raised, logged as a warning or worse, or given as a reason."""
    for path in (path for source in SOURCES for path in sorted((REPOSITORY / source).rglob("*.py"))):
        place = str(path.relative_to(REPOSITORY))
        if place.startswith(NOT_FOR_OPERATORS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            for sentence in said(node):
                if len(sentence.replace("…", "").strip()) <= 3:
                    continue  # another's words alone
                yield f"{place}:{getattr(node, 'lineno', 0)}", sentence


def said(node: ast.AST) -> Iterator[str]:
    """What one statement says to an operator."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        name = ast.unparse(node.exc.func)
        texts = [text for text in map(template, node.exc.args) if text and " " in text]
        if name == "self._refusal":
            texts = [f"the spool … {template(node.exc.args[0])}: …"]
        if name not in ELSEWHERE:
            yield from texts
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Failure":
        yield from (text for text in map(template, node.args) if text)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        words = ast.unparse(node)
        if node.func.attr in ("error", "warning", "critical") and ast.unparse(node.func.value) == "_log":
            yield from (re.sub(r"%\S*?[dgsx]", "…", text) for text in map(template, node.args[:1]) if text)
        if node.func.attr == "event" and re.search(r"logging\.(ERROR|WARNING|CRITICAL)", words):
            yield from (text for text in map(template, node.args[2:3]) if text)


@pytest.mark.parametrize(("sentence", "place"), sorted({s: p for p, s in sentences()}.items()))
def test_every_sentence_has_its_row(sentence: str, place: str) -> None:
    assert any(pattern.fullmatch(sentence) for pattern in PATTERNS), f"{place}: {sentence}"


@pytest.mark.parametrize("sentence", sorted(set(_TLS_ALERTS.values())))
def test_every_alert_of_tls_has_its_row(sentence: str) -> None:
    assert any(pattern.fullmatch(sentence) for pattern in PATTERNS)


def refusing(tasks: Any) -> Iterator[str]:
    """The names of the tasks that end a playbook with a sentence of ours."""
    if isinstance(tasks, list):
        for task in tasks:
            yield from refusing(task)
    elif isinstance(tasks, dict):
        for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
            yield from refusing(tasks.get(part))
        actions = ("ansible.builtin.assert", "ansible.builtin.fail", "ansible.builtin.wait_for")
        if any("msg" in key for action in actions for key in tasks.get(action) or {}):
            yield tasks["name"]


@pytest.mark.parametrize(
    "file",
    sorted([*COLLECTION.glob("roles/*/tasks/*.yml"), *COLLECTION.glob("playbooks/**/*.yml")]),
    ids=lambda f: f.stem,
)
def test_every_task_that_refuses_has_its_row(file: Path) -> None:
    named = {span for heading, cells in ROWS if heading == "Playbooks" for span in SPAN.findall(cells)}
    assert not set(refusing(yaml.safe_load(file.read_text()))) - named


def test_no_row_is_about_a_task_that_is_gone() -> None:
    files = [*COLLECTION.glob("roles/*/tasks/*.yml"), *COLLECTION.glob("playbooks/**/*.yml")]
    present = {name for file in files for name in refusing(yaml.safe_load(file.read_text()))}
    listed = {span for heading, cells in ROWS if heading == "Playbooks" for span in SPAN.findall(cells)}
    assert {span for span in listed if re.match("(Refuse|Say|Show) ", span)} <= present
