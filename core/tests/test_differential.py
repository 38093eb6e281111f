"""The recorder against an independent oracle, packet by packet and transaction by transaction."""

from pathlib import Path
from typing import Any

import pytest

from sie_core._native import PcapSource, Recorder, decode

from .oracle import Oracle, comparable
from .traffic import LINK_TYPES, RESOLVERS, Traffic, write_pcap

SCENES = 250
AS_THEY_CAME: dict[str, Any] = {"suppress_special_use": False, "keep_edns_options": True}
"""Settings that judge no name and change no message."""


def _microseconds(time: float) -> int:
    return round(time * 1_000_000)


@pytest.mark.parametrize("table_max", [131072, 5])
@pytest.mark.parametrize("link", LINK_TYPES)
def test_transactions_are_those_of_the_oracle(tmp_path: Path, link: str, table_max: int) -> None:
    frames = Traffic(seed=len(link) + table_max, link=link).take(SCENES)
    pcap = tmp_path / "traffic.pcap"
    write_pcap(pcap, frames, LINK_TYPES[link])
    oracle = Oracle(RESOLVERS, LINK_TYPES[link], table_max=table_max)
    for time, frame in frames:
        oracle.see(_microseconds(time), frame)
    oracle.finish()

    recorder = Recorder(RESOLVERS, table_max=table_max, codec="none", **AS_THEY_CAME)
    source = PcapSource(str(pcap))
    containers = []
    while not recorder.at_end:
        containers += recorder.pump(source, 10)
    containers += recorder.finish()
    found = [comparable(payload) for payload in decode(b"".join(container.data for container in containers))]

    counters = recorder.counters()
    outcomes = {
        name: count
        for name, count in counters.items()
        if name.startswith(("packets_", "messages_")) and not name.endswith("_seen") and count
    }
    assert outcomes == dict(oracle.outcomes)
    assert counters["packets_seen"] == len(frames)
    for number, (transaction, expected) in enumerate(zip(found, oracle.transactions, strict=False)):
        # Seconds as float, subtracted in another order.
        waited = expected.pop("timeout", None)
        expected_wait = None if waited is None else pytest.approx(waited, abs=1e-6)
        assert transaction.pop("timeout", None) == expected_wait
        assert transaction == expected, f"transaction {number}"
    assert len(found) == len(oracle.transactions)
    assert source.warning is None


def test_the_traffic_has_something_of_everything() -> None:
    seen: set[str] = set()
    kinds: set[str] = set()
    for link, number in LINK_TYPES.items():
        oracle = Oracle(RESOLVERS, number)
        for time, frame in Traffic(seed=len(link) + 131072, link=link).take(SCENES):
            oracle.see(_microseconds(time), frame)
        oracle.finish()
        seen |= set(oracle.outcomes)
        kinds |= {transaction["type"] for transaction in oracle.transactions}
    assert seen == {
        "packets_passed",
        "packets_filtered_direction",
        "packets_filtered_both_listed",
        "packets_filtered_port",
        "packets_filtered_protocol",
        "packets_rejected_malformed",
        "packets_rejected_fragment",
        "messages_recorded",
        "messages_filtered_direction",
        "messages_filtered_rd",
        "messages_filtered_opcode",
        "messages_filtered_qtype",
        "messages_rejected_malformed",
    }
    assert kinds == {"UDP_QUERY_RESPONSE", "UDP_UNANSWERED_QUERY", "UDP_UNSOLICITED_RESPONSE"}
