"""Two sensors with the same identity: a virtual machine that was cloned, spool and key included."""

import asyncio
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.faults.line import STRUCK
from tests.faults.place import PATIENCE, Outcome, place, settled, uplink
from tests.faults.traffic import all_of, batches

TWIN_CUT: Final = (f'iifname "twin" {STRUCK} drop', f'oifname "twin" {STRUCK} drop')


async def same_identity(directory: Path) -> Outcome:
    """A sensor is cloned, key and spool included, and both go on, so that the same sequences name other
    containers. Whoever comes second learns it from the digest at the hub's position: the session is refused,
    an alarm is raised, and the twin goes on in a stream of its own. From then on the two take the session
    from each other, again and again. Everything of both arrives."""
    before, first, second, later = batches(0, 4)
    async with place(directory) as here:
        certificate = here.pki.sensor()
        sensor = here.sensor(certificate)
        twin = here.twin(certificate)
        async with sensor.running() as agent:
            await sensor.record(agent, before)
            await settled(agent)
            await sensor.stop(agent)
        await asyncio.to_thread(shutil.rmtree, twin.spool)
        await asyncio.to_thread(shutil.copytree, sensor.spool, twin.spool)
        shared = sensor.ledger().captured
        async with sensor.running() as agent:
            with ExitStack() as cut:
                cut.enter_context(here.line.imposing(*TWIN_CUT))
                async with twin.running() as other:
                    await twin.record(other, second)
                    await sensor.record(agent, first)
                    await settled(agent)
                    both = {path.name[:20] for path in twin.spool.glob("*.nmsg.zst")}
                    last = sensor.ledger().acknowledged_containers
                    cut.close()
                    recovery = await settled(other)
                    status = await asyncio.to_thread(other.status)
                    assert uplink(status)["stream_conflicts"] == 1
                    await sensor.record(agent, later)
                    await settled(agent)
                    await agent.until(lambda status: uplink(status)["sessions"] > 2, PATIENCE)
                    await twin.stop(other)
            await sensor.stop(agent)
        metrics = await here.metrics()
        assert metrics["sie_hub_ingest_conflicts_total"] == 1
        taken = metrics["sie_hub_ingest_sessions_ended_total/superseded"]
        assert taken > 0
        said = here.hub.log("ingest")
        assert "a sensor's state went back in time or was cloned: the hub holds another payload" in said
        named_twice = sum(int(sequence) <= last for sequence in both)
        assert named_twice > 0
        proof = (
            f"{named_twice} sequences named a container of each; 1 conflict refused, counted and alarmed; "
            f"{taken:.0f} sessions taken from one another"
        )
        sent = all_of([before, first, second, later])
        return await here.compare(sent, sensor, twin, shared=shared, recovery=recovery, proof=proof)
