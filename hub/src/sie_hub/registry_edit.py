"""Changing the registry's files: one change at a time, checked before it is written, whole or not at all.

Every change says what should be, not what to do, so that doing it twice changes nothing the second time.
Source ids are drawn at random, so that they tell nothing about who joined when, and once given stay with
their sensor.
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from sie_core.files import sync_directory
from sie_core.settings import ConfigError, Problem
from sie_hub.files import replace_file
from sie_hub.registry import FILE, Participant, Sensor, Upload, read_participant, sha256_hex

MODE: Final = 0o640  # the units read it by their common group; hashes of keys are nobody else's business
MAX_KEYS: Final = 2  # so that one can be replaced while the other one works
KEY_OCTETS: Final = 32  # 256 bits, so that a plain hash may be kept
GIVEN: Final = ".given_sources"
"""The source ids of participants that were removed, one a line: none is ever given to another."""

_HEADER: Final = "# Written by `sie-hub registry`. Comments do not survive its changes.\n"
_ORDER: Final = ("participant", "agreement", "sensors", "uploads", "readers")

Document = dict[str, Any]


class EditRefused(Exception):
    """The change cannot be made: one sentence with the remedy."""


class RegistryEditor:
    """Writes the files of a registry. With `dry_run` it finds out what would change and leaves everything."""

    def __init__(self, directory: Path, *, dry_run: bool = False, now: datetime | None = None) -> None:
        self.directory = directory
        self._dry_run = dry_run
        self._now = (now or datetime.now(UTC)).replace(microsecond=0)

    def set_participant(
        self, name: str, *, signed: date, term_days: int, renews: bool, terminated: date | None
    ) -> tuple[bool, Document]:
        """Make the participant exist with this agreement. Returns whether that changed anything, and its
        file."""

        def change(document: Document) -> None:
            document["participant"] = name
            document["agreement"] = {
                "signed": signed.isoformat(),
                "term_days": term_days,
                "renews": renews,
                **({"terminated": terminated.isoformat()} if terminated is not None else {}),
            }

        return self._edit(name, change, create=True)

    def end_participant(self, name: str, reason: str) -> tuple[bool, Document]:
        """End a participant's part at once: its agreement from today on, if it has not ended before, every
        sensor and upload, every key.

        What is revoked already keeps its time and reason. Returns whether anything changed, and its file.
        """
        today = self._now.date().isoformat()

        def change(document: Document) -> None:
            agreement = document["agreement"]
            agreement["terminated"] = min(agreement.get("terminated", today), today)
            for section in ("sensors", "uploads"):
                for entry in document.get(section, {}).values():
                    if not entry.get("revoked"):
                        entry["revoked"] = {"at": _instant(self._now), "reason": reason}
            for upload in document.get("uploads", {}).values():
                upload.pop("key_sha256", None)
            for reader in document.get("readers", {}).values():
                reader["keys"] = []

        return self._edit(name, change)

    def remove_participant(self, name: str) -> bool:
        """Make the registry know nothing of a participant but the source ids that it had.

        Refused while its agreement is in force. Returns whether that changed anything.
        """
        path = self.directory / f"{name}.yml"
        with self._locked():
            if not path.exists():
                return False
            participant = read_participant(path)
            if participant.agreement.refusal(self._now.date()) is None:
                raise EditRefused(
                    f"{name} has an agreement in force: end it first by"
                    f" `sie-hub registry participant set {name} … --terminated DATE`"
                )
            if not self._dry_run:
                sources = {entry.source for entry in _sources(participant)} | self._given_before()
                text = "".join(f"{source}\n" for source in sorted(sources))
                replace_file(self.directory / GIVEN, text, MODE)  # first, so that no id is ever forgotten
                path.unlink()
                sync_directory(self.directory)
            return True

    def set_source(
        self, participant: str, section: str, name: str, channels: Sequence[int]
    ) -> tuple[bool, Document]:
        """Make a sensor or an upload (`section`: sensors, uploads) exist with these channels.

        Its source id, once it has one, and its revocation stay. Returns whether anything changed, and its
        entry.
        """

        def change(document: Document) -> None:
            entry = document.setdefault(section, {}).setdefault(name, {})
            entry["channels"] = sorted(set(channels))
            if "source" not in entry:
                entry["source"] = self._new_source()

        changed, document = self._edit(participant, change)
        return changed, document[section][name]

    def revoke(
        self,
        participant: str,
        section: str,
        name: str,
        reason: str,
        serial: str | None = None,
        key: str | None = None,
        everything: bool = False,
    ) -> tuple[bool, Document]:
        """Take a sensor or an upload back, or with `serial` one certificate of a sensor only, or with `key`
        (a fingerprint) every certificate for that key, or with `everything` each certificate and token that
        was issued to it until now.

        What is revoked already keeps its time and reason. Returns whether anything changed, and its entry.
        """

        def change(document: Document) -> None:
            entry = _entry(document, section, name)
            if everything:
                entry["revoked_before"] = _instant(self._now)
            elif serial is not None or key is not None:
                for field, value in (("revoked_serials", serial), ("revoked_keys", key)):
                    if value is not None and value not in entry.setdefault(field, []):
                        entry[field].append(value)
            elif not entry.get("revoked"):
                entry["revoked"] = {"at": _instant(self._now), "reason": reason}

        changed, document = self._edit(participant, change)
        return changed, document[section][name]

    def reinstate(self, participant: str, section: str, name: str) -> tuple[bool, Document]:
        """Undo the revocation of a sensor or upload; certificates and keys taken back stay so."""

        def change(document: Document) -> None:
            _entry(document, section, name).pop("revoked", None)

        changed, document = self._edit(participant, change)
        return changed, document[section][name]

    def add_reader_key(
        self, participant: str, reader: str, identifier: str, digest: str | None
    ) -> tuple[bool, str | None]:
        """Make a reader have a key of this id. Returns whether that changed anything, and the key if it is
        new.

        With `digest` the key was made elsewhere and only its SHA-256 comes here. A key that is there
        already is left alone, and cannot be shown again.
        """
        key = secrets.token_urlsafe(KEY_OCTETS) if digest is None else None
        wanted = digest if key is None else sha256_hex(key)

        def change(document: Document) -> None:
            keys = document.setdefault("readers", {}).setdefault(reader, {}).setdefault("keys", [])
            present = next((known for known in keys if known["id"] == identifier), None)
            if present is not None:
                if digest is not None and present["sha256"] != digest:
                    raise EditRefused(
                        f"{participant}/{reader} has another key {identifier}: remove it, or give another id"
                    )
                return
            if len(keys) >= MAX_KEYS:
                known = ", ".join(k["id"] for k in keys)
                raise EditRefused(f"{participant}/{reader} has {MAX_KEYS} keys ({known}): remove one first")
            keys.append({"id": identifier, "sha256": wanted, "created": _instant(self._now)})

        changed, _document = self._edit(participant, change)
        return changed, key if changed and not self._dry_run else None

    def remove_reader_key(self, participant: str, reader: str, identifier: str) -> bool:
        """Make a reader have no key of this id. Returns whether that changed anything."""

        def change(document: Document) -> None:
            entry = document.get("readers", {}).get(reader)
            if entry is not None:
                entry["keys"] = [key for key in entry.get("keys", []) if key["id"] != identifier]

        return self._edit(participant, change)[0]

    def add_upload_key(self, participant: str, upload: str, digest: str | None) -> tuple[bool, str | None]:
        """Give an upload a key. Returns whether that changed anything, and the key if it was made here."""
        key = secrets.token_urlsafe(KEY_OCTETS) if digest is None else None
        wanted = digest if key is None else sha256_hex(key)

        def change(document: Document) -> None:
            keys = _entry(document, "uploads", upload).setdefault("key_sha256", [])
            if wanted in keys:
                return
            if len(keys) >= MAX_KEYS:
                raise EditRefused(f"{participant}/{upload} has {MAX_KEYS} keys: remove one first")
            keys.append(wanted)

        changed, _document = self._edit(participant, change)
        return changed, None if self._dry_run else key

    def remove_upload_key(self, participant: str, upload: str, digest: str) -> bool:
        """Make an upload have no key of this SHA-256. Returns whether that changed anything."""

        def change(document: Document) -> None:
            entry = _entry(document, "uploads", upload)
            entry["key_sha256"] = [known for known in entry.get("key_sha256", []) if known != digest]

        return self._edit(participant, change)[0]

    def _edit(
        self, participant: str, change: Callable[[Document], None], *, create: bool = False
    ) -> tuple[bool, Document]:
        path = self.directory / f"{participant}.yml"
        with self._locked():
            before = self._load(path)
            if not before and not create and self._dry_run:
                # What would make the participant was only tried, too, so there is nothing to check against.
                tried: Document = {"participant": participant}
                change(tried)
                return True, tried
            if not before and not create:
                raise EditRefused(
                    f"{participant} is not in {self.directory}: add it by `sie-hub registry participant set`"
                )
            after: Document = yaml.safe_load(yaml.safe_dump(before))
            change(after)
            _check(path, after)
            if after == before:
                return False, after
            if not self._dry_run:
                replace_file(path, _HEADER + yaml.safe_dump(_in_order(after), sort_keys=False), MODE)
            return True, after

    def _load(self, path: Path) -> Document:
        """A file as it is written, days and times as text; empty when there is none. Raises ConfigError."""
        if not path.exists():
            return {}
        read_participant(path)
        document: Document = yaml.load(path.read_text(), Loader=_TextLoader)  # noqa: S506  # a SafeLoader
        return document

    def _new_source(self) -> int:
        used = self._given_before()
        for path in self.directory.glob("*.yml"):
            try:
                participant = read_participant(path)
            except ConfigError as error:
                # Another participant's broken file must not hide the ids that it has given out.
                raise EditRefused(
                    f"{error.problems[0]} (mend this file first: its source ids are unknown)"
                ) from None
            used |= {entry.source for entry in _sources(participant)}
        while (source := 1 + secrets.randbelow((1 << 32) - 1)) in used:
            continue
        return source

    def _given_before(self) -> set[int]:
        """The source ids of participants that are no longer here."""
        path = self.directory / GIVEN
        return {int(line) for line in path.read_text().splitlines()} if path.exists() else set()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other editors out. Readers need no lock: files are replaced at once."""
        if self._dry_run:
            yield
            return
        try:
            descriptor = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        except OSError as error:
            raise EditRefused(f"{self.directory}: the registry cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class _TextLoader(yaml.SafeLoader):
    """YAML in which days and times stay the text that they are in the file."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _sources(participant: Participant) -> tuple[Sensor | Upload, ...]:
    """Whatever of a participant has a source id."""
    return (*participant.sensors.values(), *participant.uploads.values())


def _entry(document: Document, section: str, name: str) -> Document:
    entry: Document | None = document.get(section, {}).get(name)
    if entry is None:
        what = section.removesuffix("s")
        raise EditRefused(f"{document['participant']} has no {what} {name}: see `sie-hub registry show`")
    return entry


def _check(path: Path, document: Document) -> None:
    """Refuse to write what the units would refuse to read. Raises ConfigError."""
    problems: list[Problem] = []
    FILE.read(document, "", problems)
    if problems:
        raise ConfigError([f"{path}: {problem.key}: {problem.text}" for problem in problems])


def _in_order(document: Document) -> Document:
    return {key: document[key] for key in _ORDER if key in document}


def _instant(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
