"""hub_participant and hub_token against the real registry and tokens: twice the same, dry, and no secrets."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.ansible_module import SIE_HUB, run_module

Run = Callable[..., dict[str, Any]]
SIGNED = "2026-01-01"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """The configuration of a hub with an empty registry and no tokens."""
    (tmp_path / "participants").mkdir()
    (tmp_path / "enrol").mkdir()
    config = tmp_path / "hub.yml"
    settings = {"exchange": "lab.example", "registry": str(tmp_path / "participants")}
    config.write_text(yaml.safe_dump(settings | {"enrol": {"state": str(tmp_path / "enrol")}}))
    return config


@pytest.fixture
def participant(hub: Path) -> Run:
    """hub_participant for isp_a."""

    def run(*, check: bool = False, **arguments: Any) -> dict[str, Any]:
        told = {"name": "isp_a", "program": SIE_HUB, "config": str(hub), "signed": SIGNED}
        return run_module("hub_participant", told | arguments, check=check)

    return run


@pytest.fixture
def token(hub: Path) -> Run:
    """hub_token for isp_a."""

    def run(*, check: bool = False, **arguments: Any) -> dict[str, Any]:
        told = {"participant": "isp_a", "program": SIE_HUB, "config": str(hub)}
        return run_module("hub_token", told | arguments, check=check)

    return run


@pytest.fixture
def registered(hub: Path) -> None:
    """isp_a is in the registry, with two sensors."""
    sensors = {name: {"channels": [202], "source": number} for number, name in enumerate(("ns1", "ns2"), 1)}
    agreement = {"signed": SIGNED, "term_days": 365, "renews": True}
    document = {"participant": "isp_a", "agreement": agreement, "sensors": sensors}
    (hub.parent / "participants/isp_a.yml").write_text(yaml.safe_dump(document))


def written(hub: Path) -> dict[str, Any]:
    """The registry's file of isp_a."""
    document: dict[str, Any] = yaml.safe_load((hub.parent / "participants/isp_a.yml").read_text())
    return document


def everything(hub: Path) -> dict[str, bytes]:
    """Every file of the hub but those that commands lock."""
    return {
        str(path): path.read_bytes()
        for path in hub.parent.rglob("*")
        if path.is_file() and path.name.lstrip(".") != "lock"
    }


def test_a_participant_is_registered_once(participant: Run, hub: Path) -> None:
    digest = hashlib.sha256(b"made by the reader").hexdigest()
    wanted = {
        "term_days": 30,
        "sensors": [{"name": "ns1"}, {"name": "ns2", "channels": [203, 202]}],
        "readers": [{"name": "analyst", "sha256": digest}],
    }
    before = everything(hub)
    tried = participant(check=True, **wanted)
    assert everything(hub) == before

    done = participant(**wanted)

    assert tried["changed"]
    assert done["changed"]
    assert tried["diff"] == done["diff"]
    assert tried["participant"] == done["participant"]
    assert done["participant"]["sensors"]["ns2"] == {"channels": [202, 203], "revoked": None}
    assert done["participant"]["readers"] == {"analyst": ["k1"]}
    assert written(hub)["agreement"] == {"signed": SIGNED, "term_days": 30, "renews": True}
    assert written(hub)["readers"]["analyst"]["keys"][0]["sha256"] == digest
    assert digest not in json.dumps(done["diff"])
    again = participant(**wanted)
    assert not again["changed"]
    assert again["diff"]["before"] == again["diff"]["after"] == done["diff"]["after"]


def test_a_sensor_is_revoked_and_admitted_again(participant: Run, hub: Path) -> None:
    participant(sensors=[{"name": "ns1"}])
    source = written(hub)["sensors"]["ns1"]["source"]
    gone = {"name": "ns1", "state": "revoked", "reason": "sold; $HOME is not looked up"}
    assert participant(sensors=[gone], check=True)["changed"]
    assert "revoked" not in written(hub)["sensors"]["ns1"]
    done = participant(sensors=[gone])
    assert (done["changed"], done["participant"]["sensors"]["ns1"]["revoked"]) == (True, gone["reason"])
    assert written(hub)["sensors"]["ns1"]["revoked"]["reason"] == gone["reason"]
    assert not participant(sensors=[gone])["changed"]
    assert not participant(sensors=[{"name": "ns1"}])["changed"]  # what was revoked for a reason stays so
    assert participant(sensors=[{"name": "ns1", "state": "reinstated"}])["changed"]
    assert written(hub)["sensors"]["ns1"] == {"channels": [202], "source": source}


@pytest.mark.usefixtures("registered")
def test_a_participant_leaves_and_is_forgotten(participant: Run, token: Run, hub: Path) -> None:
    token(reader="analyst")
    end = {"state": "revoked", "reason": "letter of today"}
    before = everything(hub)
    tried = participant(check=True, **end)
    assert everything(hub) == before

    done = participant(**end)

    assert tried["diff"] == done["diff"]
    assert written(hub)["agreement"]["terminated"] == datetime.now(UTC).date().isoformat()
    assert {sensor["revoked"]["reason"] for sensor in written(hub)["sensors"].values()} == {"letter of today"}
    assert written(hub)["readers"] == {"analyst": {"keys": []}}
    assert not participant(**end)["changed"]
    gone = {"state": "absent", "reason": "letter of today"}
    assert participant(check=True, **gone)["participant"] is None
    assert (hub.parent / "participants/isp_a.yml").exists()
    assert participant(**gone)["changed"]
    assert not (hub.parent / "participants/isp_a.yml").exists()
    assert not participant(**gone)["changed"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"signed": "2026-13-01"}, "'2026-13-01' is no day"),
        ({"sensors": [{"name": "NS1"}]}, "1 to 32 of a-z, 0-9 and -"),
        ({"sensors": [{"name": "ns1", "state": "revoked"}]}, "missing: reason"),
        ({"sensors": [{"name": "ns9", "state": "revoked", "reason": "sold"}]}, "isp_a has no sensor ns9"),
        ({"readers": [{"name": "analyst"}]}, "missing: sha256"),
        ({"program": "/nowhere/sie-hub"}, "/nowhere/sie-hub cannot be run: No such file or directory"),
        ({"config": "/nowhere/hub.yml"}, "/nowhere/hub.yml"),
    ],
)
def test_a_mistake_is_one_sentence(participant: Run, arguments: dict[str, Any], sentence: str) -> None:
    result = participant(**arguments)
    assert result["failed"]
    assert sentence in result["msg"]
    assert "\n" not in result["msg"]


@pytest.mark.usefixtures("registered")
def test_a_token_is_shown_once(token: Run, hub: Path) -> None:
    before = everything(hub)
    tried = token(sensor="ns1", check=True)
    assert (tried["changed"], "secret" in tried) == (True, False)
    assert everything(hub) == before

    made = token(sensor="ns1", hours=2)

    assert made["changed"]
    assert made["secret"] not in json.dumps(made["diff"])
    assert made["diff"] == {"before": "", "after": f"{made['id']} new\n"}
    assert all(made["secret"].encode() not in content for content in everything(hub).values())
    again = token(sensor="ns1")
    assert (again["changed"], again["id"], "secret" in again) == (False, made["id"], False)
    assert token(sensor="ns2", check=True)["changed"]  # another sensor's token is not this one's


@pytest.mark.usefixtures("registered")
def test_a_token_is_issued_anew_or_only_once(token: Run) -> None:
    first = token(sensor="ns1")
    fresh = token(sensor="ns1", reissue=True)
    assert fresh["changed"]
    assert fresh["secret"] != first["secret"]
    assert fresh["diff"]["before"] == f"{first['id']} open\n"
    assert token(sensor="ns1", state="absent")["changed"]
    assert not token(sensor="ns1", state="absent")["changed"]
    assert not token(sensor="ns1", once=True)["changed"]
    assert token(sensor="ns1", check=True)["changed"]


@pytest.mark.usefixtures("registered")
def test_a_readers_key_is_shown_once_and_replaced(token: Run, hub: Path) -> None:
    assert token(reader="analyst", check=True)["changed"]
    made = token(reader="analyst")
    assert [key["sha256"] for key in written(hub)["readers"]["analyst"]["keys"]] == [
        hashlib.sha256(made["secret"].encode()).hexdigest()
    ]
    again = token(reader="analyst")
    assert (again["changed"], "secret" in again) == (False, False)
    fresh = token(reader="analyst", reissue=True)
    assert fresh["secret"] != made["secret"]
    assert len(written(hub)["readers"]["analyst"]["keys"]) == 1
    assert token(reader="analyst", state="absent")["changed"]
    assert not token(reader="analyst", state="absent")["changed"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sensor": "ns9"}, "no token for isp_a/ns9: it is not in the registry"),
        ({"sensor": "ns1", "hours": 9999}, "is no number of hours up to 2160"),
        ({"sensor": "ns1", "reader": "analyst"}, "mutually exclusive"),
        ({}, "one of the following is required: sensor, reader"),
    ],
)
@pytest.mark.usefixtures("registered")
def test_a_token_that_cannot_be(token: Run, arguments: dict[str, Any], sentence: str) -> None:
    result = token(**arguments)
    assert result["failed"]
    assert sentence in result["msg"]
