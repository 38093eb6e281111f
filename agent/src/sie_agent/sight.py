"""What an interface shows of DNS over UDP, whatever the recorder makes of it: numbers, and nothing else."""

import ipaddress
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sie_agent.sources import check_system

_ETH_P_ALL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_MR_PROMISC: Final = 1
_PACKET_OUTGOING: Final = 4
_LOOPBACK: Final = 772  # ARPHRD_LOOPBACK
_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN_TAGS: Final = (0x8100, 0x88A8)
_UDP: Final = 17
_DNS: Final = 53
_POLL: Final = 0.2  # seconds between looks at whether to stop

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass
class Sight:
    """Datagrams on an interface: `frames` of any kind, those that go to port 53 (`questions`) or come from it
    (`answers`) with a listed resolver at the other end, and `others` of port 53 with none.
    """

    frames: int = 0
    questions: int = 0
    answers: int = 0
    others: int = 0

    @property
    def both(self) -> bool:
        """Whether both directions of a listed resolver's traffic were seen."""
        return self.questions > 0 and self.answers > 0

    def see(self, frame: bytes, resolvers: Sequence[Network]) -> None:
        """Count an Ethernet frame. Tunnels, extension headers and TCP are not looked into."""
        self.frames += 1
        ends = _ends(frame)
        if ends is None:
            return
        source, source_port, target, target_port = ends
        if _DNS not in (source_port, target_port):
            return
        from_resolver, to_resolver = (
            any(address in network for network in resolvers if network.version == address.version)
            for address in (source, target)
        )
        if target_port == _DNS and from_resolver and not to_resolver:
            self.questions += 1
        elif source_port == _DNS and to_resolver and not from_resolver:
            self.answers += 1
        else:
            self.others += 1


def look(
    interfaces: Sequence[str], resolvers: Sequence[str], seconds: float, meanwhile: Callable[[], None]
) -> Sight:
    """Watch interfaces until both directions are seen, for so long at most, and do something meanwhile; what
    was seen on all together.

    Raises OSError: this needs CAP_NET_RAW, and interfaces that are there; SourceError on another system than
    Linux.
    """
    check_system()
    networks = [ipaddress.ip_network(resolver) for resolver in resolvers]
    sight = Sight()
    with _Taps(interfaces) as taps:
        worker = threading.Thread(target=meanwhile, daemon=True)
        worker.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not (sight.both and not worker.is_alive()):
            for frame in taps.frames():
                sight.see(frame, networks)
        worker.join(seconds)
    return sight


class _Taps:
    """A packet socket on each of some interfaces, promiscuous."""

    def __init__(self, interfaces: Sequence[str]) -> None:
        self._interfaces = interfaces
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> "_Taps":
        """Open them. Raises OSError."""
        try:
            for interface in self._interfaces:
                tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
                self._sockets.append(tap)
                tap.bind((interface, _ETH_P_ALL))
                request = struct.pack("=iHH8s", socket.if_nametoindex(interface), _PACKET_MR_PROMISC, 0, b"")
                tap.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
                tap.settimeout(_POLL / len(self._interfaces))
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        for tap in self._sockets:
            tap.close()

    def frames(self) -> list[bytes]:
        """One frame of each that has one, soon. On a loopback interface what arrives has left by it, too."""
        found = []
        for tap in self._sockets:
            try:
                frame, (_name, _protocol, kind, hardware, _address) = tap.recvfrom(65535)
            except TimeoutError:
                continue
            if not (kind == _PACKET_OUTGOING and hardware == _LOOPBACK):
                found.append(frame)
        return found


def _ends(frame: bytes) -> tuple[Address, int, Address, int] | None:
    """Source and target of a datagram, each with its port."""
    kind, start = int.from_bytes(frame[12:14]), 14
    while kind in _VLAN_TAGS:
        kind, start = int.from_bytes(frame[start + 2 : start + 4]), start + 4
    packet = frame[start:]
    if kind == _IPV4 and len(packet) >= 28 and packet[9] == _UDP:
        source, target, rest = packet[12:16], packet[16:20], packet[4 * (packet[0] & 0x0F) :]
    elif kind == _IPV6 and len(packet) >= 48 and packet[6] == _UDP:
        source, target, rest = packet[8:24], packet[24:40], packet[40:]
    else:
        return None
    if len(rest) < 4:
        return None
    source_port, target_port = struct.unpack("!2H", rest[:4])
    return ipaddress.ip_address(source), source_port, ipaddress.ip_address(target), target_port
