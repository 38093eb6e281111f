"""`sie-hub`: one command line for the hub's programs and for the tools that set them up.

Each command lives in a module of its own, imported only when it is the command that was asked for, so that
the query API does not load what ingest needs nor the reverse. Such a module offers

    def configure(command: str, parser: argparse.ArgumentParser) -> None

which adds its arguments and sets `run`, a function from the parsed arguments to the exit code.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sie_core import __version__
from sie_core.closed_output import EXIT_CLOSED, until_closed
from sie_core.settings import ConfigError, help_text
from sie_hub.config import DEFAULT_PATH, TABLE, load_config

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2

EXIT_CODES: Final = (
    "exit codes: 0 done; 1 failed while running; 2 wrong usage or wrong configuration;\n"
    f"{EXIT_CLOSED} nobody reads the output any more, as behind `| head`"
)

Run = Callable[[argparse.Namespace], int]


class Command(NamedTuple):
    """A first word of the command line: the module that knows it, and what it does in a clause."""

    module: str
    help: str


COMMANDS: Final[dict[str, Command]] = {
    "enrol": Command("sie_hub.enrol.cli", "run the unit that issues certificates to sensors"),
    "ingest": Command("sie_hub.ingest.cli", "run the unit that takes containers in from sensors"),
    "refine": Command("sie_hub.refine.cli", "run the unit that turns containers into de-duplicated records"),
    "serve": Command("sie_hub.serve.cli", "run the unit that stores records and answers readers"),
    "streams": Command("sie_hub.nats_cli", "create or update the streams that join the units"),
    "nats-config": Command("sie_hub.nats_cli", "write nats-server's configuration with the units' users"),
    "ca": Command("sie_hub.enrol.cli", "make the issuing CA and the hub's own certificates"),
    "token": Command("sie_hub.enrol.cli", "issue and list one-time enrolment tokens"),
    "renewal": Command("sie_hub.enrol.cli", "list the certificates that were renewed"),
    "due": Command("sie_hub.enrol.due_cli", "list the agreements and certificates that end soon"),
    "ledger": Command("sie_hub.ledger_cli", "show what each source captured and what of it is here"),
    "diagnose": Command("sie_hub.diagnose", "find the broken link of this hub, and say what to do"),
    "registry": Command("sie_hub.registry_cli", "show and change who may send and who may read"),
    "offboard": Command("sie_hub.offboard_cli", "let a participant go and purge what it has left"),
    "backup": Command("sie_hub.backup_cli", "write what this hub cannot be built anew without"),
    "restore": Command("sie_hub.backup_cli", "put a backup into a hub that was built anew"),
    "check-config": Command("sie_hub.cli", "check a configuration file and list every mistake in it"),
    "demo": Command("sie_hub.demo.cli", "run a whole hub on loopback and send it a generated sample"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; argparse exits by itself with 2 on wrong usage."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return until_closed(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    parsed = _parser(asked=_first_word(arguments)).parse_args(arguments)
    run: Run = parsed.run
    try:
        return run(parsed)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return EXIT_USAGE


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Give a command the option `--config FILE`."""
    parser.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_PATH,
        metavar="FILE",
        help=f"the hub's configuration (default: {DEFAULT_PATH})",
    )


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """The command that belongs to no unit: check-config."""
    place = f"the file to check (default: {DEFAULT_PATH})"
    parser.add_argument("file", type=Path, nargs="?", default=DEFAULT_PATH, help=place)
    parser.epilog = f"settings of the file, with their defaults:\n\n{help_text(TABLE)}\n{EXIT_CODES}"
    parser.set_defaults(run=_check_config)


def _check_config(arguments: argparse.Namespace) -> int:
    load_config(arguments.file)
    print(f"{arguments.file}: no mistakes")
    return EXIT_OK


def _first_word(arguments: Sequence[str]) -> str | None:
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _parser(asked: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sie-hub",
        description="The hub of a passive-DNS exchange.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"sie-hub {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        child = commands.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == asked:
            importlib.import_module(command.module).configure(name, child)
    return parser


if __name__ == "__main__":
    sys.exit(main())
