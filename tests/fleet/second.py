"""A second sensor of a participant, on the newcomer's host, which is lent to it while a test lasts."""

import dataclasses
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from sie_lab import deploy, domains
from sie_lab.hosts import on
from sie_lab.topology import Host, Lab, Participant

from tests.fleet.newcomer import WHO, wipe

HUB = "/opt/sie/sie-hub/bin/sie-hub"
AUTHORIZED_KEYS = "/root/.ssh/authorized_keys"


@dataclass(frozen=True)
class Second:
    """Its name, its host, and the inventory that names it after the participant's first sensor."""

    name: str
    host: Host
    inventory: Path

    @property
    def too(self) -> list[str]:
        """What makes a playbook of the participant's one for both sensors."""
        return ["-i", str(self.inventory)]


@contextmanager
def second_sensor(lab: Lab, participant: Participant) -> Iterator[Second]:
    """One that is well. Its name is of this time alone, since no sensor is given a second token by itself."""
    newcomer = lab.participant(WHO)
    second = Second(f"ns-{secrets.token_hex(4)}", newcomer.sensor, participant.home / "second.yml")
    wipe(second.host)
    own_keys = on(second.host, "cat", AUTHORIZED_KEYS)
    handed_over = deploy.handed_over(lab, participant)
    secrets_before = {file: file.read_bytes() for file in _secrets_in(handed_over)}
    domains.note(participant, second.inventory, _inventory(lab, participant, newcomer, second.name))
    try:
        key = domains.participant_keys(participant).private.with_suffix(".pub").read_text()
        on(second.host, "tee", "--append", AUTHORIZED_KEYS, stdin=key)
        both = json.dumps({"onboard_sensors": [participant.sensor_name, second.name]})
        deploy.playbook(lab, "onboard_participant", participant.name, ["-e", both])
        deploy.playbook(lab, "configure_my_sensor", participant.name, [*second.too, "--limit", second.name])
        yield second
    finally:
        wipe(second.host)
        on(second.host, "tee", AUTHORIZED_KEYS, stdin=own_keys)
        revoke = [HUB, "registry", "sensor", "revoke", participant.name, second.name]
        on(lab.hub, *revoke, "--reason", "its host was lent", check=False)
        second.inventory.unlink()
        # What was handed over before holds the reader's key, which tests ask with.
        for file in _secrets_in(handed_over) - secrets_before.keys():
            file.unlink()
        for file, content in secrets_before.items():
            file.write_bytes(content)


def _secrets_in(folder: Path) -> set[Path]:
    """The file of tokens, its passphrase, and what a playbook keeps of their predecessors."""
    return {*folder.glob("*-tokens.vault.yml*"), *folder.glob("*-passphrase.txt*")}


def _inventory(lab: Lab, participant: Participant, newcomer: Participant, name: str) -> str:
    """What the participant's engineer writes beside the inventory that is there."""
    there = dataclasses.replace(newcomer, name=participant.name, home=participant.home, sensor_name=name)
    written = deploy.sensor_inventory(lab, there, bundle=Path(), signer="")["all"]["children"]
    # The host is lent, and its key not to be remembered.
    unknown = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    written["sensors"]["hosts"][name]["ansible_ssh_common_args"] = unknown
    return yaml.safe_dump(written)
