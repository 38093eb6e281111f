"""This sensor's key and certificate on disk.

    DIRECTORY/key.pem, certificate.pem            what the agent shows to the hub
    DIRECTORY/authorities.pem                     by which the hub may prove itself (`sie_agent.anchors`)
    DIRECTORY/key.new.pem, certificate.new.pem    what an enrolment under way will put in their place

A key is made in this directory, readable by its owner alone, and never leaves it. It waits as
`key.new.pem` until a certificate for it has come, so that an enrolment whose answer was lost asks again
with the same key, which is the only one that its token still opens. Two files cannot be replaced at once;
so the new certificate is laid beside the old one first, and whoever finds it there later (`settle`)
finishes what was begun.
"""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sie_agent.errors import AgentError
from sie_core import identity
from sie_core.errors import IdentityError, IdentityRefused, Refusal
from sie_core.files import replace_file, sync_directory
from sie_core.identity import Identity, KeyKind, PeerIdentity, PrivateKey, Random

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o700


class IdentityFilesError(AgentError):
    """The key or the certificate of this sensor cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the files of an identity amount to: `state` is `valid`, `none` or the reason of a refusal.

    `text` says in a sentence what is wrong, None if nothing is. `peer` is what the certificate says, if
    it is valid. `fingerprint` is that of the key, None if there is none.
    """

    state: str
    text: str | None
    fingerprint: str | None
    peer: PeerIdentity | None


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Which certificate is in place, and its time; nothing about it is checked."""

    serial: str
    not_before: datetime
    not_after: datetime


class IdentityFiles:
    """The identity of one sensor in its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = directory / "key.pem"
        self.certificate = directory / "certificate.pem"
        self._pending_key = directory / "key.new.pem"
        self._pending_certificate = directory / "certificate.new.pem"

    def settle(self) -> None:
        """Finish an installation that was cut short. Raises IdentityFilesError."""
        try:
            if not self._pending_certificate.exists():
                return
            certificate = _certificate(self._pending_certificate)
            for path in (self._pending_key, self.key):
                if path.exists() and fits(certificate, _key(path)):
                    path.replace(self.key)
                    self._pending_certificate.replace(self.certificate)
                    break
            else:
                self._pending_certificate.unlink()
            sync_directory(self.directory)
        except OSError as error:
            raise _failed(error, self.directory) from None

    def has_pending_key(self) -> bool:
        """Whether a key waits for its certificate."""
        return self._pending_key.exists()

    def pending_key(self, random: Random) -> PrivateKey:
        """The key that waits for a certificate, made now if there is none. Raises IdentityFilesError."""
        try:
            self.directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            if self._pending_key.exists():
                return _key(self._pending_key)
            key = identity.generate_key(KeyKind.ED25519, random)
            self._write(self._pending_key, identity.private_key_to_pem(key), SECRET_MODE)
        except OSError as error:
            raise _failed(error, self.directory) from None
        return key

    def has_key_of(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate is for the key that waits or for the one in place.

        Raises IdentityFilesError.
        """
        try:
            return any(
                path.exists() and fits(certificate, _key(path)) for path in (self._pending_key, self.key)
            )
        except OSError as error:
            raise _failed(error, self.directory) from None

    def install(self, certificate: x509.Certificate) -> None:
        """Put the waiting key and its certificate in the place of the old ones. Raises IdentityFilesError."""
        try:
            self._write(self._pending_certificate, identity.certificate_to_pem(certificate), PUBLIC_MODE)
        except OSError as error:
            raise _failed(error, self.directory) from None
        self.settle()

    def keep_authorities(self, path: Path, content: bytes) -> None:
        """Write down in this directory what was learnt of the authorities. Raises IdentityFilesError."""
        try:
            self.directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            self._write(path, content, PUBLIC_MODE)
        except OSError as error:
            raise _failed(error, self.directory) from None

    def lifetime(self) -> Lifetime | None:
        """The time of the certificate in place, None if there is none. Raises IdentityFilesError."""
        try:
            certificate = _certificate(self.certificate) if self.certificate.exists() else None
        except OSError as error:
            raise _failed(error, self.directory) from None
        if certificate is None:
            return None
        return Lifetime(
            identity.serial_text(certificate),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )

    def standing(self, wanted: Identity, ca_file: Path, now: datetime) -> Standing:
        """Whether the hub would take this sensor for `wanted` now. Raises IdentityFilesError."""
        try:
            key = _key(self.key) if self.key.exists() else None
            certificate = _certificate(self.certificate) if self.certificate.exists() else None
        except OSError as error:
            raise _failed(error, self.directory) from None
        fingerprint = identity.fingerprint(key.public_key()) if key is not None else None
        if key is None or certificate is None:
            return Standing("none", f"{self.directory}: this sensor has not enrolled", fingerprint, None)
        if not fits(certificate, key):
            text = f"{self.certificate}: this is not the certificate of {self.key}"
            return Standing("other_key", text, fingerprint, None)
        try:
            peer = check_own(certificate, wanted, load_authorities(ca_file), now)
        except IdentityRefused as refused:
            return Standing(refused.reason.value, str(refused), fingerprint, None)
        return Standing("valid", None, fingerprint, peer)

    def _write(self, path: Path, data: bytes, mode: int) -> None:
        """Root, who enrols by hand or by playbook, leaves its files to the directory's owner.

        That user could lay a link in the directory's place, which root must not follow.
        """
        owner = None
        if os.geteuid() == 0:
            if self.directory.is_symlink():
                raise IdentityFilesError(f"{self.directory}: a symbolic link: name the directory itself")
            status = self.directory.stat()
            owner = (status.st_uid, status.st_gid)
        replace_file(path, data, mode=mode, owner=owner)


def check_own(
    certificate: x509.Certificate, wanted: Identity, authorities: list[x509.Certificate], now: datetime
) -> PeerIdentity:
    """What a certificate says of `wanted`, checked as the hub will check it. Raises IdentityRefused."""
    der = certificate.public_bytes(Encoding.DER)
    peer = identity.check_peer(der, authorities=authorities, exchange=wanted.exchange, now=now)
    if (peer.participant, peer.sensor) != (wanted.participant, wanted.sensor):
        raise IdentityRefused(
            Refusal.WRONG_NAME,
            f"the certificate is that of {peer.participant}/{peer.sensor}, this sensor is {wanted}",
        )
    return peer


def load_authorities(path: Path) -> list[x509.Certificate]:
    """The pinned certificates of the exchange's CA. Raises IdentityFilesError."""
    try:
        return identity.certificates_from_pem(path.read_bytes())
    except OSError as error:
        raise _failed(error, path) from None
    except IdentityError as error:
        raise IdentityFilesError(f"{path}: {error}") from None


def _key(path: Path) -> PrivateKey:
    try:
        return identity.private_key_from_pem(path.read_bytes())
    except IdentityError as error:
        raise IdentityFilesError(f"{path}: {error}; remove it and enrol again") from None


def _certificate(path: Path) -> x509.Certificate:
    try:
        return identity.certificates_from_pem(path.read_bytes())[0]
    except IdentityError as error:
        raise IdentityFilesError(f"{path}: {error}; remove it and enrol again") from None


def fits(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Whether a certificate is one for this key."""
    try:
        public = identity.public_key_of(certificate)
    except IdentityError:
        return False
    return identity.key_digest(public) == identity.key_digest(key.public_key())


def _failed(error: OSError, path: Path) -> IdentityFilesError:
    return IdentityFilesError(f"{error.filename or path}: cannot be read or written: {error.strerror}")
