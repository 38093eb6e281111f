"""The fuzz target of the trampoline begins with every transcript there is, and has a judge that sees."""

import pytest

from core.fuzz import seeds, trampoline

SESSIONS = dict(seeds.sessions())


@pytest.mark.parametrize("name", SESSIONS)
def test_a_transcript_is_in_the_corpus_and_has_a_permitted_outcome(name: str) -> None:
    assert (seeds.CORPUS / "trampoline" / f"seed-{name}").read_bytes() == SESSIONS[name]
    trampoline.check(SESSIONS[name])


def test_an_end_that_lets_a_control_character_through_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sie_core.trampoline.printable", lambda text, _limit: text)
    with pytest.raises(AssertionError):
        trampoline.check(SESSIONS["text-that-is-none"])
