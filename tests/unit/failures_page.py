"""docs/reference/failures.md, made of what the programs' diagnoses can say.

`python -m tests.unit.failures_page` writes it.
"""

from pathlib import Path

from sie_agent import failures as agent
from sie_core.diagnosis import markdown, markdown_table
from sie_hub import failures as hub

PAGE = Path(__file__).parents[2] / "docs/reference/failures.md"

HEAD = """# Failures

What `sie-agent diagnose`, `sie-hub diagnose` and the playbook [diagnose](../how-to/diagnose.md) can find
broken, in the order in which data flows, with the remedy. The page is made of the programs' own sentences
(`python -m tests.unit.failures_page`); a test compares.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, catalogue in (("Sensor", agent.FAILURES), ("Hub", hub.FAILURES)):
        parts += [f"## {title}\n", markdown_table(catalogue.values()), markdown(catalogue.values())]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
