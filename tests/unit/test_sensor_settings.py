"""The configuration that the sensor role writes: every key of the agent's table, and no mistake in it."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from sie_agent.config import FIXED, TABLE, AgentConfig, DnstapConfig, load_config

ROLE = Path(__file__).parents[2] / "collections/ansible_collections/sie_europe/passive_dns/roles/sensor"
FROM_THE_BUNDLE = {
    "sensor_participant": "isp_a",
    "sensor_exchange": "lab.example",
    "sensor_uplink_hubs": ["wss://198.51.100.10:8443"],
    "sensor_enrol_url": "https://198.51.100.10:8444",
    "sensor_name": "ns1",
    "ansible_managed": "Written by a test.",
}


def templar(**chosen: object) -> Templar:
    """What templates are evaluated by: these variables and the role's own."""
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for file in ("defaults/main.yml", "vars/main.yml"):
        variables |= loader.load_from_file(str(ROLE / file), trusted_as_template=True)
    variables |= {**FROM_THE_BUNDLE, **chosen}
    return Templar(loader=loader, variables=variables)


def rendered(template: str, **chosen: object) -> Any:
    """What a template gives with these variables and the role's own."""
    return templar(**chosen).template(trust_as_template(template))


def holds(condition: str, **chosen: object) -> bool:
    """Whether a condition of a task holds, in which backslashes mean less than in a template."""
    return bool(templar(**chosen).evaluate_conditional(trust_as_template(condition)))


def written(directory: Path, **chosen: object) -> Path:
    """The file that the role writes with these variables."""
    out = directory / "agent.yml"
    out.write_text(rendered((ROLE / "templates/agent.yml.j2").read_text(), **chosen))
    return out


def keys(document: dict[str, object], place: str = "") -> set[str]:
    """The dotted keys of a file, those of list items as `sources[].interface`."""
    found: set[str] = set()
    for name, value in document.items():
        key = f"{place}{name}"
        if isinstance(value, dict):
            found |= keys(value, f"{key}.")
            continue
        found.add(key)
        if isinstance(value, list):
            for item in value:
                found |= keys(item, f"{key}[].") if isinstance(item, dict) else set()
    return found


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in which every variable differs from its default."""
    return written(
        tmp_path_factory.mktemp("settings"),
        sensor_interface="span0",
        sensor_more_interfaces=["span1"],
        sensor_vantage="span",
        sensor_encapsulated=True,
        sensor_resolvers=["192.0.0.0/12"],
        sensor_transaction_types=["query_response"],
        sensor_keep_query_packets=True,
        sensor_local_zones=["corp.example"],
        sensor_suppress_special_use=False,
        sensor_exclude_qname_regex=r"^ns\d+\.",
        sensor_admit_private_responders=True,
        sensor_admit_every_address=True,
        sensor_spool_max_age=3600,
    )


def test_what_is_chosen_arrives(chosen: Path) -> None:
    config = load_config(chosen)
    interfaces = [(source.interface, source.promiscuous, source.encapsulated) for source in config.interfaces]
    assert interfaces == [("span0", True, True), ("span1", True, True)]
    assert config.resolvers == ("192.0.0.0/12",)
    assert config.transaction_types == ("query_response",)
    assert config.keep_query_packets
    assert config.local_zones == ("corp.example",)
    assert not config.suppress_special_use
    assert config.exclude_qname_regex == r"^ns\d+\."
    assert config.admit_private_responders
    assert config.admit_every_address
    assert config.spool_max_age == 3600


def test_every_key_of_the_agent_has_its_variable(chosen: Path) -> None:
    missing = {key for key, _ in TABLE.rows()} - keys(yaml.safe_load(chosen.read_text()))
    dnstap = {"dnstap", "group", "mode", "senders"}  # in the place of an interface
    assert missing <= {f"sources[].{key}" for key in dnstap}


def test_dnstap_in_the_place_of_an_interface(tmp_path: Path) -> None:
    config = load_config(
        written(
            tmp_path,
            sensor_vantage="dnstap",
            sensor_dnstap_listen=["unix:/run/sie-agent/a", "tcp:192.0.2.10:6000", "unix:/run/sie-agent/b"],
            sensor_dnstap_mode="0666",
            sensor_dnstap_senders=["192.0.2.53"],
        )
    )
    assert (config.interfaces, config.resolvers) == ((), ())
    assert config.dnstap == (
        DnstapConfig("unix:/run/sie-agent/a", "sie-dnstap", 0o666),
        DnstapConfig("unix:/run/sie-agent/b", "sie-dnstap", 0o666),
        DnstapConfig("tcp:192.0.2.10:6000", senders=("192.0.2.53/32",)),
    )
    by_default = load_config(written(tmp_path, sensor_vantage="dnstap"))
    assert by_default.dnstap == (DnstapConfig("unix:/run/sie-agent/dnstap.sock", "sie-dnstap", 0o660),)


def test_the_roles_defaults_are_the_agents(tmp_path: Path) -> None:
    config = load_config(
        written(tmp_path, sensor_interface="eth0", sensor_resolvers=["host"], sensor_recipient="own_soc")
    )
    least = tmp_path / "least.yml"
    least.write_text(
        "participant: isp_a\nsensor: ns1\nexchange: lab.example\nresolvers: [host]\n"
        'sources: [{interface: eth0}]\nuplink: {hubs: ["wss://198.51.100.10:8443"], '
        'enrol: "https://198.51.100.10:8444"}\n'
    )
    by_itself: AgentConfig = load_config(least)
    assert config == by_itself


SAME = {"sensor_interface": "eth0", "sensor_resolvers": ["host"]}


@pytest.mark.parametrize(
    ("before", "suffices"),
    [
        (None, False),
        ({}, True),
        ({"sensor_local_zones": ["corp.example"], "sensor_spool_max_age": 60, "sensor_window": 2}, True),
        ({"sensor_interface": "eth1"}, False),
        ({"sensor_metrics_listen": "[::1]:9153"}, False),
    ],
)
def test_a_reload_suffices_unless_what_is_fixed_changes(
    tmp_path: Path, before: dict[str, object] | None, suffices: bool
) -> None:
    slurped: dict[str, object] = {}
    if before is not None:
        file = written(tmp_path, **{**SAME, **before})
        was = load_config(file)
        slurped = {"content": base64.b64encode(file.read_bytes()).decode()}
        will = load_config(written(tmp_path, **SAME))
        assert (not set(was.changed(will)) & set(FIXED)) is suffices  # the role's list is the agent's own
    assert rendered("{{ sensor_reload_suffices }}", sensor_config_before=slurped, **SAME) is suffices


@pytest.mark.parametrize(
    ("proxy", "taken"),
    [
        ("", True),
        ("http://proxy.example:3128", True),
        ("http://192.0.2.1:3128", True),
        ("http://[2001:db8::1]:3128", True),
        ("http://2001:db8::1:3128", False),
        ("http://[2001:db8::1]", False),
        ("http://user:secret@proxy.example:3128", False),
        ("https://proxy.example:3128", False),
    ],
)
def test_a_proxy_is_one_that_can_be_used(proxy: str, taken: bool) -> None:
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    (check,) = [task["ansible.builtin.assert"] for task in tasks if "proxy" in task["name"]]
    chosen = {"sensor_uplink_proxy": proxy, "inventory_hostname": "ns1"}
    assert holds(check["that"], **chosen) is taken
    assert "secret" not in rendered(check["fail_msg"], **chosen)
    if taken and proxy:
        host = "{{ sensor_ways_out[0] | urlsplit('hostname') }} {{ sensor_ways_out[0] | urlsplit('port') }}"
        place = proxy.removeprefix("http://").removesuffix(":3128").strip("[]")
        assert rendered(host, **chosen) == f"{place} 3128"


FACTS = {
    "interfaces": ["lo", "eth0", "span-0", "span1"],
    "eth0": {"device": "eth0", "active": True, "ipv4": {"address": "192.0.2.7"}},
    "span_0": {"device": "span-0", "active": False, "ipv6": [{"address": "fe80::1", "scope": "link"}]},
    "span1": {"ipv4": {"address": "198.51.100.7"}, "ipv6": [{"address": "2001:db8::7", "scope": "global"}]},
}


@pytest.mark.parametrize(
    ("interfaces", "addresses"),
    [(["span-0"], []), (["span-0", "span1"], ["198.51.100.7", "2001:db8::7"]), (["absent"], [])],
)
def test_addresses_of_all_interfaces_are_seen(interfaces: list[str], addresses: list[str]) -> None:
    found = rendered(
        "{{ sensor_interface_addresses }}",
        sensor_interface=interfaces[0],
        sensor_more_interfaces=interfaces[1:],
        ansible_facts=FACTS,
    )
    assert found == addresses


def test_each_interface_of_a_span_port_is_brought_up() -> None:
    units = rendered(
        "{{ sensor_interface_units }}", sensor_interface="span0", sensor_more_interfaces=["span1"]
    )
    assert units == ["sie-agent-interface@span0.service", "sie-agent-interface@span1.service"]


@pytest.mark.parametrize(
    ("chosen", "refused"),
    [
        ({"sensor_interface": "span-0"}, None),
        ({"sensor_interface": "span-0", "sensor_more_interfaces": ["span2"]}, "has no interface span2 but "),
        (
            {"sensor_interface": "span-0", "sensor_more_interfaces": ["eth0"]},
            "eth0 is the management interface",
        ),
        (
            {"sensor_interface": "span-0", "sensor_more_interfaces": ["span1"]},
            "has the address 198.51.100.7, ",
        ),
        (
            {"sensor_interface": "span-0", "sensor_resolvers": ["host"]},
            "holds the word host, which stands for",
        ),
    ],
)
def test_preflight_looks_at_every_interface(chosen: dict[str, object], refused: str | None) -> None:
    facts = {**FACTS, "default_ipv4": {"interface": "eth0"}}
    variables: dict[str, object] = {
        "sensor_vantage": "span",
        "sensor_resolvers": ["192.0.2.53"],
        "inventory_hostname": "tap1",
        "ansible_facts": facts,
        **chosen,
    }
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    asserts = [
        task["ansible.builtin.assert"]
        for outer in tasks
        for task in outer.get("block", [outer])
        if ("interface" in task["name"] and "down" not in task["name"]) or "own addresses" in task["name"]
    ]
    assert len(asserts) == 4
    said = [
        rendered(check["fail_msg"], **variables)
        for check in asserts
        if not rendered("{{ " + check["that"] + " }}", **variables)
    ]
    if refused is None:
        assert said == []
    else:
        assert refused in said[0]


@pytest.mark.parametrize(("interface", "down"), [("eth0", []), ("span-0", ["span-0"])])
def test_an_interface_of_the_resolver_that_is_down_is_refused(interface: str, down: list[str]) -> None:
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    (task,) = [task for task in tasks if task["name"] == "Refuse an interface that is down"]
    found: dict[str, object] = {
        "sensor_interface": interface,
        "inventory_hostname": "ns1",
        "ansible_facts": FACTS,
    }
    assert rendered("{{ sensor_interfaces_down }}", **found) == down
    assert holds(task["ansible.builtin.assert"]["that"], **found) is (down == [])
    said = rendered(task["ansible.builtin.assert"]["fail_msg"], **found)
    assert down == [] or said.startswith("span-0 of ns1 is down, so that nothing would be recorded there; ")
    assert holds(task["when"], sensor_vantage="onhost")
    assert not holds(task["when"], sensor_vantage="span")
