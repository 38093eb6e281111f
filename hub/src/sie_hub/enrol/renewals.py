"""Certificates that were renewed, as files in enrol's own state directory.

A certificate may be renewed for one key: the first renewal binds it to the key of that request. The same key
may ask again (the answer may have been lost on its way), any other is refused. A stolen key is found out by
that: thief and sensor cannot both renew. A record is named by the serial number of the certificate that was
renewed (`sie_hub.enrol.state`) and is kept until nothing that was issued on it can be renewed any more.
"""

import hmac
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from sie_core.errors import SieError
from sie_core.identity import PeerIdentity, serial_text
from sie_hub.enrol.state import MAX_ISSUED, Issued, Records, issued_from, time_from

PERIOD: Final = timedelta(days=30)
MAX_RENEWALS: Final = 100
"""Certificates that a sensor may renew in each PERIOD, where one or two are needed and a few more by hand.
Each can be renewed at once again, and every renewal is kept for some 60 days with all that it descends from:
200 records of 7 KiB at most, which a loop on one sensor's host could otherwise make without end."""


class RenewalRefused(SieError):
    """A certificate is not renewed: `reason` for the counter, the text for both sides."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class RenewedByOther(RenewalRefused):
    """A certificate that one key has renewed was shown with another: two hosts hold its key. An alarm."""

    def __init__(self, renewal: "Renewal") -> None:
        super().__init__(
            "renewed_by_other",
            "this certificate has been renewed with another key: if that was not this sensor's, tell the"
            " exchange's operator; otherwise ask for a new token",
        )
        self.renewal = renewal


@dataclass(frozen=True, slots=True)
class Renewal:
    """Everything that is kept of a certificate's renewal."""

    serial: str
    """Of the certificate that was renewed."""
    participant: str
    sensor: str
    not_after: datetime
    bound_key: str
    """The fingerprint of the key that the new certificate is for (`sie_core.identity.fingerprint`)."""
    bound_at: datetime
    ancestors: tuple[str, ...] = ()
    """The serial numbers from which the renewed certificate descends by earlier renewals, oldest first."""
    issued: tuple[Issued, ...] = ()

    def public(self) -> dict[str, Any]:
        """What `sie-hub renewal list --json` shows."""
        return {
            "serial": self.serial,
            "participant": self.participant,
            "sensor": self.sensor,
            "not_after": self.not_after.isoformat(),
            "bound_key": self.bound_key,
            "bound_at": self.bound_at.isoformat(),
            "ancestors": list(self.ancestors),
            "issued": [one.public() for one in self.issued],
        }


class RenewalStore:
    """The renewals under one directory, which is made if it is not there.

    `grace` is how long after its end a certificate can be renewed.
    """

    def __init__(self, directory: Path, grace: timedelta) -> None:
        self._records = Records(directory, "renewals", "renewal")
        self._grace = grace

    def list(self) -> list[Renewal]:
        """Every renewal, the oldest first. Raises StateError."""
        with self._records.locked():
            return sorted(self._all(), key=lambda renewal: (renewal.bound_at, renewal.serial))

    def lineage(self, serial: str) -> tuple[str, ...]:
        """The serial numbers that a certificate descends from, oldest first, and its own.

        Raises StateError.
        """
        with self._records.locked():
            return (*self._ancestors(serial), serial)

    def forget(self, participant: str, *, dry_run: bool) -> int:
        """Remove every record of a participant, whose certificates must not be renewed for another reason.
        Returns how many there are. Raises StateError."""
        with self._records.locked():
            found = [renewal.serial for renewal in self._all() if renewal.participant == participant]
            for serial in found if not dry_run else ():
                self._records.remove(serial)
        return len(found)

    def redeem(
        self, peer: PeerIdentity, key: str, *, now: datetime, issue: Callable[[], x509.Certificate]
    ) -> tuple[Renewal, x509.Certificate]:
        """Renew a certificate for a key (by its fingerprint): the record as it then is, what `issue` gave.

        All of it happens under the lock, and the record is on disk before this returns: no certificate is
        ever renewed for two keys. Whatever `issue` raises is passed on and changes nothing.

        Raises RenewalRefused (RenewedByOther among them) and StateError.
        """
        now = now.replace(microsecond=0)
        with self._records.locked():
            self._forget(now)
            known = self._read(peer.serial)
            if known is not None and not hmac.compare_digest(known.bound_key, key):
                raise RenewedByOther(known)
            if known is not None and len(known.issued) >= MAX_ISSUED:
                raise RenewalRefused(
                    "used_up",
                    f"this certificate has been renewed {MAX_ISSUED} times already: ask the exchange's"
                    " operator for a new token",
                )
            if known is None and self._lately(peer, now) >= MAX_RENEWALS:
                raise RenewalRefused(
                    "used_up",
                    f"this sensor has renewed {MAX_RENEWALS} certificates within {PERIOD.days} days already:"
                    " wait, and let the exchange's operator look into it",
                )
            certificate = issue()
            renewal = known or Renewal(
                peer.serial,
                peer.participant,
                peer.sensor,
                peer.not_after,
                key,
                now,
                self._ancestors(peer.serial),
            )
            issued = Issued(serial_text(certificate), now, certificate.not_valid_after_utc)
            renewal = replace(renewal, issued=(*renewal.issued, issued))
            self._records.write(renewal.serial, asdict(renewal))
            return renewal, certificate

    def _ancestors(self, serial: str) -> tuple[str, ...]:
        for renewal in self._all():
            if any(one.serial == serial for one in renewal.issued):
                return (*renewal.ancestors, renewal.serial)
        return ()

    def _lately(self, peer: PeerIdentity, now: datetime) -> int:
        """How many certificates a sensor has renewed within the last PERIOD."""
        who = (peer.participant, peer.sensor)
        return sum(
            (renewal.participant, renewal.sensor) == who and renewal.bound_at > now - PERIOD
            for renewal in self._all()
        )

    def _forget(self, now: datetime) -> None:
        for renewal in list(self._all()):
            ends = max(renewal.not_after, *(one.not_after for one in renewal.issued))
            if now > ends + self._grace:
                self._records.remove(renewal.serial)

    def _all(self) -> Iterator[Renewal]:
        for name in self._records.names():
            renewal = self._read(name)
            if renewal is not None:
                yield renewal

    def _read(self, serial: str) -> Renewal | None:
        raw = self._records.read(serial)
        try:
            return None if raw is None else _from_record(raw)
        except (ValueError, TypeError, KeyError):
            raise self._records.damaged(serial) from None


def _from_record(raw: dict[str, Any]) -> Renewal:
    issued = issued_from(raw.pop("issued"))
    ancestors = tuple(str(serial) for serial in raw.pop("ancestors"))
    for name in ("not_after", "bound_at"):
        raw[name] = time_from(raw[name])
    return Renewal(**raw, ancestors=ancestors, issued=issued)
