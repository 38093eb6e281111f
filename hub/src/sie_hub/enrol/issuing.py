"""The decisions behind `simpleenroll` and `simplereenroll`: who asks, with what token or certificate, for
which key, and what the registry says."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from sie_core import identity
from sie_core.errors import IdentityRefused, Refusal, RequestRefused
from sie_core.identity import Identity, PrivateKey, PublicKey, Random
from sie_hub.enrol.renewals import RenewalRefused, RenewalStore, RenewedByOther
from sie_hub.enrol.tokens import OtherKey, Token, TokenRefused, TokenStore
from sie_hub.registry import Registry, Sensor

_CERTIFICATE: Final = {refusal: f"certificate_{refusal.value}" for refusal in Refusal}

_STATUS: Final = {
    "no_credentials": 401,
    "unknown_token": 401,
    _CERTIFICATE[Refusal.MISSING]: 401,
    "bad_request": 400,
    "used_up": 429,
}
_OTHERWISE: Final = 403

REFUSALS: Final = (
    "no_credentials",
    "unknown_token",
    "other_sensor",
    "expired_token",
    "revoked_token",
    "used_up",
    "other_key",
    "renewed_by_other",
    *_CERTIFICATE.values(),
    "bad_request",
    "unknown_sensor",
    "revoked_sensor",
    "revoked_certificate",
    "revoked_key",
    "agreement",
)
"""Every `reason` of EnrolmentRefused."""


class EnrolmentRefused(Exception):
    """No certificate for this request: `reason` for the counter, the text for both sides."""

    def __init__(self, reason: str, sentence: str, alarm: str | None = None) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.alarm = alarm
        """What the hub's operator must know beyond the sentence, if this is more than a mistake."""

    @property
    def status(self) -> int:
        """The HTTP status (RFC 7030, section 4.2.3)."""
        return _STATUS.get(self.reason, _OTHERWISE)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A certificate that was issued, and what both sides log of it."""

    identity: Identity
    certificate: x509.Certificate
    fingerprint: str
    by: str
    """What it was issued on: `token ID` or `certificate SERIAL`."""
    again: bool


@dataclass(frozen=True, slots=True)
class Authority:
    """The issuing CA and the exchange it issues for. `trusted` are the CAs whose certificates may be renewed,
    the issuing one among them."""

    exchange: str
    certificate: x509.Certificate
    key: PrivateKey
    days: int
    trusted: Collection[x509.Certificate]


class Enroller:
    """Issues certificates to sensors that the registry knows and that show their token or their certificate.

    `grace` is how long after its end a certificate can still be renewed.
    """

    def __init__(
        self,
        authority: Authority,
        registry: Registry,
        tokens: TokenStore,
        renewals: RenewalStore,
        *,
        grace: timedelta,
        clock: Callable[[], datetime],
        random: Random,
    ) -> None:
        self._authority = authority
        self._registry = registry
        self._tokens = tokens
        self._renewals = renewals
        self._grace = grace
        self._clock = clock
        self._random = random

    def enrol(self, user: str, token: str, request: bytes) -> Enrolled:
        """A certificate for the key of a PKCS #10 request (DER).

        `user` is `participant/sensor`. Of the request only the key is used.

        Raises EnrolmentRefused and StateError.
        """
        now = self._clock()
        wanted = self._identity(user)
        who = (wanted.participant, wanted.sensor)
        try:
            known = self._tokens.check(*who, token, now=now)
            key = identity.key_from_request(request)
            # Whoever has the key of a revoked certificate may have the token too, so that token is spent.
            fingerprint = identity.fingerprint(key)
            sensor = self._sensor_of(wanted, [one.serial for one in known.issued], {fingerprint}, now)
            _check_token(known, sensor)
            used, certificate = self._tokens.redeem(
                *who, token, fingerprint, now=now, issue=lambda: self._issue(key, wanted, now)
            )
        except OtherKey as refused:
            alarm = (
                f"token {refused.token.id} of {wanted} is bound to the key {refused.token.bound_key} since"
                f" {refused.token.bound_at} and was shown with {fingerprint}: one of them is not the sensor's"
            )
            raise EnrolmentRefused(refused.reason, str(refused), alarm) from None
        except TokenRefused as refused:
            raise EnrolmentRefused(refused.reason, str(refused)) from None
        except RequestRefused as refused:
            raise EnrolmentRefused("bad_request", str(refused)) from None
        return Enrolled(wanted, certificate, fingerprint, f"token {used.id}", again=len(used.issued) > 1)

    def standing(self, user: str, token: str) -> Identity:
        """Whom a token would give a certificate now. Uses nothing up and binds nothing.

        Raises EnrolmentRefused and StateError.
        """
        now = self._clock()
        wanted = self._identity(user)
        try:
            known = self._tokens.check(wanted.participant, wanted.sensor, token, now=now)
        except TokenRefused as refused:
            raise EnrolmentRefused(refused.reason, str(refused)) from None
        keys = set() if known.bound_key is None else {known.bound_key}
        _check_token(known, self._sensor_of(wanted, [one.serial for one in known.issued], keys, now))
        return wanted

    def renew(self, shown: bytes | None, request: bytes) -> Enrolled:
        """A new certificate for the sensor that the certificate `shown` (DER) names, for the key of a
        PKCS #10 request (DER), old or new. That the old key is the peer's, TLS has proved.

        Raises EnrolmentRefused and StateError.
        """
        now = self._clock()
        try:
            peer = identity.check_peer(
                shown,
                authorities=self._authority.trusted,
                exchange=self._authority.exchange,
                now=now,
                grace=self._grace,
            )
            key = identity.key_from_request(request)
            wanted = Identity(peer.exchange, peer.participant, peer.sensor)
            fingerprint = identity.fingerprint(key)
            keys = {fingerprint, peer.fingerprint}
            sensor = self._sensor_of(wanted, self._renewals.lineage(peer.serial), keys, now)
            if sensor.is_taken_back(peer.issued_at):
                raise _certificate_revoked()
            used, certificate = self._renewals.redeem(
                peer, fingerprint, now=now, issue=lambda: self._issue(key, wanted, now)
            )
        except IdentityRefused as refused:
            raise EnrolmentRefused(_CERTIFICATE[refused.reason], str(refused)) from None
        except RenewedByOther as refused:
            renewal = refused.renewal
            alarm = (
                f"the certificate {renewal.serial} of {wanted} was renewed with the key {renewal.bound_key}"
                f" at {renewal.bound_at} and was shown again with {fingerprint}: one of them is not the"
                " sensor's"
            )
            raise EnrolmentRefused(refused.reason, str(refused), alarm) from None
        except RenewalRefused as refused:
            raise EnrolmentRefused(refused.reason, str(refused)) from None
        except RequestRefused as refused:
            raise EnrolmentRefused("bad_request", str(refused)) from None
        return Enrolled(
            wanted, certificate, fingerprint, f"certificate {used.serial}", again=len(used.issued) > 1
        )

    def _issue(self, key: PublicKey, wanted: Identity, now: datetime) -> x509.Certificate:
        authority = self._authority
        return identity.issue_sensor_certificate(
            key,
            wanted,
            authority.certificate,
            authority.key,
            now=now,
            random=self._random,
            days=authority.days,
        )

    def _identity(self, user: str) -> Identity:
        participant, _, sensor = user.partition("/")
        try:
            return Identity(self._authority.exchange, participant, sensor)
        except ValueError:
            raise EnrolmentRefused(
                "no_credentials", "the user name must be PARTICIPANT/SENSOR, the password the token"
            ) from None

    def _sensor_of(
        self, wanted: Identity, serials: Collection[str], keys: Collection[str], now: datetime
    ) -> Sensor:
        """The sensor, which may have a certificate for these keys and on these certificates. Raises
        EnrolmentRefused."""
        sensor = self._registry.sensor(wanted.participant, wanted.sensor)
        if sensor is None:
            raise EnrolmentRefused(
                "unknown_sensor", f"{wanted} is not in the registry of {self._authority.exchange}"
            )
        if sensor.revoked is not None:
            raise EnrolmentRefused("revoked_sensor", f"{wanted} is revoked: {sensor.revoked.reason}")
        agreement = sensor.agreement.refusal(now.date())
        if agreement is not None:
            raise EnrolmentRefused("agreement", f"{wanted} cannot enrol: {agreement}")
        if not sensor.revoked_serials.isdisjoint(serials):
            raise _certificate_revoked()
        for key in sensor.revoked_keys.intersection(keys):
            raise EnrolmentRefused(
                "revoked_key", f"the key {key} is revoked: make another one and enrol with it"
            )
        return sensor


def _check_token(token: Token, sensor: Sensor) -> None:
    if sensor.is_taken_back(token.created):
        raise EnrolmentRefused(
            "revoked_token", "this token is revoked: ask the exchange's operator for a new one"
        )


def _certificate_revoked() -> EnrolmentRefused:
    return EnrolmentRefused(
        "revoked_certificate",
        "a certificate that was issued on this token, or that was renewed to this one, is revoked:"
        " ask the exchange's operator for a new token",
    )
