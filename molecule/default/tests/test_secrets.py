"""No secret where it has no business: not in a bundle, not in what a playbook says and shows with --diff,
not in facts, in a journal, in a process's words or environment.

The same search must find a planted secret in each of those places.
"""

import io
import os
import secrets
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from sie_lab import deploy, domains
from sie_lab.hosts import on
from sie_lab.machine import run
from sie_lab.topology import Host, Lab

from tests.fleet.processes import watched

NEWCOMER = "newcomer"  # a participant of this test's own, onboarded with everything shown that can be shown
BASE64_LINE = 40  # characters: a line of a PEM body is longer, one of its markers shorter


def lines_of_key(pem: str) -> list[str]:
    """What of a private key's PEM must not be seen: each line of its body."""
    return [line for line in pem.splitlines() if len(line) > BASE64_LINE and "-----" not in line]


def vaulted(folder: Path, participant: str) -> list[str]:
    """A participant's tokens and keys, in clear, and the passphrase."""
    passphrase = folder / f"{participant}-passphrase.txt"
    vault = folder / f"{participant}-tokens.vault.yml"
    program = Path(sys.executable).parent / "ansible-vault"
    content = yaml.safe_load(run([program, "view", "--vault-password-file", passphrase, vault]))
    tokens = [*content["sensor_enrol_tokens"].values(), *content["reader_keys"].values()]
    return [*tokens, passphrase.read_text().strip()]


PROGRAMS = Path(sys.executable).parent


def ansible(*words: str | Path, facts: Path) -> str:
    """What one of Ansible's programs says; what it knows of hosts stays in a folder."""
    return run(
        [PROGRAMS / words[0], *words[1:]],
        environment=deploy.operator_environment()
        | {"ANSIBLE_CACHE_PLUGIN": "jsonfile", "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(facts)},
    )


@dataclass(frozen=True)
class Shown:
    """All that two playbooks let be seen that handle tokens, keys and a passphrase: a participant is
    onboarded, and rehearses the enrolment of its sensor. With --diff, and as much said as can be.
    """

    folder: Path  # what the participant is handed
    onboarding: str
    configuring: str
    facts: Path
    processes: bytes  # words and environments of all processes of hosts and controller meanwhile


@pytest.fixture(scope="module")
def shown(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    output = tmp_path_factory.mktemp("onboarding")
    facts = output / "facts"
    operator = domains.state(lab) / "operator"
    known = next(iter(lab.participants.values()))
    answers = yaml.safe_load((operator / f"{known.name}.yml").read_text())
    answers |= {"onboard_output": str(output), "onboard_sensors": ["ns1", "ns2"]}
    (output / "answers.yml").write_text(yaml.safe_dump(answers))
    telling = ("--diff", "-vvv")
    with watched() as watch:
        onboarding = ansible(
            *("ansible-playbook", "sie_europe.passive_dns.onboard_participant", *telling),
            *("-i", operator / "inventory.yml", "-e", f"participant={NEWCOMER}"),
            *("-e", f"@{output / 'answers.yml'}", "-e", "reissue=true"),  # also where the test has run before
            facts=facts,
        )
        folder = output / NEWCOMER
        bundle = folder / f"{NEWCOMER}-onboarding.tar.gz"
        subprocess.run(["tar", "--extract", "--file", bundle, "--directory", folder], check=True)
        signer = (folder / f"{NEWCOMER}-signer.txt").read_text().strip()
        inventory = deploy.sensor_inventory(lab, known, folder / f"{NEWCOMER}-onboarding", signer)
        keys = domains.participant_keys(known)
        inventory["all"]["vars"] |= {
            "ansible_ssh_private_key_file": str(keys.private),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={keys.known_hosts}",
        }
        (output / "inventory.yml").write_text(yaml.safe_dump(inventory))
        configuring = ansible(
            *("ansible-playbook", "sie_europe.passive_dns.configure_my_sensor", *telling, "--check"),
            # By itself it would leave out what handles the token: the host has a certificate.
            *("-i", output / "inventory.yml", "-e", '{"sensor_enrolled": false}'),
            *("-e", f"@{folder / f'{NEWCOMER}-tokens.vault.yml'}"),
            *("--vault-password-file", folder / f"{NEWCOMER}-passphrase.txt"),
            facts=facts,
        )
    return Shown(folder, onboarding, configuring, facts, watch.seen)


@pytest.fixture(scope="module")
def known_secrets(lab: Lab, shown: Shown) -> list[str]:
    """Every secret of the house."""
    operator = domains.state(lab) / "operator"
    found = vaulted(shown.folder, NEWCOMER)
    for participant in lab.participants.values():
        found += vaulted(deploy.handed_over(lab, participant), participant.name)
        found += lines_of_key(on(participant.sensor, "cat", "/var/lib/sie-agent/identity/key.pem"))
    found += lines_of_key((operator / "onboarding_key").read_text())
    found += lines_of_key(on(lab.hub, "sh", "-c", "cat /etc/sie-hub/ca/ca.key /etc/sie-hub/tls/*.key"))
    found += on(lab.hub, "sh", "-c", "cat /etc/sie-hub/nats/[!n]*").split()
    assert all(len(secret) >= 20 for secret in found)
    assert len(found) > 15
    return found


def leaked(text: str | bytes, known_secrets: list[str]) -> list[str]:
    """Which secrets stand in a text, shortened: a failing test must not be a leak of its own."""
    octets = text.encode() if isinstance(text, str) else text
    return [f"{secret[:4]}…" for secret in known_secrets if secret.encode() in octets]


def unpacked(name: str, octets: bytes) -> Iterator[tuple[str, bytes]]:
    """A file and, if it is an archive, every file in it, at any depth."""
    yield name, octets
    if name.endswith((".tar", ".tar.gz")):
        with tarfile.open(fileobj=io.BytesIO(octets)) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    yield from unpacked(f"{name}:{member.name}", file.read())
    elif name.endswith(".whl"):
        with zipfile.ZipFile(io.BytesIO(octets)) as wheel:
            for path in wheel.namelist():
                yield from unpacked(f"{name}:{path}", wheel.read(path))


def search_bundle(archive: bytes, known_secrets: list[str]) -> dict[str, list[str]]:
    """Which secrets stand where in a bundle."""
    contents = unpacked("bundle.tar.gz", archive)
    return {name: found for name, octets in contents if (found := leaked(octets, known_secrets))}


def test_a_bundle_holds_no_secret(lab: Lab, shown: Shown, known_secrets: list[str]) -> None:
    folders = [shown.folder, *(deploy.handed_over(lab, p) for p in lab.participants.values())]
    for folder in folders:
        bundle = folder / f"{folder.name}-onboarding.tar.gz"
        assert search_bundle(bundle.read_bytes(), known_secrets) == {}, bundle.name
        with tarfile.open(bundle) as tar:
            names = {Path(name).name for name in tar.getnames()}
        assert {"README.md", "exchange.yml", "hub_ca.pem", "manifest.json", "manifest.json.sig"} <= names


def test_a_secret_deep_in_a_bundle_is_found(shown: Shown, known_secrets: list[str]) -> None:
    wheel, release, bundle = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sie_agent/planted.py", f"TOKEN = '{known_secrets[0]}'")
    for outer, name, inner, mode in ((release, "a.whl", wheel, "w"), (bundle, "r.tar", release, "w:gz")):
        with tarfile.open(fileobj=outer, mode=mode) as tar:  # type: ignore[call-overload]
            member = tarfile.TarInfo(name)
            member.size = len(inner.getvalue())
            tar.addfile(member, io.BytesIO(inner.getvalue()))
    assert list(search_bundle(bundle.getvalue(), known_secrets)) == [
        "bundle.tar.gz:r.tar:a.whl:sie_agent/planted.py"
    ]


def test_a_vault_shows_nothing_in_clear(shown: Shown, known_secrets: list[str]) -> None:
    vault = (shown.folder / f"{NEWCOMER}-tokens.vault.yml").read_text()
    assert vault.startswith("$ANSIBLE_VAULT;1.")
    assert leaked(vault, known_secrets) == []


def test_playbooks_show_no_secret(lab: Lab, shown: Shown, known_secrets: list[str]) -> None:
    for said, task in ((shown.onboarding, "Issue tokens"), (shown.configuring, "Hand over the token")):
        assert task in said
        assert "censored" in said
        assert leaked(said, known_secrets) == []
    logs = list((domains.state(lab) / "logs").glob("*.log"))
    assert logs
    for log in logs:
        assert leaked(log.read_bytes(), known_secrets) == [], log.name


def test_a_difference_that_is_shown_is_searched(
    shown: Shown, known_secrets: list[str], tmp_path: Path
) -> None:
    assert "+participant: newcomer" in shown.configuring  # the playbook shows differences of its own
    said = ansible(
        *("ansible", "localhost", "-m", "ansible.builtin.copy", "--check", "--diff"),
        *("-a", f"content={known_secrets[0]} dest={tmp_path / 'planted'}"),
        facts=tmp_path / "facts",
    )
    assert leaked(said, known_secrets) != []


def search_facts(facts: Path, known_secrets: list[str]) -> dict[str, list[str]]:
    """Which secrets Ansible remembers of which host."""
    return {
        file.name: found for file in facts.iterdir() if (found := leaked(file.read_bytes(), known_secrets))
    }


def test_facts_hold_no_secret(shown: Shown, known_secrets: list[str], tmp_path: Path) -> None:
    assert any("ansible_distribution" in file.read_text() for file in shown.facts.iterdir())
    assert search_facts(shown.facts, known_secrets) == {}
    planted = f"planted={known_secrets[0]} cacheable=true"
    ansible("ansible", "localhost", "-m", "ansible.builtin.set_fact", "-a", planted, facts=tmp_path)
    (found,) = search_facts(tmp_path, known_secrets)
    assert found.endswith("localhost")


def test_processes_show_no_secret_while_playbooks_run(shown: Shown, known_secrets: list[str]) -> None:
    assert b"sie_europe.passive_dns.configure_my_sensor" in shown.processes  # on the controller
    assert b"token\0issue" in shown.processes  # on the hub's host, where tokens are made
    assert leaked(shown.processes, known_secrets) == []


@pytest.mark.parametrize("place", ["words", "environment"])
def test_a_secret_that_a_process_shows_for_a_moment_is_found(place: str) -> None:
    planted = secrets.token_hex(20)
    words = ["sh", "-c", "sleep 0.5", *([planted] if place == "words" else [])]
    environment = os.environ | ({"PLANTED": planted} if place == "environment" else {})
    with watched() as watch:
        subprocess.run(words, env=environment, check=True)
    assert leaked(watch.seen, [planted]) != []


def hosts(lab: Lab) -> list[Host]:
    """The hosts on which our programs run."""
    return [lab.hub, *(participant.sensor for participant in lab.participants.values())]


def said_and_shown(host: Host) -> dict[str, str]:
    """What a host's journal holds and its processes show of themselves."""
    journal = on(host, "journalctl", "--no-pager", "--output=export", "--all")
    processes = on(
        host, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; true"
    )
    return {"journal": journal, "processes": processes}


def test_hosts_tell_no_secret(lab: Lab, known_secrets: list[str]) -> None:
    for host in hosts(lab):
        for place, text in said_and_shown(host).items():
            assert text
            assert leaked(text, known_secrets) == [], f"{place} of {host.name}"


def test_a_secret_told_by_a_host_is_found(lab: Lab) -> None:
    planted = secrets.token_hex(20)
    on(lab.hub, "systemd-run", "--quiet", "--unit=sie-planted", "sh", "-c", f"echo {planted}; sleep 30")
    try:
        on(lab.hub, "journalctl", "--sync")
        found = {place for place, text in said_and_shown(lab.hub).items() if leaked(text, [planted])}
    finally:
        on(lab.hub, "systemctl", "stop", "sie-planted.service")
    assert found == {"journal", "processes"}


def test_no_token_stays_on_a_sensor(lab: Lab) -> None:
    for participant in lab.participants.values():
        seen = on(participant.sensor, "ls", "-A", "/etc/sie-agent").split()
        assert sorted(seen) == ["agent.yml", "hub_ca.pem"]
