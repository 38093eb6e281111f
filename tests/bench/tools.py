"""What is measured: this sensor in its modes, and every peer that is found on PATH or named by a variable."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.bench import dnstap
from tests.bench.world import RESOLVERS

AGENT: Final = Path(sys.executable).parent / "sie-agent"

SENSOR: Final = "sie-agent"
SENSOR_COMPATIBLE: Final = "sie-agent --compatible"
SENSOR_PLAIN: Final = "sie-agent --uncompressed"
SENSOR_COMPATIBLE_PLAIN: Final = "sie-agent --compatible --uncompressed"
SENSOR_CLEARED: Final = "sie-agent --clear-resolver-address"
NMSGTOOL_ZLIB: Final = "nmsgtool -z"
NMSGTOOL: Final = "nmsgtool"
TCPDUMP: Final = "tcpdump"

STORED: Final = "stored"
CLEARED: Final = "cleared"
WIRE: Final = "wire"

LOOP_PACKETS: Final = 20_000
"""A loop in Python is measured on so many packets: a million would take ten minutes."""


Command = Callable[[Path, Path], list[str]]
"""From a capture and an output to the words of a command."""


@dataclass(frozen=True)
class Tool:
    """A command that turns a capture into an output; `view` says with which view of the truth the output is
    compared, if it is one that can be.
    """

    name: str
    command: Command
    suffix: str = ""
    view: str | None = None
    version: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    packets: int | None = None
    """At most so many."""


def sensors() -> list[Tool]:
    """This sensor: what it sends, and what it writes for readers of other programs' files."""
    return [
        _sensor(SENSOR, ".nmsg.zst"),
        _sensor(SENSOR_CLEARED, ".nmsg.zst", "--clear-resolver-address", view=CLEARED),
        _sensor(SENSOR_PLAIN, ".nmsg", "--uncompressed"),
        _sensor(SENSOR_COMPATIBLE, ".nmsg", "--compatible"),
        _sensor(SENSOR_COMPATIBLE_PLAIN, ".nmsg", "--compatible", "--uncompressed"),
    ]


def peers() -> list[Tool]:
    """Every peer that is there."""
    tools: list[Tool] = []
    if program := find("nmsgtool"):
        version = _first_line(program, "--version")
        environment = {"DNSQR_RES_ADDRS": ",".join(RESOLVERS)}
        words = [program, "-V", "base", "-T", "dnsqr"]
        for name, options in ((NMSGTOOL_ZLIB, ["-z"]), (NMSGTOOL, [])):
            tools.append(Tool(name, _nmsgtool(words, options), ".nmsg", WIRE, version, environment))
    if program := find("passivedns"):
        log = [program, "-L", "/dev/null", "-p", "/dev/null"]
        tools.append(
            Tool(
                "passivedns",
                lambda pcap, out: [*log, "-l", str(out), "-r", str(pcap)],
                version=_first_line(program, "-V"),
            )
        )
    if program := find("dnscap"):
        everything = [program, "-T", "-f", "-I", "-N"]
        tools.append(
            Tool(
                "dnscap",
                lambda pcap, out: [*everything, "-r", str(pcap), "-w", str(out)],
                version=_first_line(program, "-V"),
            )
        )
    if program := find("DNS-collector"):
        collector = [sys.executable, "-m", "tests.bench.collector", program]
        version = _first_line(program, "-version")
        tools += [
            Tool("DNS-collector", lambda pcap, out: [*collector, str(pcap), str(out)], version=version),
            Tool(
                "DNS-collector, dnstap",
                lambda pcap, out: [*collector, str(dnstap.told(pcap)), str(out)],
                version=version,
            ),
        ]
    if program := find("tcpdump"):
        tools.append(
            Tool(
                TCPDUMP,
                lambda pcap, out: [program, "-r", str(pcap), "-w", str(out)],
                version=_first_line(program, "--version"),
            )
        )
    found = filter(find_spec, ("scapy", "dpkt"))
    return tools + [Tool(f"{library} loop", _loop(library), packets=LOOP_PACKETS) for library in found]


def _nmsgtool(words: list[str], options: list[str]) -> Command:
    return lambda pcap, out: [*words, "-p", str(pcap), "-w", str(out), *options]


def _loop(library: str) -> Command:
    return lambda pcap, _: [sys.executable, "-m", "tests.bench.loops", library, str(pcap)]


def _sensor(name: str, suffix: str, *options: str, view: str = STORED) -> Tool:
    listed = [word for resolver in RESOLVERS for word in ("--resolver", resolver)]
    return Tool(
        name,
        lambda pcap, out: [str(AGENT), "replay", str(pcap), *listed, "--write", str(out), *options],
        suffix,
        view,
        _first_line(str(AGENT), "--version"),
    )


def find(name: str) -> str | None:
    """A peer by its variable (nmsgtool by NMSGTOOL), or on PATH."""
    named = os.environ.get(name.upper().replace("-", "_"))
    return named if named is not None else shutil.which(name)


def _first_line(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return next((line.strip() for line in done.stdout.splitlines() if line.strip()), "")
