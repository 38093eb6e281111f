"""What every unit of the hub does alike: signals, metrics, the watchdog, exit codes."""

import asyncio
import json
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from sie_core import __version__
from sie_core.settings import ListenAddress
from sie_core.systemd import Notifier
from sie_hub import log

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1

_log = logging.getLogger(__name__)

T = TypeVar("T")


class UnitFailed(Exception):
    """The unit cannot go on; the text is one sentence for the operator. The process exits with 1."""


class PageUnavailable(Exception):
    """A page beside /metrics cannot be made now; the text says why."""


class Stopped(Exception):
    """The unit was asked to stop while it was still waiting for something it needs."""


class Unit:
    """One running unit: its metrics, its wish to stop, and its proof that it moves.

    The watchdog is fed only while `progress` keeps being called, so that a unit whose loop hangs is started
    again although its process lives.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.metrics = CollectorRegistry()
        self.pages: dict[str, Callable[[], Awaitable[Any]]] = {}
        """JSON documents beside /metrics, by name; one whose maker raises PageUnavailable answers 503."""
        self.stopping = asyncio.Event()
        self._notifier = Notifier.from_environment()
        self._moved_at = time.monotonic()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ProcessCollector(registry=self.metrics)
        Gauge("sie_hub_info", "The program's version.", ["unit", "version"], registry=self.metrics).labels(
            name, __version__
        ).set(1)

    def ready(self, status: str) -> None:
        """Tell the service manager that the unit does its work now."""
        self._notifier.ready(status)
        log.event(_log, logging.INFO, f"ready: {status}", version=__version__)

    def stop(self) -> None:
        """Ask the unit to stop."""
        self._notifier.stopping()
        self.stopping.set()

    def progress(self) -> None:
        """Say that the unit's own loop has turned once more."""
        self._moved_at = time.monotonic()

    def fail(self, sentence: str) -> None:
        """End the unit with exit code 1 and this sentence, from anywhere in it."""
        if not self._failure.done():
            self._failure.set_exception(UnitFailed(sentence))

    async def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until the unit is to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something that may take as long as it likes, feeding the watchdog. Raises Stopped."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            either: set[asyncio.Future[Any]] = {working, stopping}
            while not working.done() and not stopping.done():
                await asyncio.wait(either, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                self.progress()
            if not working.done():
                raise Stopped
            return working.result()
        finally:
            working.cancel()
            stopping.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def feed_watchdog(self) -> None:
        """Feed the watchdog while there is progress. Returns only when nobody watches."""
        interval = self._notifier.watchdog_interval
        if interval is None:
            return
        while True:
            if time.monotonic() - self._moved_at < interval:
                self._notifier.watchdog()
            await asyncio.sleep(interval / 2)

    async def run(self, body: Awaitable[None]) -> None:
        """Run the unit's body to its end, or to the first `fail`. Raises UnitFailed."""
        working = asyncio.ensure_future(body)
        try:
            await asyncio.wait({working, self._failure}, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            self._failure.cancel()


def run_unit(name: str, metrics: ListenAddress | None, body: Callable[[Unit], Awaitable[None]]) -> int:
    """Run a unit until SIGTERM or SIGINT. Returns the exit code.

    `body` gets the `Unit`, calls its `ready` and `progress`, and returns soon after `stopping` is set.
    """
    log.configure(name)
    try:
        asyncio.run(_main(name, metrics, body))
    except UnitFailed as failure:
        log.event(_log, logging.CRITICAL, str(failure))
        return EXIT_FAILURE
    return EXIT_OK


async def _main(name: str, metrics: ListenAddress | None, body: Callable[[Unit], Awaitable[None]]) -> None:
    unit = Unit(name)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, unit.stop)
    runner = await _serve_metrics(unit, metrics) if metrics is not None else None
    watchdog = asyncio.create_task(unit.feed_watchdog())
    try:
        with suppress(Stopped):
            await unit.run(body(unit))
        log.event(_log, logging.INFO, "stopped")
    finally:
        watchdog.cancel()
        await asyncio.gather(watchdog, return_exceptions=True)
        if runner is not None:
            await runner.cleanup()


async def _serve_metrics(unit: Unit, listen: ListenAddress) -> web.AppRunner:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(unit.metrics), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )

    async def answer_page(request: web.Request) -> web.Response:
        page = unit.pages.get(request.match_info["page"])
        if page is None:
            return web.Response(status=404, text="there is nothing here; /metrics is\n")
        try:
            return web.json_response(await page(), dumps=lambda document: f"{json.dumps(document)}\n")
        except PageUnavailable as unavailable:
            return web.Response(status=503, text=f"{unavailable}\n")

    application = web.Application()
    application.router.add_get("/metrics", answer)
    application.router.add_get("/{page}", answer_page)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, listen.host, listen.port).start()
    except OSError as error:
        await runner.cleanup()
        raise UnitFailed(f"cannot answer /metrics on {listen}: {error.strerror}") from None
    return runner
