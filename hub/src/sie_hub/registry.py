"""The registry: who may send what, and who may read. One YAML file per participant, read-only here.

A file is `<participant>.yml` in the registry's directory:

    participant: isp_a
    agreement: {signed: "2026-11-01", term_days: 365, renews: true}
    sensors:
      ns1: {channels: [202], source: 305419896}
    uploads:
      legacy1: {channels: [203], source: 19088743, key_sha256: [...]}
    readers:
      analyst: {keys: [{id: k1, sha256: ..., created: "2026-11-01T09:30:00Z"}]}

Keys are 256 random bits, so that a plain SHA-256 of them can be kept without any risk of guessing. The units
never write here; `sie_hub.registry_edit` does.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from sie_core.kinds import Boolean, Integer, Kind, ListOf, Problem, Text, a_kind_of, shown
from sie_core.settings import Config, ConfigError, Setting, Table, load

PARTICIPANT_NAME: Final = Text(r"[a-z0-9_]{1,32}", "1 to 32 of a-z, 0-9 and _")
SENSOR_NAME: Final = Text(r"[a-z0-9-]{1,32}", "1 to 32 of a-z, 0-9 and -")
SHA256_HEX: Final = Text(r"[0-9a-f]{64}", "64 lower-case hexadecimal digits")
SERIAL_HEX: Final = Text(r"[0-9a-f]{1,40}", "a certificate's serial number as lower-case hexadecimal digits")
FINGERPRINT: Final = Text(r"SHA256:[A-Za-z0-9+/]{43}", "a key's fingerprint as both sides show it, SHA256:…")
CHANNEL: Final = Integer(1, 65535)
SOURCE: Final = Integer(1, (1 << 32) - 1)
MAX_TERM_DAYS: Final = 36525  # a hundred years

LAST_GOOD_MAX: Final = 3 * 86400.0
"""Seconds for which the last good version of a file stays in force while the present one cannot be read.

A slip of an editor locks nobody out over a weekend; a mistyped revocation is not without effect for ever."""

POLL_INTERVAL: Final = 1.0  # seconds; a revocation must close a live session within five

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Date(Kind):
    """A day, written "2026-11-01"; YAML's own dates are taken too."""

    @property
    def allowed(self) -> str:
        return 'a day as "YYYY-MM-DD"'

    def convert(self, value: object) -> date:
        if isinstance(value, date) and not isinstance(value, datetime):
            return value
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not a day")
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{shown(value)} is no day of the calendar") from None


@dataclass(frozen=True)
class Instant(Kind):
    """A point in time with its zone, written "2026-11-01T09:30:00Z". Gives a datetime in UTC."""

    @property
    def allowed(self) -> str:
        return 'a time as "YYYY-MM-DDTHH:MM:SSZ"'

    def convert(self, value: object) -> datetime:
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                raise ValueError(f"{shown(value)} is no time") from None
        if not isinstance(value, datetime):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not a time")
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} names no time zone (Z at the end is UTC)")
        return value.astimezone(UTC)


@dataclass(frozen=True)
class MapOf(Kind):
    """A section whose keys are names of one kind and whose values are of another. Gives a dict."""

    name: Text
    item: Kind
    most: int

    @property
    def allowed(self) -> str:
        return f"up to {self.most} names ({self.name.allowed}), each with {self.item.allowed}"

    def convert(self, value: object) -> dict[str, Any]:
        problems: list[Problem] = []
        items = self.read(value, "", problems)
        if problems or items is None:
            raise ValueError("; ".join(f"{problem.key} {problem.text}".strip() for problem in problems))
        return items

    def read(self, value: object, key: str, problems: list[Problem]) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            problems.append(Problem(key, f"{shown(value)} is {a_kind_of(value)}, not names with sections"))
            return None
        if len(value) > self.most:
            problems.append(Problem(key, f"has {len(value)} entries; allowed: {self.most}"))
            return None
        items: dict[str, Any] = {}
        for name, item in value.items():
            if self.name.read(name, key, problems) is not None:
                items[name] = self.item.read(item, f"{key}.{name}", problems)
        return items


_REVOCATION_SETTINGS: Final = (
    Setting("revoked.at", Instant(), default=None, help="since when nothing is taken from it any more"),
    Setting("revoked.reason", Text(r"[^\x00-\x1f]{1,200}", "up to 200 characters"), default=None, help="why"),
)

FILE: Final = Table(
    Setting("participant", PARTICIPANT_NAME, help="the name, equal to the file's"),
    Setting("agreement.signed", Date(), help="the day from which the agreement is in force"),
    Setting("agreement.term_days", Integer(1, MAX_TERM_DAYS), help="its term in days"),
    Setting("agreement.renews", Boolean(), default=True, help="whether it renews itself after a term"),
    Setting("agreement.terminated", Date(), default=None, help="the first day without it"),
    Setting(
        "sensors",
        MapOf(
            SENSOR_NAME,
            Table(
                Setting("channels", ListOf(CHANNEL, least=1, most=64), help="what it contributes to"),
                Setting("source", SOURCE, help="its id in the exchange, unique and never given again"),
                *_REVOCATION_SETTINGS,
                Setting("revoked_serials", ListOf(SERIAL_HEX), default=[], help="certificates taken back"),
                Setting("revoked_keys", ListOf(FINGERPRINT), default=[], help="keys taken back"),
                Setting(
                    "revoked_before",
                    Instant(),
                    default=None,
                    help="every certificate and token that was issued to it until then is taken back",
                ),
            ),
            most=1000,
        ),
        default={},
        help="sensors, which show a certificate",
    ),
    Setting(
        "uploads",
        MapOf(
            SENSOR_NAME,
            Table(
                Setting("channels", ListOf(CHANNEL, least=1, most=64), help="what it contributes to"),
                Setting("source", SOURCE, help="its id in the exchange, unique and never given again"),
                Setting("key_sha256", ListOf(SHA256_HEX, most=2), default=[], help="hashes of its keys"),
                *_REVOCATION_SETTINGS,
            ),
            most=1000,
        ),
        default={},
        help="programs of others, which show an API key",
    ),
    Setting(
        "readers",
        MapOf(
            SENSOR_NAME,
            Table(
                Setting(
                    "keys",
                    ListOf(
                        Table(
                            Setting("id", SENSOR_NAME, help="names the key without telling it"),
                            Setting("sha256", SHA256_HEX, help="the key's hash"),
                            Setting("created", Instant(), help="when it was made"),
                        ),
                        most=2,
                    ),
                    default=[],
                    help="at most two, so that one can be replaced without a gap",
                ),
            ),
            most=1000,
        ),
        default={},
        help="those who may ask the query API",
    ),
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """A participant's agreement. Days are UTC days."""

    signed: date
    term_days: int
    renews: bool
    terminated: date | None

    def refusal(self, today: date) -> str | None:
        """Why the agreement is not in force on a day, or None when it is."""
        if today < self.signed:
            return f"the agreement is in force from {self.signed} only"
        if self.terminated is not None and today >= self.terminated:
            return f"the agreement was terminated as of {self.terminated}"
        end = self.signed + timedelta(days=self.term_days)
        if not self.renews and today >= end:
            return f"the agreement ended on {end} and does not renew itself"
        return None


@dataclass(frozen=True, slots=True)
class Revocation:
    """That something is taken back, since when and why."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor that shows a certificate."""

    participant: str
    name: str
    agreement: Agreement
    channels: frozenset[int]
    source: int
    revoked: Revocation | None
    revoked_serials: frozenset[str]
    revoked_keys: frozenset[str]
    """Their fingerprints: every certificate for them, whatever its serial number, is taken back."""
    revoked_before: datetime | None = None
    """Every certificate and token that was issued to it until then is taken back."""

    def is_taken_back(self, issued_at: datetime) -> bool:
        """Whether what was issued to it at this time is taken back with all the rest."""
        return self.revoked_before is not None and issued_at <= self.revoked_before


@dataclass(frozen=True, slots=True)
class Upload:
    """A program of others that shows an API key."""

    participant: str
    name: str
    agreement: Agreement
    channels: frozenset[int]
    source: int
    revoked: Revocation | None
    key_sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReaderKey:
    """One key of a reader, as its hash."""

    id: str
    sha256: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who may ask the query API."""

    participant: str
    name: str
    agreement: Agreement
    keys: tuple[ReaderKey, ...]

    def key_id(self, key: str) -> str | None:
        """What the registry calls a key of this reader, or None for a key of somebody else's."""
        digest = sha256_hex(key)
        return next((known.id for known in self.keys if hmac.compare_digest(known.sha256, digest)), None)


@dataclass(frozen=True, slots=True)
class Participant:
    """One organisation: everything its file says."""

    name: str
    agreement: Agreement
    sensors: Mapping[str, Sensor]
    uploads: Mapping[str, Upload]
    readers: Mapping[str, Reader]

    @property
    def channels(self) -> frozenset[int]:
        """The channels to which it contributes."""
        sources: tuple[Sensor | Upload, ...] = (*self.sensors.values(), *self.uploads.values())
        return frozenset(channel for source in sources for channel in source.channels)


class _Stamp(NamedTuple):
    """What changes when a file is replaced or rewritten."""

    modified: int
    inode: int
    size: int


@dataclass(slots=True)
class _Slot:
    """One file: its stamp, its last version that could be read, and since when the present one cannot."""

    stamp: _Stamp
    participant: Participant | None
    broken_since: float | None


@dataclass(slots=True)
class _Index:
    """What is looked up by a key's hash."""

    uploads: dict[str, Upload] = field(default_factory=dict)
    readers: dict[str, Reader] = field(default_factory=dict)


def sha256_hex(key: str) -> str:
    """The form in which the registry keeps a key.

    A header's octets that are not UTF-8 come as surrogates (PEP 383); such a key is unknown like any other.
    """
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def read_participant(path: Path) -> Participant:
    """Read one file of the registry. Raises ConfigError, whose `problems` hold every mistake in it."""
    config = load(path, FILE)
    name = config["participant"]
    if path.stem != name:
        raise ConfigError([f"{path}: participant: {name!r} stands in a file that is named for {path.stem!r}"])
    agreement = Agreement(
        config["agreement.signed"],
        config["agreement.term_days"],
        config["agreement.renews"],
        config["agreement.terminated"],
    )
    return Participant(
        name=name,
        agreement=agreement,
        sensors=MappingProxyType(
            {
                sensor: Sensor(
                    name,
                    sensor,
                    agreement,
                    frozenset(item["channels"]),
                    item["source"],
                    _revocation(item),
                    frozenset(serial.lstrip("0") for serial in item["revoked_serials"]),
                    frozenset(item["revoked_keys"]),
                    item["revoked_before"],
                )
                for sensor, item in config["sensors"].items()
            }
        ),
        uploads=MappingProxyType(
            {
                upload: Upload(
                    name,
                    upload,
                    agreement,
                    frozenset(item["channels"]),
                    item["source"],
                    _revocation(item),
                    tuple(item["key_sha256"]),
                )
                for upload, item in config["uploads"].items()
            }
        ),
        readers=MappingProxyType(
            {
                reader: Reader(
                    name,
                    reader,
                    agreement,
                    tuple(ReaderKey(key["id"], key["sha256"], key["created"]) for key in item["keys"]),
                )
                for reader, item in config["readers"].items()
            }
        ),
    )


class Registry:
    """The registry as it stands in its directory, kept up to date by polling.

    A file that cannot be read is reported once per version of it, in one sentence, and the last good version
    of it stays in force, for LAST_GOOD_MAX; so does everything when the directory cannot be read.
    `generation` counts the changes that took effect. `clock` gives seconds that only rise.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.directory = directory
        self.generation = 0
        self._clock = clock
        self._slots: dict[Path, _Slot] = {}
        self._index = _Index()
        self._directory_fault: str | None = None
        self._directory_broken_since: float | None = None
        self.reload()

    @property
    def participants(self) -> Mapping[str, Participant]:
        """Every participant whose file could be read, by name."""
        return {slot.participant.name: slot.participant for slot in self._slots.values() if slot.participant}

    @property
    def broken(self) -> int:
        """How many files are in a version that cannot be read."""
        return sum(slot.broken_since is not None for slot in self._slots.values())

    @property
    def unread_seconds(self) -> float:
        """For how long the directory, or a file in its present version, could not be read; of several the
        longest."""
        since = [slot.broken_since for slot in self._slots.values()] + [self._directory_broken_since]
        return max((self._clock() - begun for begun in since if begun is not None), default=0.0)

    def participant(self, name: str) -> Participant | None:
        """The participant of a name, or None."""
        slot = self._slots.get(self.directory / f"{name}.yml")
        return slot.participant if slot is not None else None

    def sensor(self, participant: str, sensor: str) -> Sensor | None:
        """The sensor of a participant, revoked ones included, or None."""
        found = self.participant(participant)
        return found.sensors.get(sensor) if found is not None else None

    def upload_by_key(self, key: str) -> Upload | None:
        """The upload that an API key belongs to, revoked ones included, or None."""
        return self.upload_by_digest(sha256_hex(key))

    def upload_by_digest(self, digest: str) -> Upload | None:
        """The upload that has a key of this SHA-256, revoked ones included, or None."""
        upload = self._index.uploads.get(digest)
        return upload if upload is not None and _holds(upload.key_sha256, digest) else None

    def reader_by_key(self, key: str) -> Reader | None:
        """The reader that an API key belongs to, or None."""
        digest = sha256_hex(key)
        reader = self._index.readers.get(digest)
        return reader if reader is not None and _holds((k.sha256 for k in reader.keys), digest) else None

    def reload(self) -> bool:
        """Look at every file again and read those that changed. Returns whether anything took effect."""
        slots = {}
        changed = False
        for path, stamp in self._stamps().items():
            known = self._slots.get(path)
            last_good = known.participant if known is not None else None
            slot = known if known is not None and known.stamp == stamp else self._read(path, stamp, known)
            if slot.participant is not None and self._is_over(slot.broken_since):
                _log.error("%s: could not be read for too long; nothing of it is in force any more", path)
                slot.participant = None
            slots[path] = slot
            changed = changed or slot.participant != last_good
        changed = changed or any(slot.participant for path, slot in self._slots.items() if path not in slots)
        self._slots = slots
        if changed:
            self._index = self._indexed()
            self.generation += 1
        return changed

    async def watch(self, on_change: Callable[[], None], interval: float = POLL_INTERVAL) -> None:
        """Reload for ever, every `interval` seconds, calling `on_change` after every change in force."""
        while True:
            await asyncio.sleep(interval)
            if self.reload():
                on_change()

    def _stamps(self) -> dict[Path, _Stamp]:
        """Every file with its stamp. When the directory cannot be listed, the files stay as they were."""
        stamps = {}
        try:
            for path in sorted(self.directory.iterdir()):
                if path.suffix == ".yml" and not path.name.startswith("."):
                    status = path.stat()
                    stamps[path] = _Stamp(status.st_mtime_ns, status.st_ino, status.st_size)
        except OSError as error:
            fault = error.strerror or str(error)
            if fault != self._directory_fault:
                _log.error(
                    "%s: the registry cannot be read (%s); its last state stays in force",
                    self.directory,
                    fault,
                )
            self._directory_fault = fault
            if self._directory_broken_since is None:
                self._directory_broken_since = self._clock()
            if self._is_over(self._directory_broken_since):
                if self._slots:
                    _log.error(
                        "%s: could not be read for too long; nothing of the registry is in force any more",
                        self.directory,
                    )
                return {}
            return {path: slot.stamp for path, slot in self._slots.items()}
        self._directory_fault = None
        self._directory_broken_since = None
        return stamps

    def _is_over(self, broken_since: float | None) -> bool:
        return broken_since is not None and self._clock() - broken_since > LAST_GOOD_MAX

    def _read(self, path: Path, stamp: _Stamp, known: _Slot | None) -> _Slot:
        """A file in a new version. What cannot be read does not begin anew with each further mistake."""
        last_good = known.participant if known is not None else None
        try:
            return _Slot(stamp, read_participant(path), broken_since=None)
        except ConfigError as error:
            _log.error(
                "%s (the first of %d problems with this file of the registry; %s)",
                error.problems[0],
                len(error.problems),
                "its last good version stays in force" if last_good else "nothing of it is in force",
            )
            since = known.broken_since if known is not None else None
            return _Slot(stamp, last_good, broken_since=self._clock() if since is None else since)

    def _indexed(self) -> _Index:
        index = _Index()
        for participant in self.participants.values():
            for upload in participant.uploads.values():
                index.uploads.update(dict.fromkeys(upload.key_sha256, upload))
            for reader in participant.readers.values():
                index.readers.update((key.sha256, reader) for key in reader.keys)
        return index


def account_name(source: int) -> str:
    """The account in the drop of a sensor or upload: its source id, which is never given to another."""
    return f"sie-{source:08x}"


def is_participant_name(name: str) -> bool:
    """Whether a name may be a participant's."""
    return re.fullmatch(PARTICIPANT_NAME.pattern, name) is not None


def is_sensor_name(name: str) -> bool:
    """Whether a name may be a sensor's, an upload's or a reader's."""
    return re.fullmatch(SENSOR_NAME.pattern, name) is not None


def _revocation(item: Config) -> Revocation | None:
    if item["revoked.at"] is None:
        return None
    return Revocation(item["revoked.at"], item["revoked.reason"] or "no reason given")


def _holds(digests: Iterable[str], digest: str) -> bool:
    return any(hmac.compare_digest(known, digest) for known in digests)
