"""Real resolvers bring what they ask to one sensor: transaction by transaction what is seen on the wire."""

import base64
import secrets
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sie_lab.dns import resolver_services
from sie_lab.hosts import on
from sie_lab.topology import Host, Lab

from sie_core._native import PcapSource, Recorder, decode
from tests.fleet.holdings import status
from tests.fleet.reader import await_true

SOCKET = "/run/sie-agent/dnstap.sock"
GROUP = "sie-dnstap"
SPOOL = "/var/lib/private/sie-agent/spool"
CAPTURED = "/root/upstream.pcap"
# Says whether whoever runs it may connect.
CONNECT = f"""
import socket
try:
    socket.socket(socket.AF_UNIX).connect("{SOCKET}")
    print("yes")
except PermissionError:
    print("no")
"""
VERSIONS = {"unbound": "unbound 1.", "bind": "BIND 9.", "pdns": "pdns-recursor 4."}
NAMES = 20  # for each resolver and type
TYPES = ("A", "AAAA", "MX")
CAPTURE_UNIT = "upstream-capture"
CLEARED = {bytes(4), bytes(16)}
PATIENCE = 60.0  # seconds for a program to begin, or for everything to arrive


def sensor_of(lab: Lab) -> Host:
    return lab.participant("isp_c").sensor


def everything_acknowledged(lab: Lab) -> bool:
    pending: int = status(sensor_of(lab))["pending"]
    return pending == 0


@dataclass(frozen=True)
class Exchange:
    """What both ways of looking must agree on."""

    qname: str
    qtype: int
    server: bytes
    proto: int
    id: int
    rcode: int
    response: bytes


def message_of(packets: list[bytes]) -> bytes:
    """The DNS message of a UDP datagram as it is stored."""
    (packet,) = packets
    return packet[28:] if packet[0] >> 4 == 4 else packet[48:]


def exchanges(payloads: list[dict[str, Any]], zone: str) -> Counter[Exchange]:
    """The answered questions for names in a zone."""
    messages = [payload["message"] for payload in payloads]
    return Counter(
        Exchange(
            one["qname_text"],
            one["qtype"],
            one["response_ip"],
            one["proto"],
            one["id"],
            one["rcode"],
            message_of(one["response_packet"]),
        )
        for one in messages
        if one["type"] == "UDP_QUERY_RESPONSE" and one["qname_text"].endswith(f".{zone}")
    )


@dataclass(frozen=True)
class Seen:
    """What was asked below `zone`, each resolver below its own name there; as told, and as on the wire."""

    zone: str
    told: list[dict[str, Any]]
    wire: list[dict[str, Any]]


@pytest.fixture(scope="module")
def seen(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Look-ups through each resolver while the hub is away, so that the spool holds what came of them."""
    sensor, zone = sensor_of(lab), f"{secrets.token_hex(4)}.wild.example."
    await_true(lambda: everything_acknowledged(lab), PATIENCE, "everything earlier at the hub")
    on(lab.hub, "systemctl", "stop", "sie-hub-ingest.service")
    try:
        capture = ["tcpdump", "-i", "eth1", "-U", "-w", CAPTURED, "-Z", "root", "port", "53"]
        on(sensor, "systemd-run", "--quiet", f"--unit={CAPTURE_UNIT}", *capture)
        begun = ["sh", "-c", f"test -s {CAPTURED} && echo yes"]
        await_true(lambda: bool(on(sensor, *begun, check=False)), PATIENCE, "the capture")
        for service, listen in resolver_services(sensor):
            address = listen or str(lab.participant("isp_c").resolver_address.v4)
            words = [f"@{address}", "+short", "+tries=2", "+timeout=3"]
            for number in range(NAMES):
                for qtype in TYPES:
                    words += [f"n{number}.{service}.{zone}", qtype]
            on(sensor, "dig", *words)
        wanted = NAMES * len(TYPES) * len(resolver_services(sensor))
        told: list[dict[str, Any]] = []

        def arrived() -> bool:
            said = on(sensor, "sh", "-c", f"cat {SPOOL}/*.nmsg.zst 2>/dev/null | base64 -w0")
            told[:] = decode(base64.b64decode(said), limit=1 << 26) if said else []
            return exchanges(told, zone).total() >= wanted

        await_true(arrived, PATIENCE, "what was told, in the spool")
        on(sensor, "systemctl", "stop", f"{CAPTURE_UNIT}.service")
        path = tmp_path_factory.mktemp("wire") / "upstream.pcap"
        path.write_bytes(base64.b64decode(on(sensor, "base64", "-w0", CAPTURED)))
    finally:
        on(lab.hub, "systemctl", "start", "sie-hub-ingest.service")
        on(sensor, "systemctl", "stop", f"{CAPTURE_UNIT}.service", check=False)
        on(sensor, "rm", "-f", CAPTURED)
    return Seen(zone, told, on_the_wire(lab, path))


def on_the_wire(lab: Lab, pcap: Path) -> list[dict[str, Any]]:
    """What the same sensor makes of the packets."""
    recorder = Recorder([str(address) for address in lab.participant("isp_c").resolver_address])
    source, containers = PcapSource(str(pcap)), []
    while not recorder.at_end:
        containers += recorder.pump(source, 1.0)
    return [one for each in containers + recorder.finish() for one in decode(each.data, limit=1 << 26)]


@pytest.mark.parametrize("service", VERSIONS)
def test_what_is_told_is_what_is_on_the_wire(seen: Seen, service: str) -> None:
    zone = f"{service}.{seen.zone}"
    told, wire = exchanges(seen.told, zone), exchanges(seen.wire, zone)
    asked = {(one.qname, one.qtype) for one in told}
    assert len(asked) == NAMES * len(TYPES)
    assert told == wire


@pytest.mark.parametrize("service", VERSIONS)
def test_the_zone_is_told_and_the_resolver_s_address_is_not(seen: Seen, service: str) -> None:
    """It is cleared by default where the hub is the exchange's."""
    messages = [one["message"] for one in seen.told]
    messages = [one for one in messages if one["qname_text"].endswith(f"{service}.{seen.zone}")]
    zones = {one["query_zone_text"] for one in messages}
    assert (
        {"wild.example."} <= zones <= {"wild.example.", "example.", "."}
    )  # the first of them came by referrals
    assert {one["query_ip"] for one in messages} <= CLEARED
    assert all(one["query_time_sec"] and one["response_time_sec"] for one in messages)


def test_the_hub_gets_what_waited(lab: Lab, seen: Seen) -> None:
    await_true(lambda: everything_acknowledged(lab), PATIENCE, "what waited at the hub")
    assert status(sensor_of(lab))["trimmed"] == 0


def test_status_names_every_resolver(lab: Lab) -> None:
    document = status(sensor_of(lab))
    versions = [one["version"] for one in document["dnstap"]["connections"] if one["resolver"]]
    for version in VERSIONS.values():
        assert any(found.startswith(version) for found in versions), versions
    counters = document["counters"]
    frames = {name: count for name, count in counters.items() if name.startswith("dnstap_frames_")}
    assert frames.pop("dnstap_frames_seen") == sum(frames.values()) > 0
    assert frames["dnstap_frames_passed"] > 0
    assert counters["packets_seen"] == 0
    assert document["sources"] == []


def test_resolvers_alone_reach_the_socket(lab: Lab) -> None:
    sensor = sensor_of(lab)
    assert on(sensor, "stat", "-c", "%A %G", SOCKET).split() == ["srw-rw----", GROUP]
    tried = {}
    for user in ("unbound", "bind", "pdns", "nobody"):
        words = ["runuser", "-u", user, "--", "/usr/bin/python3", "-c", CONNECT]
        tried[user] = on(sensor, *words)
    assert {user: said.strip() for user, said in tried.items()} == {
        "unbound": "yes",
        "bind": "yes",
        "pdns": "yes",
        "nobody": "no",
    }


def test_the_agent_has_no_capability(lab: Lab) -> None:
    sensor = sensor_of(lab)
    pid = on(sensor, "systemctl", "show", "--property=MainPID", "--value", "sie-agent.service").strip()
    lines = on(sensor, "cat", f"/proc/{pid}/status").splitlines()
    process = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    for which in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert int(process[which][0], 16) == 0, which
    assert "0" not in process["Uid"]
    assert process["NoNewPrivs"] == ["1"]
    group = on(sensor, "getent", "group", GROUP).split(":")
    assert process["Gid"] == [group[2]] * 4
    # The agent is in no group of a resolver's.
    assert set(process["Groups"]) <= {group[2]}
    assert sorted(group[3].strip().split(",")) == ["bind", "pdns", "unbound"]


def test_apparmor_would_permit_the_socket(lab: Lab) -> None:
    for profile in ("usr.sbin.unbound", "usr.sbin.named"):
        local = on(sensor_of(lab), "cat", f"/etc/apparmor.d/local/{profile}").splitlines()
        assert local.count("/run/sie-agent/* rw,") == 1
