"""The demonstration, from a generated capture to answers that are the capture's truth, and nothing left
behind."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.traffic import RESOLVERS, STUB_ADDRESSES, STUB_LABEL, Traffic, generate, write_pcap

BIN = Path(sys.executable).parent
TRANSACTIONS = 600


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    """Traffic of the last seconds, in `up.pcap`."""
    made = generate(TRANSACTIONS, seed=11, start=time.time() - 2)
    write_pcap(tmp_path / "up.pcap", made.frames)
    return made


def start(directory: Path, *arguments: str, capture: str = "up.pcap") -> subprocess.Popen[str]:
    """Start a demonstration that works below `directory`/tmp."""
    temporary = directory / "tmp"
    temporary.mkdir(exist_ok=True)
    resolvers = [word for resolver in RESOLVERS for word in ("--resolver", str(resolver))]
    return subprocess.Popen(
        [
            *(str(BIN / "sie-hub"), "demo", "--pcap", str(directory / capture)),
            *(*resolvers, "--agent", str(BIN / "sie-agent"), *arguments),
        ],
        env={**os.environ, "TMPDIR": str(temporary), "PATH": f"{BIN}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def nothing_is_left(directory: Path) -> bool:
    """Whether no file and no process of a demonstration is there any more."""
    marker = str(directory / "tmp").encode()
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes())
        except OSError:
            continue  # a process that ended meanwhile
    return not any((directory / "tmp").iterdir()) and not any(marker in command for command in commands)


def everything(api_url: str, api_key: str) -> list[dict[str, Any]]:
    """Every RRset below `example.`, name servers of the root included."""
    request = urllib.request.Request(
        f"{api_url}/dnsdb/v2/lookup/rrset/name/*.example?limit=0", headers={"X-API-Key": api_key}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = [json.loads(line) for line in answer]
    assert lines[-1] == {"cond": "succeeded"}
    return [line["obj"] for line in lines if "obj" in line]


def test_what_is_searchable_is_what_the_resolver_was_told(tmp_path: Path, traffic: Traffic) -> None:
    with start(tmp_path, "--json", "--keep") as demo:
        try:
            assert demo.stdout is not None
            report = json.loads(demo.stdout.readline())
            rows = everything(report["api_url"], report["api_key"])
        finally:
            demo.send_signal(signal.SIGINT)
            _, said = demo.communicate(timeout=60)
    assert demo.returncode == 0, said
    (sensor,) = report["sensors"]
    assert sensor["captured"] == sensor["acknowledged"] == TRANSACTIONS
    assert sensor["searchable"] + sum(sensor["without_records"].values()) == TRANSACTIONS
    assert sensor["without_records"]["filtered_type"] == traffic.unanswered
    stored: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
    for row in rows:
        assert row["count"] > 0
        stored[row["rrname"], row["rrtype"], tuple(sorted(text.lower() for text in row["rdata"]))] += row[
            "count"
        ]
    assert stored == traffic.rrsets
    assert report["rrsets"] == len(rows)
    for trace in (STUB_LABEL, *map(str, STUB_ADDRESSES), *map(str, RESOLVERS)):
        assert trace not in json.dumps(rows)
    assert report["output"] is None or "count:" in report["output"]
    assert nothing_is_left(tmp_path)


def test_people_see_progress_and_a_table(tmp_path: Path, traffic: Traffic) -> None:
    with start(tmp_path) as demo:
        out, said = demo.communicate(timeout=120)
    assert demo.returncode == 0, said
    assert "replaying up.pcap into the hub ..." in said
    assert f"{TRANSACTIONS:>10}{TRANSACTIONS:>14}" in out
    assert "dnsdbq -u dnsdb2 -r" in out
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_behind(
    tmp_path: Path, traffic: Traffic, number: signal.Signals
) -> None:
    with start(tmp_path) as demo:
        assert demo.stderr is not None
        while "starting enrol" not in (said := demo.stderr.read(1) + (demo.stderr.readline())):
            assert said, "the demonstration ended too early"
        demo.send_signal(number)
        demo.send_signal(number)
        _, said = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "nothing is left behind" in said
    assert nothing_is_left(tmp_path)


def test_mistakes_get_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.pcap").write_text("this is no capture")
    with start(tmp_path, capture="missing.pcap") as demo:
        _, said = demo.communicate(timeout=60)
    assert demo.returncode == 2
    assert "missing.pcap: no such file" in said
    with start(tmp_path, capture="text.pcap") as demo:
        _, said = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "the demonstration failed" in said
    assert "text.pcap" in said
    assert "Traceback" not in said
    assert nothing_is_left(tmp_path)
