"""Networks and hosts in podman: made, started, awaited, removed. Each runs systemd, as a machine does."""

import hashlib
import ipaddress
import json
import shlex
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from sie_lab import console, images
from sie_lab.machine import CommandError, LabError, podman, run
from sie_lab.templates import render
from sie_lab.topology import Host, Interface, Lab, Network

# With less than SYS_ADMIN systemd silently leaves its units' hardening off. NET_RAW lets a sensor capture.
CAPABILITIES = "NET_RAW,NET_ADMIN,SYS_ADMIN"
# Credentials (LoadCredential=) reach a unit only if the root mount is shared, which a container's is not.
COMMAND = ("/bin/sh", "-c", "mount --make-rshared / && exec /sbin/init")
T = TypeVar("T")
R = TypeVar("R")

RECIPE_LABEL = "sie-lab.recipe"
PREFIX_LABEL = "sie-lab.prefix"
BOOT_TIMEOUT = 60  # seconds; a boot takes about one

# Runs on the host: systemd cannot be asked before it listens; "degraded" is booted as well as "running".
AWAIT_BOOT = """
until
    state=$(systemctl is-system-running --wait 2>/dev/null)
    [ "$state" = running ] || [ "$state" = degraded ]
do
    sleep 0.1
done
"""
# Runs on the host: writes what differs from what it is given on standard input, prints the paths it wrote.
WRITE_FILES = """
import json, os, sys
for path, (mode, content) in json.load(sys.stdin).items():
    try:
        with open(path) as file:
            same = file.read() == content and os.stat(path).st_mode & 0o7777 == mode
    except FileNotFoundError:
        same = False
    if not same:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".new", "w") as file:
            file.write(content)
        os.chmod(path + ".new", mode)
        os.replace(path + ".new", path)
        print(path)
"""


@dataclass(frozen=True)
class File:
    """A file to be on a host."""

    path: str
    content: str
    mode: int = 0o644


def in_parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`work` for every item at the same time; the first error is raised once all have ended."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(work, items))


def on(host: Host, *command: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a program on a host as root, as someone at its console would; its standard output.

    Raises CommandError if it fails and `check` is set.
    """
    answer = console.run_on(host.container, command, stdin or "")
    if check and answer.code:
        said = (answer.errors or answer.output).strip()
        raise CommandError(f"{host.container}: {shlex.join(command)}: exit {answer.code}: {said}")
    return answer.output


def write_files(host: Host, files: Iterable[File]) -> list[str]:
    """Put files on a host; the paths of those that were not already so."""
    wanted = {file.path: (file.mode, file.content) for file in files}
    return on(host, "/usr/bin/python3", "-c", WRITE_FILES, stdin=json.dumps(wanted)).split()


def run_services(host: Host, names: Iterable[str], *, restart: bool) -> None:
    """Have units running and started at boot; with `restart`, anew."""
    units = list(names)
    if restart:
        on(host, "systemctl", "daemon-reload")
        on(host, "systemctl", "enable", "--quiet", *units)
        on(host, "systemctl", "restart", *units)
    else:
        on(host, "systemctl", "start", *units)


def ensure_networks(lab: Lab) -> int:
    """Make the networks that are missing; how many. LabError if their addresses are in use here."""
    existing = podman("network", "ls", "--format", "{{.Name}}").split()
    missing = [n for n in lab.networks.values() if lab.podman_network(n.name) not in existing]
    _refuse_overlap(missing)
    for network in missing:
        v6 = ["--ipv6", "--subnet", str(network.v6), "--gateway", str(network.v6[1])] if network.v6 else []
        podman(
            *("network", "create", "--internal", "--disable-dns", "--label", f"{PREFIX_LABEL}={lab.prefix}"),
            *("--subnet", str(network.v4), "--gateway", str(network.v4[1]), *v6),
            lab.podman_network(network.name),
        )
    return len(missing)


def _refuse_overlap(networks: Iterable[Network]) -> None:
    routes = [r for flag in ("-4", "-6") for r in json.loads(run(["ip", "-json", flag, "route"]) or "[]")]
    ours = [subnet for network in networks for subnet in (network.v4, network.v6) if subnet is not None]
    for route in routes:
        if route["dst"] == "default":
            continue
        used = ipaddress.ip_network(route["dst"])
        for subnet in ours:
            if subnet.version == used.version and subnet.overlaps(used):
                raise LabError(
                    f"{subnet} is in use: this machine has a route to {used} on {route.get('dev')}. "
                    "Change the addresses in the lab's inventory, or remove that route"
                )


def recipe(lab: Lab, host: Host) -> list[str]:
    """Everything podman is told about a host."""
    wires = []
    for interface in host.interfaces:
        v6 = f",ip6={interface.address.v6}" if interface.address.v6 else ""
        options = f"ip={interface.address.v4}{v6},mac={_mac(host, interface)},interface_name={interface.name}"
        wires += ["--network", f"{lab.podman_network(interface.network)}:{options}"]
    return [
        *("--name", host.container, "--hostname", host.name, "--systemd=always", "--cap-add", CAPABILITIES),
        *("--no-hosts", "--dns=none", "--label", f"{PREFIX_LABEL}={lab.prefix}", *wires),
        *(images.reference(host.image), *COMMAND),
    ]


def _mac(host: Host, interface: Interface) -> str:
    """A locally administered address that survives restarts, as a card's does: neighbours remember it."""
    digest = hashlib.sha256(f"{host.container} {interface.name}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x02, *digest[:5]))


def _fingerprint(lab: Lab, host: Host) -> str:
    return hashlib.sha256(json.dumps(recipe(lab, host)).encode()).hexdigest()[:16]


def outdated(lab: Lab) -> list[str]:
    """Names of hosts that exist but were made by another recipe."""
    wanted = {host.container: _fingerprint(lab, host) for host in lab.hosts.values()}
    return [name for name, made in _existing(lab).items() if wanted.get(name) != made]


def _existing(lab: Lab) -> dict[str, str]:
    listed = podman(
        *("container", "list", "--all", "--filter", f"label={PREFIX_LABEL}={lab.prefix}"),
        *("--format", f'{{{{.Names}}}} {{{{index .Labels "{RECIPE_LABEL}"}}}}'),
    )
    return dict(line.split(" ", 1) for line in listed.splitlines())


def ensure_hosts(lab: Lab) -> int:
    """Make or start the hosts that do not run, await their boot, configure their wires; how many changed."""
    existing = _existing(lab)
    running = podman("container", "list", "--format", "{{.Names}}").split()
    made = [host for host in lab.hosts.values() if host.container not in existing]
    woken = [h for h in lab.hosts.values() if h.container in existing and h.container not in running]
    for host in made:
        label = ("--label", f"{RECIPE_LABEL}={_fingerprint(lab, host)}")
        podman("run", "--detach", *label, *recipe(lab, host))
    for host in woken:
        podman("start", host.container)
    in_parallel(wait_until_booted, made + woken)
    in_parallel(lambda host: _configure_wires(lab, host), lab.hosts.values())
    return len(made + woken)


def restart(lab: Lab, host: Host) -> None:
    """Switch a host off and on again, as by its power button."""
    console.forget(host.container)
    podman("restart", "--time", "0", host.container)
    wait_until_booted(host)
    _configure_wires(lab, host)


def wait_until_booted(host: Host) -> None:
    """Return when systemd has started all it will start and answers; LabError if that takes too long.

    A unit that failed is for the one to report who put it there: the host has booted all the same.
    """
    try:
        podman("exec", host.container, "timeout", str(BOOT_TIMEOUT), "/bin/sh", "-c", AWAIT_BOOT)
    except CommandError as error:
        raise LabError(f"{host.container} did not boot within {BOOT_TIMEOUT} s: {error}") from error


def _configure_wires(lab: Lab, host: Host) -> None:
    """Routes, second addresses and checksums, as a unit of the host's own: a restart finds them again."""
    own = {str(interface.address.v4) for interface in host.interfaces}
    net = host.on("net")
    further = [
        address
        for server in lab.name_servers.values()
        for address in server
        if host.service == "nsd" and str(address.v4) not in own
    ]
    # Frames carry complete checksums, as they would beyond a real network card: a mirror copies what it sees.
    lines = [f"ethtool -K {i.name} tx off tso off gso off gro off >/dev/null" for i in host.interfaces]
    lines += [f"ip route replace {to} via {via}" for to, via in lab.routes(host)]
    lines += [f"ip address replace {address}/8 dev lo" for address in host.more_services.values()]
    for address in further:
        if net is None:
            raise LabError(f"{host.name}: name servers need an interface on net")
        lines.append(f"ip address replace {address.v4}/{lab.networks['net'].v4.prefixlen} dev {net.name}")
        lines.append(f"ip address replace {address.v6}/64 dev {net.name} nodad")
    changed = write_files(
        host,
        [
            File("/usr/local/sbin/lab-wires", "\n".join(["#!/bin/sh -e", *lines, ""]), 0o755),
            File("/etc/systemd/system/lab-wires.service", render("lab-wires.service.j2")),
        ],
    )
    run_services(host, ["lab-wires.service"], restart=bool(changed))


def remove(lab: Lab) -> int:
    """Remove all hosts and networks of this lab, whatever state they are in; how many there were."""
    containers = list(_existing(lab))
    for container in containers:
        console.forget(container)
    if containers:
        podman("rm", "--force", "--time", "0", *containers)
    label = f"label={PREFIX_LABEL}={lab.prefix}"
    networks = podman("network", "ls", "--filter", label, "--format", "{{.Name}}").split()
    if networks:
        podman("network", "rm", *networks)
    return len(containers) + len(networks)


def process_id(host: Host) -> int:
    """The host's init as this machine numbers it: the handle on its network namespace."""
    return int(podman("inspect", "--format", "{{.State.Pid}}", host.container))
