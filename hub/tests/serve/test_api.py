"""The query API over HTTP: statuses, framing, keys, limits, and what the log does not say."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry

import sie_hub.serve.api
from sie_core.settings import ConfigError
from sie_hub import log
from sie_hub.config import load_config
from sie_hub.garbage import counted_garbage
from sie_hub.registry import Registry, sha256_hex
from sie_hub.serve import query_pool
from sie_hub.serve.api import Api
from sie_hub.serve.doors import Doors
from sie_hub.serve.engine import Connection, Engine
from sie_hub.serve.errors import StoreError
from sie_hub.serve.metrics import Metrics
from sie_hub.serve.query_pool import MAX_QUERIES, MAX_QUERIES_OF_READER, QueryPool

from ..broker import free_port
from ..conftest import Pki
from .samples import Sample

QUIET = logging.getLogger("quiet")
KEY = "k" * 43
LAPSED_KEY = "l" * 43
PREFIX = "/dnsdb/v2"


class Serve:
    """A serve without the stream: its API on loopback, and its counts."""

    def __init__(self, url: str, metrics: CollectorRegistry, pool: QueryPool) -> None:
        self.url = url
        self.pool = pool
        self._metrics = metrics

    def count(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self._metrics.get_sample_value(name, labels) or 0.0

    async def get(self, path: str, *, key: str | None = KEY, **headers: str) -> tuple[int, str, Any]:
        """Ask. Returns status, body and headers. The path goes out as it is given."""
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
        if key is not None:
            lines.append(f"X-Api-Key: {key}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        raw = await reader.read()
        writer.close()
        head, _, body = raw.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        if found.get("transfer-encoding") == "chunked":
            body = _unchunked(body)
        return int(status.split()[1]), body.decode(), found

    async def lines(self, path: str) -> list[dict[str, Any]]:
        """The lines of an answer."""
        status, body, _ = await self.get(PREFIX + path)
        assert status == 200, body
        return [json.loads(line) for line in body.splitlines()]


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        whole += rest[:length]
        body = rest[length + 2 :]
    return whole


def write_registry(directory: Path) -> None:
    def reader(key: str) -> dict[str, Any]:
        return {"keys": [{"id": "k1", "sha256": sha256_hex(key), "created": "2026-01-01T00:00:00Z"}]}

    directory.mkdir()
    for participant, key, agreement in (
        ("isp_a", KEY, {"signed": "2026-01-01", "term_days": 365, "renews": True}),
        ("uni_b", LAPSED_KEY, {"signed": "2020-01-01", "term_days": 1, "renews": False}),
    ):
        document = {"participant": participant, "agreement": agreement, "readers": {"analyst": reader(key)}}
        (directory / f"{participant}.yml").write_text(yaml.safe_dump(document))


@asynccontextmanager
async def serving(store: Engine, directory: Path, keepalive: float = 5.0) -> AsyncIterator[Serve]:
    metrics = CollectorRegistry()
    pool = QueryPool(store, keepalive)
    counting = Metrics(metrics)
    runner = web.ServerRunner(Api(pool, Registry(directory), counting).server(QUIET), shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        with counted_garbage(QUIET, lambda: counting.count_request("not_http"), nothing_else=True):
            yield Serve(f"http://{host}:{port}", metrics, pool)
    finally:
        await runner.cleanup()
        await pool.close()


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    write_registry(tmp_path / "participants")
    return tmp_path / "participants"


@pytest.fixture
async def api(store: Engine, content: list[Sample], registry: Path) -> AsyncIterator[Serve]:
    async with serving(store, registry) as found:
        yield found


async def test_an_answer_begins_and_ends_as_the_clients_need(api: Serve) -> None:
    status, body, headers = await api.get(f"{PREFIX}/lookup/rrset/name/www.example?swclient=x&version=1")
    assert status == 200
    assert headers["content-type"] == "application/x-ndjson"
    assert "content-encoding" not in headers
    assert body.endswith("\n")
    assert "\n\n" not in body
    begin, *data, end = map(json.loads, body.splitlines())
    assert (begin, end) == ({"cond": "begin"}, {"cond": "succeeded"})
    assert [list(line["obj"]) for line in data] == 2 * [
        ["count", "time_first", "time_last", "rrname", "rrtype", "bailiwick", "rdata"]
    ]
    assert api.count("sie_hub_serve_answers_total", ending="succeeded") == 1
    assert api.count("sie_hub_serve_answered_rows_total") == 2


async def test_no_rows_are_a_success(api: Serve) -> None:
    assert await api.lines("/lookup/rrset/name/nowhere.example") == [{"cond": "begin"}, {"cond": "succeeded"}]
    assert await api.lines("/summarize/rdata/ip/192.0.2.99") == [{"cond": "begin"}, {"cond": "succeeded"}]


async def test_limited_only_if_more_exist(api: Serve) -> None:
    whole = await api.lines("/lookup/rrset/name/*.example")
    rows = len(whole) - 2
    assert (await api.lines(f"/lookup/rrset/name/*.example?limit={rows}"))[-1] == {"cond": "succeeded"}
    cut = await api.lines(f"/lookup/rrset/name/*.example?limit={rows - 1}")
    assert cut[-1] == {"cond": "limited", "msg": "Result limit reached"}
    assert cut[1:-1] == whole[1:rows]


async def test_people_can_have_times_that_they_read(api: Serve) -> None:
    row = (await api.lines("/lookup/rrset/name/www.example/A?humantime=t"))[1]["obj"]
    assert row["time_last"].endswith("Z")
    assert "T" in row["time_first"]


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/dnsdb/v2/ping", None, 200),
        ("/dnsdb/v2/rate_limit", KEY, 200),
        ("//dnsdb/v2/rate_limit", KEY, 200),
        ("//dnsdb/v2/lookup/rrset/name/www.example", KEY, 200),
        ("/dnsdb/v2/lookup/rrset/name/.?x=1", KEY, 200),
        ("/dnsdb/v2/lookup/rrset/name/0%2F25.2.0.192.in-addr.arpa", KEY, 200),
        ("/dnsdb/v2/rate_limit", None, 403),
        ("/dnsdb/v2/rate_limit", "wrong", 403),
        ("/dnsdb/v2/lookup/rrset/name/x", None, 403),
        ("/dnsdb/v2/lookup/rrset/name/x", LAPSED_KEY, 403),
        ("/dnsdb/v2/lookup/rrset/name/x/NONSENSE", KEY, 400),
        ("/dnsdb/v2/lookup/nonsense", KEY, 400),
        ("/dnsdb/v2/lookup/rrset/name/x?limit=x", KEY, 400),
        ("/dnsdb/v2/lookup/rrset/name/x?offset=99999999", KEY, 416),
        ("/dnsdb/v2/summarize/rrset/name/x?offset=1", KEY, 416),
        ("/", None, 404),
        ("/dnsdb/v2", KEY, 404),
        ("/dnsdb/v2/regex/rrnames/x", KEY, 404),
        ("/lookup/rrset/name/x", KEY, 404),
        ("/dnsdb/v2/lookup/../../../etc/passwd", KEY, 400),
        ("http://elsewhere.example/dnsdb/v2/ping", None, 404),
    ],
)
async def test_statuses(api: Serve, path: str, key: str | None, status: int) -> None:
    found, body, _ = await api.get(path, key=key)
    assert found == status
    assert body.endswith("\n")
    if status != 200:
        assert body.startswith("Error: ")
        assert body.count("\n") == 1
    assert api.count("sie_hub_serve_requests_total", outcome=f"status_{status}") == 1


async def test_what_the_reader_accepts(api: Serve) -> None:
    for accept in ("application/x-ndjson", "*/*", "application/json", "text/html, */*;q=0.1"):
        assert (await api.get(f"{PREFIX}/rate_limit", Accept=accept))[0] == 200
    status, body, _ = await api.get(f"{PREFIX}/rate_limit", Accept="text/html")
    assert (status, body[:6]) == (415, "Error:")


async def test_other_methods_are_refused(api: Serve) -> None:
    async with aiohttp.ClientSession() as session:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            async with session.request(method, f"{api.url}{PREFIX}/ping") as answer:
                assert answer.status == 405
                assert (await answer.text()).startswith("Error: ")


async def test_when_a_key_was_used_last_is_shown_by_its_name(api: Serve) -> None:
    """Retiring the older of two keys rests on it; a key that opens nothing leaves no trace here."""
    began = time.time()
    metric = "sie_hub_serve_reader_key_used_at_seconds"
    named = {"participant": "isp_a", "reader": "analyst", "key": "k1"}
    of_another = {**named, "participant": "uni_b"}
    assert (await api.get(f"{PREFIX}/rate_limit", key="not-a-key"))[0] == 403
    assert (await api.get(f"{PREFIX}/rate_limit", key=LAPSED_KEY))[0] == 403
    assert (api.count(metric, **named), api.count(metric, **of_another)) == (0, 0)
    assert (await api.get(f"{PREFIX}/rate_limit"))[0] == 200
    assert began <= api.count(metric, **named) <= time.time()
    assert api.count(metric, **of_another) == 0


async def test_the_rate_is_unlimited_in_the_clients_words(api: Serve) -> None:
    _, body, headers = await api.get(f"{PREFIX}/rate_limit")
    rate = json.loads(body)["rate"]
    assert (rate["limit"], rate["remaining"], rate["reset"]) == ("unlimited", "n/a", "n/a")
    assert all(isinstance(rate[name], int) for name in ("results_max", "offset_max"))
    assert headers["x-ratelimit-limit"] == "unlimited"


async def test_a_revoked_key_stops_working_when_the_registry_changes(
    store: Engine, content: list[Sample], registry: Path
) -> None:
    reading = Registry(registry)
    pool = QueryPool(store)
    api = Api(pool, reading, Metrics(CollectorRegistry()))
    runner = web.ServerRunner(api.server(QUIET))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    serve = Serve("http://{}:{}".format(*runner.addresses[0][:2]), CollectorRegistry(), pool)
    assert (await serve.get(f"{PREFIX}/rate_limit"))[0] == 200
    (registry / "isp_a.yml").unlink()
    reading.reload()
    assert (await serve.get(f"{PREFIX}/rate_limit"))[0] == 403
    await runner.cleanup()
    await pool.close()


class Gate:
    """Holds every query in the database until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()
        stream = Connection.stream

        def held(connection: Connection, sql: str, parameters: Any) -> Iterator[bytes]:
            self.entered.release()
            assert self._open.wait(30)
            yield from stream(connection, sql, parameters)

        monkeypatch.setattr(Connection, "stream", held)

    def open(self) -> None:
        self._open.set()


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in threads and in counters
            await asyncio.sleep(0.01)


async def test_too_many_queries_of_one_reader_get_503_and_the_others_their_answers(
    api: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    path = f"{PREFIX}/lookup/rrset/name/www.example"
    waiting = [asyncio.create_task(api.get(path)) for _ in range(MAX_QUERIES_OF_READER)]
    await until(lambda: api.pool.active == MAX_QUERIES_OF_READER)
    status, body, _ = await api.get(path)
    assert (status, body) == (
        503,
        "Error: too many concurrent connections; try again when others have been answered\n",
    )
    gate.open()
    assert {answer[0] for answer in await asyncio.gather(*waiting)} == {200}
    await until(lambda: api.pool.active == 0)
    assert (await api.get(path))[0] == 200


async def test_all_readers_together_are_bounded_too(api: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_pool, "MAX_QUERIES", 2)
    gate = Gate(monkeypatch)
    path = f"{PREFIX}/lookup/rrset/name/www.example"
    waiting = [asyncio.create_task(api.get(path)) for _ in range(2)]
    await until(lambda: api.pool.active == 2)
    assert (await api.get(path))[0] == 503
    gate.open()
    await asyncio.gather(*waiting)
    assert MAX_QUERIES > MAX_QUERIES_OF_READER > 10


async def test_a_slow_query_is_kept_alive(
    store: Engine, content: list[Sample], registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store, registry, keepalive=0.02) as serve:
        gate = Gate(monkeypatch)
        asking = asyncio.create_task(serve.lines("/lookup/rrset/name/www.example/A"))
        await asyncio.to_thread(gate.entered.acquire)
        await asyncio.sleep(0.1)
        gate.open()
        lines = await asking
    assert lines[0] == {"cond": "begin"}
    assert lines.count({"cond": "ongoing"}) >= 2
    assert [line for line in lines if "obj" in line]
    assert lines[-1] == {"cond": "succeeded"}


async def test_a_reader_that_leaves_frees_its_query(
    store: Engine, content: list[Sample], registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store, registry, keepalive=0.02) as serve:
        gate = Gate(monkeypatch)
        host, port = serve.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        request = f"GET {PREFIX}/lookup/rrset/name/x HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n\r\n"
        writer.write(request.encode())
        await asyncio.to_thread(gate.entered.acquire)
        writer.transport.abort()
        await until(lambda: serve.count("sie_hub_serve_answers_total", ending="abandoned") == 1)
        assert serve.pool.active == 1, "the database still works on it"
        gate.open()
        await until(lambda: serve.pool.active == 0)


async def test_a_reader_that_does_not_read_is_cut_off_and_frees_its_query(
    store: Engine, content: list[Sample], registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sie_hub.serve.api.WRITE_TIMEOUT", 0.3)
    stream = Connection.stream

    def endless(connection: Connection, sql: str, parameters: Any) -> Iterator[bytes]:
        block = b"".join(stream(connection, sql, parameters))
        while True:
            yield 100 * block

    monkeypatch.setattr(Connection, "stream", endless)
    async with serving(store, registry) as serve:
        host, port = serve.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as silent:
            path = f"{PREFIX}/lookup/rrset/name/www.example?limit=0"
            silent.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n\r\n".encode())
            await until(lambda: serve.count("sie_hub_serve_answers_total", ending="stalled") == 1)
            await until(lambda: serve.pool.active == 0)


async def test_a_slow_reader_gets_everything(
    store: Engine, content: list[Sample], registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large block is no reason to cut off who reads it in pieces."""
    monkeypatch.setattr("sie_hub.serve.api.WRITE_OCTETS", 100)
    async with serving(store, registry) as serve:
        lines = await serve.lines("/lookup/rrset/name/*.example")
    assert len(lines) > 10
    assert lines[-1] == {"cond": "succeeded"}


@pytest.mark.parametrize("rows_before", [0, 1])
async def test_a_failing_database_says_so(
    api: Serve, monkeypatch: pytest.MonkeyPatch, rows_before: int, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Connection.stream

    def failing(connection: Connection, sql: str, parameters: Any) -> Iterator[bytes]:
        if rows_before:
            yield next(stream(connection, sql, parameters))
        raise StoreError("Code: 241. DB::Exception: secret.example. (MEMORY_LIMIT_EXCEEDED)")

    monkeypatch.setattr(Connection, "stream", failing)
    with caplog.at_level(logging.INFO):
        status, body, _ = await api.get(f"{PREFIX}/lookup/rrset/name/www.example")
    if rows_before:
        assert status == 200
        assert json.loads(body.splitlines()[-1])["cond"] == "failed"
        assert '"obj"' in body
    else:
        assert (status, body.count("\n")) == (500, 1)
    assert api.count("sie_hub_serve_store_failures_total", purpose="query") == 1
    assert "secret" not in body + caplog.text
    assert "MEMORY_LIMIT_EXCEEDED" in str([record.__dict__.get("fields") for record in caplog.records])


async def test_a_mistake_of_the_program_is_logged_by_its_place_alone(
    api: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("secret.example.")

    monkeypatch.setattr(sie_hub.serve.api, "statement", mistaken)
    with caplog.at_level(logging.INFO):
        status, body, _ = await api.get(f"{PREFIX}/lookup/rrset/name/www.example")
    assert status == 500
    assert body.splitlines()[0]
    said = str([record.__dict__ for record in caplog.records])
    assert "KeyError" in said
    assert "test_api.py:" in said
    assert "secret" not in said + body
    assert api.count("sie_hub_serve_requests_total", outcome="status_500") == 1


async def test_a_large_answer_streams_in_bounded_memory(api: Serve, store: Engine) -> None:
    """A hundred thousand rows come whole, in order, and through blocks."""
    store.connection().execute(
        "INSERT INTO sie.rrset (owner, rrtype, bailiwick, rdata, name, count, time_first, time_last) "
        "SELECT unhex(concat('0462756c6b06', hex(leftPad(toString(number), 6, '0')), '00')), 1, unhex('00'), "
        "[unhex('cb007101')], unhex('00'), 1, 1790000000, 1790000000 FROM numbers(100000)"
    )
    lines = await api.lines("/lookup/rrset/name/*.bulk?limit=0")
    names = [line["obj"]["rrname"] for line in lines[1:-1]]
    assert names == [f"{number:06}.bulk." for number in range(100_000)]


async def test_a_connection_without_a_request_is_closed(
    store: Engine, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sie_hub.serve.api.IDLE_TIMEOUT", 0.2)
    async with serving(store, registry) as serve:
        host, port = serve.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_key_that_is_no_text_is_unknown(store: Engine, registry: Path) -> None:
    async with serving(store, registry) as serve:
        host, port = serve.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {PREFIX}/rate_limit HTTP/1.1\r\nHost: {host}\r\nX-API-Key: ".encode())
        writer.write(b"\xff\xfe\r\nConnection: close\r\n\r\n")
        assert b" 403 " in (await reader.read()).splitlines()[0]
        writer.close()


async def test_the_log_never_says_what_was_asked_nor_the_key(
    store: Engine, content: list[Sample], registry: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    log.configure("serve")
    try:
        async with serving(store, registry) as serve:
            for path in (
                "/lookup/rrset/name/secret-name.example/A/secret-zone.example?id=secret:id",
                "/lookup/rrset/name/secret-name..example",
                "/lookup/rdata/ip/203.0.113.80?limit=secret",
                "/secret-path",
            ):
                await serve.get(PREFIX + path)
            await serve.get(f"{PREFIX}/rate_limit", key="secret-key")
            host, port = serve.url.removeprefix("http://").split(":")
            for garbage in (b"GET /secret-raw HTTP/9.9\r\n\r\n", b"\x16secret\r\n\r\n", b"secret\r\n\r\n"):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(garbage)
                writer.write_eof()
                await reader.read()
                writer.close()
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    assert serve.count("sie_hub_serve_requests_total", outcome="not_http") == 3
    said = capfd.readouterr().err
    assert said.count(" request status=") == 5
    assert "reader=isp_a/analyst" in said
    for word in ("secret", "203.0.113.80", "rrset", "lookup", "dnsdb", KEY, sha256_hex(KEY)):
        assert word not in said


# ---- the doors
# --------------------------------------------------------------------------------------------------


def write_config(directory: Path, **serve: Any) -> Path:
    path = directory / "hub.yml"
    path.write_text(yaml.safe_dump({"exchange": "lab.example", "serve": serve}))
    return path


def test_an_exposed_address_without_tls_is_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path, listen=["127.0.0.1:8445", "192.0.2.1:8445"])
    with pytest.raises(ConfigError, match=r"serve\.listen: 192\.0\.2\.1:8445 is not loopback"):
        load_config(path)


async def test_https_with_a_certificate(
    store: Engine, content: list[Sample], registry: Path, pki: Pki
) -> None:
    port = free_port()
    held = pki.server()
    config = load_config(
        write_config(
            pki.directory, listen=[f"127.0.0.1:{port}"], certificate=str(held.certificate), key=str(held.key)
        )
    )
    collected = CollectorRegistry()
    metrics = Metrics(collected)
    pool = QueryPool(store)
    doors = Doors(config, Api(pool, Registry(registry), metrics), metrics)
    await doors.open()
    try:
        assert doors.addresses == (f"https://127.0.0.1:{port}",)
        async with aiohttp.ClientSession(headers={"X-API-Key": KEY}) as session:
            url = f"https://localhost:{port}{PREFIX}/lookup/rrset/name/www.example"
            async with session.get(url, ssl=pki.client_context()) as answer:
                assert answer.status == 200
                assert (await answer.text()).endswith('{"cond":"succeeded"}\n')
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(b"GET /dnsdb/v2/ping HTTP/1.1\r\n\r\n")
            assert b"HTTP/1.1 200" not in await asyncio.to_thread(plain.recv, 1000)
        await until(
            lambda: (
                collected.get_sample_value("sie_hub_serve_requests_total", {"outcome": "tls_plain_http"}) == 1
            )
        )
    finally:
        await doors.close()
        await pool.close()
