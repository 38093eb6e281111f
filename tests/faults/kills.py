"""Programs that are killed while a container is stored at the hub and its acknowledgement is under way."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.agent_process import Running
from tests.faults.line import STRUCK, TOWARDS_SENSOR
from tests.faults.place import (
    Outcome,
    Place,
    SensorHost,
    captured,
    in_flight,
    place,
    settled,
    until_true,
)
from tests.faults.traffic import all_of, batches
from tests.faults.transactions import answered

UNANSWERED: Final = (f"{TOWARDS_SENSOR} {STRUCK} drop",)
"""What the sensor sends passes, and what the hub answers does not."""


@dataclass(frozen=True)
class Between:
    """The moment between storing and acknowledging: what the hub has, and what the sensor knows of it."""

    stored: int
    acknowledged: int
    in_flight: int


async def hub_killed(directory: Path) -> Outcome:
    """What ingest says is held back on its way; when containers are stored that the sensor knows nothing of,
    ingest gets SIGKILL, and is started again."""
    sent = batches(0, 3)
    async with place(directory) as here:
        sensor = here.sensor()
        async with sensor.running() as agent:
            await sensor.record(agent, sent[0])
            await settled(agent)
            async with _between(here, sensor, agent) as moment:
                assert here.hub.stop("ingest", signal.SIGKILL) == -signal.SIGKILL
            await sensor.record(agent, sent[2])
            await here.start_unit("ingest")
            recovery = await settled(agent)
            duplicates = (await here.metrics())["sie_hub_ingest_containers_total/duplicate"]
            await sensor.stop(agent)
        await here.each_once()
        assert duplicates == 0
        return await here.compare(all_of(sent), sensor, recovery=recovery, proof=_proof(moment))


async def sensor_killed(directory: Path) -> Outcome:
    """What the hub says is held back in the same way, and sie-agent gets SIGKILL. What it had in memory
    alone, queries that waited for a response, was not captured.
    """
    sent = batches(0, 3)
    async with place(directory) as here:
        sensor = here.sensor()
        async with sensor.running() as agent:
            await sensor.record(agent, sent[0])
            await settled(agent)
            async with _between(here, sensor, agent) as moment:
                agent.process.kill()
                agent.process.wait()
        assert sensor.ledger().pending_containers >= moment.in_flight
        async with sensor.running() as agent:
            recovery = await settled(agent)
            await sensor.record(agent, sent[2])
            await settled(agent)
            await sensor.stop(agent)
        await here.each_once()
        expected = answered(all_of(sent[:2])) + all_of(sent[2:])
        return await here.compare(expected, sensor, recovery=recovery, proof=_proof(moment))


@asynccontextmanager
async def _between(here: Place, sensor: SensorHost, agent: Running) -> AsyncIterator[Between]:
    """Bring about the moment: containers are stored, and no word of it comes through."""
    before = await here.stored()
    acknowledged = await asyncio.to_thread(agent.status)
    (traffic,) = batches(1, 1)
    with here.line.imposing(*UNANSWERED):
        await sensor.record(agent, traffic)

        async def is_stored() -> bool:
            return await here.stored() > before

        await until_true(is_stored)
        status = await agent.until(lambda status: in_flight(status) > 0)
        assert status["acknowledged"] == acknowledged["acknowledged"]
        assert captured(status) > captured(acknowledged)
        moment = Between(await here.stored(), before, in_flight(status))
        assert here.line.struck > 0
        yield moment


def _proof(moment: Between) -> str:
    return (
        f"{moment.stored} containers stored, {moment.acknowledged} of them acknowledged, "
        f"{moment.in_flight} in flight"
    )
