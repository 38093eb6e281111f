"""DNS over TCP, decided octet by octet: what of a stream is known, and which messages that makes."""

from collections.abc import Callable
from dataclasses import dataclass, field

import dns.exception
import dns.name

WINDOW = 2 * (2 + 65_535)
GAP = 5_000_000
IDLE = 30_000_000
FIN, SYN, RST = 1, 2, 4
CLASSES = {1, 3, 4, 254, 255}

Key = tuple[bytes, bytes, int, int]
Deliver = Callable[[Key, bytes, int], None]


@dataclass
class Segment:
    """The packets that one outcome is owed to: that of the segment's last new octet."""

    time: int
    packets: int
    last: int = -1


@dataclass
class Piece:
    """Octets that no message has taken yet, as they came."""

    position: int
    octets: bytes
    segment: Segment

    @property
    def end(self) -> int:
        return self.position + len(self.octets)


@dataclass
class Stream:
    """Positions count from the first octet that was ever seen, so that nothing wraps around."""

    sequence: int
    touched: int = 0
    base: int = 0
    in_step: bool = True
    end: int | None = None
    gap_since: int = 0
    pieces: list[Piece] = field(default_factory=list)
    known: dict[int, int] = field(default_factory=dict)

    def position(self, sequence: int) -> int:
        near = (sequence - self.sequence - self.base) % 2**32
        return self.base + (near - 2**32 if near >= 2**31 else near)

    def joined(self) -> int:
        """The position up to which nothing is missing."""
        at = self.base
        for piece in self.pieces:
            if piece.position != at:
                break
            at = piece.end
        return at

    def remove(self, piece: Piece) -> bool:
        """Whether that was the piece which the outcome of its segment is waiting for."""
        self.pieces.remove(piece)
        for position in range(piece.position, piece.end):
            del self.known[position]
        return piece.position <= piece.segment.last < piece.end

    def has_gap(self) -> bool:
        return any(piece.position > self.joined() for piece in self.pieces)


class Streams:
    """Every direction of every connection; `settle` is told the outcome of so many packets."""

    def __init__(self, settle: Callable[[str, int], None], deliver: Deliver) -> None:
        self._settle = settle
        self._deliver = deliver
        self._streams: dict[Key, Stream] = {}

    def take(self, key: Key, tcp: bytes, time: int, packets: int) -> None:
        """Takes a segment of which the header is known to be whole."""
        data, flags = tcp[(tcp[12] >> 4) * 4 :], tcp[13]
        sequence = (int.from_bytes(tcp[4:8], "big") + bool(flags & SYN)) % 2**32
        stream = self._streams.pop(key, None)
        if stream is None:
            if not flags & SYN and (flags & RST or not data):
                return self._settle("filtered_no_data", packets)
            if not flags & SYN and not begins_message(key, data):
                return self._settle("rejected_out_of_step", packets)
            stream = Stream(sequence)
        elif flags & SYN and sequence != stream.sequence:
            self._close(key, stream, "lost_unfinished")
            stream = Stream(sequence)
        # The dictionary is in the order of use.
        self._streams[key] = stream
        stream.touched = time
        if flags & RST:
            self._settle("filtered_no_data", packets)
            position = stream.position((sequence - bool(flags & SYN)) % 2**32)
            if not stream.has_gap() and (not stream.pieces or position == stream.joined()):
                self._release(stream, "lost_unfinished")
        elif data:
            stream = self._streams[key] = self._take_data(key, stream, sequence, data, time, packets)
        else:
            self._settle("filtered_no_data", packets)
        if flags & FIN:
            end = stream.position((sequence + len(data)) % 2**32)
            if stream.base <= end <= stream.base + WINDOW:
                stream.end = end
        if stream.end == stream.joined():
            self._release(stream, "lost_unfinished")
        return None

    def expire(self, now: int) -> None:
        for key in list(self._streams):
            if now - self._streams[key].touched <= IDLE:
                break
            self._close(key, self._streams.pop(key), "lost_unfinished")

    def finish(self) -> None:
        for key in list(self._streams):
            self._close(key, self._streams.pop(key), "lost_unfinished")

    def waiting(self) -> int:
        segments = {id(piece.segment): piece.segment for piece in self._pieces()}
        return sum(segment.packets for segment in segments.values())

    def _pieces(self) -> list[Piece]:
        return [piece for stream in self._streams.values() for piece in stream.pieces]

    def _take_data(
        self, key: Key, stream: Stream, sequence: int, data: bytes, time: int, packets: int
    ) -> Stream:
        if stream.has_gap() and time - stream.gap_since > GAP:
            self._skip_gap(key, stream)
            stream.gap_since = time
        begin = stream.position(sequence)
        end = begin + len(data)
        within = begin >= stream.base - WINDOW and end <= stream.base + WINDOW
        if not within or (not stream.in_step and end > stream.base):
            if not begins_message(key, data):
                self._settle("rejected_out_of_step", packets)
                return stream
            self._close(key, stream, "lost_gap")
            stream = Stream(sequence, touched=time)
            begin = 0
        self._place(key, stream, begin, data, Segment(time, packets))
        return stream

    def _place(self, key: Key, stream: Stream, begin: int, data: bytes, segment: Segment) -> None:
        ahead = [
            (begin + number, octet) for number, octet in enumerate(data) if begin + number >= stream.base
        ]
        if any(stream.known.get(position, octet) != octet for position, octet in ahead):
            return self._settle("rejected_overlap", segment.packets)
        new = [(position, octet) for position, octet in ahead if position not in stream.known]
        if not new:
            return self._settle("filtered_retransmitted", segment.packets)
        segment.last = new[-1][0]
        joined, had_gap = stream.joined(), stream.has_gap()
        for position, octet in new:
            stream.known[position] = octet
            last = stream.pieces[-1] if stream.pieces else None
            if last is not None and last.segment is segment and last.end == position:
                last.octets += bytes([octet])
            else:
                stream.pieces.append(Piece(position, bytes([octet]), segment))
        stream.pieces.sort(key=lambda piece: piece.position)
        self._hand_out(key, stream)
        if not had_gap or joined != stream.joined():
            stream.gap_since = segment.time
        return None

    def _hand_out(self, key: Key, stream: Stream) -> None:
        while True:
            octets = bytearray()
            for piece in stream.pieces:
                if piece.position != stream.base + len(octets):
                    break
                octets += piece.octets
            length = 2 + int.from_bytes(octets[:2], "big")
            if len(octets) < 2 or len(octets) < length:
                return
            end = stream.base + length
            time = max(piece.segment.time for piece in stream.pieces if piece.position < end)
            for piece in [piece for piece in stream.pieces if piece.position < end]:
                if piece.end > end:
                    for position in range(piece.position, end):
                        del stream.known[position]
                    piece.octets = piece.octets[end - piece.position :]
                    piece.position = end
                elif stream.remove(piece):
                    self._settle("passed", piece.segment.packets)
            stream.base = end
            self._deliver(key, bytes(octets[2:length]), time)

    def _drop(self, stream: Stream, piece: Piece, outcome: str) -> None:
        if stream.remove(piece):
            self._settle(outcome, piece.segment.packets)

    def _skip_gap(self, key: Key, stream: Stream) -> None:
        """Gives up on what is missing; the stream goes on with the first piece that begins like a message."""
        joined = stream.joined()
        for piece in [piece for piece in stream.pieces if piece.position < joined]:
            self._drop(stream, piece, "lost_gap")
        stream.in_step = False
        for piece in list(stream.pieces):
            stream.base = piece.position
            if begins_message(key, piece.octets):
                stream.in_step = True
                return self._hand_out(key, stream)
            stream.base = piece.end
            self._drop(stream, piece, "lost_gap")
        return None

    def _close(self, key: Key, stream: Stream, outcome: str) -> None:
        while stream.has_gap():
            self._skip_gap(key, stream)
        self._release(stream, outcome)

    def _release(self, stream: Stream, outcome: str) -> None:
        stream.base = stream.joined()
        for piece in list(stream.pieces):
            self._drop(stream, piece, outcome)
        stream.in_step = False
        stream.end = None


def begins_message(key: Key, octets: bytes) -> bool:
    """Whether a stream that nothing is known of may be taken to have a message begin here."""
    message = octets[2 : 2 + int.from_bytes(octets[:2], "big")]
    if len(message) < 13:
        return False
    flags, questions, answers = (int.from_bytes(message[at : at + 2], "big") for at in (2, 4, 6))
    response, from_server, to_server = bool(flags & 0x8000), key[2] == 53, key[3] == 53
    if questions != 1:
        return False
    if from_server != to_server and (response != from_server or (to_server and answers)):
        return False
    if not from_server and not to_server and (response or answers):
        return False
    try:
        _, used = dns.name.from_wire(message[12:], 0)
    except dns.exception.DNSException:
        return False
    fields = message[12 + used : 16 + used]
    return len(fields) == 4 and int.from_bytes(fields[2:], "big") in CLASSES
