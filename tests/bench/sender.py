"""python -m tests.bench.sender INTERFACE FILE RATE SECONDS: put a capture on a link, over and over.

Many packets go to the kernel in one call (sendmmsg), straight to the device (PACKET_QDISC_BYPASS), because
one call for each leaves too little of a processor for 300,000 packets a second. Ends with what was sent, as
JSON.
"""

import ctypes
import json
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.traffic.frames import PCAP_HEADER, PCAP_RECORD

SOL_PACKET: Final = 263
PACKET_QDISC_BYPASS: Final = 20
"""linux/if_packet.h; Python's socket module does not name them."""

BATCH: Final = 64
"""Packets of one call: 0.2 ms of traffic at 300,000 a second."""

ENOUGH: Final = 50e-6
"""Seconds below which sleeping costs more than it gives."""

_IOVEC: Final = struct.Struct("@PN")
# struct mmsghdr of a 64-bit system: name, its length, iovec, how many, control, its length, flags; octets
# sent.
_MMSGHDR: Final = struct.Struct("@PIxxxxPNPNixxxxIxxxx")


@dataclass(frozen=True)
class Sent:
    """What went out."""

    packets: int
    seconds: float

    @property
    def rate(self) -> float:
        """Packets a second."""
        return self.packets / self.seconds


def send(interface: str, pcap: Path, rate: float, seconds: float) -> Sent:
    """Send at a rate, or as fast as this machine can if that is less. Raises OSError."""
    if _MMSGHDR.size != 64:
        raise OSError("the sender knows struct mmsghdr of 64-bit systems only")
    library = ctypes.CDLL(None, use_errno=True)
    with (
        pcap.open("rb") as file,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as octets,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link,
    ):
        link.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        link.bind((interface, 0))
        begin = ctypes.c_char.from_buffer(octets)
        try:
            packets, messages, _kept = prepared(octets, ctypes.addressof(begin))
            start = ctypes.addressof(messages)
            count, began = 0, time.monotonic()
            while (now := time.monotonic()) - began < seconds:
                ahead = count / rate - (now - began)
                if ahead > ENOUGH:
                    time.sleep(ahead)
                first = count % packets
                number = min(BATCH, packets - first)
                done = library.sendmmsg(
                    link.fileno(), ctypes.c_void_p(start + first * _MMSGHDR.size), number, 0
                )
                if done < 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                count += done
            return Sent(count, time.monotonic() - began)
        finally:
            del begin


def prepared(
    octets: mmap.mmap, address: int
) -> tuple[int, ctypes.Array[ctypes.c_char], ctypes.Array[ctypes.c_char]]:
    """How many packets there are, an mmsghdr for each, and the iovecs that those point to."""
    places = list(_places(octets))
    iovecs = ctypes.create_string_buffer(len(places) * _IOVEC.size)
    messages = ctypes.create_string_buffer(len(places) * _MMSGHDR.size)
    vectors = ctypes.addressof(iovecs)
    for number, (place, size) in enumerate(places):
        _IOVEC.pack_into(iovecs, number * _IOVEC.size, address + place, size)
        _MMSGHDR.pack_into(
            *(messages, number * _MMSGHDR.size, 0, 0, vectors + number * _IOVEC.size, 1, 0, 0, 0, 0)
        )
    return len(places), messages, iovecs


def _places(octets: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where each packet of a capture is, and how long."""
    at = len(PCAP_HEADER)
    while at < len(octets):
        size = PCAP_RECORD.unpack_from(octets, at)[2]
        at += PCAP_RECORD.size
        yield at, size
        at += size


if __name__ == "__main__":
    sent = send(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
    print(json.dumps(asdict(sent)))
