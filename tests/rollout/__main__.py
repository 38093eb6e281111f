"""python -m tests.rollout: onboard an estate, put its sensors in place, and say what that took."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final

import yaml
from sie_lab import deploy, domains, hosts, images, topology
from sie_lab.machine import LabError, run
from sie_lab.topology import Lab

from tests.fleet import others
from tests.rollout import cgroup, estate, report
from tests.rollout.estate import Keys, SimulatedHost
from tests.rollout.play import PHASES, PREFLIGHT, Controller, Run

HOUSE: Final = Path(__file__).with_name("house.yml")
WHO: Final = "isp_f"
NEIGHBOURS: Final = ("isp_a", "uni_b")
FORKS: Final = (5, 10, 25, 50)
FORKS_OF_THE_BUNDLE: Final = 25  # roles/onboard/templates/ansible.cfg.j2
COMPARED: Final = 50
"""Hosts that the numbers of forks are compared over; with fewer than forks the last of them would be idle."""

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1


@dataclass(frozen=True)
class Onboarding:
    """One participant onboarded."""

    sensors: int
    seconds: float
    touched: tuple[str, ...]
    """Files of others that are not as they were."""


def main() -> int:
    """Measure, print the table. Returns 1 if a host is not as it should be, or a neighbour was touched."""
    arguments = _arguments()
    if os.geteuid() != 0:
        print("hosts are made and removed by root: run it as root", file=sys.stderr)
        return EXIT_FAILED
    lab = topology.load(HOUSE)
    try:
        _hub(lab)
        with tempfile.TemporaryDirectory(prefix="sie-rollout-") as scratch:
            onboarding, runs = _measured(lab, Path(scratch), arguments)
    except LabError as error:
        print(f"rollout: {error}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        if not arguments.keep:
            hosts.remove(lab)
            domains.remove(lab)
    print(report.text(onboarding.sensors, onboarding.seconds, onboarding.touched, runs))
    return EXIT_OK if report.true(onboarding.touched, runs) else EXIT_FAILED


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.rollout", description=__doc__)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--forks", type=int, nargs="*", default=FORKS, help="numbers to compare")
    parser.add_argument("--compared", type=int, default=COMPARED, help="hosts that they are compared over")
    parser.add_argument("--keep", action="store_true", help="leave the hub there")
    return parser.parse_args()


def _say(words: str) -> None:
    print(f"rollout: {words}", file=sys.stderr, flush=True)


def _hub(lab: Lab) -> None:
    """The hub, and two participants that are there already."""
    for image in (lab.hub.image, estate.IMAGE):
        images.ensure(image)
    hosts.ensure_networks(lab)
    hosts.ensure_hosts(lab)
    domains.ensure(lab)
    _say("the playbook hub")
    deploy.playbook(lab, "hub", None)
    for neighbour in NEIGHBOURS:
        _say(f"the playbook onboard_participant for {neighbour}")
        _onboard(lab, neighbour, ["ns1"])


def _onboard(lab: Lab, participant: str, sensors: Sequence[str]) -> None:
    releases = deploy.build_releases(lab)
    folder = domains.state(lab) / "operator"
    hub = f"[{IPv6Address(lab.hub.management or '::')}]"
    answers: dict[str, Any] = {
        "onboard_agreement_signed": deploy.AGREEMENT_SIGNED,
        "onboard_sensors": list(sensors),
        "onboard_readers": [],
        "onboard_uplink_hubs": [f"wss://{hub}:{deploy.INGEST_PORT}"],
        "onboard_enrol_url": f"https://{hub}:{deploy.ENROL_PORT}",
        "onboard_release": str(releases.agent),
        "onboard_collection": str(releases.collection),
        "onboard_output": str(folder / others.HANDED_OVER),
        "onboard_signing_key": str(folder / "onboarding_key"),
    }
    inventory = deploy.hub_inventory(lab, releases)
    deploy.operator_playbook(lab, "onboard_participant", inventory, participant, answers)


def _measured(lab: Lab, scratch: Path, arguments: argparse.Namespace) -> tuple[Onboarding, list[Run]]:
    _say(f"{arguments.hosts} hosts")
    with estate.started(lab, scratch, arguments.hosts) as (keys, there):
        _say(f"the playbook onboard_participant for {WHO} with {len(there)} sensors")
        before, began = others.held(lab), time.monotonic()
        _onboard(lab, WHO, [host.name for host in there])
        took = time.monotonic() - began
        onboarding = Onboarding(len(there), took, tuple(others.touched(lab, before, WHO)))
        with cgroup.made(f"{lab.prefix}-controller") as group:
            controller = _controller(lab, scratch, keys, there, group)
            return onboarding, _runs(controller, there, arguments)


def _runs(controller: Controller, there: Sequence[SimulatedHost], arguments: argparse.Namespace) -> list[Run]:
    runs = []

    def play(what: str, hosts: Sequence[SimulatedHost], forks: int, tags: str, **environment: str) -> None:
        _say(f"{what}: {len(hosts)} hosts, {forks} forks")
        runs.append(controller.play(what, hosts, forks=forks, tags=tags, environment=environment))
        _say(report.line(runs[-1]))

    play(report.FROM_NOTHING, there, FORKS_OF_THE_BUNDLE, PHASES)
    play(report.AGAIN, there, FORKS_OF_THE_BUNDLE, PHASES)
    compared = there[: arguments.compared]
    for forks in arguments.forks:
        play(report.LOOKED_AT, compared, forks, PREFLIGHT)
    play(report.WITHOUT_PIPELINING, compared, FORKS_OF_THE_BUNDLE, PREFLIGHT, ANSIBLE_PIPELINING="false")
    return runs


def _controller(
    lab: Lab, scratch: Path, keys: Keys, there: Sequence[SimulatedHost], group: cgroup.Group
) -> Controller:
    """The bundle unpacked, its collection installed, the inventory written, as its README says."""
    handed_over = domains.state(lab) / "operator" / others.HANDED_OVER / WHO
    archive = handed_over / f"{WHO}-onboarding.tar.gz"
    run(["tar", "--extract", "--gzip", "--directory", scratch, "--file", archive])
    bundle = scratch / f"{WHO}-onboarding"
    (collection,) = bundle.glob("sie_europe-passive_dns-*.tar.gz")
    galaxy = Path(sys.executable).parent / "ansible-galaxy"
    # From there, for in the checkout the collection would count as installed.
    install = (galaxy, "collection", "install", "--offline", "-p", "collections", collection)
    run(["env", f"--chdir={bundle}", *install])
    login = f"-o UserKnownHostsFile={keys.known_hosts}"
    inventory = {
        "all": {
            "vars": {
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(keys.private),
                "ansible_ssh_common_args": login,
                "sensor_bundle": str(bundle),
                "sensor_bundle_signer": (handed_over / f"{WHO}-signer.txt").read_text().strip(),
                "sensor_interface": estate.INTERFACE,
            },
            "children": {
                "sensors": {
                    "hosts": {
                        host.name: {"ansible_host": host.address, "sensor_resolvers": [host.address]}
                        for host in there
                    }
                }
            },
        }
    }
    (bundle / "inventory.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
    return Controller(
        bundle=bundle,
        inventory=bundle / "inventory.yml",
        tokens=handed_over / f"{WHO}-tokens.vault.yml",
        passphrase=handed_over / f"{WHO}-passphrase.txt",
        home=domains.state(lab) / "logs",
        group=group,
    )


if __name__ == "__main__":
    sys.exit(main())
