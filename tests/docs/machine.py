"""A machine of its own for the commands of a page: files, network and running programs that no other sees.

It is this machine's files in namespaces of its own. What a command writes below the folders of a system goes
to memory and is gone with it; nothing outside can be reached, and the addresses of the documentation are
its own. On it stand an exchange's hub and a participant's sensor, under the paths that the roles use.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from sie_lab.machine import ansible_environment

from sie_hub.nats_config import USERS
from tests.docs.pages import COLLECTION, REPOSITORY

BIN: Final = Path(sys.executable).parent
SYSTEM: Final = ("etc", "opt", "run", "srv", "var/lib")
"""Folders of which it has a copy of its own."""

EXCHANGE: Final = "exchange.example"
HUB_NAME: Final = "hub.exchange.example"
HUB_ADDRESSES: Final = ("192.0.2.10", "198.51.100.10")
RESOLVER: Final = ("192.0.2.53", "2001:db8::53")
SIGNED: Final = "2026-01-01"
UNITS: Final = ("enrol", "ingest")
CA: Final = "/etc/sie-hub/ca"
TLS: Final = "/etc/sie-hub/tls"
TIMEOUT: Final = 120.0  # seconds; no step takes five where nothing else runs

_BOOT: Final = """
mount -t tmpfs tmpfs "$1"
shift
for folder in "$@"; do
    own=$OVERLAYS/$(echo "$folder" | tr / _)
    mkdir -p "$own/new" "$own/work"
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$own/new,workdir=$own/work" "/$folder"
done
ip link set lo up
ip link add eth0 type veth peer name wire0
ip link set eth0 up
ip link set wire0 up
for address in $ADDRESSES; do ip address add "$address" dev eth0; done
echo "192.0.2.10 $NAMES" >> /etc/hosts
echo ready
exec sleep infinity
"""

_EACH_LINE: Final = """
import shlex, sys
from sie_hub.cli import main
sys.exit(any([main(shlex.split(line)) for line in sys.stdin]))
"""


class Machine:
    """The machine; `folder` outside of it, below /tmp, is the folder in which commands are typed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.work = folder / "work"
        self.programs = folder / "programs"
        self.token = ""
        self._background: list[subprocess.Popen[bytes]] = []
        self._overlays = folder / "overlays"
        for made in (self.home, self.work, self.programs, self._overlays):
            made.mkdir()
        addresses = [*(f"{address}/32" for address in HUB_ADDRESSES), *(f"{a}" for a in RESOLVER)]
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-euc", _BOOT, "boot", str(self._overlays), *SYSTEM],
            env={
                **os.environ,
                "OVERLAYS": str(self._overlays),
                "ADDRESSES": " ".join(addresses),
                "NAMES": f"{HUB_NAME} hub.example",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if self._process.stdout.readline() != "ready\n":
            raise AssertionError(self._process.stderr.read())

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a command inherits: a home of its own and the product's programs; nothing of Ansible's."""
        return ansible_environment(
            {
                "HOME": str(self.home),
                "PATH": f"{self.programs}:{BIN}:{os.environ['PATH']}:/usr/sbin:/sbin",
                "LC_ALL": "C.UTF-8",
                "PAGER": "cat",
                **(more or {}),
            }
        )

    def run(self, text: str, *, stdin: str = "") -> str:
        """Type commands into a shell that ends at the first that fails; what they print. AssertionError."""
        done = subprocess.run(
            self._inside("bash", "-euo", "pipefail", "-c", text),
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, f"{text}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def hub(self, *commands: str) -> None:
        """Commands of `sie-hub`, in one process, which is a second for each that is saved."""
        self.run(f"python -c '{_EACH_LINE}'", stdin="\n".join(commands))

    def note(self, path: str, text: str) -> None:
        """Write a file."""
        self.run(f'mkdir -p "$(dirname {path})"; cat > {path}', stdin=text)

    def stand_in(self, name: str, script: str) -> None:
        """Put a program in the place of one that this machine lacks, or that asks a person."""
        path = self.programs / name
        path.write_text(f"#!/bin/bash\nset -eu\n{script}\n")
        path.chmod(0o755)

    def start(self, *words: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a program that runs until the machine is switched off."""
        with (self.folder / "programs.log").open("ab") as log:
            self._background.append(
                subprocess.Popen(
                    self._inside(*words),
                    env=self.environment(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def await_true(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for what programs are to bring about. AssertionError with what they said."""
        until = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < until, f"{what}: {(self.folder / 'programs.log').read_text()}"
            time.sleep(0.05)

    def listens(self, port: int, address: str = HUB_ADDRESSES[0]) -> bool:
        """Whether something takes connections."""
        probe = self._inside("bash", "-c", f"exec 3<> /dev/tcp/{address}/{port}")
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0

    def switch_off(self) -> None:
        """End every program, the newest first, and the machine."""
        processes: list[subprocess.Popen[Any]] = [self._process, *self._background]
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _inside(self, *words: str) -> list[str]:
        enter = ["nsenter", f"--target={self._process.pid}", "--mount", "--net"]
        return [*enter, "env", "-C", str(self.work), *words]


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """A machine with nothing on it."""
    made = Machine(folder)
    try:
        yield made
    finally:
        made.switch_off()


def with_authority(on: Machine) -> None:
    """A hub that does not run and knows nobody: its configuration, CA and certificates."""
    authority = {"certificate": f"{CA}/ca.pem", "key": f"{CA}/ca.key"}
    listening = {
        unit: {"listen": [f"{address}:{port}" for address in HUB_ADDRESSES]}
        for unit, port in (("enrol", 8444), ("ingest", 8443))
    }
    on.note("/etc/sie-hub/hub.yml", yaml.safe_dump({"exchange": EXCHANGE, "ca": authority, **listening}))
    names = " ".join(
        [f"--name {HUB_NAME} --name hub.example", *(f"--address {address}" for address in HUB_ADDRESSES)]
    )
    on.run("mkdir -p /etc/sie-hub/participants")
    on.hub(
        f"ca init --directory {CA} --exchange {EXCHANGE}",
        *(f"ca server-certificate --ca-directory {CA} --out {TLS} --as {unit} {names}" for unit in UNITS),
    )


def with_registry(on: Machine) -> None:
    """The same with a registered participant and a token."""
    with_authority(on)
    on.hub(
        f"registry participant set isp_a --signed {SIGNED} --term-days 365",
        "registry sensor set isp_a ns1 --channel 202",
        "registry reader key add isp_a analyst --id k1",
    )
    on.token = on.run("sie-hub token issue --participant isp_a --sensor ns1").strip()


def with_hub(on: Machine) -> None:
    """The programs that sensors speak to, and nats-server."""
    with_registry(on)
    credentials = "/etc/sie-hub/nats"
    for user in USERS:
        on.note(f"{credentials}/{user.name}", "password-of-the-tests")
        on.note(f"/run/credentials/{user.name}/nats_password", "password-of-the-tests")
    on.run(f"sie-hub nats-config --passwords {credentials} --output /etc/sie-hub/nats-server.conf")
    on.start(str(BIN / "nats-server"), "-c", "/etc/sie-hub/nats-server.conf")
    on.await_true("nats-server listens", lambda: on.listens(4222, "127.0.0.1"))
    on.run("CREDENTIALS_DIRECTORY=/run/credentials/setup sie-hub streams")
    for unit in UNITS:
        on.start("sie-hub", unit, environment={"CREDENTIALS_DIRECTORY": f"/run/credentials/{unit}"})
    on.await_true("enrol and ingest listen", lambda: on.listens(8444) and on.listens(8443))


def with_operator(on: Machine) -> None:
    """What the hub's operator has: a hub, the example inventory and releases. Playbooks run for real, but on
    this machine, whatever address the inventory gives the hub.
    """
    with_authority(on)
    (on.work / "inventories").symlink_to(REPOSITORY / "inventories")
    releases = on.home / ".cache/sie-fleet/releases"
    on.run(
        f"""
        mkdir -p {releases} /opt/sie/sie-hub/bin
        ln -s {BIN}/sie-hub /opt/sie/sie-hub/bin/sie-hub
        cd {releases}
        (cd {COLLECTION} && ansible-galaxy collection build --output-path {releases})
        ln -s sie_europe-passive_dns-*.tar.gz collection.tar.gz
        echo "a release" > sie-agent.tar
        ln -s sie-agent.tar agent.tar
        """
    )
    here = f"-e ansible_connection=local -e ansible_become=false -e ansible_python_interpreter={BIN}/python"
    on.stand_in(
        "ansible-playbook",
        f"export ANSIBLE_COLLECTIONS_PATH={REPOSITORY / 'collections'}\n"
        f'exec {BIN}/ansible-playbook {here} "$@"',
    )


def with_a_request(on: Machine) -> None:
    """A hub, and what somebody has at hand who enrols by other programs than ours."""
    with_hub(on)
    on.run("cp /etc/sie-hub/ca/ca.pem hub_ca.pem; openssl genpkey -algorithm ed25519 -out key.pem")


def with_a_sensor_to_remove(on: Machine) -> None:
    """A hub's registry and a sensor's folders; systemd is one that stops what it is told to."""
    with_registry(on)
    with_agent_settings(on)
    on.run("mkdir -p /var/lib/sie-agent/spool /opt/sie/sie-agent/bin")
    with_systemd(on)


def with_systemd(on: Machine) -> None:
    """A systemd that is told of the agent and obeys."""
    on.stand_in("systemctl", '[[ "$*" = "disable --now sie-agent" || "$*" = daemon-reload ]]')


def with_what_is_handed_over(on: Machine) -> None:
    """In the place of the operator a participant's engineer, with what the operator's playbook has written,
    and an editor that writes down the fingerprint as it was told. Playbooks are read with inventory and
    tokens, and stop before the first host: the lab's participants run them.
    """
    handed, operator = on.folder / "handed", on.work / "onboarding/isp_a"
    on.work = handed
    handed.mkdir()
    for name in ("onboarding.tar.gz", "onboarding.tar.gz.sig", "tokens.vault.yml"):
        shutil.copy(operator / f"isp_a-{name}", handed)
    signer = (operator / "isp_a-signer.txt").read_text().strip()
    on.stand_in("editor", f'sed -i "s|SHA256:...|{signer}|" "$1"')
    on.stand_in(
        "ansible-playbook",
        f"passphrase=--vault-password-file={operator}/isp_a-passphrase.txt\n"
        f'exec {BIN}/ansible-playbook --syntax-check "${{@/--ask-vault-pass/$passphrase}}"',
    )
    with_traffic(on)
    on.run("mkdir -p /opt/sie /var/lib/private/sie-agent; touch /etc/systemd/system/sie-agent.service")
    with_systemd(on)


def with_agent_settings(on: Machine) -> None:
    """A sensor's configuration, and nothing else of it."""
    settings = {
        "participant": "isp_a",
        "sensor": "ns1",
        "exchange": EXCHANGE,
        "resolvers": list(RESOLVER),
        "sources": [{"interface": "eth0"}],
        "uplink": {
            "hubs": [f"wss://{HUB_ADDRESSES[0]}:8443"],
            "enrol": f"https://{HUB_ADDRESSES[0]}:8444",
        },
    }
    on.note("/etc/sie-agent/agent.yml", yaml.safe_dump(settings))
    on.run("cp /etc/sie-hub/ca/ca.pem /etc/sie-agent/hub_ca.pem 2>/dev/null || true")


def with_traffic(on: Machine) -> None:
    """A capture that has just ended, beside which commands are typed, and the same packets into eth0 for as
    long as the machine runs.
    """
    with_agent_settings(on)
    capture = on.work / "up.pcap"
    on.run(f"cd {REPOSITORY} && python -m tests.traffic {capture} --transactions 600 --seed 7")
    on.start(
        sys.executable,
        "-m",
        "tests.docs.wire",
        str(capture),
        "wire0",
        environment={"PYTHONPATH": str(REPOSITORY)},
    )
