"""The drop, taken in: files laid into it by hand, a real nats-server, and ingest's own part of the work."""

import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sie_hub.ingest import drop, store
from sie_hub.ingest.drop import Waiting, whole
from sie_hub.ingest.ledger import Ledger
from sie_hub.ingest.metrics import DROP, Metrics
from sie_hub.ingest.quota import Quotas
from sie_hub.ingest.store import Fate, NamedWriter
from sie_hub.ingest.take_in import STREAMS_KEPT, TakeIn
from sie_hub.nats_link import Link
from sie_hub.registry import Registry, account_name
from sie_hub.streams import (
    HEADER_FILE,
    HEADER_PART,
    HEADER_SEQUENCE,
    HEADER_SOURCE,
    MAX_MESSAGE,
    POSITION,
    POSITION_SUBJECTS,
)

from .broker import Broker
from .conftest import Pki
from .hub import Hub

STREAM = 0x1122334455667788
NMSG = b"NMSG\x00\x02\x00\x00\x00\x03abc"


class Drop:
    """The drop's folders, and ingest's part that looks at them."""

    def __init__(self, directory: Path, hub: Hub, link: Link) -> None:
        self.directory = directory
        self.hub = hub
        self.registry = Registry(hub.registry)
        self.quota = 1 << 30
        self.metrics = CollectorRegistry()
        self.ledger = Ledger(link)
        self.link = link
        (directory / "refused").mkdir(parents=True)
        self.start()

    def start(self) -> None:
        """A unit that has just started: it knows nothing but what is on disk and in the streams."""
        self.metrics = CollectorRegistry()
        metrics = Metrics(self.metrics, self.link, self.registry)
        self.quotas = Quotas(1 << 30)
        self.take_in = TakeIn(
            self.directory, self.quota, self.registry, self.link, metrics, self.ledger, self.quotas
        )

    def channel(self, source: int = 7, channel: int = 202) -> Path:
        path = self.directory / account_name(source) / "up" / f"ch{channel}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def put(self, sequence: int, *, source: int = 7, channel: int = 202, octets: bytes | None = None) -> Path:
        """What a sensor does, but for the hidden name."""
        path = self.channel(source, channel) / f"{STREAM:016x}.{sequence:020}.{3:08}.nmsg.zst"
        path.write_bytes(drop.ZSTD_MAGIC + (octets or b"container %d" % sequence))
        return path

    def position(self, source: int = 7) -> dict[str, object]:
        document = json.loads((self.directory / account_name(source) / "up" / "position.json").read_text())
        return dict(document)

    @property
    def refused(self) -> list[str]:
        """The names under which refused files lie aside, without their times."""
        return sorted(path.name.split(".", 1)[1] for path in (self.directory / "refused").iterdir())

    @property
    def outcomes(self) -> dict[str, float]:
        values = {
            outcome: self.metrics.get_sample_value("sie_hub_ingest_drop_files_total", {"outcome": outcome})
            for outcome in DROP
        }
        return {outcome: value for outcome, value in values.items() if value}


@pytest.fixture
async def place(tmp_path: Path, pki: Pki, broker: Broker) -> AsyncIterator[Drop]:
    hub = Hub(tmp_path / "hub", pki, broker)
    hub.register(
        "isp_a",
        {"ns1": {"channels": [202], "source": 7}},
        uploads={"legacy": {"channels": [202, 203], "source": 9}},
    )
    async with broker.link("ingest") as link:
        yield Drop(tmp_path / "drop", hub, link)


def said(caplog: pytest.LogCaptureFixture) -> str:
    """The sentences that were logged."""
    return "\n".join(str(getattr(record, "fields", {}).get("text")) for record in caplog.records)


async def test_a_sensor_s_containers_are_taken_in_order_acknowledged_and_removed(
    place: Drop, broker: Broker
) -> None:
    paths = [place.put(sequence) for sequence in (3, 1, 2)]
    hidden = place.channel() / ".4.part"
    hidden.write_bytes(b"half")
    assert not await place.take_in.round()
    raw = await broker.raw()
    assert [message.number(HEADER_SEQUENCE) for message in raw] == [1, 2, 3]
    assert [message.data[4:] for message in raw] == [b"container 1", b"container 2", b"container 3"]
    assert {message.headers[HEADER_SOURCE] for message in raw} == {"7"}
    streams = await place.link.subjects(POSITION, POSITION_SUBJECTS)
    assert list(streams) == ["$KV.POSITION.isp_a.ns1.drop-1122334455667788"]
    assert not any(path.exists() for path in paths)
    assert hidden.exists()
    assert place.position() == {
        "stream": "1122334455667788",
        "position": 3,
        "digest": hashlib.sha256(drop.ZSTD_MAGIC + b"container 3").hexdigest(),
    }
    assert place.outcomes == {"stored": 3}


async def test_what_comes_again_is_a_duplicate_before_and_after_a_restart(
    place: Drop, broker: Broker
) -> None:
    place.put(1)
    await place.take_in.round()
    place.put(1)
    await place.take_in.round()
    assert place.outcomes == {"stored": 1, "duplicate": 1}
    place.start()
    again = place.put(1)
    place.put(2)
    await place.take_in.round()
    assert not again.exists()
    assert place.outcomes == {"stored": 1, "duplicate": 1}
    assert len(await broker.raw()) == 2


async def test_the_same_sequence_with_another_content_is_laid_aside(place: Drop, broker: Broker) -> None:
    place.put(1)
    await place.take_in.round()
    place.put(1, octets=b"another machine's")
    await place.take_in.round()
    assert place.outcomes == {"stored": 1, "conflict": 1}
    assert place.refused == [f"sie-00000007.ch202.1122334455667788.{1:020}.{3:08}.nmsg.zst"]
    assert len(await broker.raw()) == 1


async def test_a_file_of_others_is_taken_once_by_its_name(place: Drop, broker: Broker) -> None:
    path = place.channel(9, 203) / "ns.isp-a.example.20261101.0930.1793525400.000000001.nmsg"
    for _ in range(2):
        path.write_bytes(NMSG + NMSG)
        await place.take_in.round()
        assert not path.exists()
    place.start()
    path.write_bytes(NMSG)
    await place.take_in.round()
    (message,) = await broker.raw()
    assert (message.data, message.headers[HEADER_FILE]) == (NMSG + NMSG, path.name)
    assert place.outcomes == {"conflict": 1}
    upload, _ = await place.ledger.accounts(place.registry.participants)
    assert (upload.name, upload.state, upload.stored_containers) == ("legacy", "unacknowledged", 1)


async def test_a_crash_between_storing_and_remembering_stores_nothing_twice(
    place: Drop, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = NamedWriter(place.link, "isp_a", "legacy", 9)
    await writer._put("a.nmsg", "d" * 64, 203, [NMSG])  # and the name was never remembered
    assert await writer.store("a.nmsg", "d" * 64, 203, [NMSG]) is Fate.STORED
    assert await writer.store("a.nmsg", "d" * 64, 203, [NMSG]) is Fate.DUPLICATE
    assert await writer.store("a.nmsg", "e" * 64, 203, [NMSG]) is Fate.CONFLICT
    assert len(await broker.raw()) == 1


def container(size: int) -> bytes:
    """An NMSG container of so many octets, header included."""
    return (
        b"NMSG\x00\x02" + (size - drop.NMSG_HEADER).to_bytes(4, "big") + os.urandom(size - drop.NMSG_HEADER)
    )


async def test_a_large_file_becomes_several_messages_of_whole_containers(place: Drop, broker: Broker) -> None:
    containers = [container(size) for size in (3 << 20, 3 << 20, 3 << 20, MAX_MESSAGE, 100)]
    path = place.channel(9, 203) / "large.nmsg"
    for _ in range(2):
        path.write_bytes(b"".join(containers))
        await place.take_in.round()
        assert not path.exists()
    messages = await broker.raw()
    assert [message.data for message in messages] == [
        containers[0] + containers[1],
        containers[2],
        containers[3],
        containers[4],
    ]
    assert [message.number(HEADER_PART) for message in messages] == [1, 2, 3, 4]
    assert place.outcomes == {"stored": 1, "duplicate": 1}


@pytest.mark.parametrize("stored", [1, 2, 3])
async def test_a_crash_between_two_parts_stores_each_once(place: Drop, broker: Broker, stored: int) -> None:
    parts = [b"NMSG one", b"NMSG two", b"NMSG three"]
    writer = NamedWriter(place.link, "isp_a", "legacy", 9)
    await writer._put("a.nmsg", "d" * 64, 203, parts[:stored])  # and then there was no more time
    assert await writer.store("a.nmsg", "d" * 64, 203, parts) is Fate.STORED
    assert [message.data for message in await broker.raw()] == parts


async def test_a_container_that_fits_no_message_is_laid_aside_with_its_file(
    place: Drop, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    (place.channel(9, 203) / "large.nmsg").write_bytes(NMSG + container(MAX_MESSAGE + 1))
    await place.take_in.round()
    assert place.outcomes == {"size": 1}
    assert f"a container of {MAX_MESSAGE + 1} octets, over the limit of {MAX_MESSAGE}" in said(caplog)
    assert await broker.raw() == []


async def test_a_file_that_still_grows_waits_and_one_that_does_not_is_laid_aside(
    place: Drop, broker: Broker
) -> None:
    path = place.channel(9, 203) / "growing.nmsg"
    path.write_bytes(NMSG + NMSG[:-1])
    await place.take_in.round()
    assert path.exists()
    os.utime(path, (0, 0))
    await place.take_in.round()
    assert place.refused == ["sie-00000009.ch203.growing.nmsg"]
    assert place.outcomes == {"torn": 1}
    assert await broker.raw() == []


async def test_what_cannot_be_taken_is_laid_aside_with_its_reason_and_nothing_else_is_lost(
    place: Drop, broker: Broker, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Links out of the drop are not followed, pipes not waited for, and names are no paths."""
    secret = tmp_path / "secret"
    secret.write_bytes(NMSG)
    channel = place.channel()
    (channel / "link.nmsg").symlink_to(secret)
    os.mkfifo(channel / "pipe.nmsg")
    (channel / "directory.nmsg").mkdir()
    (channel / "no container.txt").write_bytes(b"x")
    os.truncate(os.open(channel / "large.nmsg", os.O_CREAT | os.O_WRONLY), drop.MAX_FILE + 1)
    (place.channel(7, 203) / "elsewhere.nmsg").write_bytes(NMSG)
    place.put(1)
    await place.take_in.round()
    assert place.outcomes == {"kind": 3, "name": 1, "size": 1, "channel": 1, "stored": 1}
    assert len(place.refused) == 6
    assert [message.number(HEADER_SEQUENCE) for message in await broker.raw()] == [1]
    assert secret.exists()
    assert "channel 203 is not registered for this account, only 202" in said(caplog)
    assert list(channel.iterdir()) == []


async def test_a_channel_s_folder_that_leads_elsewhere_is_not_entered(
    place: Drop, broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.nmsg").write_bytes(NMSG)
    place.channel().parent.joinpath("ch203").symlink_to(tmp_path / "elsewhere")
    place.channel(9, 203).joinpath("b.nmsg").write_bytes(NMSG)
    await place.take_in.round()
    assert [message.headers[HEADER_FILE] for message in await broker.raw()] == ["b.nmsg"]
    assert "look at its owner and mode" in said(caplog)


async def test_the_files_of_who_may_not_deliver_stay_where_they_are(place: Drop, broker: Broker) -> None:
    revoked = {"at": "2026-11-20T10:00:00Z", "reason": "key stolen"}
    place.hub.register("isp_a", {"ns1": {"channels": [202], "source": 7, "revoked": revoked}})
    place.registry.reload()
    path = place.put(1)
    await place.take_in.round()
    assert path.exists()
    assert await broker.raw() == []
    assert place.metrics.get_sample_value("sie_hub_ingest_drop_held_files") == 1
    place.hub.register("isp_a", {"ns1": {"channels": [202], "source": 7}})
    place.registry.reload()
    await place.take_in.round()
    assert len(await broker.raw()) == 1


async def test_what_a_sensor_says_of_itself_is_heard_behind_what_it_delivered(place: Drop) -> None:
    for sequence in range(1, drop.ROUND_FILES + 3):
        place.put(sequence)
    record = {"captured": 198, "acknowledged": 198, "pending": 0, "trimmed": 0}
    said = place.channel().parent / "accounts.json"
    said.write_text(json.dumps(record))
    assert await place.take_in.round()  # more is waiting, so it says too much yet
    _, sensor = await place.ledger.accounts(place.registry.participants)
    assert sensor.state == "never reported"
    assert not await place.take_in.round()
    _, sensor = await place.ledger.accounts(place.registry.participants)
    assert (sensor.state, sensor.stored, sensor.seen) == ("agrees", 198, 198)
    said.write_text("{")
    await place.take_in.round()
    _, sensor = await place.ledger.accounts(place.registry.participants)
    assert sensor.kept.reported == record


async def test_uploads_that_broke_off_long_ago_are_cleared_away(place: Drop) -> None:
    old, new = place.channel() / ".1.part", place.channel() / ".2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    place.start()
    await place.take_in.round()
    assert (old.exists(), new.exists()) == (False, True)
    assert place.outcomes == {"abandoned": 1}


async def test_an_account_may_have_so_much_waiting_and_no_more(
    place: Drop, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Of who may not deliver nothing is taken, so everything waits: what fits stays, from the first on."""
    revoked = {"at": "2026-11-20T10:00:00Z", "reason": "key stolen"}
    entry = {"channels": [202], "source": 7, "revoked": revoked}
    place.hub.register("isp_a", {"ns1": entry}, uploads={"legacy": {"channels": [202], "source": 9}})
    place.registry.reload()
    place.quota = 3000
    place.start()
    paths = [place.put(sequence, octets=bytes(1000)) for sequence in range(1, 5)]
    (place.channel() / ".5.part").write_bytes(bytes(1000))
    (place.channel() / ".hoard").mkdir()
    (place.channel() / ".hoard" / "file").write_bytes(bytes(1000))
    (place.channel().parent / "elsewhere").mkdir()
    await place.take_in.round()
    assert [path.exists() for path in paths] == [True, True, False, False]
    assert sorted(path.name for path in place.channel().iterdir()) == [path.name for path in paths[:2]]
    assert not (place.channel().parent / "elsewhere").exists()
    assert place.outcomes == {"quota": 5}
    assert place.refused == []
    told = (place.channel().parent / "refused.txt").read_text().splitlines()
    assert len(told) == 3
    assert "is not taken: more than the 3000 octets wait that an account may have here" in told[0]
    await place.take_in.round()
    assert place.outcomes == {"quota": 5}


async def test_beyond_the_quota_what_may_be_nowhere_else_is_laid_aside(place: Drop) -> None:
    place.quota = 100
    place.start()
    for number in range(3):
        (place.channel(9, 203) / f"{number}.nmsg").write_bytes(NMSG[:-1].ljust(60, b"x"))
    await place.take_in.round()  # torn ones wait, since they may still be growing
    assert place.refused == ["sie-00000009.ch203.1.nmsg", "sie-00000009.ch203.2.nmsg"]
    assert place.outcomes == {"quota": 2}


async def test_beyond_so_many_files_the_last_are_taken_away_whatever_their_size(
    place: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop, "MAX_ENTRIES", 3)
    monkeypatch.setattr(drop, "TRIMMED_FILES", 2)
    for name in ("1.nmsg", ".5", ".3", ".4", "2.nmsg"):
        (place.channel(9, 203) / name).touch()
    folder = drop.Folder(place.directory, account_name(9))
    assert [file.name for file in folder.excess(1 << 30)] == [".4", ".5"]


def nested(directory: Path, depth: int) -> None:
    """Folders within folders, the last with a file."""
    within = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a", dir_fd=within)
        inner = os.open("a", os.O_RDONLY, dir_fd=within)
        os.close(within)
        within = inner
    os.close(os.open("file", os.O_CREAT, dir_fd=within))
    os.close(within)


async def test_folders_of_any_depth_are_borne_and_taken_away(place: Drop, broker: Broker) -> None:
    """Deeper than Python recurses, and in the end than a path can be long."""
    for name in ("shown", ".hidden"):
        (place.channel() / name).mkdir()
        nested(place.channel() / name, 1200)
    place.put(1)
    await place.take_in.round()
    assert [message.number(HEADER_SEQUENCE) for message in await broker.raw()] == [1]
    assert list(place.channel().iterdir()) == []
    assert place.outcomes == {"kind": 1, "quota": 1, "stored": 1}
    # What lies aside is as deep still, and goes when the participant does.
    assert place.refused == ["sie-00000007.ch202.shown"]
    nested(place.channel(), 2100)
    assert drop.forget_account(place.directory, account_name(7), dry_run=False) == (2, 1)
    assert not (place.directory / account_name(7)).exists()
    assert place.refused == []


async def test_a_file_that_grows_after_it_was_listed_is_still_too_large(place: Drop) -> None:
    path = place.put(1)
    folder = drop.Folder(place.directory, account_name(7))
    (file,) = folder.waiting().files
    os.truncate(path, MAX_MESSAGE + 1)
    number = file.numbered
    assert number is not None
    sensor = place.registry.sensor("isp_a", "ns1")
    assert sensor is not None
    writer = await place.take_in._writer(sensor, number.stream)
    fault = await place.take_in._numbered(sensor, folder, writer, file, number)
    assert fault is not None
    assert fault.outcome == "size"


async def test_an_account_holds_little_in_memory_however_many_streams_it_names(place: Drop) -> None:
    for stream in range(STREAMS_KEPT + 3):
        name = f"{stream + 1:016x}.{1:020}.{3:08}.nmsg.zst"
        (place.channel() / name).write_bytes(drop.ZSTD_MAGIC + b"container")
    await place.take_in.round()
    assert place.outcomes == {"stored": STREAMS_KEPT + 3}
    assert len(place.take_in._writers) == STREAMS_KEPT


async def test_a_turn_has_so_many_octets_and_what_only_grows_is_not_asked_for_at_once(
    place: Drop, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop, "ROUND_OCTETS", 2 * len(NMSG))
    for number in range(5):
        (place.channel(9, 203) / f"{number}.nmsg").write_bytes(NMSG)
    assert await place.take_in.round()
    assert len(await broker.raw()) == 2
    assert await place.take_in.round()
    assert not await place.take_in.round()
    assert len(await broker.raw()) == 5
    for number in range(5):
        (place.channel(9, 203) / f"{number}.nmsg").write_bytes(NMSG[:-1])
    assert not await place.take_in.round(), "they are looked at again in a second"


async def test_files_beyond_what_a_source_may_deliver_wait(
    place: Drop, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    place.put(1)
    await place.take_in.round()
    place.quotas.spend(("isp_a", "ns1"), 2 * place.quotas.octets)
    path = place.put(2)
    other = place.channel(9, 203) / "other.nmsg"
    other.write_bytes(NMSG)
    await place.take_in.round()
    assert (path.exists(), other.exists()) == (True, False)
    assert len(await broker.raw()) == 2
    assert "isp_a/ns1 has delivered more than 1073741824 octets within a day" in said(caplog)
    assert place.metrics.get_sample_value("sie_hub_ingest_drop_held_files") == 1


async def test_files_of_more_streams_than_a_sensor_may_begin_wait(
    place: Drop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_STREAMS", 2)
    paths = [place.channel() / f"{stream:016x}.{1:020}.{3:08}.nmsg.zst" for stream in (1, 2, 3)]
    for path in paths:
        path.write_bytes(drop.ZSTD_MAGIC + b"container")
    await place.take_in.round()
    assert place.outcomes == {"stored": 2}
    assert paths[2].exists()
    assert "isp_a/ns1 has begun 2 streams within a day" in said(caplog)


async def test_whoever_sends_can_read_what_was_not_taken(place: Drop) -> None:
    for number in range(drop.MAX_SAID + 5):
        (place.channel() / f"{number:02}.txt").write_bytes(b"x")
    await place.take_in.round()
    told = (place.channel().parent / "refused.txt").read_text().splitlines()
    assert len(told) == drop.MAX_SAID
    assert "ch202/24.txt is not taken: its name is neither" in told[-1]


async def test_what_was_refused_is_told_without_following_where_its_reader_points(
    place: Drop, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("kept")
    (place.channel().parent / "refused.txt").symlink_to(secret)
    (place.channel() / "a.txt").write_bytes(b"x")
    await place.take_in.round()
    assert secret.read_text() == "kept"
    assert not (place.channel().parent / "refused.txt").is_symlink()


def test_refused_folders_are_bounded_by_what_is_in_them(place: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drop, "REFUSED_OCTETS", 20_000)
    folder = drop.Folder(place.directory, account_name(7))
    for number in range(4):
        (place.channel() / f"{number}").mkdir()
        (place.channel() / f"{number}" / "file").write_bytes(bytes(5_000))
        folder.refuse(Waiting(202, f"{number}", 4096, 0.0, False))
    assert place.refused == ["sie-00000007.ch202.2", "sie-00000007.ch202.3"]


def test_refused_files_are_bounded(place: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drop, "REFUSED_FILES", 3)
    folder = drop.Folder(place.directory, account_name(7))
    for number in range(5):
        (place.channel() / f"{number}.txt").write_bytes(b"x")
        folder.refuse(Waiting(202, f"{number}.txt", 1, 0.0, True))
    assert place.refused == [f"sie-00000007.ch202.{number}.txt" for number in (2, 3, 4)]


@pytest.mark.parametrize(
    ("data", "compressed", "is_whole"),
    [
        (NMSG, False, True),
        (NMSG * 3, False, True),
        (NMSG[:-1], False, False),
        (NMSG + b"x", False, False),
        (b"", False, False),
        (b"NMSG\x00\x02\xff\xff\xff\xff", False, False),
        (drop.ZSTD_MAGIC + b"x", True, True),
        (NMSG, True, False),
        (b"", True, False),
    ],
)
def test_whole_containers_are_told_from_torn_ones(data: bytes, compressed: bool, is_whole: bool) -> None:
    assert whole(data, compressed=compressed) is is_whole
