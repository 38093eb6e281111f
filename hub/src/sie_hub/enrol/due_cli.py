"""`sie-hub due`: what ends soon, for people and for cron."""

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sie_core.files import acting_as_owner
from sie_core.settings import Config
from sie_hub.cli import EXIT_CODES, EXIT_OK, add_config_argument
from sie_hub.config import load_config
from sie_hub.enrol.cli import speaking
from sie_hub.enrol.due import (
    DAYS,
    SENSOR_DAYS,
    Ending,
    agreements,
    own_certificates,
    own_files,
    sensor_certificates,
)
from sie_hub.enrol.renewals import RenewalStore
from sie_hub.enrol.tokens import TokenStore
from sie_hub.registry import Registry
from sie_hub.table import aligned

EXIT_DUE: Final = 3
"""Something is due."""

HEADINGS: Final = ("WHAT", "WHOSE", "ENDS", "DAYS", "WHAT TO DO")


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sie-hub due`."""
    add_config_argument(parser)
    parser.add_argument(
        "--days",
        type=_days,
        default=DAYS,
        metavar="N",
        help=f"for agreements and the hub's own certificates: what ends within N days (default: {DAYS})",
    )
    parser.add_argument(
        "--sensor-days",
        type=_days,
        default=SENSOR_DAYS,
        metavar="N",
        help=f"the same for sensors' certificates, which renew themselves (default: {SENSOR_DAYS})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.epilog = f"{EXIT_CODES}; {EXIT_DUE} something is due"
    parser.set_defaults(run=speaking(_run))


def _run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    now = datetime.now(UTC)
    due = sorted(
        _due(config, now, timedelta(days=arguments.days), timedelta(days=arguments.sensor_days)),
        key=lambda ending: (ending.at, ending.what, ending.whose),
    )
    if arguments.json:
        print(json.dumps({"due": [ending.public(now) for ending in due]}))
    elif due:
        rows = [(e.what, e.whose, f"{e.at:%Y-%m-%d}", str(e.days(now)), e.remedy) for e in due]
        print("\n".join(aligned(HEADINGS, rows, {"DAYS"})))
    else:
        print("nothing is due")
    return EXIT_DUE if due else EXIT_OK


def _due(config: Config, now: datetime, within: timedelta, sensors_within: timedelta) -> list[Ending]:
    participants = list(Registry(config["registry"]).participants.values())
    directory: Path = config["enrol.state"]
    with acting_as_owner(directory):
        tokens = TokenStore(directory).list()
        renewals = RenewalStore(directory, timedelta(days=config["enrol.grace_days"])).list()
    endings = [*agreements(participants, now.date()), *own_certificates(own_files(config))]
    certificates = sensor_certificates(participants, tokens, renewals, now.date())
    return [
        *(ending for ending in endings if ending.at - now <= within),
        *(ending for ending in certificates if ending.at - now <= sensors_within),
    ]


def _days(text: str) -> int:
    if not text.isdecimal() or not int(text) <= 3653:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days up to 3653")
    return int(text)
