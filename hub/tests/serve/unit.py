"""serve as a program, beside a real nats-server into which a test publishes what refine would."""

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from sie_hub.nats_link import Link
from sie_hub.registry import sha256_hex
from sie_hub.streams import SIE_DEDUPLICATED

from ..broker import Broker, free_port
from .samples import Sample, message

KEY = "key-of-the-tests-0123456789-0123456789-0123"


class Serve:
    """The files of a serve on loopback, its ports, and its process."""

    def __init__(self, directory: Path, broker: Broker) -> None:
        self.directory = directory
        self.broker = broker
        self.port = free_port()
        self.metrics_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        registry = directory / "participants"
        registry.mkdir(parents=True)
        key = {"id": "k1", "sha256": sha256_hex(KEY), "created": "2026-01-01T00:00:00Z"}
        document = {
            "participant": "isp_a",
            "agreement": {"signed": "2026-01-01", "term_days": 365},
            "readers": {"analyst": {"keys": [key]}},
        }
        (registry / "isp_a.yml").write_text(yaml.safe_dump(document))
        self.path = directory / "hub.yml"
        self.path.write_text(
            yaml.safe_dump(
                {
                    "exchange": "lab.example",
                    "registry": str(registry),
                    "nats": {"url": broker.url},
                    "serve": {
                        "listen": [f"127.0.0.1:{self.port}"],
                        "store": str(directory / "store"),
                        "metrics": f"127.0.0.1:{self.metrics_port}",
                    },
                }
            )
        )

    def start(self) -> None:
        """Start it as a program."""
        with (self.directory / "serve.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sie_hub.cli", "serve", "--config", str(self.path)],
                env={**os.environ, "CREDENTIALS_DIRECTORY": str(self.broker.credentials("serve"))},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def stop(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End it, by default without a chance to do anything. Returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process = None
        return code

    def log(self) -> str:
        """What it has said so far."""
        return (self.directory / "serve.log").read_text()

    def metric(self, name: str, **labels: str) -> float | None:
        """A metric's value, or None while the unit does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return None

    async def answers(self) -> None:
        """Wait until it answers."""
        async with asyncio.timeout(60):
            while await asyncio.to_thread(self.metric, "sie_hub_serve_active_queries") is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def reach(self, sequence: int) -> None:
        """Wait until the store has a message of the stream."""
        async with asyncio.timeout(180):
            while (await asyncio.to_thread(self.metric, "sie_hub_serve_sie_position") or 0) < sequence:
                assert self.process is not None
                assert self.process.poll() is None, self.log()
                await asyncio.sleep(0.05)

    async def publish(self, link: Link, records: list[Sample]) -> int:
        """Publish a message as refine does. Returns its sequence."""
        return await link.publish(SIE_DEDUPLICATED, message(records), {})
