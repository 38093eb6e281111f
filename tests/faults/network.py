"""Faults of the line: packets that are lost, late, or answered by resets, and a hub that says nothing."""

import asyncio
import functools
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.faults.line import CUT, EITHER_WAY, STRUCK, TOWARDS_HUB
from tests.faults.place import (
    PATIENCE,
    WINDOW,
    Outcome,
    Place,
    SensorHost,
    captured,
    in_flight,
    place,
    settled,
    until_true,
    uplink,
)
from tests.faults.traffic import TEN_MINUTES, all_of, batches

LOSS: Final = 5  # of a hundred packets, in each direction
DELAY: Final = 0.2  # seconds, in each direction
LOSING: Final = (
    f'{EITHER_WAY} counter name "passed"',
    f"{EITHER_WAY} numgen random mod 100 < {LOSS} {STRUCK} drop",
)

RESET_EVERY: Final = 3.0
RESETS: Final = 4
RESETTING: Final = (f"{TOWARDS_HUB} meta l4proto tcp meta length > 200 {STRUCK} reject with tcp reset",)
"""The next packet that carries a piece of a container is answered by a reset in the hub's name."""

SLOW_FOR: Final = 4.0
"""Seconds without an answer of the hub's message server: less than the 10 after which ingest gives up."""


async def partition(directory: Path) -> Outcome:
    """Nothing passes in either direction, for longer than either side waits for a sign of life."""
    before, during = batches(0, 1), batches(1, TEN_MINUTES)
    async with place(directory) as here:
        sensor = here.sensor()
        async with sensor.running() as agent:
            await sensor.record(agent, before[0])
            await settled(agent)
            with here.line.imposing(*CUT):
                for traffic in during:
                    await sensor.record(agent, traffic)
                status = await agent.until(lambda status: uplink(status)["state"] != "connected", PATIENCE)
                await until_true(lambda: _no_session(here))
                waiting = int(str(status["pending_containers"]))
                assert await here.stored() < waiting
            recovery = await settled(agent)
            await sensor.stop(agent)
        assert "the hub" in agent.log.read_text()
        dropped = here.line.struck
        assert dropped > 0
        proof = f"{dropped} packets dropped; both sides gave the session up; {waiting} containers waited"
        return await here.compare(all_of(before + during), sensor, recovery=recovery, proof=proof)


async def loss_and_delay(directory: Path) -> Outcome:
    """Of a hundred packets five are lost, and each is 200 ms late, in each direction."""
    sent = batches(0, 3)
    async with place(directory) as here:
        sensor = here.sensor()
        with here.line.delaying(DELAY) as detour, here.line.imposing(*LOSING):
            async with sensor.running() as agent:
                for traffic in sent:
                    await sensor.record(agent, traffic)
                recovery = await settled(agent)
                round_trip, again = await asyncio.to_thread(_tcp, sensor)
                await sensor.stop(agent)
        struck, passed, delayed = here.line.struck, here.line.passed, detour.delayed
        assert struck > 0
        assert delayed > 0
        assert again > 0
        assert round_trip >= 2 * DELAY * 1000
        proof = (
            f"{struck} of {passed} packets dropped, {delayed} delayed; by the sensor's kernel "
            f"{round_trip:.0f} ms of round trip, {again} packets sent again"
        )
        return await here.compare(all_of(sent), sensor, recovery=recovery, proof=proof)


async def resets(directory: Path) -> Outcome:
    """Every 3 s the connection is reset, each time by a packet that carries a piece of a container."""
    sent = batches(0, RESETS)
    async with place(directory) as here:
        sensor = here.sensor()
        async with sensor.running() as agent:
            struck = []
            recovery = 0.0
            for traffic in sent:
                await agent.until(lambda status: uplink(status)["state"] == "connected", PATIENCE)
                sessions = uplink(await asyncio.to_thread(agent.status))["sessions"]
                began = time.monotonic()
                with here.line.imposing(*RESETTING):
                    await sensor.record(agent, traffic)
                    await until_true(lambda: asyncio.to_thread(lambda: here.line.struck > 0))
                    struck.append(here.line.struck)
                await agent.until(functools.partial(_has_more_sessions, sessions), PATIENCE)
                recovery = max(recovery, await settled(agent))
                await asyncio.sleep(max(0.0, began + RESET_EVERY - time.monotonic()))
            sessions = uplink(await asyncio.to_thread(agent.status))["sessions"]
            await sensor.stop(agent)
        assert sessions > RESETS
        assert all(count > 0 for count in struck)
        proof = f"{sum(struck)} packets answered by a reset in {RESETS} turns; {sessions} sessions"
        return await here.compare(all_of(sent), sensor, recovery=recovery, proof=proof)


async def silent_address(directory: Path) -> Outcome:
    """The first of two addresses of the hub takes connections and says nothing, ever."""
    sent = batches(0, 1)
    async with place(directory) as here:
        listener = await here.inside(lambda: socket.create_server((here.second_address, 0)))
        with listener:
            sensor = here.sensor()
            silent = f"wss://{here.second_address}:{listener.getsockname()[1]}"
            sensor.configure([silent, here.hub.url])
            began = time.monotonic()
            async with sensor.running() as agent:
                await agent.until(lambda status: uplink(status)["hub"] == silent, PATIENCE)
                connection, _ = await asyncio.to_thread(listener.accept)
                with connection:
                    heard = await asyncio.to_thread(connection.recv, 1 << 14)
                    await sensor.record(agent, sent[0])
                    status = await agent.until(
                        lambda status: uplink(status)["state"] == "connected", PATIENCE
                    )
                    recovery = time.monotonic() - began
                assert uplink(status)["hub"] == here.hub.url
                await settled(agent)
                await sensor.stop(agent)
        assert len(heard) > 0
        assert captured(status) > 0
        proof = f"the silent address took a connection and {len(heard)} octets of a greeting"
        return await here.compare(all_of(sent), sensor, recovery=recovery, proof=proof)


async def slow_hub(directory: Path) -> Outcome:
    """The hub's message server stands still: the window fills, the rest is spooled, and capture goes on."""
    sent = batches(0, 4)
    async with place(directory) as here:
        sensor = here.sensor()
        async with sensor.running() as agent:
            await sensor.record(agent, sent[0])
            await settled(agent)
            here.broker.suspend()
            until = time.monotonic() + SLOW_FOR
            for traffic in sent[1:]:
                await sensor.record(agent, traffic)
            status = await agent.until(lambda status: in_flight(status) == WINDOW, PATIENCE)
            waiting = int(str(status["pending_containers"]))
            assert waiting > WINDOW
            await asyncio.sleep(max(0.0, until - time.monotonic()))
            here.broker.resume()
            recovery = await settled(agent)
            await sensor.stop(agent)
        proof = f"{WINDOW} containers in flight, as many as the window holds; {waiting} in the spool"
        return await here.compare(all_of(sent), sensor, recovery=recovery, proof=proof)


def _has_more_sessions(than: int, status: dict[str, object]) -> bool:
    return bool(uplink(status)["sessions"] > than)


async def _no_session(here: Place) -> bool:
    """Whether the hub has given up every session."""
    return (await here.metrics())["sie_hub_ingest_sessions/2"] == 0


def _tcp(sensor: SensorHost) -> tuple[float, int]:
    """Milliseconds of round trip and packets sent again, as the sensor's kernel has them."""
    said = subprocess.run(
        sensor.leg.namespace.command("ss", "-tinH", "state", "established", "dst", "203.0.113.10"),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    round_trip = re.search(r" rtt:([0-9.]+)/", said)
    again = re.search(r" retrans:\d+/(\d+)", said)
    assert round_trip is not None, said
    return float(round_trip[1]), int(again[1]) if again is not None else 0
