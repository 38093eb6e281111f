"""`sie-hub offboard`: take back everything from a participant that leaves, and purge what it has left."""

import argparse
import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sie_core.settings import Config
from sie_hub import log
from sie_hub.cli import EXIT_CODES, EXIT_FAILURE, EXIT_OK, add_config_argument
from sie_hub.config import load_config
from sie_hub.enrol.cli import speaking
from sie_hub.nats_command import add_timeout_argument, in_time, linked
from sie_hub.offboard import (
    Record,
    added,
    keys_of,
    purge_drop,
    purge_enrolment,
    purge_streams,
    read_record,
    write_record,
)
from sie_hub.registry import Participant, is_participant_name, read_participant
from sie_hub.registry_edit import EditRefused, RegistryEditor

SETTLE: Final = 40.0
"""Seconds from the revocation to the purge: 5 in which live sessions end, 30 after which ingest has written
down their last accounts (`sie_hub.ingest.ledger.KEEP_INTERVAL`), and 5 to spare."""

NATS_TIMEOUT: Final = 30.0
"""Seconds for nats-server to be there and to purge: it removes a day of one participant in less than one."""

AGAIN: Final = "; everything else is done: run this again"


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sie-hub offboard`."""
    parser.description = (
        f"{parser.description} Ends its agreement, revokes its sensors and uploads, removes its keys, tokens,"
        " raw data and files. Prints the record of it as one JSON object, with `changed`; run again, it goes"
        " on where it ended, and changes nothing when all is done."
    )
    add_config_argument(parser)
    parser.add_argument("participant", type=_participant, metavar="PARTICIPANT")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why; its sensors will log it")
    parser.add_argument("--check", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--nats-password",
        type=Path,
        metavar="FILE",
        help="the file with the password of the NATS user offboard (default: as for the units)",
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=SETTLE,
        metavar="SECONDS",
        help=f"how long to wait between revoking and purging (default: {SETTLE:.0f})",
    )
    add_timeout_argument(parser, NATS_TIMEOUT)
    parser.epilog = EXIT_CODES
    parser.set_defaults(run=speaking(_run))


def _participant(text: str) -> str:
    if not is_participant_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no participant's name")
    return text


def _run(arguments: argparse.Namespace) -> int:
    log.configure("offboard")
    config = load_config(arguments.config)
    try:
        record, changed = _offboard(config, arguments)
    except EditRefused as refused:
        print(refused, file=sys.stderr)
        return EXIT_FAILURE
    print(json.dumps({"changed": changed, "record": record.as_document()}, sort_keys=True))
    return EXIT_OK


def _offboard(config: Config, arguments: argparse.Namespace) -> tuple[Record, bool]:
    directory: Path = config["registry"]
    began = datetime.now(UTC)
    name, dry_run = arguments.participant, arguments.check
    earlier = read_record(directory, name)
    before = _registered(directory, name)
    if before is None:
        if earlier is not None:
            return earlier, False
        raise EditRefused(f"{name} is not in {directory}: nobody of that name is here to be offboarded")

    purged = keys_of(before)
    editor = RegistryEditor(directory, dry_run=dry_run)
    ended, _document = editor.end_participant(name, arguments.reason)
    purged += purge_enrolment(config["enrol.state"], name, dry_run=dry_run)

    def note(found: Counter[str]) -> Record:
        record = added(
            earlier,
            (_registered(directory, name) if not dry_run else None) or before,
            found,
            exchange=config["exchange"],
            reason=arguments.reason,
            retention_days=config["serve.retention_days"],
            began=began,
            now=datetime.now(UTC),
        )
        if not dry_run and record != earlier:
            write_record(directory, record)
        return record

    note(purged)  # what is gone is on record before what follows can fail
    if ended and not dry_run:
        print(f"waiting {arguments.settle:g} s for its sessions to end", file=sys.stderr)
        time.sleep(arguments.settle)
    purged += purge_drop(config["ingest.drop"], before, dry_run=dry_run)
    note(purged)
    purged += in_time(config, arguments.timeout, _purge_streams(config, arguments), AGAIN)
    return note(purged), ended or any(purged.values())


def _registered(directory: Path, name: str) -> Participant | None:
    path = directory / f"{name}.yml"
    return read_participant(path) if path.exists() else None


async def _purge_streams(config: Config, arguments: argparse.Namespace) -> Counter[str]:
    async with linked(config, "offboard", arguments.nats_password) as link:
        return await purge_streams(link, arguments.participant, dry_run=arguments.check)
