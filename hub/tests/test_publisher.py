"""Many messages under way to a real nats-server at once: each has its own answer, and none waits for ever."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from sie_hub.nats_errors import Fenced, Unavailable
from sie_hub.nats_link import Link, expect_last_of_subject

from .broker import Broker


@pytest.fixture
async def link(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Link]:
    monkeypatch.setattr("sie_hub.nats_link.REQUEST_TIMEOUT", 0.5)
    async with broker.link("ingest") as link:
        yield link


def put(link: Link, number: int, subject: int = 0) -> "asyncio.Task[int]":
    data = f"message {number}".encode()
    return asyncio.create_task(link.publish(f"raw.202.isp_a.ns{subject}.s", data, {}))


async def test_each_of_many_gets_the_answer_to_itself(broker: Broker, link: Link) -> None:
    sequences = await asyncio.gather(*(put(link, number, number % 7) for number in range(300)))
    assert sorted(sequences) == list(range(1, 301))
    stored = {message.sequence: message.data for message in await broker.raw()}
    assert all(stored[sequence] == f"message {n}".encode() for n, sequence in enumerate(sequences))
    assert link.under_way == 0


async def test_a_server_that_is_slow_is_unavailable_in_time_and_its_late_answer_is_nobody_s(
    broker: Broker, link: Link
) -> None:
    broker.suspend()
    began = time.monotonic()
    results = await asyncio.gather(*(put(link, number) for number in range(50)), return_exceptions=True)
    assert 0.5 <= time.monotonic() - began < 3
    assert {type(result) for result in results} == {Unavailable}
    assert link.under_way == 0
    broker.resume()
    # The server takes what was sent to it meanwhile, and answers; the next one gets its own answer.
    sequence = await put(link, 50)
    stored = {message.sequence: message.data for message in await broker.raw()}
    assert stored[sequence] == b"message 50"


async def test_a_lost_server_fails_all_that_is_under_way_at_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sie_hub.nats_link.REQUEST_TIMEOUT", 60)
    async with broker.link("ingest") as link:
        broker.suspend()
        under_way = [put(link, number) for number in range(50)]
        await asyncio.sleep(0.1)
        assert link.under_way == 50
        broker.kill()
        async with asyncio.timeout(10):
            results = await asyncio.gather(*under_way, return_exceptions=True)
        assert {type(result) for result in results} == {Unavailable}
        with pytest.raises(Unavailable):
            await put(link, 50)
        assert link.under_way == 0


async def test_one_that_is_fenced_or_has_no_stream_fails_alone(broker: Broker, link: Link) -> None:
    first = put(link, 1)
    fenced = asyncio.create_task(link.publish("raw.202.isp_a.ns9.s", b"x", expect_last_of_subject(7)))
    async with broker.administrator() as administrator:
        nowhere = asyncio.create_task(administrator.publish("nobody.listens", b"x", {}))
        results = await asyncio.gather(first, fenced, nowhere, return_exceptions=True)
    assert [type(result) for result in results] == [int, Fenced, Unavailable]


async def test_who_gives_up_leaves_nothing_behind(broker: Broker, link: Link) -> None:
    broker.suspend()
    task = put(link, 1)
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert link.under_way == 0
    broker.resume()
    assert await put(link, 2) == 2
