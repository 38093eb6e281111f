"""Delivery: what it costs to bring a million transactions from a spool to a hub, and how long a container
takes while 500 sensors send one a second. All of it on loopback, over TLS 1.3 with certificates on both
sides.

Both ends are the product's own programs, but for the 500 sensors: they are `tests.bench.fleet`, because 500
agents do not fit a machine beside their hub.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from sie_agent.reading import open_file, pump_all
from sie_agent.recording import recorder_of
from sie_agent.spool import open_spool
from sie_core._native import Container
from sie_hub.demo.programs import free_ports
from tests.bench import exchange, fleet
from tests.bench.cache import Capture, cache_folder
from tests.bench.exchange import CHANNEL, EXCHANGE, Exchange
from tests.bench.measure import Failed
from tests.bench.process import cpu_of, cpu_of_all, resident_of, until_settled
from tests.bench.report import MILLION, Bar, at_most
from tests.bench.tools import AGENT
from tests.bench.world import RESOLVERS

CPU_MOST: Final = 1.0
"""Seconds for a million transactions, of the agent that sends them and of ingest, each."""

SENSORS: Final = 500
OCTETS: Final = 64 << 10
WARM_UP: Final = 5
SECONDS: Final = 25
P99_MOST: Final = 0.250

DELIVERY_SECONDS: Final = 300.0
POLL: Final = 0.02


@dataclass(frozen=True)
class Delivery:
    """One spool brought to the hub by one agent. CPU is user and system, in seconds."""

    transactions: int
    containers: int
    octets: int
    acknowledged: int
    """Transactions, by the agent's own ledger."""

    stored: int
    """Containers, as ingest counted them."""

    seconds: float
    agent_cpu: float
    ingest_cpu: float
    nats_cpu: float
    agent_resident: int
    """The largest, in octets."""

    ingest_resident: int


@dataclass(frozen=True)
class Crowd:
    """Many sensors, a container a second each. Times are from a container's being due to its acknowledgement,
    in seconds."""

    sensors: int
    octets: int
    seconds: int
    put: int
    acknowledged: int
    """Of those that were put while it was counted."""

    sent: int
    """Those of the warm-up included."""

    stored: int
    p50: float
    p99: float
    most: float
    late: float
    """The most by which the fleet itself was late to send."""

    fleet_cpu: float
    """CPU seconds while it was counted; so are the next three."""

    ingest_cpu: float
    nats_cpu: float
    other_cpu: float
    """Of everything else on the machine, the kernel's own threads included."""

    ingest_resident: int


def measured(
    capture: Capture,
    say: Callable[[str], None],
    *,
    transactions: int = MILLION,
    sensors: int = SENSORS,
    seconds: int = SECONDS,
) -> tuple[dict[str, Any], list[Bar]]:
    """Both, and their bars."""
    folder = Path(tempfile.mkdtemp(dir=cache_folder(), prefix="trampoline-"))
    try:
        say(f"delivery: {transactions} transactions from a spool")
        delivery = delivered(folder / "one", capture, transactions)
        say(f"delivery: {sensors} sensors, one container of {OCTETS >> 10} KiB a second each")
        crowd = crowded(folder / "many", sensors, seconds)
    finally:
        shutil.rmtree(folder)
    return {"one": asdict(delivery), "many": asdict(crowd)}, judged(delivery, crowd)


def judged(delivery: Delivery, crowd: Crowd) -> list[Bar]:
    """The bars."""
    millions = delivery.transactions / MILLION
    many = f"delivery, {crowd.sensors} sensors"
    used = (crowd.fleet_cpu, crowd.ingest_cpu, crowd.nats_cpu, crowd.other_cpu)
    return [
        at_most(
            "delivery: CPU s per million transactions, the agent's from spool to acknowledgement",
            delivery.agent_cpu / millions,
            CPU_MOST,
        ),
        at_most(
            "delivery: CPU s per million transactions, of ingest", delivery.ingest_cpu / millions, CPU_MOST
        ),
        Bar(
            "delivery: CPU s per million transactions, of nats-server",
            f"{delivery.nats_cpu / millions:.3f}",
            None,
        ),
        Bar(
            "delivery: every transaction acknowledged, every container stored once",
            f"{delivery.transactions} = {delivery.acknowledged}, {delivery.containers} = {delivery.stored}",
            delivery.transactions == delivery.acknowledged and delivery.containers == delivery.stored,
            is_truth=True,
        ),
        at_most(f"{many}: seconds from spool to acknowledgement, p99", crowd.p99, P99_MOST),
        Bar(f"{many}: the same, median and most", f"{crowd.p50:.3f}, {crowd.most:.3f}", None),
        Bar(
            f"{many}: of one core, the sensors, ingest, nats-server, all else there",
            ", ".join(f"{cpu / crowd.seconds:.2f}" for cpu in used),
            None,
        ),
        Bar(
            f"{many}: every container acknowledged, and stored once",
            f"{crowd.put} = {crowd.acknowledged}, {crowd.sent} = {crowd.stored}",
            crowd.put == crowd.acknowledged and crowd.sent == crowd.stored,
            is_truth=True,
        ),
    ]


# --- one agent -------------------------------------------------------------------------------------------


def delivered(folder: Path, capture: Capture, transactions: int) -> Delivery:
    """Bring a spool of so many transactions to a hub.

    The agent and the hub run and have nothing to do, since the agent has no certificate, when what they use
    begins to be counted; the certificate is put in its place then, which the agent notices by itself.
    """
    folder.mkdir()
    with exchange.running(folder, 1) as hub:
        spool = folder / "spool"
        counted = filled(spool, capture, transactions)
        os.sync()
        config = _agent_config(folder, hub)
        with (
            (folder / "agent.log").open("w") as log,
            subprocess.Popen([AGENT, "run", "--config", config], stderr=log) as agent,
        ):
            try:
                processes = (agent.pid, hub.ingest_process, hub.nats_process)
                until_settled(*processes)
                before = [cpu_of(process) for process in processes]
                began = time.monotonic()
                _enrol(folder / "identity", hub)
                _until_empty(spool, agent, folder / "agent.log")
                seconds = time.monotonic() - began
                used = [cpu_of(process) - cpu for process, cpu in zip(processes, before, strict=True)]
                resident = resident_of(agent.pid)
                agent.send_signal(signal.SIGTERM)
                code = agent.wait(timeout=30)
            except BaseException:
                agent.kill()
                raise
        if code != 0:
            raise Failed(f"the agent ended with {code}: {(folder / 'agent.log').read_text()[-500:]}")
        ledger = json.loads(_output(AGENT, "status", "--json", "--config", config))
        return Delivery(
            transactions=counted[0],
            containers=counted[1],
            octets=counted[2],
            acknowledged=ledger["acknowledged"],
            stored=hub.stored(),
            seconds=seconds,
            agent_cpu=used[0],
            ingest_cpu=used[1],
            nats_cpu=used[2],
            agent_resident=resident,
            ingest_resident=resident_of(hub.ingest_process),
        )


def filled(spool: Path, capture: Capture, transactions: int) -> tuple[int, int, int]:
    """Put at least so many transactions into a new spool, the capture's as often as it takes.

    Returns how many transactions, containers and octets there are.
    """
    recorded: list[Container] = []
    pump_all(recorder_of(RESOLVERS, {}), open_file(str(capture.pcap)), recorded.append, lambda _: None)
    counted = [0, 0, 0]
    with open_spool(spool, 8 << 30) as opened:
        while counted[0] < transactions:
            container = recorded[counted[1] % len(recorded)]
            opened.append(container.data, container.transactions)
            counted = [counted[0] + container.transactions, counted[1] + 1, counted[2] + len(container.data)]
    return counted[0], counted[1], counted[2]


def _agent_config(folder: Path, hub: Exchange) -> Path:
    """An agent that listens for dnstap, which nobody brings, so that it needs no privilege."""
    name = hub.sensors[0].identity
    dnstap_port, metrics_port = free_ports(2)
    file = folder / "agent.yml"
    file.write_text(
        json.dumps(
            {
                "participant": name.participant,
                "sensor": name.sensor,
                "exchange": EXCHANGE,
                "channel": CHANNEL,
                "sources": [{"dnstap": f"tcp:127.0.0.1:{dnstap_port}"}],
                "metrics": {"listen": f"127.0.0.1:{metrics_port}"},
                "spool": {"directory": str(folder / "spool"), "max_bytes": 8 << 30},
                "uplink": {"hubs": [hub.url], "ca": str(hub.authority)},
                "identity": {"directory": str(folder / "identity")},
            }
        )
    )
    return file


def _enrol(place: Path, hub: Exchange) -> None:
    """Put key and certificate where the agent looks for them, the certificate last."""
    held = hub.sensors[0]
    place.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(held.key, place / "key.pem")
    shutil.copy(held.certificate, place / "certificate.new")
    (place / "certificate.new").rename(place / "certificate.pem")


def _until_empty(spool: Path, agent: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + DELIVERY_SECONDS
    while any(spool.glob("*.nmsg.zst")):
        if agent.poll() is not None or time.monotonic() > end:
            raise Failed(f"the agent does not deliver: {log.read_text()[-500:]}")
        time.sleep(POLL)


# --- many sensors ----------------------------------------------------------------------------------------


def crowded(folder: Path, sensors: int, seconds: int) -> Crowd:
    """Have so many sensors send for so long."""
    folder.mkdir()
    with exchange.running(folder, sensors) as hub:
        plan = fleet.Plan(
            hub.port,
            str(hub.authority),
            CHANNEL,
            [(str(held.key), str(held.certificate)) for held in hub.sensors],
            OCTETS,
            WARM_UP,
            seconds,
        )
        os.sync()
        command = [sys.executable, "-m", "tests.bench.fleet"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdin is not None, "a pipe was asked for"
            assert running.stdout is not None, "a pipe was asked for"
            running.stdin.write(json.dumps(asdict(plan)))
            running.stdin.close()
            processes = (hub.ingest_process, hub.nats_process)
            _expect(running.stdout.readline(), "counting")
            before, all_before = [cpu_of(process) for process in processes], cpu_of_all()
            _expect(running.stdout.readline(), "counted")
            used = [cpu_of(process) - cpu for process, cpu in zip(processes, before, strict=True)]
            all_used = cpu_of_all() - all_before
            report = json.loads(running.stdout.readline())
        if report["ended"]:
            raise Failed(f"{len(report['ended'])} sessions ended, the first because {report['ended'][0]}")
        waits = [wait for _, wait in report["seconds"]]
        in_order = quantiles(waits, n=100)
        return Crowd(
            sensors=sensors,
            octets=OCTETS,
            seconds=seconds,
            put=report["put"],
            acknowledged=len(waits),
            sent=report["sent"],
            stored=hub.stored(),
            p50=in_order[49],
            p99=in_order[98],
            most=max(waits),
            late=report["late"],
            fleet_cpu=report["cpu"],
            ingest_cpu=used[0],
            nats_cpu=used[1],
            other_cpu=max(0.0, all_used - sum(used) - report["cpu"]),
            ingest_resident=resident_of(hub.ingest_process),
        )


def _expect(line: str, word: str) -> None:
    if not line or json.loads(line) != word:
        raise Failed(f"the sensors do not say {word!r} but {line[:200]!r}")


def _output(*words: str | Path) -> str:
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
