"""Each unit may do what it must and nothing else: attempts against a real nats-server with the rendered
users."""

import asyncio
from pathlib import Path

import nats.errors
import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy

from sie_hub.follow import Follower
from sie_hub.nats_config import USERS, render
from sie_hub.nats_errors import Unavailable
from sie_hub.nats_link import Link
from sie_hub.streams import POSITION, RAW, SIE, SIE_DEDUPLICATED, Source

from .broker import Broker

SOURCE = Source("isp_a", "ns1", "0000000000000001")
SUBJECT = SOURCE.raw_subject(202)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not permitted is not answered: wait for that less long than a unit does."""
    monkeypatch.setattr("sie_hub.nats_link.REQUEST_TIMEOUT", 0.4)


async def _put(broker: Broker, user: str, subject: str) -> None:
    async with broker.link(user) as link:
        await link.publish(subject, b"x", {})


async def _read(broker: Broker, user: str, stream: str) -> list[bytes]:
    async with broker.link(user) as link:
        follower = Follower(link, stream, 1)
        read = await follower.fetch(timeout=0.5)
        await follower.close()
    return [followed.message.data for followed in read]


async def test_ingest_writes_raw_and_positions_and_reads_its_last_ones(broker: Broker) -> None:
    async with broker.link("ingest") as link:
        assert await link.publish(SUBJECT, b"container", {}) == 1
        assert await link.publish(SOURCE.position_subject, b"7", {}) == 1
        last = await link.last_message(RAW, SUBJECT)
        position = await link.last_message(POSITION, SOURCE.position_subject)
        assert last is not None
        assert position is not None
        assert (last.data, position.data) == (b"container", b"7")
        assert await link.subjects(RAW, "raw.>") == {SUBJECT: 1}


async def test_refine_reads_raw_and_writes_sie_and_serve_reads_that(broker: Broker) -> None:
    await _put(broker, "ingest", SUBJECT)
    await _put(broker, "refine", SIE_DEDUPLICATED)
    assert await _read(broker, "refine", RAW) == [b"x"]
    assert await _read(broker, "serve", SIE) == [b"x"]


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("refine", SUBJECT),
        ("refine", SOURCE.position_subject),
        ("serve", SUBJECT),
        ("serve", SIE_DEDUPLICATED),
        ("serve", SOURCE.position_subject),
        ("ingest", SIE_DEDUPLICATED),
        ("setup", SUBJECT),
        ("setup", SIE_DEDUPLICATED),
        ("backup", SUBJECT),
        ("backup", SOURCE.position_subject),
    ],
)
async def test_nobody_else_writes(broker: Broker, user: str, subject: str) -> None:
    with pytest.raises(Unavailable):
        await _put(broker, user, subject)
    async with broker.link("setup") as link:
        assert [(await link.state(stream)).last for stream in (RAW, SIE, POSITION)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("user", "stream"),
    [("serve", RAW), ("ingest", RAW), ("setup", RAW), ("ingest", SIE), ("refine", SIE), ("setup", SIE)],
)
async def test_nobody_else_reads(broker: Broker, user: str, stream: str) -> None:
    await _put(broker, "ingest", SUBJECT)
    await _put(broker, "refine", SIE_DEDUPLICATED)
    assert await _read(broker, user, stream) == []


async def _last(link: Link, stream: str, subject: str) -> None:
    await link.last_message(stream, subject)


@pytest.mark.parametrize(
    ("user", "stream", "subject"),
    [("serve", RAW, SUBJECT), ("ingest", SIE, SIE_DEDUPLICATED), ("refine", RAW, SUBJECT)],
)
async def test_nobody_else_asks_for_the_last_message(
    broker: Broker, user: str, stream: str, subject: str
) -> None:
    await _put(broker, "ingest", SUBJECT)
    await _put(broker, "refine", SIE_DEDUPLICATED)
    async with broker.link(user) as link:
        with pytest.raises(Unavailable):
            await _last(link, stream, subject)


async def test_a_push_consumer_cannot_carry_raw_to_serve(broker: Broker) -> None:
    """A consumer of SIE cannot be asked for RAW, and one of RAW cannot be made."""
    await _put(broker, "ingest", SUBJECT)
    async with broker.link("serve") as link:
        inbox = link.client.new_inbox()
        subscription = await link.client.subscribe(inbox)
        config = ConsumerConfig(name="sneak", deliver_subject=inbox, deliver_policy=DeliverPolicy.ALL)
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await link.jetstream.add_consumer(RAW, config)
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await subscription.next_msg(timeout=0.3)


@pytest.mark.parametrize("user", [user.name for user in USERS])
async def test_nobody_hears_another_s_inbox_or_raw_as_it_passes(broker: Broker, user: str) -> None:
    async with broker.link(user) as link:
        heard = []
        for pattern in (">", "raw.>", "_INBOX_refine.>" if user != "refine" else "_INBOX_ingest.>"):
            subscription = await link.client.subscribe(pattern)
            await _put(broker, "ingest", SUBJECT)
            with pytest.raises((nats.errors.Error, TimeoutError)):
                heard.append(await subscription.next_msg(timeout=0.2))
        assert heard == []


async def test_without_a_password_there_is_no_connection(broker: Broker) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(broker.url.rsplit(":", 1)[1]))
    writer.write(b'CONNECT {"verbose":false}\r\nSUB raw.> 1\r\n')
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b"Authorization Violation" in answer


def test_a_missing_or_unsafe_password_is_named(tmp_path: Path) -> None:
    passwords = {user.name: "a-password-of-the-tests" for user in USERS}
    with pytest.raises(ValueError, match="no password for the NATS user serve"):
        render("nats://127.0.0.1:4222", tmp_path, {k: v for k, v in passwords.items() if k != "serve"})
    with pytest.raises(ValueError, match="of the NATS user ingest is not"):
        render("nats://127.0.0.1:4222", tmp_path, passwords | {"ingest": 'a"} # injected password'})


def test_writes_reach_the_disk_before_they_are_acknowledged(tmp_path: Path) -> None:
    text = render(
        "nats://[::1]:4333", tmp_path, {user.name: "a-password-of-the-tests" for user in USERS}, 1 << 30
    )
    assert "sync_interval: always" in text
    assert 'listen: "[::1]:4333"' in text
    assert "max_file_store: 1073741824" in text
