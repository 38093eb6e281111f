"""The command line of the lab."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sie_lab import deploy, dns, domains, hosts, images, querylog, span, summary, topology, traffic
from sie_lab.machine import REPOSITORY, LabError, Progress, cache, exclusively, run

INVENTORIES = {
    "lab": REPOSITORY / "inventories" / "lab" / "hosts.yml",
    "molecule": REPOSITORY / "molecule" / "inventory" / "hosts.yml",
    "dnstap": REPOSITORY / "molecule" / "dnstap" / "inventory" / "hosts.yml",
}
HOUSE_FILES = (".yml", ".yaml")
PREREQUISITES = Path(__file__).resolve().parents[1] / "prerequisites.sh"
EXIT_FAILED = 1
EXIT_USAGE = 2


def house(name: str) -> topology.Lab:
    """One of the houses by name, or another by its inventory's path. TopologyError if there is neither."""
    path = INVENTORIES.get(name, Path(name))
    if path.suffix not in HOUSE_FILES or not path.is_file():
        raise topology.TopologyError(
            f"no house {name}; there are {', '.join(INVENTORIES)}, and inventories ending in .yml"
        )
    return topology.load(path)


def create(lab: topology.Lab, progress: Progress) -> None:
    """Everything up to hosts that resolve and open to their own domains; nothing of the product."""
    run(["sh", str(PREREQUISITES)])
    for name in sorted({host.image for host in lab.hosts.values()}):
        with progress.step(f"image {name}") as step:
            step.changed = int(images.ensure(name))
    if hosts.outdated(lab):
        with progress.step("removing hosts of an earlier recipe") as step:
            step.changed = hosts.remove(lab) + domains.remove(lab)
    steps: list[tuple[str, Callable[[topology.Lab], int]]] = [
        ("networks", hosts.ensure_networks),
        ("hosts", hosts.ensure_hosts),
        ("mirror port", span.ensure),
        ("name service", dns.ensure),
        ("control domains", domains.ensure),
    ]
    for what, ensure in steps:
        with progress.step(what) as step:
            step.changed = ensure(lab)


def up(lab: topology.Lab, _arguments: argparse.Namespace) -> int:
    """The whole lab, the product deployed, traffic driven, the table shown."""
    progress = Progress(lab.prefix)
    create(lab, progress)
    deploy.deploy(lab, progress)
    print("nothing to change" if not progress.changes else f"{progress.changes} changes", file=sys.stderr)
    with progress.step("queries through both resolvers") as step:
        driven = traffic.drive(lab)
        step.note = f"{driven.total} looked up"
    print(summary.report(lab, driven))
    return 0


def down(lab: topology.Lab, _arguments: argparse.Namespace) -> int:
    """Remove the lab, however much of it there is."""
    progress = Progress(lab.prefix)
    with progress.step("removing hosts and networks") as step:
        step.changed = hosts.remove(lab)
    with progress.step("removing users and keys") as step:
        step.changed = domains.remove(lab)
    return 0


def command_create(lab: topology.Lab, _arguments: argparse.Namespace) -> int:
    """Hosts and name service only."""
    create(lab, Progress(lab.prefix))
    return 0


def command_deploy(lab: topology.Lab, _arguments: argparse.Namespace) -> int:
    """All of the product's playbooks."""
    deploy.deploy(lab, Progress(lab.prefix))
    return 0


def command_deployed(lab: topology.Lab, _arguments: argparse.Namespace) -> int:
    """Whether there is something left to deploy, as JSON."""
    print(json.dumps({"deployed": deploy.is_deployed(lab)}))
    return 0


def command_playbook(lab: topology.Lab, arguments: argparse.Namespace) -> int:
    """One of them; how much it changed, as JSON."""
    name, participants = arguments.name, arguments.participants
    if not participants and name in deploy.OF_PARTICIPANTS:
        raise topology.TopologyError(f"the playbook {name} is for a participant: name one")
    if participants and name == "hub":
        raise topology.TopologyError("the playbook hub is for no participant")
    if len(participants) > 1 and name not in deploy.BY_PARTICIPANTS:
        raise topology.TopologyError(f"the playbook {name} is the hub operator's: name one participant")
    options = [word for extra in arguments.extra for word in ("-e", extra)]
    if arguments.check:
        would_change = deploy.for_each(deploy.rehearse, lab, name, participants, options)
        print(json.dumps({"changed": 0, "would_change": would_change}))
    else:
        print(json.dumps({"changed": deploy.for_each(deploy.playbook, lab, name, participants, options)}))
    return 0


def command_info(lab: topology.Lab, _arguments: argparse.Namespace) -> int:
    """One JSON object."""
    print(json.dumps(deploy.info(lab), indent=2))
    return 0


def command_span(lab: topology.Lab, arguments: argparse.Namespace) -> int:
    """Switch the mirror."""
    if arguments.state != "status":
        span.switch(lab, on_=arguments.state == "on")
    print("on" if span.is_on(lab) else "off")
    return 0


def command_dig(lab: topology.Lab, arguments: argparse.Namespace) -> int:
    """dig on the stub's host."""
    print(dns.dig(lab, *arguments.words), end="")
    return 0


def command_exec(lab: topology.Lab, arguments: argparse.Namespace) -> int:
    """A program on a host."""
    print(hosts.on(lab.host(arguments.host), *arguments.words), end="")
    return 0


def command_restart(lab: topology.Lab, arguments: argparse.Namespace) -> int:
    """Power off and on."""
    host = lab.host(arguments.host)
    hosts.restart(lab, host)
    span.ensure(lab)
    dns.await_answer(lab, host)
    return 0


def command_run_as(lab: topology.Lab, arguments: argparse.Namespace) -> int:
    """A program in a participant's domain."""
    participant = lab.participant(arguments.participant)
    with domains.empty_folder(participant) as folder:
        return domains.as_participant(lab, participant, arguments.words, cwd=folder)


def command_queries(lab: topology.Lab, arguments: argparse.Namespace) -> int:
    """The name servers' log as counts."""
    counted = querylog.counts(lab, arguments.since, arguments.kind)
    rows = [
        {"qname": name, "qtype": qtype, "resolver": resolver, "count": count}
        for (name, qtype, resolver), count in sorted(counted.items())
    ]
    print(json.dumps({"next": querylog.mark(lab), "counts": rows}, indent=1))
    return 0


CHANGING = (up, down, command_create, command_deploy, command_playbook)  # one at a time


def parser() -> argparse.ArgumentParser:
    """All commands."""
    root = argparse.ArgumentParser(prog="lab.py", description=__doc__)
    root.add_argument(
        "--lab",
        default="lab",
        metavar="HOUSE",
        help=f"which of the houses: {', '.join(INVENTORIES)}, or the file of another (default: lab)",
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run_it: Callable[[topology.Lab, argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run_it)
        return sub

    command("up", up, "make the lab, deploy the product to it, drive queries, show what came of them")
    command("down", down, "remove the lab")
    command("create", command_create, "make hosts and name service, deploy nothing")
    command("deploy", command_deploy, "run all of the product's playbooks on hosts that exist")
    command("deployed", command_deployed, "whether that has been done, as JSON")
    playbook = command(
        "playbook", command_playbook, "run one of them; prints how many tasks changed, as JSON"
    )
    playbook.add_argument(
        "name",
        choices=[
            "hub",
            *deploy.OF_PARTICIPANTS,
            "renewals",
            "rotate_keys",
            "diagnose",
            "upgrade",
            "rollback",
        ],
    )
    playbook.add_argument(
        "participants", nargs="*", metavar="participant", help="several run theirs at the same time"
    )
    playbook.add_argument(
        "-e", dest="extra", action="append", default=[], metavar="NAME=VALUE", help="as ansible-playbook's"
    )
    playbook.add_argument(
        "--check", action="store_true", help="only say what would change, and prove that nothing has"
    )
    command("info", command_info, "addresses and the reader's key, as one JSON object")
    mirror = command("span", command_span, "the mirror port")
    mirror.add_argument("state", choices=["on", "off", "status"])
    dig = command("dig", command_dig, "run dig on the stub's host: lab.py dig @ADDRESS NAME TYPE")
    dig.add_argument("words", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    execute = command("exec", command_exec, "run a program on a host, as root")
    execute.add_argument("host")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="WORD")
    restart = command(
        "restart", command_restart, "power a host off and on; the mirror port is plugged in again"
    )
    restart.add_argument("host")
    run_as = command("run-as", command_run_as, "run a program in a participant's domain, in an empty folder")
    run_as.add_argument("participant")
    run_as.add_argument("words", nargs=argparse.REMAINDER, metavar="WORD")
    queries = command("queries", command_queries, "what the name servers were asked, counted, as JSON")
    queries.add_argument("--since", type=int, default=0, help='the "next" of an earlier answer')
    queries.add_argument("--kind", choices=["Q", "R"], default="Q", help="queries (default) or responses")
    return root


def main(words: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    arguments = parser().parse_args(words)
    try:
        lab = house(arguments.lab)
        if arguments.run not in CHANGING:
            return int(arguments.run(lab, arguments))
        if os.geteuid() != 0:
            raise LabError(
                "hosts, networks and users of this machine are made and removed by root: run it as root"
            )
        with exclusively(cache() / f"{lab.prefix}.lock"):
            return int(arguments.run(lab, arguments))
    except topology.TopologyError as error:
        print(f"lab.py: {error}", file=sys.stderr)
        return EXIT_USAGE
    except LabError as error:
        print(f"lab.py: {error}", file=sys.stderr)
        return EXIT_FAILED
