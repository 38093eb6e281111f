"""`simplereenroll`: a certificate opens the next one, also a while after its end, for one key alone."""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sie_core import identity
from sie_core.identity import Identity, KeyKind, PeerIdentity, PrivateKey
from sie_hub.enrol.renewals import MAX_RENEWALS, PERIOD, RenewalRefused, RenewalStore
from sie_hub.enrol.state import MAX_ISSUED

from .broker import free_port
from .conftest import EXCHANGE, Held, Pki
from .enrol_unit import Enrol, running

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(CURL is None, reason="curl, a client that is not ours, is not installed")

GRACE = timedelta(days=30)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enrol]:
    with running(tmp_path_factory.mktemp("renewal")) as made:
        yield made


def new_key() -> PrivateKey:
    return identity.generate_key(KeyKind.ED25519, os.urandom)


def renew(hub: Enrol, shown: Held | None, key: PrivateKey, who: str = "isp_a/ns1") -> tuple[int, bytes]:
    """Status and body of a renewal by curl, for `key`, showing a certificate."""
    assert CURL is not None
    participant, _, sensor = who.partition("/")
    request = identity.make_request(key, Identity(EXCHANGE, participant, sensor))
    credentials = [] if shown is None else ["--cert", str(shown.certificate), "--key", str(shown.key)]
    done = subprocess.run(
        [
            *(CURL, "--silent", "--show-error", "--cacert", str(hub.ca), *credentials),
            *("--header", "Content-Type: application/pkcs10", "--data-binary", "@-"),
            *("--write-out", "\n%{http_code}", f"{hub.url}/.well-known/est/simplereenroll"),
        ],
        input=base64.encodebytes(request),
        capture_output=True,
        timeout=60,
        check=True,
    )
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


def renewed_until_refused(hub: Enrol, shown: Held, key: PrivateKey, who: str) -> tuple[int, str]:
    """Status and sentence of the first renewal that is refused, or of the last within ten seconds.

    The same key may ask again, so that asking does no harm until the unit has read the registry.
    """
    deadline = datetime.now(UTC) + timedelta(seconds=10)
    status, sentence = 200, ""
    while status == 200 and datetime.now(UTC) < deadline:
        hub.pause(0.2)
        status, body = renew(hub, shown, key, who)
        sentence = body.decode()
    return status, sentence


def renewed(hub: Enrol, shown: Held, key: PrivateKey, who: str = "isp_a/ns1") -> Held:
    """What a renewal that must be granted gives, as files beside the old ones."""
    status, body = renew(hub, shown, key, who)
    assert status == 200, body
    [certificate] = identity.decode_certs_only(base64.b64decode(body))
    held = Held(shown.certificate.with_suffix(".next.pem"), shown.key.with_suffix(".next.key"))
    held.certificate.write_bytes(identity.certificate_to_pem(certificate))
    held.key.write_bytes(identity.private_key_to_pem(key))
    return held


def refusal(hub: Enrol, shown: Held | None, key: PrivateKey, who: str = "isp_a/ns1") -> tuple[int, str]:
    """Status and sentence of a renewal that must be refused."""
    status, body = renew(hub, shown, key, who)
    assert body.count(b"\n") == 1, body
    return status, body.decode().strip()


def revoke_key(hub: Enrol, sensor: str, key: str) -> None:
    """Revoke a key in the registry, as an operator does."""
    path = hub.directory / "participants" / "isp_a.yml"
    document = yaml.safe_load(path.read_text())
    document["sensors"][sensor].setdefault("revoked_keys", []).append(key)
    fresh = path.with_name(".isp_a.new")
    fresh.write_text(yaml.safe_dump(document))
    fresh.replace(path)


def revoke_serial(hub: Enrol, sensor: str, held: Held) -> None:
    """Revoke a certificate in the registry, as an operator's play does."""
    path = hub.directory / "participants" / "isp_a.yml"
    document = yaml.safe_load(path.read_text())
    document["sensors"][sensor]["revoked_serials"] = [held.serial]
    fresh = path.with_name(".isp_a.new")
    fresh.write_text(yaml.safe_dump(document))
    fresh.replace(path)


@pytest.mark.parametrize("new", [True, False], ids=["for a new key", "for the same key"])
def test_a_certificate_is_renewed(hub: Enrol, new: bool) -> None:
    sensor = "ns1" if new else "ns2"
    old = hub.pki.sensor(sensor=sensor)
    key = new_key() if new else identity.private_key_from_pem(old.key.read_bytes())
    before = hub.count("renewed")
    fresh = renewed(hub, old, key, f"isp_a/{sensor}")
    certificate = x509.load_pem_x509_certificate(fresh.certificate.read_bytes())
    peer = identity.check_peer(
        certificate.public_bytes(Encoding.DER),
        authorities=[hub.pki.ca],
        exchange=EXCHANGE,
        now=datetime.now(UTC),
    )
    assert (peer.participant, peer.sensor) == ("isp_a", sensor)
    assert peer.fingerprint == identity.fingerprint(key.public_key())
    assert fresh.serial != old.serial
    assert peer.not_after - datetime.now(UTC) > timedelta(days=29)
    assert hub.count("renewed") == before + 1
    [line] = [line for line in hub.log().splitlines() if f'by="certificate {old.serial}"' in line]
    assert peer.fingerprint in line


class Agent:
    """A sensor with its files, and `sie-agent` run on them."""

    def __init__(self, directory: Path, hub: Enrol, sensor: str, held: Held | None = None) -> None:
        self.identity = directory / "identity"
        if held is not None:
            self.identity.mkdir(mode=0o700)
            shutil.copy(held.certificate, self.identity / "certificate.pem")
            shutil.copy(held.key, self.identity / "key.pem")
        self.config = directory / "agent.yml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "participant": "isp_a",
                    "sensor": sensor,
                    "exchange": EXCHANGE,
                    "resolvers": ["192.0.2.53"],
                    "sources": [{"interface": "lo"}],
                    "spool": {"directory": str(directory / "spool")},
                    "uplink": {"hubs": ["wss://localhost:1"], "ca": str(hub.ca), "enrol": hub.url},
                    "identity": {"directory": str(self.identity)},
                    "metrics": {"listen": f"127.0.0.1:{free_port()}"},
                }
            )
        )

    @property
    def serial(self) -> str:
        """Of the certificate that is in place."""
        return Held(self.identity / "certificate.pem", self.identity / "key.pem").serial

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of `sie-agent` that ends."""
        return subprocess.run(
            [sys.executable, "-m", "sie_agent.cli", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=60,
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[Path]:
        """`sie-agent run`, until the context ends; gives its log."""
        log = self.config.with_suffix(".log")
        command = [sys.executable, "-m", "sie_agent.cli", "run", "--config", str(self.config)]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stderr=out)
        try:
            yield log
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, log.read_text()


def test_an_agent_renews_by_itself_at_two_thirds_of_a_life(hub: Enrol, tmp_path: Path) -> None:
    old = hub.pki.sensor(sensor="ns10", at=datetime.now(UTC) - timedelta(days=22))
    agent = Agent(tmp_path, hub, "ns10", old)
    with agent.running() as log:
        deadline = datetime.now(UTC) + timedelta(seconds=30)
        while agent.serial == old.serial:
            assert datetime.now(UTC) < deadline, log.read_text()
            hub.pause(0.1)
        while "is in place" not in log.read_text():
            assert datetime.now(UTC) < deadline, log.read_text()
            hub.pause(0.1)
        status = json.loads(agent.run("status", "--json").stdout)
    assert sorted(path.name for path in agent.identity.iterdir()) == ["certificate.pem", "key.pem"]
    assert (agent.identity / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (agent.identity / "key.pem").read_bytes() != old.key.read_bytes()
    assert (status["identity"]["serial"], status["identity"]["renewed"]) == (agent.serial, 1)
    shown = json.loads(agent.run("identity", "show", "--json").stdout)
    assert (shown["state"], shown["serial"]) == ("valid", agent.serial)


def test_an_agent_leaves_a_young_certificate_alone(hub: Enrol, tmp_path: Path) -> None:
    young = hub.pki.sensor(sensor="ns11", at=datetime.now(UTC) - timedelta(days=19))
    agent = Agent(tmp_path, hub, "ns11", young)
    before = hub.count("renewed")
    with agent.running() as log:
        deadline = datetime.now(UTC) + timedelta(seconds=30)
        # The uplink comes round after the first look at the certificate.
        while "no session with" not in log.read_text():
            assert datetime.now(UTC) < deadline, log.read_text()
            hub.pause(0.1)
        # What is installed by hand meanwhile is taken up.
        done = agent.run("identity", "renew", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["serial"] == agent.serial != young.serial
        while f"certificate {agent.serial} is in place" not in log.read_text():
            assert datetime.now(UTC) < deadline, log.read_text()
            hub.pause(0.1)
    assert hub.count("renewed") == before + 1


def test_an_agent_that_is_refused_says_so_and_keeps_what_it_has(hub: Enrol, tmp_path: Path) -> None:
    too_late = hub.pki.sensor(sensor="ns12", at=datetime.now(UTC) - timedelta(days=61))
    agent = Agent(tmp_path, hub, "ns12", too_late)
    with agent.running() as log:
        deadline = datetime.now(UTC) + timedelta(seconds=30)
        while "is not renewed: the hub refused" not in log.read_text():
            assert datetime.now(UTC) < deadline, log.read_text()
            hub.pause(0.1)
        status = json.loads(agent.run("status", "--json").stdout)
    assert "enrol again" in status["identity"]["last_error"]
    assert (status["identity"]["refused"], agent.serial) == (1, too_late.serial)
    assert "PRIVATE" not in log.read_text()


def test_a_request_is_carried_by_hand(hub: Enrol, tmp_path: Path) -> None:
    """For estates that let no host ask: neither side opens a connection, and no key moves."""
    agent = Agent(tmp_path, hub, "ns13")
    request = tmp_path / "ns13.csr"
    request.write_text(agent.run("identity", "csr").stdout)
    assert agent.run("identity", "csr").stdout == request.read_text()  # the same key waits
    assert "PRIVATE" not in request.read_text()
    authority = tmp_path / "ca"
    authority.mkdir()
    shutil.copy(hub.pki.ca_held.certificate, authority / "ca.pem")
    shutil.copy(hub.pki.ca_held.key, authority / "ca.key")
    who = ("--participant", "isp_a", "--sensor", "ns13")
    signed = hub.run("ca", "sign", "--ca-directory", str(authority), *who, str(request))
    assert signed.returncode == 0, signed.stderr
    said = json.loads(signed.stdout)
    carried = tmp_path / "ns13.pem"
    carried.write_text(said["certificate"])
    tried = json.loads(agent.run("identity", "install", str(carried), "--check", "--json").stdout)
    assert (tried["changed"], tried["state"], tried["pending"]) == (True, "none", True)
    assert [path.name for path in agent.identity.iterdir()] == ["key.new.pem"]
    done = agent.run("identity", "install", str(carried), "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["pending"] is False
    assert (shown["changed"], shown["state"], shown["serial"]) == (True, "valid", said["serial"])
    assert shown["fingerprint"] == said["fingerprint"]
    again = json.loads(agent.run("identity", "install", str(carried), "--json").stdout)
    assert again["changed"] is False
    assert sorted(path.name for path in agent.identity.iterdir()) == ["certificate.pem", "key.pem"]


def test_a_certificate_for_another_key_or_name_is_not_installed(hub: Enrol, tmp_path: Path) -> None:
    agent = Agent(tmp_path, hub, "ns14")
    request = tmp_path / "ns14.csr"
    request.write_text(agent.run("identity", "csr").stdout)
    other = agent.run("identity", "install", str(hub.pki.sensor(sensor="ns14").certificate))
    assert other.returncode == 2
    assert "holds no certificate for this sensor's key" in other.stderr
    authority = tmp_path / "ca"
    authority.mkdir()
    shutil.copy(hub.pki.ca_held.certificate, authority / "ca.pem")
    shutil.copy(hub.pki.ca_held.key, authority / "ca.key")
    who = ("--participant", "isp_a", "--sensor", "ns15")
    signed = json.loads(hub.run("ca", "sign", "--ca-directory", str(authority), *who, str(request)).stdout)
    carried = tmp_path / "ns15.pem"
    carried.write_text(signed["certificate"])
    wrong = agent.run("identity", "install", str(carried))
    assert wrong.returncode == 2
    assert "the certificate is that of isp_a/ns15, this sensor is isp_a/ns14" in wrong.stderr
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    refused = hub.run("ca", "sign", "--ca-directory", str(authority), *who, str(nonsense))
    assert (refused.returncode, "no certificate request in PEM" in refused.stderr) == (1, True)


def test_the_request_cannot_ask_for_another_sensor(hub: Enrol) -> None:
    """Name and usage come from the certificate that was shown, never from the request."""
    old = hub.pki.sensor(sensor="ns3")
    fresh = renewed(hub, old, new_key(), "uni_b/ns9")
    certificate = x509.load_pem_x509_certificate(fresh.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(f"sie://{EXCHANGE}/isp_a/ns3")]


def test_an_answer_that_got_lost_is_given_again_to_the_same_key_alone(hub: Enrol) -> None:
    old, key = hub.pki.sensor(sensor="ns4"), new_key()
    first = renewed(hub, old, key, "isp_a/ns4").serial
    assert renewed(hub, old, key, "isp_a/ns4").serial != first
    thief = new_key()
    before = hub.count("refused_renewed_by_other")
    status, sentence = refusal(hub, old, thief, "isp_a/ns4")
    assert (status, "renewed with another key" in sentence) == (403, True)
    assert hub.count("refused_renewed_by_other") == before + 1
    [line] = [line for line in hub.log().splitlines() if "ALARM" in line and old.serial in line]
    assert "critical" in line
    for one in (key, thief):
        assert identity.fingerprint(one.public_key()) in line


def test_an_expired_certificate_can_be_renewed_within_the_grace_and_not_after(hub: Enrol) -> None:
    now = datetime.now(UTC)
    # Thirty days of life each, and older than the CA, which nobody minds.
    late = hub.pki.sensor(sensor="ns5", at=now - timedelta(days=59))
    assert renewed(hub, late, new_key(), "isp_a/ns5")
    too_late = hub.pki.sensor(sensor="ns6", at=now - timedelta(days=61))
    status, sentence = refusal(hub, too_late, new_key(), "isp_a/ns6")
    assert status == 403
    assert "expired" in sentence
    assert "enrol again" in sentence


def test_no_certificate_no_renewal(hub: Enrol) -> None:
    status, sentence = refusal(hub, None, new_key())
    assert (status, "no certificate was shown" in sentence) == (401, True)


def test_a_token_does_not_renew(hub: Enrol) -> None:
    status, _headers, body = hub.ask(
        "isp_a/ns1",
        hub.token("ns1"),
        base64.encodebytes(identity.make_request(new_key(), Identity(EXCHANGE, "isp_a", "ns1"))),
        path="simplereenroll",
    )
    assert (status, b"no certificate was shown" in body) == (401, True)


def test_a_certificate_of_another_authority_does_not_get_through_tls(hub: Enrol, tmp_path: Path) -> None:
    stranger = Pki(tmp_path / "stranger").sensor()
    before = hub.count("tls_other_authority")
    with pytest.raises(subprocess.CalledProcessError):
        renew(hub, stranger, new_key())
    assert hub.count("tls_other_authority") == before + 1


def test_who_is_revoked_does_not_renew(hub: Enrol) -> None:
    status, sentence = refusal(hub, hub.pki.sensor(sensor="gone"), new_key(), "isp_a/gone")
    assert (status, "revoked: the host was stolen" in sentence) == (403, True)
    late = hub.pki.sensor("late", "ns1")
    status, sentence = refusal(hub, late, new_key(), "late/ns1")
    assert (status, "terminated" in sentence) == (403, True)
    unknown = hub.pki.sensor(sensor="unheard-of")
    assert refusal(hub, unknown, new_key(), "isp_a/unheard-of")[0] == 403


def test_what_was_renewed_from_a_revoked_certificate_is_not_renewed_again(hub: Enrol) -> None:
    """Whoever stole a key may have renewed its certificate before the theft was noticed."""
    stolen = hub.pki.sensor(sensor="ns7")
    child = renewed(hub, stolen, new_key(), "isp_a/ns7")
    grandchild = renewed(hub, child, new_key(), "isp_a/ns7")
    revoke_serial(hub, "ns7", stolen)
    status, sentence = renewed_until_refused(hub, grandchild, new_key(), "isp_a/ns7")
    assert (status, "is revoked" in sentence) == (403, True)


@pytest.mark.parametrize("which", ["shown", "wanted"])
def test_a_revoked_key_neither_renews_nor_is_renewed_to(hub: Enrol, which: str) -> None:
    held, key = hub.pki.sensor(sensor="ns10"), new_key()
    shown = identity.private_key_from_pem(held.key.read_bytes())
    revoked = identity.fingerprint((shown if which == "shown" else key).public_key())
    revoke_key(hub, "ns10", revoked)
    status, sentence = renewed_until_refused(hub, held, key, "isp_a/ns10")
    assert status == 403
    assert f"the key {revoked} is revoked" in sentence


def test_what_was_issued_until_a_moment_neither_renews_nor_enrols(hub: Enrol) -> None:
    """Whoever stole a key may have renewed its certificate for one of his own, and hold the token too."""
    token, key = hub.token("ns19"), new_key()
    request = identity.make_request(key, Identity(EXCHANGE, "isp_a", "ns19"))
    certificate = hub.enrol("ns19", token, request)
    of_thief = renewed(hub, hub.pki.sensor(sensor="ns19"), new_key(), "isp_a/ns19")
    command = ("registry", "sensor", "revoke", "isp_a", "ns19", "--reason", "stolen", "--all")
    done = hub.run(*command, "--config", str(hub.config))
    assert done.returncode == 0, done.stderr
    status, sentence = renewed_until_refused(hub, of_thief, new_key(), "isp_a/ns19")
    assert (status, "is revoked" in sentence) == (403, True)
    assert hub.refused("ns19", token, request) == (
        403,
        "this token is revoked: ask the exchange's operator for a new one",
    )
    hub.pause(1.0)  # times are kept to the second
    fresh = hub.enrol("ns19", hub.token("ns19"), request)
    assert fresh.serial_number != certificate.serial_number


def test_renewals_without_end_are_not_given(hub: Enrol) -> None:
    old, key = hub.pki.sensor(sensor="ns8"), new_key()
    for _ in range(MAX_ISSUED):
        renewed(hub, old, key, "isp_a/ns8")
    assert refusal(hub, old, key, "isp_a/ns8")[0] == 429


def test_renewals_are_listed(hub: Enrol) -> None:
    old = hub.pki.sensor(sensor="ns9")
    fresh = renewed(hub, old, new_key(), "isp_a/ns9")
    listed = hub.run("renewal", "list", "--participant", "isp_a", "--config", str(hub.config), "--json")
    assert listed.returncode == 0, listed.stderr
    [renewal] = [one for one in json.loads(listed.stdout)["renewals"] if one["sensor"] == "ns9"]
    assert renewal["serial"] == old.serial
    assert [one["serial"] for one in renewal["issued"]] == [fresh.serial]
    table = hub.run("renewal", "list", "--config", str(hub.config)).stdout
    assert old.serial in table
    assert renewal["bound_key"] in table


def test_a_sensor_renews_no_chain_without_end(tmp_path: Path, pki: Pki) -> None:
    store = RenewalStore(tmp_path / "state", GRACE)
    [certificate] = identity.certificates_from_pem(pki.sensor().certificate.read_bytes())
    now = datetime.now(UTC)

    def renew_as(sensor: str, number: int, at: datetime) -> None:
        peer = PeerIdentity(EXCHANGE, "isp_a", sensor, f"{number + 1:x}", at, at + GRACE, "SHA256:one")
        store.redeem(peer, "SHA256:two", now=at, issue=lambda: certificate)

    for number in range(MAX_RENEWALS):
        renew_as("ns1", number, now)
    with pytest.raises(RenewalRefused, match="100 certificates within 30 days") as refused:
        renew_as("ns1", MAX_RENEWALS, now)
    assert refused.value.reason == "used_up"
    renew_as("ns1", 0, now)  # an answer that was lost is given again
    renew_as("ns2", MAX_RENEWALS + 1, now)
    renew_as("ns1", MAX_RENEWALS, now + PERIOD)


def test_a_renewal_is_forgotten_once_nothing_of_it_can_be_renewed(tmp_path: Path, pki: Pki) -> None:
    store = RenewalStore(tmp_path / "state", GRACE)
    then = datetime(2026, 1, 1, tzinfo=UTC)

    def redeem(sensor: str, now: datetime) -> None:
        held = pki.sensor(sensor=sensor, at=now)
        peer = identity.check_peer(
            x509.load_pem_x509_certificate(held.certificate.read_bytes()).public_bytes(Encoding.DER),
            authorities=[pki.ca],
            exchange=EXCHANGE,
            now=datetime.now(UTC),
            grace=timedelta(days=3650),
        )
        again = pki.sensor(sensor=f"{sensor}-next", at=now)
        store.redeem(
            peer,
            "SHA256:one",
            now=now,
            issue=lambda: x509.load_pem_x509_certificate(again.certificate.read_bytes()),
        )

    redeem("ns1", then)
    redeem("ns2", then + timedelta(days=30) + GRACE)
    assert [one.sensor for one in store.list()] == ["ns1", "ns2"]
    redeem("ns3", then + timedelta(days=31) + GRACE)
    assert [one.sensor for one in store.list()] == ["ns2", "ns3"]
