"""What a hub cannot be built anew without, as one archive: who may do what, and how far each sensor is.

    manifest.json            what this is, and the SHA-256 of each of the files below
    hub.yml, ca.pem          to compare with what the playbook has put in place
    registry/FILE            the registry: participants, source ids that were given, records of who has left
    enrol/tokens/ID.json     tokens and what was issued on them, by their hashes
    enrol/renewals/N.json    certificates that were renewed
    streams/NAME.ndjson      the last value of each subject of KV_POSITION and KV_LEDGER

No private key, no password and nothing that was looked up is in it: the CA's key is kept apart, everything
else that is secret is made anew. RAW and SIE are not in it, nor the store.
"""

import base64
import binascii
import hashlib
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sie_core import __version__
from sie_core.errors import SieError
from sie_core.files import replace_file, sync_directory

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
NAME: Final = "sie-hub-{:%Y%m%dT%H%M%SZ}.tar.gz"
NAMED: Final = re.compile(r"sie-hub-\d{8}T\d{6}Z\.tar\.gz")
MEMBER: Final = re.compile(
    r"hub\.yml|ca\.pem|streams/KV_[A-Z]+\.ndjson"
    r"|(?:registry|enrol/tokens|enrol/renewals)/(?!\.{1,2}$)[A-Za-z0-9_.-]{1,255}"
)

MODE: Final = 0o600

MAX_FILE: Final = 4 << 20
"""Octets of one file of the hub's: the largest, a participant with a thousand sensors, has some 200 KiB."""

MAX_ARCHIVE: Final = 256 << 20
"""Octets of everything. 100 000 positions of 0.5 KiB, as many sensors in the ledger of 1 KiB, and 100 000
tokens of 0.5 KiB are 205 MB."""


class BackupError(SieError):
    """A backup cannot be written or restored: one sentence says which and what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The last message of a subject of a key-value stream, with the hub's own headers."""

    subject: str
    data: bytes
    headers: Mapping[str, str]

    def as_line(self) -> bytes:
        """One line of NDJSON."""
        document = {
            "subject": self.subject,
            "data": base64.b64encode(self.data).decode(),
            "headers": dict(self.headers),
        }
        return json.dumps(document, sort_keys=True).encode() + b"\n"


def entries_in(lines: bytes) -> list[Entry]:
    """The entries of a stream's file. Raises BackupError for a line that is none."""
    try:
        found = [json.loads(line) for line in lines.splitlines()]
        return [
            Entry(str(one["subject"]), base64.b64decode(one["data"], validate=True), dict(one["headers"]))
            for one in found
        ]
    except (ValueError, TypeError, KeyError, binascii.Error):
        raise BackupError("a line of a stream's file in the backup is damaged: take another backup") from None


def files_in(directory: Path, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    """The regular files of a directory that have one of the endings, by name; none of one that is not there.

    Links are not followed: what a unit may have laid out in its own directory must not bring other files of
    root's into a backup. Raises OSError, and BackupError for a file that is too large.
    """
    found: dict[str, bytes] = {}
    try:
        inside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return found
    try:
        with os.scandir(inside) as present:
            names = sorted(one.name for one in present if one.name.endswith(suffixes))
        for name in names:
            if (data := _regular_file(inside, name)) is not None:
                found[name] = data
    finally:
        os.close(inside)
    return found


def _regular_file(inside: int, name: str) -> bytes | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if not stat.S_ISREG(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode):
        return None
    with os.fdopen(os.open(name, flags, dir_fd=inside), "rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise BackupError(f"{name}: larger than the {MAX_FILE} octets that a file of the hub's may have")
    return data


def pack(exchange: str, made: datetime, members: Mapping[str, bytes]) -> bytes:
    """An archive of the members, by their paths in it."""
    manifest = {
        "format": FORMAT,
        "exchange": exchange,
        "made": made.astimezone(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "files": {path: hashlib.sha256(data).hexdigest() for path, data in sorted(members.items())},
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        text = json.dumps(manifest, indent=1).encode() + b"\n"
        for path, data in [(MANIFEST, text), *sorted(members.items())]:
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(data), MODE, int(made.timestamp())
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def unpack(archive: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest of an archive and its members by their paths, whole and as they were written.

    Raises BackupError for anything else, and OSError.
    """
    members: dict[str, bytes] = {}
    room = MAX_ARCHIVE
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                room -= member.size
                file = tar.extractfile(member) if member.isreg() else None
                if file is None or room < 0:
                    raise BackupError(f"{archive}: this is no backup of a hub")
                members[member.name] = file.read()
        manifest = json.loads(members.pop(MANIFEST))
        told = dict(manifest["files"])
    except (tarfile.TarError, EOFError, ValueError, TypeError, KeyError):
        raise BackupError(f"{archive}: this is no backup of a hub, or is damaged: take another one") from None
    if manifest.get("format") != FORMAT:
        raise BackupError(
            f"{archive}: a backup of format {manifest.get('format')}, and this release reads {FORMAT}:"
            " restore it with the release that wrote it"
        )
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in members.items()}
    if digests != told or not all(MEMBER.fullmatch(path) for path in members):
        raise BackupError(f"{archive}: it does not hold what its manifest says: take another backup")
    return manifest, members


def below(members: Mapping[str, bytes], folder: str) -> dict[str, bytes]:
    """The members of one folder, by their names in it."""
    return {
        path.removeprefix(f"{folder}/"): data
        for path, data in members.items()
        if path.startswith(f"{folder}/")
    }


def keep(directory: Path, archive: bytes, made: datetime, most: int) -> tuple[Path, list[str]]:
    """Write an archive durably, readable by its owner alone, and remove the oldest beyond `most`.

    Returns where it is and the names of those that were removed. Raises OSError.
    """
    path = directory / NAME.format(made.astimezone(UTC))
    replace_file(path, archive, mode=MODE)
    present = sorted(one.name for one in directory.iterdir() if NAMED.fullmatch(one.name))
    removed = present[:-most]
    for name in removed:
        (directory / name).unlink()
    sync_directory(directory)
    return path, removed


def put_back(directory: Path, files: Mapping[str, bytes], *, mode: int) -> None:
    """Write files that belong to whom their directory belongs. Raises OSError."""
    status = directory.stat()
    for name, data in files.items():
        replace_file(directory / name, data, mode=mode, owner=(status.st_uid, status.st_gid))


def differing(present: Iterable[Entry], wanted: Iterable[Entry]) -> list[str]:
    """The subjects that hold something else than the backup does."""
    told = {entry.subject: entry.data for entry in wanted}
    return sorted(entry.subject for entry in present if told.get(entry.subject) != entry.data)
