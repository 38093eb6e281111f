"""Name service of the lab's little internet: NSD for root, TLD and domains; the participants' resolvers."""

import time
from dataclasses import dataclass
from pathlib import Path

from sie_lab.hosts import File, in_parallel, on, run_services, write_files
from sie_lab.machine import LabError
from sie_lab.templates import render
from sie_lab.topology import Host, Lab

HERE = Path(__file__).resolve().parent
DNSTAP_SOCKET = "/run/sie-agent/dnstap.sock"
ANSWER_TIMEOUT = 20.0  # seconds; a resolver that has just started answers within two
ZONES = {
    "root": (".",),
    "tld": ("example.",),
    "domains": ("alpha.example.", "beta.example.", "delta.example.", "gamma.example.", "wild.example."),
}


@dataclass(frozen=True)
class Program:
    """Where a resolver's program keeps its configuration, and its unit."""

    folder: str
    main: str
    unit: str


RESOLVERS = {
    "unbound": Program("/etc/unbound", "unbound.conf", "unbound.service"),
    "bind": Program("/etc/bind", "named.conf", "named.service"),
    "pdns": Program("/etc/powerdns", "recursor.conf", "pdns-recursor.service"),
}


def name_server_files(lab: Lab) -> list[File]:
    """Everything that the name servers' host needs."""
    units = ("lab-querylog.service", "lab-nsd@.service")
    files = [
        File("/usr/local/lib/lab/query_logger.py", (HERE / "query_logger.py").read_text()),
        *(File(f"/etc/systemd/system/{unit}", render(f"{unit}.j2")) for unit in units),
    ]
    for name, zones in ZONES.items():
        addresses = [text for address in lab.name_servers[name] for text in address]
        text = render("nsd.conf.j2", name=name, addresses=addresses, zones=zones)
        files.append(File(f"/etc/lab-nsd/{name}.conf", text))
        for zone in zones:
            file = "root.zone" if zone == "." else f"{zone}zone"
            text = render(f"zones/{file}.j2", name_servers=lab.name_servers, probe_server=lab.probe_server)
            files.append(File(f"/etc/lab-nsd/zones/{file}", text))
    return files


def resolver_files(lab: Lab, host: Host) -> list[File]:
    """Everything that a participant's resolver needs."""
    facing = host.on("net")
    addresses = list(facing.address) if facing else []
    dnstap = any(
        participant.dnstap for participant in lab.participants.values() if participant.sensor is host
    )
    hints = render("hints.j2", name_servers=lab.name_servers)
    files = []
    for service, listen in resolver_services(host):
        program = RESOLVERS[service]
        text = render(
            f"{program.main}.j2",
            listen=addresses if listen is None else [],
            loopback=listen or "127.0.0.1",
            asks_from=addresses if dnstap else [],
            dnstap=DNSTAP_SOCKET if dnstap else None,
        )
        files += [File(f"{program.folder}/lab.hints", hints), File(f"{program.folder}/{program.main}", text)]
        if service == "pdns":
            files.append(File(f"{program.folder}/lab.lua", render("recursor.lua.j2", dnstap=DNSTAP_SOCKET)))
    return files


def resolver_services(host: Host) -> list[tuple[str, str | None]]:
    """The resolvers of a host; of those beside its own, the loopback address that each answers at."""
    own: list[tuple[str, str | None]] = [(host.service, None)] if host.service in RESOLVERS else []
    return own + list(host.more_services.items())


def ensure(lab: Lab) -> int:
    """Every name server and resolver configured and running; how many hosts changed."""
    name_servers = [host for host in lab.hosts.values() if host.service == "nsd"]
    resolvers = [host for host in lab.hosts.values() if host.service in RESOLVERS]
    # A resolver that starts before its root remembers that the root was silent.
    changed = sum(in_parallel(lambda host: _ensure_name_servers(lab, host), name_servers))
    return changed + sum(in_parallel(lambda host: _ensure_resolver(lab, host), resolvers))


def _ensure_name_servers(lab: Lab, host: Host) -> bool:
    changed = write_files(host, name_server_files(lab))
    units = ["lab-querylog.service", *(f"lab-nsd@{name}.service" for name in ZONES)]
    run_services(host, units, restart=bool(changed))
    return bool(changed)


def _ensure_resolver(lab: Lab, host: Host) -> bool:
    changed = write_files(host, resolver_files(lab, host))
    units = [RESOLVERS[service].unit for service, _ in resolver_services(host)]
    run_services(host, units, restart=bool(changed))
    await_answer(lab, host)
    return bool(changed)


def await_answer(lab: Lab, host: Host) -> None:
    """Return once a resolver finds its way from the root over both families; at once for any other host."""
    facing = host.on("net")
    if host.service not in RESOLVERS or facing is None:
        return
    deadline = time.monotonic() + ANSWER_TIMEOUT
    waiting = {(address, zone) for address in facing.address for zone in ("delta.example", "gamma.example")}
    while waiting:
        address, zone = next(iter(waiting))
        said = dig(lab, f"@{address}", "+short", "+tries=1", "+timeout=1", zone, "SOA", check=False)
        if "hostmaster" in said:
            waiting.discard((address, zone))
        elif time.monotonic() > deadline:
            raise LabError(f"{host.name} at {address} does not resolve {zone}: {said.strip() or 'no answer'}")


def dig(lab: Lab, *arguments: str, check: bool = True) -> str:
    """Run dig on the stub's host; its output."""
    return on(lab.host("stub"), "dig", *arguments, check=check)
