"""`sie-agent replay FILE --config F --send`: a file through the spool to the hub, as `run` would send it."""

import argparse
import asyncio
import json
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from sie_agent import log
from sie_agent.cli import EXIT_OK
from sie_agent.config import AgentConfig, load_config
from sie_agent.errors import AgentError
from sie_agent.reading import counts, open_file, pump_all, table, warn
from sie_agent.recording import recorder_of, recording_from
from sie_agent.spool import Spool, open_spool
from sie_agent.status import UplinkStatus, describe
from sie_agent.uplink import uplink_of
from sie_core._native import Container, PcapSource

POLL: Final = 0.2
"""Seconds between looks at how much the hub has acknowledged."""


class Interrupted(AgentError):
    """The person at the terminal did not want to wait."""


def run(arguments: argparse.Namespace) -> int:
    """Replay, send, wait, report. Raises ConfigError and AgentError."""
    config = load_config(arguments.config)
    log.configure()
    source = open_file(arguments.file, arguments.speed)
    with open_spool(config.spool_directory, config.spool_max_bytes) as spool:
        report = asyncio.run(_replay(arguments, config, spool, source))
    warn(source)
    print(json.dumps(report) if arguments.json else _table(report))
    return EXIT_OK


async def _replay(
    arguments: argparse.Namespace, config: AgentConfig, spool: Spool, source: PcapSource
) -> dict[str, Any]:
    recorder = recorder_of(*recording_from(arguments))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    feeder = _Feeder(spool, config.spool_max_bytes // 2)
    uplink = uplink_of(config)(config, spool, lambda: {**recorder.counters(), **_ledger(spool)}, feeder.look)
    spool.on_append = uplink.wake
    sending = asyncio.create_task(uplink.run())
    recording = asyncio.create_task(asyncio.to_thread(pump_all, recorder, source, feeder.put, feeder.saw))
    try:
        await _until_acknowledged(spool, recording, stopping, feeder)
    finally:
        feeder.give_up()
        await asyncio.gather(recording, return_exceptions=True)
        await uplink.stop()
        await sending
    status = describe(
        config,
        spool.stream,
        spool.ledger,
        running=False,
        uplink=UplinkStatus(
            state=uplink.state.value, hub=uplink.hub, last_error=uplink.last_error, **asdict(uplink.counts)
        ),
    )
    return {
        **counts(arguments.file, recorder.counters(), recording.result(), source.warning),
        "ledger": asdict(status),
    }


async def _until_acknowledged(
    spool: Spool, recording: asyncio.Task[int], stopping: asyncio.Event, feeder: "_Feeder"
) -> None:
    terminal = sys.stderr.isatty()
    done = False
    while not done:
        if recording.done():
            recording.result()
        done = recording.done() and spool.ledger.pending_containers == 0
        feeder.look()
        ledger = spool.ledger
        if terminal:
            line = f"{feeder.packets} packets, captured {ledger.captured}, acknowledged {ledger.acknowledged}"
            print(f"\r{line}", end="\n" if done else "", file=sys.stderr, flush=True)
        if stopping.is_set() and not done:
            raise Interrupted(
                f"stopped with {ledger.pending} transactions unacknowledged: they stay in the spool, and the "
                "next run sends them"
            )
        if not done:
            await _sleep_unless(stopping, POLL)


async def _sleep_unless(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class _Feeder:
    """Puts containers into the spool no faster than the hub takes them, so that nothing is ever trimmed.

    Live capture cannot wait for the hub; a file can.
    """

    def __init__(self, spool: Spool, most_octets: int) -> None:
        self.packets = 0
        """How many packets of the file have been seen."""
        self._spool = spool
        self._most = most_octets
        self._changed = threading.Condition()
        self._given_up = False

    def put(self, container: Container) -> None:
        """Append a container, once there is room.

        Called in the recording thread. Raises SpoolError, Interrupted.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._given_up or self._spool.ledger.pending_octets < self._most)
            self._go_on()
        self._spool.append(container.data, container.transactions)

    def saw(self, packets: int) -> None:
        """The recording thread has come so far. Raises Interrupted."""
        self.packets = packets
        self._go_on()

    def look(self) -> None:
        """There may be room now."""
        with self._changed:
            self._changed.notify_all()

    def give_up(self) -> None:
        """Nobody waits for the rest any more."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def _go_on(self) -> None:
        if self._given_up:
            raise Interrupted("stopped before the end of the file")


def _ledger(spool: Spool) -> dict[str, int]:
    ledger = spool.ledger
    return {
        "captured": ledger.captured,
        "acknowledged": ledger.acknowledged,
        "pending": ledger.pending,
        "trimmed": ledger.trimmed,
    }


def _table(report: dict[str, Any]) -> str:
    ledger = report["ledger"]
    return (
        f"{table(report)}\n"
        f"ledger of stream {ledger['stream']}, whole life of the spool:\n"
        f"captured          {ledger['captured']:>12} transactions\n"
        f"  acknowledged    {ledger['acknowledged']:>12}\n"
        f"  pending         {ledger['pending']:>12}\n"
        f"  trimmed         {ledger['trimmed']:>12}"
    )
