"""`sie-agent replay FILE`: what `run` would record, from a pcap file; counted, written to a file or sent.

This module and what it imports know neither TLS nor HTTP; sending is `sie_agent.replay_send`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sie_agent.cli import EXIT_OK, add_config_argument
from sie_agent.errors import SourceError, UsageError
from sie_core._native import Container, FormatError, NativeError, PcapSource, Recorder

TURN: Final = 0.25
"""Seconds of reading between signs of progress."""


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `replay`."""
    parser.add_argument("file", metavar="FILE", help="a pcap file; - is standard input")
    parser.add_argument(
        "--resolver",
        action="append",
        default=[],
        metavar="A",
        help="an address or prefix whose upstream traffic is recorded; may be repeated "
        "(default: the resolvers of --config)",
    )
    add_config_argument(parser, default=None)
    parser.add_argument(
        "--write",
        type=Path,
        metavar="OUT",
        help="write the transactions as concatenated NMSG containers (zlib), which nmsgtool reads",
    )
    parser.add_argument(
        "--send",
        action="store_true",
        help="put the transactions into the spool of --config, send them to its hub and wait until it has "
        "acknowledged all",
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object instead of a table")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.send:
        if arguments.config is None:
            raise UsageError(
                "--send needs --config FILE, which names the spool, the hub and this sensor's identity"
            )
        if arguments.write is not None:
            raise UsageError(
                "--send and --write exclude each other: the one sends what the other would write"
            )
        from sie_agent import replay_send  # imports TLS and HTTP, which a replay to a file does without

        return replay_send.run(arguments)
    recorder = _recorder(arguments)
    source = open_file(arguments.file)
    terminal = sys.stderr.isatty()
    progress = _show_progress if terminal else _drop
    if arguments.write is None:
        octets = pump_all(recorder, source, _drop, progress)
    else:
        try:
            with arguments.write.open("wb") as out:
                octets = pump_all(recorder, source, lambda container: out.write(container.data), progress)
        except OSError as wrong:
            raise UsageError(f"--write {arguments.write}: {wrong.strerror}") from wrong
    if terminal:
        print(file=sys.stderr)
    report = counts(arguments.file, recorder.counters(), octets, source.warning)
    report["written"] = None if arguments.write is None else str(arguments.write)
    warn(source)
    print(json.dumps(report) if arguments.json else table(report))
    return EXIT_OK


def _drop(_what: object) -> None:
    """Nobody wants it: a replay that only counts, progress without a terminal."""


def _show_progress(packets: int) -> None:
    print(f"\r{packets} packets", end="", file=sys.stderr, flush=True)


def open_file(name: str) -> PcapSource:
    """Open a pcap file. Raises SourceError."""
    try:
        return PcapSource(name)
    except NativeError as error:
        raise SourceError(str(error)) from error


def pump_all(
    recorder: Recorder,
    source: PcapSource,
    deliver: Callable[[Container], object],
    progress: Callable[[int], None],
) -> int:
    """Record a whole file, what waits at its end included; returns the octets of all containers.

    `progress` is told how many packets have been seen. Raises SourceError if the file cannot be read on.
    """
    octets = 0
    try:
        while not recorder.at_end:
            for container in recorder.pump(source, TURN):
                octets += len(container.data)
                deliver(container)
            progress(recorder.counters()["packets_seen"])
    except (FormatError, NativeError) as error:
        raise SourceError(str(error)) from error
    for container in recorder.finish():
        octets += len(container.data)
        deliver(container)
    return octets


def counts(name: str, counters: Mapping[str, int], octets: int, warning: str | None) -> dict[str, Any]:
    """The counts of a replay, by type and outcome. Each group adds up to what is above it."""
    packets: dict[str, Any] = {
        "seen": counters["packets_seen"],
        "recorded": 0,
        "filtered": {},
        "rejected": {},
    }
    for key, value in counters.items():
        outcome, _, reason = key.removeprefix("packets_").partition("_")
        if key.startswith("packets_") and outcome in ("filtered", "rejected"):
            packets[outcome][reason] = value
    packets["recorded"] = counters["packets_recorded"]
    types = {
        key.removeprefix("transactions_"): value
        for key, value in counters.items()
        if key.startswith("transactions_") and key != "transactions_pending"
    }
    return {
        "file": name,
        "packets": packets,
        "transactions": {"total": sum(types.values()), **types},
        "table_evicted": counters["table_evicted"],
        "containers": counters["containers_sealed"],
        "octets": octets,
        "warning": warning,
    }


def table(report: Mapping[str, Any]) -> str:
    """The counts for people."""
    packets = report["packets"]
    lines = [f"{report['file']}", f"packets seen      {packets['seen']:>12}"]
    lines.append(f"  recorded        {packets['recorded']:>12}")
    for outcome in ("filtered", "rejected"):
        lines.append(f"  {outcome:<16}{sum(packets[outcome].values()):>12}")
        lines += [
            f"    {reason.replace('_', ' '):<20}{value:>6}"
            for reason, value in packets[outcome].items()
            if value
        ]
    lines.append(f"transactions      {report['transactions']['total']:>12}")
    lines += [
        f"  {name.replace('_', ' '):<22}{value:>6}"
        for name, value in report["transactions"].items()
        if name != "total"
    ]
    lines.append(f"containers        {report['containers']:>12} of {report['octets']} octets")
    return "\n".join(lines)


def warn(source: PcapSource) -> None:
    """Say on standard error why reading ended before the end of the file, if it did."""
    if source.warning is not None:
        print(f"sie-agent: warning: {source.warning}", file=sys.stderr)


def _recorder(arguments: argparse.Namespace) -> Recorder:
    if arguments.config is not None:
        from sie_agent.config import load_config  # a replay without a configuration reads no YAML
        from sie_agent.discovery import resolver_addresses
        from sie_agent.recording import recorder_for

        config = load_config(arguments.config)
        return recorder_for(config, "zlib", resolver_addresses(arguments.resolver or config.resolvers))
    if not arguments.resolver:
        raise UsageError(
            "name the resolvers whose traffic the file holds: --resolver A (may be repeated) or --config FILE"
        )
    try:
        return Recorder(arguments.resolver, codec="zlib")
    except NativeError as error:
        raise UsageError(f"--resolver: {error}") from error
