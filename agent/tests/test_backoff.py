"""Pauses: they double, stay in bounds, differ, and begin again after success."""

from hypothesis import given
from hypothesis import strategies as st

from sie_agent.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(1.0, 10.0, lambda: 1.0)
    assert [backoff.pause() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    backoff.reset()
    assert backoff.pause() == 1.0


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40))
def test_jitter_takes_at_most_half(draws: list[float]) -> None:
    numbers = iter(draws)
    backoff = Backoff(0.5, 60.0, lambda: next(numbers))
    for turn, draw in enumerate(draws):
        step = min(0.5 * 2**turn, 60.0)
        pause = backoff.pause()
        assert step / 2 <= pause <= step
        assert pause == step * (0.5 + 0.5 * draw)
