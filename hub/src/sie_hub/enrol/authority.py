"""The files of the issuing CA and of the hub's own server certificates.

    DIRECTORY/ca.pem, ca.key          the CA: its certificate for everybody, its key for enrol alone (mode
    0600); behind the certificate those of predecessors that are trusted still
    DIRECTORY/link.pem                the CA's key certified by its predecessor: see `sie_hub.enrol.rotation`
    OUT/<name>.pem, <name>.key        a server certificate of the hub, with the link behind it, and its key
    (mode 0600)

Both makers are idempotent: what is there and good stays as it is. A key is written before its
certificate, so that a run that was cut short leaves nothing that the next one cannot mend.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from sie_core import identity
from sie_core.errors import IdentityError, SieError
from sie_core.files import replace_file
from sie_core.identity import Address, Identity, KeyKind, PrivateKey, Random

PUBLIC_MODE: Final = 0o644
SECRET_MODE: Final = 0o600

RENEW_BELOW: Final = 1 / 3
"""The share of its life below which a server certificate is made again."""


class AuthorityError(SieError):
    """A file of the CA cannot be used: the sentence names it."""


@dataclass(frozen=True, slots=True)
class Made:
    """What stands in the files now, and whether this run changed it."""

    changed: bool
    certificate_file: Path
    key_file: Path
    certificate: x509.Certificate

    def public(self) -> dict[str, Any]:
        """What the commands print."""
        names, addresses = identity.server_names(self.certificate)
        return {
            "changed": self.changed,
            "certificate": str(self.certificate_file),
            "key": str(self.key_file),
            "serial": identity.serial_text(self.certificate),
            "not_after": self.certificate.not_valid_after_utc.isoformat(),
            "fingerprint": identity.fingerprint(identity.public_key_of(self.certificate)),
            "names": list(names),
            "addresses": [str(address) for address in addresses],
        }


def certify_ca(
    directory: Path, exchange: str, key: PrivateKey, *, now: datetime, random: Random, check: bool = False
) -> Made:
    """Make the certificate of a CA whose key lies elsewhere, or find it there.

    With `check` nothing is written. Raises AuthorityError and OSError.
    """
    certificate_file = directory / "ca.pem"
    if certificate_file.exists():
        certificate = authority_of(certificate_file, key)
        return Made(False, certificate_file, directory / "ca.key", certificate)
    certificate = identity.make_ca(key, exchange, now=now, random=random)
    if not check:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(certificate_file, identity.certificate_to_pem(certificate), mode=PUBLIC_MODE)
    return Made(True, certificate_file, directory / "ca.key", certificate)


def init_ca(
    directory: Path, exchange: str, kind: KeyKind, *, now: datetime, random: Random, check: bool = False
) -> Made:
    """Make the issuing CA of an exchange in a directory, or find it there.

    With `check` nothing is written. Raises AuthorityError for files that do not belong together or to this
    exchange, and OSError.
    """
    certificate_file, key_file = directory / "ca.pem", directory / "ca.key"
    if certificate_file.exists():
        certificate, key = load_ca(certificate_file, key_file)
        found = identity.ca_exchange(certificate)
        if found != exchange:
            raise AuthorityError(f"{certificate_file}: this is the CA of {found}, not of {exchange}")
        return Made(False, certificate_file, key_file, certificate)
    key = load_key(key_file) if key_file.exists() else identity.generate_key(kind, random)
    certificate = identity.make_ca(key, exchange, now=now, random=random)
    if not check:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(key_file, identity.private_key_to_pem(key), mode=SECRET_MODE)
        replace_file(certificate_file, identity.certificate_to_pem(certificate), mode=PUBLIC_MODE)
    return Made(True, certificate_file, key_file, certificate)


def make_server_certificate(
    ca_directory: Path,
    out: Path,
    name: str,
    dns_names: Sequence[str],
    addresses: Sequence[Address],
    *,
    now: datetime,
    random: Random,
    renew: bool = False,
    check: bool = False,
) -> Made:
    """Make a server certificate of the hub, or find one that will do: these names, this CA, a third of
    its life left.

    A new certificate has a new key; with `renew` one is made in any case. With `check` nothing is written.
    Raises AuthorityError, OSError, and ValueError for no names at all.
    """
    ca, ca_key = load_ca(ca_directory / "ca.pem", ca_directory / "ca.key")
    link_file = ca_directory / "link.pem"
    links = load_certificates(link_file) if link_file.exists() else []
    certificate_file, key_file = out / f"{name}.pem", out / f"{name}.key"
    wanted = in_order(dns_names, addresses)
    present = good_server_certificate(certificate_file, key_file, ca, links, wanted, now)
    if present is not None and not renew:
        return Made(False, certificate_file, key_file, present)
    key = identity.generate_key(KeyKind.P256, random)
    certificate = identity.issue_server_certificate(
        key.public_key(), *wanted, ca, ca_key, now=now, random=random
    )
    if not check:
        out.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(key_file, identity.private_key_to_pem(key), mode=SECRET_MODE)
        chain = b"".join(identity.certificate_to_pem(one) for one in (certificate, *links))
        replace_file(certificate_file, chain, mode=PUBLIC_MODE)
    return Made(True, certificate_file, key_file, certificate)


def sign_request(
    ca_directory: Path,
    participant: str,
    sensor: str,
    request: bytes,
    *,
    now: datetime,
    random: Random,
    days: int,
    ca_key: PrivateKey | None = None,
) -> x509.Certificate:
    """A certificate for the key of a request (PEM), as the sensor that the caller names.

    The CA's key is `ca_key` where it is not in the directory. Raises AuthorityError and RequestRefused.
    """
    if ca_key is None:
        ca, ca_key = load_ca(ca_directory / "ca.pem", ca_directory / "ca.key")
    else:
        ca = authority_of(ca_directory / "ca.pem", ca_key)
    exchange = identity.ca_exchange(ca)
    if exchange is None:
        raise AuthorityError(f"{ca_directory / 'ca.pem'}: this is the CA of no exchange")
    key = identity.key_from_request(identity.request_from_pem(request))
    who = Identity(exchange, participant, sensor)
    return identity.issue_sensor_certificate(key, who, ca, ca_key, now=now, random=random, days=days)


def load_ca(certificate_file: Path, key_file: Path) -> tuple[x509.Certificate, PrivateKey]:
    """The CA from its two files. Raises AuthorityError."""
    certificate = load_certificate(certificate_file)
    key = load_key(key_file)
    if not belong_together(certificate, key):
        cut_short = certificate_file.with_name("next.pem").exists()
        remedy = ": a change of the CA was cut short, finish it by `sie-hub ca rotate`" if cut_short else ""
        raise AuthorityError(f"{certificate_file} and {key_file} do not belong together{remedy}")
    return certificate, key


def authority_of(ca_file: Path, key: PrivateKey) -> x509.Certificate:
    """The CA's certificate, once it is that of a key which lies elsewhere. Raises AuthorityError."""
    certificate = load_certificate(ca_file)
    if not belong_together(certificate, key):
        raise AuthorityError(f"{ca_file} and the key on standard input do not belong together")
    return certificate


def load_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises AuthorityError."""
    return load_certificates(path)[0]


def load_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one. Raises AuthorityError."""
    try:
        return identity.certificates_from_pem(path.read_bytes())
    except OSError as error:
        raise AuthorityError(f"{path}: this certificate cannot be read: {error.strerror}") from None
    except IdentityError as error:
        raise AuthorityError(f"{path}: {error}") from None


def load_key(path: Path) -> PrivateKey:
    """The private key of a PEM file. Raises AuthorityError."""
    try:
        return identity.private_key_from_pem(path.read_bytes())
    except OSError as error:
        raise AuthorityError(f"{path}: this key cannot be read: {error.strerror}") from None
    except IdentityError as error:
        raise AuthorityError(f"{path}: {error}") from None


def in_order(
    dns_names: Sequence[str], addresses: Sequence[Address]
) -> tuple[Sequence[str], Sequence[Address]]:
    """A server's names and addresses, each once, as a certificate lists them."""
    return sorted(set(dns_names)), sorted(set(addresses), key=lambda one: (one.version, int(one)))


def good_server_certificate(
    certificate_file: Path,
    key_file: Path,
    ca: x509.Certificate,
    links: list[x509.Certificate],
    wanted: tuple[Sequence[str], Sequence[Address]],
    now: datetime,
) -> x509.Certificate | None:
    """The server certificate in two files, if it will do: these names, this CA, a third of its life left."""
    try:
        (certificate, *more), key = load_certificates(certificate_file), load_key(key_file)
    except AuthorityError:
        # Not there, or not readable as what it should be: it is made again.
        return None
    names, addresses = identity.server_names(certificate)
    same_names = (list(names), list(addresses)) == (list(wanted[0]), list(wanted[1]))
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    fresh = certificate.not_valid_after_utc - now > life * RENEW_BELOW
    if (
        same_names
        and fresh
        and more == links
        and belong_together(certificate, key)
        and identity.issued_by(certificate, ca)
    ):
        return certificate
    return None


def belong_together(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Whether a certificate is for a key."""
    try:
        public = identity.public_key_of(certificate)
    except IdentityError:
        return False
    return identity.key_digest(public) == identity.key_digest(key.public_key())
