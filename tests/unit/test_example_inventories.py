"""The example inventories: what is secret is encrypted, and found by the name under which it is used."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import REPOSITORY

EXAMPLES = sorted((REPOSITORY / "inventories").glob("*-example"))
PASSPHRASE = re.compile(r"passphrase (?:of this example )?is: ([a-z ]+)")
SECRET = re.compile(r"(?:password|passphrase|secret|token)s?$")

examples = pytest.mark.parametrize("inventory", EXAMPLES, ids=lambda path: path.name)


def variables(inventory: Path) -> tuple[str, dict[str, Any]]:
    """What stands in an inventory in clear: its text, and its variables of groups."""
    files = [path for path in inventory.rglob("*.yml") if not path.name.endswith(".vault.yml")]
    text = "\n".join(path.read_text() for path in files)
    groups = [yaml.safe_load(path.read_text()) for path in files if path.parent.name == "group_vars"]
    return text, {name: value for group in groups for name, value in group.items()}


def opened(inventory: Path, folder: Path) -> dict[str, Any]:
    """What its encrypted file holds, by the passphrase that the example names."""
    found = PASSPHRASE.search(variables(inventory)[0])
    assert found is not None
    (folder / "passphrase").write_text(found[1].strip())
    view = ["ansible-vault", "view", "--vault-password-file", str(folder / "passphrase")]
    done = subprocess.run(
        [*view, str(inventory / "secrets.vault.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = yaml.safe_load(done.stdout)
    return content


def test_there_is_one_for_each_side() -> None:
    assert [path.name for path in EXAMPLES] == ["hub-example", "participant-example"]


@examples
def test_what_is_encrypted_is_what_is_used_and_nothing_secret_is_in_clear(
    inventory: Path, tmp_path: Path
) -> None:
    assert (inventory / "secrets.vault.yml").read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    text, in_clear = variables(inventory)
    used = set(re.findall(r"\{\{ (vault_\w+)", text))
    assert used == opened(inventory, tmp_path).keys()
    secrets = {name: value for name, value in in_clear.items() if SECRET.search(name)}
    assert secrets
    assert all(re.match(r"\{\{ vault_", value) for value in secrets.values())


@examples
def test_as_a_folder_it_has_the_same_hosts_and_groups(inventory: Path, tmp_path: Path) -> None:
    def graph(source: Path) -> tuple[str, str]:
        environment = os.environ | {"ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "HOME": str(tmp_path)}
        command = ["ansible-inventory", "-i", str(source), "--graph"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    said, complaint = graph(inventory)
    assert "WARNING" not in complaint
    assert said == graph(inventory / "hosts.yml")[0]
