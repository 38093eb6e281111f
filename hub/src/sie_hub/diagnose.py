"""`sie-hub diagnose`: which link of the hub is broken, and what to do, on one page.

Everything is looked at from outside, on this host: the units, the disks, the certificates, and the counters
that each program shows on loopback. What was collected (`Seen`) is then judged by pure functions, one for
each link, in the order in which data flows. The page holds numbers and the names of participants and sensors.
"""

import argparse
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from sie_core.diagnosis import Diagnosis, Failure, Finding, broken, ok, unknown
from sie_core.settings import Config, ConfigError, ListenAddress
from sie_hub import failures
from sie_hub.cli import EXIT_CODES, EXIT_OK, add_config_argument
from sie_hub.config import load_config
from sie_hub.enrol.authority import AuthorityError
from sie_hub.enrol.due import own_certificates, own_files
from sie_hub.registry import Registry

EXIT_BROKEN: Final = 3
"""A link is broken."""

PROGRAMS: Final = ("enrol", "ingest", "refine", "serve")
TIMEOUT: Final = 5.0  # seconds for an answer on loopback
MOVING_SECONDS: Final = 6.0  # between two looks at positions: refine's window is five
LEAST_FREE: Final = 256 << 20  # octets: what a thousand sensors bring in a minute, before compression
SILENT_SECONDS: Final = 3600.0

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Seen:
    """What was collected. A unit's state is systemd's ActiveState; None where there is no systemd to ask.

    `before` and `after` are each program's samples at two times; a program that does not answer is not there.
    """

    programs: tuple[str, ...] = PROGRAMS
    """Those that are to run here."""
    units: dict[str, str | None] = field(default_factory=dict)
    nats: str | None = None
    """Why nats-server does not answer; None if it does."""
    free: dict[str, int | None] = field(default_factory=dict)
    certificates: dict[str, float] = field(default_factory=dict)
    """Days left, by what each is for."""
    certificate_fault: str | None = None
    before: dict[str, Samples] = field(default_factory=dict)
    after: dict[str, Samples] = field(default_factory=dict)
    sensors: tuple[str, ...] = ()
    """Sensors that may send, as PARTICIPANT/SENSOR."""
    at: float = 0.0


def collect(config: Config, seconds: float = MOVING_SECONDS) -> Seen:
    """Look at everything, over so many seconds."""
    seen = Seen(at=time.time())
    probe = [] if config["probe.zone"] is None else ["sie-hub-probe"]
    seen.programs = tuple(name for name in PROGRAMS if name != "enrol" or not config["ca.elsewhere"])
    for unit in ("nats-server", *(f"sie-hub-{program}" for program in seen.programs), *probe):
        seen.units[unit] = _unit_state(unit)
    seen.nats = _nats(config["nats.url"])
    seen.free = {
        "streams": _free(config["nats.store"]),
        "store": _free(config["serve.store"]),
    }
    now = datetime.now(UTC)
    try:
        for ending in own_certificates(own_files(config)):
            seen.certificates[ending.whose] = (ending.at - now).total_seconds() / 86400
    except AuthorityError as error:
        seen.certificate_fault = str(error)
    seen.sensors = tuple(_may_send(config["registry"], now))
    seen.before = _samples(config)
    if seconds and any(_waiting(seen.before, program) for program in ("refine", "serve")):
        time.sleep(seconds)
    seen.after = _samples(config)
    return seen


def _unit_state(unit: str) -> str | None:
    try:
        said = subprocess.run(
            ["systemctl", "show", "--property=ActiveState", "--value", f"{unit}.service"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() or None


def _nats(url: str) -> str | None:
    place = urlsplit(url)
    try:
        with socket.create_connection((place.hostname or "127.0.0.1", place.port or 4222), TIMEOUT) as link:
            link.settimeout(TIMEOUT)
            return None if link.recv(5) == b"INFO " else f"{place.netloc}: what answers is no nats-server"
    except OSError as error:
        return f"{place.netloc}: {error.strerror or type(error).__name__}"


def _free(directory: Path) -> int | None:
    place = next((place for place in (directory, *directory.parents) if place.exists()), Path("/"))
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def _may_send(directory: Path, now: datetime) -> Iterator[str]:
    for participant in Registry(directory).participants.values():
        if participant.agreement.refusal(now.date()) is None:
            for sensor in participant.sensors.values():
                if sensor.revoked is None:
                    yield f"{participant.name}/{sensor.name}"


def _samples(config: Config) -> dict[str, Samples]:
    found: dict[str, Samples] = {}
    for program in PROGRAMS:
        text = _metrics(config[f"{program}.metrics"])
        if text is not None:
            found[program] = {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
    return found


def _metrics(address: ListenAddress) -> str | None:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        return answer.read().decode() if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


# ------------ judging --------------------------------------------------------------------------------------

_POSITION: Final = {"refine": "sie_hub_refine_raw_position", "serve": "sie_hub_serve_sie_position"}
_PENDING: Final = {"refine": "sie_hub_refine_raw_pending", "serve": "sie_hub_serve_sie_pending"}


def judge(seen: Seen) -> Iterator[Finding]:
    """A finding for each link, in the order in which data flows."""
    yield _nats_server(seen)
    for program in seen.programs:
        yield _program(seen, program)
    if "sie-hub-probe" in seen.units:
        yield _unit(seen, "sie-hub-probe")
    yield _disk(seen, "streams", failures.STREAMS_DISK_FULL)
    yield _disk(seen, "store", failures.STORE_DISK_FULL)
    yield _certificates(seen)
    yield _registry(seen)
    yield _ingest(seen)
    yield _moving(seen, "refine", failures.REFINE_BEHIND)
    yield _moving(seen, "serve", failures.SERVE_BEHIND)
    yield _participants(seen)


def _nats_server(seen: Seen) -> Finding:
    state = seen.units.get("nats-server") or "unknown"
    if seen.nats is not None:
        return broken("nats-server", failures.NATS_DOWN, f"unit {state}; {seen.nats}")
    return ok("nats-server", f"unit {state}, answers")


def _program(seen: Seen, program: str) -> Finding:
    unit = f"sie-hub-{program}"
    state = seen.units.get(unit) or "unknown"
    if program in seen.after:
        return ok(unit, f"unit {state}, shows its counters")
    return broken(unit, failures.UNIT_STOPPED, f"unit {unit} {state}, does not answer /metrics")


def _unit(seen: Seen, unit: str) -> Finding:
    state = seen.units.get(unit)
    if state is None:
        return unknown(unit, "there is no systemd to ask")
    if state != "active":
        return broken(unit, failures.UNIT_STOPPED, f"unit {unit} {state}")
    return ok(unit, "unit active")


def _disk(seen: Seen, which: str, failure: Failure) -> Finding:
    free = seen.free.get(which)
    check = f"disk of {which}"
    if free is None:
        return unknown(check, "its size cannot be read")
    evidence = f"{free >> 20} MiB free, {LEAST_FREE >> 20} needed"
    return broken(check, failure, evidence) if free < LEAST_FREE else ok(check, evidence)


def _certificates(seen: Seen) -> Finding:
    if seen.certificate_fault is not None:
        return broken("certificates", failures.HUB_CERTIFICATE_ENDED, seen.certificate_fault)
    evidence = ", ".join(f"{name} {days:.0f} days left" for name, days in seen.certificates.items())
    if any(days <= 0 for days in seen.certificates.values()):
        return broken("certificates", failures.HUB_CERTIFICATE_ENDED, evidence)
    return ok("certificates", evidence)


def _registry(seen: Seen) -> Finding:
    files = _value(seen.after, "ingest", "sie_hub_registry_broken_files")
    if files is None:
        return unknown("registry", "ingest does not run")
    evidence = f"{files:.0f} files cannot be read, {len(seen.sensors)} sensors may send"
    return broken("registry", failures.REGISTRY_BROKEN, evidence) if files else ok("registry", evidence)


def _ingest(seen: Seen) -> Finding:
    connected = _value(seen.after, "ingest", "sie_hub_nats_connected")
    if connected is None:
        return unknown("ingest", "it does not run")
    sessions = sum(_all(seen.after, "ingest", "sie_hub_ingest_sessions"))
    evidence = f"{sessions:.0f} sessions open, nats-server {'connected' if connected else 'not connected'}"
    return ok("ingest", evidence) if connected else broken("ingest", failures.INGEST_CUT_OFF, evidence)


def _waiting(samples: Mapping[str, Samples], program: str) -> float:
    return _value(samples, program, _PENDING[program]) or 0.0


def _moving(seen: Seen, program: str, failure: Failure) -> Finding:
    positions = [_value(samples, program, _POSITION[program]) for samples in (seen.before, seen.after)]
    if positions[0] is None or positions[1] is None:
        return unknown(program, "it does not run")
    moved = positions[1] - positions[0]
    waiting = _waiting(seen.after, program)
    connected = _value(seen.after, program, "sie_hub_nats_connected")
    evidence = f"{waiting:.0f} wait, {moved:.0f} done meanwhile, at {positions[1]:.0f}"
    if connected == 0:
        evidence += ", nats-server not connected"
    stuck = waiting and _waiting(seen.before, program) and moved <= 0
    return broken(program, failure, evidence) if stuck else ok(program, evidence)


def _participants(seen: Seen) -> Finding:
    check = "participants"
    if "ingest" not in seen.after:
        return unknown(check, "ingest does not run")
    name = "sie_hub_ingest_sensor_stored_at_seconds"
    last = {
        f"{dict(labels)['participant']}/{dict(labels)['sensor']}": value
        for (sample, labels), value in seen.after["ingest"].items()
        if sample == name
    }
    # What a sensor delivered before ingest was started is not in its counters.
    began = _value(seen.after, "ingest", "process_start_time_seconds") or seen.at
    silent = [one for one in seen.sensors if seen.at - last.get(one, began) > SILENT_SECONDS]
    evidence = f"{len(silent)} of {len(seen.sensors)} sensors silent for an hour"
    if silent:
        return broken(check, failures.PARTICIPANT_SILENT, f"{evidence}: {', '.join(silent)}")
    return ok(check, evidence)


def _all(samples: Mapping[str, Samples], program: str, name: str) -> list[float]:
    return [value for (sample, _labels), value in samples.get(program, {}).items() if sample == name]


def _value(samples: Mapping[str, Samples], program: str, name: str) -> float | None:
    return next(iter(_all(samples, program, name)), None)


# ------------ the command ----------------------------------------------------------------------------------


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sie-hub diagnose`."""
    add_config_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a page")
    parser.epilog = f"{EXIT_CODES}; {EXIT_BROKEN} a link is broken"
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    try:
        config = load_config(arguments.config)
    except ConfigError as error:
        evidence = f"{arguments.config}: {len(error.problems)} mistakes"
        findings = [broken("configuration", failures.HUB_CONFIG_INVALID, evidence)]
        return _show(Diagnosis("hub", now, findings), as_json=arguments.json)
    findings = [ok("configuration", "no mistakes"), *judge(collect(config))]
    return _show(Diagnosis(f"hub of {config['exchange']}", now, findings), as_json=arguments.json)


def _show(diagnosis: Diagnosis, *, as_json: bool) -> int:
    print(json.dumps(diagnosis.as_document()) if as_json else diagnosis.as_text())
    return EXIT_OK if diagnosis.first is None else EXIT_BROKEN
