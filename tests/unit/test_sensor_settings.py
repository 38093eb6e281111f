"""The configuration that the sensor role writes: every key of the agent's table, and no mistake in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sie_agent.config import TABLE, AgentConfig, load_config

ROLE = Path(__file__).parents[2] / "collections/ansible_collections/sie_europe/passive_dns/roles/sensor"
FROM_THE_BUNDLE = {
    "sensor_participant": "isp_a",
    "sensor_exchange": "lab.example",
    "sensor_uplink_hubs": ["wss://198.51.100.10:8443"],
    "sensor_enrol_url": "https://198.51.100.10:8444",
    "ansible_managed": "Written by a test.",
}
PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.template": {"src": "agent.yml.j2", "dest": "{{ out }}"}}],
    }
]


def written(directory: Path, **chosen: object) -> Path:
    """The file that the role's template makes of these variables and the role's defaults."""
    play, given, out = directory / "play.yml", directory / "given.json", directory / "agent.yml"
    tasks = [{**PLAY[0], "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")]}]
    play.write_text(yaml.safe_dump(tasks))
    template = directory / "agent.yml.j2"
    template.write_text((ROLE / "templates/agent.yml.j2").read_text())
    given.write_text(json.dumps({**FROM_THE_BUNDLE, "sensor_name": "ns1", "out": str(out), **chosen}))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local"]
    done = subprocess.run(
        [*command, str(play), "-e", f"@{given}", "-e", f"ansible_python_interpreter={sys.executable}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
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
        sensor_vantage="span",
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
    assert [(source.interface, source.promiscuous) for source in config.interfaces] == [("span0", True)]
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
    assert missing <= {"sources[].dnstap"}  # in the place of an interface


def test_the_roles_defaults_are_the_agents(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, sensor_interface="eth0", sensor_resolvers=["host"]))
    least = tmp_path / "least.yml"
    least.write_text(
        "participant: isp_a\nsensor: ns1\nexchange: lab.example\nresolvers: [host]\n"
        'sources: [{interface: eth0}]\nuplink: {hubs: ["wss://198.51.100.10:8443"], '
        'enrol: "https://198.51.100.10:8444"}\n'
    )
    by_itself: AgentConfig = load_config(least)
    assert config == by_itself
