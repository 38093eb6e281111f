"""Live capture: a veth pair in a network namespace, the capture sent into one end, the agent on the other.

Three questions. Is every packet accounted for at 300,000 a second for half a minute, on one core? What do
5,000 questions a second cost? And how long does SIGTERM take, with transactions open and on an idle link?

The flood is sent by `tests.bench.sender`, because tcpreplay's one call for each packet is more than a
processor has time for at that rate; the capture at its own pace is tcpreplay's.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.cache import Capture, cache_folder
from tests.bench.measure import Failed
from tests.bench.process import cpu_of, resident_of, until_settled
from tests.bench.report import MEBIBYTE, Bar, at_most
from tests.bench.sender import Sent
from tests.bench.tools import AGENT
from tests.bench.world import RESOLVERS

INNER: Final = "sensor0"
OUTER: Final = "wire0"

FLOOD_RATE: Final = 300_000
FLOOD_SECONDS: Final = 30
FLOOD_DROPS_MOST: Final = 0.0001
FLOOD_RATE_LEAST: Final = 0.99 * FLOOD_RATE

BUSY_SECONDS: Final = 30
"""The capture at its own pace: 5,000 questions a second."""

BUSY_CPU_MOST: Final = 0.03
RESIDENT_MOST: Final = 96 * MEBIBYTE
STOP_MOST: Final = 2.0

START_SECONDS: Final = 20.0
QUIET_SECONDS: Final = 1.5
"""Longer than a container waits: afterwards the numbers stand still."""

POLL: Final = 0.1

_ACTUAL: Final = re.compile(r"Actual: (\d+) packets .* sent in ([\d.]+) seconds")


@dataclass(frozen=True)
class Live:
    """What one replay did to the agent."""

    packets_sent: int
    seconds: float
    """From the first packet sent to the last."""

    packets_seen: int
    accounted: int
    """The sum of the outcomes of packets, which must be `packets_seen`."""

    kernel_drops: int
    cpu: float
    """Seconds, user and system, during the replay."""

    resident: int
    """The largest resident size, in octets."""

    stop_seconds: float
    open_at_stop: int
    transactions: int
    """Recorded, of all kinds, those written down by the stop included."""

    spooled: int
    lost: int
    """Transactions that the spool did not take, as the agent counted them."""


def possible() -> str | None:
    """Why live capture cannot be measured here, if it cannot."""
    if os.geteuid() != 0:
        return "live capture needs root"
    missing = [program for program in ("tcpreplay", "ip", "taskset") if shutil.which(program) is None]
    return f"live capture needs {' and '.join(missing)}" if missing else None


def measured(capture: Capture, say: Callable[[str], None]) -> tuple[dict[str, Any], list[Bar]]:
    """Both replays and their bars; nothing but the reason where it is not possible."""
    reason = possible()
    if reason is not None:
        say(reason)
        return {"reason": reason}, []
    say(f"live: {FLOOD_RATE} packets a second for {FLOOD_SECONDS} s")
    flood = _replay(capture, _flood)
    say(f"live: 5,000 questions a second for {BUSY_SECONDS} s")
    busy = _replay(capture, _busy)
    say("live: an idle link")
    idle = _replay(capture, _idle)
    rate = flood.packets_sent / flood.seconds
    bars = [
        Bar(
            f"live: {FLOOD_RATE} packets/s for {FLOOD_SECONDS} s, as far as this machine can send them",
            f"{rate:.0f}",
            rate >= FLOOD_RATE_LEAST,
        ),
        Bar(
            f"live, {rate:.0f} packets/s: every packet sent was seen, or dropped by the kernel",
            f"{flood.packets_sent} = {flood.packets_seen} + {flood.kernel_drops}",
            flood.packets_sent == flood.packets_seen + flood.kernel_drops,
            is_truth=True,
        ),
        Bar(
            "live, the same: every packet seen is accounted for",
            f"{flood.packets_seen} = {flood.accounted}",
            flood.packets_seen == flood.accounted,
            is_truth=True,
        ),
        at_most(
            "live, the same: kernel drops of what was sent",
            flood.kernel_drops / flood.packets_sent,
            FLOOD_DROPS_MOST,
        ),
        at_most("live, 5,000 questions/s: of one core", busy.cpu / busy.seconds, BUSY_CPU_MOST),
        at_most(
            "live, both: MiB resident",
            max(flood.resident, busy.resident) / MEBIBYTE,
            RESIDENT_MOST / MEBIBYTE,
        ),
        at_most(
            "live, both, and on an idle link: seconds from SIGTERM to the end",
            max(flood.stop_seconds, busy.stop_seconds, idle.stop_seconds),
            STOP_MOST,
        ),
        Bar(
            "live, both: what was open at the stop is in the spool",
            f"{flood.transactions + busy.transactions} = "
            f"{flood.spooled + busy.spooled} + {flood.lost + busy.lost}",
            all(run.transactions == run.spooled + run.lost for run in (flood, busy)),
            is_truth=True,
        ),
    ]
    return {"flood": asdict(flood), "busy": asdict(busy), "idle": asdict(idle)}, bars


Send = Callable[[list[str], Path], Sent]
"""What puts a capture on the outer end; the words run a command in the namespace."""


def _flood(inside: list[str], pcap: Path) -> Sent:
    numbers = [str(FLOOD_RATE), str(FLOOD_SECONDS)]
    words = [sys.executable, "-m", "tests.bench.sender", OUTER, str(pcap), *numbers]
    return Sent(**json.loads(_output(*inside, *words)))


def _busy(inside: list[str], pcap: Path) -> Sent:
    pace = ["--loop", "0", "--duration", str(BUSY_SECONDS), "--multiplier", "1"]
    said = _output(*inside, "tcpreplay", "-q", "-K", "-i", OUTER, *pace, str(pcap))
    actual = _ACTUAL.search(said)
    if actual is None:
        raise Failed(f"tcpreplay does not say what it sent: {said}")
    return Sent(int(actual[1]), float(actual[2]))


def _idle(_inside: list[str], _pcap: Path) -> Sent:
    return Sent(0, 0.0)


def _replay(capture: Capture, send: Send) -> Live:
    folder = Path(tempfile.mkdtemp(dir=cache_folder(), prefix="live-"))
    try:
        with _link() as namespace:
            return _run(namespace, folder, capture, send)
    finally:
        shutil.rmtree(folder)


@contextmanager
def _link() -> Iterator[str]:
    """A namespace with a link in it that carries nothing but what is replayed."""
    name = f"sie-bench-{os.getpid()}"
    _call("ip", "netns", "add", name)
    try:
        _call("ip", "-n", name, "link", "add", INNER, "type", "veth", "peer", "name", OUTER)
        for interface in (INNER, OUTER, "lo"):
            quiet = f"net.ipv6.conf.{interface}.disable_ipv6=1"
            _call("ip", "netns", "exec", name, "sysctl", "-qw", quiet)
            _call("ip", "-n", name, "link", "set", interface, "up")
        yield name
    finally:
        _call("ip", "netns", "del", name)


def _run(namespace: str, folder: Path, capture: Capture, send: Send) -> Live:
    inside = ["ip", "netns", "exec", namespace]
    config = _config(folder)
    core = str(max(os.sched_getaffinity(0)))
    command = [*inside, "taskset", "-c", core, str(AGENT), "run", "--config", str(config)]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as agent:
        try:
            ask = [*inside, str(AGENT), "status", "--json", "--config", str(config)]
            _until(lambda: all(source["up"] for source in _status(ask)["sources"]), folder / "log")
            until_settled(agent.pid)
            before = cpu_of(agent.pid)
            sent = send(inside, capture.pcap)
            used = cpu_of(agent.pid) - before
            time.sleep(QUIET_SECONDS)
            status = _status(ask)
            resident = resident_of(agent.pid)
            stopped = time.monotonic()
            agent.send_signal(signal.SIGTERM)
            code = agent.wait(timeout=30)
            stop = time.monotonic() - stopped
        except BaseException:
            agent.kill()
            raise
    if code != 0:
        raise Failed(f"the agent ended with {code}: {(folder / 'log').read_text()[-500:]}")
    rest = _status(ask)
    counters = status["counters"]
    return Live(
        packets_sent=sent.packets,
        seconds=sent.seconds,
        packets_seen=counters["packets_seen"],
        accounted=sum(
            value
            for name, value in counters.items()
            if name.startswith("packets_") and name != "packets_seen"
        ),
        kernel_drops=status["kernel_drops"],
        cpu=used,
        resident=resident,
        stop_seconds=stop,
        open_at_stop=counters["transactions_pending"],
        transactions=sum(value for name, value in counters.items() if name.startswith("transactions_")),
        spooled=rest["captured"],
        lost=sum(status.get("lost", {}).values()),
    )


def _config(folder: Path) -> Path:
    """An agent whose hub is nowhere: what is recorded stays in the spool."""
    file = folder / "agent.yml"
    file.write_text(
        json.dumps(
            {
                "participant": "bench",
                "sensor": "bench",
                "exchange": "bench.example",
                "resolvers": RESOLVERS,
                "sources": [{"interface": INNER}],
                "spool": {"directory": str(folder / "spool"), "max_bytes": 8 << 30},
                "uplink": {"hubs": ["wss://127.0.0.1:1"], "ca": str(folder / "ca.pem")},
                "identity": {"directory": str(folder / "identity")},
            }
        )
    )
    return file


def _status(ask: list[str]) -> dict[str, Any]:
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    try:
        status: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"sources": [{"up": False}]}
    return status


def _until(condition: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"the agent does not listen after {START_SECONDS:.0f} s: {log.read_text()[-500:]}")
        time.sleep(POLL)


def _call(*words: str) -> None:
    subprocess.run(words, check=True)


def _output(*words: str) -> str:
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
