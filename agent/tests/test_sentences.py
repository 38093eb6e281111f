"""Every outcome has its sentence, and the reference page lists them."""

from pathlib import Path

from sie_agent.sentences import SENTENCES, markdown
from sie_agent.stages import QUERIES_WAITING, outcome_of
from sie_core._native import Recorder


def test_every_outcome_that_is_counted_has_a_sentence_and_no_other() -> None:
    counters = Recorder(["192.0.2.53"]).counters()
    judged = {name for name in counters if outcome_of(name) is not None} | {QUERIES_WAITING}
    assert set(SENTENCES) == judged


def test_sentences_are_sentences() -> None:
    for counter, sentence in SENTENCES.items():
        assert sentence[0].isupper(), counter
        assert sentence.endswith("."), counter
        assert "  " not in sentence, counter


def test_the_reference_page_lists_them() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "agent-metrics.md"
    assert markdown() in page.read_text()
