"""python -m tests.docs.wire CAPTURE INTERFACE: put the frames of a capture on a wire, again and again."""

import socket
import struct
import sys
import time
from itertools import cycle
from pathlib import Path

FILE_HEADER, RECORD_HEADER = 24, 16
PAUSE = 0.0005  # seconds between frames: some thousand a second, as a busy resolver has them


def frames(capture: Path) -> list[bytes]:
    """What a pcap file of this machine's octet order holds."""
    octets, found, at = capture.read_bytes(), [], FILE_HEADER
    while at < len(octets):
        (length,) = struct.unpack_from("<I", octets, at + 8)
        at += RECORD_HEADER
        found.append(octets[at : at + length])
        at += length
    return found


if __name__ == "__main__":
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((sys.argv[2], 0))
        for frame in cycle(frames(Path(sys.argv[1]))):
            raw.send(frame)
            time.sleep(PAUSE)
