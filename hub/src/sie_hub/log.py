"""One line per event on standard error: when, which unit, how bad, a sentence, and fields.

    2026-11-21T17:48:50.123Z ingest info: session opened participant=isp_a sensor=ns1 session=17

What never stands in a line: a domain name, a query, a payload, a key. Values that hold blanks or quotes are
quoted as JSON text, so that one event stays one line whatever a peer sent.
"""

import asyncio
import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/@+,\[\]-]{1,200}")
_MAX_VALUE: Final = 400  # characters of one field

BURST: Final = 20
PERIOD: Final = 60.0
"""At most BURST lines of one kind that strangers can cause are written in each PERIOD seconds: 20 of some 200
octets a minute are 6 MB a day. What they are about is counted all the same."""


class _Line(logging.Formatter):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = (
            f"{time.removesuffix('+00:00')}Z {self._unit} {record.levelname.lower()}: {record.getMessage()}"
        )
        fields: dict[str, object] = getattr(record, "fields", {})
        line += "".join(f" {name}={_value(value)}" for name, value in fields.items())
        if record.exc_info:
            line += f" traceback={json.dumps(self.formatException(record.exc_info))}"
        return line.replace("\r", "\\r").replace("\n", "\\n")


def configure(unit: str) -> None:
    """Send every log line of this process to standard error, as lines of `unit`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(unit))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # The client library reports every attempt to connect; `sie_hub.nats_link` says it once.
    logging.getLogger("nats").setLevel(logging.CRITICAL)


def event(logger: logging.Logger, level: int, sentence: str, **fields: object) -> None:
    """Log a sentence with fields; a field that is None is left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    logger.log(level, "%s", sentence, extra={"fields": given})


class Limited:
    """Lines that strangers can cause: the first ones of each period are written, then how many were not.

    To be used within a running event loop.
    """

    def __init__(self, logger: logging.Logger, kind: str) -> None:
        """`kind` names what is logged, in the plural."""
        self._logger = logger
        self._kind = kind
        self._written = 0
        self._withheld = 0

    def event(self, level: int, sentence: str, **fields: object) -> None:
        """As the function `event`, unless there were too many."""
        if self.allows():
            event(self._logger, level, sentence, **fields)

    def allows(self) -> bool:
        """Whether one more line may be written now; it is taken for written."""
        if not self._written:
            asyncio.get_running_loop().call_later(PERIOD, self._end_period)
        if self._written >= BURST:
            self._withheld += 1
            return False
        self._written += 1
        return True

    def _end_period(self) -> None:
        if self._withheld:
            sentence = (
                f"{self._withheld} more {self._kind} within {PERIOD:.0f} s that are not logged one by one"
            )
            event(self._logger, logging.WARNING, sentence)
        self._written = self._withheld = 0


def _value(value: object) -> str:
    text = str(value)[:_MAX_VALUE]
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
