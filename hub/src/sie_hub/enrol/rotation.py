"""The succession of the issuing CA: a new key takes over while its predecessor is still trusted.

    DIRECTORY/ca.pem      the issuing CA first, behind it the predecessor while it is trusted
    DIRECTORY/ca.key      the issuing CA's key
    DIRECTORY/link.pem    the issuing CA's key, certified by the predecessor ("new with old" of RFC 4210,
    4.4): it goes out with the hub's own certificates, so that who trusts the predecessor alone takes them
    DIRECTORY/next.*      a successor that is being put in place

Three files cannot be replaced at once. `next.pem` is laid down last and taken away last: while it is there, a
succession has been decided and is only to be finished, which the next run does.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from sie_core import identity, limits
from sie_core.files import replace_file, sync_directory
from sie_core.identity import KeyKind, Random
from sie_hub.enrol.authority import (
    PUBLIC_MODE,
    SECRET_MODE,
    AuthorityError,
    load_ca,
    load_certificates,
    load_key,
)

OVERLAP: Final = timedelta(days=limits.SENSOR_CERTIFICATE_DAYS + limits.CERTIFICATE_GRACE_DAYS)
"""How long a predecessor stays trusted unless told otherwise: what the certificate that it issued last
lives, and the time for which that can be renewed afterwards. A sensor that has not renewed by then needs a
token anyway."""

_STEPS: Final = (("next.link.pem", "link.pem"), ("next.key", "ca.key"), ("next.pem", "ca.pem"))
"""The renamings by which a successor takes its place, in their order."""


@dataclass(frozen=True, slots=True)
class Succession:
    """Which CAs stand in the files now, and whether this run changed it."""

    changed: bool
    issuing: x509.Certificate
    trusted: tuple[x509.Certificate, ...]
    """The issuing CA first."""

    def retirable(self, overlap: timedelta = OVERLAP) -> datetime | None:
        """From when nothing is lost by trusting the issuing CA alone; None if that is so already."""
        if len(self.trusted) == 1:
            return None
        begun = self.issuing.not_valid_before_utc + timedelta(seconds=limits.CLOCK_SKEW)
        return begun + overlap

    def public(self) -> dict[str, Any]:
        """What the commands print."""
        until = self.retirable()
        return {
            "changed": self.changed,
            "issuing": _fingerprint(self.issuing),
            "trusted": [_fingerprint(certificate) for certificate in self.trusted],
            "retire_from": None if until is None else until.isoformat(),
        }


def rotate_ca(directory: Path, *, now: datetime, random: Random, check: bool = False) -> Succession:
    """Let a new key of the same kind take over from the issuing CA, which stays trusted.

    A succession that was cut short is finished. While a predecessor is trusted nothing changes: two changes
    of the CA at a time would leave sensors behind that have seen neither. With `check` nothing is written.
    Raises AuthorityError and OSError.
    """
    if (directory / "next.pem").exists():
        return _succession(directory, changed=True) if check else _put_in_place(directory)
    old, old_key = load_ca(directory / "ca.pem", directory / "ca.key")
    if len(load_certificates(directory / "ca.pem")) > 1:
        return _succession(directory, changed=False)
    if check:
        return _succession(directory, changed=True)
    waiting = directory / "next.key"
    key = load_key(waiting) if waiting.exists() else identity.generate_key(KeyKind.of(old_key), random)
    exchange = identity.ca_exchange(old)
    if exchange is None:
        raise AuthorityError(f"{directory / 'ca.pem'}: this is the CA of no exchange")
    new = identity.make_ca(key, exchange, now=now, random=random)
    link = identity.link_ca(new, old, old_key, now=now, random=random)
    replace_file(waiting, identity.private_key_to_pem(key), mode=SECRET_MODE)
    replace_file(directory / "next.link.pem", identity.certificate_to_pem(link), mode=PUBLIC_MODE)
    both = identity.certificate_to_pem(new) + identity.certificate_to_pem(old)
    replace_file(directory / "next.pem", both, mode=PUBLIC_MODE)
    return _put_in_place(directory)


def retire_ca(
    directory: Path, *, now: datetime, overlap: timedelta = OVERLAP, check: bool = False
) -> Succession:
    """Trust the issuing CA alone from now on.

    Raises AuthorityError before the overlap has passed, naming the moment, and for files that do not belong
    together, and OSError.
    """
    if (directory / "next.pem").exists():
        raise AuthorityError(
            f"{directory}: a change of the CA was cut short: finish it by `sie-hub ca rotate`"
        )
    issuing, _ = load_ca(directory / "ca.pem", directory / "ca.key")
    before = _succession(directory, changed=False)
    until = before.retirable(overlap)
    if until is None:
        return before
    if now < until:
        raise AuthorityError(
            f"{directory / 'ca.pem'}: sensors may hold certificates of the CA before this one until"
            f" {until:%Y-%m-%d %H:%M} UTC: wait, or say how long they live by --after"
        )
    if check:
        return Succession(True, issuing, (issuing,))
    replace_file(directory / "ca.pem", identity.certificate_to_pem(issuing), mode=PUBLIC_MODE)
    (directory / "link.pem").unlink(missing_ok=True)
    sync_directory(directory)
    return _succession(directory, changed=True)


def _put_in_place(directory: Path) -> Succession:
    for waiting, place in _STEPS:
        if (directory / waiting).exists():
            (directory / waiting).replace(directory / place)
            sync_directory(directory)
    load_ca(directory / "ca.pem", directory / "ca.key")
    return _succession(directory, changed=True)


def _succession(directory: Path, *, changed: bool) -> Succession:
    trusted = tuple(load_certificates(directory / "ca.pem"))
    return Succession(changed, trusted[0], trusted)


def _fingerprint(certificate: x509.Certificate) -> str:
    return identity.fingerprint(identity.public_key_of(certificate))
