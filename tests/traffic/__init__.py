"""Generated traffic of one recursive resolver, with its truth: what a sensor must find in it, and what it
must not.

    traffic = generate(5000, seed=1, start=time.time() - 10)
    write_pcap(path, traffic.frames)
    traffic.rrsets        how often each RRset was observed

The resolver asks authoritative servers over IPv4 and IPv6; beside it stub clients talk to the resolver, in
every way in which they might be mistaken for it. All names are below `example.`, all addresses are for
documentation.
"""

from tests.traffic.frames import Frame, write_pcap
from tests.traffic.generator import RESOLVERS, STUB_ADDRESSES, STUB_LABEL, Traffic, generate

__all__ = ["RESOLVERS", "STUB_ADDRESSES", "STUB_LABEL", "Frame", "Traffic", "generate", "write_pcap"]
