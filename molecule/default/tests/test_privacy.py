"""Stub clients leave no trace: nowhere, in no form, of neither family, whatever kind of stub they are."""

import contextlib
import secrets
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from sie_lab import deploy, querylog
from sie_lab.hosts import File, on, write_files
from sie_lab.machine import REPOSITORY
from sie_lab.topology import Host, Lab, Participant

from sie_core import _native
from tests.fleet import holdings, stub
from tests.fleet.reader import await_true
from tests.fleet.traces import found, octets

AGENT = REPOSITORY / ".venv" / "bin" / "sie-agent"
PLANTED_ANSWER = "203.0.113.200"  # what every name below wild.example resolves to
KEY_LOG = "/run/sie-agent-keys/log"
DROP_IN = "/run/systemd/system/sie-agent.service.d/key-log.conf"
# Python loads this module by itself: the agent has no switch for logging its keys, and is to have none.
KEY_LOGGER = f"""
import ssl
make = ssl.SSLContext.__new__
def logging(cls, *arguments, **keywords):
    context = make(cls, *arguments, **keywords)
    context.keylog_filename = "{KEY_LOG}"
    return context
ssl.SSLContext.__new__ = logging
"""


class Evidence:
    """What each place held after the stubs had asked."""

    def __init__(self, participant: Participant, stubs: set[str], asked: list[stub.Question]) -> None:
        self.participant = participant
        self.stubs = stubs
        self.asked = asked
        self.places: dict[str, Any] = {}
        self.seen_on_the_wire: set[str] = set()


@pytest.fixture(scope="module")
def stub_addresses(lab: Lab) -> Iterator[dict[str, set[str]]]:
    """Stubs outside and inside each sensor's resolver prefixes; the inner ones are put on the stub's host."""
    host = lab.host("stub")
    interface = host.on("net")
    assert interface is not None
    outside = set(interface.address)
    inside = {
        participant.name: {_neighbour(address) for address in participant.resolver_address}
        for participant in lab.participants.values()
    }
    for address in set().union(*inside.values()):
        length = "64" if ":" in address else str(lab.networks["net"].v4.prefixlen)
        on(
            host,
            *("ip", "address", "replace", f"{address}/{length}", "dev", interface.name),
            *(["nodad"] if ":" in address else []),
        )
    yield {name: outside | inner for name, inner in inside.items()}
    for address in set().union(*inside.values()):
        length = "64" if ":" in address else str(lab.networks["net"].v4.prefixlen)
        on(host, "ip", "address", "del", f"{address}/{length}", "dev", interface.name)


def _neighbour(address: str) -> str:
    """The address next to a resolver's in the prefix, /29 or /125, that its sensor is given."""
    parsed = ip_address(address)
    return str(parsed - 1 if parsed.version == 4 else parsed + 1)


@contextlib.contextmanager
def _keys_logged(sensor: Host) -> Iterator[None]:
    """The agent restarted with its TLS keys going to a file, and back."""
    on(sensor, "mkdir", "--parents", "--mode=0777", "/run/sie-agent-keys")
    on(sensor, "chmod", "0777", "/run/sie-agent-keys")
    unit = "[Service]\nEnvironment=PYTHONPATH=/run/sie-agent-keys\nReadWritePaths=/run/sie-agent-keys\n"
    write_files(sensor, [File("/run/sie-agent-keys/sitecustomize.py", KEY_LOGGER), File(DROP_IN, unit)])
    on(sensor, "systemctl", "daemon-reload")
    on(sensor, "systemctl", "restart", "sie-agent")
    try:
        yield
    finally:
        on(sensor, "rm", "--recursive", "--force", "/run/sie-agent-keys", DROP_IN)
        on(sensor, "systemctl", "daemon-reload")
        on(sensor, "systemctl", "restart", "sie-agent")


@contextlib.contextmanager
def _recorded(host: Host, interface: str, expression: str, path: str) -> Iterator[None]:
    """tcpdump on a host's interface; whole packets, written at once."""
    unit = f"record-{secrets.token_hex(4)}"
    on(
        host,
        *(
            "systemd-run",
            "--quiet",
            f"--unit={unit}",
            "tcpdump",
            "-i",
            interface,
            "-U",
            "-s",
            "0",
            "-Z",
            "root",
        ),
        *("-w", path, expression),
    )
    await_true(
        lambda: on(host, "stat", "--format=%s", path, check=False).strip() == "24",
        10,
        f"tcpdump at {host.name}",
    )
    try:
        yield
    finally:
        on(host, "systemctl", "stop", unit)


@pytest.fixture(scope="module", params=["isp_a", "uni_b"])
def evidence(
    request: pytest.FixtureRequest,
    lab: Lab,
    stub_addresses: dict[str, set[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Evidence:
    """Stubs of every kind ask; then everything that the exchange holds is read."""
    participant = lab.participant(request.param)
    folder = tmp_path_factory.mktemp(participant.name)
    zone = f"{secrets.token_hex(4)}.wild.example"
    resolvers = list(participant.resolver_address)
    questions = stub.of_every_kind(stub_addresses[participant.name], resolvers, zone)
    sensor, uplink = participant.sensor, _uplink_interface(lab, participant)
    facing = participant.resolver.on("net")
    assert facing is not None

    with (
        _recorded(lab.hub, uplink, "tcp port 8443", "/run/uplink.pcap"),
        _recorded(participant.resolver, facing.name, "port 53", "/run/port53.pcap"),
        _keys_logged(sensor),  # last, so that the new session's opening is recorded
    ):
        await_true(
            lambda: holdings.status(sensor)["uplink"]["state"] == "connected", 20, "a session of the agent"
        )
        with _hub_frozen(lab):
            asked = stub.ask(lab, questions)
            querylog.settle(lab)
            await_true(lambda: _names_in(holdings.spool(sensor), zone), 10, "the names in the spool")
            spooled = holdings.spool(sensor)
        await_true(lambda: holdings.status(sensor)["pending"] == 0, 30, "everything acknowledged")
        await_true(lambda: _names_in(holdings.stream(lab, "SIE"), zone), 15, "the names in SIE")
        key_log = holdings.fetch(sensor, KEY_LOG, folder / "keys")
        uplink_capture = holdings.fetch(lab.hub, "/run/uplink.pcap", folder / "uplink.pcap")
        port53 = holdings.fetch(participant.resolver, "/run/port53.pcap", folder / "port53.pcap")

    result = Evidence(participant, stub_addresses[participant.name], asked)
    result.seen_on_the_wire = found(port53.read_bytes(), result.stubs)
    result.places = {
        "spool": spooled,
        "wire": list(holdings.wire(uplink_capture, key_log)),
        "RAW": holdings.stream(lab, "RAW"),
        "SIE": holdings.stream(lab, "SIE"),
        "store": holdings.store(lab),
        "pcap": holdings.replayed(participant, port53, AGENT, deploy.resolver_prefixes(participant)),
    }
    return result


def _uplink_interface(lab: Lab, participant: Participant) -> str:
    estate = participant.name.replace("_", "-")
    interface = lab.hub.on(estate)
    assert interface is not None
    return interface.name


@contextlib.contextmanager
def _hub_frozen(lab: Lab) -> Iterator[None]:
    """The message server stands still, so that nothing is acknowledged and the spool keeps what comes."""
    on(lab.hub, "systemctl", "kill", "--signal=STOP", "nats-server")
    try:
        yield
    finally:
        on(lab.hub, "systemctl", "kill", "--signal=CONT", "nats-server")


def _names_in(data: object, zone: str) -> bool:
    wire_zone = _native.name_from_text(zone)
    return any(wire_zone in piece.lower() for piece in octets(data))


# What is planted where: transactions hold the name servers' addresses, records only what was answered.
PLACES = {"spool": True, "wire": True, "RAW": True, "SIE": False, "store": False, "pcap": True}


def test_every_kind_of_stub_was_answered_and_crossed_the_wire(evidence: Evidence) -> None:
    assert {q.client for q in evidence.asked} == evidence.stubs
    assert {(q.tcp, q.port == 53) for q in evidence.asked} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }
    assert evidence.seen_on_the_wire == evidence.stubs


@pytest.mark.parametrize("place", PLACES)
def test_no_stub_leaves_a_trace(evidence: Evidence, place: str) -> None:
    assert evidence.places[place], f"nothing was read from {place}"
    assert found(evidence.places[place], evidence.stubs) == set()


@pytest.mark.parametrize("place", PLACES)
def test_an_exchange_is_not_told_which_resolver_it_was(evidence: Evidence, place: str) -> None:
    resolver = {str(address) for address in evidence.participant.resolver_address}
    by_hand = (
        place == "pcap"
    )  # without the role's configuration, so that the same search has something to find
    assert bool(found(evidence.places[place], resolver)) is by_hand


@pytest.mark.parametrize(("place", "holds_transactions"), PLACES.items())
def test_the_same_search_finds_what_is_planted(
    evidence: Evidence, lab: Lab, place: str, holds_transactions: bool
) -> None:
    name_servers = {str(address.v4) for address in lab.name_servers["domains"]}
    planted = name_servers if holds_transactions else {PLANTED_ANSWER}
    assert found(evidence.places[place], planted), f"{place} does not hold any of {planted}"
