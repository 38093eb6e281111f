"""The registry as the units read it: what a file may say, and what happens when files change under them."""

import asyncio
import os
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from sie_core.settings import ConfigError
from sie_hub.registry import LAST_GOOD_MAX, Agreement, Registry, read_participant, sha256_hex

FILE = """
participant: isp_a
agreement: {{signed: "2026-11-01", term_days: 365, renews: true}}
sensors:
  ns1: {{channels: [202], source: 305419896, revoked: {revoked}}}
uploads:
  legacy1: {{channels: [203], source: 7, key_sha256: ["{upload}"]}}
readers:
  analyst: {{keys: [{{id: k1, sha256: "{reader}", created: "2026-11-01T09:30:00Z"}}]}}
"""


def write(directory: Path, revoked: str = "null") -> Path:
    path = directory / "isp_a.yml"
    text = FILE.format(revoked=revoked, upload=sha256_hex("upload key"), reader=sha256_hex("reader key"))
    replacement = directory / ".new"
    replacement.write_text(text)
    replacement.replace(path)
    return path


def test_everything_in_a_file_is_found(tmp_path: Path) -> None:
    write(tmp_path)
    registry = Registry(tmp_path)
    sensor = registry.sensor("isp_a", "ns1")
    upload = registry.upload_by_key("upload key")
    reader = registry.reader_by_key("reader key")
    assert sensor is not None
    assert upload is not None
    assert reader is not None
    assert (set(sensor.channels), sensor.source, sensor.revoked) == ({202}, 305419896, None)
    assert (upload.participant, upload.name, set(upload.channels)) == ("isp_a", "legacy1", {203})
    assert (reader.participant, reader.name, reader.keys[0].id) == ("isp_a", "analyst", "k1")
    assert registry.participants["isp_a"].channels == {202, 203}


@pytest.mark.parametrize("key", ["", "other", sha256_hex("reader key")])
def test_other_keys_open_nothing(tmp_path: Path, key: str) -> None:
    write(tmp_path)
    registry = Registry(tmp_path)
    assert registry.reader_by_key(key) is None
    assert registry.upload_by_key(key) is None


def test_a_change_takes_effect_and_is_counted(tmp_path: Path) -> None:
    write(tmp_path)
    registry = Registry(tmp_path)
    generation = registry.generation
    assert registry.reload() is False
    write(tmp_path, revoked='{at: "2026-11-20T10:00:00+01:00", reason: "laptop lost"}')
    assert registry.reload() is True
    assert registry.generation == generation + 1
    sensor = registry.sensor("isp_a", "ns1")
    assert sensor is not None
    assert sensor.revoked is not None
    assert sensor.revoked.at == datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
    assert sensor.revoked.reason == "laptop lost"


def test_a_file_that_goes_takes_its_participant_along(tmp_path: Path) -> None:
    path = write(tmp_path)
    registry = Registry(tmp_path)
    path.unlink()
    assert registry.reload() is True
    assert registry.participants == {}
    assert registry.reader_by_key("reader key") is None


def test_a_broken_file_keeps_its_last_good_version_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path)
    registry = Registry(tmp_path)
    path.write_text("participant: isp_a\nagrement: {}\n")
    assert registry.reload() is False
    assert registry.reload() is False
    assert registry.sensor("isp_a", "ns1") is not None
    assert registry.broken == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert f'{path}: agrement: unknown key (did you mean "agreement"?)' in line
    assert "its last good version stays in force" in line
    write(tmp_path)
    registry.reload()
    assert registry.broken == 0


def test_the_last_good_version_of_a_broken_file_is_in_force_for_a_bounded_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    path = write(tmp_path)
    registry = Registry(tmp_path, clock=lambda: now)
    assert registry.unread_seconds == 0
    for mistake in ("sensors: [", "sensors: {"):  # a second one does not begin anew
        path.write_text(mistake)
        assert registry.reload() is False
        now += LAST_GOOD_MAX / 2
    assert (registry.broken, registry.unread_seconds) == (1, LAST_GOOD_MAX)
    assert registry.reload() is False
    assert registry.reader_by_key("reader key") is not None
    now += 1
    assert registry.reload() is True
    assert registry.reader_by_key("reader key") is None
    assert registry.sensor("isp_a", "ns1") is None
    assert registry.reload() is False
    assert sum("nothing of it is in force any more" in line for line in caplog.messages) == 1
    write(tmp_path)
    assert registry.reload() is True
    assert (registry.broken, registry.unread_seconds) == (0, 0)
    assert registry.sensor("isp_a", "ns1") is not None


def test_a_registry_that_cannot_be_listed_is_in_force_for_a_bounded_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    directory = tmp_path / "participants"
    directory.mkdir()
    write(directory)
    registry = Registry(directory, clock=lambda: now)
    directory.rename(tmp_path / "elsewhere")
    assert registry.reload() is False
    now += LAST_GOOD_MAX + 1
    assert registry.unread_seconds == LAST_GOOD_MAX + 1
    assert registry.reload() is True
    assert registry.reload() is False
    assert registry.participants == {}
    assert sum("nothing of the registry is in force" in line for line in caplog.messages) == 1
    (tmp_path / "elsewhere").rename(directory)
    assert registry.reload() is True
    assert registry.unread_seconds == 0


def test_a_broken_file_takes_nothing_from_the_others(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "uni_b.yml").write_text(": : :")
    registry = Registry(tmp_path)
    assert list(registry.participants) == ["isp_a"]
    assert registry.broken == 1


def test_a_registry_that_cannot_be_listed_stays_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "participants"
    directory.mkdir()
    write(directory)
    registry = Registry(directory)
    directory.rename(tmp_path / "elsewhere")
    assert registry.reload() is False
    assert registry.reload() is False
    assert registry.sensor("isp_a", "ns1") is not None
    assert [r.getMessage() for r in caplog.records] == [
        f"{directory}: the registry cannot be read (No such file or directory); its last state stays in force"
    ]


def test_an_editor_s_leftovers_are_no_participants(tmp_path: Path) -> None:
    write(tmp_path)
    for name in (".isp_a.yml.swp", ".uni_b.yml", "isp_a.yml~", "README"):
        (tmp_path / name).write_text("nothing")
    registry = Registry(tmp_path)
    assert list(registry.participants) == ["isp_a"]
    assert registry.broken == 0


async def test_watching_tells_of_every_change(tmp_path: Path) -> None:
    write(tmp_path)
    registry = Registry(tmp_path)
    changed = asyncio.Event()
    watching = asyncio.create_task(registry.watch(changed.set, interval=0.01))
    write(tmp_path, revoked='{at: "2026-11-20T10:00:00Z"}')
    async with asyncio.timeout(5):
        await changed.wait()
    watching.cancel()
    sensor = registry.sensor("isp_a", "ns1")
    assert sensor is not None
    assert sensor.revoked is not None
    assert sensor.revoked.reason == "no reason given"


def test_a_rewrite_of_the_same_length_within_the_same_tick_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path)
    registry = Registry(tmp_path)
    times = path.stat()
    write(tmp_path, revoked="none".replace("none", "null"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_ino != times.st_ino
    assert registry.reload() is False  # read again, because it is another file, and found to be the same


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("participant: other", "stands in a file that is named for 'isp_a'"),
        ("participant: ISP", "participant: "),
        ("agreement: {signed: 2026-13-01, term_days: 1}", "is not YAML"),
        ('agreement: {signed: "2026-02-30", term_days: 1}', "is no day of the calendar"),
        ("sensors: [ns1]", "sensors: "),
        ("sensors: {NS1: {channels: [1], source: 1}}", '"NS1" does not fit'),
        ("sensors: {ns1: {channels: [0], source: 1}}", "sensors.ns1.channels[0]: 0 is too small"),
        (
            "sensors: {ns1: {channels: [1], source: 1, revoked_serials: [XY]}}",
            "sensors.ns1.revoked_serials[0]",
        ),
        (
            'sensors: {ns1: {channels: [1], source: 1, revoked: {at: "2026-01-01T00:00:00"}}}',
            "names no time zone",
        ),
        (
            "readers: {a: {keys: [{id: k, sha256: 12, created: 2026-01-01T00:00:00Z}]}}",
            "readers.a.keys[0].sha256",
        ),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "isp_a.yml"
    key = text.partition(":")[0]
    lines = {
        "participant": "participant: isp_a",
        "agreement": "agreement: {signed: 2026-11-01, term_days: 365}",
    }
    path.write_text("\n".join([line for name, line in lines.items() if name != key] + [text]))
    with pytest.raises(ConfigError) as caught:
        read_participant(path)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("agreement", "today", "refusal"),
    [
        (Agreement(date(2026, 11, 1), 365, True, None), date(2026, 11, 1), None),
        (Agreement(date(2026, 11, 1), 365, True, None), date(2030, 1, 1), None),
        (Agreement(date(2026, 11, 1), 365, False, None), date(2027, 10, 31), None),
        (Agreement(date(2026, 11, 1), 365, False, None), date(2027, 11, 1), "ended on 2027-11-01"),
        (Agreement(date(2026, 11, 1), 365, True, None), date(2026, 10, 31), "from 2026-11-01 only"),
        (Agreement(date(2026, 11, 1), 365, True, date(2027, 1, 1)), date(2026, 12, 31), None),
        (Agreement(date(2026, 11, 1), 365, True, date(2027, 1, 1)), date(2027, 1, 1), "as of 2027-01-01"),
    ],
)
def test_an_agreement_is_in_force_from_signature_to_end(
    agreement: Agreement, today: date, refusal: str | None
) -> None:
    found = agreement.refusal(today)
    assert (found is None) == (refusal is None)
    assert refusal is None or refusal in str(found)
