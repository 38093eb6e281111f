"""A participant leaves: everything of it is taken back and purged, and nothing of anybody else."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from sie_hub.enrol.tokens import TokenStore
from sie_hub.ingest.ledger import Ledger
from sie_hub.nats_errors import Unavailable
from sie_hub.offboard import accounts_of
from sie_hub.registry import Registry, account_name, read_participant, sha256_hex
from sie_hub.registry_edit import RegistryEditor
from sie_hub.streams import LEDGER, POSITION, RAW, TAKEN, Source

from .broker import Broker
from .conftest import Pki
from .hub import Hub

STREAM = "1122334455667788"
REASON = "the participant has left"
LEAVING, STAYING = "isp_a", "isp_a_b"
"""Two names of which one begins with the other, since subjects and files are found by names."""


class House:
    """A hub with two participants, each of whom has left something everywhere."""

    def __init__(self, directory: Path, pki: Pki, broker: Broker) -> None:
        self.broker = broker
        self.hub = Hub(directory / "hub", pki, broker)
        self.drop = directory / "drop"
        self.state = directory / "enrol"
        (self.drop / "refused").mkdir(parents=True)
        document = yaml.safe_load(self.hub.path.read_text())
        document["ingest"]["drop"] = str(self.drop)
        document["enrol"] = {"state": str(self.state)}
        self.hub.path.write_text(yaml.safe_dump(document))
        for number, participant in enumerate((LEAVING, STAYING), start=1):
            self.settle_in(participant, 10 * number)

    def settle_in(self, participant: str, source: int) -> None:
        """Register, issue, and lay files."""
        key = {"id": "k1", "sha256": sha256_hex(f"{participant}'s"), "created": "2026-01-01T00:00:00Z"}
        self.hub.register(
            participant,
            {"ns1": {"channels": [202], "source": source}, "ns2": {"channels": [202], "source": source + 1}},
            uploads={
                "legacy": {"channels": [203], "source": source + 2, "key_sha256": [sha256_hex(participant)]}
            },
        )
        path = self.hub.registry / f"{participant}.yml"
        document = yaml.safe_load(path.read_text()) | {"readers": {"soc": {"keys": [key]}}}
        path.write_text(yaml.safe_dump(document))
        tokens = TokenStore(self.state)
        for sensor in ("ns1", "ns2"):
            tokens.issue(participant, sensor, now=datetime.now(UTC), random=os.urandom)
        channel = self.drop / account_name(source) / "up" / "ch202"
        (channel / "made-by-its-owner").mkdir(parents=True)
        (channel / f"{STREAM}.{1:020}.{3:08}.nmsg.zst").write_bytes(b"waiting")
        (channel / ".hidden.part").write_bytes(b"half")
        (channel / "made-by-its-owner" / "link").symlink_to(self.hub.path)
        (self.drop / "refused" / f"1.{account_name(source)}.ch202.bad.nmsg").write_bytes(b"refused")

    async def deliver(self) -> None:
        """Let both have containers, positions, accounts and taken names in the streams."""
        async with self.broker.link("ingest") as link:
            for participant in (LEAVING, STAYING):
                for sensor in ("ns1", "ns2"):
                    source = Source(participant, sensor, STREAM)
                    for _ in range(3):
                        await link.publish(source.raw_subject(202), b"a container", {})
                    await link.publish(source.position_subject, b"3", {})
                    await link.publish(source.ledger_subject, b"{}", {})
                await link.publish(
                    Source(participant, "legacy", "files").taken_subject("a.nmsg"), b"a.nmsg", {}
                )

    def run(self, *words: str, participant: str = LEAVING) -> subprocess.CompletedProcess[str]:
        """`sie-hub offboard`, as the NATS user that is allowed to."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "sie_hub.cli", "offboard", participant, "--reason", REASON),
                *("--settle", "0", "--config", str(self.hub.path), *words),
            ],
            env={**os.environ, "CREDENTIALS_DIRECTORY": str(self.broker.credentials("offboard"))},
            capture_output=True,
            text=True,
            check=False,
        )

    def offboard(self, *words: str) -> dict[str, Any]:
        """The answer of a run that must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    async def left(self, participant: str) -> dict[str, int]:
        """What of a participant there still is, wherever it may be."""
        registered = read_participant(self.hub.registry / f"{participant}.yml")
        async with self.broker.administrator() as link:
            found = {
                stream: sum(
                    count
                    for subject, count in (await link.subjects(stream, ">")).items()
                    if participant in subject.split(".")
                )
                for stream in (RAW, POSITION, LEDGER, TAKEN)
            }
        accounts = accounts_of(registered)
        found["files"] = sum(
            any(account in str(path) for account in accounts)
            for path in self.drop.rglob("*")
            if not path.is_dir() or path.is_symlink()
        )
        found["tokens"] = sum(token.participant == participant for token in TokenStore(self.state).list())
        found["keys"] = sum(len(reader.keys) for reader in registered.readers.values())
        found["keys"] += sum(len(upload.key_sha256) for upload in registered.uploads.values())
        return found


EVERYTHING = {RAW: 6, POSITION: 2, LEDGER: 2, TAKEN: 1, "files": 4, "tokens": 2, "keys": 2}
PURGED = {
    "upload_keys": 1,
    "reader_keys": 1,
    "enrolment_tokens": 2,
    "renewal_records": 0,
    "raw_containers": 6,
    "stream_positions": 2,
    "ledger_entries": 2,
    "file_names": 1,
    "probes": 0,
    "dropped_files": 3,
    "refused_files": 1,
}


@pytest.fixture
async def house(tmp_path: Path, pki: Pki, broker: Broker) -> House:
    house = House(tmp_path, pki, broker)
    await house.deliver()
    return house


async def test_nothing_is_left_of_who_leaves_and_everything_of_who_stays(house: House) -> None:
    assert await house.left(LEAVING) == EVERYTHING
    answer = await asyncio.to_thread(house.offboard)
    record = answer["record"]
    assert answer["changed"]
    assert record["purged"] == PURGED
    assert (list(record["sensors"]), list(record["uploads"]), record["readers"]) == (
        ["ns1", "ns2"],
        ["legacy"],
        ["soc"],
    )
    assert record["accounts"] == [account_name(source) for source in (10, 11, 12)]
    assert record["agreement_ended"] == datetime.now(UTC).date().isoformat()
    assert not any((await house.left(LEAVING)).values())
    assert await house.left(STAYING) == EVERYTHING
    assert house.hub.path.exists()  # a link in the drop was removed, not what it points to


async def test_a_second_run_changes_nothing_and_says_the_same(house: House) -> None:
    first = await asyncio.to_thread(house.offboard)
    files = {path: path.read_bytes() for path in house.hub.registry.iterdir()}
    second = await asyncio.to_thread(house.offboard)
    assert second == {"changed": False, "record": first["record"]}
    assert {path: path.read_bytes() for path in house.hub.registry.iterdir()} == files


async def test_a_trial_says_what_would_be_done_and_does_nothing(house: House) -> None:
    files = {path: path.read_bytes() for path in house.hub.registry.iterdir()}
    answer = await asyncio.to_thread(house.offboard, "--check")
    assert (answer["changed"], answer["record"]["purged"]) == (True, PURGED)
    assert await house.left(LEAVING) == EVERYTHING
    assert {path: path.read_bytes() for path in house.hub.registry.iterdir()} == files


async def test_a_run_that_was_cut_short_is_taken_up_and_ends_with_the_same_record(house: House) -> None:
    house.broker.kill()
    shortened = await asyncio.to_thread(house.run, "--timeout", "1")
    assert shortened.returncode == 1
    assert "not ready within 1 s; everything else is done: run this again" in shortened.stderr
    house.broker.start()
    answer = await asyncio.to_thread(house.offboard)
    assert answer["record"]["purged"] == PURGED


async def test_what_arrives_after_the_purge_is_purged_by_the_next_run_and_added(house: House) -> None:
    await asyncio.to_thread(house.offboard)
    async with house.broker.link("ingest") as link:
        await link.publish(Source(LEAVING, "ns1", STREAM).raw_subject(202), b"a container", {})
    answer = await asyncio.to_thread(house.offboard)
    assert answer["changed"]
    assert answer["record"]["purged"] == PURGED | {"raw_containers": 7}


async def test_nobody_of_that_name_is_a_sentence(house: House) -> None:
    done = await asyncio.to_thread(house.run, participant="isp_z")
    assert done.returncode == 1
    assert "isp_z is not in" in done.stderr
    assert await house.left(LEAVING) == EVERYTHING


async def test_who_was_removed_from_the_registry_still_has_its_record(house: House) -> None:
    first = await asyncio.to_thread(house.offboard)
    assert RegistryEditor(house.hub.registry).remove_participant(LEAVING)
    again = await asyncio.to_thread(house.offboard)
    assert again == {"changed": False, "record": first["record"]}
    assert LEAVING not in Registry(house.hub.registry).participants


async def test_a_damaged_record_is_named(house: House) -> None:
    (house.hub.registry / f"{LEAVING}.offboarded.json").write_text("{}")
    done = await asyncio.to_thread(house.run)
    assert done.returncode == 1
    assert "this record of an offboarding is damaged: move it aside" in done.stderr
    assert await house.left(LEAVING) == EVERYTHING


async def test_the_ledger_forgets_what_was_purged(house: House) -> None:
    async with house.broker.link("ingest") as link:
        ledger = Ledger(link)
        await ledger.load()
        registry = Registry(house.hub.registry)
        everybody = {account.participant for account in await ledger.accounts(registry.participants)}
        assert everybody == {LEAVING, STAYING}
        await asyncio.to_thread(house.offboard)
        RegistryEditor(house.hub.registry).remove_participant(LEAVING)
        registry.reload()
        left = {account.participant for account in await ledger.accounts(registry.participants)}
        assert left == {STAYING}


async def test_no_other_user_may_purge(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sie_hub.nats_link.REQUEST_TIMEOUT", 0.3
    )  # nats-server does not answer what it denies
    for user in ("setup", "ingest", "refine", "serve"):
        async with house.broker.link(user) as link:
            with pytest.raises(Unavailable):
                await link.purge(RAW, f"raw.202.{LEAVING}.>")
    assert await house.left(LEAVING) == EVERYTHING
