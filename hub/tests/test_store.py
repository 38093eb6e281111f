"""Writing to RAW exactly once, against a real nats-server that is killed, suspended, and written to by
others."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sie_hub.ingest.store import Arrival, Fate, StreamWriter, Unstorable, UploadWriter, reconcile
from sie_hub.nats_link import Link
from sie_hub.streams import (
    HEADER_CODEC,
    HEADER_DIGEST,
    HEADER_SEQUENCE,
    HEADER_SOURCE,
    HEADER_STORED_CONTAINERS,
    HEADER_STORED_TRANSACTIONS,
    HEADER_TRANSACTIONS,
    POSITION,
    Source,
)

from .broker import Broker

SOURCE = Source("isp_a", "ns1", "00000000000000aa")
CHANNELS = frozenset({202})


def arrival(sequence: int, digest: str = "", channel: int = 202) -> Arrival:
    return Arrival(channel, f"data {sequence}".encode(), "zstd", sequence, digest or f"{sequence:064x}", 3)


@pytest.fixture
async def link(broker: Broker) -> AsyncIterator[Link]:
    async with broker.link("ingest") as link:
        yield link


async def opened(link: Link, source: Source = SOURCE) -> StreamWriter:
    writer = StreamWriter(link, source, 7)
    await writer.open(CHANNELS)
    return writer


async def sequences(broker: Broker) -> list[int | None]:
    return [message.number(HEADER_SEQUENCE) for message in await broker.raw()]


async def recorded(link: Link) -> bytes | None:
    message = await link.last_message(POSITION, SOURCE.position_subject)
    return message.data if message is not None else None


async def test_a_container_is_stored_with_what_later_units_need(broker: Broker, link: Link) -> None:
    writer = await opened(link)
    assert writer.position == 0
    assert await writer.store(arrival(1)) is Fate.STORED
    (message,) = await broker.raw()
    assert message.data == b"data 1"
    assert {name: message.headers[name] for name in message.headers if name.startswith("Sie-")} == {
        HEADER_SEQUENCE: "1",
        HEADER_DIGEST: f"{1:064x}",
        HEADER_CODEC: "zstd",
        HEADER_TRANSACTIONS: "3",
        HEADER_STORED_CONTAINERS: "1",
        HEADER_STORED_TRANSACTIONS: "3",
        HEADER_SOURCE: "7",
    }


async def test_the_position_is_found_again_from_raw_and_from_the_bucket(broker: Broker, link: Link) -> None:
    writer = await opened(link)
    for sequence in (1, 2, 3):
        await writer.store(arrival(sequence))
    assert (await opened(link)).position == 3  # from RAW: nothing was recorded
    await writer.record(2)
    assert await recorded(link) == b"2"
    assert (await opened(link)).position == 3
    await writer.record(3)
    assert await recorded(link) == b"3"


async def test_what_is_stored_already_is_a_duplicate_for_ever(broker: Broker, link: Link) -> None:
    writer = await opened(link)
    for sequence in (1, 2):
        await writer.store(arrival(sequence))
    await writer.record(2)
    again = await opened(link)
    assert await again.store(arrival(2)) is Fate.DUPLICATE
    assert await again.store(arrival(1)) is Fate.DUPLICATE  # its digest is forgotten, its sequence is not
    assert await sequences(broker) == [1, 2]


async def test_the_bucket_alone_suffices_when_raw_has_aged_out(broker: Broker, link: Link) -> None:
    writer = await opened(link)
    await writer.store(arrival(1))
    await writer.record(1)
    async with broker.administrator() as administrator:
        await administrator.jetstream.purge_stream("RAW")
    late = await opened(link)
    assert late.position == 1
    assert await late.store(arrival(1)) is Fate.DUPLICATE
    assert await late.store(arrival(2)) is Fate.STORED
    assert await sequences(broker) == [2]


async def test_a_writer_whose_last_message_ages_out_meanwhile_goes_on(broker: Broker, link: Link) -> None:
    writer = await opened(link)
    await writer.store(arrival(1))
    async with broker.administrator() as administrator:
        await administrator.jetstream.purge_stream("RAW")
    assert await writer.store(arrival(2)) is Fate.STORED
    assert await sequences(broker) == [2]


async def test_another_content_under_the_same_sequence_is_a_conflict(broker: Broker, link: Link) -> None:
    writer = await opened(link)
    await writer.store(arrival(1))
    assert await writer.store(arrival(1, digest="f" * 64)) is Fate.CONFLICT
    assert await (await opened(link)).store(arrival(1, digest="f" * 64)) is Fate.CONFLICT
    assert await sequences(broker) == [1]


async def test_two_writers_of_one_stream_store_each_container_once(broker: Broker, link: Link) -> None:
    """As after a failover: the old ingest is not quite dead, and both get the same containers."""
    async with broker.link("ingest") as second:
        one, two = await opened(link), await opened(second)
        fates: list[Fate] = []
        for sequence in range(1, 21):
            fates += await asyncio.gather(one.store(arrival(sequence)), two.store(arrival(sequence)))
            await asyncio.gather(one.record(sequence), two.record(sequence))
    assert await sequences(broker) == list(range(1, 21))
    assert Fate.CONFLICT not in fates
    assert await recorded(link) == b"20"


async def test_a_second_writer_s_other_content_is_a_conflict_not_an_overwrite(
    broker: Broker, link: Link
) -> None:
    one, two = await opened(link), await opened(link)
    assert await one.store(arrival(1)) is Fate.STORED
    assert await two.store(arrival(1, digest="e" * 64)) is Fate.CONFLICT
    assert [message.headers[HEADER_DIGEST] for message in await broker.raw()] == [f"{1:064x}"]


async def test_storing_survives_the_server_being_killed(broker: Broker, link: Link) -> None:
    writer = await opened(link)

    async def store_all() -> None:
        for sequence in range(1, 301):
            assert await writer.store(arrival(sequence)) is Fate.STORED
            await writer.record(sequence)

    storing = asyncio.create_task(store_all())
    for reached in (50, 100, 150):
        while writer.position < reached:  # noqa: ASYNC110  # the position is no event
            await asyncio.sleep(0.001)
        assert not storing.done()
        broker.kill()
        broker.start()
    await storing
    assert link.reconnects == 3
    assert await sequences(broker) == list(range(1, 301))
    assert await recorded(link) == b"300"


async def test_a_write_of_unknown_fate_is_settled_by_reading(
    broker: Broker, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is suspended with a write in its socket: the write happens, its answer is given up."""
    monkeypatch.setattr("sie_hub.nats_link.REQUEST_TIMEOUT", 0.3)
    writer = await opened(link)
    await writer.store(arrival(1))
    broker.suspend()
    storing = asyncio.create_task(writer.store(arrival(2)))
    await asyncio.sleep(1.0)
    assert not storing.done()
    broker.resume()
    assert await storing is Fate.STORED
    assert await writer.store(arrival(3)) is Fate.STORED
    assert await sequences(broker) == [1, 2, 3]


async def test_storing_gives_up_in_time(broker: Broker, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sie_hub.ingest.store.STORE_TIMEOUT", 0.5)
    writer = await opened(link)
    broker.kill()
    with pytest.raises(Unstorable, match="container 1 could not be stored within"):
        await writer.store(arrival(1))


async def test_a_channel_that_comes_later_is_fenced_too(broker: Broker, link: Link) -> None:
    writer = await opened(link)
    await writer.store(arrival(1))
    assert await writer.store(arrival(2, channel=203)) is Fate.STORED
    assert await writer.store(arrival(3)) is Fate.STORED
    assert [message.headers[HEADER_SEQUENCE] for message in await broker.raw()] == ["1", "2", "3"]


async def test_reconciling_brings_positions_up_to_raw(broker: Broker, link: Link) -> None:
    writer = await opened(link)
    await writer.store(arrival(1))
    await writer.store(arrival(2))
    await writer.record(1)
    other = Source("uni_b", "ns1", "00000000000000bb")
    await (await opened(link, other)).store(arrival(5))
    await UploadWriter(link, "uni_b", "legacy", 9).store(Arrival(203, b"old", "none"))
    assert await reconcile(link) == 2
    assert await recorded(link) == b"2"
    position = await link.last_message(POSITION, other.position_subject)
    assert position is not None
    assert position.data == b"5"
    assert await reconcile(link) == 0


async def test_an_upload_is_stored_once_though_its_write_is_repeated(
    broker: Broker, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sie_hub.nats_link.REQUEST_TIMEOUT", 0.3)
    writer = UploadWriter(link, "uni_b", "legacy", 9)
    broker.suspend()
    storing = asyncio.create_task(writer.store(Arrival(203, b"old", "none")))
    await asyncio.sleep(1.0)
    broker.resume()
    assert await storing is Fate.STORED
    (message,) = await broker.raw()
    assert message.data == b"old"
    assert message.headers[HEADER_SOURCE] == "9"
    assert HEADER_SEQUENCE not in message.headers
