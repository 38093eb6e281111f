"""The question of a sensor whether its probe has arrived: over its own certificate, about its own alone."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sie_hub import log
from sie_hub.ingest.admission import Admitted
from sie_hub.nats_errors import Unavailable
from sie_hub.nats_link import Link
from sie_hub.probes import NONCE, Note, subject_of
from sie_hub.streams import PROBE

BURST: Final = 20  # questions that a sensor may ask at once
PER_SECOND: Final = 2.0  # and then in each second: one that waits for its probe asks once or twice
SENSORS: Final = 4096  # sensors whose questions are counted; beyond it those go that asked longest ago

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a sensor is told: the HTTP status, the outcome for the counter, and a document."""

    status: int
    outcome: str
    document: dict[str, Any]


@dataclass(slots=True)
class _Allowance:
    """What is left of a sensor's questions, as of a time."""

    left: float
    at: float


class ProbeDoor:
    """Answers sensors; `zone` is the probe zone, None where the hub has none."""

    def __init__(self, link: Link, zone: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._zone = zone
        self._clock = clock
        self._allowances: dict[tuple[str, str], _Allowance] = {}
        self._unreadable = log.Limited(_log, "notes of probes were unreadable")

    async def answer(self, admitted: Admitted, nonce: str | None) -> Reply:
        """Answer one question of an admitted peer; without a nonce it is which zone to probe in."""
        if admitted.certificate is None:
            return _no(403, "no_certificate", "an API key does not say which sensor asks: show a certificate")
        if self._zone is None:
            return _no(404, "no_zone", "this hub has no probe zone")
        if nonce is not None and NONCE.fullmatch(nonce) is None:
            return _no(400, "malformed", "a nonce is 32 hexadecimal digits in lower case")
        if not self._may_ask((admitted.participant, admitted.name)):
            return _no(429, "limited", f"more than {PER_SECOND:g} questions in a second: ask later")
        if nonce is None:
            return Reply(200, "zone", {"zone": self._zone})
        try:
            note = await self._note(admitted, nonce)
        except Unavailable as unavailable:
            return _no(503, "unavailable", f"ask later: {unavailable}")
        if note is None:
            return _no(404, "unknown", "no probe of this sensor with this nonce has been received")
        return Reply(200, "received", {"zone": self._zone, **note.as_document()})

    async def _note(self, admitted: Admitted, nonce: str) -> Note | None:
        """The note of this sensor's probe. Raises Unavailable."""
        message = await self._link.last_message(PROBE, subject_of(admitted.participant, admitted.name, nonce))
        if message is None:
            return None
        try:
            note = Note.from_bytes(message.data)
        except (ValueError, TypeError):
            self._unreadable.event(logging.ERROR, "note of a probe unreadable", sensor=admitted.name)
            return None
        own = (note.participant, note.sensor) == (admitted.participant, admitted.name)
        return note if own and note.nonce == nonce else None

    def _may_ask(self, identity: tuple[str, str]) -> bool:
        """Whether a sensor may ask once more; takes that from its allowance."""
        now = self._clock()
        # Taken out and put in again, so that the first of the dict is the one that has asked longest ago.
        allowance = self._allowances.pop(identity, None) or _Allowance(BURST, now)
        while len(self._allowances) >= SENSORS:
            del self._allowances[next(iter(self._allowances))]
        self._allowances[identity] = allowance
        allowance.left = min(BURST, allowance.left + (now - allowance.at) * PER_SECOND)
        allowance.at = now
        if allowance.left < 1:
            return False
        allowance.left -= 1
        return True


def _no(status: int, outcome: str, sentence: str) -> Reply:
    return Reply(status, outcome, {"error": sentence})
