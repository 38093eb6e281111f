"""Probes: names that sensors look up to prove that what they capture arrives here. What refine notes of one,
and ingest tells the sensor that made it. Pure.

A note stands under its sensor and the first digits of its nonce, and the newest one there is kept, so that a
sensor can fill no more than its own 256 places.
"""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

NONCE: Final = re.compile(r"[0-9a-f]{32}")
"""128 random bits in hexadecimal digits: the label below the probe zone."""

PLACE_DIGITS: Final = 2  # of the nonce, which stand in the subject: 16 x 16 places for each sensor


@dataclass(frozen=True, slots=True)
class Note:
    """A probe of a sensor that has arrived. Times are in seconds since 1970.

    `transaction` is its type in the words of base:dnsqr; `asked` and `answered` are when the sensor saw the
    query and the response, None for what it did not see; `stored` is when its container was on the hub's
    disk.
    """

    participant: str
    sensor: str
    nonce: str
    transaction: str
    asked: float | None
    answered: float | None
    stored: float

    @property
    def subject(self) -> str:
        """Where it is kept."""
        return subject_of(self.participant, self.sensor, self.nonce)

    @property
    def whole(self) -> bool:
        """Whether the sensor saw both directions."""
        return self.asked is not None and self.answered is not None

    def as_bytes(self) -> bytes:
        """As a message."""
        return json.dumps(asdict(self)).encode()

    def as_document(self) -> dict[str, Any]:
        """What its sensor is told."""
        document = asdict(self)
        del document["participant"], document["sensor"]
        return document

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """From a message. Raises ValueError or TypeError for anything that `as_bytes` has not made."""
        return cls(**json.loads(data))


def subject_of(participant: str, sensor: str, nonce: str) -> str:
    """The subject under which a nonce of a sensor is kept, the newest of those that share it."""
    return f"$KV.PROBE.{participant}.{sensor}.{nonce[:PLACE_DIGITS]}"
