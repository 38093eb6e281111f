"""A hub's ingest and refine for tests: configuration and registry in files, in this process or as
programs."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from sie_core.settings import Config
from sie_hub.config import load_config

from .broker import Broker, free_port
from .conftest import EXCHANGE, Pki


class Hub:
    """The files of a hub, and the ports it uses."""

    def __init__(
        self,
        directory: Path,
        pki: Pki,
        broker: Broker,
        *,
        window: float = 0.2,
        program: str = "sie_hub.cli",
        address: str = "127.0.0.1",
    ) -> None:
        self.directory = directory
        self.address = address
        self.broker = broker
        self.pki = pki
        self.program = program
        self.port = free_port()
        self.metrics = {unit: free_port() for unit in ("ingest", "refine")}
        self.registry = directory / "participants"
        self.path = directory / "hub.yml"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.registry.mkdir(parents=True)
        server = pki.server("server", address)
        self.path.write_text(
            yaml.safe_dump(
                {
                    "exchange": EXCHANGE,
                    "registry": str(self.registry),
                    "nats": {"url": broker.url},
                    "ca": {"certificate": str(pki.ca_held.certificate)},
                    "ingest": {
                        "listen": [f"{address}:{self.port}"],
                        "certificate": str(server.certificate),
                        "key": str(server.key),
                        "metrics": f"127.0.0.1:{self.metrics['ingest']}",
                    },
                    "refine": {"window": window, "metrics": f"127.0.0.1:{self.metrics['refine']}"},
                }
            )
        )
        self.register("isp_a", {"ns1": {"channels": [202], "source": 7}})

    @property
    def url(self) -> str:
        """Where sensors deliver."""
        return f"wss://{self.address}:{self.port}"

    def config(self) -> Config:
        """The configuration as every unit reads it."""
        return load_config(self.path)

    def register(
        self,
        participant: str,
        sensors: Mapping[str, object],
        *,
        uploads: Mapping[str, object] | None = None,
        agreement: Mapping[str, object] | None = None,
    ) -> None:
        """Write one file of the registry, whole."""
        document = {
            "participant": participant,
            "agreement": dict(agreement or {"signed": "2026-01-01", "term_days": 365, "renews": True}),
            "sensors": dict(sensors),
            "uploads": dict(uploads or {}),
        }
        temporary = self.registry / f".{participant}.new"
        temporary.write_text(yaml.safe_dump(document))
        temporary.replace(self.registry / f"{participant}.yml")

    def start(self, unit: str, **environment: str) -> None:
        """Start a unit as a program."""
        with (self.directory / f"{unit}.log").open("ab") as output:
            self._processes[unit] = subprocess.Popen(
                [sys.executable, "-m", self.program, unit, "--config", str(self.path)],
                env={
                    **os.environ,
                    "CREDENTIALS_DIRECTORY": str(self.broker.credentials(unit)),
                    **environment,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def stop(self, unit: str, number: signal.Signals = signal.SIGKILL) -> int:
        """End a unit, by default without a chance to do anything. Returns its exit code."""
        process = self._processes.pop(unit)
        process.send_signal(number)
        return process.wait(20)

    def stop_gently(self, unit: str) -> int:
        """Ask a unit to end. Returns its exit code."""
        return self.stop(unit, signal.SIGTERM)

    def start_another(self, unit: str) -> None:
        """Start a unit a second time; `wait` and `stop` mean the second one from then on."""
        self._processes[f"first {unit}"] = self._processes.pop(unit)
        self.start(unit)

    def wait(self, unit: str, seconds: float = 20) -> int:
        """Wait for a unit to end by itself. Returns its exit code."""
        return self._processes.pop(unit).wait(seconds)

    def pid(self, unit: str) -> int:
        """The number of the unit's process."""
        return self._processes[unit].pid

    def running(self, unit: str) -> bool:
        """Whether the unit's process is there."""
        return unit in self._processes and self._processes[unit].poll() is None

    def log(self, unit: str) -> str:
        """What the unit has said so far."""
        return (self.directory / f"{unit}.log").read_text()

    def stop_all(self) -> None:
        """End whatever runs."""
        for unit in list(self._processes):
            self.stop(unit)
