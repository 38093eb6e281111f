"""A capture as the resolver itself would have told it by dnstap: for peers whose way in is that.

Of the capture's packets those are told that are whole datagrams of DNS, 94 of 100; connections and fragments
would have to be put together first, which is a sensor's work and not this file's.
"""

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.dnstap import RESOLVER_QUERY, RESOLVER_RESPONSE, START, STOP, control, field, varint
from tests.traffic.frames import PCAP_HEADER, PCAP_RECORD

_UDP: Final = 17
_PORT: Final = 53
_ETHERNET: Final = 14
_VERSION: Final = b"unbound 1.17.1"


def told(pcap: Path) -> Path:
    """The file of dnstap frames for a capture, made beside it if it is not there yet."""
    made = pcap.with_suffix(".fstrm")
    if not made.exists():
        with tempfile.NamedTemporaryFile(dir=pcap.parent, delete=False) as file:
            file.write(control(START))
            file.writelines(_frames(pcap))
            file.write(control(STOP))
        Path(file.name).replace(made)
    return made


def _frames(pcap: Path) -> Iterator[bytes]:
    with pcap.open("rb") as file:
        file.seek(len(PCAP_HEADER))
        while header := file.read(PCAP_RECORD.size):
            seconds, microseconds, size, _ = PCAP_RECORD.unpack(header)
            frame = _frame(file.read(size)[_ETHERNET:], seconds, microseconds * 1000)
            if frame is not None:
                yield struct.pack(">I", len(frame)) + frame


def _frame(packet: bytes, seconds: int, nanoseconds: int) -> bytes | None:
    """The frame for an IP packet; None if it is no whole datagram between a resolver and a server."""
    if packet[0] >> 4 == 4:
        fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
        if packet[9] != _UDP or fragment:
            return None
        family, source, destination, transport = 1, packet[12:16], packet[16:20], (packet[0] & 15) * 4
    else:
        if packet[6] != _UDP:
            return None
        family, source, destination, transport = 2, packet[8:24], packet[24:40], 40
    sport, dport, length = struct.unpack_from(">HHH", packet, transport)
    message = packet[transport + 8 : transport + length]
    query = dport == _PORT
    resolver, server, port = (source, destination, sport) if query else (destination, source, dport)
    body = (
        field(1, RESOLVER_QUERY if query else RESOLVER_RESPONSE)
        + field(2, family)
        + field(3, 1)
        + field(4, resolver)
        + field(5, server)
        + field(6, port)
        + field(7, _PORT)
        + field(8 if query else 12, seconds)
        + varint((9 if query else 13) << 3 | 5)
        + struct.pack("<I", nanoseconds)
        + field(10 if query else 14, message)
    )
    return field(2, _VERSION) + field(14, body) + field(15, 1)
