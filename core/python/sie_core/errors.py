"""Every error that sie-core raises on purpose.

    SieError
    ├── ConfigError             a configuration file with mistakes, all listed (it lives in sie_core.kinds)
    ├── TrampolineMisuse        our own side asked for what the protocol does not allow now
    │   └── WindowFull          a payload was offered while the window was full
    └── IdentityError           a key, request or certificate that cannot be used
        ├── RequestRefused      a certificate request that is unreadable, unsigned or of a wrong key type
        └── IdentityRefused     a peer's certificate that does not prove what it must, with the reason

What a *peer* does wrong on the wire is no exception: the trampoline reports it as a `Violation` event, so
that arbitrary octets from the network never unwind the caller's stack.

The text of each error is one sentence for the operator: the thing, the place, the remedy.
"""

from enum import StrEnum


class SieError(Exception):
    """Root of the tree."""


class TrampolineMisuse(SieError):
    """The trampoline was asked for something the protocol does not allow in its present state."""


class WindowFull(TrampolineMisuse):
    """The window of unacknowledged payloads is full; wait until `can_send` is true."""

    def __init__(self, payloads: int, window: int, octets: int, window_bytes: int) -> None:
        super().__init__(
            f"the window is full: {payloads} of {window} payloads and {octets} of {window_bytes} octets"
            " are unacknowledged; wait until can_send is true"
        )
        self.payloads = payloads
        self.window = window
        self.octets = octets
        self.window_bytes = window_bytes


class IdentityError(SieError):
    """A key, request or certificate cannot be used."""


class RequestRefused(IdentityError):
    """A certificate request cannot be used: the sentence says why."""


class Refusal(StrEnum):
    """Why a peer's certificate was refused; the values are metric labels."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    OTHER_AUTHORITY = "other_authority"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    WRONG_USAGE = "wrong_usage"
    WRONG_NAME = "wrong_name"
    OTHER_EXCHANGE = "other_exchange"


class IdentityRefused(IdentityError):
    """A peer's certificate does not prove a sensor's identity; `reason` is the code, the text the
    sentence."""

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason
