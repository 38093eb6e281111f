"""What the agent's tests share: configurations, an exchange's authority, generated traffic, and the program
itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from .hub import Authority

REPOSITORY = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("SIE_VECTORS", REPOSITORY.parent / "shared" / "vectors"))


@dataclass(frozen=True)
class Traffic:
    """A generated pcap file and the truth about it."""

    pcap: Path
    packets: int
    transactions: int
    unanswered: int
    stub_packets: int
    resolvers: tuple[str, ...] = ("192.0.2.53", "2001:db8::53")


@pytest.fixture(scope="session")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    """Two thousand transactions of a resolver, with stub clients beside it."""
    pcap = tmp_path_factory.mktemp("traffic") / "up.pcap"
    command = [sys.executable, "-m", "tests.traffic", str(pcap), "--transactions", "2000", "--seed", "7"]
    output = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    truth = json.loads(output)
    return Traffic(pcap, truth["packets"], truth["transactions"], truth["unanswered"], truth["stub_packets"])


@pytest.fixture
def vectors() -> Path:
    """The directory of the interoperability vectors."""
    if not VECTORS.is_dir():
        pytest.skip(f"no interoperability vectors in {VECTORS}: set SIE_VECTORS to their directory")
    return VECTORS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority of an exchange."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def config_file(tmp_path: Path, authority: Authority) -> Callable[..., Path]:
    """Write an agent's configuration for this test; every keyword replaces one value."""
    certificate, _ = authority.sensor()

    def write(
        hub: str = "wss://127.0.0.1:1",
        interface: str = "lo",
        encapsulated: bool = False,
        metrics_port: int = 0,
        spool: Path | None = None,
        more: str = "",
        resolvers: str = '[192.0.2.53, "2001:db8::53"]',
        sources: str = "",
    ) -> Path:
        file = tmp_path / "agent.yml"
        file.write_text(
            f"""
participant: isp_a
sensor: ns1
exchange: lab.example
resolvers: {resolvers}
sources: [{sources or f"{{interface: {interface}, encapsulated: {json.dumps(encapsulated)}}}"}]
container: {{max_bytes: 32 KiB}}
spool: {{directory: {spool or tmp_path / "spool"}}}
uplink: {{hubs: ["{hub}"], ca: {authority.ca}, window: 4, retry_min: 100ms, retry_max: 1}}
identity: {{directory: {certificate.parent}}}
metrics: {{listen: "127.0.0.1:{metrics_port}"}}
{more}
"""
        )
        return file

    return write


def program(*arguments: str | Path, stdout: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `sie-agent` to its end; its output is captured, or goes to a file."""
    command = [sys.executable, "-m", "sie_agent.cli", *map(str, arguments)]
    with open(stdout, "w") if stdout else nullcontext(subprocess.PIPE) as out:  # noqa: PTH123 - a device
        return subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
