"""What every unit does alike, with a real notification socket and real signals to this process's own loop."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sie_core.settings import ListenAddress
from sie_hub import log
from sie_hub.unit import Stopped, Unit, UnitFailed, run_unit

from .broker import free_port


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    """A unit takes the process's logging over; a test gives it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of sd_notify, with a watchdog of 0.4 s."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(0.5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield receiver


def heard(manager: socket.socket) -> list[str]:
    said = []
    try:
        while True:
            said.append(manager.recv(1000).decode().splitlines()[0])
    except TimeoutError:
        return said


def metrics() -> ListenAddress:
    return ListenAddress("127.0.0.1", free_port())


def test_a_unit_that_moves_is_ready_alive_and_stops_on_sigterm(manager: socket.socket) -> None:
    async def body(unit: Unit) -> None:
        unit.ready("working")
        for _turn in range(10):
            unit.progress()
            await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        await unit.stopping.wait()

    assert run_unit("test", metrics(), body) == 0
    said = heard(manager)
    assert said[0] == "WATCHDOG=1"
    assert {"READY=1", "STOPPING=1"} < set(said)
    assert said.count("WATCHDOG=1") >= 4


def test_a_unit_that_hangs_does_not_feed_the_watchdog(manager: socket.socket) -> None:
    async def body(unit: Unit) -> None:
        unit.ready("about to hang")
        unit.progress()
        await asyncio.sleep(1.5)  # the process lives and its loop turns, but the unit's work does not go on

    assert run_unit("test", metrics(), body) == 0
    assert heard(manager).count("WATCHDOG=1") <= 3


def test_waiting_for_what_is_not_there_yet_is_no_hang(manager: socket.socket) -> None:
    async def body(unit: Unit) -> None:
        asyncio.get_running_loop().call_later(3.0, unit.stop)
        with pytest.raises(Stopped):
            await unit.unless_stopped(asyncio.sleep(60))

    assert run_unit("test", None, body) == 0
    assert heard(manager).count("WATCHDOG=1") >= 4


def test_a_failure_is_one_sentence_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    async def body(unit: Unit) -> None:
        asyncio.get_running_loop().call_soon(unit.fail, "the thing broke; mend it")
        await asyncio.sleep(60)

    assert run_unit("test", metrics(), body) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" test critical: the thing broke; mend it")


def test_a_failure_of_the_body_itself_counts_alike(capsys: pytest.CaptureFixture[str]) -> None:
    async def body(_unit: Unit) -> None:
        raise UnitFailed("nothing to do here")

    assert run_unit("test", None, body) == 1
    assert "nothing to do here" in capsys.readouterr().err


def test_work_ends_with_its_own_result_or_error() -> None:
    async def body(unit: Unit) -> None:
        async def result() -> int:
            return 7

        async def error() -> None:
            raise ValueError("wrong")

        assert await unit.unless_stopped(result()) == 7
        with pytest.raises(ValueError, match="wrong"):
            await unit.unless_stopped(error())

    assert run_unit("test", None, body) == 0


def test_a_line_stays_one_line_whatever_a_peer_sent(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("test")
    log.event(logging.getLogger("x"), logging.WARNING, "peer said", text='a\nb "c"\x1b[31m', n=3, absent=None)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(' test warning: peer said text="a\\nb \\"c\\"\\u001b[31m" n=3')
