"""docs/reference/identity.md: its tables of outcomes, limits and commands are those of the code."""

import re
from pathlib import Path

import pytest

from sie_core import limits
from sie_core.errors import Refusal
from sie_hub.enrol.est import OUTCOMES
from sie_hub.enrol.issuing import REFUSALS, EnrolmentRefused
from sie_hub.enrol.state import MAX_ISSUED
from sie_hub.enrol.tokens import DEFAULT_LIFETIME, MAX_LIFETIME
from sie_hub.log import BURST

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "identity.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


def test_every_refusal_of_an_enrolment_is_there_with_its_status(page: str) -> None:
    documented = {
        reason: int(status)
        for status, reason in re.findall(r"^\| (\d{3}) \| `refused_(\w+)` \|", page, re.MULTILINE)
    }
    assert documented == {reason: EnrolmentRefused(reason, "").status for reason in REFUSALS}


def test_every_other_outcome_is_named(page: str) -> None:
    others = {name for name in OUTCOMES if not name.startswith(("refused_", "tls_"))}
    [sentence] = re.findall(r"The other outcomes of (.*?)Every connection", page, re.DOTALL)
    assert others <= set(re.findall(r"`(\w+)`", sentence))


def test_every_refusal_of_a_certificate_is_there(page: str) -> None:
    [table] = re.findall(r"^\| refusal \| because \|\n(.*?)\n\n", page, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {reason.value for reason in Refusal}


@pytest.mark.parametrize(
    "words",
    [
        f"| {limits.CA_CERTIFICATE_DAYS} days | {limits.SENSOR_CERTIFICATE_DAYS} days (`enrol.certificate",
        f"_days`) | {limits.SERVER_CERTIFICATE_DAYS} days",
        f"dated back by {limits.CLOCK_SKEW} s",
        f"good for {DEFAULT_LIFETIME.days} days unless `--hours` says otherwise",
        f"{MAX_LIFETIME.days} days at most",
        f"given {MAX_ISSUED} certificates",
        f"at most {BURST} lines a minute",
    ],
)
def test_the_numbers_are_right(page: str, words: str) -> None:
    assert words in page
