"""serve takes the SIE stream into its store exactly once, whatever is killed meanwhile."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sie_hub.nats_errors import Unavailable
from sie_hub.nats_link import Link
from sie_hub.serve.row_binary import Reader
from sie_hub.serve.schema import open_store
from sie_hub.streams import SIE, SIE_DEDUPLICATED

from ..broker import Broker
from .samples import Sample, address
from .unit import Serve


@pytest.fixture
def serve(tmp_path: Path, broker: Broker) -> Iterator[Serve]:
    """A serve, not started yet."""
    unit = Serve(tmp_path / "serve", broker)
    yield unit
    if unit.process is not None:
        unit.stop()


@pytest.fixture
async def refine(broker: Broker) -> AsyncIterator[Link]:
    """A connection that publishes in refine's place."""
    async with broker.link("refine") as link:
        yield link


def stored(serve: Serve) -> Counter[bytes]:
    """The counts in the store of a serve that has ended, by the first address of each RRset."""
    store = open_store(serve.directory / "store")
    reader = Reader(
        store.connection().execute("SELECT rdata[1], sum(count) FROM sie.rrset GROUP BY rdata ORDER BY 1")
    )
    counts: Counter[bytes] = Counter()
    while not reader.at_end:
        octets = reader.string()
        counts[octets] += reader.number(8)
    inverse = Reader(store.connection().execute("SELECT sum(count) FROM sie.rdata")).number(8)
    assert inverse == counts.total()
    store.close()
    return counts


def numbered(number: int, now: int) -> tuple[list[Sample], Counter[bytes]]:
    """A message whose names and values repeat over messages, with counts that tell what is missing, and its
    truth."""
    chooser = random.Random(number)
    records = []
    truth: Counter[bytes] = Counter()
    for owner in range(chooser.randrange(1, 40)):
        count = chooser.randrange(1, 10)
        value = address(f"203.0.113.{chooser.randrange(1, 30)}")
        age = chooser.choice([0, 0, 0, 9 * 86_400])
        records.append(Sample(f"n{owner}.example.", 1, (value,), now - age, now - age, count=count))
        truth[value] += count
    return records, truth


async def test_what_is_published_is_stored_and_counted(serve: Serve, refine: Link, now: int) -> None:
    serve.start()
    records, truth = numbered(1, now)
    await serve.publish(refine, records)
    await refine.publish(SIE_DEDUPLICATED, b"", {})
    chaos = [Sample("x.example.", 1, (address("203.0.113.1"),), now, now, rrclass=3)]
    last = await serve.publish(refine, chaos)
    await serve.reach(last)
    assert serve.metric("sie_hub_serve_messages_total", outcome="stored") == 3
    assert serve.metric("sie_hub_serve_records_total", outcome="stored") == len(records)
    assert serve.metric("sie_hub_serve_records_total", outcome="filtered") == 1
    assert serve.metric("sie_hub_serve_rows_total", table="rrset") == len(records)
    assert serve.metric("sie_hub_serve_sie_pending") == 0
    assert serve.stop(signal.SIGTERM) == 0
    assert stored(serve) == truth


async def test_an_unreadable_message_is_counted_and_passed(serve: Serve, refine: Link, now: int) -> None:
    await refine.publish(SIE_DEDUPLICATED, b"NMSG is what this is not", {})
    records, truth = numbered(2, now)
    last = await serve.publish(refine, records)
    serve.start()
    await serve.reach(last)
    assert serve.metric("sie_hub_serve_messages_total", outcome="rejected") == 1
    assert serve.metric("sie_hub_serve_messages_total", outcome="stored") == 1
    serve.stop(signal.SIGTERM)
    assert "message rejected sequence=1" in serve.log()
    assert stored(serve) == truth


async def test_serve_killed_at_any_moment_stores_everything_once(
    serve: Serve, refine: Link, now: int
) -> None:
    """Twenty times SIGKILL while messages arrive."""
    chooser = random.Random(7)
    truth: Counter[bytes] = Counter()
    last = 0
    killed_in_work = 0
    enough = asyncio.Event()

    async def publish_on() -> None:
        """Ends between two messages: one whose answer nobody awaits would be stored and not counted."""
        nonlocal last
        number = 0
        while not enough.is_set():
            records, counts = numbered(number, now)
            last = await serve.publish(refine, records)
            truth.update(counts)
            number += 1
            await asyncio.sleep(0.04)

    publishing = asyncio.create_task(publish_on())
    for attempt in range(20):
        serve.start()
        if attempt % 4:  # the others are killed while they start
            await serve.answers()
        await asyncio.sleep(chooser.uniform(0.1, 0.8))
        position = await asyncio.to_thread(serve.metric, "sie_hub_serve_sie_position")
        killed_in_work += position is not None and 0 < position < last
        serve.stop()
    enough.set()
    await publishing
    serve.start()
    await serve.reach(last)
    serve.stop(signal.SIGTERM)
    assert last > 100
    assert killed_in_work >= 10, "most kills must have hit a unit that was writing"
    assert stored(serve) == truth


async def test_a_killed_nats_server_costs_nothing(
    serve: Serve, broker: Broker, refine: Link, now: int
) -> None:
    serve.start()
    truth: Counter[bytes] = Counter()
    last = 0
    for number in range(60):
        records, counts = numbered(number, now)
        if number % 20 == 10:
            broker.kill()
            broker.start()
        while True:
            await refine.wait_up()
            try:
                last = await serve.publish(refine, records)
            except Unavailable:
                # The server may have it all the same: it counts when the stream's end has moved.
                state = await refine.persist(lambda: refine.state(SIE))
                if state.last == last:
                    continue
                last = state.last
            break
        truth.update(counts)
    await serve.reach(last)
    serve.stop(signal.SIGTERM)
    assert stored(serve) == truth


async def test_a_stream_made_anew_is_read_from_its_beginning(serve: Serve, broker: Broker, now: int) -> None:
    """nats-server came back without its data: sequences begin again at 1, and are other messages."""
    serve.start()
    truth: Counter[bytes] = Counter()
    async with broker.link("refine") as link:
        for number in range(3):
            records, counts = numbered(number, now)
            last = await serve.publish(link, records)
            truth.update(counts)
    await serve.reach(last)
    broker.kill()
    for path in sorted((broker.directory / "store").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    broker.start()
    await broker.make_streams()
    async with broker.link("refine") as link:
        for number in range(10, 15):
            records, counts = numbered(number, now)
            last = await serve.publish(link, records)
            truth.update(counts)
    assert last == 5
    await serve.reach(5)
    serve.stop(signal.SIGTERM)
    assert stored(serve) == truth


async def test_messages_that_left_the_stream_are_counted_as_lost(
    serve: Serve, broker: Broker, refine: Link, now: int
) -> None:
    truth: Counter[bytes] = Counter()
    for number in range(10):
        records, counts = numbered(number, now)
        await serve.publish(refine, records)
        if number >= 6:
            truth.update(counts)
    await _purge(broker, keep=4)
    serve.start()
    await serve.reach(10)
    assert serve.metric("sie_hub_serve_messages_total", outcome="lost") == 6
    assert serve.metric("sie_hub_serve_messages_total", outcome="stored") == 4
    serve.stop(signal.SIGTERM)
    assert "6 messages were gone from SIE before they were read" in serve.log()
    assert stored(serve) == truth


async def _purge(broker: Broker, keep: int) -> None:
    """Make the stream forget all but its last messages, as age does, by way of its own limits."""
    async with broker.link("setup") as link:
        config = (await link.jetstream.stream_info(SIE)).config
        config.max_msgs = keep
        config.discard = None
        await link.jetstream.update_stream(config)


async def test_a_second_serve_on_the_same_store_is_refused(
    serve: Serve, broker: Broker, tmp_path: Path
) -> None:
    serve.start()
    await serve.answers()
    other = Serve(tmp_path / "other", broker)
    other.path.write_text(other.path.read_text().replace(str(other.directory), str(serve.directory)))
    other.start()
    assert other.process is not None
    assert await asyncio.to_thread(other.process.wait, 60) == 1
    assert "only one process may have it open" in other.log()
    assert "Traceback" not in other.log()
    assert serve.stop(signal.SIGTERM) == 0


async def test_readers_are_answered_while_nats_server_is_away(
    serve: Serve, broker: Broker, refine: Link, now: int
) -> None:
    serve.start()
    await serve.reach(await serve.publish(refine, numbered(1, now)[0]))
    serve.stop()
    broker.kill()
    serve.start()
    await serve.answers()
    reader, writer = await asyncio.open_connection("127.0.0.1", serve.port)
    writer.write(b"GET /dnsdb/v2/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'{"ping":"ok"}' in await reader.read()
    writer.close()
    assert serve.stop(signal.SIGTERM) == 0
