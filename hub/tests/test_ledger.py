"""The ledger: what sources say of themselves beside what is stored, across sessions, crashes and restarts."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from sie_core.trampoline import LossCounter
from sie_hub.cli import main
from sie_hub.ingest.ledger import Account, Kept, Ledger, Lost
from sie_hub.ingest.store import Arrival, StreamWriter
from sie_hub.nats_link import Link
from sie_hub.registry import Registry
from sie_hub.streams import LEDGER, RAW, Source

from .broker import Broker
from .conftest import Pki
from .hub import Hub

REPORTED = {"captured": 10, "acknowledged": 6, "pending": 3, "trimmed": 1, "filtered": 4, "rejected": 2}


@pytest.fixture
async def link(broker: Broker) -> AsyncIterator[Link]:
    async with broker.link("ingest") as link:
        yield link


@pytest.fixture
def hub(tmp_path: Path, pki: Pki, broker: Broker) -> Hub:
    return Hub(tmp_path / "hub", pki, broker)


def account(reported: Mapping[str, int], stored: int) -> Account:
    return Account("isp_a", "ns1", True, Kept(1.0, reported), 1, stored)


def test_everything_that_a_sensor_saw_has_one_fate() -> None:
    agreeing = account(REPORTED, stored=6)
    assert agreeing.seen == 6 + 3 + 1 + 4 + 2
    assert (agreeing.state, agreeing.missing) == ("agrees", 0)


@pytest.mark.parametrize(
    ("reported", "stored", "state"),
    [
        (REPORTED, 9, "agrees"),  # stored, and not acknowledged yet
        (REPORTED, 5, "missing 1"),
        (REPORTED | {"captured": 11}, 6, "its own sum is wrong"),
        ({}, 6, "never reported"),
    ],
)
def test_what_does_not_agree_says_so(reported: Mapping[str, int], stored: int, state: str) -> None:
    assert account(reported, stored).state == state


async def store(link: Link, stream: str, sequences: range, channels: Callable[[int], int]) -> StreamWriter:
    """Containers of three transactions each, of which nothing is recorded in the bucket."""
    writer = StreamWriter(link, Source("isp_a", "ns1", stream), 7)
    await writer.open(frozenset({202, 203}))
    for sequence in sequences:
        await writer.store(Arrival(channels(sequence), b"data", "zstd", sequence, f"{sequence:064x}", 3))
    return writer


async def test_what_is_stored_is_counted_exactly_over_streams_channels_and_crashes(
    broker: Broker, link: Link, hub: Hub
) -> None:
    """A writer that dies before it records its position leaves nothing uncounted, nor twice counted."""
    first = "00000000000000aa"
    await store(link, first, range(1, 6), lambda sequence: 202 + sequence % 2)
    again = await store(link, first, range(4, 9), lambda _sequence: 202)
    await again.record(8)
    async with broker.administrator() as administrator:
        await administrator.jetstream.purge_stream(RAW)
    late = await store(link, first, range(9, 11), lambda _sequence: 203)
    await late.record(10)
    other = await store(link, "00000000000000bb", range(1, 3), lambda _sequence: 202)
    await other.record(2)
    (found,) = await Ledger(link).accounts(Registry(hub.registry).participants)
    assert (found.stored_containers, found.stored) == (12, 36)


async def test_a_position_below_what_is_stored_counts_no_more_than_itself(link: Link, hub: Hub) -> None:
    writer = await store(link, "00000000000000aa", range(1, 6), lambda _sequence: 202)
    await writer.record(2)
    (found,) = await Ledger(link).accounts(Registry(hub.registry).participants)
    assert (found.stored_containers, found.stored) == (2, 6)


async def test_what_was_said_outlives_the_unit(link: Link, hub: Hub) -> None:
    hub.register("isp_a", {}, uploads={"legacy": {"channels": [203], "source": 9}})
    ledger = Ledger(link)
    ledger.reported("isp_b", "gone", REPORTED, at=1_790_000_000.0)
    ledger.taken("isp_a", "legacy", 100, at=1_790_000_000.0)
    for hop in ("link", "path", "link"):
        ledger.lost("isp_a", "legacy", hop, LossCounter(50, 1))
    await ledger.write_all()
    anew = Ledger(link)
    await anew.load()
    legacy, gone = await anew.accounts(Registry(hub.registry).participants)
    assert (legacy.name, legacy.state, legacy.kept.link) == ("legacy", "unacknowledged", Lost(2, 100))
    assert legacy.as_document()["lost_before"]["path"] == {"payloads": 1, "octets": 50}
    assert (gone.name, gone.state, gone.kept.reported) == ("gone", "missing 6", REPORTED)


async def test_an_entry_that_is_none_is_as_good_as_absent(broker: Broker, link: Link, hub: Hub) -> None:
    for number, wrong in enumerate((b"", b"[]", b"{}", b'{"link": 3}')):
        await link.publish(Source("isp_a", f"ns{number}", "").ledger_subject, wrong, {})
    ledger = Ledger(link)
    await ledger.load()
    assert len(await link.subjects(LEDGER, "$KV.LEDGER.>")) == 4
    assert [found.state for found in await ledger.accounts(Registry(hub.registry).participants)] == [
        "never reported"
    ]


# --- the command ------------------------------------------------------------------------------------------


@contextmanager
def answering(hub: Hub, status: int, body: bytes) -> Iterator[None]:
    """Something that answers in the place of ingest."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ledger" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", hub.metrics["ingest"]), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


async def test_the_command_prints_a_table_or_json(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    upload = Account("isp_b", "legacy", False, Kept(1.0, containers=7), 7)
    documents = [account(REPORTED, 6).as_document(), upload.as_document()]
    with answering(hub, 200, json.dumps(documents).encode()):
        assert main(["ledger", "--config", str(hub.path)]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert lines[1] == ["isp_a/ns1", "16", "6", "3", "1", "4", "2", "6", "agrees"]
        assert lines[2] == ["isp_b/legacy", *"------", "7", "containers", "unacknowledged"]
        assert main(["ledger", "isp_b", "--json", "--config", str(hub.path)]) == 0
        assert json.loads(capsys.readouterr().out) == documents[1:]


async def test_the_command_says_what_to_do_when_there_is_no_answer(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ledger", "--config", str(hub.path)]) == 1
    assert "is sie-hub-ingest running?" in capsys.readouterr().err
    with answering(hub, 503, b"nats-server did not answer\n"):
        assert main(["ledger", "--config", str(hub.path)]) == 1
    assert capsys.readouterr().err == "ingest has no ledger now: nats-server did not answer\n"
