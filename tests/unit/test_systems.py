"""What the roles know of distributions: which are refused by name; whose users, units, Pythons are whose."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.unit.test_sensor_settings import ROLE, rendered

PAGE = Path(__file__).parents[2] / "docs/reference/systems.md"
PREFLIGHT = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
RESOLVERS = ("unbound", "bind", "pdns_recursor")


def facts(family: str, distribution: str, version: str) -> dict[str, str]:
    """What Ansible finds about a distribution."""
    major = version.split(".")[0]
    return {
        "os_family": family,
        "distribution": distribution,
        "distribution_version": version,
        "distribution_major_version": major,
    }


KNOWN = {
    "Debian 12": (facts("Debian", "Debian", "12.11"), "/usr/bin/python3", "bind"),
    "Debian 13": (facts("Debian", "Debian", "13.1"), "/usr/bin/python3", "bind"),
    "Ubuntu 24.04": (facts("Debian", "Ubuntu", "24.04"), "/usr/bin/python3", "bind"),
    "RedHat 9": (facts("RedHat", "Rocky", "9.4"), "/usr/bin/python3.11", "named"),
    "RedHat 10": (facts("RedHat", "RedHat", "10.0"), "/usr/bin/python3", "named"),
}


def task(name: str) -> dict[str, Any]:
    """A task of the sensor's preflight."""
    (found,) = [task for task in PREFLIGHT if task["name"] == name]
    return dict(found)


def accepted(found: dict[str, str]) -> bool:
    """Whether preflight goes on."""
    check = task("Refuse a system that the role does not know")["ansible.builtin.assert"]
    return bool(rendered("{{ " + check["that"] + " }}", ansible_facts=found))


def chosen_python(found: dict[str, str], **chosen: str) -> str:
    """The interpreter on which the role `bundle` runs a release."""
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for file in ("defaults/main.yml", "vars/main.yml"):
        variables |= loader.load_from_file(str(ROLE.parent / "bundle" / file), trusted_as_template=True)
    variables |= {"ansible_facts": found, **chosen}
    python = Templar(loader=loader, variables=variables).template(
        trust_as_template("{{ bundle_chosen_python }}")
    )
    return str(python)


@pytest.mark.parametrize("system", KNOWN)
def test_each_known_system_has_its_users_units_and_python(system: str) -> None:
    found, python, bind_user = KNOWN[system]
    assert accepted(found)
    file = rendered(
        task("Take what is this distribution's")["ansible.builtin.include_vars"]["file"], ansible_facts=found
    )
    known = yaml.safe_load((ROLE / "vars" / file).read_text())["sensor_dnstap_known"]
    assert tuple(known) == RESOLVERS
    assert known["bind"]["user"] == bind_user
    for resolver in known.values():
        assert set(resolver) == {"package", "user", "unit", "apparmor", "config"}
        assert resolver["unit"].endswith(".service")
    assert chosen_python(found) == python
    assert chosen_python(found, bundle_python="/opt/python/bin/python3.11") == "/opt/python/bin/python3.11"
    assert f"| {system} " in PAGE.read_text()


@pytest.mark.parametrize(
    "found",
    [facts("Debian", "Debian", "11.9"), facts("RedHat", "CentOS", "8"), facts("FreeBSD", "FreeBSD", "14.1")],
    ids=lambda found: f"{found['distribution']} {found['distribution_version']}",
)
def test_another_system_is_refused_by_name(found: dict[str, str]) -> None:
    assert not accepted(found)
    check = task("Refuse a system that the role does not know")["ansible.builtin.assert"]
    said = rendered(check["fail_msg"], inventory_hostname="ns1", ansible_facts=found)
    assert said.startswith(
        f"ns1 runs {found['distribution']} {found['distribution_version']}; the role knows "
    )
    for system in ("Debian 12 and 13", "Ubuntu 24.04", "RedHat 9 and 10"):
        assert system in said


def test_what_is_known_is_what_is_tested() -> None:
    files = rendered("{{ sensor_distribution_files }}")
    keys = {
        rendered("{{ sensor_distribution_release }}", ansible_facts=found) for found, _, _ in KNOWN.values()
    }
    assert set(files) == keys
    assert {path.name for path in (ROLE / "vars").glob("*.yml")} - {"main.yml"} == set(files.values())
