"""The role has resolvers bring their dnstap, beside what their packages configure, and takes it back."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from sie_lab import hosts, images
from sie_lab.machine import REPOSITORY, ansible_environment, containers_environment, podman

CONTAINER = "sie-tap-packaged"
SOCKET = "/run/sie-agent/dnstap.sock"
UNITS = {"unbound": "unbound", "bind": "named", "pdns_recursor": "pdns-recursor"}
# What its owner has written beside, and what is said of both together.
OWN = {
    "bind": (
        r"""
        sed -i 's|^options {|&\ndnstap { all; }; dnstap-output file "own";|' /etc/bind/named.conf.options
        """,
        "redefined",
    ),
    "pdns_recursor": (
        "cd /etc/powerdns; touch own.lua; echo lua-config-file=/etc/powerdns/own.lua > recursor.d/own.conf",
        "pdns_recursor does not read what is written there",
    ),
    "unbound": (
        r"""
        mkdir /run/systemd/system/unbound.service.d
        printf '[Service]\nExecStartPre=/bin/sh -c "! grep sie-agent /etc/unbound/unbound.conf"\n' \
            > /run/systemd/system/unbound.service.d/own.conf
        systemctl daemon-reload
        """,
        "unbound.service did not start by it",
    ),
}
FAILED = re.compile(r"^(?:fatal|failed): \[[^\]]+\][^\n]*?=> (\{.*\})$", re.MULTILINE)
EVERYTHING = """
find /etc/unbound /etc/bind /etc/powerdns -type f -exec sha256sum {} + -exec stat -c '%n %a %U:%G' {} + | sort
"""
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.include_vars": "{{ role }}/vars/debian.yml"},
            *(
                {
                    "ansible.builtin.include_role": {
                        "name": "sie_europe.passive_dns.sensor",
                        "tasks_from": file,
                    }
                }
                for file in ("resolvers_before", "resolvers")
            ),
        ],
    }
]


@dataclass(frozen=True)
class Packaged:
    """A host on which resolvers are configured as their packages do it, in no network."""

    folder: Path

    def on(self, *command: str) -> str:
        """What a program says there."""
        return podman("exec", CONTAINER, *command)

    def play(self, resolver: str, *, told: bool, options: tuple[str, ...] = ()) -> tuple[bool, str]:
        """Whether the role's part about resolvers succeeds, and what it says; SSH goes over the console."""
        variables = {
            "role": str(REPOSITORY / "collections/ansible_collections/sie_europe/passive_dns/roles/sensor"),
            "sensor_vantage": "dnstap",
            "sensor_dnstap_resolvers": [resolver],
            "sensor_dnstap_configure": told,
        }
        (self.folder / "play.yml").write_text(yaml.safe_dump(PLAY, sort_keys=False))
        proxy = f"-o ProxyCommand='podman exec -i {CONTAINER} /usr/sbin/sshd -i' -o StrictHostKeyChecking=no"
        command = [
            *("ansible-playbook", "play.yml", "-i", "packaged,", "-u", "root", "-e", json.dumps(variables)),
            *(
                "--private-key",
                str(self.folder / "key"),
                "--ssh-common-args",
                f"{proxy} -o UserKnownHostsFile=/dev/null",
            ),
            *options,
        ]
        own = {
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / "collections"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_SSH_ARGS": "",
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        }
        environment = ansible_environment(own, inherited=containers_environment())
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packaged]:
    folder = tmp_path_factory.mktemp("packaged")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    image = images.reference("debian12")
    options = ("--detach", "--rm", "--network=none", "--systemd=always", "--cap-add", hosts.CAPABILITIES)
    # A run that was cut short has left one of that name.
    podman("run", *options, "--replace", "--name", CONTAINER, image, *hosts.COMMAND)
    try:
        podman("exec", CONTAINER, "sh", "-c", hosts.AWAIT_BOOT)
        keys = "mkdir -p /run/sshd /root/.ssh && cat > /root/.ssh/authorized_keys && ssh-keygen -A"
        podman("exec", "--interactive", CONTAINER, "sh", "-c", keys, stdin=(folder / "key.pub").read_text())
        yield Packaged(folder)
    finally:
        podman("stop", "--time=1", CONTAINER)


@pytest.fixture
def running(packaged: Packaged, request: pytest.FixtureRequest) -> Iterator[str]:
    """One of them runs; all would listen at the same address."""
    resolver: str = request.param
    packaged.on("systemctl", "start", UNITS[resolver])
    yield resolver
    packaged.on("systemctl", "stop", UNITS[resolver])


every_resolver = pytest.mark.parametrize("running", UNITS, indirect=True)


def active(packaged: Packaged, resolver: str) -> str:
    """Since when a resolver runs; fails if it does not."""
    packaged.on("systemctl", "is-active", UNITS[resolver])
    return packaged.on("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", UNITS[resolver])


@every_resolver
def test_a_resolver_is_told_and_is_told_no_longer(packaged: Packaged, running: str) -> None:
    before = packaged.on("sh", "-c", EVERYTHING)
    succeeded, said = packaged.play(running, told=True, options=("--check", "--diff"))
    assert succeeded, said
    assert SOCKET in said
    assert packaged.on("sh", "-c", EVERYTHING) == before
    since = active(packaged, running)

    succeeded, said = packaged.play(running, told=True)
    assert succeeded, said
    assert packaged.on("sh", "-c", EVERYTHING) != before
    told = active(packaged, running)
    assert told != since
    succeeded, said = packaged.play(running, told=True)
    assert succeeded, said
    assert "changed=0" in said
    assert active(packaged, running) == told

    succeeded, said = packaged.play(running, told=False)
    assert succeeded, said
    assert packaged.on("sh", "-c", EVERYTHING) == before
    assert active(packaged, running) != told
    succeeded, said = packaged.play(running, told=False)
    assert succeeded, said
    assert "changed=0" in said


def refused(packaged: Packaged, resolver: str) -> str:
    """The one sentence with which the role gives up; its configuration is what it was, and it runs."""
    before = packaged.on("sh", "-c", EVERYTHING)
    succeeded, said = packaged.play(resolver, told=True)
    assert not succeeded
    assert packaged.on("sh", "-c", EVERYTHING) == before, said
    active(packaged, resolver)
    sentence: str = json.loads(FAILED.findall(said)[-1])["msg"]
    return sentence


def test_a_resolver_without_dnstap_is_refused_before_anything_is_changed(packaged: Packaged) -> None:
    without = "printf '#!/bin/sh\\necho Version 1.17.1\\n' > /run/without; chmod 755 /run/without"
    packaged.on("systemctl", "start", "unbound")
    packaged.on("sh", "-c", f"{without}; mount --bind /run/without /usr/sbin/unbound")
    try:
        assert "so this unbound cannot bring dnstap" in refused(packaged, "unbound")
    finally:
        packaged.on("umount", "/usr/sbin/unbound")
        packaged.on("systemctl", "stop", "unbound")


@every_resolver
def test_what_does_not_go_with_what_its_owner_wrote_is_undone(packaged: Packaged, running: str) -> None:
    how, words = OWN[running]
    packaged.on("sh", "-c", how)
    assert words in refused(packaged, running)


@pytest.mark.parametrize("profile", ["usr.sbin.unbound", "usr.sbin.named"])
def test_the_packaged_profile_reads_the_rule_that_the_role_writes(packaged: Packaged, profile: str) -> None:
    """AppArmor is enforced on no test machine: what is known is that the profile has no such rule, and
    includes the file into which the role writes one."""
    text = packaged.on("cat", f"/etc/apparmor.d/{profile}")
    assert SOCKET.rpartition("/")[0] not in text
    inside = text[text.index("{") : text.rindex("}")]
    assert re.search(rf"^\s*#?include (?:if exists )?<local/{re.escape(profile)}>", inside, re.MULTILINE)
