"""The generated parts of the agent's reference; `python -m tests.unit.agent_pages` writes them."""

from pathlib import Path

from sie_agent import metrics, sentences
from sie_agent.config import TABLE
from sie_core.settings import markdown_table

REFERENCE = Path(__file__).parents[2] / "docs/reference"


def with_table(page: str, table: str) -> str:
    """The page with the table that begins with the same line as `table` replaced by it."""
    head = table.partition("\n")[0]
    before, _, rest = page.partition(head)
    end = rest.find("\n\n")
    return before + table + (rest[end + 1 :] if end >= 0 else "")


if __name__ == "__main__":
    for name, table in (
        ("agent.md", markdown_table(TABLE)),
        ("agent-metrics.md", metrics.markdown()),
        ("agent-metrics.md", sentences.markdown()),
    ):
        page = REFERENCE / name
        page.write_text(with_table(page.read_text(), table))
