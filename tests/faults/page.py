"""docs/reference/faults.md: what a run of all faults came to."""

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tests.bench.report import machine
from tests.faults.catalogue import FAULTS
from tests.faults.place import RETRY_MAX, Outcome
from tests.faults.traffic import BATCH, RATE, TEN_MINUTES

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "faults.md"
TEMPLATE: Final = "page.md.j2"

_ROW: Final = re.compile(r"^\| `([a-z_]+)` \|", re.MULTILINE)


def faults_on(page: str) -> list[str]:
    """The names of the faults that the page has rows for."""
    return _ROW.findall(page)


def render(outcomes: Mapping[str, Outcome]) -> str:
    """The page for a run of all faults."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown for people, of our own words
    )
    return templates.get_template(TEMPLATE).render(
        runs=[(fault, outcomes[fault.name]) for fault in FAULTS],
        batch=BATCH,
        rate=RATE,
        volume=TEN_MINUTES * BATCH,
        retry_max=f"{RETRY_MAX:g}",
        machine=machine(),
        load=round(os.getloadavg()[1]),
        today=datetime.now(UTC).date().isoformat(),
    )


def write(outcomes: Mapping[str, Outcome]) -> None:
    """Write the page, whole."""
    aside = PAGE.with_suffix(".new")
    aside.write_text(render(outcomes))
    aside.replace(PAGE)
