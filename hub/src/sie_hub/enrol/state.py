"""enrol's own state directory: JSON records under one lock.

Two processes write here, `sie-hub enrol` and `sie-hub token`, each under the lock of the directory:

    DIRECTORY/lock                    flock(2) around every change
    DIRECTORY/tokens/<id>.json        one token (`sie_hub.enrol.tokens`)
    DIRECTORY/renewals/<serial>.json  one certificate that was renewed (`sie_hub.enrol.renewals`)
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sie_core.errors import SieError
from sie_core.files import replace_file

MAX_ISSUED: Final = 20
"""Certificates for one token, or for one certificate that is renewed. One is needed; the others are
repetitions after answers that got lost."""


class StateError(SieError):
    """The directory cannot be read or written: the sentence says where and why."""


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate that was issued. Times are UTC, to the second."""

    serial: str
    at: datetime
    not_after: datetime

    def public(self) -> dict[str, str]:
        """What the commands' `--json` shows."""
        return {"serial": self.serial, "at": self.at.isoformat(), "not_after": self.not_after.isoformat()}


class Records:
    """The records of one kind under a state directory, which is made if it is not there.

    A record is a JSON object in a file of its own, named by digits; `what` names the kind in sentences.
    """

    def __init__(self, directory: Path, kind: str, what: str) -> None:
        self._directory = directory
        self._records = directory / kind
        self._what = what

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process writes meanwhile. Raises StateError, also for an OSError of the caller's."""
        try:
            self._records.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._directory / "lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StateError(
                f"{error.filename or self._directory}: the {self._what}s cannot be read or written:"
                f" {error.strerror}"
            ) from None

    def names(self) -> Iterator[str]:
        """The names of all records."""
        for path in self._records.iterdir():
            if path.suffix == ".json" and not path.name.startswith("."):
                yield path.stem

    def read(self, name: str) -> dict[str, Any] | None:
        """A record, None if there is none. Raises StateError for one that is damaged."""
        if not name or not set(name) <= set("0123456789abcdef"):
            return None
        try:
            raw = json.loads((self._records / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise self.damaged(name) from None
        if not isinstance(raw, dict):
            raise self.damaged(name)
        return raw

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Put a record on disk, in place of the one of that name. Times become ISO 8601."""
        data = (json.dumps(record, default=_encode, indent=1) + "\n").encode()
        replace_file(self._records / f"{name}.json", data, mode=0o600)

    def remove(self, name: str) -> None:
        """Forget a record."""
        (self._records / f"{name}.json").unlink(missing_ok=True)

    def damaged(self, name: str) -> StateError:
        """The error for a record that says what it cannot."""
        path = self._records / f"{name}.json"
        return StateError(f"{path}: this record of a {self._what} is damaged: remove it")


def issued_from(raw: list[dict[str, str]]) -> tuple[Issued, ...]:
    """What was issued, from a record. Raises KeyError, TypeError and ValueError for what is none."""
    return tuple(Issued(one["serial"], time_from(one["at"]), time_from(one["not_after"])) for one in raw)


def time_from(text: str) -> datetime:
    """A time, from a record. Raises ValueError and TypeError for what is none."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _encode(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value))
