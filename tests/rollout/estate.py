"""The participant's hosts, simulated.

Each has a root file system, a network namespace, a process table and an sshd of its own, made of the lab's
image of Debian 12. What it lacks is a systemd that runs: a hundred of them are more than a small machine
holds. Its systemctl is told so (SYSTEMD_OFFLINE, as while an image is made) and then starts nothing. So the
phases preflight, install and configure are as on any host, and run and verify cannot be.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sie_lab import images
from sie_lab.hosts import PREFIX_LABEL, in_parallel
from sie_lab.machine import podman, run
from sie_lab.topology import Lab

from tests.rollout import cgroup

IMAGE: Final = "debian12"
NETWORK: Final = "estate"
INTERFACE: Final = "eth0"
FIRST_ADDRESS: Final = 0x100  # in the network; the lower ones are the hub's and this machine's
CAPABILITIES: Final = "NET_RAW,NET_ADMIN,SYS_ADMIN"  # as the lab's hosts have
BOOT: Final = "mkdir -p /run/sshd; /usr/sbin/sshd -D -e -o SetEnv=SYSTEMD_OFFLINE=1 & wait"


@dataclass(frozen=True)
class SimulatedHost:
    """One of them, as it runs."""

    name: str
    address: str
    group: cgroup.Group


@dataclass(frozen=True)
class Keys:
    """The participant's way in. All hosts share one host key: who is who is no part of what is measured."""

    private: Path
    host: Path
    known_hosts: Path


@contextmanager
def started(lab: Lab, folder: Path, count: int) -> Iterator[tuple[Keys, list[SimulatedHost]]]:
    """So many hosts, removed at the end. LabError if podman cannot."""
    keys = _keys(folder)
    names = [f"s{number:03}" for number in range(1, count + 1)]
    bridge = podman(
        "network", "inspect", "--format", "{{.NetworkInterface}}", lab.podman_network(NETWORK)
    ).strip()
    network = lab.networks[NETWORK].v6
    assert network is not None, "the estate has IPv6"
    try:
        hosts = in_parallel(
            lambda numbered: _start(
                lab, keys, bridge, numbered[1], str(network[FIRST_ADDRESS + numbered[0]])
            ),
            enumerate(names),
        )
        public = keys.host.with_suffix(".pub").read_text().split()[:2]
        keys.known_hosts.write_text("".join(f"{host.address} {' '.join(public)}\n" for host in hosts))
        yield keys, hosts
    finally:
        podman("rm", "--force", "--ignore", "--time", "0", *(f"{lab.prefix}-{name}" for name in names))


def _keys(folder: Path) -> Keys:
    keys = Keys(folder / "id", folder / "host_key", folder / "known_hosts")
    for path in (keys.private, keys.host):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "roll-out", "-f", path])
    return keys


def _start(lab: Lab, keys: Keys, bridge: str, name: str, address: str) -> SimulatedHost:
    container = f"{lab.prefix}-{name}"
    podman(
        *(
            "run",
            "--detach",
            "--name",
            container,
            "--hostname",
            name,
            "--label",
            f"{PREFIX_LABEL}={lab.prefix}",
        ),
        *("--network", "none", "--no-hosts", "--cap-add", CAPABILITIES),
        *("--volume", f"{keys.private.with_suffix('.pub')}:/root/.ssh/authorized_keys:ro"),
        *("--volume", f"{keys.host}:/etc/ssh/ssh_host_ed25519_key:ro"),
        *(images.reference(IMAGE), "/bin/sh", "-c", BOOT),
    )
    process = int(podman("inspect", "--format", "{{.State.Pid}}", container))
    wire = f"w{secrets.token_hex(5)}"  # names of interfaces have 15 characters
    run(["ip", "link", "add", wire, "type", "veth", "peer", "name", INTERFACE, "netns", str(process)])
    run(["ip", "link", "set", wire, "master", bridge, "up"])
    inside: Sequence[Sequence[str]] = (
        ("address", "add", f"{address}/64", "dev", INTERFACE, "nodad"),
        ("link", "set", INTERFACE, "up"),
    )
    for words in inside:
        run(["nsenter", "--target", str(process), "--net", "ip", *words])
    return SimulatedHost(name, address, cgroup.of(process))
