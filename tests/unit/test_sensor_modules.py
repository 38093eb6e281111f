"""sensor_identity, sensor_info and wait_for_observation on a sensor of a whole exchange on loopback."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.traffic import RESOLVERS, generate, write_pcap
from tests.unit.ansible_module import SIE_AGENT, SIE_HUB, run_module

TRANSACTIONS = 200


@dataclass
class Exchange:
    """A running exchange, and what waiting for its sensor's transactions came to."""

    folder: Path
    waited: dict[str, Any]

    @property
    def agent(self) -> dict[str, Any]:
        """The arguments that name its sensor."""
        return {"program": SIE_AGENT, "config": str(self.folder / "agent.yml")}

    @property
    def hub(self) -> dict[str, Any]:
        """The arguments that name its hub."""
        return {"program": SIE_HUB, "config": str(self.folder / "hub.yml")}

    def another(self, name: str) -> dict[str, Any]:
        """The arguments that name another sensor, which is registered and has not enrolled."""
        wanted = {"name": "isp_a", "signed": "2026-01-01", "sensors": [{"name": name}]}
        assert "failed" not in run_module("hub_participant", self.hub | wanted)
        settings = yaml.safe_load((self.folder / "agent.yml").read_text())
        settings["sensor"] = name
        settings["identity"]["directory"] = str(self.folder / name / "identity")
        settings["spool"]["directory"] = str(self.folder / name / "spool")
        config = self.folder / f"{name}.yml"
        config.write_text(yaml.safe_dump(settings))
        return {"program": SIE_AGENT, "config": str(config)}


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exchange]:
    """`sie-hub demo`: a hub whose one sensor sends a capture, and which stays until the tests are done."""
    folder = tmp_path_factory.mktemp("exchange")
    traffic = generate(TRANSACTIONS, seed=5, start=time.time() - 2)
    write_pcap(folder / "up.pcap", traffic.frames)
    resolvers = [word for resolver in RESOLVERS for word in ("--resolver", str(resolver))]
    command = [SIE_HUB, "demo", "--pcap", str(folder / "up.pcap"), *resolvers, "--agent", SIE_AGENT, "--json"]
    with subprocess.Popen(
        [*command, "--keep"],
        env=os.environ | {"TMPDIR": str(folder), "PATH": f"{Path(SIE_HUB).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        try:
            said = ""
            while "enrolling the sensor" not in said:  # the agent's configuration is there by then
                line = demo.stderr.readline()
                assert line, said
                said += line
            (place,) = folder.glob("sie-demo-*")
            running = Exchange(place, {})
            wanted = {"since": 0, "more": TRANSACTIONS, "interval": 0.2}
            running.waited = run_module("wait_for_observation", running.agent | wanted)
            assert demo.stdout.readline()
            yield running
        finally:
            demo.send_signal(signal.SIGINT)
            _, said = demo.communicate(timeout=60)
    assert demo.returncode == 0, said


def test_waiting_ends_when_the_hub_has_it_all(exchange: Exchange) -> None:
    assert "failed" not in exchange.waited, exchange.waited
    assert exchange.waited["acknowledged"] == exchange.waited["observed"] == TRANSACTIONS
    assert not exchange.waited["changed"]


def test_waiting_for_what_does_not_come_says_so_with_numbers(exchange: Exchange) -> None:
    result = run_module("wait_for_observation", exchange.agent | {"timeout": 0.3, "interval": 0.1})
    assert result["failed"]
    assert result["msg"].startswith("The hub acknowledged 0 transactions of ns1 in ")
    assert f"captured {TRANSACTIONS}, the agent does not run; uplink stopped, no error." in result["msg"]
    assert result["observed"] == 0


def test_waiting_answers_at_once_when_it_is_told_to(exchange: Exchange) -> None:
    for arguments, check in (({"more": 0}, False), ({"more": 5}, True)):
        result = run_module("wait_for_observation", exchange.agent | arguments, check=check)
        assert (result["acknowledged"], result["observed"]) == (TRANSACTIONS, 0)


def test_waiting_for_a_probe_says_why_there_is_none(exchange: Exchange) -> None:
    wanted = {"nonce": "0" * 32, "timeout": 1.0}
    result = run_module("wait_for_observation", exchange.agent | wanted)
    assert result["failed"]
    assert result["probe"]["outcome"] == "unprovable"
    assert result["msg"].startswith("ns1: wss://")
    assert "has no probe zone, so only acknowledgements tell what is received" in result["msg"]
    assert result["acknowledged"] == TRANSACTIONS
    rehearsed = run_module("wait_for_observation", exchange.agent | wanted, check=True)
    assert "failed" not in rehearsed
    assert "probe" not in rehearsed
    wrong = run_module("wait_for_observation", exchange.agent | {"nonce": "www"})
    assert wrong["msg"] == "nonce is www; it is 32 hexadecimal digits in lower case."


def test_what_a_sensor_says_of_itself_holds_no_dns_data(exchange: Exchange) -> None:
    info = run_module("sensor_info", exchange.agent)
    assert (info["installed"], info["configured"], info["running"], info["problems"]) == (
        True,
        True,
        False,
        [],
    )
    assert info["version"].startswith("sie-agent ")
    assert info["identity"]["state"] == "valid"
    accounting = info["accounting"]
    assert accounting["captured"] == TRANSACTIONS
    assert accounting["captured"] == sum(accounting[fate] for fate in ("acknowledged", "pending", "trimmed"))
    assert info["spool"]["pending_containers"] == 0
    said = json.dumps(info)
    for trace in (*map(str, RESOLVERS), "PRIVATE KEY", "resolvers"):
        assert trace not in said


def test_a_sensor_that_is_not_there_is_an_answer(tmp_path: Path) -> None:
    absent = {"program": str(tmp_path / "sie-agent"), "config": str(tmp_path / "agent.yml")}
    info = run_module("sensor_info", absent)
    assert (info["installed"], info["configured"], info["identity"], info["problems"]) == (
        False,
        False,
        None,
        [],
    )
    (tmp_path / "agent.yml").write_text("participant: isp_a\nparticipants: 1\n")
    broken = run_module("sensor_info", absent | {"program": SIE_AGENT})
    assert broken["configured"]
    assert broken["accounting"] is None
    assert "participants" in broken["problems"][0]


def test_a_sensor_enrols_once_with_its_token(exchange: Exchange) -> None:
    sensor = exchange.another("ns2")
    refused = run_module("sensor_identity", sensor)
    assert refused["msg"].startswith("isp_a/ns2 has no valid certificate and no token is given for it")
    secret = run_module("hub_token", exchange.hub | {"participant": "isp_a", "sensor": "ns2"})["secret"]
    tried = run_module("sensor_identity", sensor | {"token": secret}, check=True)
    assert (tried["changed"], tried["serial"]) == (True, None)
    assert not (exchange.folder / "ns2").exists()

    done = run_module("sensor_identity", sensor | {"token": secret})

    assert (done["changed"], done["identity"]["state"]) == (True, "valid")
    assert done["fingerprint"].startswith("SHA256:")
    assert done["diff"]["before"] == tried["diff"]["before"] != done["diff"]["after"]
    assert secret not in json.dumps({name: done[name] for name in done if name != "invocation"})
    assert done["invocation"]["module_args"]["token"] == "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
    again = run_module("sensor_identity", sensor)
    assert (again["changed"], again["serial"]) == (False, done["serial"])
    token = exchange.folder / "ns2" / "token"
    token.write_text(secret)
    forced = run_module("sensor_identity", sensor | {"token_file": str(token), "force": True})
    assert "used by another key" in forced["msg"]


def test_a_certificate_is_renewed_when_it_is_time(exchange: Exchange) -> None:
    before = run_module("sensor_identity", exchange.agent)
    early = run_module("sensor_identity", exchange.agent | {"state": "renewed", "renew_before": 5})
    assert (early["changed"], early["serial"]) == (False, before["serial"])
    due = {"state": "renewed", "renew_before": 31}
    tried = run_module("sensor_identity", exchange.agent | due, check=True)
    assert (tried["changed"], tried["serial"]) == (True, before["serial"])
    done = run_module("sensor_identity", exchange.agent | due)
    assert done["changed"]
    assert (done["serial"], done["fingerprint"]) != (before["serial"], before["fingerprint"])


def test_a_request_is_carried_by_hand(exchange: Exchange) -> None:
    sensor = exchange.another("ns3")
    tried = run_module("sensor_identity", sensor | {"state": "csr"}, check=True)
    assert (tried["changed"], "request" in tried) == (True, False)
    asked = run_module("sensor_identity", sensor | {"state": "csr"})
    again = run_module("sensor_identity", sensor | {"state": "csr"})
    assert (asked["changed"], again["changed"]) == (True, False)
    assert asked["request"] == again["request"]
    authority = ["--ca-directory", str(exchange.folder / "ca"), "--participant", "isp_a", "--sensor", "ns3"]
    signed = subprocess.run(
        [SIE_HUB, "ca", "sign", *authority, "-"],
        input=asked["request"],
        capture_output=True,
        text=True,
        check=True,
    )
    carried = {"state": "installed", "certificate": json.loads(signed.stdout)["certificate"]}
    tried = run_module("sensor_identity", sensor | carried, check=True)
    assert (tried["changed"], tried["identity"]["state"]) == (True, "none")
    done = run_module("sensor_identity", sensor | carried)
    assert (done["changed"], done["identity"]["state"]) == (True, "valid")
    assert done["serial"] == json.loads(signed.stdout)["serial"]
    assert not run_module("sensor_identity", sensor | carried)["changed"]


def test_a_renewal_without_a_certificate_and_a_hub_that_is_not_there(
    exchange: Exchange, tmp_path: Path
) -> None:
    sensor = exchange.another("ns4")
    refused = run_module("sensor_identity", sensor | {"state": "renewed"}, check=True)
    assert refused["msg"] == "isp_a/ns4 has no certificate to renew: enrol with a token first"
    settings = yaml.safe_load(Path(sensor["config"]).read_text())
    settings["uplink"]["enrol"] = "https://127.0.0.1:1"
    Path(sensor["config"]).write_text(yaml.safe_dump(settings))
    shutil.rmtree(exchange.folder / "ns4", ignore_errors=True)
    unreachable = run_module("sensor_identity", sensor | {"token": "0123456789abcdef0123"})
    assert unreachable["failed"]
    assert "https://127.0.0.1:1" in unreachable["msg"]
    assert "\n" not in unreachable["msg"]
