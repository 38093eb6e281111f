"""Another release of a program out of one that is built: of another version, and with a fault if wanted.

Only the program's own wheels differ, so that nothing is built or fetched.
"""

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

VERSION = "0.1.0"
RECORD = ".dist-info/RECORD"


class Edit(NamedTuple):
    """Text of a module, and what stands there instead."""

    was: str
    becomes: str


def variant(
    archive: Path,
    folder: Path,
    version: str,
    edits: Mapping[str, Edit] | None = None,
    *,
    state: int | None = None,
) -> Path:
    """The archive of a release like `archive` but of another version, in `folder`.

    `edits` are by module, such as `sie_agent/uplink.py`. `state` is the form of what the release keeps, as
    its manifest says. AssertionError if an edit fits no module of the release.
    """
    wanted = {"sie_core/__init__.py": Edit(f'"{VERSION}"', f'"{version}"'), **(edits or {})}
    files = _read(archive)
    manifest = json.loads(files["manifest.json"])
    for name in [name for name in files if name.startswith("wheels/sie_")]:
        before = hashlib.sha256(files[name]).hexdigest()
        files[name] = _edited(files[name], wanted)
        after = hashlib.sha256(files[name]).hexdigest()
        manifest["files"][name] = after
        for requirements in [name for name in files if name.startswith("requirements-")]:
            files[requirements] = files[requirements].replace(before.encode(), after.encode())
            manifest["files"][requirements] = hashlib.sha256(files[requirements]).hexdigest()
    assert not wanted, f"{archive.name} holds none of {', '.join(wanted)}"
    manifest["version"] = version
    if state is not None:
        manifest["state"] = state
    files["manifest.json"] = json.dumps(manifest).encode()
    digest = hashlib.sha256(files["manifest.json"]).hexdigest()[:12]
    return _write(folder / f"{manifest['program']}-{version}-{digest}.tar", files)


def release_id(archive: Path) -> str:
    """The name of a release: of its archive, and of its folder on a host."""
    return archive.resolve().name.removesuffix(".tar")


def _edited(wheel: bytes, edits: dict[str, Edit]) -> bytes:
    """A wheel with modules edited and listed; edits that were made are taken out of `edits`."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as source:
        members: dict[str, bytes] = {info.filename: source.read(info) for info in source.infolist()}
    (record,) = [name for name in members if name.endswith(RECORD)]
    for name in sorted(edits.keys() & members.keys()):
        edit = edits.pop(name)
        text = members[name].decode()
        assert edit.was in text, f"{name} has no {edit.was!r}"
        members[name] = text.replace(edit.was, edit.becomes).encode()
        lines = members[record].decode().splitlines()
        listed = [_line(name, members[name]) if line.startswith(f"{name},") else line for line in lines]
        members[record] = "".join(f"{line}\n" for line in listed).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        for name, data in members.items():
            target.writestr(zipfile.ZipInfo(name), data)
    return made.getvalue()


def _line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"{name},sha256={digest},{len(data)}"


def _read(archive: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            file: Any = tar.extractfile(member)
            if file is not None:
                files[str(PurePosixPath(*PurePosixPath(member.name).parts[1:]))] = file.read()
    return files


def _write(archive: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(archive, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{release_id(archive)}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive
