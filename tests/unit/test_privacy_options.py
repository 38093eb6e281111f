"""What privacy options of the role come to: by the file that it writes the agent reads traffic."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.traffic import RESOLVERS, generate, write_pcap
from tests.unit.ansible_module import SIE_AGENT
from tests.unit.test_sensor_settings import ROLE, written

ONBOARD = ROLE.parent / "onboard"
ANSWERS = {
    "onboard_participant": "isp_a",
    "onboard_exchange": "lab.example",
    "onboard_uplink_hubs": ["wss://198.51.100.10:8443"],
    "onboard_enrol_url": "https://198.51.100.10:8444",
}
TRANSACTIONS = 100
BESIDE = {"sensor_interface": "eth0", "sensor_resolvers": [str(resolver) for resolver in RESOLVERS]}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a resolver asked and was answered, below `example.`"""
    path = tmp_path_factory.mktemp("capture") / "up.pcap"
    write_pcap(path, generate(TRANSACTIONS, seed=3, start=time.time() - 2).frames)
    return path


def replayed(capture: Path, folder: Path, **chosen: object) -> tuple[dict[str, Any], bytes]:
    """What the agent counts and writes by the file that the role writes with these variables."""
    config = written(folder, **BESIDE, **chosen)
    out = folder / "out.nmsg"
    command = [SIE_AGENT, "replay", str(capture), "--config", str(config), "--json"]
    done = subprocess.run(
        [*command, "--write", str(out), "--uncompressed"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), out.read_bytes()


def times_found(octets: bytes) -> int:
    """How often an address of the resolver stands in what was written."""
    return sum(octets.count(resolver.packed) for resolver in RESOLVERS)


def from_the_bundle(recipient: dict[str, str]) -> dict[str, Any]:
    """What a bundle tells sensors by itself, where its operator has answered this of the hub."""
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for file in ("defaults/main.yml", "vars/main.yml"):
        variables |= loader.load_from_file(str(ONBOARD / file), trusted_as_template=True)
    variables |= {**ANSWERS, **recipient}
    values: dict[str, Any] = Templar(loader=loader, variables=variables).template(
        trust_as_template("{{ onboard_values }}")
    )
    return values


@pytest.mark.parametrize(
    ("answered", "chosen", "named"),
    [
        ({}, {}, False),
        ({"onboard_recipient": "exchange"}, {}, False),
        ({"onboard_recipient": "own_soc"}, {}, True),
        ({"onboard_recipient": "exchange"}, {"sensor_clear_resolver_address": False}, True),
        ({"onboard_recipient": "own_soc"}, {"sensor_clear_resolver_address": True}, False),
    ],
    ids=["unsaid", "to the exchange", "to the own SOC", "kept all the same", "cleared all the same"],
)
def test_the_resolvers_address_is_cleared_on_the_way_to_the_exchange(
    capture: Path, tmp_path: Path, answered: dict[str, str], chosen: dict[str, object], named: bool
) -> None:
    counted, octets = replayed(capture, tmp_path, **{**from_the_bundle(answered), **chosen})
    assert counted["transactions"]["total"] == TRANSACTIONS
    assert octets
    assert times_found(octets) >= TRANSACTIONS if named else times_found(octets) == 0


def test_a_sensor_that_no_bundle_has_told_anything_clears(capture: Path, tmp_path: Path) -> None:
    assert times_found(replayed(capture, tmp_path)[1]) == 0


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ({"sensor_local_zones": ["example"]}, "local_zone"),
        ({"sensor_exclude_qname_regex": r"[.]example$"}, "qname_regex"),
    ],
)
def test_what_is_kept_out_is_counted_and_nowhere_written(
    capture: Path, tmp_path: Path, chosen: dict[str, object], reason: str
) -> None:
    recorded = replayed(capture, tmp_path)[0]["messages"]["recorded"]
    counted, written_octets = replayed(capture, tmp_path, **chosen)
    assert counted["messages"]["filtered"][reason] == recorded
    assert (counted["messages"]["recorded"], counted["transactions"]["total"]) == (0, 0)
    assert written_octets == b""


def test_what_does_not_match_stays(capture: Path, tmp_path: Path) -> None:
    others = {"sensor_local_zones": ["corp.invalid"], "sensor_exclude_qname_regex": "^nowhere[.]"}
    assert replayed(capture, tmp_path, **others)[0]["transactions"]["total"] == TRANSACTIONS


@pytest.mark.parametrize(("chosen", "let_in"), [({}, False), ({"sensor_suppress_special_use": False}, True)])
def test_names_without_a_place_in_the_public_dns_stay_out_unless_they_are_let_in(
    capture: Path, tmp_path: Path, chosen: dict[str, object], let_in: bool
) -> None:
    special = tmp_path / "special.pcap"
    special.write_bytes(capture.read_bytes().replace(b"\7example", b"\7invalid"))
    messages = replayed(special, tmp_path, **chosen)[0]["messages"]
    assert messages["recorded"] + messages["filtered"]["local_zone"] >= TRANSACTIONS
    assert (messages["recorded"] > 0) is let_in
    assert (messages["filtered"]["local_zone"] == 0) is let_in


def test_types_of_transactions_that_are_not_listed_stay_out(capture: Path, tmp_path: Path) -> None:
    by_type = replayed(capture, tmp_path)[0]["transactions"]
    assert by_type["unanswered_query"] > 0
    chosen = replayed(capture, tmp_path, sensor_transaction_types=["query_response"])[0]["transactions"]
    assert (chosen["query_response"], chosen["unanswered_query"]) == (by_type["query_response"], 0)


def test_packets_of_queries_are_kept_where_that_is_chosen_alone(capture: Path, tmp_path: Path) -> None:
    without, chosen = replayed(capture, tmp_path), replayed(capture, tmp_path, sensor_keep_query_packets=True)
    assert len(chosen[1]) > len(without[1])
    assert chosen[0]["transactions"] == without[0]["transactions"]
