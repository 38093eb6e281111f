"""`sie-agent replay FILE`: what `run` would record, from a file of packets; counted, written or sent.

This module and what it imports know neither TLS nor HTTP nor YAML; sending is `sie_agent.replay_send`.
"""

import argparse
import json
import sys
from typing import Any, Final

from sie_agent.cli import EXIT_OK
from sie_agent.errors import UsageError
from sie_agent.output import Output
from sie_agent.reading import counts, open_file, pump_all, table, warn
from sie_agent.recording import add_recording_arguments, recorder_of, recording_from

BY_SIZE_ALONE: Final = 1e9
"""A flush interval that never passes, some thirty years: nmsgtool seals the containers of a file by their
size, whatever their age, and what is compatible with it does the same."""

SLOWEST: Final = 1e-3
FASTEST: Final = 1e6
"""The bounds of --speed, which are those of PcapSource."""

NEVER_SENT: Final = ("admit_recursion_desired", "keep_edns_options")
"""Switches whose yield is for the reader of a file alone."""

STAMPS: Final = ("source", "operator", "group")
"""The numbers of an NMSG payload that say whence it comes."""


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `replay`."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a pcap or pcapng file, plain or compressed by gzip, zstd or xz; - is standard input",
    )
    parser.add_argument(
        "--speed",
        type=_speed,
        default=None,
        metavar="N",
        help="read no faster than N times real time, by the packets' clock, so that what is written or sent "
        "comes as it came then; max (the default) is as fast as possible",
    )
    add_recording_arguments(parser.add_argument_group("what is recorded"))
    writing = parser.add_argument_group("where it goes (without any of these it is counted only)")
    writing.add_argument(
        "--write",
        metavar="OUT",
        help="write what would be sent: concatenated zstd frames, each one whole NMSG container, so that "
        "`zstd -dc OUT` gives what nmsgtool reads. The file is readable by its owner alone, and gets the "
        "extension .nmsg.zst if OUT lacks it; - is standard output",
    )
    writing.add_argument(
        "--compatible",
        action="store_true",
        help="write NMSG containers compressed by zlib with the packets of queries too, as nmsgtool -z does "
        "(extension .nmsg)",
    )
    writing.add_argument(
        "--uncompressed",
        action="store_true",
        help="write plain NMSG containers (extension .nmsg); with --compatible, as nmsgtool writes them by "
        "itself",
    )
    writing.add_argument(
        "--send",
        action="store_true",
        help="put the transactions into the spool of --config, send them to its hub and wait until it has "
        "acknowledged all",
    )
    for name in STAMPS:
        writing.add_argument(
            f"--{name}",
            type=_stamp,
            default=0,
            metavar="N",
            help=f"the payloads' {name} number (default: none)",
        )
    parser.add_argument("--json", action="store_true", help="end with one JSON object instead of a table")
    parser.set_defaults(run=_run)


def _stamp(text: str) -> int:
    """A number as people write NMSG's: decimal, or hexadecimal behind 0x."""
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 0xffffffff")
    return number


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not SLOWEST <= speed <= FASTEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither max nor a number from {SLOWEST:g} to {FASTEST:.0f}"
        )
    return speed


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    if arguments.send:
        from sie_agent import replay_send  # imports TLS and HTTP, which a replay to a file does without

        return replay_send.run(arguments)
    resolvers, settings = recording_from(arguments)
    recorder = recorder_of(resolvers, settings | _form(arguments))
    source = open_file(arguments.file, arguments.speed)
    terminal = sys.stderr.isatty()
    progress = _show_progress if terminal else _drop
    if arguments.write is None:
        written = None
        octets = pump_all(recorder, source, _drop, progress)
    else:
        plain = arguments.compatible or arguments.uncompressed
        with Output(arguments.write, ".nmsg" if plain else ".nmsg.zst") as out:
            octets = pump_all(recorder, source, lambda container: out.write(container.data), progress)
        written = out.name
    if terminal:
        print(file=sys.stderr)
    report = counts(arguments.file, recorder.counters(), octets, source.warning)
    report["written"] = written
    warn(source)
    place = sys.stderr if written == "-" else sys.stdout
    print(json.dumps(report) if arguments.json else table(report), file=place)
    return EXIT_OK


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other. Raises UsageError."""
    if arguments.send and arguments.config is None:
        raise UsageError(
            "--send needs --config FILE, which names the spool, the hub and this sensor's identity"
        )
    if arguments.send and arguments.write is not None:
        raise UsageError("--send and --write exclude each other: the one sends what the other would write")
    for name in NEVER_SENT:
        if arguments.send and getattr(arguments, name) is not None:
            raise UsageError(
                f"--send and --{name.replace('_', '-')} exclude each other: what it takes in may tell of "
                "clients, and does not leave this host"
            )
    for option in ("compatible", "uncompressed", *STAMPS):
        if getattr(arguments, option) and arguments.write is None:
            raise UsageError(f"--{option} says how --write OUT writes: name OUT")


def _form(arguments: argparse.Namespace) -> dict[str, Any]:
    """The recorder's keywords for the form that is asked for."""
    form: dict[str, Any] = {name: getattr(arguments, name) for name in STAMPS}
    form["codec"] = "none" if arguments.uncompressed else "zlib" if arguments.compatible else "zstd"
    if arguments.compatible:
        form |= {"keep_query_packets": True, "flush_interval": BY_SIZE_ALONE}
    return form


def _drop(_what: object) -> None:
    """Nobody wants it: a replay that only counts, progress without a terminal."""


def _show_progress(packets: int) -> None:
    print(f"\r{packets} packets", end="", file=sys.stderr, flush=True)
