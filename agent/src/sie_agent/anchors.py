"""The authorities by which the hub may prove itself: those of `uplink.ca`, or those that the hub named since.

    DIRECTORY/authorities.pem     what the hub's `cacerts` said when the certificate was renewed last

The exchange's CA is replaced by and by: for a while the old one and the new one are trusted at once. A sensor
learns of it while it renews its certificate, from a hub that has proved itself by an authority that was
trusted already; nobody has to go to each sensor. What was learnt holds as long as `uplink.ca` is as it was:
whoever lays another one there, as a new onboarding bundle does, begins anew from it.
"""

import hashlib
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from sie_agent.errors import AgentError
from sie_core import identity

MAX_AUTHORITIES: Final = 4
"""How many authorities an exchange may have at once: the issuing one and its predecessor, twice over."""

_HEAD: Final = b"learnt under "
"""The first line of the file: this and the SHA-256 of `uplink.ca` in hexadecimal digits. Readers of PEM pass
over it."""


class AnchorsError(AgentError):
    """What the hub says of its authorities cannot be used."""


class Anchors:
    """The authorities trusted by one sensor.

    `configured` is `uplink.ca`, `directory` the identity's.
    """

    def __init__(self, configured: Path, directory: Path) -> None:
        self._configured = configured
        self.learnt = directory / "authorities.pem"
        """Where what was learnt is kept."""

    def file(self) -> Path:
        """The PEM file whose certificates are trusted now: what was learnt, or else `uplink.ca`."""
        try:
            with self.learnt.open("rb") as file:
                head = file.readline(1024)
            return self.learnt if head == self._head() else self._configured
        except OSError:
            # Not there, or not ours to read: then what a person has laid down is trusted.
            return self._configured

    def content(self, said: Collection[x509.Certificate], exchange: str, now: datetime) -> bytes:
        """What to write to `learnt` once the hub has named its authorities.

        Only self-signed CAs of `exchange` that are valid now count. Raises AnchorsError if there are
        none of these or too many, and OSError.
        """
        good = [one for one in said if identity.ca_exchange(one) == exchange and _holds(one, now)]
        if not 1 <= len(good) <= MAX_AUTHORITIES:
            raise AnchorsError(
                f"the hub names {len(good)} authorities of {exchange}; it may have 1 to {MAX_AUTHORITIES}"
            )
        return self._head() + b"".join(map(identity.certificate_to_pem, good))

    def _head(self) -> bytes:
        return _HEAD + hashlib.sha256(self._configured.read_bytes()).hexdigest().encode() + b"\n"


def _holds(authority: x509.Certificate, now: datetime) -> bool:
    in_time = authority.not_valid_before_utc <= now <= authority.not_valid_after_utc
    return in_time and identity.issued_by(authority, authority)
