"""A backup, restored into a hub that was built anew, is the hub that was: the same rights and positions."""

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from sie_hub.backup import BackupError, files_in, keep, pack, unpack
from sie_hub.enrol.tokens import TokenStore
from sie_hub.ingest.store import StreamWriter
from sie_hub.registry import Registry
from sie_hub.registry_edit import GIVEN
from sie_hub.streams import HEADER_DIGEST, HEADER_STORED_CONTAINERS, Source

from .broker import Broker
from .conftest import Pki
from .hub import Hub

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
SOURCE = Source("isp_a", "ns1", "1122334455667788")
POSITION = 4711
DIGEST = "ab" * 32


class Place:
    """A hub's files and its nats-server, for the two commands."""

    def __init__(self, directory: Path, pki: Pki, broker: Broker) -> None:
        self.broker = broker
        self.hub = Hub(directory / "hub", pki, broker)
        self.state = directory / "enrol"
        self.backups = directory / "backups"
        self.passwords = directory / "nats-passwords"
        for made in (self.state, self.backups, self.passwords):
            made.mkdir()
        for user, password in broker.passwords.items():
            (self.passwords / user).write_text(password)
        document = yaml.safe_load(self.hub.path.read_text()) | {"enrol": {"state": str(self.state)}}
        self.hub.path.write_text(yaml.safe_dump(document))

    async def fill(self) -> None:
        """What there is in a hub that is in use: a token, a source id that was given, positions, accounts."""
        TokenStore(self.state).issue("isp_a", "ns1", now=datetime.now(UTC), random=os.urandom)
        (self.hub.registry / GIVEN).write_text("99\n")
        (self.hub.registry / "gone.offboarded.json").write_text("{}\n")
        async with self.broker.link("ingest") as link:
            headers = {HEADER_DIGEST: DIGEST, HEADER_STORED_CONTAINERS: "17"}
            await link.publish(SOURCE.position_subject, str(POSITION).encode(), headers)
            await link.publish(SOURCE.ledger_subject, b'{"captured": 5}', {})

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """One of the two commands."""
        options = ["--config", str(self.hub.path), "--nats-passwords", str(self.passwords)]
        return subprocess.run(
            [sys.executable, "-m", "sie_hub.cli", *map(str, words), *options],
            capture_output=True,
            text=True,
            check=False,
        )

    def backup(self) -> Path:
        """A backup that must succeed; where it is."""
        done = self.run("backup", "--directory", self.backups)
        assert done.returncode == 0, done.stderr
        return Path(json.loads(done.stdout)["archive"])

    def restore(self, archive: Path, *words: str) -> dict[str, Any]:
        """A restoration that must succeed; its answer."""
        done = self.run("restore", archive, *words)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def empty(self) -> None:
        """As the playbook leaves a hub that nobody has been registered at."""
        for path in self.hub.registry.iterdir():
            path.unlink()


@pytest.fixture
async def place(tmp_path: Path, pki: Pki, broker: Broker) -> Place:
    """The hub that is backed up."""
    place = Place(tmp_path, pki, broker)
    await place.fill()
    return place


@pytest.fixture
async def anew(tmp_path: Path, pki: Pki) -> AsyncIterator[Place]:
    """A hub built anew, with the CA of the one before: other passwords, empty streams, an empty registry."""
    broker = Broker(tmp_path / "anew" / "nats")
    broker.start()
    await broker.make_streams()
    pki.directory = tmp_path / "anew" / "pki"
    pki.directory.mkdir()
    place = Place(tmp_path / "anew", pki, broker)
    place.empty()
    yield place
    broker.kill()


async def test_a_hub_built_anew_is_the_hub_that_was(place: Place, anew: Place) -> None:
    archive = await asyncio.to_thread(place.backup)
    answer = await asyncio.to_thread(anew.restore, archive)
    assert (answer["registry"], answer["tokens"]) == (3, 1)
    assert answer["entries"] == {"KV_POSITION": 1, "KV_LEDGER": 1}
    assert Registry(anew.hub.registry).participants == Registry(place.hub.registry).participants
    assert list(TokenStore(anew.state).list()) == list(TokenStore(place.state).list())

    second = unpack(await asyncio.to_thread(anew.backup))[1]
    first = unpack(archive)[1]
    assert {path: second[path] for path in second if path != "hub.yml"} == {
        path: first[path] for path in first if path != "hub.yml"
    }
    modes = {path.stat().st_mode & 0o777 for path in anew.hub.registry.iterdir()}
    assert modes == {0o640}


async def test_a_sensor_goes_on_where_the_backup_has_its_position(place: Place, anew: Place) -> None:
    archive = await asyncio.to_thread(place.backup)
    await asyncio.to_thread(anew.restore, archive)
    async with anew.broker.link("ingest") as link:
        writer = StreamWriter(link, SOURCE, 7)
        assert await writer.open(frozenset({202})) == POSITION
        assert writer.digest == bytes.fromhex(DIGEST)


async def test_what_would_be_restored_is_said_and_not_done(place: Place, anew: Place) -> None:
    archive = await asyncio.to_thread(place.backup)
    assert (await asyncio.to_thread(anew.restore, archive, "--check"))["registry"] == 3
    assert list(anew.hub.registry.iterdir()) == []
    assert list(anew.state.iterdir()) == []
    async with anew.broker.administrator() as link:
        assert await link.subjects("KV_POSITION", ">") == {}


async def test_a_restoration_that_was_cut_short_is_taken_up(place: Place, anew: Place) -> None:
    archive = await asyncio.to_thread(place.backup)
    anew.broker.kill()
    cut = await asyncio.to_thread(anew.run, "restore", archive, "--timeout", "1")
    assert cut.returncode == 1
    assert "not ready within 1 s: run this again when nats-server is well" in cut.stderr
    assert list(anew.hub.registry.iterdir()) == []
    anew.broker.start()
    async with anew.broker.link("ingest") as link:  # as if half of it had come
        await link.publish(SOURCE.position_subject, str(POSITION).encode(), {HEADER_DIGEST: DIGEST})
    assert (await asyncio.to_thread(anew.restore, archive))["registry"] == 3


def secrets_of(place: Place) -> list[bytes]:
    """What must not be in a backup: lines of keys, and passwords."""
    lines = [
        line for file in place.hub.pki.directory.glob("*.key") for line in file.read_bytes().splitlines()
    ]
    passwords = [password.encode() for password in place.broker.passwords.values()]
    return [b"PRIVATE KEY", *(line for line in lines if len(line) > 30), *passwords]


async def test_a_backup_holds_no_secret_and_is_its_owners_alone(place: Place) -> None:
    archive = await asyncio.to_thread(place.backup)
    assert archive.stat().st_mode & 0o777 == 0o600
    manifest, members = unpack(archive)
    assert manifest["files"].keys() == members.keys()
    known = secrets_of(place)
    assert len(known) > 8
    assert [path for path, data in members.items() if any(secret in data for secret in known)] == []
    planted = members | {"ca.pem": members["ca.pem"] + place.hub.pki.ca_held.key.read_bytes()}
    assert [path for path, data in planted.items() if any(secret in data for secret in known)] == ["ca.pem"]


async def test_a_hub_in_use_is_not_restored(place: Place, anew: Place) -> None:
    archive = await asyncio.to_thread(place.backup)
    there = await asyncio.to_thread(place.run, "restore", archive)
    assert there.returncode == 1
    assert "there is isp_a already, and a backup is restored to an empty registry alone" in there.stderr
    async with anew.broker.link("ingest") as link:
        await link.publish(SOURCE.position_subject, b"5000", {})
    further = await asyncio.to_thread(anew.run, "restore", archive)
    assert further.returncode == 1
    assert "this hub has taken data in, and is not restored" in further.stderr
    assert list(anew.hub.registry.iterdir()) == []


async def test_a_backup_of_another_hub_is_refused(
    place: Place, anew: Place, other_pki: Pki, tmp_path: Path
) -> None:
    archive = await asyncio.to_thread(place.backup)
    members = unpack(archive)[1]
    (tmp_path / "other.tar.gz").write_bytes(pack("other.example", NOW, members))
    done = await asyncio.to_thread(anew.run, "restore", tmp_path / "other.tar.gz")
    assert "a backup of other.example, and this is the hub of lab.example" in done.stderr
    members["ca.pem"] = other_pki.ca_held.certificate.read_bytes()
    (tmp_path / "ca.tar.gz").write_bytes(pack("lab.example", NOW, members))
    done = await asyncio.to_thread(anew.run, "restore", tmp_path / "ca.tar.gz")
    assert "not the CA of the backup, which its sensors trust" in done.stderr


def tampered(archive: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The archive with members changed, and its manifest as it was unless that is what changes."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {member.name: file.read() for member in tar if (file := tar.extractfile(member))}
    change(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, data in members.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def of_a_later_format(members: dict[str, bytes]) -> None:
    members["manifest.json"] = members["manifest.json"].replace(b'"format": 1', b'"format": 2')


@pytest.mark.parametrize(
    ("damaged", "sentence"),
    [
        (lambda data: data[:200], "no backup of a hub, or is damaged"),
        (lambda _: b"not a tar file", "no backup of a hub, or is damaged"),
        (
            lambda data: tampered(data, lambda m: m.update({"ca.pem": b"x"})),
            "does not hold what its manifest",
        ),
        (lambda data: tampered(data, lambda m: m.__delitem__("ca.pem")), "does not hold what its manifest"),
        (lambda data: tampered(data, of_a_later_format), "a backup of format 2, and this release reads 1"),
        (lambda _: pack("lab.example", NOW, {"registry/../hub.yml": b""}), "does not hold what its manifest"),
        (lambda _: pack("lab.example", NOW, {"registry/..": b""}), "does not hold what its manifest"),
    ],
)
def test_a_damaged_backup_is_one_sentence(
    tmp_path: Path, damaged: Callable[[bytes], bytes], sentence: str
) -> None:
    path = tmp_path / "backup.tar.gz"
    path.write_bytes(damaged(pack("lab.example", NOW, {"ca.pem": b"certificate"})))
    with pytest.raises(BackupError, match=sentence):
        unpack(path)


def test_as_many_are_kept_as_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not ours")
    for day in range(5):
        path, removed = keep(tmp_path, b"archive", NOW + timedelta(days=day), 3)
        assert path.name == f"sie-hub-202611{22 + day}T030000Z.tar.gz"
        assert len(removed) == (1 if day >= 3 else 0)
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "notes.txt",
        *(f"sie-hub-202611{day}T030000Z.tar.gz" for day in (24, 25, 26)),
    ]


def test_only_files_of_the_directory_itself_are_read(tmp_path: Path) -> None:
    inside = tmp_path / "tokens"
    inside.mkdir()
    (tmp_path / "secret.json").write_text("secret")
    (inside / "link.json").symlink_to(tmp_path / "secret.json")
    os.mkfifo(inside / "pipe.json")
    (inside / "other.txt").write_text("other")
    (inside / "a.json").write_text("{}")
    assert files_in(inside, (".json",)) == {"a.json": b"{}"}
    (tmp_path / "elsewhere").symlink_to(inside)
    with pytest.raises(OSError, match="Not a directory"):
        files_in(tmp_path / "elsewhere", (".json",))
    assert files_in(tmp_path / "absent", (".json",)) == {}
