"""One-time enrolment tokens, as files in enrol's own state directory.

A token lets one sensor obtain its certificate. It is 256 random bits, shown once when it is issued and
kept only as its SHA-256; at that entropy a plain hash cannot be reversed by guessing. It is good for one
participant and sensor, until it expires, and for one key: the first use binds it to the key of that
request. The same key may ask again (the answer may have been lost on its way), any other is refused.

A record is named by the beginning of the hash (`sie_hub.enrol.state`).
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from sie_core import limits
from sie_core.errors import SieError
from sie_core.identity import serial_text
from sie_hub.enrol.state import MAX_ISSUED, Issued, Records, issued_from, time_from

ID_DIGITS: Final = 16
"""Hexadecimal digits of the hash that name a token: 64 bits, so that no two of a few thousand meet."""

DEFAULT_LIFETIME: Final = timedelta(days=7)
"""From the onboarding engineer's command to the participant's play: a working week and its weekend."""

MAX_LIFETIME: Final = timedelta(days=90)
"""A token that lies about longer is more likely forgotten than awaited."""

_ASK_FOR_ANOTHER: Final = "ask the exchange's operator for a new one"


class TokenRefused(SieError):
    """A token does not open what was asked for: `reason` for the counter, the text for both sides."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class OtherKey(TokenRefused):
    """A token that is bound to one key was shown with another: somebody else has the token. An alarm."""

    def __init__(self, token: "Token") -> None:
        super().__init__(
            "other_key",
            "this token has been used by another key: if that was not this sensor's, tell the exchange's"
            " operator",
        )
        self.token = token


@dataclass(frozen=True, slots=True)
class Token:
    """Everything that is kept of a token. Its text is not."""

    id: str
    sha256: str
    participant: str
    sensor: str
    created: datetime
    expires: datetime
    revoked: datetime | None = None
    bound_key: str | None = None
    """The fingerprint of the key that used it first (`sie_core.identity.fingerprint`)."""
    bound_at: datetime | None = None
    issued: tuple[Issued, ...] = ()

    def state(self, now: datetime) -> str:
        """`revoked`, `expired`, `used` (by the key that it is bound to, which may ask again) or `open`."""
        if self.revoked is not None:
            return "revoked"
        if now >= self.expires:
            return "expired"
        return "open" if self.bound_key is None else "used"

    def public(self, now: datetime) -> dict[str, Any]:
        """What `sie-hub token list --json` shows."""
        return {
            "id": self.id,
            "participant": self.participant,
            "sensor": self.sensor,
            "state": self.state(now),
            "created": self.created.isoformat(),
            "expires": self.expires.isoformat(),
            "bound_key": self.bound_key,
            "bound_at": self.bound_at.isoformat() if self.bound_at else None,
            "issued": [one.public() for one in self.issued],
        }


class TokenStore:
    """The tokens under one directory, which is made if it is not there."""

    def __init__(self, directory: Path) -> None:
        self._records = Records(directory, "tokens", "token")

    def issue(
        self,
        participant: str,
        sensor: str,
        *,
        now: datetime,
        random: Callable[[int], bytes],
        lifetime: timedelta = DEFAULT_LIFETIME,
        unless_valid: bool = False,
    ) -> tuple[Token, str | None]:
        """A new token and its text, which is nowhere else and cannot be had again.

        With `unless_valid`, a token of this sensor that is still good is returned instead, with None for its
        text. Raises ValueError for a lifetime out of range, StateError.
        """
        if not timedelta() < lifetime <= MAX_LIFETIME:
            raise ValueError(f"a token lives up to {MAX_LIFETIME.days} days, not {lifetime}")
        now = now.replace(microsecond=0)
        with self._records.locked():
            if unless_valid:
                for token in self._all():
                    if (token.participant, token.sensor) == (participant, sensor) and token.state(now) in (
                        "open",
                        "used",
                    ):
                        return token, None
            secret = base64.urlsafe_b64encode(random(limits.TOKEN_BYTES)).decode().rstrip("=")
            digest = _digest(secret)
            token = Token(digest[:ID_DIGITS], digest, participant, sensor, now, now + lifetime)
            self._write(token)
        return token, secret

    def list(self) -> list[Token]:
        """Every token, the oldest first. Raises StateError."""
        with self._records.locked():
            return sorted(self._all(), key=lambda token: (token.created, token.id))

    def revoke(self, token_id: str, *, now: datetime) -> bool | None:
        """Take a token back: True if that changed something, False if it was taken back before, None if there
        is no such token.

        Raises StateError.
        """
        with self._records.locked():
            token = self._read(token_id)
            if token is None:
                return None
            if token.revoked is not None:
                return False
            self._write(replace(token, revoked=now.replace(microsecond=0)))
            return True

    def forget(self, participant: str, *, dry_run: bool) -> int:
        """Remove every token of a participant. Returns how many there are. Raises StateError."""
        with self._records.locked():
            found = [token.id for token in self._all() if token.participant == participant]
            for token_id in found if not dry_run else ():
                self._records.remove(token_id)
        return len(found)

    def redeem(
        self,
        participant: str,
        sensor: str,
        secret: str,
        key: str,
        *,
        now: datetime,
        issue: Callable[[], x509.Certificate],
    ) -> tuple[Token, x509.Certificate]:
        """Use a token for a key (by its fingerprint): the token as it then is, and what `issue` issued.

        All of it happens under the lock, and the record is on disk before this returns: no token ever serves
        two keys. Whatever `issue` raises is passed on and leaves the token as it was.

        Raises TokenRefused (OtherKey among them) and StateError.
        """
        now = now.replace(microsecond=0)
        with self._records.locked():
            token = self._good(participant, sensor, secret, now)
            if token.bound_key is not None and not hmac.compare_digest(token.bound_key, key):
                raise OtherKey(token)
            if len(token.issued) >= MAX_ISSUED:
                raise TokenRefused(
                    "used_up", f"this token has given {MAX_ISSUED} certificates already: {_ASK_FOR_ANOTHER}"
                )
            certificate = issue()
            issued = Issued(serial_text(certificate), now, certificate.not_valid_after_utc)
            token = replace(
                token, bound_key=key, bound_at=token.bound_at or now, issued=(*token.issued, issued)
            )
            self._write(token)
            return token, certificate

    def check(self, participant: str, sensor: str, secret: str, *, now: datetime) -> Token:
        """The token with this text, if it is good for this sensor now.

        Raises TokenRefused and StateError.
        """
        with self._records.locked():
            return self._good(participant, sensor, secret, now)

    def _good(self, participant: str, sensor: str, secret: str, now: datetime) -> Token:
        digest = _digest(secret)
        token = self._read(digest[:ID_DIGITS])
        if token is None or not hmac.compare_digest(token.sha256, digest):
            raise TokenRefused("unknown_token", f"this token is not known here: {_ASK_FOR_ANOTHER}")
        if (token.participant, token.sensor) != (participant, sensor):
            raise TokenRefused("other_sensor", f"this token is not for {participant}/{sensor}")
        state = token.state(now)
        if state in ("revoked", "expired"):
            raise TokenRefused(f"{state}_token", f"this token is {state}: {_ASK_FOR_ANOTHER}")
        return token

    def _all(self) -> Iterator[Token]:
        for name in self._records.names():
            token = self._read(name)
            if token is not None:
                yield token

    def _read(self, token_id: str) -> Token | None:
        raw = self._records.read(token_id)
        try:
            return None if raw is None else _from_record(raw)
        except (ValueError, TypeError, KeyError):
            raise self._records.damaged(token_id) from None

    def _write(self, token: Token) -> None:
        self._records.write(token.id, asdict(token))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _from_record(raw: dict[str, Any]) -> Token:
    issued = issued_from(raw.pop("issued"))
    for name in ("created", "expires", "revoked", "bound_at"):
        raw[name] = None if raw[name] is None else time_from(raw[name])
    return Token(**raw, issued=issued)
