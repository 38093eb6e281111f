"""Pauses between attempts: exponential, with jitter, so that a fleet does not come back in step."""

from collections.abc import Callable


class Backoff:
    """Pauses of `least` seconds, doubling to `most`; each is drawn from the upper half of its step.

    `random` gives numbers in [0, 1).
    """

    def __init__(self, least: float, most: float, random: Callable[[], float]) -> None:
        self._least = least
        self._most = most
        self._random = random
        self._step = least

    def pause(self) -> float:
        """The next pause in seconds."""
        pause = self._step * (0.5 + 0.5 * self._random())
        self._step = min(self._step * 2, self._most)
        return pause

    def reset(self) -> None:
        """Something went well: begin again with the shortest."""
        self._step = self._least
