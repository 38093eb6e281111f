"""The query API: DNSDB API version 2 over HTTP.

Every request ends as one count and, if a reader made it, as one line of the log; of strangers' requests only
some are logged. Neither holds what was asked, nor the key. The server beneath is aiohttp's low-level one,
without routes, because a router would decode or tidy a path before it is split.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from sie_hub import log
from sie_hub.connections import IDLE_TIMEOUT, note_request
from sie_hub.registry import Registry
from sie_hub.serve import answer
from sie_hub.serve.errors import Refused, StoreError
from sie_hub.serve.metrics import Metrics
from sie_hub.serve.query_pool import QueryPool
from sie_hub.serve.question import MAX_LIMIT, MAX_OFFSET, Question, Verb, parse_question, path_segments
from sie_hub.serve.statements import statement

KEY_HEADER: Final = "X-API-Key"
NDJSON: Final = "application/x-ndjson"
WRITE_OCTETS: Final = 64 << 10
WRITE_TIMEOUT: Final = 30.0
"""Seconds that a reader has for taking WRITE_OCTETS off the hub's hands: 2 kB a second. One that takes less
would hold a query, and of those there are few."""

ACCEPTED: Final = frozenset({"*/*", "application/*", NDJSON, "application/json"})

RATE_HEADERS: Final[Mapping[str, str]] = {
    "X-RateLimit-Limit": "unlimited",
    "X-RateLimit-Remaining": "n/a",
    "X-RateLimit-Reset": "n/a",
}
RATE: Final[Mapping[str, Any]] = {
    "rate": {
        "reset": "n/a",
        "limit": "unlimited",
        "remaining": "n/a",
        "results_max": MAX_LIMIT,
        "offset_max": MAX_OFFSET,
    }
}

_log = logging.getLogger(__name__)


class _Stalled(ConnectionError):
    """The reader does not read."""


class _Tally:
    """What one request came to, for its line of the log and its counts."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.status = 200
        self.reader: str | None = None
        self.rows = 0
        self.ending: str | None = None


class Api:
    """Answers readers' requests."""

    def __init__(self, pool: QueryPool, registry: Registry, metrics: Metrics) -> None:
        self._pool = pool
        self._registry = registry
        self._metrics = metrics
        self._unidentified = log.Limited(_log, "requests without a valid key")

    def server(self, logger: logging.Logger) -> web.Server:
        """The aiohttp server, for a runner with sites. aiohttp's own log goes to `logger`."""
        return web.Server(self.handle, access_log=None, logger=logger, keepalive_timeout=IDLE_TIMEOUT)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        note_request(request)
        tally = _Tally()
        try:
            return await self._respond(request, tally)
        except Refused as refusal:
            tally.status = refusal.status
            return _refusal(refusal.status, refusal.text)
        except StoreError as error:
            tally.status = 500
            self._metrics.store_failures.labels("query").inc()
            log.event(_log, logging.ERROR, "a query failed in the database", problem=_kind_of(error))
            return _refusal(500, "the database failed; the operator's log says more")
        except _Stalled:
            tally.ending = "stalled"
            raise
        except (ConnectionError, asyncio.CancelledError):
            tally.ending = "abandoned"
            raise
        except Exception as error:
            # A mistake of this program. Its text may hold what was asked, so the log gets its place alone.
            tally.status = 500
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{place.filename}:{place.lineno}"
            log.event(_log, logging.ERROR, "a request failed", problem=type(error).__name__, where=where)
            raise
        finally:
            self._account(tally)

    async def _respond(self, request: web.BaseRequest, tally: _Tally) -> web.StreamResponse:
        raw_path, _, raw_query = request.raw_path.partition("?")
        match path_segments(raw_path):
            case [b"dnsdb", b"v2", b"ping"]:
                _check_form(request)
                return _plain({"ping": "ok"})
            case [b"dnsdb", b"v2", b"rate_limit"]:
                _check_form(request)
                self._identify(request, tally)
                return _plain(RATE)
            case [b"dnsdb", b"v2", (b"lookup" | b"summarize") as verb, *rest]:
                _check_form(request)
                reader = self._identify(request, tally)
                question = parse_question(Verb(verb.decode()), rest, raw_query, int(time.time()))
                return await self._answer(request, reader, question, tally)
        raise Refused(
            404, "no such path; lookup, summarize, rate_limit and ping are answered below /dnsdb/v2"
        )

    def _identify(self, request: web.BaseRequest, tally: _Tally) -> str:
        """The reader whose key the request shows, as participant/reader. Raises Refused (403)."""
        key = request.headers.get(KEY_HEADER)
        if not key:
            raise Refused(403, f"an API key is needed, in the header {KEY_HEADER}")
        reader = self._registry.reader_by_key(key)
        if reader is None:
            raise Refused(403, "the API key is not valid")
        tally.reader = f"{reader.participant}/{reader.name}"
        lapsed = reader.agreement.refusal(datetime.now(UTC).date())
        if lapsed is not None:
            raise Refused(403, lapsed)
        self._metrics.key_used(reader, key)
        return tally.reader

    async def _answer(
        self, request: web.BaseRequest, reader: str, question: Question, tally: _Tally
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": NDJSON, **RATE_HEADERS})
        async with aclosing(self._lines(reader, question, tally)) as pieces:
            # Whatever is refused is refused before the first piece, while the status can still say so.
            piece = await anext(pieces)
            await response.prepare(request)
            await _write(request, response, piece)
            async for piece in pieces:
                await _write(request, response, piece)
        async with _reading(request):
            await response.write_eof()
        return response

    async def _lines(self, reader: str, question: Question, tally: _Tally) -> AsyncGenerator[bytes]:
        """The answer, framed, in pieces of whole lines. Raises Refused and StoreError before the first piece
        only."""
        rendering = answer.Summary(question) if question.verb is Verb.SUMMARIZE else answer.Rows(question)
        blocks = self._pool.blocks(reader, statement(question), rendering.add)
        begin = answer.BEGIN
        try:
            async with aclosing(blocks):
                async for lines in blocks:
                    tally.rows = rendering.rows
                    piece = begin + (answer.ONGOING if lines is None else lines)
                    if piece:
                        yield piece
                    begin = b""
                    if rendering.full:
                        break
        except StoreError as error:
            if begin:
                raise
            self._metrics.store_failures.labels("query").inc()
            log.event(_log, logging.ERROR, "a query failed in the database", problem=_kind_of(error))
            tally.ending = "failed"
            yield answer.failed("the database failed before the answer was complete")
            return
        tally.ending = "limited" if rendering.more else "succeeded"
        yield begin + rendering.end()

    def _account(self, tally: _Tally) -> None:
        seconds = time.monotonic() - tally.began
        self._metrics.count_request(f"status_{tally.status}")
        self._metrics.answered_rows.inc(tally.rows)
        self._metrics.answer_seconds.observe(seconds)
        if tally.ending is not None:
            self._metrics.answers.labels(tally.ending).inc()
        if tally.reader is not None or self._unidentified.allows():
            log.event(
                _log,
                logging.INFO,
                "request",
                status=tally.status,
                reader=tally.reader,
                rows=tally.rows,
                ending=tally.ending,
                seconds=f"{seconds:.3f}",
            )


async def _write(request: web.BaseRequest, response: web.StreamResponse, piece: bytes) -> None:
    """Write as fast as the reader reads. Raises ConnectionError when it leaves or does not read."""
    for start in range(0, len(piece), WRITE_OCTETS):
        async with _reading(request):
            await response.write(piece[start : start + WRITE_OCTETS])


@asynccontextmanager
async def _reading(request: web.BaseRequest) -> AsyncGenerator[None]:
    """Cuts the connection of a reader that takes WRITE_TIMEOUT for what is written inside."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT):
            yield
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise _Stalled from None


def _check_form(request: web.BaseRequest) -> None:
    if request.method != "GET":
        raise Refused(405, "only GET is answered")
    accept = request.headers.get("Accept")
    if accept is None:
        return
    kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
    if kinds.isdisjoint(ACCEPTED):
        raise Refused(415, f"answers are {NDJSON}, which the header Accept leaves out")


def _plain(value: Mapping[str, Any]) -> web.Response:
    return web.Response(body=answer.line(value), headers={"Content-Type": NDJSON, **RATE_HEADERS})


def _refusal(status: int, text: str) -> web.Response:
    return web.Response(
        status=status, body=f"Error: {text}\n".encode(), headers={"Content-Type": "text/plain; charset=utf-8"}
    )


def _kind_of(error: StoreError) -> str:
    """The engine's name for an error. Its whole text may hold the values of a query, so it is not logged."""
    text = str(error)
    name = text.rpartition("(")[2].rstrip(")")
    return name if name.isascii() and name.replace("_", "").isupper() else "unknown"
