"""`sie-agent check-config FILE`: every mistake of a configuration at once."""

import argparse
from pathlib import Path

from sie_agent.cli import DEFAULT_CONFIG, EXIT_OK
from sie_agent.config import TABLE, load_config
from sie_agent.config_kinds import HOST
from sie_agent.errors import SourceError, UsageError
from sie_agent.recording import recorder_of, settings_of
from sie_agent.sources import check_system
from sie_core.kinds import ConfigError
from sie_core.settings import help_text


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check-config`."""
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help=f"the file to check (default: {DEFAULT_CONFIG})",
    )
    parser.epilog = f"settings of the file, with their defaults:\n\n{help_text(TABLE)}\n{parser.epilog}"
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.file)
    try:
        if config.interfaces:
            check_system()
        # Any address will do: what is checked here are the settings that only the recorder can judge.
        recorder_of(
            [item for item in config.resolvers if item != HOST] or ["192.0.2.53"], settings_of(config)
        )
    except (SourceError, UsageError) as error:
        raise ConfigError([f"{arguments.file}: {error}"]) from error
    print(
        f"{arguments.file}: no mistakes; sensor {config.sensor} of {config.participant}, "
        f"channel {config.channel}, {len(config.resolvers)} resolvers, {len(config.interfaces)} interfaces, "
        f"{len(config.dnstap)} dnstap endpoints"
    )
    return EXIT_OK
