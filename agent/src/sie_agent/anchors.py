"""The authorities by which the hub may prove itself: those of `uplink.ca`, or those that the hub named since.

    DIRECTORY/authorities.pem     what the hub's `cacerts` said when the certificate was renewed last

The exchange's CA is replaced by and by: for a while the old one and the new one are trusted at once. A sensor
learns of it while it renews its certificate, from a hub that has proved itself by an authority that was
trusted already, and only if that authority has certified the new key; nobody has to go to each sensor. What
was learnt holds as long as `uplink.ca` is as it was: whoever lays another one there, as a new onboarding
bundle does, begins anew from it.
"""

import hashlib
from collections.abc import Collection, Iterable
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

    def content(self, authorities: Iterable[x509.Certificate]) -> bytes:
        """What to write to `learnt` for these authorities. Raises OSError."""
        return self._head() + b"".join(map(identity.certificate_to_pem, authorities))

    def _head(self) -> bytes:
        return _HEAD + hashlib.sha256(self._configured.read_bytes()).hexdigest().encode() + b"\n"


def successors(
    said: Collection[x509.Certificate], trusted: Collection[x509.Certificate], exchange: str, now: datetime
) -> list[x509.Certificate]:
    """Which of the certificates that the hub names are to be trusted from now on.

    These are self-signed CAs of `exchange`, valid now, that are trusted already or whose key one that is
    trusted has certified as a CA's ("new with old", RFC 7030, section 4.1.3): who has stolen the key of a
    server or a sensor alone cannot put an authority of his own in their place, since that key's certificate
    is no CA's. Raises AnchorsError if there are none or too many.
    """
    roots = [one for one in said if identity.ca_exchange(one) == exchange and _holds(one, now)]
    good = [root for root in roots if root in trusted or _certified(root, said, trusted)]
    if not 1 <= len(good) <= MAX_AUTHORITIES:
        raise AnchorsError(
            f"of the {len(said)} certificates that the hub names, {len(good)} are authorities of {exchange}"
            f" that follow from those trusted here, where 1 to {MAX_AUTHORITIES} may: lay the CA of a new"
            " onboarding bundle in the place of uplink.ca"
        )
    return good


def _certified(
    root: x509.Certificate, said: Iterable[x509.Certificate], trusted: Iterable[x509.Certificate]
) -> bool:
    links = [
        one
        for one in said
        if one.subject == root.subject and identity.is_authority(one) and identity.same_key(one, root)
    ]
    return any(identity.issued_by(link, authority) for link in links for authority in trusted)


def _holds(authority: x509.Certificate, now: datetime) -> bool:
    in_time = authority.not_valid_before_utc <= now <= authority.not_valid_after_utc
    return in_time and identity.is_authority(authority) and identity.issued_by(authority, authority)
