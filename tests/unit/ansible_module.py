"""Run the collection's modules as Ansible does: a process each, arguments in, one JSON object out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

COLLECTIONS = Path(__file__).parents[2] / "collections"
SIE_AGENT = str(Path(sys.executable).with_name("sie-agent"))
SIE_HUB = str(Path(sys.executable).with_name("sie-hub"))

RUN = """
import importlib, json, sys
from ansible.module_utils.testing import patch_module_args
name, arguments = json.load(sys.stdin)
with patch_module_args(arguments):
    importlib.import_module("ansible_collections.sie_europe.passive_dns.plugins.modules." + name).main()
"""


def run_module(name: str, arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """What one of the collection's modules answers, failures included."""
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([name, arguments | {"_ansible_check_mode": check, "_ansible_diff": True}]),
        env=os.environ | {"PYTHONPATH": str(COLLECTIONS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
