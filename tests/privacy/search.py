"""Searches what a sensor has written: every octet, and everything that the octets say."""

import re
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import dns.message
import dns.name

from sie_core._native import decode
from tests.fleet.traces import forms, octets
from tests.traffic.frames import checksum_of

from .traffic import EXTENDED_ERROR, HARDWARE_ADDRESS, HIDDEN, NSID, SERVERS, STRANGERS

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""RFC 8878 section 3.1.1."""
NMSG_HEADER_OCTETS, ZLIB_LENGTH_OCTETS = 10, 4
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58


KINDS = ("public", "secret", "paired")
"""What labels that hold marks begin with."""


def named(data: bytes) -> set[str]:
    """Whatever of the traffic occurs in octets that are to say nothing of any of it: names and addresses of
    whoever it is, the resolvers alone excepted, which the agent's own configuration names.
    """
    data = data.lower()
    labels = re.findall(rf"(?:{'|'.join(KINDS)})-[0-9]{{5}}".encode(), data)
    addresses = [one for one in (*STRANGERS, *SERVERS) if any(form.lower() in data for form in forms(one))]
    hidden = [mark for mark in (HIDDEN, HARDWARE_ADDRESS) if mark.lower() in data]
    return {*map(bytes.decode, labels), *addresses, *map(repr, hidden)}


class Written:
    """Containers as they were written, whatever their codec.

    The octets are searched unpacked, since nothing can be found in compressed ones; the programs that unpack
    them refuse whatever does not belong to them, so that nothing lies between.
    """

    def __init__(self, data: bytes) -> None:
        self.messages: list[dict[str, Any]] = [payload["message"] for payload in decode(data, limit=1 << 28)]
        self._octets = b"\0\xff\0".join([unpacked(data), *octets(self.messages)]).lower()

    def labels(self, kind: str) -> set[str]:
        """The marked labels of a kind, in any spelling."""
        return {label.decode() for label in re.findall(rf"{kind}-[0-9]{{5}}".encode(), self._octets)}

    def addresses(self, wanted: Iterable[str]) -> set[str]:
        """Which of the addresses occur, as octets or as text."""
        return {address for address in wanted if any(form.lower() in self._octets for form in forms(address))}

    def strangers(self) -> set[str]:
        """Addresses of those who have no part in it, and octets of options, hardware and padding."""
        marks = {"option or padding": HIDDEN, "hardware address": HARDWARE_ADDRESS}
        return self.addresses(STRANGERS) | {
            what for what, mark in marks.items() if mark.lower() in self._octets
        }

    def packets(self) -> Iterator["Packet"]:
        """Every packet that a transaction keeps, and every packet quoted in one."""
        for message in self.messages:
            kept = [*message.get("query_packet", []), *message.get("response_packet", [])]
            for datagram in [*kept, *([message["icmp"]] if "icmp" in message else [])]:
                packet = Packet.read(datagram)
                yield packet
                if packet.quoted is not None:
                    yield Packet.read(packet.quoted)


@dataclass(frozen=True)
class Packet:
    """A kept packet: an IP header without options, UDP, TCP or ICMP, and what they carry."""

    addresses: tuple[str, str]
    ports: tuple[int, int] | None
    message: bytes | None
    quoted: bytes | None
    summed: bool
    """Whether every checksum is that of what the packet shows: one that was computed before something was
    cleared tells 16 bits of it.
    """

    @classmethod
    def read(cls, packet: bytes) -> "Packet":
        """Take a packet apart; its lengths must be exact."""
        if packet[0] >> 4 == 4:
            assert packet[0] & 15 == 5, "IPv4 options"
            assert checksum_of(packet[:20]) == 0, "the IP header's checksum"
            length, protocol, start = int.from_bytes(packet[2:4], "big"), packet[9], 20
            ends = packet[12:16], packet[16:20]
        else:
            length, protocol, start = 40 + int.from_bytes(packet[4:6], "big"), packet[6], 40
            ends = packet[8:24], packet[24:40]
        assert length == len(packet), "octets behind the IP datagram"
        addresses = (str(ip_address(ends[0])), str(ip_address(ends[1])))
        body = packet[start:]
        pseudo_header = b"" if protocol == ICMP else b"".join(ends) + bytes([0, protocol])
        absent = protocol == UDP and body[6:8] == b"\0\0"
        summed = absent or checksum_of(pseudo_header + body, len(body) if pseudo_header else 0) == 0
        if protocol in (ICMP, ICMPV6):
            return cls(addresses, None, None, body[8:], summed)
        ports = (int.from_bytes(body[0:2], "big"), int.from_bytes(body[2:4], "big"))
        if protocol == UDP:
            assert int.from_bytes(body[4:6], "big") == len(body), "octets behind the UDP datagram"
            return cls(addresses, ports, body[8:], None, summed)
        assert (protocol, body[12] >> 4) == (TCP, 5), "TCP options"
        data = body[20:]
        assert int.from_bytes(data[:2], "big") == max(len(data) - 2, 0), "more or less than the message"
        return cls(addresses, ports, data[2:], None, summed)


def unpacked(data: bytes) -> bytes:
    """What is inside of compressed containers, by other programs than ours."""
    if data[:4] == ZSTD_MAGIC:
        return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    inside = []
    while data:
        end = NMSG_HEADER_OCTETS + int.from_bytes(data[6:10], "big")
        body = data[NMSG_HEADER_OCTETS:end]
        inside.append(zlib.decompress(body[ZLIB_LENGTH_OCTETS:]) if data[4] & 1 else body)
        data = data[end:]
    return b"".join(inside)


def options_of(message: dns.message.Message) -> list[tuple[int, bytes]]:
    """The options of a message that are not on the allow-list."""
    private = []
    for option in message.options:
        wire = option.to_wire() or b""
        if option.otype != NSID and not (option.otype == EXTENDED_ERROR and len(wire) == 2):
            private.append((int(option.otype), wire))
    return private


def names_of(message: dns.message.Message) -> Iterator[dns.name.Name]:
    """Every name in a message: the questions', the owners' and those in rdata."""
    for rrset in message.question:
        yield rrset.name
    for section in (message.answer, message.authority, message.additional):
        for rrset in section:
            yield rrset.name
            for rdata in rrset:
                for slot in rdata.__slots__:
                    value = getattr(rdata, slot)
                    values = value if isinstance(value, tuple) else (value,)
                    yield from (value for value in values if isinstance(value, dns.name.Name))
