"""The proof that a sensor is received: by its own certificate, in the exchange's probe zone."""

import json
import re
import secrets
from typing import Any

import pytest
from sie_lab import deploy, dns, domains, traffic
from sie_lab.hosts import on
from sie_lab.machine import CommandError, run
from sie_lab.topology import Lab, Participant

from tests.fleet.reader import Reader, await_true

AGENT = "/opt/sie/sie-agent/bin/sie-agent"
WITHIN = 30.0  # seconds from a look-up to the hub's word that it has it
METRICS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9162/metrics').read().decode())"


@pytest.fixture(params=["isp_a", "uni_b"])
def participant(request: pytest.FixtureRequest, lab: Lab) -> Participant:
    return lab.participant(request.param)


def probe(participant: Participant, *options: str) -> dict[str, Any]:
    """`sie-agent probe` on the sensor's host, which ends with another code than 0 if it is not received."""
    words = f"{AGENT} probe --json {' '.join(options)} || true"
    document: dict[str, Any] = json.loads(on(participant.sensor, "sh", "-c", words))
    return document


def counted(lab: Lab) -> float:
    """Transactions that refine has counted as probes."""
    said = on(lab.hub, "python3", "-c", METRICS)
    found = re.search(r'^sie_hub_refine_transactions_total\{outcome="probe"\} (\S+)$', said, re.MULTILINE)
    assert found is not None
    return float(found.group(1))


def test_the_zone_is_delegated_to_the_hub_and_every_name_exists(lab: Lab, participant: Participant) -> None:
    assert lab.probe_server is not None
    name = f"{secrets.token_hex(16)}.probe.example"
    assert traffic.look_up(lab, participant, name, "A") == [str(lab.probe_server.v4)]
    for address in lab.probe_server:
        said = dns.dig(lab, f"@{address}", "+norecurse", f"x.{name}", "TXT")
        assert f"a probe of {lab.exchange}" in said
        assert " aa" in said
        assert "status: REFUSED" in dns.dig(lab, f"@{address}", "+norecurse", "alpha.example", "A")


def test_what_is_looked_up_there_is_received_and_reaches_no_channel(
    lab: Lab, reader: Reader, participant: Participant
) -> None:
    nonce = secrets.token_hex(16)
    before = counted(lab)
    traffic.look_up_many(lab, participant, [f"{nonce}.probe.example", f"{nonce}.wild.example"])
    proof = probe(participant, "--nonce", nonce, "--timeout", f"{WITHIN:g}")
    assert (proof["outcome"], proof["zone"]) == ("received", "probe.example"), proof
    assert proof["received"]["transaction"] == "UDP_QUERY_RESPONSE"
    assert proof["received"]["asked"] <= proof["received"]["answered"] <= proof["received"]["stored"] + 1
    assert counted(lab) > before
    # The name beside it, captured after it, is searchable by now or soon; those of the probe zone never are.
    await_true(lambda: reader.counts(f"{nonce}.wild.example").total() >= 0, WITHIN, "an answer")
    assert reader.counts("probe.example").total() == 0
    # Nobody else is told of it.
    other = next(p for p in lab.participants.values() if p is not participant)
    assert probe(other, "--nonce", nonce, "--timeout", "0")["outcome"] == "not_received"


def test_the_module_waits_for_a_probe(lab: Lab, participant: Participant) -> None:
    nonce = secrets.token_hex(16)
    traffic.look_up(lab, participant, f"{nonce}.probe.example", "A")
    keys = domains.participant_keys(participant)
    said = run(
        [
            *("ansible", "all", "-i", f"{participant.sensor.management},"),
            *("--user", "root", "--private-key", keys.private),
            f"--ssh-common-args=-o UserKnownHostsFile={keys.known_hosts}",
            *("-m", "sie_europe.passive_dns.wait_for_observation", "-a", f"nonce={nonce} timeout={WITHIN:g}"),
        ],
        environment=deploy.operator_environment(),
    )
    result = json.loads(said[said.index("{") :])
    assert not result["changed"]
    assert result["probe"]["outcome"] == "received"


def test_a_sensor_on_the_resolver_makes_the_look_up_itself(lab: Lab) -> None:
    participant = lab.participant("isp_a")
    proof = probe(participant, "--resolver", str(participant.resolver_address.v4), "--timeout", f"{WITHIN:g}")
    assert proof["outcome"] == "received", proof
    assert next(iter(proof["stages"])) == "looked_up"
    assert proof["stages"]["received"]["seconds"] < WITHIN


def test_the_report_says_what_was_proven_and_no_secret(lab: Lab, participant: Participant) -> None:
    report = participant.home / "reports" / f"{participant.name}-{participant.sensor_name}.md"
    text = report.read_text()
    assert (
        "Proven: the hub has received what this sensor captured of the look-up, question and answer." in text
    )
    # The key may have been rotated since: the hub's log tells which it gave a certificate to.
    shown = re.search(r"^\| key \| (SHA256:\S+) \|$", text, re.MULTILINE)
    assert shown is not None
    issued = on(lab.hub, "journalctl", "--no-pager", "--output=cat", "--unit=sie-hub-enrol")
    sensor = f"participant={participant.name} sensor={participant.sensor_name} key={shown.group(1)} "
    assert sensor in issued
    vantage = "span" if lab.span.to is participant.sensor else "onhost"
    assert f"| vantage point | {vantage} |" in text
    assert participant.capture in text
    key = on(participant.sensor, "cat", "/var/lib/sie-agent/identity/key.pem").splitlines()[1]
    assert key not in text
    assert not re.search(r"[0-9a-f]{32}\.", text)


def test_the_name_server_may_do_nothing_but_answer(lab: Lab) -> None:
    pid = on(lab.hub, "systemctl", "show", "--property=MainPID", "--value", "sie-hub-probe").strip()
    said = on(lab.hub, "cat", f"/proc/{pid}/status")
    uid = re.search(r"^Uid:\s+(\d+)", said, re.MULTILINE)
    effective = re.search(r"^CapEff:\s+(\S+)", said, re.MULTILINE)
    assert uid is not None
    assert int(uid.group(1)) > 0
    assert effective is not None
    assert int(effective.group(1), 16) == 1 << 10, "CAP_NET_BIND_SERVICE alone"
    with pytest.raises(CommandError):
        on(lab.hub, "nsenter", "--target", pid, "--mount", "touch", "/etc/sie-hub/probe/written")
