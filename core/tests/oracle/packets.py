"""From frames to whole IP datagrams: link layers, tunnels, fragments."""

from collections.abc import Callable
from dataclasses import dataclass, field

from scapy.contrib.erspan import ERSPAN_II
from scapy.layers.inet import IP
from scapy.layers.inet import UDP as UDPHeader
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE as GREHeader

ETHERTYPES = {0x0800: 4, 0x86DD: 6}
VLAN_TAGS = {0x8100, 0x88A8, 0x9100}
EXTENSIONS = {0, 43, 60}
FRAGMENT = 44
ICMP, TCP, UDP, GRE, ICMPV6 = 1, 6, 17, 47, 58
VXLAN_PORT = 4789
TUNNELS = 2
PATIENCE = 30_000_000


class Refused(Exception):
    """The outcome of a packet that carries no message."""


@dataclass(frozen=True)
class Packet:
    """An IP packet, and behind its headers what `protocol` says; or a piece of that."""

    octets: bytes
    source: bytes
    destination: bytes
    protocol: int
    transport: int
    piece: tuple[int, int, bool] | None = None

    @property
    def payload(self) -> bytes:
        return self.octets[self.transport :]


def network(link: int, frame: bytes) -> bytes:
    """The octets from the IP header on."""
    if link == 101:
        if not frame or frame[0] >> 4 not in {4, 6}:
            raise Refused("rejected_malformed")
        return frame
    return tagged(frame, 12 if link == 1 else 14)


def tagged(frame: bytes, offset: int) -> bytes:
    for _ in range(3):
        if len(frame) < offset + 2:
            raise Refused("rejected_malformed")
        ethertype = int.from_bytes(frame[offset : offset + 2], "big")
        if ethertype in ETHERTYPES:
            octets = frame[offset + 2 :]
            if len(octets) < 20 or octets[0] >> 4 != ETHERTYPES[ethertype]:
                raise Refused("rejected_malformed")
            return octets
        if ethertype not in VLAN_TAGS:
            break
        offset += 4
    raise Refused("filtered_protocol")


def innermost(link: int, frame: bytes, wanted: set[int], *, encapsulated: bool) -> Packet:
    """The IP packet of a frame; if mirrors may wrap frames in tunnels, what is in them."""
    octets = network(link, frame)
    for _ in range(TUNNELS if encapsulated else 0):
        outer = parsed(octets, wanted | {GRE})
        inside = _inside_gre(outer) if outer.protocol == GRE else _inside_vxlan(outer)
        if inside is None:
            return outer
        octets = inside
    return parsed(octets, wanted)


def _inside_gre(outer: Packet) -> bytes:
    if outer.piece is not None:
        raise Refused("rejected_fragment")
    if len(outer.payload) < 4:
        raise Refused("rejected_malformed")
    gre = GREHeader(outer.payload[:16])
    if gre.routing_present or gre.version:
        raise Refused("filtered_protocol")
    octets = 4 + 4 * (gre.chksum_present + gre.key_present + gre.seqnum_present)
    inside = outer.payload[octets:]
    if len(outer.payload) < octets:
        raise Refused("rejected_malformed")
    if gre.proto in ETHERTYPES:
        if not inside or inside[0] >> 4 != ETHERTYPES[gre.proto]:
            raise Refused("rejected_malformed")
        return inside
    if gre.proto == 0x6558:
        return tagged(inside, 12)
    if gre.proto != 0x88BE or not gre.seqnum_present:
        raise Refused("filtered_protocol")
    if len(inside) < 8:
        raise Refused("rejected_malformed")
    erspan = ERSPAN_II(inside[:8])
    if erspan.ver != 1:
        raise Refused("filtered_protocol")
    if erspan.t:
        raise Refused("rejected_truncated")
    return tagged(inside[8:], 12)


def _inside_vxlan(outer: Packet) -> bytes | None:
    if outer.protocol != UDP or outer.piece is not None or len(outer.payload) < 16:
        return None
    udp = UDPHeader(outer.payload[:8])
    if udp.dport != VXLAN_PORT or udp.sport == 53 or not outer.payload[8] & 8:
        return None
    return tagged(outer.payload[16:], 12)


def parsed(octets: bytes, wanted: set[int]) -> Packet:
    if len(octets) < (20 if octets[0] >> 4 == 4 else 40):
        raise Refused("rejected_malformed")
    return _ipv4(octets, wanted) if octets[0] >> 4 == 4 else _ipv6(octets, wanted)


def _ipv4(octets: bytes, wanted: set[int]) -> Packet:
    ip = IP(octets[:20])
    if ip.ihl < 5:
        raise Refused("rejected_malformed")
    if ip.proto not in wanted:
        raise Refused("filtered_protocol")
    if not ip.ihl * 4 <= ip.len <= len(octets):
        raise Refused("rejected_malformed")
    more = "MF" in str(ip.flags)
    piece = (ip.id, ip.frag * 8, more) if ip.frag or more else None
    return Packet(octets[: ip.len], octets[12:16], octets[16:20], ip.proto, ip.ihl * 4, piece)


def _ipv6(octets: bytes, wanted: set[int]) -> Packet:
    ip = IPv6(octets[:40])
    following, transport, piece = ip.nh, 40, None
    for _ in range(4):
        if following not in EXTENSIONS | {FRAGMENT}:
            break
        if len(octets) < transport + 8:
            raise Refused("rejected_malformed")
        fragment, extension = following == FRAGMENT, octets[transport : transport + 8]
        following = extension[0]
        transport += 8 if fragment else 8 * (extension[1] + 1)
        if transport > len(octets):
            raise Refused("rejected_malformed")
        place = int.from_bytes(extension[2:4], "big")
        if fragment and place & 0xFFF9:
            piece = (int.from_bytes(extension[4:8], "big"), place & 0xFFF8, bool(place & 1))
            break
    unread = piece is not None and following in EXTENSIONS
    if not unread and following not in wanted:
        raise Refused("filtered_protocol")
    if not transport <= 40 + ip.plen <= len(octets):
        raise Refused("rejected_malformed")
    return Packet(octets[: 40 + ip.plen], octets[8:24], octets[24:40], following, transport, piece)


# ---------------------------------------------------------------------- fragments


@dataclass
class Pieces:
    """The fragments of one datagram so far."""

    begun: int
    held: list[Packet] = field(default_factory=list)
    refused: str | None = None


class Datagrams:
    """Datagrams that wait for the rest of their pieces; `settle` is told the outcome of so many packets."""

    def __init__(self, settle: Callable[[str, int], None]) -> None:
        self._settle = settle
        #: In the order of use.
        self._sets: dict[tuple[object, ...], Pieces] = {}

    def take(self, packet: Packet, time: int, judge: Callable[[], None]) -> tuple[bytes, int] | None:
        """The octets of the datagram and the number of its pieces, if it is whole with this one."""
        assert packet.piece is not None
        identifier, offset, more = packet.piece
        version = packet.octets[0] >> 4
        most = 65_535 - 20 if version == 4 else 65_535
        end = offset + len(packet.payload)
        if not packet.payload or (more and len(packet.payload) % 8) or end > most:
            return self._settle("rejected_malformed", 1)
        key = (packet.source, packet.destination, identifier, packet.protocol if version == 4 else None)
        pieces = self._sets.pop(key, None)
        if pieces is not None and time - pieces.begun > PATIENCE:
            self._settle("lost_time", len(pieces.held))
            pieces = None
        pieces = self._sets[key] = pieces or Pieces(time)
        if pieces.refused is not None:
            return self._settle(pieces.refused, 1)
        if any(_same(held, packet) for held in pieces.held):
            return self._settle("filtered_retransmitted", 1)
        try:
            if offset == 0:
                judge()
            self._add(pieces, packet)
        except Refused as refused:
            pieces.refused = str(refused)
            self._settle(pieces.refused, 1 + len(pieces.held))
            pieces.held = []
            return None
        octets = _joined(pieces.held)
        if octets is None:
            return None
        del self._sets[key]
        return octets, len(pieces.held)

    @staticmethod
    def _add(pieces: Pieces, packet: Packet) -> None:
        in_order = sorted([*pieces.held, packet], key=_offset)
        ends = [_offset(piece) + len(piece.payload) for piece in in_order]
        overlap = any(end > _offset(piece) for end, piece in zip(ends, in_order[1:], strict=False))
        last = [end for end, piece in zip(ends, in_order, strict=True) if piece.piece and not piece.piece[2]]
        if overlap or len(set(last)) > 1 or (last and ends[-1] > last[0]):
            raise Refused("rejected_overlap")
        pieces.held.append(packet)

    def expire(self, now: int) -> None:
        while self._sets and now - next(iter(self._sets.values())).begun > PATIENCE:
            self._give_up()

    def finish(self) -> None:
        while self._sets:
            self._give_up()

    def waiting(self) -> int:
        return sum(len(pieces.held) for pieces in self._sets.values())

    def _give_up(self) -> None:
        pieces = self._sets.pop(next(iter(self._sets)))
        self._settle("lost_time", len(pieces.held))


def _same(held: Packet, packet: Packet) -> bool:
    """Whether a piece repeats another to the octet."""
    return (held.piece, held.payload) == (packet.piece, packet.payload)


def _joined(held: list[Packet]) -> bytes | None:
    """The datagram that the pieces make, if none is missing, with the base header of the first alone."""
    in_order = sorted(held, key=_offset)
    payload = b""
    for piece in in_order:
        if _offset(piece) != len(payload):
            return None
        payload += piece.payload
    first, last = in_order[0], in_order[-1]
    if last.piece is not None and last.piece[2]:
        return None
    if first.octets[0] >> 4 == 4:
        made = IP(first.octets[:20])
        made.ihl, made.len, made.frag, made.flags, made.chksum = 5, 20 + len(payload), 0, 0, None
        return bytes(made) + payload
    length = len(payload).to_bytes(2, "big")
    return first.octets[:4] + length + bytes([first.protocol]) + first.octets[7:40] + payload


def _offset(packet: Packet) -> int:
    return packet.piece[1] if packet.piece is not None else 0
