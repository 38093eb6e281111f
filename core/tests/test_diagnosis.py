"""A diagnosis as a page: the first broken link at the top, with its remedy."""

from datetime import UTC, datetime

import pytest

from sie_core.diagnosis import Diagnosis, Failure, broken, by_slug, markdown, markdown_table, ok, unknown

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WIRE = Failure("wire-cut", "The wire is cut.", "Join it.")
LAMP = Failure("lamp-out", "The lamp is out.", "Change it.")


def test_the_first_broken_link_stands_at_the_top_with_its_remedy() -> None:
    findings = [
        ok("plug", "1 in"),
        broken("wire", WIRE, "2 ends"),
        unknown("meter", "dark"),
        broken("lamp", LAMP, "0 lm"),
    ]
    diagnosis = Diagnosis("lamp of the test", AT, findings)
    assert diagnosis.first is findings[1]
    assert diagnosis.as_text().splitlines() == [
        "lamp of the test, 2026-01-02 03:04:05 UTC",
        "BROKEN LINK: wire",
        "  The wire is cut.",
        "  evidence: 2 ends",
        "  remedy: Join it.",
        "  more: docs/reference/failures.md#wire-cut",
        "",
        "ok       plug   1 in",
        "BROKEN   wire   2 ends",
        "unknown  meter  dark",
        "BROKEN   lamp   0 lm",
        "also: lamp: The lamp is out. Change it.",
    ]
    document = diagnosis.as_document()
    assert document["broken"]["failure"] == "wire-cut"
    assert [finding["state"] for finding in document["findings"]] == ["ok", "broken", "unknown", "broken"]


def test_without_a_broken_link_it_says_how_much_was_seen() -> None:
    diagnosis = Diagnosis("lamp", AT, [ok("plug", "1 in"), unknown("meter", "dark")])
    assert diagnosis.first is None
    assert diagnosis.as_document()["broken"] is None
    assert "No broken link was found; 1 of 2 checks could not look." in diagnosis.as_text()


def test_the_reference_has_a_row_and_a_section_of_each_failure() -> None:
    assert markdown([WIRE]) == "### wire-cut\n\nThe wire is cut.\n\n**Remedy:** Join it.\n"
    assert "| [`lamp-out`](#lamp-out) | The lamp is out. | Change it. |" in markdown_table([WIRE, LAMP])
    with pytest.raises(ValueError, match="two failures are called wire-cut"):
        by_slug([WIRE, LAMP, Failure("wire-cut", "Again.", "Again.")])
