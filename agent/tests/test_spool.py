"""The spool: what `append` returned for is never lost, and nothing is counted twice, whatever happens."""

import errno
import os
import stat
import subprocess
import time
from copy import deepcopy
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sie_agent import spool as spool_module
from sie_agent.accounting import Ledger
from sie_agent.disk import Directory
from sie_agent.errors import SpoolError
from sie_agent.spool import Spool, open_spool, snapshot

from .simulated_disk import Crash, SimulatedDisk

ROOM_FOR_ALL = 1 << 40
TWO_CONTAINERS = 2 * len("container 1 " * 3)


def content(sequence: int) -> bytes:
    """A container's octets: all different, so that a mix-up shows."""
    return f"container {sequence} ".encode() * 3


def held(spool: Spool) -> dict[int, int]:
    """Sequence and transactions of all that is pending, each checked to be readable and to be itself."""
    found = {}
    after = 0
    while (entry := spool.take(after)) is not None:
        assert spool.read(entry) == content(entry.sequence)
        found[entry.sequence] = entry.transactions
        after = entry.sequence
    return found


def test_a_container_is_kept_until_it_is_acknowledged(tmp_path: Path) -> None:
    with open_spool(tmp_path / "spool", ROOM_FOR_ALL) as spool:
        for transactions in (5, 7, 11):
            spool.append(content(spool.next_sequence), transactions)
        assert held(spool) == {1: 5, 2: 7, 3: 11}
        spool.acknowledge(2)
        assert held(spool) == {3: 11}
        assert (spool.ledger.captured, spool.ledger.acknowledged, spool.ledger.pending) == (23, 12, 11)
    containers = sorted(path.name for path in (tmp_path / "spool").glob("*.zst"))
    assert containers == ["00000000000000000003.00000011.nmsg.zst"]


def test_it_survives_being_closed(tmp_path: Path) -> None:
    with open_spool(tmp_path, ROOM_FOR_ALL) as spool:
        for _ in range(3):
            spool.append(content(spool.next_sequence), 10)
        spool.acknowledge(1)
        stream, ledger = spool.stream, spool.ledger
    with open_spool(tmp_path, ROOM_FOR_ALL) as spool:
        assert (spool.stream, spool.ledger, spool.next_sequence) == (stream, ledger, 4)
        spool.acknowledge(3)
    with open_spool(tmp_path, ROOM_FOR_ALL) as spool:
        assert spool.next_sequence == 4
        assert spool.ledger.acknowledged == 30


def test_what_is_on_disk_is_private_to_its_owner(tmp_path: Path) -> None:
    with open_spool(tmp_path / "spool", ROOM_FOR_ALL) as spool:
        spool.append(content(1), 1)
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spool").iterdir()} == {0o600}


def test_only_one_program_has_it_open(tmp_path: Path) -> None:
    with (
        open_spool(tmp_path, ROOM_FOR_ALL),
        pytest.raises(SpoolError, match="is in use by another sie-agent"),
        open_spool(tmp_path, ROOM_FOR_ALL),
    ):
        pass


def test_the_oldest_not_yet_taken_is_trimmed(tmp_path: Path) -> None:
    size = len(content(1))
    with open_spool(tmp_path, 4 * size) as spool:
        for _ in range(4):
            spool.append(content(spool.next_sequence), 10)
        assert (
            spool.take(0) is not None
        )  # container 1 is on its way and may arrive: it is not counted as trimmed
        spool.append(content(5), 10)
        spool.append(content(6), 10)
        assert held(spool) == {1: 10, 4: 10, 5: 10, 6: 10}
        assert spool.ledger.trimmed == 20
        assert spool.ledger.captured == 60
    with open_spool(tmp_path, 4 * size) as spool:
        assert held(spool) == {1: 10, 4: 10, 5: 10, 6: 10}
        assert (spool.ledger.trimmed, spool.ledger.trimmed_containers) == (20, 2)


def test_the_number_of_containers_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MAX_CONTAINERS", 3)
    with open_spool(tmp_path, ROOM_FOR_ALL) as spool:
        for _ in range(5):
            spool.append(content(spool.next_sequence), 1)
        assert held(spool) == {3: 1, 4: 1, 5: 1}


def test_a_trimmed_container_cannot_be_taken_and_a_taken_one_not_trimmed(tmp_path: Path) -> None:
    with open_spool(tmp_path, 2 * len(content(1))) as spool:
        for _ in range(4):
            spool.append(content(spool.next_sequence), 1)
            spool.take(0)
        # 1 was taken at once; 2 and 3 gave way; taking from 0 gives 1 again, as a new session does.
        assert held(spool) == {1: 1, 4: 1}


def test_an_unreadable_container_is_trimmed_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with open_spool(tmp_path, ROOM_FOR_ALL) as spool:
        first = spool.append(content(1), 10)
        second = spool.append(content(2), 20)
        (tmp_path / first.name).unlink()
        assert spool.read(first) is None
        assert spool.read(first) is None  # twice is the same as once
        assert spool.read(second) == content(2)
        assert (spool.ledger.trimmed, spool.ledger.pending) == (10, 20)
        (tmp_path / second.name).write_bytes(b"")
        assert spool.read(second) is None
        assert spool.ledger == Ledger(trimmed=30, trimmed_unreadable=30, trimmed_containers=2)


class Clocks:
    """The clock of ages, and the time of day, which a test may set."""

    def __init__(self) -> None:
        self.since_boot = 1000.0
        self.time_of_day = time.time()

    def spool(self, disk: Directory, max_age: float = 3600) -> Spool:
        return Spool(
            disk,
            ROOM_FOR_ALL,
            lambda: 1,
            max_age=max_age,
            clock=lambda: self.since_boot,
            time_of_day=lambda: self.time_of_day,
        )


def test_what_is_too_old_is_trimmed_oldest_first_and_counted_apart() -> None:
    disk, clocks = SimulatedDisk(), Clocks()
    spool = clocks.spool(disk)
    for _ in range(3):
        spool.append(content(spool.next_sequence), 10)
        clocks.since_boot += 1000
    assert spool.trim_expired() == 0
    clocks.since_boot = 1000 + 3600 + 1001  # the first two are too old
    assert spool.take(0) is not None  # but the first is on its way
    assert spool.trim_expired() == 10
    assert held(spool) == {1: 10, 3: 10}
    ledger = spool.ledger
    assert (ledger.trimmed, ledger.trimmed_expired, ledger.trimmed_full) == (10, 10, 0)
    assert ledger.captured == ledger.acknowledged + ledger.pending + ledger.trimmed == 30
    assert clocks.spool(disk).ledger == ledger  # the reason is kept with the count


def test_no_step_of_the_time_of_day_makes_anything_old() -> None:
    disk, clocks = SimulatedDisk(), Clocks()
    spool = clocks.spool(disk)
    spool.append(content(1), 10)
    for step in (10 * 365 * 86400, -10 * 365 * 86400):
        clocks.time_of_day += step
        clocks.since_boot += 1
        assert spool.trim_expired() == 0
    clocks.time_of_day -= 86400  # what an earlier run wrote is dated in the future then, which counts as now
    again = clocks.spool(disk)
    assert again.trim_expired() == 0
    clocks.since_boot += 3601
    assert again.trim_expired() == 10


def test_what_an_earlier_run_left_is_as_old_as_its_file() -> None:
    disk, clocks = SimulatedDisk(), Clocks()
    clocks.spool(disk).append(content(1), 10)
    clocks.time_of_day += 3700
    clocks.since_boot = 5.0  # the machine was started again
    assert clocks.spool(disk).trim_expired() == 10


def test_what_is_too_old_leaves_a_full_disk_too() -> None:
    disk, clocks = SimulatedDisk(), Clocks()
    spool = clocks.spool(disk)
    spool.append(content(1), 10)
    clocks.since_boot += 3601
    truncated: list[str] = []

    def full_until_truncated(asked: str) -> int | None:
        if asked == "truncate":
            truncated.append(asked)
        return errno.ENOSPC if asked == "write" and not truncated else None

    disk.failing = full_until_truncated
    assert spool.trim_expired() == 10
    assert spool.ledger.pending == 0


def test_other_bounds_hold_at_once(tmp_path: Path) -> None:
    with open_spool(tmp_path, ROOM_FOR_ALL) as spool:
        for _ in range(4):
            spool.append(content(spool.next_sequence), 10)
        spool.set_bounds(2 * len(content(1)), 3600)
        spool.append(content(5), 10)
        assert held(spool) == {4: 10, 5: 10}


def test_a_renewed_stream_keeps_what_is_pending(tmp_path: Path) -> None:
    with open_spool(tmp_path, ROOM_FOR_ALL) as spool:
        spool.append(content(1), 10)
        before = spool.stream
        spool.renew_stream()
        after = spool.stream
        assert before != after
        assert held(spool) == {1: 10}
    with open_spool(tmp_path, ROOM_FOR_ALL) as spool:
        assert (spool.stream, spool.next_sequence) == (after, 2)


@pytest.mark.parametrize("name", ["stream.json", "position.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stream": 5}', '{"removing": 5}'])
def test_damage_is_told_and_nothing_is_guessed(tmp_path: Path, name: str, text: str) -> None:
    with open_spool(tmp_path, ROOM_FOR_ALL) as spool:
        spool.append(content(1), 10)
        spool.acknowledge(1)
    (tmp_path / name).write_text(text)
    with (
        pytest.raises(SpoolError, match=rf"{name} is damaged: move the whole directory away"),
        open_spool(tmp_path, 1),
    ):
        pass
    with pytest.raises(SpoolError, match=rf"{name} is damaged"):
        snapshot(tmp_path)


def test_a_snapshot_is_what_the_spool_says(tmp_path: Path) -> None:
    assert snapshot(tmp_path / "absent") is None
    assert snapshot(tmp_path) is None
    with open_spool(tmp_path, 3 * len(content(1))) as spool:
        for _ in range(4):
            spool.append(content(spool.next_sequence), 10)
        spool.acknowledge(2)
        expected = spool.stream, spool.ledger
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert snapshot(tmp_path) == expected
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_spool_where_no_directory_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SpoolError, match="cannot be opened: Not a directory; name a directory"),
        open_spool(tmp_path / "file" / "spool", ROOM_FOR_ALL),
    ):
        pass


CALLS = ["create", "write", "fsync", "rename", "sync"]


@pytest.mark.parametrize("call", CALLS)
def test_a_container_that_the_disk_refuses_leaves_the_spool_as_it_was(call: str) -> None:
    disk = SimulatedDisk()
    spool = Spool(disk, ROOM_FOR_ALL, lambda: 1)
    spool.append(content(1), 10)
    disk.failing = lambda asked: errno.ENOSPC if asked == call else None
    with pytest.raises(SpoolError, match="takes no container: ENOSPC; make room on its file system"):
        spool.append(content(2), 10)
    disk.failing = lambda _: None
    assert held(spool) == {1: 10}
    third = spool.append(content(3), 10)
    assert third.sequence == 3  # a sequence that may be on disk is not used again
    assert spool.ledger.captured == 20
    disk.crash(lambda: True, lambda length: length)
    assert held(Spool(disk, ROOM_FOR_ALL, lambda: 1)) == {1: 10, 3: 10}


@pytest.mark.parametrize("call", CALLS)
def test_acknowledged_containers_give_their_room_to_a_full_disk(call: str) -> None:
    disk = SimulatedDisk()
    spool = Spool(disk, ROOM_FOR_ALL, lambda: 1)
    for _ in range(3):
        spool.append(content(spool.next_sequence), 10)
    truncated: list[str] = []

    def full_until_truncated(asked: str) -> int | None:
        if asked == "truncate":
            truncated.append(asked)
        return errno.ENOSPC if asked == call and not truncated else None

    disk.failing = full_until_truncated
    spool.acknowledge(2)
    assert len(truncated) == 2
    assert held(spool) == {3: 10}
    assert spool.ledger.acknowledged == 20


def test_an_acknowledgement_that_cannot_be_written_down_is_settled_later() -> None:
    disk = SimulatedDisk()
    spool = Spool(disk, ROOM_FOR_ALL, lambda: 1)
    spool.append(content(1), 10)
    disk.failing = lambda asked: errno.EROFS if asked == "create" else None
    with pytest.raises(SpoolError, match="cannot be settled: EROFS; mount its file system for writing"):
        spool.acknowledge(1)
    assert spool.ledger.pending == 10
    disk.failing = lambda _: None
    spool.acknowledge(1)
    assert spool.ledger == Ledger(acknowledged=10, acknowledged_containers=1)


def test_a_file_that_cannot_be_removed_does_not_count_again() -> None:
    disk = SimulatedDisk()
    spool = Spool(disk, 2 * len(content(1)), lambda: 1)
    disk.failing = lambda asked: errno.EIO if asked == "unlink" else None
    for _ in range(5):
        spool.append(content(spool.next_sequence), 10)
    disk.failing = lambda _: None
    disk.crash(lambda: True, lambda length: length)
    again = Spool(disk, 2 * len(content(1)), lambda: 1)
    assert held(again) == {4: 10, 5: 10}
    assert (again.ledger.trimmed, again.ledger.captured) == (30, 50)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_real_full_disk_and_a_real_read_only_one(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], check=True)
    try:
        with open_spool(tmp_path, ROOM_FOR_ALL) as spool:
            filler = tmp_path / "filler"
            filler.write_bytes(bytes(120_000))
            for _ in range(5):
                spool.append(bytes(20_000), 10)
            with pytest.raises(SpoolError, match="No space left on device; make room on its file system"):
                spool.append(bytes(60_000), 10)
            assert spool.ledger.captured == 50
            spool.acknowledge(3)
            assert spool.ledger.acknowledged == 30
            spool.append(bytes(20_000), 10)
            subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
            with pytest.raises(SpoolError, match="Read-only file system; mount its file system for writing"):
                spool.append(bytes(20_000), 10)
            assert spool.ledger.pending == 30
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


ACTIONS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 99)),
    st.tuples(st.just("acknowledge"), st.integers(0, 40)),
    st.tuples(st.just("take"), st.integers(0, 40)),
    st.tuples(st.just("reopen"), st.just(0)),
)


class Model:
    """What must be true of a spool, by what its methods have returned for."""

    def __init__(self) -> None:
        self.appended: dict[int, int] = {}
        self.acknowledged = 0
        self.last = 0
        self.in_doubt: tuple[str, int] | None = None

    def perform(self, spool: Spool, action: str, argument: int) -> None:
        """Do one action; a crash in it leaves it in doubt."""
        match action:
            case "append":
                sequence = spool.next_sequence
                self.in_doubt = ("append", argument)
                self.last = sequence
                spool.append(content(sequence), argument)
                self.appended[sequence] = argument
            case "acknowledge":
                sequence = min(argument, spool.next_sequence - 1)
                self.in_doubt = ("acknowledge", sequence)
                spool.acknowledge(sequence)
                self.acknowledged = max(self.acknowledged, sequence)
            case "take":
                spool.take(argument)
        self.in_doubt = None

    def check(self, spool: Spool, max_bytes: int) -> None:
        """Compare after a crash and a new opening, or at any quiet moment."""
        pending = held(spool)
        ledger = spool.ledger
        if self.in_doubt is not None and self.in_doubt[0] == "append" and self.last in pending:
            self.appended[self.last] = self.in_doubt[1]
        if self.in_doubt is not None and self.in_doubt[0] == "acknowledge":
            waiting = [s for s in self.appended if self.acknowledged < s <= self.in_doubt[1]]
            if waiting and not any(sequence in pending for sequence in waiting):
                self.acknowledged = self.in_doubt[1]
        self.in_doubt = None
        assert spool.next_sequence > max(self.appended, default=0)
        assert set(pending) <= set(self.appended)
        assert all(pending[sequence] == self.appended[sequence] for sequence in pending)
        assert all(sequence > self.acknowledged for sequence in pending)
        assert ledger.captured == sum(self.appended.values())
        assert ledger.pending == sum(pending.values())
        gone = sum(n for sequence, n in self.appended.items() if sequence not in pending)
        assert ledger.acknowledged + ledger.trimmed == gone
        if max_bytes == ROOM_FOR_ALL:
            assert ledger.trimmed == 0
            assert set(pending) == {sequence for sequence in self.appended if sequence > self.acknowledged}


@settings(max_examples=400, deadline=None)
@given(
    runs=st.lists(st.tuples(st.lists(ACTIONS, max_size=12), st.integers(0, 60)), min_size=1, max_size=4),
    max_bytes=st.sampled_from([ROOM_FOR_ALL, TWO_CONTAINERS]),
    data=st.data(),
)
def test_a_crash_at_any_system_call_loses_nothing_and_counts_nothing_twice(
    runs: list[tuple[list[tuple[str, int]], int]], max_bytes: int, data: st.DataObject
) -> None:
    disk = SimulatedDisk()
    model = Model()
    for actions, calls in runs:
        disk.calls_left = calls
        try:
            spool = Spool(disk, max_bytes, lambda: 1)
            for action, argument in actions:
                if action == "reopen":
                    spool = Spool(disk, max_bytes, lambda: 1)
                else:
                    model.perform(spool, action, argument)
        except Crash:
            pass
        disk.crash(
            lambda: data.draw(st.booleans(), "a change of the directory survives"),
            lambda length: data.draw(st.integers(0, length), "so much of an unsynced file survives"),
        )
        model.check(Spool(disk, max_bytes, lambda: 1), max_bytes)


def run_until_crash(disk: SimulatedDisk, model: Model, calls: int, actions: list[tuple[str, int]]) -> bool:
    """Open a spool and do all actions, unless the disk stops before; returns whether it stopped."""
    disk.calls_left = calls
    try:
        spool = Spool(disk, TWO_CONTAINERS, lambda: 1)
        for action, argument in actions:
            model.perform(spool, action, argument)
    except Crash:
        return True
    return False


@pytest.mark.parametrize("survivors", [[False], [True], [True, False], [False, True], [False, False, True]])
def test_a_crash_at_every_system_call_of_trimming_and_then_again(survivors: list[bool]) -> None:
    first = (
        [("append", 7)] * 4 + [("take", 0)] + [("append", 11)] * 2 + [("acknowledge", 3), ("append", 13)] * 2
    )
    second = [("append", 17)] * 2
    crashes = 0
    for calls in range(1000):
        disk, model = SimulatedDisk(), Model()
        if not run_until_crash(disk, model, calls, first):
            break
        crashes += 1
        disk.crash(cycle(survivors).__next__, lambda length: length // 2)
        model.check(Spool(disk, TWO_CONTAINERS, lambda: 1), TWO_CONTAINERS)
        for calls_again in range(1000):
            disk_again, model_again = deepcopy(disk), deepcopy(model)
            crashed = run_until_crash(disk_again, model_again, calls_again, second)
            disk_again.crash(cycle(survivors).__next__, lambda length: length // 2)
            model_again.check(Spool(disk_again, TWO_CONTAINERS, lambda: 1), TWO_CONTAINERS)
            if not crashed:
                break
    assert crashes > 50
