"""Counting what reaches an HTTP port over TLS and is no HTTP.

aiohttp answers it with status 400, closes the connection and tells nobody but its log; so its log is
where it is counted. The log's line is kept, shortened to one sentence without the octets that were sent, as
often as the log can bear.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp.http_exceptions import HttpProcessingError

from sie_hub import log

_log = logging.getLogger(__name__)


@contextmanager
def counted_garbage(
    logger: logging.Logger, count: Callable[[], None], *, nothing_else: bool = False
) -> Iterator[None]:
    """Call `count` for each request that is no HTTP, of servers that log to `logger`
    (`web.AppRunner(logger=…)`). With `nothing_else` all that aiohttp logs besides is dropped, since it may
    quote a request."""

    limited = log.Limited(_log, "requests that are no HTTP")

    def look(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return not nothing_else and record.levelno >= logging.WARNING
        count()
        record.msg = "a request that is no HTTP from %s"
        record.exc_info = None
        record.levelno = logging.WARNING
        record.levelname = logging.getLevelName(logging.WARNING)
        return limited.allows()

    # aiohttp logs a request whose very method is garbage at DEBUG.
    logger.setLevel(logging.DEBUG)
    logger.addFilter(look)
    try:
        yield
    finally:
        logger.removeFilter(look)
