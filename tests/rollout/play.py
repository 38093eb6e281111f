"""One run of the participant's playbook: how it is called, what it used, how each host came out of it."""

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sie_lab.machine import CommandError, ansible_environment, tail

from tests.bench.process import cpu_of_all
from tests.rollout import cgroup
from tests.rollout.estate import SimulatedHost

PLAYBOOK: Final = "sie_europe.passive_dns.configure_my_sensor"
PREFLIGHT: Final = "preflight"
PHASES: Final = "preflight,install,configure"
LOOK_EVERY: Final = 1.0  # seconds
RECAP: Final = re.compile(
    r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE
)


@dataclass(frozen=True)
class Run:
    """What a run used. Times in seconds, sizes in octets; the hosts' own is of all of them together."""

    what: str
    hosts: int
    forks: int
    wall: float
    controller_cpu: float
    hosts_cpu: float
    other_cpu: float
    """Of everything else on the machine."""

    controller_resident: int
    """The most that its processes held at one time."""

    changed: Mapping[str, int]
    """Tasks that changed something, by host; hosts that failed or were not reached are not there."""


@dataclass(frozen=True)
class Controller:
    """The participant's, as the bundle's README sets it up."""

    bundle: Path
    """The unpacked bundle, with the collection installed into it; its ansible.cfg is the one in force."""

    inventory: Path
    tokens: Path
    passphrase: Path
    home: Path
    group: cgroup.Group

    def play(
        self,
        what: str,
        hosts: Sequence[SimulatedHost],
        *,
        forks: int,
        tags: str,
        environment: Mapping[str, str] | None = None,
    ) -> Run:
        """Run the playbook on these hosts. CommandError if it fails on one."""
        log = self.home / f"{what.replace(' ', '-')}-{len(hosts)}-{forks}.log"
        command = [
            *(str(Path(sys.executable).parent / "ansible-playbook"), PLAYBOOK),
            *(
                "-i",
                str(self.inventory),
                "-e",
                f"@{self.tokens}",
                "--vault-password-file",
                str(self.passphrase),
            ),
            *("--tags", tags, "--forks", str(forks), "--limit", ",".join(host.name for host in hosts)),
        ]
        own = {"ANSIBLE_HOME": str(self.home / "ansible"), **(environment or {})}
        controller, estate, machine, began = self._used(hosts)
        resident = 0
        with log.open("w") as sink:
            process = subprocess.Popen(
                self.group.enter(*command),
                cwd=self.bundle,
                env=ansible_environment(own),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
            while process.poll() is None:
                resident = max(resident, self.group.resident())
                time.sleep(LOOK_EVERY)
        controller_after, estate_after, machine_after, ended = self._used(hosts)
        if process.returncode:
            raise CommandError(f"{what}, {forks} forks: ended with {process.returncode}; {tail(log)}")
        ours = controller_after - controller, estate_after - estate
        return Run(
            what=what,
            hosts=len(hosts),
            forks=forks,
            wall=ended - began,
            controller_cpu=ours[0],
            hosts_cpu=ours[1],
            other_cpu=machine_after - machine - sum(ours),
            controller_resident=resident,
            changed=changed(log.read_text()),
        )

    def _used(self, hosts: Sequence[SimulatedHost]) -> tuple[float, float, float, float]:
        estate = sum(host.group.cpu() for host in hosts)
        return self.group.cpu(), estate, cpu_of_all(), time.monotonic()


def changed(said: str) -> dict[str, int]:
    """From a playbook's recap, how many tasks changed something on each host that came to the end of it."""
    return {
        host: int(count)
        for host, count, unreachable, failed in RECAP.findall(said)
        if int(unreachable) + int(failed) == 0
    }
