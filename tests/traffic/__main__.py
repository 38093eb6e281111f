"""python -m tests.traffic OUT.pcap --transactions N --seed S: write generated traffic and print its truth as
JSON."""

import argparse
import json
import sys
import time
from pathlib import Path

from tests.traffic import generate, write_pcap
from tests.traffic.generator import RATE


def main() -> int:
    """Write one file. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.traffic")
    parser.add_argument("out", type=Path, metavar="OUT.pcap")
    parser.add_argument("--transactions", type=int, default=5000, metavar="N")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="S", help="equal seeds give equal traffic (default: 1)"
    )
    parser.add_argument(
        "--start",
        type=float,
        metavar="SECONDS",
        help="the Unix time of the first packet (default: so that the last one is now)",
    )
    arguments = parser.parse_args()
    start = arguments.start
    if start is None:
        start = time.time() - arguments.transactions / RATE
    traffic = generate(arguments.transactions, arguments.seed, start)
    write_pcap(arguments.out, traffic.frames)
    print(
        json.dumps(
            {
                "packets": len(traffic.frames),
                "transactions": traffic.transactions,
                "unanswered": traffic.unanswered,
                "stub_packets": traffic.noise_frames,
                "rrsets": len(traffic.rrsets),
                "observations": traffic.rrsets.total(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
