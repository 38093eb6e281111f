"""docs/reference/roles.md, from the roles' argument_specs; `python -m tests.unit.roles_page` writes it."""

import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
ROLES = REPOSITORY / "collections/ansible_collections/sie_europe/passive_dns/roles"
PAGE = REPOSITORY / "docs/reference/roles.md"
ORDER = ("hub", "onboard", "sensor", "bundle")

HEAD = """# Roles

Every option of the collection's roles; `ansible-doc -t role sie_europe.passive_dns.ROLE` shows the same.
`python -m tests.unit.roles_page` makes this page from the roles' `meta/argument_specs.yml`. A test compares
the two, and another the specifications with the defaults.

| role | runs on | its options are set by |
|---|---|---|
| [`hub`](#hub) | the hub's host (playbook `hub`) | the hub's operator |
| [`onboard`](#onboard) | the hub's host and the controller (`onboard_participant`) | the hub's operator |
| [`sensor`](#sensor) | each sensor's host (`configure_my_sensor`) | the participant; the bundle |
| [`bundle`](#bundle) | both | the roles `hub` and `sensor`, which use it |

`hub` and `sensor` run in phases, each a tag of its own: `preflight`, `install`, `configure`, `run`, `verify`.
Preflight finds contradictions before anything is changed and says each in one sentence; verify proves the
result by what the hub answers. `--check` works on a fresh host, and a second run changes nothing.
"""


def plain(text: str) -> str:
    """Ansible's markup as Markdown, on one line."""
    text = re.sub(r"O\(([^)]*)\)C\(([^)]*)\)", r"`\1\2`", text)
    text = re.sub(r"(?:O|C|V)\(([^)]*)\)", r"`\1`", text)
    return " ".join(text.split()).replace("|", "\\|")


def default_of(option: dict[str, Any]) -> str:
    """What an option is without being set."""
    if option.get("required", False):
        return "required"
    if "default" not in option:
        return "depends"
    value = option["default"]
    if value == "":
        return "empty"
    if isinstance(value, list) and value:
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def type_of(option: dict[str, Any]) -> str:
    """What an option takes."""
    kind = str(option["elements"] if option["type"] == "list" else option["type"])
    if "choices" in option:
        kind = " or ".join(f"`{choice}`" for choice in option["choices"])
    return f"list of {kind}" if option["type"] == "list" else kind


def section(role: str) -> str:
    """One role's part of the page."""
    spec = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]
    rows = [
        f"| `{name}` | {type_of(option)} | {default_of(option)} | {plain(option['description'])} |"
        for name, option in spec["options"].items()
    ]
    described = [plain(sentence) for sentence in spec["description"]]
    table = ["| option | type | default | |", "|---|---|---|---|", *rows]
    return "\n".join([f"## `{role}`", "", f"{spec['short_description']}.", "", *described, "", *table, ""])


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *map(section, ORDER)])


if __name__ == "__main__":
    PAGE.write_text(page())
