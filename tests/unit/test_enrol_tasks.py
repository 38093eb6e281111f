"""The role's enrolment, on a sensor that has its certificate already."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.docs.pages import COLLECTION


def test_a_token_that_a_run_cut_short_has_left_is_removed(tmp_path: Path) -> None:
    token = tmp_path / "enrol_token"
    token.write_text("A" * 43)
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": yaml.safe_load((COLLECTION / "roles/sensor/tasks/enrol.yml").read_text()),
        "vars": {
            "ansible_python_interpreter": sys.executable,
            "sensor_enrolled": True,
            "sensor_token_file": str(token),
            "sensor_uplink": "trampoline",
        },
    }
    path = tmp_path / "play.yml"
    path.write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", path],
        env={**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not token.exists()
    assert "skipped=3" in done.stdout, "nothing was enrolled"
