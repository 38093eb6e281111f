"""`sie-agent`: the command line of the program on a sensor.

Each command lives in a module of its own, imported only when it is the command that was asked for, so that
`replay` loads neither TLS nor HTTP. Such a module offers

    def configure(command: str, parser: argparse.ArgumentParser) -> None

which adds its arguments and sets `run`, a function from the parsed arguments to the exit code.
"""

import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sie_agent.build import BUILD
from sie_agent.errors import AgentError
from sie_core import __version__
from sie_core.closed_output import EXIT_CLOSED, until_closed
from sie_core.kinds import ConfigError

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_BROKEN: Final = 3
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
"""What shells say of a program that SIGINT has ended."""

EXIT_CODES: Final = {
    EXIT_OK: "done",
    EXIT_FAILURE: "failed while running",
    EXIT_USAGE: "wrong usage or wrong configuration",
    EXIT_BROKEN: "looked, and something is broken: probe, diagnose",
    EXIT_INTERRUPTED: "interrupted from the keyboard",
    EXIT_CLOSED: "nobody reads the output any more, as behind `| head`",
}

_EXIT_LINE: Final = f"exit codes: {'; '.join(f'{code} {words}' for code, words in EXIT_CODES.items())}"

DEFAULT_CONFIG: Final = Path("/etc/sie-agent/agent.yml")

Run = Callable[[argparse.Namespace], int]


class Command(NamedTuple):
    """A first word of the command line: the module that knows it, what it does in a clause, and how to try
    it.
    """

    module: str
    help: str
    examples: str


COMMANDS: Final[dict[str, Command]] = {
    "run": Command(
        "sie_agent.service",
        "record what the resolvers ask authoritative servers and send it to the hub",
        "  sie-agent run\n  sie-agent run --config /etc/sie-agent/agent.yml",
    ),
    "replay": Command(
        "sie_agent.replay",
        "record from a pcap file instead of an interface; count, write or send what it holds",
        "  sie-agent replay up.pcap --resolver 192.0.2.53 --resolver 2001:db8::53 --json\n"
        "  sie-agent replay up.pcap --resolver 192.0.2.0/24 --write out.nmsg.zst\n"
        "  zcat up.pcap.gz | sie-agent replay - --resolver 192.0.2.53 --write out --compatible\n"
        "  sie-agent replay up.pcapng --config agent.yml --send --speed 10",
    ),
    "explain": Command(
        "sie_agent.explain",
        "show for each packet of a pcap file what becomes of it and why",
        "  sie-agent explain up.pcap --resolver 192.0.2.53 --limit 100 | less\n"
        "  sie-agent explain up.pcap --config agent.yml --json | jq 'select(.source == \"192.0.2.7\")'",
    ),
    "check-config": Command(
        "sie_agent.check_config",
        "check a configuration file and list every mistake in it",
        "  sie-agent check-config /etc/sie-agent/agent.yml",
    ),
    "status": Command(
        "sie_agent.status",
        "show what was captured, acknowledged by the hub, is pending and was trimmed",
        "  sie-agent status\n  sie-agent status --json | jq .pending",
    ),
    "probe": Command(
        "sie_agent.probe",
        "prove that the hub receives what is captured: look up a new name and ask the hub for it",
        "  sie-agent probe\n  sie-agent probe --resolver 192.0.2.53 --timeout 30 --json",
    ),
    "diagnose": Command(
        "sie_agent.diagnose",
        "find the broken link between capture and hub, and say what to do",
        "  sie-agent diagnose\n  sie-agent diagnose --resolver 192.0.2.53 --json | jq .broken",
    ),
    "identity": Command(
        "sie_agent.enrolment",
        "obtain and show this sensor's key and certificate",
        "  sie-agent identity enrol --token-file /root/token\n  sie-agent identity show",
    ),
    "completion": Command(
        "sie_agent.completion",
        "print what makes a shell complete this command line",
        "  sie-agent completion bash > /etc/bash_completion.d/sie-agent\n"
        "  source <(sie-agent completion zsh)\n"
        "  sie-agent completion fish > ~/.config/fish/completions/sie-agent.fish",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; argparse exits by itself with 2 on wrong usage."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return until_closed(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    parsed = parser_of(_first_word(arguments)).parse_args(arguments)
    run: Run = parsed.run
    try:
        return run(parsed)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return EXIT_USAGE
    except AgentError as error:
        print(f"sie-agent: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("sie-agent: interrupted; what was written before is there", file=sys.stderr)
        return EXIT_INTERRUPTED


def add_config_argument(parser: "argparse._ActionsContainer", default: Path | None = DEFAULT_CONFIG) -> None:
    """Give a command the option `--config FILE`."""
    place = "none" if default is None else str(default)
    parser.add_argument(
        "--config",
        type=Path,
        default=default,
        metavar="FILE",
        help=f"the agent's configuration (default: {place})",
    )


def _first_word(arguments: Sequence[str]) -> list[str]:
    return [argument for argument in arguments if not argument.startswith("-")][:1]


def parser_of(asked: Collection[str]) -> argparse.ArgumentParser:
    """The parser; only the commands that are asked for are loaded and have their arguments."""
    parser = argparse.ArgumentParser(
        prog="sie-agent",
        description="The program on a sensor of a passive-DNS exchange: it records what a resolver asks\n"
        "authoritative servers on a cache miss, and nothing else, and sends it to the hub.",
        epilog=f"`sie-agent COMMAND --help` explains a command and gives examples.\n\n{_EXIT_LINE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sie-agent {__version__} (build {BUILD})")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        child = commands.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=f"examples:\n{command.examples}\n\n{_EXIT_LINE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in asked:
            importlib.import_module(command.module).configure(name, child)
    return parser


if __name__ == "__main__":
    sys.exit(main())
