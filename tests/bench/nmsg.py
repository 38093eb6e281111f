"""Reads base:dnsqr out of NMSG files with Google's protobuf, so that our own decoder is not asked about our
own encoder.
"""

import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import IO, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.bench import truth
from tests.traffic.frames import checksum_of

HEADER: Final = struct.Struct("!4sBBI")
ZLIB: Final = 0x01

ICMP: Final = 1
TCP: Final = 6
CORRECT: Final = 3
"""UdpChecksum of a response that was verified."""

ICMP_HEADER_OCTETS: Final = 8
TCP_HEADER_OCTETS: Final = 20
UDP_HEADER_OCTETS: Final = 8

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES: Final = {
    "uint32": _Field.TYPE_UINT32,
    "int64": _Field.TYPE_INT64,
    "fixed32": _Field.TYPE_FIXED32,
    "sfixed32": _Field.TYPE_SFIXED32,
    "double": _Field.TYPE_DOUBLE,
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "payload": _Field.TYPE_MESSAGE,
}
_SCHEMA: Final = {
    "Nmsg": "payload* payloads 1, uint32* payload_crcs 2, uint32 sequence 3",
    "Payload": "uint32 vid 1, uint32 msgtype 2, int64 time_sec 3, fixed32 time_nsec 4, bytes payload 5, "
    "uint32 source 7, uint32 operator 8, uint32 group 9",
    "DnsQR": "uint32 type 1, bytes query_ip 2, bytes response_ip 3, uint32 proto 4, uint32 query_port 5, "
    "uint32 response_port 6, uint32 id 7, bytes qname 8, uint32 qtype 9, uint32 qclass 10, uint32 rcode 11, "
    "bytes* query_packet 12, int64* query_time_sec 13, sfixed32* query_time_nsec 14, "
    "bytes* response_packet 15, int64* response_time_sec 16, sfixed32* response_time_nsec 17, "
    "bytes tcp 18, bytes icmp 19, double timeout 20, uint32 udp_checksum 21, bool resolver_address_zeroed 22",
}
"""Fields of proto2, all optional; a star says repeated. Base vendor, type 9."""


class Unreadable(Exception):
    """An output that is not what its format says."""


@cache
def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="bench.proto", package="bench", syntax="proto2")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field in fields.split(", "):
            kind, label, number = field.split()
            added = message.field.add(name=label, number=int(number), type=_TYPES[kind.rstrip("*")])
            added.label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
            if kind.startswith("payload"):
                added.type_name = ".bench.Payload"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"bench.{name}")) for name in _SCHEMA
    }


def transactions(file: IO[bytes], name: str) -> Iterator[tuple[int, Any]]:
    """Every dnsqr message of a file, with the time of its payload in microseconds. Raises Unreadable."""
    classes = _classes()
    while head := file.read(HEADER.size):
        magic, flags, version, octets = HEADER.unpack(head)
        if (magic, version) != (b"NMSG", 2):
            raise Unreadable(f"{name}: a container begins with {head.hex()}")
        body = file.read(octets)
        if flags & ZLIB:
            inflated = int.from_bytes(body[:4])
            body = zlib.decompress(body[4:])
            if len(body) != inflated:
                raise Unreadable(f"{name}: a container of {len(body)} octets says that it has {inflated}")
        for payload in classes["Nmsg"].FromString(body).payloads:
            time = 1_000_000 * payload.time_sec + payload.time_nsec // 1000
            yield time, classes["DnsQR"].FromString(payload.payload)


def view(time: int, found: Any) -> str:
    """A message in the form in which the truth has its transactions; one whose packet contradicts it, or has
    wrong lengths or checksums, stands there with what is wrong with it.
    """
    message = truth.NOTHING
    try:
        if found.response_packet:
            message = truth.digest(_response(found))
        elif found.icmp:
            message = truth.digest(_quoted(found))
    except Unreadable as wrong:
        message = str(wrong)
    return truth.line(
        found.type,
        found.proto,
        found.query_ip,
        found.response_ip,
        found.query_port,
        found.id,
        found.qname,
        found.qtype,
        found.rcode if found.HasField("rcode") else None,
        _microseconds(found.query_time_sec, found.query_time_nsec),
        time if found.icmp else _microseconds(found.response_time_sec, found.response_time_nsec),
        message,
    )


def _microseconds(seconds: Any, nanoseconds: Any) -> int | None:
    """When the last packet came."""
    times = (1_000_000 * second + nano // 1000 for second, nano in zip(seconds, nanoseconds, strict=True))
    return max(times, default=None)


def _response(found: Any) -> bytes:
    """The DNS message of a response: of a datagram, of its fragments, or of the segments of TCP.

    Raises Unreadable.
    """
    packets = list(found.response_packet)
    ends = found.response_ip + found.query_ip
    if found.proto == TCP:
        octets = b"".join(_carried(packet, ends)[TCP_HEADER_OCTETS:] for packet in packets)
        if int.from_bytes(octets[:2]) != len(octets) - 2:
            raise Unreadable(f"{len(octets)} octets of TCP that begin with {octets[:2].hex()}")
        return octets[2:]
    if found.udp_checksum != CORRECT:
        raise Unreadable(f"UDP checksum {found.udp_checksum}")
    if len(packets) > 1:
        return b"".join(map(_of_fragment, packets))[UDP_HEADER_OCTETS:]
    datagram = _carried(packets[0], ends)
    if int.from_bytes(datagram[4:6]) != len(datagram):
        raise Unreadable(f"a datagram of {len(datagram)} octets says {int.from_bytes(datagram[4:6])}")
    return datagram[UDP_HEADER_OCTETS:]


def _quoted(found: Any) -> bytes:
    """The DNS message in the UDP datagram that an ICMP error quotes. Raises Unreadable."""
    error = _carried(found.icmp, found.response_ip + found.query_ip)
    datagram = _carried(error[ICMP_HEADER_OCTETS:], found.query_ip + found.response_ip)
    return datagram[UDP_HEADER_OCTETS:]


def _carried(packet: bytes, ends: bytes) -> bytes:
    """What an IP datagram between these ends carries. Raises Unreadable."""
    if packet[0] >> 4 == 4:
        length, protocol, at, addresses = int.from_bytes(packet[2:4]), packet[9], 20, packet[12:20]
        if checksum_of(packet[:20]):
            raise Unreadable(f"wrong checksum of the header {packet[:20].hex()}")
    else:
        length, protocol, at, addresses = 40 + int.from_bytes(packet[4:6]), packet[6], 40, packet[8:40]
    if length != len(packet):
        raise Unreadable(f"a packet of {len(packet)} octets says {length}")
    if addresses != ends:
        raise Unreadable(f"a packet between {addresses.hex()}")
    carried = packet[at:]
    # That of ICMP alone is not over the addresses too (RFC 792).
    pseudo = b"" if protocol == ICMP else addresses
    if checksum_of(pseudo + carried, protocol + len(carried) if pseudo else 0):
        raise Unreadable(f"wrong checksum of protocol {protocol} in {packet[: at + 20].hex()}")
    return carried


def _of_fragment(packet: bytes) -> bytes:
    return packet[20:] if packet[0] >> 4 == 4 else packet[48:]
