"""The engine takes any octets as values and none of them as SQL."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sie_hub.serve.engine import Connection, Engine
from sie_hub.serve.errors import StoreError, StoreUnusable
from sie_hub.serve.row_binary import Reader

HOSTILE = [
    "'); DROP TABLE kept; --",
    "\\'); DROP TABLE kept; --",
    "a' OR '1'='1",
    "{p0:String}",
    "x\ty\nz\r",
    "\n\nDROP TABLE kept;\n",
    "\\",
    "\\x27",
    "é\u202e\U0001f4a3",
    ";",
    "/*",
]


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    engine = Engine(tmp_path_factory.mktemp("engine"))
    connection = engine.connection()
    connection.execute(
        "CREATE TABLE kept (octets_hex String EPHEMERAL, number UInt32, octets String DEFAULT "
        "unhex(octets_hex)) ENGINE = MergeTree ORDER BY number"
    )
    yield connection
    engine.close()


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_never_sql(connection: Connection, value: str) -> None:
    octets = value.encode()
    found = connection.execute("SELECT unhex({value:String})", {"value": octets.hex()})
    assert Reader(found).string() == octets
    connection.insert(
        "INSERT INTO kept (number, octets_hex) FORMAT TabSeparated", f"1\t{octets.hex()}\n".encode()
    )
    found = connection.execute(
        "SELECT count() FROM kept WHERE octets = unhex({value:String})", {"value": octets.hex()}
    )
    assert Reader(found).number(8) == 1


@given(st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_octets_go_in_and_out_unchanged(connection: Connection, octets: bytes) -> None:
    found = connection.execute("SELECT unhex({value:String}), {n:UInt64}", {"value": octets.hex(), "n": 7})
    reader = Reader(found)
    assert (reader.string(), reader.number(8), reader.at_end) == (octets, 7, True)


@pytest.mark.parametrize("rows", [b"1\t61\n\nDROP TABLE kept;\n", b"\nDROP TABLE kept;\n"])
def test_data_with_an_empty_line_is_refused(connection: Connection, rows: bytes) -> None:
    with pytest.raises(StoreError, match="empty line"):
        connection.insert("INSERT INTO kept (number, octets_hex) FORMAT TabSeparated", rows)
    assert Reader(connection.execute("SELECT count() FROM kept")).at_end is False


def test_a_failing_statement_says_why_in_one_line(connection: Connection) -> None:
    with pytest.raises(StoreError, match="UNKNOWN_TABLE") as failure:
        connection.execute("SELECT\n1 FROM nowhere")
    assert "\n" not in str(failure.value)


def test_blocks_are_whole_rows_and_a_closed_stream_frees_its_connection(connection: Connection) -> None:
    query = "SELECT toString(number) FROM numbers({rows:UInt64}) SETTINGS max_block_size = 1000"
    seen = 0
    for block in connection.stream(query, {"rows": 25_000}):
        reader = Reader(block)
        while not reader.at_end:
            assert reader.string() == str(seen).encode()
            seen += 1
    assert seen == 25_000
    stream = connection.stream(query, {"rows": 10_000_000})
    assert len(next(stream)) > 0
    with pytest.raises(StoreError, match="still streaming"):
        connection.execute("SELECT 1")
    stream.close()
    assert connection.execute("SELECT 1") == b"\x01"


def test_a_stream_that_fails_frees_its_connection(connection: Connection) -> None:
    with pytest.raises(StoreError, match="throwIf"):
        list(connection.stream("SELECT throwIf(number = 500000) FROM numbers(1000000)"))
    assert connection.execute("SELECT 1") == b"\x01"


def test_a_stream_without_rows_has_no_blocks(connection: Connection) -> None:
    assert list(connection.stream("SELECT 1 WHERE 0")) == []


OPENER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from sie_hub.serve.engine import Engine
    engine = Engine(Path(sys.argv[1]))
    print("open", flush=True)
    sys.stdin.read()
    """
)


def test_a_second_process_is_told_that_another_has_the_store(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OPENER, str(tmp_path / "store")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StoreUnusable, match="only one process may have it open"):
            Engine(tmp_path / "store")
        other.kill()


def test_signals_stay_the_programs_own(tmp_path: Path) -> None:
    program = OPENER.replace(
        "print(", "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print("
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "store")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 7


def test_a_directory_that_cannot_be_made_is_named() -> None:
    with pytest.raises(StoreUnusable, match="/proc/nowhere: the store cannot be opened"):
        Engine(Path("/proc/nowhere"))


def test_the_engine_needs_nothing_but_itself(tmp_path: Path) -> None:
    """No pyarrow, pandas or numpy is imported: a hub is installed without them."""
    program = OPENER.replace(
        "sys.stdin.read()", "print(sorted({'pyarrow','pandas','numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        timeout=60,
    )
    assert done.stdout.splitlines() == ["open", "[]"]
