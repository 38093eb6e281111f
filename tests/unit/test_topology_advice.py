"""Where sensors belong: every set of answers gets advice that the roles can follow."""

import itertools
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from jinja2 import Environment

from sie_agent.config import load_config
from tests.docs.pages import COLLECTION, read
from tests.unit.test_sensor_settings import rendered, written

PLUGIN: Any = runpy.run_path(str(COLLECTION / "plugins/filter/topology_advice.py"))
SPECS = yaml.safe_load((COLLECTION / "roles/onboard/meta/argument_specs.yml").read_text())["argument_specs"]
OPTIONS = SPECS["main"]["options"]["onboard_topology"]["options"]
SWITCHES = [name for name, option in OPTIONS.items() if option["type"] == "bool"]


def advice(**answers: object) -> dict[str, Any]:
    result: dict[str, Any] = PLUGIN["topology_advice"](answers)
    return result


def test_the_role_asks_what_the_filter_knows() -> None:
    assert OPTIONS.keys() == PLUGIN["DEFAULTS"].keys()
    assert OPTIONS["egress"]["choices"] == list(PLUGIN["UPLINKS"])


@pytest.mark.parametrize("egress", PLUGIN["UPLINKS"])
@pytest.mark.parametrize("switches", list(itertools.product([False, True], repeat=len(SWITCHES))))
def test_whatever_is_answered_there_is_one_place_or_a_reason(egress: str, switches: tuple[bool, ...]) -> None:
    told = advice(egress=egress, resolver_hosts=3, **dict(zip(SWITCHES, switches, strict=True)))
    nothing = [sentence for sentence in told["sentences"] if sentence.startswith(PLUGIN["NOTHING"])]
    assert bool(told["vantage"]) == bool(told["sensors"]) == (not nothing)
    assert all(sentence.endswith(".") for sentence in told["sentences"])
    if told["vantage"]:
        assert f"sensor_vantage to {told['vantage']}" in " ".join(told["sentences"])
        assert told["uplink"] == ("sftp" if egress == "ssh" else "trampoline")


@pytest.mark.parametrize(
    ("answers", "vantage", "sensors"),
    [
        ({"dnstap_possible": True, "resolver_hosts": 2, "span_available": True}, "dnstap", 2),
        ({"resolver_hosts": 2}, "onhost", 2),
        ({"resolver_hosts": 4, "install_on_resolvers": False, "span_available": True}, "span", 1),
        ({"resolver_hosts": 4, "install_on_resolvers": False}, "", 0),
        ({"resolver_hosts": 4, "encrypted_upstream": True}, "", 0),
        ({"resolver_hosts": 0, "forwarders": True}, "", 0),
        ({"resolver_hosts": 1, "forwarders": True}, "onhost", 1),
    ],
)
def test_the_place_is_the_one_that_costs_least(answers: dict[str, Any], vantage: str, sensors: int) -> None:
    told = advice(**answers)
    assert (told["vantage"], told["sensors"]) == (vantage, sensors)
    assert any("forward" in sentence for sentence in told["sentences"]) == bool(answers.get("forwarders"))


def test_without_answers_there_is_no_advice() -> None:
    assert advice() == {}


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"resolvers": 2}, "knows no answer resolvers; it asks for resolver_hosts"),
        ({"egress": "fax"}, "egress is 'fax'; it is one of https, proxy, ssh"),
        ({"resolver_hosts": "two"}, "resolver_hosts is 'two'"),
        ({"span_available": "perhaps"}, "span_available is 'perhaps'; it is true or false"),
    ],
)
def test_an_answer_to_another_question_is_named(answers: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AnsibleFilterError, match=sentence):
        advice(**answers)


@pytest.mark.parametrize("vantage", ["onhost", "span", "dnstap"])
def test_the_example_inventory_follows_the_advice(vantage: str, tmp_path: Path) -> None:
    template = (COLLECTION / "roles/onboard/templates/inventory.example.yml.j2").read_text()
    text = (
        Environment()
        .from_string(template)
        .render(onboard_sensors=["ns1", "ns2"], onboard_advice={"vantage": vantage})
    )
    hosts = yaml.safe_load(text)["all"]["children"]["sensors"]["hosts"]
    assert hosts.keys() == {"ns1", "ns2"}
    chosen = {name: value for name, value in hosts["ns1"].items() if name.startswith("sensor_")}
    assert chosen["sensor_vantage"] == vantage
    assert load_config(written(tmp_path, **chosen)).sensor == "ns1"


def test_the_handbook_explains_every_answer() -> None:
    page = read("docs/handbook.md")
    for option in SPECS["main"]["options"].keys() | {f"onboard_topology.{name}" for name in OPTIONS}:
        assert f"`{option}`" in page or f"`{option}:" in page, option


@pytest.mark.parametrize("unit", ["sie-agent.service.j2", "sie-agent-enrol.service.j2"])
@pytest.mark.parametrize("proxy", ["", "http://192.0.2.8:3128"])
def test_a_proxy_is_in_the_environment_of_what_asks_the_hub(unit: str, proxy: str) -> None:
    text = (
        (COLLECTION / "roles/sensor/templates" / unit).read_text().replace("{% include 'sandbox.j2' %}", "")
    )
    lines = str(rendered(text, sensor_uplink_proxy=proxy, sensor_interface="eth0")).splitlines()
    assert [line for line in lines if line.startswith("Environment=")] == (
        [f"Environment=https_proxy={proxy}"] if proxy else []
    )


def test_with_a_proxy_the_proxy_is_the_way_out() -> None:
    assert rendered("{{ sensor_ways_out }}", sensor_uplink_proxy="http://192.0.2.8:3128") == [
        "http://192.0.2.8:3128"
    ]
    assert len(rendered("{{ sensor_ways_out }}")) == 2
