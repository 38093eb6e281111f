"""Containers with known content: a resolver's generated traffic, recorded as a sensor would."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from sie_core._native import PcapSource, Recorder, dedupe_records, name_to_text
from tests.traffic.frames import write_pcap
from tests.traffic.generator import RESOLVERS, RRset, generate

START = 1_790_000_000.0


@dataclass(frozen=True)
class Sample:
    """Containers, the transactions in each, and how often each RRset was seen in all of them."""

    containers: list[bytes]
    transactions: list[int]
    rrsets: Counter[RRset]


def record(
    directory: Path,
    transactions: int,
    *,
    container_bytes: int = 4096,
    seed: int = 1,
    codec: str = "zstd",
    source: int = 0,
    operator: int = 0,
    group: int = 0,
) -> Sample:
    """Generate traffic and record it, in many small containers. Equal arguments give equal containers."""
    traffic = generate(transactions, seed, START)
    path = directory / f"sample-{seed}.pcap"
    write_pcap(path, traffic.frames)
    recorder = Recorder(
        [str(address) for address in RESOLVERS],
        container_bytes=container_bytes,
        flush_interval=60.0,
        codec=codec,
        source=source,
        operator=operator,
        group=group,
    )
    frames = PcapSource(str(path))
    containers = []
    while not recorder.at_end:
        containers += recorder.pump(frames, 1.0)
    containers += recorder.finish()
    assert sum(container.transactions for container in containers) == transactions
    return Sample(
        [container.data for container in containers],
        [container.transactions for container in containers],
        traffic.rrsets,
    )


def counted(outputs: Iterable[bytes]) -> Counter[RRset]:
    """How often each RRset was seen according to messages of SIE."""
    seen: Counter[RRset] = Counter()
    for output in outputs:
        for rrname, number, rrclass, _bailiwick, rdata, count, _first, _last, _ttl in dedupe_records(output):
            rrtype = dns.rdatatype.RdataType.make(number)
            texts = (
                dns.rdata.from_wire(dns.rdataclass.RdataClass.make(rrclass), rrtype, wire, 0, len(wire))
                .to_text()
                .lower()
                for wire in rdata
            )
            owner = name_to_text(rrname)
            seen[(owner, dns.rdatatype.to_text(rrtype), tuple(sorted(texts)))] += count
    return seen
