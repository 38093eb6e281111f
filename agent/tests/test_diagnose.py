"""`sie-agent diagnose`: each broken link is found and named first, from real state where that can be had."""

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import pytest

from sie_agent import diagnose, failures
from sie_agent.cli import EXIT_BROKEN, EXIT_OK, main
from sie_agent.config import AgentConfig, load_config
from sie_agent.diagnose import Seen, collect, judge
from sie_agent.hub_door import Answer, DoorClosed
from sie_agent.identity_files import Standing
from sie_agent.refusal import Failure as Refusal
from sie_agent.sight import Sight, look
from sie_core.diagnosis import Failure, State
from tests.traffic.frames import udp_frame

from .door import Door
from .hub import Authority

ConfigFile = Callable[..., Path]
RESOLVER, SERVER, OTHER = IPv4Address("192.0.2.53"), IPv4Address("198.51.100.1"), IPv4Address("192.0.2.99")


@pytest.fixture
def config(config_file: ConfigFile) -> AgentConfig:
    return load_config(config_file())


@pytest.fixture
def well(config: AgentConfig) -> Seen:
    """A sensor at which nothing is wrong."""
    uplink = {"state": "connected", "hub": "wss://hub", "last_error": None, "stream_conflicts": 0}
    status: dict[str, Any] = {
        "running": True,
        "captured": 100,
        "acknowledged": 90,
        "pending": 0,
        "pending_octets": 0,
        "trimmed_by": {"full": 0, "expired": 0, "unreadable": 0},
        "lost": {"queue": 0, "disk": 0},
        "uplink": uplink,
        "identity": {"last_error": None},
        "sources": [{"interface": "eth1", "up": True, "last_error": None}],
        "kernel_drops": 0,
        "dnstap": None,
        "counters": {"packets_seen": 200, "messages_seen": 200, "messages_recorded": 200},
    }
    peer = peer_until(config, datetime.now(UTC) + timedelta(days=20))
    return Seen(
        status=status,
        status_after={**status, "acknowledged": 100},
        resolvers=2,
        sight=Sight(frames=20, questions=4, answers=4),
        looked_up=4,
        standing=Standing("valid", None, "SHA256:x", peer),
        free=1 << 30,
        answer=Answer(200, json.dumps({"zone": "probe.example"})),
        ahead=0.5,
        received=True,
    )


def peer_until(config: AgentConfig, end: datetime) -> Any:
    """The certificate that this sensor has, with another end."""
    from sie_agent.anchors import Anchors
    from sie_agent.identity_files import IdentityFiles
    from sie_core.identity import Identity

    wanted = Identity(config.exchange, config.participant, config.sensor)
    trusted = Anchors(config.ca, config.identity_directory).file()
    standing = IdentityFiles(config.identity_directory).standing(wanted, trusted, datetime.now(UTC))
    assert standing.peer is not None
    return replace(standing.peer, not_after=end)


def changed(status: Any, **more: Any) -> dict[str, Any]:
    return {**status, **more}


def closed(step: str) -> dict[str, Any]:
    return {"answer": None, "ahead": None, "received": None, "closed": DoorClosed(step, Refusal(False, step))}


def refused(words: str) -> dict[str, Any]:
    return {"answer": Answer(403, f"{words}\n"), "received": None}


def test_a_sensor_that_is_well_has_no_broken_link(config: AgentConfig, well: Seen) -> None:
    findings = list(judge(config, well))
    assert {finding.state for finding in findings} == {State.OK}
    assert [finding.check for finding in findings] == [
        *("service", "clock", "interface", "both directions", "kernel", "recorded", "spool", "certificate"),
        *("egress", "tls", "hub", "acknowledgements", "stream", "received"),
    ]


BREAKS: tuple[tuple[Failure, Callable[[AgentConfig, Seen], dict[str, Any]]], ...] = (
    (failures.AGENT_STOPPED, lambda _c, s: {"status": changed(s.status, running=False)}),
    (failures.CLOCK_WRONG, lambda _c, _s: {"ahead": -3600.0}),
    (
        failures.INTERFACE_DOWN,
        lambda _c, s: {
            "status": changed(s.status, sources=[{"interface": "eth1", "up": False, "last_error": "gone"}])
        },
    ),
    (failures.MIRROR_SILENT, lambda _c, _s: {"sight": Sight(frames=3)}),
    (failures.RESOLVER_MISMATCH, lambda _c, _s: {"sight": Sight(frames=9, others=8)}),
    (failures.ONE_DIRECTION, lambda _c, _s: {"sight": Sight(frames=9, questions=4)}),
    (failures.KERNEL_DROPS, lambda _c, s: {"status": changed(s.status, kernel_drops=50)}),
    (failures.FILTERED_RD, lambda _c, s: filtered(s, "messages_filtered_rd")),
    (failures.FILTERED_LOCAL, lambda _c, s: filtered(s, "messages_filtered_local_zone")),
    (failures.FILTERED_SCOPE, lambda _c, s: filtered(s, "messages_filtered_scope")),
    (failures.FILTERED_OTHER, lambda _c, s: filtered(s, "messages_filtered_opcode")),
    (failures.DISK_FULL, lambda _c, _s: {"free": 4096}),
    (
        failures.DISK_FULL,
        lambda _c, s: {"status_after": changed(s.status_after, lost={"queue": 0, "disk": 7})},
    ),
    (
        failures.SPOOL_TRIMMED,
        lambda _c, s: {
            "status_after": changed(
                s.status_after, pending=5, trimmed_by={"full": 9, "expired": 0, "unreadable": 0}
            )
        },
    ),
    (failures.CERTIFICATE_NONE, lambda _c, _s: {"standing": Standing("none", None, None, None)}),
    (failures.CERTIFICATE_EXPIRED, lambda _c, _s: {"standing": Standing("expired", "on Monday", None, None)}),
    (failures.CERTIFICATE_WRONG, lambda _c, _s: {"standing": Standing("wrong_name", "x", None, None)}),
    (
        failures.RENEWAL_FAILING,
        lambda c, s: {
            "standing": Standing("valid", None, "x", peer_until(c, datetime.now(UTC) + timedelta(days=1))),
            "status": changed(s.status, identity={"last_error": "no way"}),
        },
    ),
    (failures.HUB_NAME, lambda _c, _s: closed("name")),
    (failures.HUB_UNREACHABLE, lambda _c, _s: closed("connection")),
    (failures.TLS_FAILED, lambda _c, _s: closed("tls")),
    (failures.HUB_STRANGE, lambda _c, _s: closed("answer")),
    (failures.HUB_STRANGE, lambda _c, _s: {"answer": Answer(502, "bad gateway")}),
    (failures.HUB_STRANGE, lambda _c, _s: {"answer": Answer(200, "<html>")}),
    (failures.HUB_REVOKED, lambda _c, _s: refused("isp_a/ns1 has been revoked since 2026-01-01: lost")),
    (failures.HUB_AGREEMENT, lambda _c, _s: refused("isp_a/ns1 may not send: the agreement ended")),
    (failures.HUB_UNREGISTERED, lambda _c, _s: refused("isp_a/ns1 is not in the registry of lab.example")),
    (failures.HUB_REFUSES, lambda _c, _s: refused("not today")),
    (failures.NOT_ACKNOWLEDGED, lambda _c, s: {"status_after": changed(s.status, pending=10)}),
    (
        failures.STREAM_CONFLICT,
        lambda _c, s: {
            "status": changed(s.status, uplink={**(s.status or {})["uplink"], "stream_conflicts": 1})
        },
    ),
    (failures.PROBE_MISSING, lambda _c, _s: {"received": False}),
)


def filtered(seen: Seen, reason: str) -> dict[str, Any]:
    counters = {
        "packets_seen": 80,
        "messages_seen": 80,
        "messages_recorded": 0,
        reason: 60,
        "messages_filtered_qtype": 20,
    }
    return {"status_after": changed(seen.status_after, counters=counters)}


@pytest.mark.parametrize(
    ("failure", "change"), BREAKS, ids=[f"{f.slug}-{n}" for n, (f, _) in enumerate(BREAKS)]
)
def test_each_broken_link_is_the_first_that_is_named(
    config: AgentConfig, well: Seen, failure: Failure, change: Callable[[AgentConfig, Seen], dict[str, Any]]
) -> None:
    findings = judge(config, replace(well, **change(config, well)))
    first = next(finding for finding in findings if finding.state is State.BROKEN)
    assert first.failure is failure


def test_every_failure_can_be_found() -> None:
    elsewhere = {failures.CONFIG_INVALID, failures.SPOOL_UNUSABLE, failures.DNSTAP_SILENT}
    assert {failure for failure, _ in BREAKS} | elsewhere == set(failures.FAILURES.values())


def test_dnstap_without_a_resolver_is_named(config_file: ConfigFile, well: Seen) -> None:
    config = load_config(config_file(sources='{dnstap: "unix:/run/sie-agent/dnstap.sock"}'))
    dnstap = {"endpoints": [], "connections": [{"resolver": False}], "last_refusal": "clients only"}
    seen = replace(well, status=changed(well.status, dnstap=dnstap), sight=None)
    [finding] = [one for one in judge(config, seen) if one.state is State.BROKEN]
    assert finding.failure is failures.DNSTAP_SILENT
    assert "1 connected, 0 of which a resolver; last refusal: clients only" in finding.evidence


def test_what_was_not_seen_is_unknown_and_not_broken(config: AgentConfig, well: Seen) -> None:
    quiet = replace(well, sight=Sight(), looked_up=0, look_up_failure="192.0.2.53: no answer", received=None)
    findings = {finding.check: finding for finding in judge(config, quiet)}
    assert findings["both directions"].state is State.UNKNOWN
    assert "no look-up was answered (192.0.2.53: no answer)" in findings["both directions"].evidence
    assert findings["received"].state is State.UNKNOWN


# ------------ from real state ------------------------------------------------------------------------------


@pytest.fixture
def door(authority: Authority) -> Iterator[Door]:
    with Door({"/probe": (200, {"zone": "probe.example"})}).open(authority) as door:
        yield door


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "REFINE_SECONDS", 0.0)
    monkeypatch.setattr("sie_agent.lookup.SECONDS_PER_TRY", 0.05)


def document(capsys: pytest.CaptureFixture[str], file: Path) -> tuple[int, dict[str, Any]]:
    code = main(["diagnose", "--config", str(file), "--seconds", "0.1", "--resolver", "127.0.0.1", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_an_agent_that_does_not_run_is_the_broken_link(
    config_file: ConfigFile, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(door.url, metrics_port=1)
    code, said = document(capsys, file)
    assert (code, said["broken"]["failure"]) == (EXIT_BROKEN, "agent-stopped")
    states = {finding["check"]: finding["state"] for finding in said["findings"]}
    assert {states[check] for check in ("clock", "spool", "certificate", "egress", "tls", "hub")} == {"ok"}
    assert states["acknowledgements"] == "unknown"


def test_the_hub_s_clock_is_compared_before_its_certificate_is(
    config_file: ConfigFile, door: Door, authority: Authority, tmp_path: Path
) -> None:
    door.clock_ahead = 7200.0
    seen = collect(load_config(config_file(door.url)), resolver="127.0.0.1", nonce=None, seconds=0.1)
    assert seen.ahead == pytest.approx(-7200, abs=5)
    with Door(clock_ahead=7200.0).open(Authority(tmp_path / "other")) as stranger:
        config = load_config(config_file(stranger.url))
        seen = collect(config, resolver="127.0.0.1", nonce=None, seconds=0.1)
    assert seen.ahead == pytest.approx(-7200, abs=5)
    assert seen.closed is not None
    assert seen.closed.step == "tls"


@pytest.mark.parametrize(
    ("status", "words", "slug"),
    [
        (403, "isp_a/ns1 has been revoked since 2026-01-01 10:00 UTC: laptop lost\n", "hub-revoked"),
        (403, "the key SHA256:x of isp_a/ns1 is revoked; make another one and enrol again\n", "hub-revoked"),
        (200, {"zone": "probe.example"}, None),
    ],
)
def test_what_a_real_hub_answers_is_told_apart(
    config: AgentConfig,
    config_file: ConfigFile,
    door: Door,
    status: int,
    words: object,
    slug: str | None,
) -> None:
    door.answers["/probe"] = (status, words)
    seen = collect(load_config(config_file(door.url)), resolver="127.0.0.1", nonce=None, seconds=0.1)
    [finding] = [one for one in judge(config, seen) if one.check == "hub"]
    assert (finding.failure.slug if finding.failure else None) == slug


def test_a_hub_that_is_not_there_is_an_egress_that_is_broken(config_file: ConfigFile) -> None:
    config = load_config(config_file())
    seen = collect(config, resolver="127.0.0.1", nonce=None, seconds=0.1)
    [finding] = [one for one in judge(config, seen) if one.check == "egress"]
    assert finding.failure is failures.HUB_UNREACHABLE
    assert finding.evidence == "127.0.0.1:1: nothing listens there (connection refused)"


def test_a_configuration_with_mistakes_is_the_broken_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "agent.yml"
    file.write_text("sensor: ns1\nsecret: planted-secret\n")
    code, said = document(capsys, file)
    assert (code, said["broken"]["failure"]) == (EXIT_BROKEN, "config-invalid")
    assert "planted-secret" not in json.dumps(said)


def test_the_page_has_no_key_and_no_name(
    config_file: ConfigFile, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "privacy: {local_zones: [planted-zone.example], exclude_qname_regex: planted-name}"
    file = config_file(door.url, metrics_port=1, more=more)
    config = load_config(file)
    spool = config.spool_directory
    spool.mkdir()
    (spool / "planted-name.example").write_text("planted-name.example")
    key = config.key.read_text().splitlines()[1]
    for options in ((), ("--json",)):
        main(["diagnose", "--config", str(file), "--seconds", "0.1", "--resolver", "127.0.0.1", *options])
        page = capsys.readouterr().out
        assert "agent-stopped" in page
        assert "planted" not in page
        assert key not in page
        assert "probe.example" not in page


def test_exit_code_0_is_for_a_sensor_without_a_broken_link(
    config_file: ConfigFile, well: Seen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnose, "collect", lambda *_arguments, **_more: well)
    assert main(["diagnose", "--config", str(config_file())]) == EXIT_OK
    assert "No broken link was found" in capsys.readouterr().out


# ------------ sight ----------------------------------------------------------------------------------------


def test_packets_are_counted_by_who_asks_and_who_answers() -> None:
    resolvers = [ip_network("192.0.2.53"), ip_network("2001:db8::/64")]
    v6, v6_server = IPv6Address("2001:db8::53"), IPv6Address("2001:db8:1::1")
    frames = [
        udp_frame(RESOLVER, 4000, SERVER, 53, b"q"),
        udp_frame(SERVER, 53, RESOLVER, 4000, b"a"),
        udp_frame(v6, 4000, v6_server, 53, b"q"),
        udp_frame(OTHER, 4000, SERVER, 53, b"q"),
        udp_frame(OTHER, 4000, RESOLVER, 53, b"q"),
        udp_frame(RESOLVER, 4000, SERVER, 123, b"t"),
        b"\x02" * 12 + b"\x81\x00\x00\x07" + udp_frame(RESOLVER, 4000, SERVER, 53, b"q")[12:],
        b"\x02" * 12 + struct.pack("!H", 0x0806) + b"arp",
        b"short",
    ]
    sight = Sight()
    for frame in frames:
        sight.see(frame, resolvers)
    assert sight == Sight(frames=len(frames), questions=3, answers=1, others=2)


@pytest.mark.root
def test_a_look_ends_as_soon_as_both_directions_are_seen() -> None:
    def exchange() -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        ):
            resolver.bind(("127.0.0.2", 0))
            server.bind(("127.0.0.3", 53))
            resolver.sendto(b"question", ("127.0.0.3", 53))
            server.sendto(b"answer", resolver.getsockname())

    began = time.monotonic()
    sight = look(["lo"], ["127.0.0.2"], 20.0, exchange)
    assert time.monotonic() - began < 10
    assert sight.both
    with pytest.raises(OSError, match="No such device"):
        look(["no-such-wire"], ["127.0.0.2"], 0.1, exchange)
