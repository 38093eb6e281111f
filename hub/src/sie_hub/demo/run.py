"""The story of a demonstration: start a hub, enrol a sensor, replay a capture, ask for what it held."""

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sie_core._native import dedupe_records, name_to_text
from sie_hub.demo.place import PARTICIPANT, SENSOR, UNITS, Place
from sie_hub.demo.programs import DemoFailed, Programs, find_nats_server, read_metrics, run_tool
from sie_hub.demo.progress import Progress, Report, SensorRow
from sie_hub.follow import Follower
from sie_hub.nats_link import Link
from sie_hub.streams import SIE

STORE_TIMEOUT: Final = 120.0
"""Seconds from the last acknowledgement to everything being searchable."""

DNSDBQ_TIMEOUT: Final = 30.0
DNSDBQ_ROWS: Final = 4
A: Final = 1


@dataclass(frozen=True)
class Wish:
    """What to demonstrate: a capture, the resolvers in it, and the agent's program."""

    capture: Path
    resolvers: list[str]
    agent: str


def demonstrate(wish: Wish, progress: Progress, linger: Callable[[Report], None]) -> None:
    """Do it all in a temporary directory. `linger` is called with the report while everything still runs.

    Raises DemoFailed.
    """
    nats_server = find_nats_server()
    with (
        tempfile.TemporaryDirectory(prefix="sie-demo-") as directory,
        Programs(Path(directory) / "logs") as programs,
    ):
        place = Place(Path(directory), wish.resolvers)
        with progress.step("making certificates, registry and secrets"):
            place.prepare()
        with progress.step("starting nats-server"):
            programs.start("nats-server", [nats_server, "-c", str(place.nats_config)])
            programs.await_listening("nats-server", place.nats_port)
            place.streams()
        with progress.step(f"starting {', '.join(UNITS)}"):
            _start_units(programs, place)
        with progress.step("enrolling the sensor"):
            arguments = ["--config", str(place.agent_config), "--token-file", str(place.token_file), "--json"]
            run_tool([wish.agent, "identity", "enrol", *arguments], progress.tick)
        with progress.step(f"replaying {wish.capture.name} into the hub"):
            arguments = [str(wish.capture), "--config", str(place.agent_config), "--send", "--json"]
            ledger = run_tool([wish.agent, "replay", *arguments], progress.tick)["ledger"]
        with progress.step("waiting until everything is searchable"):
            row = _await_searchable(programs, place, ledger["captured"], ledger["acknowledged"])
        with progress.step("asking"):
            report = _ask(place, row, progress)
        linger(report)


def _start_units(programs: Programs, place: Place) -> None:
    for unit in UNITS:
        environment = (
            {"CREDENTIALS_DIRECTORY": str(place.credentials(unit))} if unit in place.passwords else {}
        )
        command = [sys.executable, "-m", "sie_hub.cli", unit, "--config", str(place.hub_config)]
        programs.start(unit, command, environment)
    for unit, port in place.ports.items():
        if unit != "refine":  # which nobody connects to
            programs.await_listening(unit, port)


def _await_searchable(programs: Programs, place: Place, captured: int, acknowledged: int) -> SensorRow:
    """Wait until what the hub has acknowledged has gone through refine and lies in the store."""
    refined: dict[str, int] = {}

    def is_searchable() -> bool:
        refine = read_metrics(place.metrics_ports["refine"])
        serve = read_metrics(place.metrics_ports["serve"])
        prefix = "sie_hub_refine_transactions_total/"
        refined.clear()
        refined.update(
            {name.removeprefix(prefix): int(n) for name, n in refine.items() if name.startswith(prefix)}
        )
        passed_on = refine.get("sie_hub_refine_observations_total/passed_on", -1)
        taken = sum(n for name, n in serve.items() if name.startswith("sie_hub_serve_records_total/"))
        return sum(refined.values()) == acknowledged and taken == passed_on

    programs.await_true("serve", "have everything in its store", is_searchable, STORE_TIMEOUT)
    searchable = refined.pop("observed")
    return SensorRow(
        sensor=f"{PARTICIPANT}/{SENSOR}",
        captured=captured,
        acknowledged=acknowledged,
        searchable=searchable,
        without_records={reason: number for reason, number in sorted(refined.items()) if number},
    )


def _ask(place: Place, row: SensorRow, progress: Progress) -> Report:
    owner, rrsets = asyncio.run(_look_into_stream(place))
    settings = {"DNSDB_SERVER": place.api_url, "DNSDB_API_KEY": place.api_key}
    command = ["dnsdbq", "-u", "dnsdb2", "-r", owner, "-l", str(DNSDBQ_ROWS)]
    output = None
    if shutil.which("dnsdbq") is not None:
        environment = {**os.environ, **settings, "DNSDBQ_CONFIG_FILE": os.devnull}
        asked = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=DNSDBQ_TIMEOUT, check=False
        )
        output = (asked.stdout + asked.stderr).rstrip()
    shell = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    return Report(
        sensors=[row],
        rrsets=rrsets,
        api_url=place.api_url,
        api_key=place.api_key,
        command=" ".join([*shell, shlex.join(command)]),
        output=output,
        seconds=progress.seconds,
    )


async def _look_into_stream(place: Place) -> tuple[str, int]:
    """The owner of an address that was seen most often, and how many different RRsets were seen."""

    def lost(sentence: str) -> None:
        raise DemoFailed(sentence)

    link = Link(place.nats_url, "serve", place.passwords["serve"], lost)
    await link.open()
    addresses: Counter[bytes] = Counter()
    rrsets = set()
    try:
        last = (await link.state(SIE)).last
        follower = Follower(link, SIE, 1)
        while follower.next <= last:
            for followed in await follower.fetch():
                if not followed.message.data:
                    continue
                for owner, rrtype, _, bailiwick, rdata, count, *_ in dedupe_records(followed.message.data):
                    rrsets.add((owner, rrtype, bailiwick, tuple(rdata)))
                    if rrtype == A:
                        addresses[owner] += count
        await follower.close()
    finally:
        await link.close()
    if not rrsets:
        raise DemoFailed(
            "nothing of the capture is searchable: does it hold answers to one of the resolvers?"
        )
    (owner, _), *_ = addresses.most_common(1) or [(min(rrsets)[0], 1)]
    return name_to_text(owner), len(rrsets)


def serve_until_interrupted(_report: Report) -> None:
    """Keep everything running until Ctrl-C."""
    print("\nServing until Ctrl-C.", file=sys.stderr, flush=True)
    while True:
        time.sleep(60)
