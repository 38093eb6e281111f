"""Identities, keys, requests and certificates, without I/O.

A sensor is who its certificate says: one URI in the subject alternative name,

    sie://EXCHANGE/PARTICIPANT/SENSOR        for instance  sie://lab.example/isp_a/ns1

issued by the exchange's own small CA. A private key is made on the host that uses it and never leaves it, so
an issuer sees a certificate request (PKCS #10, RFC 2986) and takes nothing from it but the public key, whose
possession the request's own signature proves. Everything else in the certificate (name, usage, lifetime)
comes from the issuer's arguments.

Clock and randomness are arguments throughout: `now` is an aware datetime, `random(n)` gives n random octets.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs7,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sie_core import limits
from sie_core.errors import IdentityError, IdentityRefused, Refusal, RequestRefused

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
Random = Callable[[int], bytes]
Address = IPv4Address | IPv6Address

SCHEME: Final = "sie"
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_EXCHANGE: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_PARTICIPANT: Final = re.compile(r"[a-z0-9_]{1,32}")
_SENSOR: Final = re.compile(r"[a-z0-9-]{1,32}")

P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order n of the group of P-256 (SEC 2, section 2.4.2; FIPS 186-4, D.1.2.3)."""

SERIAL_OCTETS: Final = 16
"""128 random bits, positive: above the 64 that CA/Browser rules ask for, within the 20 octets of RFC
5280, 4.1.2.2."""


_UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the cryptography library raises for octets that are no certificate or request."""


class KeyKind(StrEnum):
    """The kinds of key in use here."""

    ED25519 = "ed25519"
    P256 = "p256"

    @classmethod
    def of(cls, key: PrivateKey) -> Self:
        """The kind of a key."""
        return cls("ed25519" if isinstance(key, Ed25519PrivateKey) else "p256")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a sensor is. Raises ValueError for a part that breaks the rules of names."""

    exchange: str
    participant: str
    sensor: str

    def __post_init__(self) -> None:
        for what, value, rule in (
            ("exchange", self.exchange, _EXCHANGE),
            ("participant", self.participant, _PARTICIPANT),
            ("sensor", self.sensor, _SENSOR),
        ):
            if not rule.fullmatch(value):
                raise ValueError(f"{value!r} is no name of a {what}")

    def __str__(self) -> str:
        """`participant/sensor`, as in logs and as EST's user name."""
        return f"{self.participant}/{self.sensor}"

    @property
    def uri(self) -> str:
        """The form in the certificate."""
        return f"{SCHEME}://{self.exchange}/{self.participant}/{self.sensor}"

    @classmethod
    def from_uri(cls, uri: str) -> Self:
        """The identity that a URI names; exactly the form that `uri` gives. Raises ValueError."""
        prefix = f"{SCHEME}://"
        parts = uri.removeprefix(prefix).split("/")
        if not uri.startswith(prefix) or len(parts) != 3:
            raise ValueError(f"{uri!r} is not of the form {prefix}EXCHANGE/PARTICIPANT/SENSOR")
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a peer's certificate proves. `serial` and `fingerprint` are text as in logs and in the
    registry."""

    exchange: str
    participant: str
    sensor: str
    serial: str
    """Lower-case hexadecimal digits, no leading zeros."""
    not_before: datetime
    not_after: datetime
    fingerprint: str
    """Of the public key: see `fingerprint`."""

    @property
    def issued_at(self) -> datetime:
        """When the certificate was issued, by the issuer's clock: they are dated back."""
        return self.not_before + timedelta(seconds=limits.CLOCK_SKEW)


# --- keys ------------------------------------------------------------------------------------------------


def generate_key(kind: KeyKind, random: Random) -> PrivateKey:
    """A new private key from the random octets that `random` gives."""
    if kind is KeyKind.ED25519:
        return Ed25519PrivateKey.from_private_bytes(random(32))
    # FIPS 186-4, B.4.1: 64 bits more than the order has, so that the remainder is as good as uniform.
    return derive_private_key(1 + int.from_bytes(random(40)) % (P256_ORDER - 1), SECP256R1())


def private_key_to_pem(key: PrivateKey) -> bytes:
    """PKCS #8, not encrypted: the file's mode protects it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def private_key_from_pem(pem: bytes) -> PrivateKey:
    """Raises IdentityError for what is no Ed25519 or P-256 key in PEM without a passphrase."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError("no private key in PEM without a passphrase") from None
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key
    raise IdentityError("a private key that is neither Ed25519 nor P-256")


def fingerprint(key: PublicKey) -> str:
    """`SHA256:` and the base64 (no padding) of the SHA-256 of the SubjectPublicKeyInfo: for people to
    compare."""
    return "SHA256:" + base64.b64encode(key_digest(key)).decode().rstrip("=")


def key_digest(key: PublicKey) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo (RFC 5280, 4.1.2.7) in DER."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


# --- requests --------------------------------------------------------------------------------------------


def make_request(key: PrivateKey, identity: Identity) -> bytes:
    """A certificate request in DER for a key. The name in it is for people: an issuer takes only the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(identity)[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, _hash_for(key)).public_bytes(Encoding.DER)


def request_to_pem(der: bytes) -> bytes:
    """A certificate request as text, for people to carry."""
    return x509.load_der_x509_csr(der).public_bytes(Encoding.PEM)


def request_from_pem(pem: bytes) -> bytes:
    """The certificate request in a text, in DER. Raises RequestRefused."""
    try:
        return x509.load_pem_x509_csr(pem).public_bytes(Encoding.DER)
    except _UNREADABLE:
        raise RequestRefused("this is no certificate request in PEM") from None


def key_from_request(der: bytes) -> PublicKey:
    """The public key of a certificate request, once its signature has proved possession of the private one.

    Raises RequestRefused.
    """
    try:
        request = x509.load_der_x509_csr(der)
    except _UNREADABLE:
        raise RequestRefused("this is no certificate request (PKCS #10)") from None
    try:
        key = request.public_key()
        signed = request.is_signature_valid
    except (*_UNREADABLE, InvalidSignature):
        raise RequestRefused(
            "the key of this certificate request cannot be used: Ed25519 or P-256 is needed"
        ) from None
    accepted = _accepted(key)
    if accepted is None:
        raise RequestRefused("the key of this certificate request is neither Ed25519 nor P-256")
    if not signed:
        raise RequestRefused("this certificate request is not signed with the key that it holds")
    return accepted


# --- certificates ----------------------------------------------------------------------------------------


def make_ca(key: PrivateKey, exchange: str, *, now: datetime, random: Random) -> x509.Certificate:
    """The exchange's issuing CA: self-signed, for signing certificates alone and none below it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"issuing CA of {exchange}"[:64])])
    builder = _builder(
        name,
        name,
        key.public_key(),
        now=now,
        lifetime=timedelta(days=limits.CA_CERTIFICATE_DAYS),
        random=random,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    names = [x509.UniformResourceIdentifier(f"{SCHEME}://{exchange}")]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, _hash_for(key))


def link_ca(
    new: x509.Certificate,
    old: x509.Certificate,
    old_key: PrivateKey,
    *,
    now: datetime,
    random: Random,
) -> x509.Certificate:
    """The key of a CA certified by its predecessor, "new with old" of RFC 4210, section 4.4: by it who trusts
    the predecessor alone follows a chain to what the new CA has issued.

    Both have one name, so that it is self-issued and the predecessor's path length of 0 admits it (RFC 5280,
    4.2.1.9). It lives as long as the predecessor. Raises IdentityError if that has expired.
    """
    lifetime = old.not_valid_after_utc - now
    if lifetime <= timedelta():
        raise IdentityError(f"the issuing CA expired at {_stamp(old.not_valid_after_utc)}: make a new one")
    key = public_key_of(new)
    builder = _builder(new.subject, old.subject, key, now=now, lifetime=lifetime, random=random)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(old_key.public_key()), critical=False
    )
    return builder.sign(old_key, _hash_for(old_key))


def ca_exchange(certificate: x509.Certificate) -> str | None:
    """The exchange that a CA of `make_ca` issues for; None for another certificate."""
    match _names_of(certificate):
        case [x509.UniformResourceIdentifier(value=uri)] if uri.startswith(f"{SCHEME}://"):
            return uri.removeprefix(f"{SCHEME}://")
    return None


def issue_sensor_certificate(
    key: PublicKey,
    identity: Identity,
    ca: x509.Certificate,
    ca_key: PrivateKey,
    *,
    now: datetime,
    random: Random,
    days: int = limits.SENSOR_CERTIFICATE_DAYS,
) -> x509.Certificate:
    """A certificate by which a sensor proves its identity to the hub, and nothing else (clientAuth alone)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(identity)[:64])])
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    return _issue(key, name, names, ExtendedKeyUsageOID.CLIENT_AUTH, ca, ca_key, now, days, random)


def issue_server_certificate(
    key: PublicKey,
    dns_names: Sequence[str],
    addresses: Sequence[Address],
    ca: x509.Certificate,
    ca_key: PrivateKey,
    *,
    now: datetime,
    random: Random,
    days: int = limits.SERVER_CERTIFICATE_DAYS,
) -> x509.Certificate:
    """A certificate by which the hub proves its names and addresses to sensors (serverAuth alone)."""
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns_names]
    names.extend(x509.IPAddress(address) for address in addresses)
    if not names:
        raise ValueError("a server certificate needs a name or an address")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _text_of(names[0])[:64])])
    return _issue(key, subject, names, ExtendedKeyUsageOID.SERVER_AUTH, ca, ca_key, now, days, random)


def server_names(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[Address, ...]]:
    """The DNS names and addresses of a server certificate, sorted; both empty if it has none."""
    names = _names_of(certificate)
    dns_names = (name.value for name in names if isinstance(name, x509.DNSName))
    values = (name.value for name in names if isinstance(name, x509.IPAddress))
    addresses = (value for value in values if isinstance(value, Address))
    return tuple(sorted(dns_names)), tuple(sorted(addresses, key=lambda one: (one.version, int(one))))


def certificate_to_pem(certificate: x509.Certificate) -> bytes:
    """PEM, as TLS libraries read it."""
    return certificate.public_bytes(Encoding.PEM)


def certificates_from_pem(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one. Raises IdentityError."""
    try:
        return _whole(x509.load_pem_x509_certificates(pem))
    except _UNREADABLE:
        raise IdentityError("no certificate in PEM") from None


def encode_certs_only(certificates: Iterable[x509.Certificate]) -> bytes:
    """A certs-only PKCS #7 in DER (RFC 5652 SignedData without signers), EST's answer (RFC 7030, 4.1.3
    and 4.2.3)."""
    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


def decode_certs_only(der: bytes) -> list[x509.Certificate]:
    """The certificates of a certs-only PKCS #7, at least one. Raises IdentityError."""
    try:
        return _whole(pkcs7.load_der_pkcs7_certificates(der))
    except _UNREADABLE:
        raise IdentityError("no certs-only PKCS #7 message with a certificate in it") from None


def serial_text(certificate: x509.Certificate) -> str:
    """The serial number as in logs and in the registry: lower-case hexadecimal digits, no leading zeros."""
    return f"{certificate.serial_number:x}"


# --- checking --------------------------------------------------------------------------------------------


def check_peer(
    certificate_der: bytes | None,
    *,
    authorities: Collection[x509.Certificate],
    exchange: str,
    now: datetime,
    grace: timedelta = timedelta(),
) -> PeerIdentity:
    """The sensor that a certificate names, once everything about it holds.

    Checked are the signature of one of the `authorities` (each itself valid now), the lifetime, CA:FALSE,
    the usage (clientAuth and not serverAuth) and the one URI, of this exchange. Possession of the private
    key is TLS's to prove; revocation is the registry's to know. With `grace` a certificate passes that long
    after its end, which is for renewing it and for nothing else.

    Raises IdentityRefused with the reason and a sentence for both sides' logs.
    """
    if certificate_der is None:
        raise IdentityRefused(Refusal.MISSING, "no certificate was shown: enrol the sensor first")
    certificate = _load_peer(certificate_der)
    issuer = _issuer(certificate, authorities)
    if issuer is None:
        raise IdentityRefused(
            Refusal.OTHER_AUTHORITY,
            f"the certificate {serial_text(certificate)} was not issued by the CA of {exchange}",
        )
    identity = _identity_of(certificate)
    what = f"the certificate {serial_text(certificate)} of {identity}"
    if identity.exchange != exchange:
        raise IdentityRefused(
            Refusal.OTHER_EXCHANGE, f"{what} belongs to {identity.exchange}, not to {exchange}"
        )
    _check_usage(certificate, what)
    # Whoever asks with a grace renews certificates, and refuses those that are beyond it.
    remedy = "enrol again" if grace else "renew it, or enrol again when the grace for that is over"
    _check_time(certificate, what, remedy, now, grace)
    _check_time(issuer, "the certificate of the issuing CA", "the hub's operator must make a new one", now)
    return PeerIdentity(
        identity.exchange,
        identity.participant,
        identity.sensor,
        serial_text(certificate),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        fingerprint(public_key_of(certificate)),
    )


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority signed a certificate, and is named in it as its issuer."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (*_UNREADABLE, TypeError, InvalidSignature):
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate says of its key, of a kind in use here, that it issues others: CA:TRUE, and for
    signing certificates (RFC 5280, 4.2.1.9 and 4.2.1.3)."""
    try:
        public_key_of(certificate)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, IdentityError):
        return False
    return basic.ca and usage.key_cert_sign


def same_key(one: x509.Certificate, other: x509.Certificate) -> bool:
    """Whether two certificates are for one key. Raises IdentityError for a key that is not in use here."""
    return key_digest(public_key_of(one)) == key_digest(public_key_of(other))


def public_key_of(certificate: x509.Certificate) -> PublicKey:
    """The key of a certificate. Raises IdentityError if it is neither Ed25519 nor P-256."""
    try:
        key = _accepted(certificate.public_key())
    except _UNREADABLE:
        key = None
    if key is None:
        raise IdentityError("a certificate whose key is neither Ed25519 nor P-256")
    return key


def _whole(certificates: list[x509.Certificate]) -> list[x509.Certificate]:
    """The same certificates, their extensions read.

    The library reads extensions late; a malformed one must be found here and not in the middle of a check.
    """
    for certificate in certificates:
        _ = certificate.extensions
    return certificates


def _load_peer(der: bytes) -> x509.Certificate:
    try:
        [certificate] = _whole([x509.load_der_x509_certificate(der)])
        public_key_of(certificate)
    except (*_UNREADABLE, IdentityError):
        raise IdentityRefused(Refusal.UNREADABLE, "the certificate that was shown cannot be read") from None
    return certificate


def _issuer(
    certificate: x509.Certificate, authorities: Collection[x509.Certificate]
) -> x509.Certificate | None:
    return next((authority for authority in authorities if issued_by(certificate, authority)), None)


def _names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """The subject alternative names, none if there is no such extension."""
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _identity_of(certificate: x509.Certificate) -> Identity:
    serial = serial_text(certificate)
    names = _names_of(certificate)
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise IdentityRefused(Refusal.WRONG_NAME, f"the certificate {serial} does not name one sensor")
    try:
        return Identity.from_uri(names[0].value)
    except ValueError as error:
        raise IdentityRefused(
            Refusal.WRONG_NAME, f"the certificate {serial} names no sensor: {error}"
        ) from None


def _check_usage(certificate: x509.Certificate, what: str) -> None:
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        raise IdentityRefused(Refusal.WRONG_USAGE, f"{what} does not say what it is for") from None
    if basic.ca:
        raise IdentityRefused(Refusal.WRONG_USAGE, f"{what} is a CA's, not a sensor's")
    if usages != {ExtendedKeyUsageOID.CLIENT_AUTH}:
        raise IdentityRefused(Refusal.WRONG_USAGE, f"{what} is not for a TLS client alone")


def _check_time(
    certificate: x509.Certificate, what: str, remedy: str, now: datetime, grace: timedelta = timedelta()
) -> None:
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > not_after + grace:
        raise IdentityRefused(
            Refusal.EXPIRED,
            f"{what} expired at {_stamp(not_after)}, {_span(now - not_after)} ago: {remedy}",
        )
    if now < not_before:
        raise IdentityRefused(
            Refusal.NOT_YET_VALID,
            f"{what} is valid from {_stamp(not_before)}, in {_span(not_before - now)}: check the clocks",
        )


def _issue(
    key: PublicKey,
    subject: x509.Name,
    names: Iterable[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    ca: x509.Certificate,
    ca_key: PrivateKey,
    now: datetime,
    days: int,
    random: Random,
) -> x509.Certificate:
    if key_digest(public_key_of(ca)) != key_digest(ca_key.public_key()):
        raise IdentityError("the CA's key and its certificate do not belong together")
    lifetime = min(timedelta(days=days), ca.not_valid_after_utc - now)
    if lifetime <= timedelta():
        raise IdentityError(f"the issuing CA expired at {_stamp(ca.not_valid_after_utc)}: make a new one")
    builder = _builder(subject, ca.subject, key, now=now, lifetime=lifetime, random=random)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    )
    return builder.sign(ca_key, _hash_for(ca_key))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKey,
    *,
    now: datetime,
    lifetime: timedelta,
    random: Random,
) -> x509.CertificateBuilder:
    now = now.replace(microsecond=0)
    builder = x509.CertificateBuilder(issuer_name=issuer, subject_name=subject, public_key=key)
    builder = builder.serial_number(1 + int.from_bytes(random(SERIAL_OCTETS)))
    builder = builder.not_valid_before(now - timedelta(seconds=limits.CLOCK_SKEW)).not_valid_after(
        now + lifetime
    )
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _accepted(key: object) -> PublicKey | None:
    if isinstance(key, Ed25519PublicKey):
        return key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    return None


def _hash_for(key: PrivateKey) -> hashes.SHA256 | None:
    """Ed25519 hashes by itself (RFC 8032)."""
    return None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256()


def _text_of(name: x509.GeneralName) -> str:
    return str(name.value)


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(delta: timedelta) -> str:
    hours, rest = divmod(int(delta.total_seconds()), 3600)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h {rest // 60} min"
