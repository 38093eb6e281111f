"""Connections as a mirror shows them: cut anywhere, out of order, repeated, contradictory, and with holes."""

import random
from collections.abc import Sequence

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

#: Offsets from the beginning of a stream, and the octets there.
Part = tuple[int, bytes]


class Connection:
    """One connection between a client and port 53 of a server; `segments` gives its packets in some order."""

    def __init__(self, source: random.Random, client: str, server: str, port: int) -> None:
        self._random = source
        self._ends = [(client, port), (server, 53)]
        near_the_end = source.random() < 0.3
        self._starts = [
            (2**32 - source.randint(0, 300)) if near_the_end else source.getrandbits(32) for _ in range(2)
        ]

    def segments(self, exchanges: Sequence[tuple[bytes, bytes | None]]) -> list[Packet]:
        """Queries and responses, those that there are, one exchange behind the other or all at once."""
        streams: list[bytes] = [b"", b""]
        packets: list[Packet] = []
        opened = self._random.random() < 0.85
        if opened:
            early = self._random.random() < 0.15
            packets += self._handshake(with_length(exchanges[0][0]) if early else b"")
        pipelined = self._random.random() < 0.3
        rounds = [exchanges] if pipelined else [[exchange] for exchange in exchanges]
        for some in rounds:
            for side in (0, 1):
                octets = b"".join(with_length(exchange[side] or b"") for exchange in some if exchange[side])
                parts = self._parts(octets)
                if opened:
                    self._disorder(parts)
                packets += [self._data(side, len(streams[side]) + place, part) for place, part in parts]
                streams[side] += octets
        return packets + self._farewell(streams)

    def segment(self, side: int, offset: int, data: bytes = b"", flags: str = "A") -> Packet:
        """One segment; the offset of the first octet of data is 0, that of SYN -1."""
        (source, sport), (destination, dport) = self._ends[side], self._ends[1 - side]
        network = IP(src=source, dst=destination) if "." in source else IPv6(src=source, dst=destination)
        sequence = (self._starts[side] + 1 + offset) % 2**32
        options = self._random.choice([[], [("NOP", None), ("NOP", None), ("Timestamp", (7, 8))]])
        made = network / TCP(sport=sport, dport=dport, seq=sequence, ack=1, flags=flags, options=options)
        return made / Raw(data) if data else made

    def _data(self, side: int, offset: int, data: bytes) -> Packet:
        return self.segment(side, offset, data, "PA")

    def _handshake(self, early: bytes) -> list[Packet]:
        return [self.segment(0, -1, early, "S"), self.segment(1, -1, flags="SA"), self.segment(0, 0)]

    def _farewell(self, streams: list[bytes]) -> list[Packet]:
        """FIN from both, RST from one, or nothing."""
        manner = self._random.random()
        if manner < 0.6:
            return [self.segment(side, len(streams[side]), flags="FA") for side in (0, 1)]
        return [self.segment(0, len(streams[0]), flags="R")] if manner < 0.8 else []

    def _parts(self, octets: bytes) -> list[Part]:
        if self._random.random() < 0.4 and len(octets) < 1448:
            return [(0, octets)] if octets else []
        parts: list[Part] = []
        place = 0
        least = 1 if len(octets) < 3_000 else 9_000
        while place < len(octets):
            length = self._random.choice(
                [least, least + 1, least + 40, max(1448, least), max(1448, 2 * least)]
            )
            parts.append((place, octets[place : place + length]))
            place += length
        return parts

    def _disorder(self, parts: list[Part]) -> None:
        """Swaps, repeats, joins, contradicts or loses some of the parts."""
        happening = self._random.random()
        if not parts or happening < 0.4:
            return
        index = self._random.randrange(len(parts))
        place, octets = parts[index]
        if happening < 0.55:
            self._random.shuffle(parts)
        elif happening < 0.65:
            parts.insert(self._random.randint(index, len(parts)), parts[index])
        elif happening < 0.75 and index:
            before, earlier = parts[index - 1]
            parts.insert(index + 1, (before, earlier + octets))
        elif happening < 0.9:
            other = bytes([octets[0] ^ 1]) + octets[1:]
            parts.insert(self._random.randint(0, len(parts)), (place, other))
        else:
            del parts[index]


def with_length(message: bytes) -> bytes:
    """With its length in front of it (RFC 1035 section 4.2.2)."""
    return len(message).to_bytes(2, "big") + message if message else b""
