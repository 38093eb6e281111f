"""Who may open a session, and who may keep one. Pure: certificate or key, registry and time in, decision
out."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sie_core.identity import PeerIdentity
from sie_hub.registry import Registry, Sensor, Upload, sha256_hex

UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
TOO_MANY: Final = 429


class Refused(Exception):
    """A session is not for this peer: a word for the counter, the HTTP status, a sentence for both sides."""

    def __init__(self, reason: str, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Admitted:
    """A peer that may send: who it is, what it may send to, and by which credential it came.

    `certificate` is what a sensor of version 2 showed; `key_sha256` is the hash of what an upload of
    version 1 showed. Exactly one of the two is there."""

    participant: str
    name: str
    channels: frozenset[int]
    source: int
    certificate: PeerIdentity | None = None
    key_sha256: str | None = None

    @property
    def version(self) -> int:
        """The only protocol version that this credential opens."""
        return 1 if self.certificate is None else 2


def admit_sensor(peer: PeerIdentity, registry: Registry, now: datetime) -> Admitted:
    """Admit the holder of a certificate that has been checked already, or raise `Refused`."""
    who = f"{peer.participant}/{peer.sensor}"
    if now >= peer.not_after:
        # `check_peer` refuses this at the door; a session can also outlive its certificate.
        raise Refused("expired", FORBIDDEN, f"the certificate of {who} expired on {_day(peer.not_after)}")
    sensor = registry.sensor(peer.participant, peer.sensor)
    if sensor is None:
        raise Refused("unknown_sensor", FORBIDDEN, f"{who} is not in the registry of {peer.exchange}")
    check_standing(sensor, who, now)
    if peer.serial in sensor.revoked_serials or sensor.is_taken_back(peer.issued_at):
        raise Refused(
            "certificate_revoked",
            FORBIDDEN,
            f"the certificate {peer.serial} of {who} is revoked; enrol again",
        )
    if peer.fingerprint in sensor.revoked_keys:
        raise Refused(
            "key_revoked",
            FORBIDDEN,
            f"the key {peer.fingerprint} of {who} is revoked; make another one and enrol again",
        )
    return Admitted(sensor.participant, sensor.name, sensor.channels, sensor.source, certificate=peer)


def admit_upload(key_sha256: str, registry: Registry, now: datetime) -> Admitted:
    """Admit the holder of an API key with this hash, or raise `Refused`."""
    upload = registry.upload_by_digest(key_sha256)
    if upload is None:
        raise Refused("unknown_key", UNAUTHORIZED, "the API key is not known here")
    check_standing(upload, f"{upload.participant}/{upload.name}", now)
    return Admitted(upload.participant, upload.name, upload.channels, upload.source, key_sha256=key_sha256)


def admit_key(key: str, registry: Registry, now: datetime) -> Admitted:
    """Admit the holder of an API key, or raise `Refused`."""
    return admit_upload(sha256_hex(key), registry, now)


def admit_again(admitted: Admitted, registry: Registry, now: datetime) -> Admitted:
    """What is admitted of a live session's peer by the registry as it stands now, or raise `Refused`."""
    if admitted.certificate is not None:
        return admit_sensor(admitted.certificate, registry, now)
    assert admitted.key_sha256 is not None
    return admit_upload(admitted.key_sha256, registry, now)


def check_standing(entry: Sensor | Upload, who: str, now: datetime) -> None:
    """Raise `Refused` unless an entry of the registry may deliver at all, whatever it shows."""
    if entry.revoked is not None:
        since = _day(entry.revoked.at)
        raise Refused("revoked", FORBIDDEN, f"{who} has been revoked since {since}: {entry.revoked.reason}")
    fault = entry.agreement.refusal(now.date())
    if fault is not None:
        raise Refused("agreement", FORBIDDEN, f"{who} may not send: {fault}")


def _day(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC")
