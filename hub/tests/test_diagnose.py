"""`sie-hub diagnose`: each broken link is found and named first, from real programs where that can be had."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sie_core.diagnosis import Failure, State
from sie_hub import diagnose, failures
from sie_hub.cli import EXIT_OK, main
from sie_hub.diagnose import EXIT_BROKEN, PROGRAMS, Seen, collect, judge

from .broker import Broker
from .conftest import Pki
from .hub import Hub

NAMES = {
    "sie_hub_registry_broken_files": 0.0,
    "sie_hub_nats_connected": 1.0,
    "sie_hub_ingest_sessions": 2.0,
    "sie_hub_refine_raw_position": 10.0,
    "sie_hub_refine_raw_pending": 0.0,
    "sie_hub_serve_sie_position": 5.0,
    "sie_hub_serve_sie_pending": 0.0,
}


def samples(**more: float) -> dict[Any, float]:
    """What a program shows; a name without labels stands for the only sample of its metric."""
    return {(name, frozenset()): value for name, value in {**NAMES, **more}.items()}


@pytest.fixture
def well() -> Seen:
    """A hub at which nothing is wrong."""
    now = time.time()
    stored = (
        "sie_hub_ingest_sensor_stored_at_seconds",
        frozenset({("participant", "isp_a"), ("sensor", "ns1")}),
    )
    shown = {program: samples() for program in PROGRAMS}
    shown["ingest"] = {**samples(process_start_time_seconds=now - 9000), stored: now - 60}
    return Seen(
        units={
            "nats-server": "active",
            **{f"sie-hub-{p}": "active" for p in PROGRAMS},
            "sie-hub-probe": "active",
        },
        free={"streams": 1 << 40, "store": 1 << 40},
        certificates={"ca": 900.0, "ingest": 90.0},
        before=dict(shown),
        after=dict(shown),
        sensors=("isp_a/ns1",),
        at=now,
    )


def shown(seen: Seen, program: str, **more: float) -> dict[str, Any]:
    after: dict[str, Any] = {**seen.after, program: {**seen.after[program], **samples(**more)}}
    return {"after": after}


def stuck(seen: Seen, program: str, name: str) -> dict[str, Any]:
    waiting = {**seen.after[program], **samples(**{name: 40.0})}
    return {"before": {**seen.before, program: waiting}, "after": {**seen.after, program: waiting}}


BREAKS: tuple[tuple[Failure, Callable[[Seen], dict[str, Any]]], ...] = (
    (failures.NATS_DOWN, lambda _s: {"nats": "127.0.0.1:4222: Connection refused"}),
    (failures.UNIT_STOPPED, lambda s: {"after": {p: v for p, v in s.after.items() if p != "refine"}}),
    (failures.UNIT_STOPPED, lambda s: {"units": {**s.units, "sie-hub-probe": "failed"}}),
    (failures.STREAMS_DISK_FULL, lambda _s: {"free": {"streams": 1 << 20, "store": 1 << 40}}),
    (failures.STORE_DISK_FULL, lambda _s: {"free": {"streams": 1 << 40, "store": 1 << 20}}),
    (failures.HUB_CERTIFICATE_ENDED, lambda _s: {"certificates": {"ca": 10.0, "serve": -1.0}}),
    (failures.HUB_CERTIFICATE_ENDED, lambda _s: {"certificate_fault": "ca.pem: no certificate"}),
    (failures.REGISTRY_BROKEN, lambda s: shown(s, "ingest", sie_hub_registry_broken_files=1.0)),
    (failures.INGEST_CUT_OFF, lambda s: shown(s, "ingest", sie_hub_nats_connected=0.0)),
    (failures.REFINE_BEHIND, lambda s: stuck(s, "refine", "sie_hub_refine_raw_pending")),
    (failures.SERVE_BEHIND, lambda s: stuck(s, "serve", "sie_hub_serve_sie_pending")),
    (failures.PARTICIPANT_SILENT, lambda s: {"sensors": (*s.sensors, "uni_b/span1")}),
)


def test_a_hub_that_is_well_has_no_broken_link(well: Seen) -> None:
    findings = list(judge(well))
    assert {finding.state for finding in findings} == {State.OK}
    assert [finding.check for finding in findings][:6] == [
        *(
            "nats-server",
            "sie-hub-enrol",
            "sie-hub-ingest",
            "sie-hub-refine",
            "sie-hub-serve",
            "sie-hub-probe",
        ),
    ]


def test_a_hub_whose_ca_key_is_elsewhere_misses_no_enrol(well: Seen) -> None:
    programs = tuple(name for name in PROGRAMS if name != "enrol")
    findings = list(
        judge(replace(well, programs=programs, after={name: well.after[name] for name in programs}))
    )
    assert {finding.state for finding in findings} == {State.OK}
    assert "sie-hub-enrol" not in [finding.check for finding in findings]


@pytest.mark.parametrize(
    ("failure", "change"), BREAKS, ids=[f"{f.slug}-{n}" for n, (f, _) in enumerate(BREAKS)]
)
def test_each_broken_link_is_the_first_that_is_named(
    well: Seen, failure: Failure, change: Callable[[Seen], dict[str, Any]]
) -> None:
    findings = judge(replace(well, **change(well)))
    first = next(finding for finding in findings if finding.state is State.BROKEN)
    assert first.failure is failure


def test_every_failure_can_be_found() -> None:
    assert {failure for failure, _ in BREAKS} | {failures.HUB_CONFIG_INVALID} == set(
        failures.FAILURES.values()
    )


def test_a_backlog_that_moves_is_no_broken_link(well: Seen) -> None:
    before = {**well.before, "refine": samples(sie_hub_refine_raw_pending=900.0)}
    after = samples(sie_hub_refine_raw_pending=500.0, sie_hub_refine_raw_position=410.0)
    [finding] = [
        one
        for one in judge(replace(well, before=before, after={**well.after, "refine": after}))
        if one.check == "refine"
    ]
    assert (finding.state, finding.evidence) == (State.OK, "500 wait, 400 done meanwhile, at 410")


async def test_real_programs_are_looked_at(
    broker: Broker, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub(pki.directory.parent / "hub", pki, broker)
    document = yaml.safe_load(hub.path.read_text())
    own = {"certificate": document["ingest"]["certificate"], "key": document["ingest"]["key"]}
    document |= {"enrol": {**own, "metrics": "127.0.0.1:1"}, "serve": {**own, "metrics": "127.0.0.1:2"}}
    hub.path.write_text(yaml.safe_dump(document))
    hub.start("ingest")
    try:
        async with asyncio.timeout(20):
            while "ready" not in hub.log("ingest"):  # noqa: ASYNC110  # another process's log
                await asyncio.sleep(0.05)
        seen = await asyncio.to_thread(collect, hub.config())
        assert seen.nats is None
        assert set(seen.after) == {"ingest"}
        assert set(seen.certificates) == {"ca", "enrol", "ingest", "serve"}
        assert seen.sensors == ("isp_a/ns1",)
        findings = {finding.check: finding for finding in judge(seen)}
        assert findings["ingest"].evidence == "0 sessions open, nats-server connected"
        assert findings["sie-hub-refine"].failure is failures.UNIT_STOPPED
        assert findings["participants"].state is State.OK
        broker.kill()
        assert main(["diagnose", "--config", str(hub.path), "--json"]) == EXIT_BROKEN
        said = json.loads(capsys.readouterr().out)
        assert said["broken"]["failure"] == "nats-down"
        broker.start()
    finally:
        hub.stop_all()


def test_a_configuration_with_mistakes_is_the_broken_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hub.yml"
    file.write_text("exchange: lab.example\nsecret: planted-secret\n")
    assert main(["diagnose", "--config", str(file)]) == EXIT_BROKEN
    page = capsys.readouterr().out
    assert "hub-config-invalid" in page
    assert "planted-secret" not in page


def test_exit_code_0_is_for_a_hub_without_a_broken_link(
    well: Seen, pki: Pki, broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnose, "collect", lambda _config: well)
    hub = Hub(pki.directory.parent / "hub", pki, broker)
    assert main(["diagnose", "--config", str(hub.path)]) == EXIT_OK
    assert "No broken link was found" in capsys.readouterr().out
