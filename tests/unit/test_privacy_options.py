"""What privacy options of the role come to: by the file that it writes the agent reads traffic."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.traffic import RESOLVERS, generate, write_pcap
from tests.unit.ansible_module import SIE_AGENT
from tests.unit.test_sensor_settings import written

TRANSACTIONS = 100
BESIDE = {"sensor_interface": "eth0", "sensor_resolvers": [str(resolver) for resolver in RESOLVERS]}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a resolver asked and was answered, below `example.`"""
    path = tmp_path_factory.mktemp("capture") / "up.pcap"
    write_pcap(path, generate(TRANSACTIONS, seed=3, start=time.time() - 2).frames)
    return path


def replayed(capture: Path, folder: Path, **chosen: object) -> tuple[dict[str, Any], bytes]:
    """What the agent counts and writes by the file that the role writes with these variables."""
    config = written(folder, **BESIDE, **chosen)
    out = folder / "out.nmsg"
    command = [SIE_AGENT, "replay", str(capture), "--config", str(config), "--json"]
    done = subprocess.run(
        [*command, "--write", str(out), "--uncompressed"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), out.read_bytes()


def times_found(octets: bytes) -> int:
    """How often an address of the resolver stands in what was written."""
    return sum(octets.count(resolver.packed) for resolver in RESOLVERS)


def test_the_resolvers_address_is_kept_or_cleared(capture: Path, tmp_path: Path) -> None:
    counted, kept = replayed(capture, tmp_path)
    _, cleared = replayed(capture, tmp_path, sensor_clear_resolver_address=True)
    assert counted["transactions"]["total"] == TRANSACTIONS
    assert times_found(kept) >= TRANSACTIONS
    assert cleared
    assert times_found(cleared) == 0


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ({"sensor_local_zones": ["example"]}, "local_zone"),
        ({"sensor_exclude_qname_regex": r"[.]example$"}, "qname_regex"),
    ],
)
def test_what_is_kept_out_is_counted_and_nowhere_written(
    capture: Path, tmp_path: Path, chosen: dict[str, object], reason: str
) -> None:
    recorded = replayed(capture, tmp_path)[0]["messages"]["recorded"]
    counted, written_octets = replayed(capture, tmp_path, **chosen)
    assert counted["messages"]["filtered"][reason] == recorded
    assert (counted["messages"]["recorded"], counted["transactions"]["total"]) == (0, 0)
    assert written_octets == b""


def test_what_does_not_match_stays(capture: Path, tmp_path: Path) -> None:
    others = {"sensor_local_zones": ["corp.invalid"], "sensor_exclude_qname_regex": "^nowhere[.]"}
    assert replayed(capture, tmp_path, **others)[0]["transactions"]["total"] == TRANSACTIONS
