"""What the hub's operator holds of participants: a playbook for one of them leaves the others alone."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Final

from sie_lab import domains
from sie_lab.hosts import on
from sie_lab.topology import Lab

REGISTRY: Final = "/etc/sie-hub/participants"
TOKENS: Final = "/var/lib/sie-hub-enrol/tokens"
HELD: Final = ("/etc/sie-hub", "/var/lib/sie-hub-enrol")
HANDED_OVER: Final = "onboarding"
# Runs on the hub: whose each of the tokens is that are named.
BEARERS: Final = """
import json, pathlib, sys
print(json.dumps({path: json.loads(pathlib.Path(path).read_text())["participant"] for path in sys.argv[1:]}))
"""


def held(lab: Lab) -> dict[str, str]:
    """SHA-256 by path: files of the hub's that say who may do what, and those that were handed over."""
    listed = on(lab.hub, "find", *HELD, "-type", "f", "-exec", "sha256sum", "{}", "+")
    files = {path: digest for digest, path in (line.split(maxsplit=1) for line in listed.splitlines())}
    operator = domains.state(lab) / "operator"
    for path in (operator / HANDED_OVER).rglob("*"):
        if path.is_file():
            files[str(path.relative_to(operator))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return files


def touched(lab: Lab, before: Mapping[str, str], participant: str) -> list[str]:
    """Files that are not a participant's own and differ from what `held` said before, or are new, or gone."""
    after = held(lab)
    differing = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return sorted(differing - set(_own(lab, differing, participant)))


def _own(lab: Lab, paths: Iterable[str], participant: str) -> list[str]:
    tokens = [path for path in paths if path.startswith(f"{TOKENS}/")]
    bearers = json.loads(on(lab.hub, "/usr/bin/python3", "-c", BEARERS, *tokens))
    return [
        f"{REGISTRY}/{participant}.yml",
        *(path for path in paths if path.startswith(f"{HANDED_OVER}/{participant}/")),
        *(path for path in tokens if bearers[path] == participant),
    ]
