"""From sources to the spool: nothing waits for the disk, and what does not reach it is counted."""

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sie_agent.capture import Capture, SpoolWriter
from sie_agent.spool import Spool
from sie_core._native import Container, PcapSource, Recorder

from .conftest import Traffic
from .simulated_disk import SimulatedDisk


class FileSource:
    """A pcap file in the place of an interface; it has nothing in its first turns."""

    def __init__(self, pcap: Path, idle_for: int = 0) -> None:
        self._source = PcapSource(str(pcap))
        self._idle_for = idle_for
        self.at_end = threading.Event()
        self.closed = False

    def pump(self, recorder: Recorder, timeout: float) -> list[Container]:
        if self._idle_for > 0:
            self._idle_for -= 1
            return []
        if self.at_end.is_set():
            return []
        containers = recorder.pump(self._source, timeout)
        if recorder.at_end:
            self.at_end.set()
        return containers

    def drain(self, recorder: Recorder) -> Iterator[Container]:
        while not self.at_end.is_set():
            yield from self.pump(recorder, 1)

    def close(self) -> None:
        self.closed = True


def capture_of(traffic: Traffic, source: FileSource, deliver: Callable[[Container], None]) -> Capture:
    return Capture(Recorder(traffic.resolvers, container_bytes=16384), [source], deliver)


def run_to_end(capture: Capture, source: FileSource) -> None:
    capture.start()
    assert source.at_end.wait(20)
    capture.stop()
    assert capture.failure is None


def test_every_transaction_reaches_the_spool(traffic: Traffic) -> None:
    spool = Spool(SimulatedDisk(), 1 << 30, lambda: 1)
    writer = SpoolWriter(spool)
    source = FileSource(traffic.pcap, idle_for=2)
    capture = capture_of(traffic, source, writer.offer)
    writer.start()
    run_to_end(capture, source)
    writer.close()
    assert source.closed
    counters = capture.counters
    recorded = sum(
        value
        for name, value in counters.items()
        if name.startswith("transactions_") and "pending" not in name
    )
    assert recorded == traffic.transactions == spool.ledger.captured
    assert counters["containers_sealed"] == spool.ledger.pending_containers
    assert counters["transactions_pending"] == 0  # the queries still waiting were recorded by the stop
    assert writer.lost.total == 0


def test_a_disk_that_refuses_is_told_once_and_counted(
    traffic: Traffic, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimulatedDisk()
    spool = Spool(disk, 1 << 30, lambda: 1)
    writer = SpoolWriter(spool)
    refused = 0

    def refuse_three(call: str) -> int | None:
        nonlocal refused
        if call == "write" and refused < 3:
            refused += 1
            return errno.ENOSPC
        return None

    disk.failing = refuse_three
    source = FileSource(traffic.pcap)
    capture = capture_of(traffic, source, writer.offer)
    writer.start()
    with caplog.at_level(logging.INFO, "sie_agent"):
        run_to_end(capture, source)
        writer.close()
    assert writer.lost.disk > 0
    assert spool.ledger.captured + writer.lost.total == traffic.transactions
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "make room on its file system" in line]) == 1
    assert lines[-1] == f"the spool takes containers again; {writer.lost.disk} transactions were lost"


def test_a_disk_that_hangs_does_not_hold_up_capture(
    traffic: Traffic, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimulatedDisk()
    spool = Spool(disk, 1 << 30, lambda: 1)
    goes_on, hangs = threading.Event(), threading.Event()

    def hang(call: str) -> None:
        if call == "fsync":
            hangs.set()
            assert goes_on.wait(20)

    disk.failing = hang
    writer = SpoolWriter(spool, queue_octets=20_000)
    source = FileSource(traffic.pcap)
    capture = capture_of(traffic, source, writer.offer)
    writer.start()
    run_to_end(capture, source)  # ends although not one container is on disk
    assert hangs.is_set()
    assert spool.ledger.captured == 0
    assert writer.lost.queue > 0
    goes_on.set()
    writer.close()
    assert spool.ledger.captured + writer.lost.queue == traffic.transactions
    assert len([record for record in caplog.records if "is so slow" in record.getMessage()]) == 1


def test_a_fault_of_the_program_ends_the_thread_and_is_kept(traffic: Traffic) -> None:
    def deliver(_container: Container) -> None:
        raise ZeroDivisionError

    source = FileSource(traffic.pcap)
    capture = capture_of(traffic, source, deliver)
    capture.start()
    capture.stop()
    assert isinstance(capture.failure, ZeroDivisionError)
