"""One line per event on standard error: when, which program, how bad, a sentence.

    2026-11-21T17:48:50.123Z agent warning: refused by wss://198.51.100.10:8443: sensor ns1 of isp_a is
    revoked

What never stands in a line: a domain name that was looked up, an address of a client, a key.
"""

import json
import logging
import sys
from datetime import UTC, datetime


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        line = f"{time}.{record.msecs:03.0f}Z agent {record.levelname.lower()}: {record.getMessage()}"
        if record.exc_info:
            line += f" traceback={json.dumps(self.formatException(record.exc_info))}"
        return line.replace("\r", "\\r").replace("\n", "\\n")


def configure(level: int = logging.INFO) -> None:
    """Send every log line of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The library tells of every connection that opens or fails; the uplink says it once, with the reason.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
