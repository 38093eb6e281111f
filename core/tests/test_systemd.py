"""sd_notify over a real datagram socket."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sie_core.systemd import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(5)
        yield receiver, address


def test_ready_with_status_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    Notifier.from_environment({"NOTIFY_SOCKET": address}).ready("listening")
    assert receiver.recv(1000) == b"READY=1\nSTATUS=listening"


def test_status_is_cut_to_one_line(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    Notifier.from_environment({"NOTIFY_SOCKET": address}).status("one\nWATCHDOG=1")
    assert receiver.recv(1000) == b"STATUS=one"


def test_watchdog_and_stopping(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    notifier.watchdog()
    notifier.stopping()
    assert [receiver.recv(1000), receiver.recv(1000)] == [b"WATCHDOG=1", b"STOPPING=1"]


def test_reloading_says_when_it_began(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Notifier.from_environment({"NOTIFY_SOCKET": address}).reloading("reading")
    lines = receiver.recv(1000).decode().splitlines()
    assert (lines[0], lines[2]) == ("RELOADING=1", "STATUS=reading")
    name, _, microseconds = lines[1].partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0sie-core-test-notify")
        receiver.settimeout(5)
        Notifier.from_environment({"NOTIFY_SOCKET": "@sie-core-test-notify"}).watchdog()
        assert receiver.recv(1000) == b"WATCHDOG=1"


def test_outside_systemd_nothing_happens() -> None:
    notifier = Notifier.from_environment({})
    notifier.ready()
    assert notifier.watchdog_interval is None


def test_a_manager_that_is_gone_does_not_fail_the_service(tmp_path: Path) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1000"})
    notifier.watchdog()
    assert notifier.watchdog_interval == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
    ],
)
def test_watchdog_interval_is_half_of_what_the_unit_allows(
    environment: dict[str, str], interval: float | None
) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": "/run/x", **environment}, pid=77)
    assert notifier.watchdog_interval == interval
