"""From RAW to SIE against a real nats-server: every window once, every container accounted for."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sie_hub.nats_link import Link, StoredMessage
from sie_hub.refine import refiner
from sie_hub.refine.metrics import CONTAINERS, OBSERVATIONS, RECORDS, TRANSACTIONS, Metrics
from sie_hub.refine.refiner import Refiner
from sie_hub.refine.window import Window
from sie_hub.streams import (
    HEADER_RAW_FIRST,
    HEADER_RAW_LAST,
    HEADER_RAW_MADE,
    HEADER_WRITER,
    RAW,
    SIE_DEDUPLICATED,
    Source,
)
from sie_hub.unit import Unit, UnitFailed

from .broker import Broker
from .sample import Sample, counted, record

SUBJECT = Source("isp_a", "ns1", "0000000000000001").raw_subject(202)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return record(tmp_path_factory.mktemp("sample"), 1000)


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for new containers, and for the wish to stop, more often than a unit need."""
    monkeypatch.setattr(refiner, "IDLE", 0.1)


async def put(broker: Broker, containers: list[bytes]) -> None:
    async with broker.link("ingest") as link:
        for container in containers:
            await link.publish(SUBJECT, container, {})


class Refining:
    """A refine in this process."""

    def __init__(self, unit: Unit, link: Link, window: float) -> None:
        self.unit = unit
        self.link = link
        self.refiner = Refiner(unit, link, window, Metrics(unit.metrics, link))
        self.task = asyncio.create_task(self.refiner.run())

    def value(self, name: str, **labels: str) -> float:
        value = self.unit.metrics.get_sample_value(f"sie_hub_refine_{name}", labels)
        assert value is not None, name
        return value

    def outcomes(self, name: str, outcomes: tuple[str, ...]) -> dict[str, float]:
        values = {o: self.value(f"{name}_total", outcome=o.removeprefix("records_")) for o in outcomes}
        return {outcome: value for outcome, value in values.items() if value}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not condition():
                if self.task.done():
                    await self.task
                await asyncio.sleep(0.01)

    async def until_position(self, sequence: int) -> None:
        await self.until(lambda: self.value("raw_position") >= sequence)


@asynccontextmanager
async def refining(broker: Broker, window: float = 0.2) -> AsyncIterator[Refining]:
    async with broker.link("refine") as link:
        running = Refining(Unit("refine"), link, window)
        try:
            yield running
        finally:
            running.unit.stop()
            await asyncio.gather(running.task, return_exceptions=True)


async def ranges(broker: Broker) -> list[tuple[int | None, int | None]]:
    return [(m.number(HEADER_RAW_FIRST), m.number(HEADER_RAW_LAST)) for m in await broker.sie()]


def contiguous(found: list[tuple[int | None, int | None]], last: int) -> bool:
    """Whether ranges cover 1 to `last` without a gap or an overlap."""
    expected = 1
    for first, until in found:
        if first != expected or until is None or until < first:
            return False
        expected = until + 1
    return expected == last + 1


async def test_every_observation_is_counted_once(broker: Broker, sample: Sample) -> None:
    await put(broker, sample.containers)
    async with refining(broker) as running:
        await running.until_position(len(sample.containers))
        assert counted(message.data for message in await broker.sie()) == sample.rrsets
        assert contiguous(await ranges(broker), len(sample.containers))
        containers = running.outcomes("containers", CONTAINERS)
        transactions = running.outcomes("transactions", TRANSACTIONS)
        records = running.outcomes("records", RECORDS)
        observations = running.outcomes("observations", OBSERVATIONS)
    assert containers == {"refined": len(sample.containers)}
    assert sum(transactions.values()) == 1000
    assert sum(observations.values()) == sum(sample.rrsets.values())
    assert records["records_observed"] > 0


async def test_windows_follow_one_another_in_time(broker: Broker, sample: Sample) -> None:
    async with refining(broker, window=0.1) as running:
        for sequence, container in enumerate(sample.containers[:4], start=1):
            await put(broker, [container])
            await running.until_position(sequence)
        assert running.value("windows_total", reason="time") == 4
        assert running.value("delay_seconds_count") == 4
    assert await ranges(broker) == [(1, 1), (2, 2), (3, 3), (4, 4)]


async def test_a_quiet_raw_makes_no_windows(broker: Broker) -> None:
    async with refining(broker, window=0.1):
        await asyncio.sleep(0.5)
    assert await ranges(broker) == []


async def test_going_on_after_a_stop_covers_everything_once(broker: Broker, sample: Sample) -> None:
    half = len(sample.containers) // 2
    await put(broker, sample.containers[:half])
    async with refining(broker) as running:
        await running.until_position(half)
    await put(broker, sample.containers[half:])
    async with refining(broker) as running:
        await running.until_position(len(sample.containers))
    assert counted(message.data for message in await broker.sie()) == sample.rrsets
    assert contiguous(await ranges(broker), len(sample.containers))


async def test_an_open_window_is_read_again_by_the_next_process(broker: Broker, sample: Sample) -> None:
    await put(broker, sample.containers)
    async with refining(broker, window=60.0) as running:
        await running.until(lambda: running.value("seconds_count") == len(sample.containers))
    assert await ranges(broker) == []
    async with refining(broker) as running:
        await running.until_position(len(sample.containers))
    assert counted(message.data for message in await broker.sie()) == sample.rrsets


async def test_unreadable_containers_are_counted_and_covered(broker: Broker, sample: Sample) -> None:
    await put(broker, [b"NMSG garbage", *sample.containers, os.urandom(1000)])
    async with refining(broker) as running:
        await running.until_position(len(sample.containers) + 2)
        assert running.outcomes("containers", CONTAINERS) == {
            "refined": len(sample.containers),
            "rejected_unreadable": 2,
        }
    assert contiguous(await ranges(broker), len(sample.containers) + 2)
    assert counted(message.data for message in await broker.sie()) == sample.rrsets


async def test_a_window_without_a_record_still_moves_the_position(broker: Broker) -> None:
    await put(broker, [b"garbage"])
    async with refining(broker) as running:
        await running.until_position(1)
    assert await ranges(broker) == [(1, 1)]
    async with refining(broker) as running:
        await running.until(lambda: running.unit.metrics is not None)
        assert running.outcomes("containers", CONTAINERS) == {}


async def test_what_vanished_from_raw_is_counted_as_lost(broker: Broker, sample: Sample) -> None:
    await put(broker, sample.containers[:3])
    async with refining(broker) as running:
        await running.until_position(3)
    await put(broker, sample.containers[3:10])
    async with broker.administrator() as administrator:
        await administrator.jetstream.purge_stream(RAW, seq=7)  # 4, 5 and 6 age out before refine is back
        await administrator.jetstream.delete_msg(RAW, 9)
    async with refining(broker) as running:
        await running.until_position(10)
        assert running.outcomes("containers", CONTAINERS) == {"refined": 3, "lost": 4}
    assert contiguous(await ranges(broker), 10)


async def test_a_first_start_begins_where_raw_begins(broker: Broker, sample: Sample) -> None:
    await put(broker, sample.containers[:5])
    async with broker.administrator() as administrator:
        await administrator.jetstream.purge_stream(RAW, seq=4)
    async with refining(broker) as running:
        await running.until_position(5)
        assert running.outcomes("containers", CONTAINERS) == {"refined": 2}
    assert await ranges(broker) == [(4, 5)]


async def test_a_window_is_closed_early_by_its_size(
    broker: Broker, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refiner, "Window", lambda **_: Window(max_records=100))
    await put(broker, sample.containers)
    async with refining(broker, window=60.0) as running:
        await running.until(lambda: running.value("windows_total", reason="size") >= 3)
    outputs = await broker.sie()
    assert contiguous(await ranges(broker), outputs[-1].number(HEADER_RAW_LAST) or 0)


async def test_records_that_fit_no_message_are_made_again_from_fewer_containers(
    broker: Broker, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refiner, "MAX_MESSAGE", 6000)
    await put(broker, sample.containers)
    async with refining(broker, window=0.5) as running:
        await running.until_position(len(sample.containers))
        assert running.value("windows_divided_total") >= 1
        assert running.outcomes("containers", CONTAINERS) == {"refined": len(sample.containers)}
    outputs = await broker.sie()
    assert max(len(message.data) for message in outputs) <= 6000
    assert counted(message.data for message in outputs) == sample.rrsets
    assert contiguous(await ranges(broker), len(sample.containers))


async def test_one_container_whose_records_fit_no_message_stops_nobody(
    broker: Broker, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refiner, "MAX_MESSAGE", 10)
    await put(broker, [sample.containers[0], b"garbage"])
    async with refining(broker) as running:
        await running.until_position(2)
        assert running.outcomes("containers", CONTAINERS) == {
            "rejected_too_large": 1,
            "rejected_unreadable": 1,
        }
        assert running.outcomes("transactions", TRANSACTIONS) == {}
    assert contiguous(await ranges(broker), 2)


async def test_a_twin_is_fenced_and_ends_with_a_sentence(broker: Broker, sample: Sample) -> None:
    async with refining(broker, window=0.3) as first, refining(broker, window=0.5) as second:
        await put(broker, sample.containers)
        with pytest.raises(UnitFailed, match="another refine has written message"):
            await second.task
        await first.until_position(len(sample.containers))
    assert counted(message.data for message in await broker.sie()) == sample.rrsets


async def test_a_write_of_unknown_fate_is_settled_by_reading(
    broker: Broker, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is suspended with the write in its socket: it is stored, and its answer comes too late."""
    async with refining(broker, window=1.0) as running:
        await put(broker, sample.containers[:5])
        await running.until(lambda: running.value("seconds_count") == 5)
        monkeypatch.setattr("sie_hub.nats_link.REQUEST_TIMEOUT", 0.3)
        broker.suspend()
        await asyncio.sleep(2.0)
        broker.resume()
        await running.until_position(5)
    assert await ranges(broker) == [(1, 5)]


async def test_refining_survives_the_server_being_killed(broker: Broker, sample: Sample) -> None:
    step = len(sample.containers) // 4
    async with refining(broker, window=0.05) as running:
        for kills, begin in enumerate(range(0, len(sample.containers), step), start=1):
            await put(broker, sample.containers[begin : begin + step])
            broker.kill()
            broker.start()
            await running.until(lambda kills=kills: running.link.reconnects == kills)  # type: ignore[misc]
        await running.until_position(len(sample.containers))
    assert counted(message.data for message in await broker.sie()) == sample.rrsets
    assert contiguous(await ranges(broker), len(sample.containers))


async def remake_raw(broker: Broker) -> None:
    async with broker.administrator() as administrator:
        await administrator.jetstream.delete_stream(RAW)
    await broker.make_streams()


async def test_a_raw_made_anew_is_refined_from_its_beginning(broker: Broker, sample: Sample) -> None:
    await put(broker, [b"garbage"] * 3)
    async with refining(broker) as running:
        await running.until_position(3)
    await remake_raw(broker)
    await put(broker, sample.containers)
    async with refining(broker) as running:
        await running.until(lambda: running.value("raw_position") == len(sample.containers))
        assert running.outcomes("containers", CONTAINERS) == {"refined": len(sample.containers)}
    assert counted(message.data for message in await broker.sie()) == sample.rrsets


async def test_a_raw_made_anew_under_a_running_refine_ends_it(broker: Broker, sample: Sample) -> None:
    async with refining(broker) as running:
        await put(broker, sample.containers[:3])
        await running.until_position(3)
        await remake_raw(broker)
        broker.kill()
        broker.start()
        with pytest.raises(UnitFailed, match="RAW was made anew under this process"):
            await running.task


async def intrude(broker: Broker, headers: dict[str, str]) -> None:
    """Write to SIE what refine has not written."""
    async with broker.link("refine") as link:
        await link.publish(SIE_DEDUPLICATED, b"whatever", headers)


async def own(broker: Broker) -> list[StoredMessage]:
    """The messages of SIE that refine has written."""
    return [message for message in await broker.sie() if HEADER_WRITER in message.headers]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {HEADER_RAW_FIRST: "1"},
        {HEADER_RAW_FIRST: "1", HEADER_RAW_LAST: "many"},
        {HEADER_RAW_FIRST: "5", HEADER_RAW_LAST: "4", HEADER_RAW_MADE: "now"},
    ],
    ids=["none", "half", "no number", "backwards"],
)
async def test_messages_of_others_in_sie_are_passed_over_at_start(
    broker: Broker, sample: Sample, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    half = len(sample.containers) // 2
    await put(broker, sample.containers[:half])
    async with refining(broker) as running:
        await running.until_position(half)
    for _ in range(3):
        await intrude(broker, headers)
    await put(broker, sample.containers[half:])
    async with refining(broker) as running:
        await running.until_position(len(sample.containers))
        assert running.value("foreign_messages_total") == 3
    assert counted(message.data for message in await own(broker)) == sample.rrsets
    assert sum("3 messages of SIE name no range of RAW" in line for line in caplog.messages) == 1


async def test_a_sie_of_others_alone_is_no_reason_to_skip_anything(broker: Broker, sample: Sample) -> None:
    await intrude(broker, {})
    await put(broker, sample.containers)
    async with refining(broker) as running:
        await running.until_position(len(sample.containers))
        assert running.value("foreign_messages_total") == 1
    assert counted(message.data for message in await own(broker)) == sample.rrsets


async def test_a_message_of_others_in_sie_does_not_stop_a_running_refine(
    broker: Broker, sample: Sample
) -> None:
    async with refining(broker) as running:
        await put(broker, sample.containers[:5])
        await running.until_position(5)
        await intrude(broker, {})
        await put(broker, sample.containers[5:])
        await running.until_position(len(sample.containers))
        assert running.value("foreign_messages_total") == 1
    assert counted(message.data for message in await own(broker)) == sample.rrsets


@pytest.mark.parametrize("missed", [0, 3])
def test_a_window_s_range_begins_behind_the_last_output(sample: Sample, missed: int) -> None:
    window = Window()
    assert window.add(10, sample.containers[0], missed) is None
    assert window.add(11, b"garbage", 0) is not None
    output = window.close()
    assert (output.first, output.last) == (10 - missed, 11)
    assert (output.containers, output.rejected, output.lost) == (2, 1, missed)
    assert output.counts["transactions"] == sample.transactions[0]


def test_equal_windows_give_equal_octets(sample: Sample, tmp_path: Path) -> None:
    outputs = []
    for containers in (sample.containers, sample.containers[::-1]):
        window = Window()
        for sequence, container in enumerate(containers, start=1):
            window.add(sequence, container, 0)
        outputs.append(window.close().data)
    assert outputs[0] == outputs[1]
