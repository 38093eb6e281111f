"""python -m tests.bench.loops scapy|dpkt FILE: read a capture and parse every DNS message in it, the way that
scripts do. The floor of what Python costs.
"""

import sys
from contextlib import suppress
from importlib import import_module
from typing import Any


def scapy(path: str) -> int:
    """Dissect every packet with scapy; returns how many hold DNS."""
    from scapy.layers.dns import DNS
    from scapy.utils import PcapReader

    with PcapReader(path) as reader:
        return sum(1 for packet in reader if DNS in packet)


def dpkt(path: str) -> int:
    """Parse every UDP packet with dpkt; returns how many hold DNS."""
    dpkt: Any = import_module("dpkt")  # measured where it is there, needed by nothing
    count = 0
    with open(path, "rb") as file:  # noqa: PTH123 - an interpreter that imports as little as it can
        for _, frame in dpkt.pcap.Reader(file):
            packet = dpkt.ethernet.Ethernet(frame).data
            if isinstance(getattr(packet, "data", None), dpkt.udp.UDP):
                # There are types of records that it does not know.
                with suppress(dpkt.UnpackError):
                    dpkt.dns.DNS(packet.data.data)
                    count += 1
    return count


if __name__ == "__main__":
    print({"scapy": scapy, "dpkt": dpkt}[sys.argv[1]](sys.argv[2]))
