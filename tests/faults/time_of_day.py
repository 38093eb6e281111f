"""Faults of the time of day: a clock that is wrong, and a certificate that ends while nothing passes."""

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sie_core._native import decode
from tests.agent_process import Clock
from tests.faults.line import CUT, EITHER_WAY, STRUCK
from tests.faults.place import (
    PATIENCE,
    Outcome,
    place,
    settled,
    until_true,
    uplink,
)
from tests.faults.traffic import all_of, batches
from tests.traffic import Frame, write_pcap

HOUR: Final = 3600
DAY: Final = 24 * HOUR
BEYOND: Final = 31 * DAY
"""Seconds: a certificate of 30 days has ended, and may still be renewed."""

TOLERANCE: Final = 60.0
"""Seconds by which a line of a log may be late."""


async def clock_ahead(directory: Path) -> Outcome:
    """`sie-agent replay --send` with a clock that is an hour ahead, as are the times of the packets, which a
    host with such a clock has recorded."""
    (traffic,) = sent = batches(0, 1)
    async with place(directory) as here:
        sensor = here.sensor()
        clock = Clock(directory)
        clock.step(HOUR)
        last = traffic.frames[-1].time
        shift = time.time() + HOUR - last
        capture = directory / "up.pcap"
        write_pcap(capture, [Frame(frame.time + shift, frame.data) for frame in traffic.frames])
        began = time.monotonic()
        command = [sys.executable, "-m", "sie_agent.cli", "replay", str(capture), "--send", "--json"]
        process = await asyncio.create_subprocess_exec(
            *sensor.leg.namespace.command(*command, "--config", str(sensor.config)),
            env={**os.environ, **clock.environment},
            stdout=PIPE,
            stderr=PIPE,
        )
        async with asyncio.timeout(PATIENCE):
            out, said = await process.communicate()
        recovery = time.monotonic() - began
        assert process.returncode == 0, said.decode()
        assert json.loads(out)["ledger"]["acknowledged"] == traffic.transactions
        ahead = _ahead(said.decode())
        assert abs(ahead - HOUR) < TOLERANCE
        messages = await here.ask(here.broker.raw)
        newest = max(payload["time"] for message in messages for payload in decode(message.data))
        assert newest - time.time() > HOUR - PATIENCE
        proof = (
            f"the program's log is {ahead:.0f} s ahead, and the newest transaction that arrived "
            f"{newest - time.time():.0f} s"
        )
        return await here.compare(all_of(sent), sensor, recovery=recovery, proof=proof)


async def certificate_expired(directory: Path) -> Outcome:
    """Nothing passes, and by the clocks of sensor and hub 31 days go by. Then data passes again and is
    refused, because the certificate has ended. When enrolment passes as well, the sensor renews and goes on.
    """
    sent = batches(0, 2)
    clock = await asyncio.to_thread(_clock, directory)
    async with place(directory, environment=clock.environment) as here:
        enrol = here.configure_enrol()
        await here.start_unit("enrol")
        sensor = here.sensor()
        sensor.configure([here.hub.url], enrol)
        async with sensor.running(**clock.environment) as agent:
            await sensor.record(agent, sent[0])
            await settled(agent)
            with here.line.imposing(*CUT):
                await sensor.record(agent, sent[1])
                clock.step(BEYOND)

                async def ended() -> bool:
                    ended = (await here.metrics())["sie_hub_ingest_sessions_ended_total/refused_expired"]
                    return ended == 1

                await until_true(ended)
                assert here.line.struck > 0
            port = urlsplit(enrol).port
            with here.line.imposing(f"{EITHER_WAY} tcp dport {port} {STRUCK} drop"):
                status = await agent.until(lambda status: uplink(status)["state"] == "refused", PATIENCE)
                refused = uplink(status)["last_error"]
                assert "expired" in refused
                waiting = int(str(status["pending_containers"]))
                assert waiting > 0
            clock.step(BEYOND + HOUR)  # a renewal that failed meanwhile is not put off
            recovery = await settled(agent)
            status = await asyncio.to_thread(agent.status)
            assert status["identity"]["renewed"] == 1  # type: ignore[index]
            await sensor.stop(agent)
        ahead = _ahead(agent.log.read_text())
        assert abs(ahead - BEYOND - HOUR) < TOLERANCE
        proof = (
            f"the program's log ends {ahead / DAY:.0f} days ahead; the session was refused "
            f"({refused}), and {waiting} containers waited"
        )
        return await here.compare(all_of(sent), sensor, recovery=recovery, proof=proof)


def _clock(directory: Path) -> Clock:
    directory.mkdir(exist_ok=True)
    return Clock(directory)


def _ahead(log: str) -> float:
    """By how many seconds the last line of a log is ahead of the time."""
    stamp = log.splitlines()[-1].split()[0]
    return datetime.fromisoformat(stamp).timestamp() - datetime.now(UTC).timestamp()
