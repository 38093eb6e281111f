"""The options of every role: specified and defaulted once each, and the two agree by name, type and value."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).parents[2] / "collections/ansible_collections/sie_europe/passive_dns/roles"
TYPES: dict[str, type] = {
    "str": str,
    "path": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list,
    "dict": dict,
}
UNITS = {"_mib": "MiB", "_days": "days", "_seconds": "seconds", "_bytes": "octets", "_port": "TCP port"}


def specified(role: str) -> dict[str, dict[str, Any]]:
    """The options in a role's meta/argument_specs.yml."""
    specs = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text())["argument_specs"]
    options: dict[str, dict[str, Any]] = specs["main"]["options"]
    return options


def defaulted(role: str) -> dict[str, Any]:
    """The values in a role's defaults/main.yml."""
    defaults: dict[str, Any] = yaml.safe_load((ROLES / role / "defaults/main.yml").read_text())
    return defaults


def disagreements(specs: dict[str, dict[str, Any]], defaults: dict[str, Any]) -> list[str]:
    """A sentence for every option of which specification and default do not say the same."""
    found = [f"{name} has a default but is not specified" for name in defaults.keys() - specs.keys()]
    for name, spec in specs.items():
        if spec.get("required", False):
            if name in defaults or "default" in spec:
                found.append(f"{name} is required and yet has a default")
        elif name not in defaults:
            found.append(f"{name} is neither required nor defaulted")
        elif depends_on := re.findall(rf"{{{{.*?({name.partition('_')[0]}_\w+)", str(defaults[name])):
            # What it comes to is for words to say: no one value is its default.
            if "default" in spec or not all(f"O({other}" in spec["description"] for other in depends_on):
                found.append(
                    f"{name} depends on {', '.join(depends_on)}, and its description does not say how"
                )
        elif "default" not in spec:
            found.append(f"{name} does not specify its default {defaults[name]!r}")
        elif (type(defaults[name]), defaults[name]) != (type(spec["default"]), spec["default"]):
            found.append(f"{name} defaults to {defaults[name]!r} but specifies {spec['default']!r}")
        elif type(spec["default"]) is not TYPES[spec["type"]]:
            found.append(f"{name} is a {spec['type']} but defaults to {spec['default']!r}")
    return sorted(found)


roles = pytest.mark.parametrize("role", sorted(path.name for path in ROLES.iterdir()))


@roles
def test_defaults_are_what_is_specified(role: str) -> None:
    assert disagreements(specified(role), defaulted(role)) == []


@roles
def test_every_option_has_prefix_type_description_and_unit(role: str) -> None:
    for name, spec in specified(role).items():
        assert name.startswith(f"{role}_"), name
        assert spec["type"] in TYPES, name
        assert spec["description"].endswith("."), name
        assert spec["type"] != "list" or "elements" in spec, name
        chosen = spec.get("default", spec["choices"][0]) if "choices" in spec else []
        assert set(chosen if isinstance(chosen, list) else [chosen]) <= set(spec.get("choices", [])), name
        for suffix, unit in UNITS.items():
            assert not name.endswith(suffix) or unit in spec["description"], f"{name} does not say its unit"


@pytest.mark.parametrize(
    ("specs", "defaults", "sentence"),
    [
        ({}, {"x_a": 1}, "x_a has a default but is not specified"),
        ({"x_a": {"type": "int"}}, {}, "x_a is neither required nor defaulted"),
        ({"x_a": {"type": "int", "required": True}}, {"x_a": 1}, "x_a is required and yet has a default"),
        ({"x_a": {"type": "int"}}, {"x_a": 1}, "x_a does not specify its default 1"),
        ({"x_a": {"type": "int", "default": 2}}, {"x_a": 1}, "x_a defaults to 1 but specifies 2"),
        ({"x_a": {"type": "int", "default": True}}, {"x_a": 1}, "x_a defaults to 1 but specifies True"),
        ({"x_a": {"type": "str", "default": 1}}, {"x_a": 1}, "x_a is a str but defaults to 1"),
        (
            {"x_a": {"type": "bool", "description": "By itself true."}, "x_b": {"type": "int", "default": 1}},
            {"x_a": "{{ x_b > 0 }}", "x_b": 1},
            "x_a depends on x_b, and its description does not say how",
        ),
    ],
)
def test_a_disagreement_is_found(specs: dict[str, Any], defaults: dict[str, Any], sentence: str) -> None:
    assert disagreements(specs, defaults) == [sentence]
