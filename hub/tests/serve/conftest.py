"""A store for each test that asks for one."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sie_hub.serve.engine import Engine
from sie_hub.serve.schema import open_store
from sie_hub.serve.writer import Writer

from .samples import Sample, rows, samples

STREAM = "2026-11-21T17:48:50.123456+00:00"
RETENTION_DAYS = 60


@pytest.fixture
def now() -> int:
    """The present second."""
    return int(time.time())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Engine]:
    """An empty store."""
    engine = open_store(tmp_path / "store")
    yield engine
    engine.close()


@pytest.fixture
def writer(store: Engine) -> Writer:
    """The store's writer."""
    return Writer(store.connection(), RETENTION_DAYS)


@pytest.fixture
def content(writer: Writer, now: int) -> list[Sample]:
    """The samples, in the store."""
    records = samples(now)
    writer.write(STREAM, 1, rows(records), now)
    return records
