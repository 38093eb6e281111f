"""`sie-agent diagnose`: which link from capture to hub is broken, and what to do, on one page.

What is looked at is collected first (`Seen`), then judged by pure functions, one for each link, in the order
in which data flows. The page holds numbers, what is configured and the hub's own words; no key, and no name
that was looked up.
"""

import argparse
import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sie_agent import failures
from sie_agent.anchors import Anchors
from sie_agent.cli import EXIT_BROKEN, EXIT_OK, add_config_argument
from sie_agent.config import AgentConfig, load_config
from sie_agent.discovery import resolver_addresses
from sie_agent.errors import AgentError
from sie_agent.hub_door import Answer, DoorClosed, ask, seconds_ahead
from sie_agent.identity_files import IdentityFiles, Standing
from sie_agent.lookup import NoAnswer, look_up
from sie_agent.probe import document_of, resolver_of
from sie_agent.sight import Sight, look
from sie_agent.stages import outcomes
from sie_agent.status import current
from sie_core.diagnosis import Diagnosis, Failure, Finding, broken, ok, unknown
from sie_core.identity import Identity
from sie_core.kinds import ConfigError

LOOK_SECONDS: Final = 5.0
"""How long the interfaces are watched: a resolver that gets an answer at all gets it in two."""

LOOK_UPS: Final = 4
"""Look-ups that are made meanwhile: a datagram may be lost, four are not."""

CLOCK_SECONDS: Final = 60.0
"""How far this clock may be from the hub's."""

LEAST_FREE: Final = 16 << 20
"""Octets that the spool's file system must have: 32 containers of 512 KiB, a minute of a busy server."""

WORST_DROPS: Final = 0.01
"""The part of packets that the kernel may drop."""

RENEWAL_SECONDS: Final = 3 * 86400.0
"""A certificate that ends sooner should have been renewed a week ago."""

ACKNOWLEDGEMENT_SECONDS: Final = 8.0
"""How long the hub gets to acknowledge what was seen: a container is sealed after one, by default."""

REFINE_SECONDS: Final = 20.0
"""How long the hub gets to refine a look-up: four of its windows."""


@dataclass
class Seen:
    """What was collected. None where it could not be; then the `why` of the same name says so."""

    status: Mapping[str, Any] | None = None
    status_after: Mapping[str, Any] | None = None
    resolvers: int = 0
    sight: Sight | None = None
    looked_up: int = 0
    """Names that were looked up while the interfaces were watched."""
    look_up_failure: str | None = None
    standing: Standing | None = None
    free: int | None = None
    answer: Answer | None = None
    ahead: float | None = None
    """Seconds by which this clock is ahead of the hub's."""
    closed: DoorClosed | None = None
    received: bool | None = None
    why: dict[str, str] = field(default_factory=dict)


def collect(config: AgentConfig, *, resolver: str | None, nonce: str | None, seconds: float) -> Seen:
    """Look at everything, in `seconds` and what the hub's answers take."""
    seen = Seen()
    try:
        seen.status = current(config)
    except AgentError as error:
        seen.why["status"] = str(error)
    wanted = Identity(config.exchange, config.participant, config.sensor)
    seen.standing = IdentityFiles(config.identity_directory).standing(
        wanted, Anchors(config.ca, config.identity_directory).file(), datetime.now(UTC)
    )
    seen.free = _free(config.spool_directory)
    probe = nonce or secrets.token_hex(16)
    if nonce is not None:
        # Another host looks it up, perhaps at once.
        seen.looked_up = 1
        _look(config, seen, "", None, None, seconds)
    if config.hubs:
        seen.ahead = seconds_ahead(config.hubs[0])
        try:
            seen.answer = ask(config, config.hubs[0], "/probe")
        except DoorClosed as closed:
            seen.closed = closed
    zone = None if seen.answer is None else document_of(seen.answer).get("zone")
    if nonce is None:
        _look(config, seen, resolver or resolver_of(config), zone, probe, seconds)
    try:
        _await_acknowledgement(config, seen)
    except AgentError as error:
        seen.why["status"] = str(error)
    if isinstance(zone, str) and seen.looked_up and _may_arrive(seen) and _acknowledged(seen):
        seen.received = _received(config, probe, REFINE_SECONDS)
    return seen


def _look(
    config: AgentConfig, seen: Seen, resolver: str, zone: object, probe: str | None, seconds: float
) -> None:
    """Watch the interfaces while names are looked up, of the probe zone where the hub has one."""

    def meanwhile() -> None:
        for number in range(LOOK_UPS):
            label = probe if number == 0 else secrets.token_hex(16)
            try:
                look_up(f"{label}.{zone}", resolver)
            except NoAnswer as failure:
                seen.look_up_failure = str(failure)
                return
            seen.looked_up += 1

    interfaces = [source.interface for source in config.interfaces]
    may_look_up = isinstance(zone, str) and probe is not None
    try:
        listed = resolver_addresses(config.resolvers)
        seen.resolvers = len(listed)
        if interfaces:
            seen.sight = look(interfaces, listed, seconds, meanwhile if may_look_up else lambda: None)
        elif may_look_up:
            meanwhile()
    except (OSError, AgentError) as error:
        seen.why["sight"] = error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _await_acknowledgement(config: AgentConfig, seen: Seen) -> None:
    """See how the agent is once the hub has had time to acknowledge what was seen. Raises SpoolError."""
    deadline = time.monotonic() + ACKNOWLEDGEMENT_SECONDS
    seen.status_after = current(config)
    while _may_arrive(seen) and not _acknowledged(seen) and time.monotonic() < deadline:
        time.sleep(0.25)
        seen.status_after = current(config)


def _acknowledged(seen: Seen) -> bool:
    """Whether the hub has acknowledged anything meanwhile."""
    if seen.status is None or seen.status_after is None:
        return False
    return bool(seen.status_after["acknowledged"] > seen.status["acknowledged"])


def _may_arrive(seen: Seen) -> bool:
    """Whether the look-up has been seen and is on its way, so that it is worth waiting for."""
    status = seen.status_after
    if status is None or not status["running"] or status["uplink"]["state"] != "connected":
        return False
    return seen.sight is None or seen.sight.both


def _received(config: AgentConfig, nonce: str, seconds: float) -> bool | None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            status = ask(config, config.hubs[0], f"/probe/{nonce}").status
        except DoorClosed:
            return None
        if status == 200 or time.monotonic() >= deadline:
            return status == 200
        time.sleep(1.0)


def _free(directory: Path) -> int | None:
    existing = next((place for place in (directory, *directory.parents) if place.exists()), Path("/"))
    try:
        return shutil.disk_usage(existing).free
    except OSError:
        return None


# ------------ judging --------------------------------------------------------------------------------------


def judge(config: AgentConfig, seen: Seen) -> Iterator[Finding]:
    """A finding for each link, in the order in which data flows."""
    yield _service(seen)
    yield _clock(config, seen)
    if config.interfaces:
        yield _interfaces(seen)
        yield _sight(seen)
    if config.dnstap:
        yield _dnstap(seen)
    yield _drops(seen)
    yield _recorded(seen)
    yield _spool(seen)
    yield _certificate(config, seen)
    if config.hubs:
        yield _egress(config, seen)
        yield _tls(seen)
        yield _hub(seen)
    yield _acknowledgements(seen)
    yield _conflicts(seen)
    if config.hubs:
        yield _refined(seen)


def _service(seen: Seen) -> Finding:
    if seen.status is None:
        return broken("service", failures.SPOOL_UNUSABLE, seen.why.get("status", "no status"))
    if not seen.status["running"]:
        return broken("service", failures.AGENT_STOPPED, "nothing answers /status")
    return ok("service", "running")


def _running(seen: Seen) -> Mapping[str, Any] | None:
    return seen.status if seen.status is not None and seen.status["running"] else None


def _clock(config: AgentConfig, seen: Seen) -> Finding:
    if not config.hubs:
        return unknown("clock", "a drop over SSH does not tell the hub's time")
    if seen.ahead is None:
        return unknown("clock", "the hub, which would tell its time, was not heard")
    evidence = f"{abs(seen.ahead):.0f} s {'ahead of' if seen.ahead >= 0 else 'behind'} the hub's"
    if abs(seen.ahead) > CLOCK_SECONDS:
        return broken("clock", failures.CLOCK_WRONG, evidence)
    return ok("clock", evidence)


def _interfaces(seen: Seen) -> Finding:
    status = _running(seen)
    if status is None:
        return unknown("interface", "the agent does not run")
    down = [source for source in status["sources"] if not source["up"]]
    if down:
        said = "; ".join(f"{source['interface']}: {source['last_error'] or 'down'}" for source in down)
        return broken("interface", failures.INTERFACE_DOWN, said)
    return ok(
        "interface", f"{len(status['sources'])} up: {', '.join(s['interface'] for s in status['sources'])}"
    )


def _sight(seen: Seen) -> Finding:
    check = "both directions"
    if seen.sight is None:
        return unknown(check, f"the interface could not be watched: {seen.why.get('sight', 'no interface')}")
    sight = seen.sight
    evidence = (
        f"{sight.questions} questions of {seen.resolvers} listed resolvers, {sight.answers} answers to them, "
        f"{sight.others} other packets of port 53, {sight.frames} frames in all; {_looked(seen)}"
    )
    if sight.both:
        return ok(check, evidence)
    if sight.questions or sight.answers:
        return broken(check, failures.ONE_DIRECTION, evidence)
    if sight.others:
        return broken(check, failures.RESOLVER_MISMATCH, evidence)
    if seen.looked_up:
        return broken(check, failures.MIRROR_SILENT, evidence)
    return unknown(check, f"{evidence}: look names up at the resolver meanwhile")


def _looked(seen: Seen) -> str:
    if seen.look_up_failure is not None and not seen.looked_up:
        return f"no look-up was answered ({seen.look_up_failure})"
    return f"{seen.looked_up} look-ups made meanwhile"


def _dnstap(seen: Seen) -> Finding:
    status = _running(seen)
    if status is None or status.get("dnstap") is None:
        return unknown("dnstap", "the agent does not run")
    connections = status["dnstap"]["connections"]
    resolvers = sum(bool(connection["resolver"]) for connection in connections)
    evidence = f"{len(connections)} connected, {resolvers} of which a resolver"
    if status["dnstap"]["last_refusal"]:
        evidence += f"; last refusal: {status['dnstap']['last_refusal']}"
    return ok("dnstap", evidence) if resolvers else broken("dnstap", failures.DNSTAP_SILENT, evidence)


def _drops(seen: Seen) -> Finding:
    status = _running(seen)
    if status is None:
        return unknown("kernel", "the agent does not run")
    packets = status["counters"].get("packets_seen", 0)
    drops = status["kernel_drops"]
    evidence = f"{drops} packets dropped, {packets} seen"
    if drops > WORST_DROPS * (packets + drops):
        return broken("kernel", failures.KERNEL_DROPS, evidence)
    return ok("kernel", evidence)


_BY_REASON: Final[Mapping[str, Failure]] = {
    "rd": failures.FILTERED_RD,
    "local_zone": failures.FILTERED_LOCAL,
    "qname_regex": failures.FILTERED_LOCAL,
    "scope": failures.FILTERED_SCOPE,
}


def _recorded(seen: Seen) -> Finding:
    check = "recorded"
    status = seen.status_after if seen.status_after is not None else seen.status
    if status is None or not status["running"]:
        return unknown(check, "the agent does not run")
    counters = status["counters"]
    recorded, messages = counters.get("messages_recorded", 0), counters.get("messages_seen", 0)
    filtered = sorted(
        (
            (count, outcome.reason)
            for outcome, count in outcomes(counters, "messages")
            if outcome.outcome in ("filtered", "rejected") and count
        ),
        reverse=True,
    )
    reasons = ", ".join(f"{reason} {count}" for count, reason in filtered) or "none"
    evidence = f"{recorded} of {messages} messages since the start (kept out: {reasons})"
    if recorded:
        return ok(check, evidence)
    if not filtered:
        return unknown(check, evidence)
    return broken(check, _BY_REASON.get(filtered[0][1], failures.FILTERED_OTHER), evidence)


def _spool(seen: Seen) -> Finding:
    status = seen.status_after if seen.status_after is not None else seen.status
    if status is None:
        return broken("spool", failures.SPOOL_UNUSABLE, seen.why.get("status", "no status"))
    lost, trimmed = status["lost"], status["trimmed_by"]
    free = "unknown" if seen.free is None else f"{seen.free >> 20} MiB"
    evidence = (
        f"{status['pending']} transactions in {status['pending_octets']} octets wait, {free} free, "
        f"{lost['disk']} lost for the disk, {trimmed['full']} trimmed for room"
    )
    if (seen.free is not None and seen.free < LEAST_FREE) or lost["disk"]:
        return broken("spool", failures.DISK_FULL, evidence)
    if trimmed["full"] and status["pending"]:
        return broken("spool", failures.SPOOL_TRIMMED, evidence)
    return ok("spool", evidence)


def _certificate(config: AgentConfig, seen: Seen) -> Finding:
    check = "certificate"
    if config.drop is not None:
        return ok(check, "none is needed: this sensor has an SSH key")
    standing = seen.standing
    if standing is None:
        return unknown(check, "not looked at")
    if standing.state == "none":
        return broken(check, failures.CERTIFICATE_NONE, f"none in {config.identity_directory}")
    if standing.state in ("expired", "not_yet_valid"):
        return broken(check, failures.CERTIFICATE_EXPIRED, standing.text or standing.state)
    if standing.peer is None:
        return broken(check, failures.CERTIFICATE_WRONG, standing.text or standing.state)
    left = (standing.peer.not_after - datetime.now(UTC)).total_seconds()
    renewal = (seen.status or {}).get("identity") or {}
    evidence = f"serial {standing.peer.serial}, {left / 86400:.1f} days left"
    if left < RENEWAL_SECONDS and renewal.get("last_error"):
        return broken(check, failures.RENEWAL_FAILING, f"{evidence}; {renewal['last_error']}")
    return ok(check, evidence)


def _egress(config: AgentConfig, seen: Seen) -> Finding:
    place = urlsplit(config.hubs[0]).netloc
    closed = seen.closed
    if closed is None or closed.step in ("tls", "answer"):
        return ok("egress", f"connected to {place}")
    if closed.step == "identity":
        return unknown("egress", "without a certificate it is not tried")
    failure = failures.HUB_NAME if closed.step == "name" else failures.HUB_UNREACHABLE
    return broken("egress", failure, f"{place}: {closed}")


def _tls(seen: Seen) -> Finding:
    closed = seen.closed
    if closed is not None and closed.step == "tls":
        return broken("tls", failures.TLS_FAILED, str(closed))
    if closed is not None and closed.step != "answer":
        return unknown("tls", "no connection")
    return ok("tls", "TLS 1.3, both sides proven")


_BY_WORDS: Final[tuple[tuple[str, Failure], ...]] = (
    ("revoked", failures.HUB_REVOKED),
    ("may not send", failures.HUB_AGREEMENT),
    ("is not in the registry", failures.HUB_UNREGISTERED),
)
"""How the hub's sentences are told apart; a test of the hub's own sentences holds them together."""


def _hub(seen: Seen) -> Finding:
    answer = seen.answer
    if answer is None:
        if seen.closed is not None and seen.closed.step == "answer":
            return broken("hub", failures.HUB_STRANGE, str(seen.closed))
        return unknown("hub", "not heard")
    said = f"HTTP {answer.status}"
    if answer.status in (200, 404):
        zone = document_of(answer)
        known = "zone" in zone or "error" in zone
        return (
            ok("hub", f"{said}, it knows this sensor") if known else broken("hub", failures.HUB_STRANGE, said)
        )
    if answer.status in (401, 403):
        words = answer.sentence
        failure = next((f for word, f in _BY_WORDS if word in words), failures.HUB_REFUSES)
        return broken("hub", failure, f"{said}: {words}")
    return broken("hub", failures.HUB_STRANGE, f"{said}: {answer.sentence}")


def _acknowledgements(seen: Seen) -> Finding:
    check = "acknowledgements"
    before, after = seen.status, seen.status_after
    if before is None or after is None or not after["running"]:
        return unknown(check, "the agent does not run")
    uplink = after["uplink"]
    moved = after["acknowledged"] - before["acknowledged"]
    evidence = (
        f"{after['acknowledged']} acknowledged, {moved} of them just now, {after['pending']} pending; "
        f"uplink {uplink['state'].replace('_', ' ')}"
    )
    if uplink["last_error"]:
        evidence += f": {uplink['last_error']}"
    if moved > 0 or (uplink["state"] == "connected" and not after["pending"]):
        return ok(check, evidence)
    return broken(check, failures.NOT_ACKNOWLEDGED, evidence)


def _conflicts(seen: Seen) -> Finding:
    status = _running(seen)
    if status is None:
        return unknown("stream", "the agent does not run")
    conflicts = status["uplink"]["stream_conflicts"]
    evidence = f"{conflicts} conflicts since the start"
    return broken("stream", failures.STREAM_CONFLICT, evidence) if conflicts else ok("stream", evidence)


def _refined(seen: Seen) -> Finding:
    if seen.received is None:
        return unknown("received", "no look-up could be made in the hub's probe zone")
    if not seen.received:
        return broken("received", failures.PROBE_MISSING, f"not within {REFINE_SECONDS:g} s")
    return ok("received", "the hub has refined a look-up made just now")


# ------------ the command ----------------------------------------------------------------------------------


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diagnose`."""
    add_config_argument(parser)
    parser.add_argument(
        "--resolver",
        metavar="ADDRESS",
        help="the resolver to look names up at (default: the first configured)",
    )
    parser.add_argument(
        "--nonce",
        metavar="DIGITS",
        help="look nothing up: another host looks up this nonce, 32 hexadecimal digits, meanwhile",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=LOOK_SECONDS,
        metavar="N",
        help=f"how long to watch the interfaces (default: {LOOK_SECONDS:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a page")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        config = load_config(arguments.config)
    except ConfigError as error:
        evidence = f"{arguments.config}: {len(error.problems)} mistakes"
        findings = [broken("configuration", failures.CONFIG_INVALID, evidence)]
        return _show(Diagnosis("sensor", datetime.now(UTC), findings), as_json=arguments.json)
    seen = collect(config, resolver=arguments.resolver, nonce=arguments.nonce, seconds=arguments.seconds)
    findings = [ok("configuration", "no mistakes"), *judge(config, seen)]
    subject = f"sensor {config.participant}/{config.sensor} of {config.exchange}"
    return _show(Diagnosis(subject, datetime.now(UTC), findings), as_json=arguments.json)


def _show(diagnosis: Diagnosis, *, as_json: bool) -> int:
    print(json.dumps(diagnosis.as_document()) if as_json else diagnosis.as_text())
    return EXIT_OK if diagnosis.first is None else EXIT_BROKEN
