"""Running readers' queries: so many at a time, in threads of their own, each as fast as its reader reads.

A query holds one of the pool's connections from its first block to its last. A thread works for it only while
a block is being fetched, so that a slow reader keeps nobody from the threads.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sie_hub.serve.engine import Connection, Engine
from sie_hub.serve.errors import Refused
from sie_hub.serve.statements import Statement

THREADS: Final = 4
"""Blocks fetched and rendered at a time: two for each core of a small hub, because fetching releases the
interpreter."""

MAX_QUERIES: Final = 32
"""Queries open at a time. Each may hold statements.QUERY_MEMORY, 256 MiB, but a look-up holds some 10 MiB."""

MAX_QUERIES_OF_READER: Final = 16
"""Queries of one reader at a time: `dnsdbq -m` sends up to 10, and `-t` with several types as many for
each."""

KEEPALIVE: Final = 5.0
"""Seconds without a row after which the reader is told that the query goes on."""

T = TypeVar("T")


class QueryPool:
    """The connections and threads for readers' queries. Use it from one event loop."""

    def __init__(self, engine: Engine, keepalive: float = KEEPALIVE) -> None:
        self._engine = engine
        self._keepalive = keepalive
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="query")
        self._idle: list[Connection] = []
        self._open: Counter[str] = Counter()
        self._releases: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> int:
        """How many queries are open."""
        return self._open.total()

    async def blocks(
        self, reader: str, statement: Statement, render: Callable[[bytes], T]
    ) -> AsyncGenerator[T | None]:
        """Run a query and yield each of its blocks as `render` (called in a thread) makes it; None each time
        that `keepalive` seconds have passed without one.

        Close the iterator (contextlib.aclosing) to end the query early. Raises Refused (503) when there is no
        room, before anything is yielded, and StoreError.
        """
        if self.active >= MAX_QUERIES or self._open[reader] >= MAX_QUERIES_OF_READER:
            raise Refused(503, "too many concurrent connections; try again when others have been answered")
        connection = self._idle.pop() if self._idle else self._engine.connection()
        rows = connection.stream(*statement)
        fetching: asyncio.Future[T | None] | None = None
        self._open[reader] += 1

        def fetch() -> T | None:
            block = next(rows, None)
            return None if block is None else render(block)

        loop = asyncio.get_running_loop()
        try:
            while True:
                fetching = loop.run_in_executor(self._threads, fetch)
                while not (await asyncio.wait({fetching}, timeout=self._keepalive))[0]:
                    yield None
                rendered = fetching.result()
                if rendered is None:
                    return
                yield rendered
        finally:
            release = loop.create_task(self._release(reader, connection, rows, fetching))
            self._releases.add(release)
            release.add_done_callback(self._releases.discard)

    async def close(self) -> None:
        """Wait for the queries that are being ended, and give the threads back. Open none afterwards."""
        while self._releases:
            await asyncio.wait(self._releases)
        self._threads.shutdown()

    async def _release(
        self,
        reader: str,
        connection: Connection,
        rows: Generator[bytes],
        fetching: asyncio.Future[T | None] | None,
    ) -> None:
        """Take a query's connection back, as soon as the engine has let go of it."""
        try:
            if fetching is not None:
                await asyncio.gather(fetching, return_exceptions=True)
            await asyncio.get_running_loop().run_in_executor(self._threads, rows.close)
            self._idle.append(connection)
        finally:
            self._open -= Counter({reader: 1})
