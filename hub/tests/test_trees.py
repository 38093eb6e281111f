"""Folders that others fill: what is measured of them, and how they are emptied."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sie_hub.ingest.trees import Measured, discard, measure


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """Three files of 10 octets, one in each of three folders within each other, and a link out of them."""
    place = tmp_path / "folder"
    for name in ("", "one", "two"):
        place = place / name
        place.mkdir()
        (place / "file").write_bytes(bytes(10))
    (tmp_path / "folder" / "link").symlink_to("/")
    descriptor = os.open(tmp_path / "folder", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("depth", "entries", "measured"),
    [
        (8, 6, Measured(4, 31, 6)),
        (2, 6, Measured(4, 31, 6)),
        (1, 6, Measured(3, 21, 5, beyond=True)),
        (0, 6, Measured(2, 11, 3, beyond=True)),
        (8, 5, Measured(3, 21, 5, beyond=True)),
        (8, 3, Measured(2, 11, 3, beyond=True)),
    ],
)
def test_what_is_measured_and_what_lies_beyond(
    folder: int, depth: int, entries: int, measured: Measured
) -> None:
    assert measure(folder, depth, entries) == measured


def test_as_many_names_as_wanted_go_at_a_time(tmp_path: Path, folder: int) -> None:
    above = os.open(tmp_path, os.O_RDONLY)
    goes = 1
    while not discard("folder", above, most=2):
        goes += 1
    os.close(above)
    assert list(tmp_path.iterdir()) == []
    assert 3 <= goes <= 6
    assert Path("/").is_dir()
