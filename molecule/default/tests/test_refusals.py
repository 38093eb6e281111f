"""What is not welcome is refused with a reason that both sides can read, or closed and counted."""

import contextlib
import json
import os
import secrets
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

import pytest
from cryptography import x509
from sie_lab.hosts import on
from sie_lab.topology import Lab, Participant

from sie_core import identity
from sie_core.identity import Identity, KeyKind, PrivateKey
from tests.fleet.holdings import status
from tests.fleet.lookups import Traffic, settled
from tests.fleet.reader import Reader, await_true

WHO = "uni_b"
IDENTITY = "/var/lib/sie-agent/identity"
WITHIN = 20.0  # seconds for a refusal to show on both sides
REVOKED_WITHIN = 5.0  # seconds until a live session of a revoked sensor is closed


class Unit(NamedTuple):
    """A unit's port, the port of its metrics, and the metric of what became of connections."""

    port: int
    metrics_port: int
    metric: str


UNITS = {
    "ingest": Unit(8443, 9161, "sie_hub_ingest_connections_total"),
    "enrol": Unit(8444, 9160, "sie_hub_enrol_requests_total"),
    "serve": Unit(8445, 9163, "sie_hub_serve_requests_total"),
}


class Authority(NamedTuple):
    """A CA's certificate and key."""

    certificate: x509.Certificate
    key: PrivateKey


@pytest.fixture
def participant(lab: Lab) -> Participant:
    return lab.participant(WHO)


@pytest.fixture
def hubs_authority(lab: Lab) -> Authority:
    (certificate,) = identity.certificates_from_pem(on(lab.hub, "cat", "/etc/sie-hub/ca/ca.pem").encode())
    key = identity.private_key_from_pem(on(lab.hub, "cat", "/etc/sie-hub/ca/ca.key").encode())
    return Authority(certificate, key)


def _now(lab: Lab, participant: Participant) -> tuple[str, str]:
    """A place in both journals from which on to read."""
    cursor = "journalctl --quiet --lines=0 --show-cursor | sed -n 's/^-- cursor: //p'"
    return (
        on(lab.hub, "sh", "-c", cursor).strip(),
        on(participant.sensor, "sh", "-c", cursor).strip(),
    )


def _both_say(lab: Lab, participant: Participant, since: tuple[str, str], *words: str) -> bool:
    """Whether the hub's journal holds the first and the sensor's the last of the words."""
    hub = on(lab.hub, "journalctl", "--unit=sie-hub-ingest", "--output=cat", f"--after-cursor={since[0]}")
    sensor = on(
        participant.sensor, "journalctl", "--unit=sie-agent", "--output=cat", f"--after-cursor={since[1]}"
    )
    return words[0] in hub and words[-1] in sensor


@contextlib.contextmanager
def _certificate(participant: Participant, certificate: x509.Certificate) -> Iterator[None]:
    """The sensor with another certificate for its key, and back to all it had, since it may try to renew."""
    sensor, kept = participant.sensor, f"/run/{secrets.token_hex(4)}"
    on(sensor, "systemctl", "stop", "sie-agent")
    on(sensor, "cp", "--archive", IDENTITY, kept)
    pem = identity.certificate_to_pem(certificate).decode()
    on(sensor, "sh", "-c", f"cat > {IDENTITY}/certificate.pem", stdin=pem)
    try:
        on(sensor, "systemctl", "start", "sie-agent")
        yield
    finally:
        on(sensor, "systemctl", "stop", "sie-agent")
        on(sensor, "rm", "--recursive", IDENTITY)
        on(sensor, "cp", "--archive", kept, IDENTITY)
        on(sensor, "rm", "--recursive", kept)
        on(sensor, "systemctl", "start", "sie-agent")
        await_true(partial(_connected, participant), WITHIN, "the sensor accepted again")


def _issue(lab: Lab, participant: Participant, authority: Authority, *, at: datetime) -> x509.Certificate:
    own = on(participant.sensor, "cat", f"{IDENTITY}/certificate.pem").encode()
    return identity.issue_sensor_certificate(
        identity.public_key_of(identity.certificates_from_pem(own)[0]),
        Identity(lab.exchange, participant.name, participant.sensor_name),
        authority.certificate,
        authority.key,
        now=at,
        random=os.urandom,
        days=1,
    )


def test_an_expired_certificate_is_refused(
    lab: Lab, participant: Participant, hubs_authority: Authority
) -> None:
    since = _now(lab, participant)
    # Longer ago than the 30 days in which the sensor would renew it by itself.
    stale = _issue(lab, participant, hubs_authority, at=datetime.now(UTC) - timedelta(days=40))
    with _certificate(participant, stale):
        await_true(partial(_both_say, lab, participant, since, "expired"), WITHIN, "the reason in both logs")
        assert status(participant.sensor)["uplink"]["state"] != "connected"


def test_a_certificate_of_another_authority_is_refused(lab: Lab, participant: Participant) -> None:
    key = identity.generate_key(KeyKind.P256, os.urandom)
    now = datetime.now(UTC)
    other = Authority(identity.make_ca(key, lab.exchange, now=now, random=os.urandom), key)
    since = _now(lab, participant)
    with _certificate(participant, _issue(lab, participant, other, at=now)):
        await_true(
            partial(_both_say, lab, participant, since, "of another CA", "does not know the authority"),
            WITHIN,
            "the reason in both logs",
        )
        assert status(participant.sensor)["uplink"]["state"] != "connected"


def _stored(lab: Lab, participant: Participant) -> int:
    """Transactions of a participant's sensor that the hub has."""
    told = json.loads(on(lab.hub, "/opt/sie/sie-hub/bin/sie-hub", "ledger", "--json"))
    mine = [one for one in told if one["participant"] == participant.name]
    return sum(one["stored"]["transactions"] for one in mine if one["source"] == participant.sensor_name)


def test_a_revoked_sensor_is_cut_off_in_traffic_and_no_other(
    lab: Lab, participant: Participant, reader: Reader
) -> None:
    """Both sides say why; what was accepted stays, what is captured waits, others' sessions go on."""
    registry = f"/etc/sie-hub/participants/{participant.name}.yml"
    reason = f"lost laptop {secrets.token_hex(4)}"
    sensor, everybody = participant.sensor, list(lab.participants.values())
    others = [one for one in everybody if one.name != participant.name]
    sessions = [_uplink(one) for one in others]
    traffic = Traffic(lab, everybody)
    try:
        since, before = _now(lab, participant), _stored(lab, participant)
        await_true(lambda: _stored(lab, participant) > before, WITHIN, "deliveries")
        on(lab.hub, "cp", "--preserve", registry, "/run/registry.kept")
        revoke = ("/opt/sie/sie-hub/bin/sie-hub", "registry", "sensor", "revoke", "--reason", reason)
        on(lab.hub, *revoke, participant.name, participant.sensor_name)
        try:
            await_true(lambda: not _connected(participant), REVOKED_WITHIN, "the live session closed")
            await_true(partial(_both_say, lab, participant, since, reason), WITHIN, "the reason in both logs")
            accepted, then = _stored(lab, participant), status(sensor)
            refused = then["uplink"]["refusals"]
            await_true(lambda: status(sensor)["uplink"]["refusals"] > refused, WITHIN, "a later refusal")
            await_true(lambda: status(sensor)["captured"] > then["captured"], WITHIN, "more in the spool")
            now = status(sensor)
            assert now["acknowledged"] == then["acknowledged"] <= accepted == _stored(lab, participant)
            assert now["pending"] > 0
            before = _stored(lab, others[0])
            await_true(lambda: _stored(lab, others[0]) > before, WITHIN, "another's delivery")
        finally:
            on(lab.hub, "cp", "--preserve", "/run/registry.kept", registry)
        await_true(partial(_connected, participant), WITHIN, "the sensor accepted again")
    finally:
        traffic.stop()
    settled(reader, traffic, everybody)
    assert [_uplink(one) for one in others] == sessions, "the others' sessions never ended"


def _connected(participant: Participant) -> bool:
    return bool(status(participant.sensor)["uplink"]["state"] == "connected")


def _uplink(participant: Participant) -> tuple[int, int, int]:
    """Sessions, refusals and failures of a sensor since its agent was started."""
    uplink = status(participant.sensor)["uplink"]
    return uplink["sessions"], uplink["refusals"], uplink["failures"]


def _counted(lab: Lab, unit: Unit) -> float:
    """The sum of a unit's connections and requests, by every outcome."""
    url = f"http://127.0.0.1:{unit.metrics_port}/metrics"
    fetch = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
    total = 0.0
    for line in on(lab.hub, "python3", "-c", fetch).splitlines():
        name, _, value = line.rpartition(" ")
        if name.partition("{")[0] == unit.metric and "accepted" not in name:
            total += float(value)
    return total


def _send(address: tuple[str, int], octets: bytes, *, tls: bool) -> bytes:
    """Sends octets and reads until the other side closes; TimeoutError if it does not."""
    answer = b""
    with contextlib.ExitStack() as ends, contextlib.suppress(ConnectionError, ssl.SSLError):
        end: socket.socket = ends.enter_context(socket.create_connection(address, timeout=35))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            end = ends.enter_context(context.wrap_socket(end))
        end.sendall(octets)
        while part := end.recv(4096):
            answer += part
    return answer


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("tls", [False, True], ids=["instead of TLS", "inside TLS"])
def test_garbage_is_closed_and_counted(lab: Lab, unit: str, tls: bool) -> None:
    assert lab.hub.management is not None
    target = UNITS[unit]
    address = (lab.hub.management, target.port)
    before = _counted(lab, target)
    for octets in (os.urandom(512), b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff" + os.urandom(600)):
        if tls and octets.startswith(b"GET"):
            continue
        _send(address, octets + b"\r\n\r\n", tls=tls)
    sent = 2 if tls else 3
    await_true(lambda: _counted(lab, target) >= before + sent, WITHIN, f"{sent} more counted by {unit}")
