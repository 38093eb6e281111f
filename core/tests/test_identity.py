"""Keys, requests, certificates and what is refused of them. Randomness and time are given, so all of it
repeats."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from sie_core import identity, limits
from sie_core.errors import IdentityError, IdentityRefused, Refusal, RequestRefused
from sie_core.identity import Identity, KeyKind, PrivateKey

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
EXCHANGE = "lab.example"
WHO = Identity(EXCHANGE, "isp_a", "ns1")


def fixed(octet: int) -> Callable[[int], bytes]:
    """Randomness that repeats."""
    return lambda count: bytes([octet]) * count


@pytest.fixture(params=list(KeyKind))
def kind(request: pytest.FixtureRequest) -> KeyKind:
    found = request.param
    assert isinstance(found, KeyKind)
    return found


class Ca:
    def __init__(self, kind: KeyKind = KeyKind.P256, octet: int = 1, at: datetime = NOW) -> None:
        self.key: PrivateKey = identity.generate_key(kind, fixed(octet))
        self.certificate = identity.make_ca(self.key, EXCHANGE, now=at, random=fixed(octet))

    def issue(self, who: Identity = WHO, *, at: datetime = NOW, days: int = 30) -> x509.Certificate:
        key = identity.generate_key(KeyKind.ED25519, fixed(9)).public_key()
        return identity.issue_sensor_certificate(
            key, who, self.certificate, self.key, now=at, random=fixed(7), days=days
        )

    def server(self) -> x509.Certificate:
        key = identity.generate_key(KeyKind.P256, fixed(9)).public_key()
        return identity.issue_server_certificate(
            key,
            ["hub.example"],
            [ip_address("2001:db8::2"), ip_address("198.51.100.2")],
            self.certificate,
            self.key,
            now=NOW,
            random=fixed(7),
        )

    def forge(
        self,
        names: list[x509.GeneralName] | None,
        *,
        usages: list[x509.ObjectIdentifier] | None = None,
        ca: bool | None = False,
    ) -> x509.Certificate:
        """Anything, signed by this CA: what a mistake in it could issue."""
        builder = x509.CertificateBuilder(
            issuer_name=self.certificate.subject,
            subject_name=x509.Name([]),
            public_key=identity.generate_key(KeyKind.ED25519, fixed(9)).public_key(),
            serial_number=5,
            not_valid_before=NOW - timedelta(days=1),
            not_valid_after=NOW + timedelta(days=1),
        )
        if names is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        return builder.sign(
            self.key, hashes.SHA256() if isinstance(self.key, ec.EllipticCurvePrivateKey) else None
        )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def refusal(certificate: bytes | None, *authorities: Ca, at: datetime = NOW) -> IdentityRefused:
    with pytest.raises(IdentityRefused) as refused:
        identity.check_peer(
            certificate, authorities=[one.certificate for one in authorities], exchange=EXCHANGE, now=at
        )
    return refused.value


# --- names ----------------------------------------------------------------------------------------------


def test_an_identity_is_a_uri() -> None:
    assert WHO.uri == "sie://lab.example/isp_a/ns1"
    assert str(WHO) == "isp_a/ns1"
    assert Identity.from_uri(WHO.uri) == WHO


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://lab.example/isp_a/ns1",
        "sie://lab.example/isp_a",
        "sie://lab.example/isp_a/ns1/",
        "sie://lab.example/isp_a/ns1?x",
        "sie://lab.example//ns1",
        "sie://lab.example/isp_a/",
        "sie://Lab.example/isp_a/ns1",
        "sie://lab.example/ISP/ns1",
        "sie://lab.example/isp-a/ns1",
        "sie://lab.example/isp_a/ns_1",
        "sie://lab.example/isp_a/ns1\n",
        "sie://lab.example:1/isp_a/ns1",
        "sie://user@lab.example/isp_a/ns1",
        f"sie://lab.example/{'a' * 33}/ns1",
        "SIE://lab.example/isp_a/ns1",
        "sie://lab.example/isp_a/..",
    ],
)
def test_what_is_no_identity(uri: str) -> None:
    with pytest.raises(ValueError, match="is n"):
        Identity.from_uri(uri)


@given(
    st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9]{1,9}){0,3}", fullmatch=True),
    st.from_regex(r"[a-z0-9_]{1,32}", fullmatch=True),
    st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True),
)
def test_every_identity_survives_its_uri(exchange: str, participant: str, sensor: str) -> None:
    who = Identity(exchange, participant, sensor)
    assert Identity.from_uri(who.uri) == who


@given(st.text(max_size=60))
def test_no_text_is_two_identities(text: str) -> None:
    """A URI that is taken is exactly the one that the identity gives."""
    try:
        who = Identity.from_uri(f"sie://{text}")
    except ValueError:
        return
    assert who.uri == f"sie://{text}"


# --- keys -------------------------------------------------------------------------------------------------


def test_a_key_comes_from_the_randomness_given(kind: KeyKind) -> None:
    one = identity.generate_key(kind, fixed(1))
    same = identity.generate_key(kind, fixed(1))
    other = identity.generate_key(kind, fixed(2))
    assert identity.fingerprint(one.public_key()) == identity.fingerprint(same.public_key())
    assert identity.fingerprint(one.public_key()) != identity.fingerprint(other.public_key())


@pytest.mark.parametrize("octet", [0x00, 0xFF])
def test_a_p256_key_is_in_range_at_the_ends(octet: int) -> None:
    key = identity.generate_key(KeyKind.P256, fixed(octet))
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert 1 <= key.private_numbers().private_value < identity.P256_ORDER


def test_a_key_survives_pem(kind: KeyKind) -> None:
    key = identity.generate_key(kind, os.urandom)
    read = identity.private_key_from_pem(identity.private_key_to_pem(key))
    assert identity.fingerprint(read.public_key()) == identity.fingerprint(key.public_key())


def test_a_fingerprint_can_be_had_without_this_code() -> None:
    """openssl pkey -in KEY -pubout -outform DER | openssl dgst -sha256 -binary | base64"""
    shown = identity.fingerprint(identity.generate_key(KeyKind.ED25519, fixed(1)).public_key())
    assert shown == "SHA256:/RENMB0vB33hQUuPmfRBsUA/qyB7IFL70sBl5O6OfcI"


def encrypted() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def of_kind(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: b"", "no private key"),
        (lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key"),
        (encrypted, "without a passphrase"),
        (lambda: of_kind(rsa.generate_private_key(65537, 2048)), "neither Ed25519 nor P-256"),
        (lambda: of_kind(ec.generate_private_key(ec.SECP384R1())), "neither Ed25519 nor P-256"),
    ],
    ids=["nothing", "garbage", "encrypted", "RSA", "P-384"],
)
def test_keys_that_are_not_taken(make: Callable[[], bytes], words: str) -> None:
    with pytest.raises(IdentityError, match=words):
        identity.private_key_from_pem(make())


# --- requests -------------------------------------------------------------------------------------------


def test_the_key_of_a_request_is_taken(kind: KeyKind) -> None:
    key = identity.generate_key(kind, os.urandom)
    taken = identity.key_from_request(identity.make_request(key, WHO))
    assert identity.fingerprint(taken) == identity.fingerprint(key.public_key())


def test_a_request_with_another_key_put_in_is_refused(kind: KeyKind) -> None:
    mine, other = (identity.generate_key(kind, fixed(octet)).public_key() for octet in (1, 2))
    request = identity.make_request(identity.generate_key(kind, fixed(1)), WHO)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    swapped = request.replace(mine.public_bytes(*form), other.public_bytes(*form))
    assert swapped != request
    with pytest.raises(RequestRefused, match="not signed with the key that it holds"):
        identity.key_from_request(swapped)


@given(st.binary(max_size=400), st.integers(0, 10**9))
def test_arbitrary_octets_are_refused_as_requests(octets: bytes, seed: int) -> None:
    request = bytearray(identity.make_request(identity.generate_key(KeyKind.ED25519, fixed(1)), WHO))
    request[seed % len(request)] ^= 1 + seed % 255
    for wrong in (octets, bytes(request)):
        with pytest.raises(RequestRefused):
            identity.key_from_request(wrong)


# --- certificates ---------------------------------------------------------------------------------------


def test_a_sensors_certificate_proves_its_identity(kind: KeyKind) -> None:
    ca = Ca(kind)
    certificate = ca.issue()
    peer = identity.check_peer(der(certificate), authorities=[ca.certificate], exchange=EXCHANGE, now=NOW)
    assert (peer.exchange, peer.participant, peer.sensor) == (EXCHANGE, "isp_a", "ns1")
    assert peer.not_before == NOW - timedelta(seconds=limits.CLOCK_SKEW)
    assert peer.not_after == NOW + timedelta(days=30)
    assert peer.serial == f"{certificate.serial_number:x}" == "7070707070707070707070707070708"
    assert peer.fingerprint == identity.fingerprint(identity.public_key_of(certificate))


def test_any_of_several_authorities_will_do() -> None:
    old, new = Ca(octet=1), Ca(octet=2)
    authorities = [old.certificate, new.certificate]
    for ca in (old, new):
        assert identity.check_peer(der(ca.issue()), authorities=authorities, exchange=EXCHANGE, now=NOW)


def test_the_issuing_ca_signs_sensors_and_nothing_below_it() -> None:
    extensions = Ca().certificate.extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)
    assert identity.ca_exchange(Ca().certificate) == EXCHANGE
    assert identity.ca_exchange(Ca().server()) is None


def test_a_server_certificate_holds_its_names_and_serves_alone() -> None:
    certificate = Ca().server()
    assert identity.server_names(certificate) == (
        ("hub.example",),
        (ip_address("198.51.100.2"), ip_address("2001:db8::2")),
    )
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert identity.server_names(Ca().forge(None)) == ((), ())


def test_a_server_certificate_needs_a_name() -> None:
    ca = Ca()
    with pytest.raises(ValueError, match="a name or an address"):
        identity.issue_server_certificate(
            ca.key.public_key(), [], [], ca.certificate, ca.key, now=NOW, random=fixed(1)
        )


def test_no_certificate_outlives_its_ca() -> None:
    ca = Ca()
    end = ca.certificate.not_valid_after_utc
    assert ca.issue(at=end - timedelta(days=3)).not_valid_after_utc == end
    with pytest.raises(IdentityError, match="the issuing CA expired"):
        ca.issue(at=end + timedelta(seconds=1))


def test_a_ca_with_anothers_key_issues_nothing() -> None:
    mine, other = Ca(octet=1), Ca(octet=2)
    with pytest.raises(IdentityError, match="do not belong together"):
        identity.issue_sensor_certificate(
            other.key.public_key(), WHO, mine.certificate, other.key, now=NOW, random=fixed(1)
        )


def test_serial_numbers_are_random_and_positive() -> None:
    ca = Ca()
    serials = {
        identity.make_ca(ca.key, EXCHANGE, now=NOW, random=os.urandom).serial_number for _ in range(50)
    }
    assert len(serials) == 50
    assert all(0 < serial < 1 << 136 for serial in serials)
    assert identity.make_ca(ca.key, EXCHANGE, now=NOW, random=fixed(0)).serial_number == 1


def test_certificates_travel_in_pkcs7() -> None:
    ca = Ca()
    certificates = [ca.certificate, ca.issue()]
    arrived = identity.decode_certs_only(identity.encode_certs_only(certificates))
    assert set(arrived) == set(certificates)


@pytest.mark.parametrize("octets", [b"", b"garbage", bytes.fromhex("3000")])
def test_what_is_no_pkcs7(octets: bytes) -> None:
    with pytest.raises(IdentityError, match="PKCS #7"):
        identity.decode_certs_only(octets)


def test_what_is_no_pem() -> None:
    with pytest.raises(IdentityError, match="no certificate"):
        identity.certificates_from_pem(b"")
    certificate = Ca().certificate
    assert identity.certificates_from_pem(identity.certificate_to_pem(certificate)) == [certificate]


# --- refusals -------------------------------------------------------------------------------------------


def test_no_certificate_at_all() -> None:
    assert refusal(None, Ca()).reason is Refusal.MISSING


@pytest.mark.parametrize("octets", [b"", b"garbage", der(Ca().issue())[:-1]])
def test_an_unreadable_certificate(octets: bytes) -> None:
    assert refusal(octets, Ca()).reason is Refusal.UNREADABLE


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
@given(st.binary(max_size=300), st.integers(0, 10**9))
def test_arbitrary_octets_are_refused_as_certificates(octets: bytes, seed: int) -> None:
    ca = Ca()
    certificate = bytearray(der(ca.issue()))
    certificate[seed % len(certificate)] ^= 1 + seed % 255
    for wrong in (octets, bytes(certificate)):
        refusal(wrong, ca)


def test_a_certificate_of_another_authority_of_the_same_name() -> None:
    refused = refusal(der(Ca(octet=2).issue()), Ca(octet=1))
    assert refused.reason is Refusal.OTHER_AUTHORITY
    assert "was not issued by the CA of lab.example" in str(refused)
    assert refusal(der(Ca().issue())).reason is Refusal.OTHER_AUTHORITY


def test_an_expired_certificate_says_since_when() -> None:
    ca = Ca()
    certificate = der(ca.issue(days=1))
    end = NOW + timedelta(days=1)
    assert identity.check_peer(certificate, authorities=[ca.certificate], exchange=EXCHANGE, now=end)
    refused = refusal(certificate, ca, at=end + timedelta(hours=5, minutes=7, seconds=1))
    assert refused.reason is Refusal.EXPIRED
    assert "of isp_a/ns1 expired at 2026-11-22 12:00:00 UTC, 5 h 7 min ago" in str(refused)
    assert "9 days ago" in str(refusal(certificate, ca, at=end + timedelta(days=9)))
    assert str(refused).endswith(": renew it, or enrol again when the grace for that is over")
    with pytest.raises(IdentityRefused, match=r"31 days ago: enrol again$"):
        identity.check_peer(
            certificate,
            authorities=[ca.certificate],
            exchange=EXCHANGE,
            now=end + timedelta(days=31),
            grace=timedelta(days=30),
        )


def test_a_certificate_of_the_future_points_to_the_clocks() -> None:
    refused = refusal(der(Ca().issue()), Ca(), at=NOW - timedelta(hours=2))
    assert refused.reason is Refusal.NOT_YET_VALID
    assert "check the clocks" in str(refused)


def test_a_clock_that_is_slow_by_less_than_an_hour_is_no_fault() -> None:
    ca = Ca(at=NOW - timedelta(days=1))
    at = NOW - timedelta(minutes=59)
    assert identity.check_peer(der(ca.issue()), authorities=[ca.certificate], exchange=EXCHANGE, now=at)


def test_an_expired_ca_opens_nothing() -> None:
    """Even to a certificate that claims to outlive it."""
    ca = Ca(at=NOW - timedelta(days=limits.CA_CERTIFICATE_DAYS + 1))
    forged = ca.forge([x509.UniformResourceIdentifier(WHO.uri)], usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    refused = refusal(der(forged), ca)
    assert refused.reason is Refusal.EXPIRED
    assert "issuing CA" in str(refused)


URI = x509.UniformResourceIdentifier(WHO.uri)
CLIENT = [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize(
    ("names", "usages", "ca", "reason"),
    [
        (None, CLIENT, False, Refusal.WRONG_NAME),
        ([], CLIENT, False, Refusal.WRONG_NAME),
        ([x509.DNSName("lab.example")], CLIENT, False, Refusal.WRONG_NAME),
        ([URI, URI], CLIENT, False, Refusal.WRONG_NAME),
        ([URI, x509.DNSName("lab.example")], CLIENT, False, Refusal.WRONG_NAME),
        ([x509.UniformResourceIdentifier("sie://lab.example")], CLIENT, False, Refusal.WRONG_NAME),
        (
            [x509.UniformResourceIdentifier("sie://other.example/isp_a/ns1")],
            CLIENT,
            False,
            Refusal.OTHER_EXCHANGE,
        ),
        ([URI], [ExtendedKeyUsageOID.SERVER_AUTH], False, Refusal.WRONG_USAGE),
        ([URI], [*CLIENT, ExtendedKeyUsageOID.SERVER_AUTH], False, Refusal.WRONG_USAGE),
        ([URI], [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], False, Refusal.WRONG_USAGE),
        ([URI], None, False, Refusal.WRONG_USAGE),
        ([URI], CLIENT, True, Refusal.WRONG_USAGE),
        ([URI], CLIENT, None, Refusal.WRONG_USAGE),
    ],
)
def test_what_a_certificate_of_our_own_ca_must_still_say(
    names: list[x509.GeneralName] | None,
    usages: list[x509.ObjectIdentifier] | None,
    ca: bool | None,
    reason: Refusal,
) -> None:
    authority = Ca()
    assert refusal(der(authority.forge(names, usages=usages, ca=ca)), authority).reason is reason


def test_the_hub_is_no_sensor_and_neither_is_its_ca() -> None:
    ca = Ca()
    assert refusal(der(ca.server()), ca).reason is Refusal.WRONG_NAME
    assert refusal(der(ca.certificate), ca).reason is Refusal.WRONG_NAME
