"""A host that reaches the hub and nothing else becomes a sensor, and does not even try to reach more."""

import contextlib
import ipaddress
import json
from collections.abc import Iterator

import pytest
from sie_lab import deploy
from sie_lab.hosts import on
from sie_lab.topology import Host, Lab, Participant

from tests.fleet.holdings import status
from tests.fleet.newcomer import WHO, fresh

# Counts what a host begins to say to anybody but the hub; its resolver's own wire is none of the product's.
ELSEWHERE = """
table inet offline {{
    counter elsewhere {{ }}
    chain out {{
        type filter hook output priority 0;
        oifname {{ "lo", "{resolver}" }} accept
        ip daddr {hub} accept
        tcp sport 22 accept
        meta l4proto {{ tcp, udp }} counter name elsewhere drop
    }}
}}
"""
TRY = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 443), timeout=1)
except OSError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def newcomer(lab: Lab) -> Participant:
    return fresh(lab)


@contextlib.contextmanager
def _counting(lab: Lab, participant: Participant) -> Iterator[None]:
    rules = ELSEWHERE.format(resolver=participant.capture, hub=lab.hub.management)
    on(participant.sensor, "nft", "-f", "-", stdin=rules)
    try:
        yield
    finally:
        on(participant.sensor, "nft", "delete", "table", "inet", "offline")


def _elsewhere(host: Host) -> int:
    """Packets to anybody but the hub, since the last time that this was asked."""
    said = json.loads(on(host, "nft", "--json", "reset", "counter", "inet", "offline", "elsewhere"))
    (counter,) = [entry["counter"] for entry in said["nftables"] if "counter" in entry]
    return int(counter["packets"])


def _try(host: Host, name: str) -> str:
    return on(host, "python3", "-c", TRY, name)


def test_the_only_way_out_leads_to_the_hub(lab: Lab, newcomer: Participant) -> None:
    routes = json.loads(on(newcomer.sensor, "ip", "-json", "-4", "route"))
    assert [route["dst"] for route in routes if "gateway" in route] == [lab.hub.management]
    assert "unreachable" in _try(newcomer.sensor, "203.0.113.1")
    assert on(newcomer.sensor, "sh", "-c", "cat /etc/resolv.conf", check=False).strip() == ""
    assert on(newcomer.sensor, "sh", "-c", "command -v pip gcc cargo", check=False) == ""


def test_such_a_host_becomes_a_sensor_and_asks_nobody_else(lab: Lab, newcomer: Participant) -> None:
    neighbour = next(i for i in newcomer.sensor.interfaces if i.address.v4 == _address(newcomer.sensor))
    with _counting(lab, newcomer):
        # First that it would be seen: the machine that the wire ends at is no hub.
        _try(newcomer.sensor, str(lab.networks[neighbour.network].v4[1]))
        assert _elsewhere(newcomer.sensor) > 0
        assert deploy.rehearse(lab, "configure_my_sensor", WHO) > 0
        assert deploy.playbook(lab, "configure_my_sensor", WHO) > 0
        assert deploy.rehearse(lab, "configure_my_sensor", WHO) == 0
        assert deploy.playbook(lab, "configure_my_sensor", WHO) == 0
        assert _elsewhere(newcomer.sensor) == 0
    assert status(newcomer.sensor)["uplink"]["state"] == "connected"


def _address(host: Host) -> ipaddress.IPv4Address:
    assert host.management is not None
    return ipaddress.IPv4Address(host.management)
