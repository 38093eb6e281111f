"""`sie-hub streams` and `sie-hub nats-config`: what must be there before the units start."""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from sie_core.settings import ConfigError
from sie_hub import log
from sie_hub.cli import EXIT_FAILURE, EXIT_OK, add_config_argument
from sie_hub.config import load_config, read_secret
from sie_hub.files import replace_file
from sie_hub.nats_command import NotInTime, add_timeout_argument, in_time, linked
from sie_hub.nats_config import USERS, render
from sie_hub.streams import ensure_streams

NATS_TIMEOUT: Final = 30.0
"""Seconds for nats-server, which may just have been started, to be there and to make the streams."""


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of one of the two commands."""
    add_config_argument(parser)
    parser.add_argument("--check", action="store_true", help="say what would change, and change nothing")
    if command == "streams":
        parser.description = f"{parser.description} Prints one JSON object: changed, and what became of each."
        add_timeout_argument(parser, NATS_TIMEOUT)
        parser.set_defaults(run=_streams)
    else:
        parser.add_argument(
            "--passwords",
            type=Path,
            required=True,
            metavar="DIR",
            help=f"a directory with one file per user: {', '.join(user.name for user in USERS)}",
        )
        parser.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="write the file, mode 0640, if it differs, and print {changed}; without it, print the text",
        )
        parser.add_argument(
            "--checker",
            metavar="PROGRAM",
            help="a nats-server, which must take the text before the file is written",
        )
        parser.set_defaults(run=_nats_config)


def _streams(arguments: argparse.Namespace) -> int:
    log.configure("setup")
    config = load_config(arguments.config)

    async def ensure() -> dict[str, str]:
        async with linked(config, "setup") as link:
            return await ensure_streams(link.jetstream, dry_run=arguments.check)

    try:
        outcome = in_time(config, arguments.timeout, ensure())
    except NotInTime as failure:
        print(json.dumps({"error": str(failure)}))
        return EXIT_FAILURE
    print(json.dumps({"changed": any(o != "unchanged" for o in outcome.values()), "streams": outcome}))
    return EXIT_OK


def _nats_config(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    passwords = {user.name: read_secret(arguments.passwords / user.name) for user in USERS}
    try:
        text = render(config["nats.url"], config["nats.store"], passwords, config["nats.store_max"])
    except ValueError as error:
        raise ConfigError([f"{arguments.passwords}: {error}"]) from None
    if arguments.output is None:
        print(text, end="")
        return EXIT_OK
    changed = not _holds(arguments.output, text)
    if changed and not arguments.check:
        if arguments.checker is not None:
            _judge(arguments.checker, text, arguments.output)
        replace_file(arguments.output, text, mode=0o640)
    print(json.dumps({"changed": changed}))
    return EXIT_OK


def _judge(checker: str, text: str, output: Path) -> None:
    """Have nats-server read a configuration that is to be written. ConfigError if it does not take it."""
    with tempfile.NamedTemporaryFile("w", dir=output.parent, prefix=f".{output.name}.") as file:
        file.write(text)
        file.flush()
        try:
            done = subprocess.run(
                [checker, "-t", "-c", file.name], capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise ConfigError([f"{output}: {checker} cannot be asked: {error.strerror}"]) from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise ConfigError([f"{output}: {checker} refuses what was to be written: {said}"])


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except FileNotFoundError:
        return False
