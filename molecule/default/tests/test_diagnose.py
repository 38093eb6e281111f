"""Things are broken one at a time, and the page names exactly that link and its remedy."""

import contextlib
import json
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sie_lab import span, traffic
from sie_lab.hosts import on
from sie_lab.topology import Host, Lab, Participant

from sie_agent import failures as of_sensor
from sie_core.diagnosis import Failure
from sie_hub import failures as of_hub
from tests.fleet.holdings import status
from tests.fleet.reader import await_true

AGENT = "/opt/sie/sie-agent/bin/sie-agent"
HUB = "/opt/sie/sie-hub/bin/sie-hub"
WATCHED = "5"  # seconds at most
BACK_WITHIN = 60.0  # seconds for what was broken to be well again

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def participant(lab: Lab) -> Participant:
    return lab.participant("isp_a")


def page(host: Host, *words: str) -> dict[str, Any]:
    """What a diagnosis says, whatever its exit code."""
    said: dict[str, Any] = json.loads(on(host, "sh", "-c", f"{' '.join(words)} --json || true"))
    return said


def of(participant: Participant) -> dict[str, Any]:
    """The diagnosis of a sensor on the resolver."""
    words = (AGENT, "diagnose", "--seconds", WATCHED, "--resolver", str(participant.resolver_address.v4))
    return page(participant.sensor, *words)


def names(said: dict[str, Any], failure: Failure) -> bool:
    """Whether this is the broken link at the top, with its remedy on the page."""
    broken = said["broken"]
    assert broken is not None, said["page"]
    assert broken["failure"] == failure.slug, said["page"]
    assert f"  {failure.says}\n" in said["page"]
    assert f"  remedy: {failure.remedy}\n" in said["page"]
    return True


def well(sensor: Host) -> bool:
    """Whether a sensor is connected and has nothing waiting."""
    document = status(sensor)
    return bool(
        document["running"] and document["uplink"]["state"] == "connected" and not document["pending"]
    )


@pytest.fixture(autouse=True)
def _well_again(participant: Participant) -> Iterator[None]:
    yield
    await_true(lambda: well(participant.sensor), BACK_WITHIN, "the sensor well again")


def test_a_sensor_that_is_well_has_no_broken_link(lab: Lab, participant: Participant) -> None:
    planted = f"planted-{secrets.token_hex(4)}.wild.example"
    traffic.look_up_many(lab, participant, [planted])
    said = of(participant)
    assert said["broken"] is None, said["page"]
    assert {finding["state"] for finding in said["findings"]} == {"ok"}, said["page"]
    key = on(participant.sensor, "cat", "/var/lib/sie-agent/identity/key.pem").splitlines()[1]
    spool = on(participant.sensor, "sh", "-c", "cat /etc/sie-agent/agent.yml")
    assert participant.sensor_name in spool  # what is planted would be found, had it been put there
    for secret in (key, planted, "probe.example", "planted"):
        assert secret not in json.dumps(said)


def test_a_stopped_agent(participant: Participant) -> None:
    on(participant.sensor, "systemctl", "stop", "sie-agent")
    try:
        assert names(of(participant), of_sensor.AGENT_STOPPED)
    finally:
        on(participant.sensor, "systemctl", "start", "sie-agent")


def test_a_firewall_before_the_hub(lab: Lab, participant: Participant) -> None:
    rules = (
        "table inet broken {\nchain output {\ntype filter hook output priority 0;\n"
        f"ip daddr {lab.hub.management} tcp dport 8443 reject with icmp admin-prohibited\n}}\n}}\n"
    )
    on(participant.sensor, "nft", "-f", "-", stdin=rules)
    try:
        assert names(of(participant), of_sensor.HUB_UNREACHABLE)
    finally:
        on(participant.sensor, "nft", "delete", "table", "inet", "broken")


@contextlib.contextmanager
def configured(sensor: Host, key: str, value: str) -> Iterator[None]:
    """The agent with another value of one key of its configuration, reloaded; and back."""
    file = "/etc/sie-agent/agent.yml"
    change = (
        f"import yaml; d = yaml.safe_load(open('{file}')); d['{key}'] = {value}; "
        f"yaml.safe_dump(d, open('{file}', 'w'))"
    )
    on(sensor, "cp", "--preserve", file, "/run/agent.kept")
    on(sensor, "/opt/sie/sie-agent/bin/python", "-c", change)
    on(sensor, "systemctl", "reload", "sie-agent")
    try:
        yield
    finally:
        on(sensor, "cp", "--preserve", "/run/agent.kept", file)
        on(sensor, "systemctl", "reload", "sie-agent")


def test_an_address_that_is_not_the_resolver_s(participant: Participant) -> None:
    with configured(participant.sensor, "resolvers", "['192.0.2.1']"):
        assert names(of(participant), of_sensor.RESOLVER_MISMATCH)


def test_a_mirror_that_is_off(lab: Lab) -> None:
    behind = next(p for p in lab.participants.values() if p.sensor is lab.span.to)
    nonce = secrets.token_hex(16)
    asking = threading.Timer(1.0, traffic.look_up_many, (lab, behind, [f"{nonce}.probe.example"]))
    span.switch(lab, on_=False)
    asking.start()
    try:
        said = page(behind.sensor, AGENT, "diagnose", "--seconds", WATCHED, "--nonce", nonce)
    finally:
        asking.join()
        span.switch(lab, on_=True)
    assert names(said, of_sensor.MIRROR_SILENT)


def test_a_sensor_that_is_revoked(lab: Lab, participant: Participant) -> None:
    registry = f"/etc/sie-hub/participants/{participant.name}.yml"
    on(lab.hub, "cp", "--preserve", registry, "/run/registry.kept")
    revoke = ("registry", "sensor", "revoke", "--reason", "a-test", participant.name, participant.sensor_name)
    on(lab.hub, HUB, *revoke)
    try:
        await_true(lambda: status(participant.sensor)["uplink"]["state"] == "refused", 20.0, "the refusal")
        said = of(participant)
    finally:
        on(lab.hub, "cp", "--preserve", "/run/registry.kept", registry)
    assert names(said, of_sensor.HUB_REVOKED)
    assert "a-test" in said["broken"]["evidence"]


def test_a_message_server_that_is_stopped(lab: Lab, participant: Participant) -> None:
    on(lab.hub, "systemctl", "stop", "nats-server")
    try:
        at_hub = page(lab.hub, HUB, "diagnose")
        at_sensor = of(participant)
    finally:
        on(lab.hub, "systemctl", "start", "nats-server")
    assert names(at_hub, of_hub.NATS_DOWN)
    assert names(at_sensor, of_sensor.NOT_ACKNOWLEDGED)


def test_a_program_of_the_hub_that_is_stopped(lab: Lab) -> None:
    on(lab.hub, "systemctl", "stop", "sie-hub-refine")
    try:
        said = page(lab.hub, HUB, "diagnose")
    finally:
        on(lab.hub, "systemctl", "start", "sie-hub-refine")
    assert names(said, of_hub.UNIT_STOPPED)
    assert said["broken"]["check"] == "sie-hub-refine"


def test_a_hub_that_is_well(lab: Lab) -> None:
    await_true(
        lambda: page(lab.hub, HUB, "diagnose")["broken"] is None, BACK_WITHIN, "a hub without a broken link"
    )
    said = page(lab.hub, HUB, "diagnose")
    assert {finding["state"] for finding in said["findings"]} == {"ok"}, said["page"]
