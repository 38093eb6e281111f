"""chDB, the ClickHouse engine inside this process: the one module that knows how it is loaded and called.

The engine's own extension module is loaded directly. The package around it imports pyarrow (and for other
result forms pandas and numpy) although none of them is used here; they would cost a hub 330 MB on disk and 50
MB of memory. Statements and values stay apart: a value reaches the engine as a bound parameter, never as SQL
text.

One process at a time may have a path open. Inside it, many connections may be used by many threads, each by
one thread at a time.
"""

import ctypes
import functools
import importlib.util
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from sie_hub.serve.errors import StoreError, StoreUnusable

Parameters = Mapping[str, str | int]

EXTENSION: Final = "_chdb.abi3.so"
RTLD_DEEPBIND: Final = 0x00008  # <dlfcn.h>: let the engine find its own allocator before a global one

NO_PARAMETERS: Final[Parameters] = {}


class Engine:
    """The database in a directory. Closing it closes every connection made from it."""

    def __init__(self, directory: Path) -> None:
        """Open the directory, making it if it is missing.

        Raises StoreUnusable when it cannot be opened: no permission, or another process has it open.
        """
        if "?" in str(directory):
            raise StoreUnusable(f"{directory}: the store's path may not contain a question mark")
        self.directory = directory
        self._connections: list[Connection] = []
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.connection()
        except OSError as error:
            raise StoreUnusable(f"{directory}: the store cannot be opened: {error.strerror}") from error
        except StoreError as error:
            raise StoreUnusable(
                f"{directory}: the store cannot be opened; only one process may have it open, so end "
                f"any other serve on it first ({error})"
            ) from error

    def connection(self) -> "Connection":
        """Another connection to the same database. Raises StoreError."""
        try:
            connection = Connection(_extension().connect(str(self.directory)))
        except RuntimeError as error:
            raise StoreError(_one_line(error)) from error
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close every connection and the database."""
        while self._connections:
            self._connections.pop().close()


class Connection:
    """A connection, for one thread at a time."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self._streaming = False

    def execute(self, sql: str, parameters: Parameters = NO_PARAMETERS) -> bytes:
        """Run one statement to its end. Returns its result as RowBinary. Raises StoreError."""
        return self._run(sql.encode(), parameters)

    def insert(self, statement: str, rows: bytes) -> None:
        """Run `INSERT ... FORMAT TabSeparated` with `rows` as its data. Raises StoreError.

        chDB ends such data at the first empty line and would take what follows for SQL, so data with an empty
        line is refused here, whoever made it.
        """
        if rows.startswith(b"\n") or b"\n\n" in rows:
            raise StoreError("rows to insert hold an empty line, which would end them early")
        self._run(statement.encode() + b"\n" + rows, NO_PARAMETERS)

    def stream(self, sql: str, parameters: Parameters = NO_PARAMETERS) -> Generator[bytes]:
        """Run one query and yield its rows in blocks, each block whole rows in RowBinary.

        The connection is free again when the iterator ends or is closed. Raises StoreError.
        """
        self._be_idle()
        self._streaming = True
        stream = None
        ended = False
        try:
            stream = self._native.send_query(sql, "RowBinary", params=_texts(parameters))
            while (block := self._native.streaming_fetch_result(stream)) is not None and block.rows_read():
                yield block.bytes()
            ended = True
        except RuntimeError as error:
            ended = True
            raise StoreError(_one_line(error)) from error
        finally:
            if stream is not None and not ended:
                self._native.streaming_cancel_query(stream)
            self._streaming = False

    def close(self) -> None:
        """Close the connection."""
        self._native.close()

    def _run(self, statement: bytes, parameters: Parameters) -> bytes:
        self._be_idle()
        try:
            result = self._native.query(statement, "RowBinary", params=_texts(parameters))
        except RuntimeError as error:
            raise StoreError(_one_line(error)) from error
        if result.has_error():
            raise StoreError(_one_line(result.error_message()))
        data: bytes = result.bytes()
        return data

    def _be_idle(self) -> None:
        # The engine gives an empty result, and no error, to a statement on a connection whose stream is
        # unfinished.
        if self._streaming:
            raise StoreError(
                "a statement was given to a connection that is still streaming another one's result"
            )


@functools.cache
def _extension() -> ModuleType:
    package = importlib.util.find_spec("chdb")
    if package is None or not package.submodule_search_locations:
        raise StoreUnusable("the package chdb-core-lite is not installed")
    path = Path(package.submodule_search_locations[0]) / EXTENSION
    # As chDB's own package does: bind the engine's symbols to itself, or two allocators meet in one heap.
    ctypes.CDLL(str(path), mode=sys.getdlopenflags() | RTLD_DEEPBIND)
    spec = importlib.util.spec_from_file_location("_chdb", path)
    if spec is None or spec.loader is None:
        raise StoreUnusable(f"{path}: not an extension module of this Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # SIGTERM and SIGINT are the unit's own business.
    module.set_signal_handlers_enabled(0)
    return module


def _texts(parameters: Parameters) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items()}


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
