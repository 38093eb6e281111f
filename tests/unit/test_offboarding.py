"""What offboarding removes from the controller is everything secret that onboarding has put there."""

from fnmatch import fnmatch

import pytest
import yaml

from tests.docs.pages import COLLECTION

PREFIX = "{{ onboard_folder }}/{{ onboard_participant }}"
TOLD_OPENLY = "{{ participant }}-signer.txt"  # a fingerprint
BACKUP = ".1234.2026-11-22@08:00:00~"  # what Ansible keeps of a file that it replaces

WRITTEN = [
    f"{{{{ participant }}}}{path.removeprefix(PREFIX)}"
    for path in yaml.safe_load((COLLECTION / "roles/onboard/vars/main.yml").read_text()).values()
    if isinstance(path, str) and path.startswith(PREFIX)
]


def patterns() -> list[str]:
    [play] = yaml.safe_load((COLLECTION / "playbooks/offboard_participant.yml").read_text())
    [find] = [task["ansible.builtin.find"] for task in play["tasks"] if "ansible.builtin.find" in task]
    return list(find["patterns"])


def test_every_secret_is_known_to_be_one() -> None:
    assert len(WRITTEN) == 5
    assert TOLD_OPENLY in WRITTEN


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != TOLD_OPENLY])
def test_every_secret_that_was_written_is_found(name: str) -> None:
    kept = [name] if name.endswith((".txt", ".pending.vault.yml")) else [name, name + BACKUP]
    assert [path for path in kept if not any(fnmatch(path, pattern) for pattern in patterns())] == []
