"""The trampoline: one end of a session, a peer that says anything, a program that asks anything of the end.

The first octet says which end it is and which versions it offers. Then steps, each with an octet that says
what happens: a message is heard, as it stands or with the digest of its payload put right (which no mutation
would ever hit); time passes; the program asks for something. A message stands behind its length, two octets.

Permitted outcomes:

* hearing never raises. It gives events: nothing once closed; a Violation alone, which closes and has said a
  fatal alert; Negotiated once and first, of a version that was offered;
* at a hub: one hello, of a stream and a sequence in range; containers that are intact, of the hello's stream,
  of sequences that rise and are behind the position, within the limits; counters within theirs; no more
  containers behind Finished;
* at a sensor: acknowledgements that rise, of what was sent, at most, the first one alone with a digest; a
  position at or behind the next sequence is a StreamConflict, the last event, which closes;
* at both: an alert's text is printable and bounded, a fatal one closes; Shutdown; Finished once;
* asking is done or raises TrampolineMisuse or WindowFull, and then has changed nothing that is said;
* what is said are messages that the peer's limit allows, at most three for one message heard, and nothing of
  version 2 in version 1;
* closed is for ever and has one reason; what is kept is bounded by the window.

This module is the judge; fuzz_targets/trampoline.py gives it to atheris, which is libFuzzer for Python.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from sie_core import limits
from sie_core.errors import TrampolineMisuse, WindowFull
from sie_core.sielink_pb2 import ALERT_MESSAGE, FATAL_ERROR, HEARTBEAT, Message
from sie_core.trampoline import (
    Accounting,
    Acknowledged,
    AlertLevel,
    AlertReceived,
    Compression,
    Event,
    HelloReceived,
    Negotiated,
    OutboundPayload,
    PayloadReceived,
    PeerFinished,
    PeerShutdown,
    Side,
    State,
    StreamConflict,
    Trampoline,
    Violation,
)

STREAM: Final = 0x1122334455667788
OFFERS: Final = (frozenset({2}), frozenset({1}), frozenset({1, 2}))
SECONDS: Final = (0.1, 5.0, 20.0, 700.0)

HEAR, HEAR_INTACT, WAIT, ASK = range(4)
"""What a step is, by the lowest two bits of its octet."""

DIGEST_OCTETS: Final = 32  # of SHA-256

WINDOW: Final = 4
WINDOW_BYTES: Final = 400
KEPT: Final = limits.MAX_ALERT_TEXT + 256
"""Entries of the largest thing that an end keeps: why it was closed, a sentence around an alert's text."""


class Ask(NamedTuple):
    """What the program asks: by name, with a sequence where one is wanted."""

    what: str
    sequence: int


ASKS: Final = (
    "hello",
    "payload",
    "ack",
    "accounting",
    "shutdown",
    "finish",
    "hold",
    "resume",
    "report_conflict",
    "ack with a digest",
)


def begin(side: Side, offers: frozenset[int]) -> bytes:
    """The octet at the beginning."""
    return bytes([OFFERS.index(offers) << 1 | (side is Side.HUB)])


def hear(message: bytes) -> bytes:
    """A step in which a message is heard as it stands."""
    return bytes([HEAR]) + struct.pack(">H", len(message)) + message


def ask(what: str, sequence: int = 0) -> bytes:
    """A step in which the program asks for something."""
    return bytes([ASK | ASKS.index(what) << 2, sequence])


def check(octets: bytes) -> None:
    """Let happen what the octets say. Raises AssertionError at any outcome that is not permitted."""
    first = octets[0] if octets else 0
    session = _Session(Side.HUB if first & 1 else Side.SENSOR, OFFERS[(first >> 1) % len(OFFERS)])
    for step in _steps(octets[1:]):
        if isinstance(step, float):
            session.wait(step)
        elif isinstance(step, Ask):
            session.ask(step)
        else:
            session.hear(step)
        session.look()


def _steps(octets: bytes) -> Iterator[bytes | float | Ask]:
    at = 0
    while at < len(octets):
        kind, argument = octets[at] & 3, octets[at] >> 2
        at += 1
        if kind == WAIT:
            yield SECONDS[argument % len(SECONDS)]
        elif kind == ASK:
            yield Ask(ASKS[argument % len(ASKS)], octets[at] if at < len(octets) else 0)
            at += 1
        else:
            length = int.from_bytes(octets[at : at + 2], "big")
            message = octets[at + 2 : at + 2 + length]
            at += 2 + length
            yield _intact(message) if kind == HEAR_INTACT else message


def _intact(octets: bytes) -> bytes:
    """The message with the digest of its payload put right; as it stands if it is none."""
    try:
        message = Message.FromString(octets)
    except DecodeError:
        return octets
    if not message.IsInitialized() or not message.HasField("payload"):
        return octets
    message.payload.digest = hashlib.sha256(message.payload.data).digest()
    return message.SerializeToString()


class _Session:
    """An end, what has happened to it, and the judgement of whether it might."""

    def __init__(self, side: Side, offers: frozenset[int]) -> None:
        self.now = 0.0
        self.end = Trampoline(side, offers, now=0.0, window=WINDOW, window_bytes=WINDOW_BYTES)
        self.offers = offers
        self.reason: str | None = None
        self.version: int | None = None
        self.stream: int | None = None
        self.next_sequence = 0
        self.position: int | None = None  # at a hub as it was said, at a sensor as it was heard
        self.highest = 0  # sequence of a container, sent or heard
        self.peer_finished = False
        self.say(most=1)

    # --- what happens -----------------------------------------------------------------------------------

    def hear(self, message: bytes) -> None:
        was_closed = self.end.state is State.CLOSED
        events = self.end.receive(message, self.now)
        assert not (was_closed and events)
        for number, event in enumerate(events):
            self.judge(event, events, number)
        said = self.say(most=3)
        if events and isinstance(events[-1], Violation):
            last = Message.FromString(said[-1])
            assert (last.messageType, last.alert.level) == (ALERT_MESSAGE, FATAL_ERROR)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.end.tick(self.now)
        self.say(most=1)

    def ask(self, ask: Ask) -> None:
        end, sequence = self.end, ask.sequence
        stream = STREAM if self.stream is None else self.stream
        container = OutboundPayload(202, b"x" * 90, Compression.ZSTD, stream, sequence, 1)
        if self.version == 1:
            container = OutboundPayload(202, b"x" * 90)
        asks: dict[str, Callable[[], object]] = {
            "hello": lambda: end.send_hello(STREAM, sequence, "0.1.0"),
            "payload": lambda: end.send_payload(container, self.now),
            "ack": lambda: end.send_ack(stream, sequence),
            "accounting": lambda: end.send_accounting({"captured": sequence}),
            "shutdown": end.shutdown,
            "finish": end.finish,
            "hold": end.hold,
            "resume": lambda: end.resume(self.now),
            "report_conflict": lambda: end.report_conflict(sequence),
            "ack with a digest": lambda: end.send_ack(stream, sequence, bytes(DIGEST_OCTETS)),
        }
        before = (end.state, end.in_flight)
        try:
            asks[ask.what]()
        except (TrampolineMisuse, WindowFull):
            assert (end.state, end.in_flight) == before
            assert self.say(most=0) == []
            return
        if ask.what == "hello":
            self.stream, self.next_sequence = STREAM, sequence
        elif ask.what == "payload" and self.version == 2:
            assert sequence > self.highest
            self.highest = sequence
        elif ask.what.startswith("ack") and self.position is None:
            self.position = self.highest = sequence
        self.say(most=2)

    # --- whether it might -------------------------------------------------------------------------------

    def judge(self, event: Event, events: list[Event], number: int) -> None:
        hub, closed = self.end.side is Side.HUB, self.end.state is State.CLOSED
        match event:
            case Violation(reason):
                assert events == [event]
                assert closed
                assert reason == self.end.closed_reason
            case Negotiated(version):
                assert self.version is None
                assert version in self.offers
                self.version = version
            case HelloReceived():
                assert hub
                assert (self.version, self.stream) == (2, None)
                assert 0 < event.stream < 1 << 64
                assert 0 < event.next_sequence <= limits.MAX_SEQUENCE
                assert len(event.agent_version) <= limits.MAX_AGENT_VERSION
                assert event.agent_version.isprintable()
                self.stream = event.stream
            case PayloadReceived():
                assert hub
                assert not self.peer_finished
                self.judge_container(event)
            case Acknowledged(stream, sequence, digest):
                assert not hub
                assert (self.version, stream) == (2, self.stream)
                assert digest is None or (self.position is None and len(digest) == DIGEST_OCTETS)
                if self.position is None:
                    assert sequence < self.next_sequence
                    self.highest = sequence
                else:
                    assert self.position < sequence <= self.highest
                self.position = sequence
            case StreamConflict(stream, position, next_sequence):
                assert not hub
                assert (stream, next_sequence) == (self.stream, self.next_sequence)
                assert self.position is None
                assert position >= next_sequence
                assert closed
                assert number == len(events) - 1
            case Accounting(counters):
                assert hub
                assert self.version == 2
                assert self.position is not None
                assert all(0 <= value < 1 << 64 for value in counters.values())
                assert sum(map(len, counters)) <= limits.MAX_ACCOUNTING
            case AlertReceived(level, text, _code):
                assert len(text) <= limits.MAX_ALERT_TEXT
                assert text.isprintable()
                assert closed or level is not AlertLevel.FATAL_ERROR
            case PeerShutdown():
                assert self.version is not None
            case PeerFinished():
                assert not self.peer_finished
                self.peer_finished = True

    def judge_container(self, container: PayloadReceived) -> None:
        assert 0 < container.channel <= limits.MAX_CHANNEL
        if self.version == 1:
            assert container.compression is Compression.NONE
            assert (container.stream, container.sequence, container.digest) == (None, None, None)
            return
        assert self.position is not None
        assert container.stream == self.stream
        assert container.sequence is not None
        assert self.highest < container.sequence <= limits.MAX_SEQUENCE
        assert 0 < len(container.data) <= limits.MAX_PAYLOAD
        assert container.digest == hashlib.sha256(container.data).digest()
        self.highest = container.sequence

    def say(self, *, most: int) -> list[bytes]:
        """What the end says now, which its peer must be able to take."""
        said = self.end.outgoing()
        assert len(said) <= most
        for octets in said:
            message = Message.FromString(octets)
            assert message.IsInitialized()
            assert len(octets) <= (
                limits.MAX_CONTROL if self.end.side is Side.HUB else limits.MAX_DATA_MESSAGE
            )
            if self.end.version == 1:
                assert not message.ack
                assert not message.HasField("hello")
                assert not message.payload.HasField("sequence")
            if message.ack:
                assert message.messageType == HEARTBEAT
                assert self.end.side is Side.HUB
        return said

    def look(self) -> None:
        """What holds at any time."""
        closed = self.end.state is State.CLOSED
        assert closed == (self.end.closed_reason is not None)
        assert self.reason is None or self.reason == self.end.closed_reason
        self.reason = self.end.closed_reason
        assert self.end.in_flight <= WINDOW
        assert all(len(kept) <= KEPT for kept in vars(self.end).values() if hasattr(kept, "__len__"))
