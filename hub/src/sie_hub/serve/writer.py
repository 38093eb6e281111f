"""Writing to the store, so that every SIE message is in it exactly once.

One message is one insert per table, and then the new position. A process that dies anywhere between begins
again at the position, and leaves out the weeks that its predecessor had inserted already.
"""

import logging
import re
from collections.abc import Sequence
from typing import Final

from sie_hub import log
from sie_hub.serve.admission import RDATA_COLUMNS, RRSET_COLUMNS, Admitted, admit, is_over
from sie_hub.serve.engine import Connection
from sie_hub.serve.errors import StoreError
from sie_hub.serve.position import Position
from sie_hub.serve.row_binary import Reader
from sie_hub.serve.schema import PARTITIONED

ONE_BLOCK: Final = "input_format_parallel_parsing = 0, max_insert_block_size = 1000000000"
"""A block becomes one part per week. One message must be one block, so that a week has all of its rows or
none: 10^9 rows are more than the some 400,000 that fit into a message of 8 MiB."""

PARTITION_ID: Final = re.compile(r"[0-9]{8}")

_log = logging.getLogger(__name__)


class Writer:
    """The only writer of a store. Every method blocks and may raise StoreError; after one, the same call can
    be made again."""

    def __init__(self, connection: Connection, retention_days: int) -> None:
        self._connection = connection
        self._position = Position(connection)
        self._retention_days = retention_days

    def position(self, stream: str) -> int:
        """The sequence of the last message of a stream that is in the store, 0 for none.

        `stream` is the stream's identity: the time at which nats-server made it.
        """
        return self._position.sequence(stream)

    def write(self, stream: str, sequence: int, records: Sequence[Sequence[object]], now: int) -> Admitted:
        """Put a message's records into the store and move the position to it. Returns what became of them.

        A message that is not after the position is in the store already, and nothing is written.
        """
        try:
            if sequence <= self._position.sequence(stream):
                return admit(records, now=now, retention_days=self._retention_days)
            landed = self._position.landed(stream)
            admitted = admit(records, now=now, retention_days=self._retention_days, landed=landed)
            self._insert("rrset", RRSET_COLUMNS, admitted.rrset)
            self._insert("rdata", RDATA_COLUMNS, admitted.rdata)
            self._position.move(stream, sequence)
        except StoreError:
            self._position.doubt()
            raise
        return admitted

    def expire(self, now: int) -> dict[str, int]:
        """Drop every week that is over retention. Returns the rows dropped, per table."""
        dropped = dict.fromkeys(PARTITIONED, 0)
        for table in PARTITIONED:
            for partition, monday, rows in self._weeks(table):
                if is_over(monday, now=now, retention_days=self._retention_days):
                    if PARTITION_ID.fullmatch(partition) is None:
                        raise AssertionError(f"partition {partition!r} of {table} is not named for a day")
                    self._connection.execute(f"ALTER TABLE sie.{table} DROP PARTITION ID '{partition}'")
                    dropped[table] += rows
                    log.event(_log, logging.INFO, "week dropped", table=table, week=partition, rows=rows)
        return dropped

    def rows(self) -> dict[str, int]:
        """How many rows each table has on disk, parts that are not merged yet included."""
        return {table: sum(rows for _, _, rows in self._weeks(table)) for table in PARTITIONED}

    def _weeks(self, table: str) -> list[tuple[str, int, int]]:
        """Each partition's id, its Monday in seconds UTC, and its rows."""
        reader = Reader(
            self._connection.execute(
                "SELECT partition_id, toUInt64(toUnixTimestamp(toDateTime(toDate(partition), 'UTC'))), "
                "sum(rows) FROM system.parts WHERE database = 'sie' AND table = {table:String} AND active "
                "GROUP BY partition_id, partition ORDER BY partition_id",
                {"table": table},
            )
        )
        weeks = []
        while not reader.at_end:
            weeks.append((reader.string().decode(), reader.number(8), reader.number(8)))
        return weeks

    def _insert(self, table: str, columns: str, rows: bytes) -> None:
        if rows:
            self._connection.insert(
                f"INSERT INTO sie.{table} ({columns}) SETTINGS {ONE_BLOCK} FORMAT TabSeparated", rows
            )
