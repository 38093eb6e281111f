"""`sie-hub demo`."""

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

from sie_hub.cli import EXIT_FAILURE, EXIT_OK, EXIT_USAGE
from sie_hub.demo.programs import DemoFailed
from sie_hub.demo.progress import Progress, Report
from sie_hub.demo.run import Wish, demonstrate, serve_until_interrupted

INTERRUPTIONS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the demonstration and its children: Ctrl-C, `kill`, and the terminal's going away."""

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sie-hub demo`."""
    parser.description = (
        "Run a whole exchange on loopback, in a temporary directory and without root: nats-server, enrol, "
        "ingest, refine, serve, and one sensor, enrolled by a token, that replays a capture. Ends with how "
        "much of it was captured, acknowledged and is searchable, and with a question to try."
    )
    parser.add_argument("--pcap", type=Path, required=True, metavar="FILE", help="what the sensor replays")
    parser.add_argument(
        "--resolver",
        action="append",
        required=True,
        metavar="A",
        help="an address of the resolver whose upstream traffic FILE holds; may be repeated",
    )
    parser.add_argument(
        "--agent",
        default="sie-agent",
        metavar="PATH",
        help="the agent's program (default: sie-agent on PATH)",
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object instead of a table")
    parser.add_argument("--keep", action="store_true", help="go on serving until Ctrl-C")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.pcap.is_file():
        print(f"{arguments.pcap}: no such file; --pcap names the capture to replay", file=sys.stderr)
        return EXIT_USAGE
    agent = shutil.which(arguments.agent)
    if agent is None:
        print(f"{arguments.agent}: no such program; --agent names the agent's", file=sys.stderr)
        return EXIT_USAGE

    def linger(report: Report) -> None:
        print(json.dumps(report.as_json()) if arguments.json else report.as_text(), flush=True)
        if arguments.keep:
            serve_until_interrupted(report)

    for number in INTERRUPTIONS:
        signal.signal(number, _interrupt)
    try:
        demonstrate(Wish(arguments.pcap, arguments.resolver, agent), Progress(), linger)
    except DemoFailed as failure:
        print(f"\nthe demonstration failed: {failure}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print("\nended; nothing is left behind", file=sys.stderr)
        return EXIT_OK if arguments.keep else EXIT_INTERRUPTED
    return EXIT_OK


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in INTERRUPTIONS:
        signal.signal(number, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave children behind
    raise KeyboardInterrupt
