"""The recorder against an independent oracle, packet by packet and transaction by transaction."""

import functools
from pathlib import Path
from typing import Any

import pytest

from sie_core._native import PcapSource, Recorder, decode

from .oracle import Oracle, comparable, same
from .traffic import LINK_TYPES, RESOLVERS, Traffic, write_pcap

SCENES = 250

#: Link type, and how many queries may wait.
CASES = [("ethernet", 131072), ("raw", 131072), ("sll", 5)]


def _microseconds(time: float) -> int:
    return round(time * 1_000_000)


@functools.cache
def _decided(link: str, table_max: int) -> tuple[list[tuple[float, bytes]], dict[str, int], Oracle]:
    """Frames, the oracle's ledger behind the last of them, and the oracle in the end."""
    frames = Traffic(seed=len(link) + table_max, link=link).take(SCENES)
    oracle = Oracle(RESOLVERS, LINK_TYPES[link], table_max=table_max)
    for time, frame in frames:
        oracle.see(_microseconds(time), frame)
    ledger = oracle.ledger()
    oracle.finish()
    return frames, ledger, oracle


def _ledger(counters: dict[str, int]) -> dict[str, int]:
    taken = ("packets_", "messages_", "transactions_pending")
    return {name: count for name, count in counters.items() if name.startswith(taken) and count}


@pytest.mark.parametrize(("link", "table_max"), CASES)
def test_transactions_are_those_of_the_oracle(tmp_path: Path, link: str, table_max: int) -> None:
    frames, ledger, oracle = _decided(link, table_max)
    pcap = tmp_path / "traffic.pcap"
    write_pcap(pcap, frames, LINK_TYPES[link])
    # Compressed containers hold their transactions in another order.
    recorder, source = Recorder(RESOLVERS, table_max=table_max, codec="none"), PcapSource(str(pcap))
    containers = []
    while not recorder.at_end:
        containers += recorder.pump(source, 10)
    assert _ledger(recorder.counters()) == ledger
    containers += recorder.finish()
    assert _ledger(recorder.counters()) == oracle.ledger()

    found = [comparable(payload) for payload in decode(b"".join(container.data for container in containers))]
    for number, (transaction, expected) in enumerate(zip(found, oracle.transactions, strict=False)):
        assert same(transaction, expected), f"transaction {number}:\n{transaction}\n{expected}"
    assert len(found) == len(oracle.transactions)
    assert source.warning is None


def test_the_traffic_has_something_of_everything() -> None:
    outcomes: set[str] = set()
    transactions: list[dict[str, Any]] = []
    for case in CASES:
        _, ledger, oracle = _decided(*case)
        outcomes |= ledger.keys() | oracle.ledger().keys()
        transactions += oracle.transactions
    assert outcomes == {
        "packets_seen",
        "packets_waiting",
        "packets_passed",
        "packets_filtered_direction",
        "packets_filtered_both_listed",
        "packets_filtered_no_data",
        "packets_filtered_port",
        "packets_filtered_protocol",
        "packets_filtered_retransmitted",
        "packets_rejected_malformed",
        "packets_rejected_out_of_step",
        "packets_rejected_overlap",
        "packets_lost_gap",
        "packets_lost_time",
        "packets_lost_unfinished",
        "messages_seen",
        "transactions_pending",
        "messages_recorded",
        "messages_filtered_direction",
        "messages_filtered_local_zone",
        "messages_filtered_opcode",
        "messages_filtered_qtype",
        "messages_filtered_rd",
        "messages_filtered_scope",
        "messages_rejected_malformed",
    }
    kinds = {(transaction["type"], transaction["proto"]) for transaction in transactions}
    assert kinds == {
        ("UDP_QUERY_RESPONSE", 17),
        ("UDP_QUERY_RESPONSE", 6),
        ("UDP_UNANSWERED_QUERY", 17),
        ("UDP_UNANSWERED_QUERY", 6),
        ("UDP_UNSOLICITED_RESPONSE", 17),
        ("UDP_UNSOLICITED_RESPONSE", 6),
        ("ICMP", 1),
        ("ICMP", 58),
    }
    sizes = [
        len(transaction["response"]["message"]) for transaction in transactions if "response" in transaction
    ]
    assert max(sizes) == 65_535
