"""What the role `bundle` asks of a host before it installs a release: Python, a fitting release, and room."""

from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.unit.test_sensor_settings import ROLE

BUNDLE = ROLE.parent / "bundle"
MANIFEST = {"program": "sie-agent", "pythons": ["cp311", "cp313"]}
FINE: dict[str, Any] = {
    "inventory_hostname": "ns1",
    "bundle_program": "sie-agent",
    "bundle_release": "/releases/agent.tar",
    "bundle_chosen_python": "/usr/bin/python3",
    "bundle_system": {"package": "python3"},
    "bundle_manifest": MANIFEST,
    "bundle_python_tag": {"rc": 0, "stdout": "cp311"},
    "bundle_installed": {"stat": {"exists": False}},
    "bundle_free_mib": {"stdout_lines": ["Avail", "  300"]},
    "bundle_min_free_mib": 256,
}


def said(**found: Any) -> list[str]:
    """The sentences with which a host is refused of which this is known."""
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for file in ("defaults/main.yml", "vars/main.yml"):
        variables |= loader.load_from_file(str(BUNDLE / file), trusted_as_template=True)
    host = Templar(loader=loader, variables=variables | FINE | found)
    sentences = []
    for task in yaml.safe_load((BUNDLE / "tasks/preflight.yml").read_text()):
        check = task.get("ansible.builtin.assert")
        if check is None or "state" in check["fail_msg"]:
            continue
        conditions = check["that"] if isinstance(check["that"], list) else [check["that"]]
        if not all(host.evaluate_conditional(trust_as_template(one)) for one in conditions):
            sentences.append(str(host.template(trust_as_template(check["fail_msg"]))))
    return sentences


@pytest.mark.parametrize(
    ("found", "sentences"),
    [
        ({}, []),
        ({"bundle_free_mib": {"stdout_lines": ["Avail", "  256"]}}, []),
        (
            {"bundle_free_mib": {"stdout_lines": ["Avail", "  255"]}},
            ["ns1 has 255 MiB free for /opt/sie and needs 256; make room there."],
        ),
        (
            {
                "bundle_free_mib": {"stdout_lines": ["Avail", "  255"]},
                "bundle_installed": {"stat": {"exists": True}},
            },
            [],
        ),
        (
            {"bundle_python_tag": {"rc": 0, "stdout": "cp312"}},
            [
                "/releases/agent.tar holds sie-agent for cp311 and cp313; ns1 needs sie-agent for cp312 "
                "(/usr/bin/python3)."
            ],
        ),
        (
            {"bundle_manifest": {**MANIFEST, "program": "sie-hub"}},
            [
                "/releases/agent.tar holds sie-hub for cp311 and cp313; ns1 needs sie-agent for cp311 "
                "(/usr/bin/python3)."
            ],
        ),
    ],
    ids=["fine", "just room", "no room", "no room, but installed", "another Python", "another program"],
)
def test_a_host_is_refused_with_what_it_lacks(found: dict[str, Any], sentences: list[str]) -> None:
    assert said(**found) == sentences


def test_a_host_without_python_is_told_the_package() -> None:
    first, *_ = said(bundle_python_tag={"rc": 127, "stdout": ""})
    assert first == "ns1 has no /usr/bin/python3; install the package python3 or set bundle_python."
