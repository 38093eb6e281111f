"""The product's own playbooks, each run in the control domain that runs it in life.

The hub operator's run here, from the checkout. A participant's run as its own user, in an empty folder, with
Ansible and what the operator has handed over; nothing else of the project is there.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import yaml

from sie_lab import domains
from sie_lab.hosts import in_parallel, on
from sie_lab.machine import (
    REPOSITORY,
    CommandError,
    LabError,
    Progress,
    ansible_environment,
    cache,
    exclusively,
    run,
    run_logged,
    tail,
)
from sie_lab.topology import Lab, Participant

NAMESPACE = "sie_europe.passive_dns"
AGREEMENT_SIGNED = "2026-01-01"
PROBE_ZONE = "wild.example"
HUB_PROBE_ZONE = "probe.example"  # delegated to a hub that is on the lab's internet
READER = "analyst"
RETRY_MAX = 4.0  # seconds; tests stop the hub more often than life does
ENROL_PORT, INGEST_PORT, SERVE_PORT = 8444, 8443, 8445  # the hub role's defaults
OF_INTERFACES = ("sensor_interface", "sensor_resolvers")
DNSTAP_NAMES = {"pdns": "pdns_recursor"}  # what the role calls a resolver, where it is not what the lab does
OF_PARTICIPANTS = ("onboard_participant", "configure_my_sensor")
BY_PARTICIPANTS = ("configure_my_sensor", "rotate_keys", "diagnose", "upgrade", "rollback")
WITH_BUNDLE = Path(__file__).resolve().parent / "with_bundle.sh"
TOLD = ("signer", "passphrase")  # what the operator tells a participant by another way
# What a playbook configures, installs and has programs note on a host, as one line for each file.
CONFIGURED = (
    "find /etc /opt /var/lib/sie-hub-enrol /var/lib/private/sie-agent/identity -xdev -type f"
    " -printf '%p %s %T@\\n' 2>/dev/null | sort"
)
RECAP = re.compile(r"^\S+\s+:\s+ok=\d+\s+changed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Releases:
    """What `make bundle` builds."""

    hub: Path
    agent: Path
    collection: Path


def deploy(lab: Lab, progress: Progress) -> None:
    """Every playbook: hub, each participant onboarded, then all configured. Ends at one that fails."""
    with progress.step("releases") as step:
        build_releases(lab)
        step.note = "ready"
    everybody = list(lab.participants)
    by_operator = [("hub", []), *(("onboard_participant", [who]) for who in everybody)]
    for name, who in [*by_operator, ("configure_my_sensor", everybody)]:
        with progress.step(" ".join(("playbook", name, *who))) as step:
            step.changed = for_each(playbook, lab, name, who)


def is_deployed(lab: Lab) -> bool:
    """Whether `deploy` has been at its end here, with the tree as it is.

    Its playbooks were given then the releases and the collection that they would be given now, and each
    participant's agent runs.
    """
    releases, folder = build_releases(lab), domains.state(lab) / "operator"
    given = {"inventory": hub_inventory(lab, releases)}
    given |= {p.name: onboarding_answers(lab, p, releases) for p in lab.participants.values()}
    for name, content in given.items():
        file = folder / f"{name}.yml"
        if not file.exists() or file.read_text() != _as_yaml(content):
            return False
    state = ("systemctl", "is-active", "sie-agent")
    return all(on(p.sensor, *state, check=False).strip() == "active" for p in lab.participants.values())


def _as_yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False)


def for_each(
    work: Callable[[Lab, str, str | None, Sequence[str]], int],
    lab: Lab,
    name: str,
    participants: Sequence[str],
    options: Sequence[str] = (),
) -> int:
    """`playbook` or `rehearse` for several participants at the same time, or for none; the sum."""
    return sum(in_parallel(lambda who: work(lab, name, who, options), participants or [None]))


def playbook(lab: Lab, name: str, participant: str | None, options: Sequence[str] = ()) -> int:
    """Run one of the collection's playbooks in the domain it is for; how many tasks changed something."""
    if participant is not None and name in BY_PARTICIPANTS:
        return participant_playbook(lab, name, lab.participant(participant), options)
    releases = build_releases(lab)
    inventory = hub_inventory(lab, releases)
    if participant is None:
        return operator_playbook(lab, name, inventory, options=options)
    answers = onboarding_answers(lab, lab.participant(participant), releases)
    return operator_playbook(lab, name, inventory, participant, answers, options=options)


def rehearse(lab: Lab, name: str, participant: str | None, options: Sequence[str] = ()) -> int:
    """A playbook in check mode; how many tasks would change something. LabError if one did."""
    theirs = None if name not in BY_PARTICIPANTS else participant
    host = lab.hub if theirs is None else lab.participant(theirs).sensor
    before = on(host, "sh", "-c", CONFIGURED)
    would_change = playbook(lab, name, participant, ["--check", *options])
    if on(host, "sh", "-c", CONFIGURED) != before:
        raise LabError(f"{name} in check mode has changed files of {host.container}")
    return would_change


def build_releases(lab: Lab) -> Releases:
    """The releases for the tree as it is; from the cache unless something changed."""
    with exclusively(cache() / "release.lock"):
        command: list[str | Path] = [sys.executable, REPOSITORY / "molecule" / "release" / "build.py"]
        said = run_logged(command, log_of(lab, "releases"), cwd=REPOSITORY, environment=os.environ)
    paths = json.loads(said[said.index("\n{") :])
    return Releases(Path(paths["hub"]), Path(paths["agent"]), Path(paths["collection"]))


def log_of(lab: Lab, name: str) -> Path:
    """Where a step's output is kept."""
    return domains.state(lab) / "logs" / f"{name}.log"


def hub_inventory(lab: Lab, releases: Releases) -> dict[str, Any]:
    """The hub operator's inventory: the hub, and nothing of any participant's."""
    keys = domains.operator_keys(lab)
    address = lab.hub.management
    host: dict[str, Any] = {
        "ansible_host": address,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(keys.private),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={keys.known_hosts}",
        "hub_exchange": lab.exchange,
        "hub_release": str(releases.hub),
        "hub_names": [address],
        "hub_listen_addresses": [address],
    }
    if lab.probe_server is not None:
        host |= {"hub_probe_zone": HUB_PROBE_ZONE, "hub_probe_listen": list(lab.probe_server)}
    return {"hubs": {"hosts": {lab.hub.name: host}}}


def onboarding_answers(lab: Lab, participant: Participant, releases: Releases) -> dict[str, Any]:
    """What the operator answers about one participant."""
    folder = domains.state(lab) / "operator"
    return {
        "onboard_agreement_signed": AGREEMENT_SIGNED,
        "onboard_sensors": [participant.sensor_name],
        "onboard_readers": [READER],
        "onboard_uplink_hubs": [f"wss://{lab.hub.management}:{INGEST_PORT}"],
        "onboard_enrol_url": f"https://{lab.hub.management}:{ENROL_PORT}",
        "onboard_probe_zone": PROBE_ZONE if lab.probe_server is None else HUB_PROBE_ZONE,
        "onboard_release": str(releases.agent),
        "onboard_collection": str(releases.collection),
        "onboard_output": str(folder / "onboarding"),
        "onboard_signing_key": str(folder / "onboarding_key"),
    }


def operator_playbook(
    lab: Lab,
    name: str,
    inventory: Mapping[str, Any],
    participant: str | None = None,
    answers: Mapping[str, Any] | None = None,
    *,
    options: Sequence[str] = (),
) -> int:
    """Run one of the collection's playbooks in the hub operator's domain; how many tasks changed."""
    words = list(options)
    if participant is not None:
        answers_file = domains.state(lab) / "operator" / f"{participant}.yml"
        answers_file.write_text(_as_yaml(answers or {}))
        words = ["-e", f"participant={participant}", "-e", f"@{answers_file}", *words]
    log = log_of(lab, "-".join(filter(None, (name, participant))))
    command = operator_command(lab, name, inventory, words)
    return changed(run_logged(command, log, cwd=REPOSITORY, environment=operator_environment()))


def operator_command(lab: Lab, name: str, inventory: Mapping[str, Any], options: Sequence[str]) -> list[str]:
    """The words of that, for `operator_environment`, once the inventory that they name is written."""
    inventory_file = domains.state(lab) / "operator" / "inventory.yml"
    inventory_file.write_text(_as_yaml(inventory))
    return ["ansible-playbook", f"{NAMESPACE}.{name}", "-i", str(inventory_file), *options]


def operator_environment() -> dict[str, str]:
    """Ours, but with the checkout's Ansible settings alone."""
    return ansible_environment(
        {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
            "ANSIBLE_HOME": str(cache() / "ansible"),
        }
    )


def handed_over(lab: Lab, participant: Participant) -> Path:
    """The folder in which the operator's playbook leaves what goes to a participant."""
    return domains.state(lab) / "operator" / "onboarding" / participant.name


def sensor_inventory(lab: Lab, participant: Participant, bundle: Path, signer: str) -> dict[str, Any]:
    """What the participant's engineer writes into the inventory; the rest comes with the bundle."""
    spans = lab.mirror is not None and participant.sensor is lab.mirror.to
    sensor: dict[str, Any] = {
        "ansible_host": participant.sensor.management,
        "sensor_vantage": "span" if spans else "onhost",
        "sensor_interface": participant.capture,
        "sensor_retry_max": RETRY_MAX,
        "sensor_resolvers": resolver_prefixes(participant),
        "sensor_probe_resolver": str(participant.resolver_address.v4),
        "sensor_report_dir": str(participant.home / "reports"),
    }
    if participant.dnstap:
        services = filter(None, (participant.sensor.service, *participant.sensor.more_services))
        sensor = {name: value for name, value in sensor.items() if name not in OF_INTERFACES}
        sensor |= {
            "sensor_vantage": "dnstap",
            "sensor_dnstap_resolvers": [DNSTAP_NAMES.get(service, service) for service in services],
        }
    hosts = {"sensors": {"hosts": {participant.sensor_name: sensor}}}
    if spans:
        sensor["sensor_probe_from"] = participant.resolver.name
        hosts["resolvers"] = {
            "hosts": {participant.resolver.name: {"ansible_host": participant.resolver.management}}
        }
    return {
        "all": {
            "vars": {"ansible_user": "root", "sensor_bundle": str(bundle), "sensor_bundle_signer": signer},
            "children": hosts,
        }
    }


def resolver_prefixes(participant: Participant) -> list[str]:
    """The prefixes, each of eight addresses, in which a participant's resolvers stand.

    Wider than one address on purpose: clients stand in them too, and must not be taken for resolvers.
    """
    return [
        str(ip_interface(f"{address}/{ip_address(address).max_prefixlen - 3}").network)
        for address in participant.resolver_address
    ]


def participant_playbook(
    lab: Lab, playbook_name: str, participant: Participant, options: Sequence[str] = ()
) -> int:
    """Unpack the bundle and run one of its playbooks, as the participant; how many tasks changed."""
    source = handed_over(lab, participant)
    name = f"{participant.name}-onboarding"
    files = [f"{name}.tar.gz", f"{name}.tar.gz.sig", f"{participant.name}-tokens.vault.yml"]
    told = {kind: (source / f"{participant.name}-{kind}.txt").read_text().strip() for kind in TOLD}
    log = log_of(lab, f"{playbook_name}-{participant.name}")
    with domains.empty_folder(participant) as folder:
        for file in files:
            domains.hand_over(participant, source / file, folder / file)
        bundle = folder / name
        inventory = yaml.safe_dump(
            sensor_inventory(lab, participant, bundle, told["signer"]), sort_keys=False
        )
        domains.note(participant, folder / "inventory.yml", inventory)
        domains.note(participant, folder / "passphrase", told["passphrase"] + "\n")
        arguments = [name, told["signer"], participant.name, playbook_name, *options]
        words = ["/bin/sh", "-euc", WITH_BUNDLE.read_text(), WITH_BUNDLE.stem, *arguments]
        code = domains.as_participant(lab, participant, words, cwd=folder, log=log)
    if code:
        raise CommandError(f"{playbook_name} of {participant.name} ended with {code}; {tail(log)}")
    return changed(log.read_text())


def changed(said: str) -> int:
    """Tasks that changed something, by the playbook's recap; LabError if there is none."""
    found = RECAP.findall(said)
    if not found:
        raise LabError("a playbook ended without a recap")
    return sum(map(int, found))


def api_url(lab: Lab) -> str:
    """Where readers ask."""
    return f"https://{lab.hub.management}:{SERVE_PORT}"


def api_key(lab: Lab) -> str:
    """The key of the first participant's reader, from the file of tokens that the participant was sent."""
    participant = next(iter(lab.participants.values()))
    source = handed_over(lab, participant)
    vault = source / f"{participant.name}-tokens.vault.yml"
    passphrase = source / f"{participant.name}-passphrase.txt"
    if not vault.exists():
        raise LabError("nothing is deployed yet: run `make lab` first")
    program = str(Path(sys.executable).parent / "ansible-vault")
    said = run([program, "view", "--vault-password-file", str(passphrase), str(vault)])
    secrets = yaml.safe_load(said)
    return str(secrets["reader_keys"][READER])


def info(lab: Lab) -> dict[str, Any]:
    """What a script needs to know, and how to look around."""
    keys = domains.operator_keys(lab)
    return {
        "api_url": api_url(lab),
        "api_key": api_key(lab),
        "resolvers": [
            {
                "participant": p.name,
                "address": str(p.resolver_address.v4),
                "address_v6": str(p.resolver_address.v6),
            }
            for p in lab.participants.values()
        ],
        "probe_zone": PROBE_ZONE,
        "hub": {
            "address": lab.hub.management,
            "ssh_key": str(keys.private),
            "known_hosts": str(keys.known_hosts),
        },
        "sensors": [
            {
                "participant": p.name,
                "sensor": p.sensor_name,
                "host": p.sensor.container,
                "interface": p.capture,
            }
            for p in lab.participants.values()
        ],
        "containers": {host.name: host.container for host in lab.hosts.values()},
        "logs": str(domains.state(lab) / "logs"),
    }
