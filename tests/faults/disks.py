"""A disk that is full, on either side."""

import asyncio
import signal
from pathlib import Path
from typing import Final

from tests.disk import small_disk
from tests.faults.line import CUT
from tests.faults.place import (
    PATIENCE,
    Outcome,
    captured,
    place,
    settled,
    until,
    uplink,
)
from tests.faults.traffic import all_of, batches
from tests.faults.transactions import answered

SENSOR_DISK: Final = 4 << 20
SENSOR_ROOM: Final = 48 << 10
"""Octets that are left on the sensor's disk: some ten containers."""

HUB_DISK: Final = 32 << 20
"""Octets, of which nats-server gives its streams three quarters."""
HUB_ROOM: Final = 64 << 10

LEAST: Final = 16 << 10
"""Octets; less is no room for a container and its name."""


async def sensor_disk_full(directory: Path) -> Outcome:
    """The spool's disk is full while the hub is out of reach. What the disk refused is lost, and counted."""
    before, during, after = (batches(number, 1) for number in range(3))
    async with place(directory) as here:
        sensor = here.sensor()
        with small_disk(sensor.spool, SENSOR_DISK) as disk:
            async with sensor.running() as agent:
                await sensor.record(agent, before[0])
                await settled(agent)
                with here.line.imposing(*CUT):
                    disk.fill(SENSOR_ROOM)
                    recorded = captured(await asyncio.to_thread(agent.status))
                    recorded += during[0].transactions - during[0].unanswered
                    await sensor.see(during[0])
                    status = await agent.until(
                        lambda status: captured(status) + lost(status) == recorded, PATIENCE
                    )
                    refused = lost(status)
                    assert 0 < refused < during[0].transactions
                    assert disk.room < LEAST
                    kept = sensor.pending()
                    disk.empty()
                recovery = await settled(agent)
                await sensor.record(agent, after[0])
                await settled(agent)
                await sensor.stop(agent)
            said = agent.log.read_text()
            assert "takes no container: No space left on device" in said
            assert "the spool takes containers again" in said
            waiting = all_of(during) - answered(all_of(during))  # recorded at the stop, when there was room
            expected = all_of(before) + kept + waiting + all_of(after)
            proof = f"the disk answered ENOSPC; {refused} transactions refused by it and counted as lost"
            return await here.compare(expected, sensor, lost=refused, recovery=recovery, proof=proof)


async def hub_disk_full(directory: Path) -> Outcome:
    """The disk of the hub's streams is full. Nothing is acknowledged, and everything waits in the spool. A
    stream that has met a full disk takes nothing more until nats-server is started again, which is done when
    there is room."""
    sent = batches(0, 3)
    async with place(directory, HUB_DISK) as here:
        disk = here.stream_disk
        assert disk is not None
        sensor = here.sensor()
        async with sensor.running() as agent:
            await sensor.record(agent, sent[0])
            await settled(agent)
            disk.fill(HUB_ROOM)
            for traffic in sent[1:]:
                await sensor.record(agent, traffic)
            await until(lambda: "no space left on device" in here.broker.log())
            status = await agent.until(lambda status: uplink(status)["refusals"] > 0, PATIENCE)
            waiting = int(str(status["pending_containers"]))
            assert waiting > 0
            room = disk.room
            assert room < LEAST
            assert "is there and stores nothing: look at its disk" in agent.log.read_text()
            disk.empty()
            await asyncio.to_thread(here.broker.kill, signal.SIGTERM)
            await here.inside(here.broker.start)
            recovery = await settled(agent)
            await sensor.stop(agent)
        await here.each_once()
        proof = (
            f"nats-server met ENOSPC, {room} octets were left; ingest ended the session for it, "
            f"and {waiting} containers waited"
        )
        return await here.compare(all_of(sent), sensor, recovery=recovery, proof=proof)


def lost(status: dict[str, object]) -> int:
    """Transactions that the disk did not take."""
    return int(status["lost"]["disk"])  # type: ignore[index]
