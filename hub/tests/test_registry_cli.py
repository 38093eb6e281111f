"""`sie-hub registry` as playbooks use it: idempotent, with a dry run, secrets shown once."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from sie_hub.registry import Registry, sha256_hex
from sie_hub.registry_edit import RegistryEditor

FINGERPRINT = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"

Run = Callable[..., dict[str, Any]]
AGREEMENT = ("--signed", "2026-11-01", "--term-days", "365")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    participants = tmp_path / "participants"
    participants.mkdir()
    (tmp_path / "hub.yml").write_text(
        yaml.safe_dump({"exchange": "lab.example", "registry": str(participants)})
    )
    return participants


def run_raw(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "sie_hub.cli",
            "registry",
            *words,
            "--config",
            str(directory.parent / "hub.yml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def run(directory: Path) -> Run:
    def run(*words: str) -> dict[str, Any]:
        done = run_raw(directory, *words)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


@pytest.fixture
def isp_a(run: Run) -> Run:
    run("participant", "set", "isp_a", *AGREEMENT)
    return run


def test_a_participant_is_made_once(run: Run, directory: Path) -> None:
    assert run("participant", "set", "isp_a", *AGREEMENT, "--check")["changed"]
    assert list(directory.iterdir()) == []
    assert run("participant", "set", "isp_a", *AGREEMENT)["changed"]
    assert not run("participant", "set", "isp_a", *AGREEMENT)["changed"]
    assert run("participant", "set", "isp_a", *AGREEMENT, "--terminated", "2027-01-31")["changed"]
    assert (directory / "isp_a.yml").stat().st_mode & 0o777 == 0o640


def test_a_participant_is_removed_only_without_an_agreement_and_its_source_ids_stay_given(
    isp_a: Run, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = isp_a("sensor", "set", "isp_a", "ns1", "--channel", "202")["source"]
    refused = run_raw(directory, "participant", "remove", "isp_a")
    assert refused.returncode == 1
    assert "isp_a has an agreement in force: end it first" in refused.stderr

    isp_a("participant", "set", "isp_a", "--signed", "2020-01-01", "--term-days", "1", "--no-renews")
    assert isp_a("participant", "remove", "isp_a", "--check")["changed"]
    assert (directory / "isp_a.yml").exists()
    assert isp_a("participant", "remove", "isp_a")["changed"]
    assert not isp_a("participant", "remove", "isp_a")["changed"]
    assert list(directory.glob("*.yml")) == []

    editor = RegistryEditor(directory)
    editor.set_participant("isp_b", signed=date(2026, 1, 1), term_days=365, renews=True, terminated=None)
    draws = iter([source - 1, 16])  # the id of the participant that left, then another
    monkeypatch.setattr("sie_hub.registry_edit.secrets.randbelow", lambda _limit: next(draws))
    assert editor.set_source("isp_b", "sensors", "ns1", [202])[1]["source"] == 17


def test_a_sensor_keeps_its_source_id_and_no_two_share_one(isp_a: Run, directory: Path) -> None:
    first = isp_a("sensor", "set", "isp_a", "ns1", "--channel", "202")
    again = isp_a("sensor", "set", "isp_a", "ns1", "--channel", "202")
    more = isp_a("sensor", "set", "isp_a", "ns1", "--channel", "203", "--channel", "202")
    other = isp_a("sensor", "set", "isp_a", "ns2", "--channel", "202")
    assert (first["changed"], again["changed"], more["changed"]) == (True, False, True)
    assert first["source"] == again["source"] == more["source"] != other["source"]
    sensor = Registry(directory).sensor("isp_a", "ns1")
    assert sensor is not None
    assert (set(sensor.channels), sensor.source) == ({202, 203}, first["source"])


def test_revocation_keeps_its_first_time_and_reason_until_it_is_undone(isp_a: Run, directory: Path) -> None:
    isp_a("sensor", "set", "isp_a", "ns1", "--channel", "202")
    first = isp_a(
        "sensor", "revoke", "isp_a", "ns1", "--reason", 'lost: "laptop"\nline two'.replace("\n", " ")
    )
    again = isp_a("sensor", "revoke", "isp_a", "ns1", "--reason", "another reason")
    assert (first["changed"], again["changed"]) == (True, False)
    assert again["revoked"] == first["revoked"]
    assert not isp_a("sensor", "set", "isp_a", "ns1", "--channel", "202")["changed"]
    sensor = Registry(directory).sensor("isp_a", "ns1")
    assert sensor is not None
    assert sensor.revoked is not None
    assert sensor.revoked.reason == 'lost: "laptop" line two'
    assert isp_a("sensor", "reinstate", "isp_a", "ns1")["changed"]
    assert not isp_a("sensor", "reinstate", "isp_a", "ns1")["changed"]


def test_one_certificate_can_be_taken_back_alone(isp_a: Run, directory: Path) -> None:
    isp_a("sensor", "set", "isp_a", "ns1", "--channel", "202")
    revoke = ("sensor", "revoke", "isp_a", "ns1", "--reason", "key stolen", "--serial", "3f")
    assert isp_a(*revoke)["changed"]
    assert not isp_a(*revoke)["changed"]
    sensor = Registry(directory).sensor("isp_a", "ns1")
    assert sensor is not None
    assert (sensor.revoked, set(sensor.revoked_serials)) == (None, {"3f"})


def test_all_that_was_issued_until_now_can_be_taken_back(isp_a: Run, directory: Path) -> None:
    isp_a("sensor", "set", "isp_a", "ns1", "--channel", "202")
    done = isp_a("sensor", "revoke", "isp_a", "ns1", "--reason", "disk lost", "--all")
    sensor = Registry(directory).sensor("isp_a", "ns1")
    assert sensor is not None
    assert sensor.revoked_before is not None
    assert (sensor.revoked, sensor.revoked_before) == (None, datetime.fromisoformat(done["revoked_before"]))
    assert sensor.is_taken_back(sensor.revoked_before)
    assert not sensor.is_taken_back(sensor.revoked_before + timedelta(seconds=1))


def test_one_key_can_be_taken_back_alone(isp_a: Run, directory: Path) -> None:
    isp_a("sensor", "set", "isp_a", "ns1", "--channel", "202")
    revoke = ("sensor", "revoke", "isp_a", "ns1", "--reason", "key stolen", "--key", FINGERPRINT)
    assert isp_a(*revoke)["revoked_keys"] == [FINGERPRINT]
    assert not isp_a(*revoke)["changed"]
    sensor = Registry(directory).sensor("isp_a", "ns1")
    assert sensor is not None
    assert (sensor.revoked, set(sensor.revoked_serials), set(sensor.revoked_keys)) == (
        None,
        set(),
        {FINGERPRINT},
    )


def test_a_reader_s_key_is_shown_once_and_kept_as_a_hash(isp_a: Run, directory: Path) -> None:
    made = isp_a("reader", "key", "add", "isp_a", "analyst")
    assert isp_a("reader", "key", "add", "isp_a", "analyst") == {"changed": False, "id": "k1"}
    assert made["key"] not in (directory / "isp_a.yml").read_text()
    reader = Registry(directory).reader_by_key(made["key"])
    assert reader is not None
    assert (reader.participant, reader.name) == ("isp_a", "analyst")
    assert isp_a("reader", "key", "remove", "isp_a", "analyst", "--id", "k1")["changed"]
    assert Registry(directory).reader_by_key(made["key"]) is None


def test_two_keys_are_valid_at_a_time_and_no_third(isp_a: Run, directory: Path) -> None:
    keys = [isp_a("reader", "key", "add", "isp_a", "analyst", "--id", name)["key"] for name in ("old", "new")]
    registry = Registry(directory)
    assert all(registry.reader_by_key(key) is not None for key in keys)
    third = run_raw(directory, "reader", "key", "add", "isp_a", "analyst", "--id", "third")
    assert (third.returncode, third.stdout) == (1, "")
    assert third.stderr == "isp_a/analyst has 2 keys (old, new): remove one first\n"


def test_a_key_made_elsewhere_comes_as_its_hash_alone(isp_a: Run, directory: Path) -> None:
    digest = sha256_hex("made on the controller")
    added = isp_a("reader", "key", "add", "isp_a", "analyst", "--id", "vault", "--sha256", digest)
    assert added == {"changed": True, "id": "vault"}
    assert not isp_a("reader", "key", "add", "isp_a", "analyst", "--id", "vault", "--sha256", digest)[
        "changed"
    ]
    assert Registry(directory).reader_by_key("made on the controller") is not None
    clash = run_raw(
        directory, "reader", "key", "add", "isp_a", "analyst", "--id", "vault", "--sha256", "0" * 64
    )
    assert clash.returncode == 1
    assert "has another key vault" in clash.stderr


def test_an_upload_s_keys(isp_a: Run, directory: Path) -> None:
    isp_a("upload", "set", "isp_a", "legacy", "--channel", "203")
    key = isp_a("upload", "key", "add", "isp_a", "legacy")["key"]
    upload = Registry(directory).upload_by_key(key)
    assert upload is not None
    assert upload.channels == {203}
    remove = ("upload", "key", "remove", "isp_a", "legacy", "--sha256", sha256_hex(key))
    assert (isp_a(*remove)["changed"], isp_a(*remove)["changed"]) == (True, False)


def test_a_dry_run_of_a_whole_onboarding_works_on_an_empty_registry(run: Run, directory: Path) -> None:
    assert run("participant", "set", "isp_a", *AGREEMENT, "--check")["changed"]
    assert run("sensor", "set", "isp_a", "ns1", "--channel", "202", "--check")["changed"]
    assert run("reader", "key", "add", "isp_a", "analyst", "--check") == {"changed": True, "id": "k1"}
    assert list(directory.iterdir()) == []


def test_show_tells_everything_but_the_hashes_of_readers_keys(isp_a: Run) -> None:
    source = isp_a("sensor", "set", "isp_a", "ns1", "--channel", "202")["source"]
    isp_a("reader", "key", "add", "isp_a", "analyst")
    shown = isp_a("show", "--json")["participants"]["isp_a"]
    assert shown["agreement"]["in_force"] is True
    assert shown["sensors"] == {
        "ns1": {
            "channels": [202],
            "source": source,
            "account": f"sie-{source:08x}",
            "revoked": None,
            "revoked_serials": [],
            "revoked_keys": [],
            "revoked_before": None,
        }
    }
    assert [set(key) for key in shown["readers"]["analyst"]["keys"]] == [{"id", "created"}]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("sensor", "set", "uni_b", "ns1", "--channel", "1"), 1, "uni_b is not in"),
        (("sensor", "revoke", "isp_a", "ns9", "--reason", "x"), 1, "isp_a has no sensor ns9"),
        (
            ("sensor", "revoke", "isp_a", "ns1", "--reason", "x", "--key", "SHA256:short"),
            2,
            "a key's fingerprint",
        ),
        (("sensor", "set", "isp_a", "NS1", "--channel", "1"), 2, "allowed: 1 to 32 of a-z, 0-9 and -"),
        (("sensor", "set", "isp_a", "ns1", "--channel", "65536"), 2, "not a whole number from 1 to 65535"),
        (("participant", "set", "../x", *AGREEMENT), 2, "allowed: 1 to 32 of a-z, 0-9 and _"),
        (("sensor", "revoke", "isp_a", "ns1", "--reason", "x" * 201), 2, "sensors.ns1.revoked.reason"),
    ],
)
def test_mistakes_end_with_one_sentence(
    isp_a: Run, directory: Path, words: tuple[str, ...], code: int, sentence: str
) -> None:
    isp_a("sensor", "set", "isp_a", "ns1", "--channel", "202")
    before = (directory / "isp_a.yml").read_bytes()
    done = run_raw(directory, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert (directory / "isp_a.yml").read_bytes() == before


def test_a_file_that_somebody_broke_is_not_written_over(isp_a: Run, directory: Path) -> None:
    (directory / "isp_a.yml").write_text("participant: isp_a\nsensor: {}\n")
    done = run_raw(directory, "sensor", "set", "isp_a", "ns1", "--channel", "202")
    assert done.returncode == 2
    assert 'sensor: unknown key (did you mean "sensors"?)' in done.stderr
    assert (directory / "isp_a.yml").read_text() == "participant: isp_a\nsensor: {}\n"
