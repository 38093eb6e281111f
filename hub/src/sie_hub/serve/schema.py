"""The store's tables, and opening a store.

Both tables hold observations merged by their sorting key: the earliest `time_first`, the latest `time_last`,
the sum of `count`. They merge in the background, so every query merges again what is not merged yet. A
partition is a week (Monday 00:00 UTC to Sunday) and is dropped whole when the last day that it can hold has
passed retention.

Octets reach the tables as hexadecimal digits, in columns that exist for the length of an insert alone
(EPHEMERAL), so that nothing a stranger put into a name is ever part of a statement.
"""

from pathlib import Path
from typing import Final

from sie_hub.serve.engine import Connection, Engine
from sie_hub.serve.errors import StoreUnusable
from sie_hub.serve.row_binary import Reader

VERSION: Final = 2

INDEX_GRANULARITY: Final = 1024
"""Rows per index mark: a look-up reads at least one such granule per part. At 1,000 million rows and some 50
octets per mark the index takes 10^9 / 1024 x 50 = 49 MB."""

WEEK: Final = "toMonday(toDateTime(time_last, 'UTC'))"
"""The partition of a row. Merging never moves a row to another: the latest of times of one week is of that
week."""

_MERGED: Final = """
    count SimpleAggregateFunction(sum, UInt64),
    time_first SimpleAggregateFunction(min, UInt32),
    time_last SimpleAggregateFunction(max, UInt32)"""

_SETTINGS: Final = f"""
    index_granularity = {INDEX_GRANULARITY},
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1"""

_STATEMENTS: Final = (
    "CREATE DATABASE IF NOT EXISTS sie ENGINE = Atomic",
    "CREATE TABLE IF NOT EXISTS sie.version (version UInt32) ENGINE = MergeTree ORDER BY version",
    f"""CREATE TABLE IF NOT EXISTS sie.rrset (
    owner_hex String EPHEMERAL,
    bailiwick_hex String EPHEMERAL,
    rdata_hex Array(String) EPHEMERAL,
    name_hex String EPHEMERAL,
    owner String DEFAULT unhex(owner_hex) COMMENT 'wire form, labels reversed',
    rrtype UInt16,
    bailiwick String DEFAULT unhex(bailiwick_hex) COMMENT 'wire form',
    rdata Array(String) DEFAULT arrayMap(octets -> unhex(octets), rdata_hex) COMMENT 'wire form, sorted',
    name String DEFAULT unhex(name_hex) COMMENT 'the owner in wire form, for right-hand wildcards',{_MERGED}
) ENGINE = AggregatingMergeTree PARTITION BY {WEEK} ORDER BY (owner, rrtype, bailiwick, rdata)
SETTINGS {_SETTINGS}""",
    f"""CREATE TABLE IF NOT EXISTS sie.rdata (
    key_hex String EPHEMERAL,
    owner_hex String EPHEMERAL,
    rdata_hex String EPHEMERAL,
    kind UInt8 COMMENT '1 address, 2 name, 3 raw',
    key String DEFAULT unhex(key_hex) COMMENT 'address as 16 octets; name with labels reversed; rdata',
    rrtype UInt16,
    owner String DEFAULT unhex(owner_hex) COMMENT 'wire form, labels reversed',
    rdata String DEFAULT unhex(rdata_hex) COMMENT 'wire form',{_MERGED}
) ENGINE = AggregatingMergeTree PARTITION BY {WEEK} ORDER BY (kind, key, rrtype, owner, rdata)
SETTINGS {_SETTINGS}""",
    """CREATE TABLE IF NOT EXISTS sie.position (
    stream String COMMENT 'when the SIE stream was made: another one starts again at 1',
    sequence UInt64,
    step UInt64 COMMENT 'counts the positions written; the greatest of a stream holds',
    blocks Map(String, UInt64) COMMENT 'the highest block number of each table/week then'
) ENGINE = ReplacingMergeTree(step) ORDER BY stream
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1""",
)

PARTITIONED: Final = ("rrset", "rdata")


def open_store(directory: Path) -> Engine:
    """Open the store in a directory, making it if there is none.

    Raises StoreUnusable when the directory cannot be opened or holds a store of another version.
    """
    engine = Engine(directory)
    try:
        _prepare(engine.connection(), directory)
    except BaseException:
        engine.close()
        raise
    return engine


def _prepare(connection: Connection, directory: Path) -> None:
    for statement in _STATEMENTS:
        connection.execute(statement)
    found = Reader(connection.execute("SELECT max(version) FROM sie.version")).number(4)
    if found == 0:
        # The version is written last, so that a store whose making was interrupted is made to its end.
        connection.execute("INSERT INTO sie.version SELECT {version:UInt32}", {"version": VERSION})
    elif found != VERSION:
        raise StoreUnusable(
            f"{directory}: a store of version {found}, and this program works with version {VERSION}: "
            "install the release that made it, or move the store away and let the SIE stream fill a new one"
        )
