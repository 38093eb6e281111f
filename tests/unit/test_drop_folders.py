"""The folders of the drop, as the role makes them where an account has been before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import COLLECTION

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders to an account"),
]

ACCOUNT, GROUP = 64123, 64124  # of nobody; as numbers, which stand for names
UP = f"{ACCOUNT}/up"


def playbook(drop: Path) -> Path:
    """The role's own tasks that look at the folders of accounts, and make them."""
    tasks = yaml.safe_load((COLLECTION / "roles/hub/tasks/drop.yml").read_text())
    found = [
        task
        for task in tasks
        if "hub_drop_users" in str(task.get("loop")) or "hub_drop_folders" in str(task.get("loop"))
        if not {"ansible.builtin.user", "ansible.builtin.copy"}.intersection(task)
    ]
    assert len(found) == 4
    for task in found:
        if "sie-drop" in str(task.get("ansible.builtin.file", {}).get("group")):
            task["ansible.builtin.file"]["group"] = str(GROUP)
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": found,
        "vars": {
            "ansible_python_interpreter": sys.executable,
            "hub_drop_dir": str(drop),
            "hub_config_dir": str(drop.parent / "etc"),
            "hub_drop_users": [{"user": str(ACCOUNT), "folders": ["", "/ch202", "/ch203"]}],
        },
    }
    path = drop.parent / "play.yml"
    path.write_text(yaml.safe_dump([play]))
    return path


def test_a_link_in_the_place_of_a_folder_gives_an_account_nothing(tmp_path: Path) -> None:
    drop, victim = tmp_path / "drop", tmp_path / "victim"
    (drop / UP).mkdir(parents=True)
    os.chown(drop / UP, ACCOUNT, GROUP)
    victim.mkdir(mode=0o755)
    (drop / UP / "ch202").symlink_to(victim)
    (tmp_path / "etc").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", playbook(drop)],
        env={**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o7777) == (0, 0o755)
    for name in ("ch202", "ch203"):
        folder = (drop / UP / name).lstat()
        assert (folder.st_uid, folder.st_gid, oct(folder.st_mode)) == (ACCOUNT, GROUP, "0o42770")
