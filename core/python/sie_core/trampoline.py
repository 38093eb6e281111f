"""The submission protocol between a sensor and a hub, without I/O.

One `Trampoline` is one end of one session. It takes the binary WebSocket messages that arrived
(`receive`), the time (`tick`) and its own side's wishes (`send_payload`, `send_ack`, …), and gives back
events and the messages to put on the wire (`outgoing`). It opens no socket and reads no clock: every
`now` is a monotonic time in seconds that the caller gives.

Version 1 is sielink as deployed: at-most-once, nothing acknowledged. Version 2 adds acknowledgement:

    SENSOR                                     HUB
      configuration, versions [2]   -------->
                                    <--------  configuration, versions [2]
      hello(stream, next_sequence)  -------->  HelloReceived
      Acknowledged; can_send        <--------  ack(stream, position)
      payload(stream, position + 1) -------->  PayloadReceived
      payload(stream, position + 2) -------->  PayloadReceived; both stored durably
      Acknowledged                  <--------  ack(stream, position + 2)

An acknowledgement is cumulative and follows durable storage. What is not acknowledged when the session
ends, the sensor keeps and sends again in the next; what the hub already has it drops, by (identity,
stream, sequence, digest). So it is at-least-once on the wire and exactly-once in the hub's stream.
docs/reference/trampoline.md is the specification.
"""

import hashlib
import json
import re
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from sie_core import limits
from sie_core.errors import TrampolineMisuse, WindowFull
from sie_core.sielink_pb2 import (
    ACCOUNTING_RECORD,
    ALERT_MESSAGE,
    COMPRESSION_NONE,
    COMPRESSION_ZSTD,
    DATA_MESSAGE,
    FATAL_ERROR,
    FINISHED,
    HEARTBEAT,
    INFORMATIONAL,
    NMSG_CONTAINER,
    RECOVERABLE_ERROR,
    SHUTDOWN,
    TOPOLOGY_MESSAGE,
    WARNING,
    Message,
    MessageType,
    Payload,
)
from sie_core.sielink_pb2 import LossCounter as LossCounterMessage
from sie_core.sielink_size import octets_beside_data

SUPPORTED_VERSIONS: Final = frozenset({1, 2})

_ENUMS_OF_PAYLOAD: Final = frozenset({Payload.PAYLOADTYPE_FIELD_NUMBER, Payload.COMPRESSIONTYPE_FIELD_NUMBER})

CONFLICT: Final = 1
"""The code of an alert: the same sequence names other data at the peer. 0 is nothing in particular."""

_DIGEST_OCTETS: Final = hashlib.sha256().digest_size

_COUNTER_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Side(Enum):
    """Which end of the session this is."""

    SENSOR = "sensor"
    HUB = "hub"


class State(Enum):
    """Where a session is; `_TRANSITIONS` says what may follow what."""

    OPENING = "opening"
    """Our configuration is queued; the peer's first message has not come."""
    GREETING = "greeting"
    """Version 2 is agreed; hello or the stream's position is outstanding."""
    OPEN = "open"
    """Payloads may flow."""
    CLOSING = "closing"
    """One side has asked the other to stop, or has said that it sends no more; acknowledgements still
    flow."""
    CLOSED = "closed"
    """Nothing is taken in any more; `closed_reason` says why. Messages already queued may still be put on
    the wire."""


_TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.OPENING: frozenset({State.GREETING, State.OPEN, State.CLOSED}),
    State.GREETING: frozenset({State.OPEN, State.CLOSING, State.CLOSED}),
    State.OPEN: frozenset({State.CLOSING, State.CLOSED}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


class Compression(IntEnum):
    """How the data of a payload is wrapped; sielink's numbers, and from 1000 up ours."""

    NONE = 0
    """NMSG containers as they are (a container may itself hold a zlib stream)."""
    ZSTD = 1000
    """One zstd frame holding one NMSG container; version 2 only."""


class AlertLevel(IntEnum):
    """How bad an alert is; a fatal one ends the session."""

    INFORMATIONAL = 0
    WARNING = 1
    RECOVERABLE_ERROR = 2
    FATAL_ERROR = 3


_ALERT_LEVELS: Final = {
    AlertLevel.INFORMATIONAL: INFORMATIONAL,
    AlertLevel.WARNING: WARNING,
    AlertLevel.RECOVERABLE_ERROR: RECOVERABLE_ERROR,
    AlertLevel.FATAL_ERROR: FATAL_ERROR,
}


class LossCounter(NamedTuple):
    """What a version-1 sender says it has dropped; a lower bound, because its clients do not add up their
    losses."""

    octets: int
    payloads: int


@dataclass(frozen=True, slots=True)
class OutboundPayload:
    """A container for the wire.

    `stream` and `sequence` (from 1, strictly rising within the session, gaps allowed) are given for
    version 2 and are None for version 1. `transactions` is how many the container holds, for accounting.
    """

    channel: int
    data: bytes
    compression: Compression = Compression.NONE
    stream: int | None = None
    sequence: int | None = None
    transactions: int | None = None


# --- events ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Negotiated:
    """Both sides' version lists are known and `version` is agreed. A version-2 sensor sends its hello now."""

    version: int


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """At a version-2 hub: the sensor names its stream and the next sequence it will assign.

    Everything it has ever made in this stream has a lower sequence, so a stored position at or above
    `next_sequence` means a sensor whose state went back in time or was cloned. The hub answers with
    `send_ack(stream, position)`, the position being the highest sequence it has stored durably of this
    stream, 0 if none.
    """

    stream: int
    next_sequence: int
    agent_version: str


@dataclass(frozen=True, slots=True)
class PayloadReceived:
    """At a hub: one payload. `stream`, `sequence`, `digest` and `transactions` are None in version 1.

    In version 2 the digest has been checked against `data`, and the sequence is higher than all before in
    this session.
    """

    channel: int
    data: bytes
    compression: Compression
    stream: int | None = None
    sequence: int | None = None
    digest: bytes | None = None
    transactions: int | None = None
    link_loss: LossCounter | None = None
    path_loss: LossCounter | None = None


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """At a sensor: the hub has stored everything of `stream` up to and including `sequence`.

    The first one of a session is the hub's position: sending goes on from `sequence + 1`. It alone has the
    `digest` of the container at the position, if the hub knows it: a sensor that still holds another
    container of that sequence calls `report_conflict` instead of going on.
    """

    stream: int
    sequence: int
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class StreamConflict:
    """At a sensor: the hub holds more of `stream` than this sensor has ever made of it, and the session
    is closed. (That the hub holds *other* containers, the sensor says itself: `report_conflict`.)

    The sensor's state went back in time (a restored backup, a cloned machine). What it holds must go into
    a new stream, because its sequence numbers name other containers already.
    """

    stream: int
    position: int
    next_sequence: int


@dataclass(frozen=True, slots=True)
class Accounting:
    """At a hub: the sensor's counters, as in its metrics."""

    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AlertReceived:
    """The peer says something to a person, its text made safe for one line of a log. A fatal one closes."""

    level: AlertLevel
    text: str
    code: int = 0


@dataclass(frozen=True, slots=True)
class PeerShutdown:
    """The peer asks this side to send no more.

    The answer, Finished, is queued already, but for a version-2 hub: that still owes acknowledgements and
    calls `finish` itself. At a sensor acknowledgements may still come.
    """


@dataclass(frozen=True, slots=True)
class PeerFinished:
    """The peer sends no more payloads. A hub acknowledges what it has stored, then calls `finish`."""


@dataclass(frozen=True, slots=True)
class Violation:
    """The peer broke the protocol: the session is closed and a fatal alert with the same sentence is
    queued for it."""

    reason: str


Event = (
    Negotiated
    | HelloReceived
    | PayloadReceived
    | Acknowledged
    | StreamConflict
    | Accounting
    | AlertReceived
    | PeerShutdown
    | PeerFinished
    | Violation
)


class _Broken(Exception):
    """The message in hand breaks the protocol; caught by `receive`, never leaves this module."""


class BrokenRecord(ValueError):
    """Octets are no accounting record; the text says what they are instead."""


class Room(NamedTuple):
    """What may still be sent before an acknowledgement comes."""

    payloads: int
    octets: int


class _InFlight(NamedTuple):
    sequence: int
    octets: int
    sent_at: float


def printable(text: str, limit: int) -> str:
    """Text made fit for one line of a log: control characters become `?`, what is over `limit` is cut."""
    return "".join(character if character.isprintable() else "?" for character in text[:limit])


def _text(octets: bytes, limit: int) -> str:
    return printable(octets[: 4 * limit].decode(errors="replace"), limit)


def _decode(octets: bytes, most: int) -> Message:
    if len(octets) > most:
        raise _Broken(f"a message of {len(octets)} octets, over {most}")
    try:
        beside = octets_beside_data(octets) if len(octets) > limits.MAX_CONTROL else 0
        if beside > limits.MAX_CONTROL:
            raise _Broken(
                f"a message with {beside} octets beside the data of a payload, over {limits.MAX_CONTROL}"
            )
        message = Message.FromString(octets)
    except (DecodeError, ValueError):
        raise _Broken(f"a message of {len(octets)} octets that is no sielink message") from None
    if not message.IsInitialized():
        raise _Broken("a message without its required fields")
    return message


def _loss(counter: LossCounterMessage) -> LossCounter:
    return LossCounter(counter.bytes, counter.payloads)


def counters_from(data: bytes) -> dict[str, int]:
    """The counters in an accounting record. Raises BrokenRecord."""
    if len(data) > limits.MAX_ACCOUNTING:
        raise BrokenRecord(f"an accounting record of {len(data)} octets, over {limits.MAX_ACCOUNTING}")
    try:
        counters = json.loads(data)
    except (ValueError, RecursionError):
        raise BrokenRecord("an accounting record that is no JSON") from None
    if not isinstance(counters, dict):
        raise BrokenRecord("an accounting record that is no JSON object")
    for name, value in counters.items():
        if not _COUNTER_NAME.fullmatch(name) or type(value) is not int or not 0 <= value < 1 << 64:
            raise BrokenRecord("an accounting record with something else than named 64-bit counters")
    return counters


class Trampoline:
    """One end of one session.

    `versions` are those this end offers: {2} for a session authenticated by a certificate and for our
    agent, {1} for one opened by an API key, so that nothing downgrades. `heartbeat` is our own interval
    in seconds. `window` and `window_bytes` bound what a version-2 sensor has sent without
    acknowledgement: a payload may be started while fewer than `window` payloads and fewer than
    `window_bytes` octets are in flight.

    The caller's loop: put `outgoing()` on the wire; wait for a message or for `deadline()`; call
    `receive` or `tick`; act on the events; stop when `closed_reason` is set and `outgoing()` is written.

    Raises ValueError for a version list that is empty or unknown, and for an interval or a window that is
    not positive.
    """

    def __init__(
        self,
        side: Side,
        versions: Collection[int],
        *,
        now: float,
        heartbeat: float = limits.HEARTBEAT,
        window: int = limits.WINDOW_PAYLOADS,
        window_bytes: int = limits.WINDOW_BYTES,
    ) -> None:
        if not versions or not SUPPORTED_VERSIONS.issuperset(versions):
            raise ValueError(f"versions must be some of {sorted(SUPPORTED_VERSIONS)}, not {sorted(versions)}")
        if not 0 < heartbeat <= limits.MAX_HEARTBEAT:
            raise ValueError(
                f"heartbeat must lie in (0, {limits.MAX_HEARTBEAT:.0f}] seconds, not {heartbeat}"
            )
        if window < 1 or window_bytes < 1:
            raise ValueError(f"the window must be positive, not {window} payloads and {window_bytes} octets")
        self.side: Final = side
        self.state = State.OPENING
        self.version: int | None = None
        self.closed_reason: str | None = None
        self.finished = False
        """True once both ends have said Finished: the session ended in order."""

        self._offered: Final = tuple(sorted(versions))
        self._heartbeat: Final = heartbeat
        self._window: Final = window
        self._window_bytes: Final = window_bytes
        self._peer: Final = "hub" if side is Side.SENSOR else "sensor"
        self._now = now
        self._outgoing: deque[bytes] = deque()

        self._phase_until: float | None = now + limits.GREETING_TIMEOUT
        self._next_beat: float | None = None
        self._peer_heartbeat: float | None = None
        self._silent_after: float | None = None
        self._held = False

        self._shutdown_sent = False
        self._finish_sent = False
        self._finish_received = False

        self._stream: int | None = None
        self._next_sequence = 0
        self._acknowledged: int | None = None
        self._ack_due = False
        self._position_digest: bytes | None = None
        self._highest = 0
        self._in_flight: deque[_InFlight] = deque()
        self._in_flight_bytes = 0

        configuration = self._compose(TOPOLOGY_MESSAGE)
        configuration.topology.SetInParent()
        self._queue(configuration)

    # --- what the caller asks ---------------------------------------------------------------------------

    @property
    def can_send(self) -> bool:
        """Whether `send_payload` is allowed now.

        In version 1, which has no window, while everything given before has been taken by `outgoing`.
        """
        if self.side is not Side.SENSOR or self.state is not State.OPEN:
            return False
        if self.version == 1:
            return not self._outgoing
        return len(self._in_flight) < self._window and self._in_flight_bytes < self._window_bytes

    @property
    def room(self) -> Room:
        """What a version-2 sensor's window has room for; of its octets, one payload may go beyond."""
        return Room(
            max(0, self._window - len(self._in_flight)), max(0, self._window_bytes - self._in_flight_bytes)
        )

    @property
    def in_flight(self) -> int:
        """Payloads sent in this session and not yet acknowledged (always 0 in version 1)."""
        return len(self._in_flight)

    @property
    def oldest_in_flight(self) -> float | None:
        """When the oldest unacknowledged payload was sent, on the caller's clock; None if there is none."""
        return self._in_flight[0].sent_at if self._in_flight else None

    def outgoing(self) -> list[bytes]:
        """The messages to put on the wire now, in order, each one binary WebSocket message; drained by
        the call."""
        self._flush_ack()
        messages = list(self._outgoing)
        self._outgoing.clear()
        return messages

    def deadline(self) -> float | None:
        """When `tick` must be called at the latest, on the caller's clock; None once closed."""
        if self.state is State.CLOSED:
            return None
        silent_after = None if self._held else self._silent_after
        pending = (self._phase_until, self._next_beat, silent_after)
        return min((at for at in pending if at is not None), default=None)

    # --- what happens to us -----------------------------------------------------------------------------

    def receive(self, message: bytes, now: float) -> list[Event]:
        """Take one binary WebSocket message that arrived. Never raises for what is in it: see `Violation`."""
        if self.state is State.CLOSED:
            return []
        self._now = now
        try:
            return self._take(_decode(message, self._largest))
        except _Broken as broken:
            reason = f"the {self._peer} broke the protocol: {broken}"
            self._fail(reason, str(broken))
            return [Violation(reason)]

    def tick(self, now: float) -> None:
        """Take the time: beat if it is time to, close if the peer has been silent too long (see
        `closed_reason`)."""
        if self.state is State.CLOSED:
            return
        self._now = now
        if self._phase_until is not None and now >= self._phase_until:
            self._fail(
                f"the session was {self.state.value} for too long: {self._outstanding()}", "too slow: closing"
            )
        elif not self._held and self._silent_after is not None and now >= self._silent_after:
            self._fail(
                f"the {self._peer} has been silent for too long: it announced a message every"
                f" {self._peer_heartbeat:.1f} s",
                "silent for too long",
            )
        elif self._next_beat is not None and now >= self._next_beat:
            self._beat()

    def hold(self) -> None:
        """This end stops reading the wire for now, because it has no room for more: the peer's silence is not
        the peer's, so it is not judged until `resume`."""
        self._held = True

    def resume(self, now: float) -> None:
        """This end reads again; what the peer has said meanwhile is still to come."""
        if self._held and self._peer_heartbeat is not None and self._silent_after is not None:
            self._silent_after = now + limits.HEARTBEAT_GRACE * self._peer_heartbeat
        self._held = False

    # --- what we do -------------------------------------------------------------------------------------

    def send_hello(self, stream: int, next_sequence: int, agent_version: str = "") -> None:
        """A version-2 sensor, once, after Negotiated: name the stream and the next sequence this sensor
        will *assign*.

        `next_sequence` is one more than the highest sequence ever made in this stream, acknowledged or
        not. It is not where sending starts: the hub's answer, the first Acknowledged, says that.
        """
        self._require(self.side is Side.SENSOR and self.version == 2, "only a version-2 sensor says hello")
        self._require(self._stream is None, "hello has been said")
        self._require(self.state is State.GREETING, f"no hello in a session that is {self.state.value}")
        self._require(0 < stream < 1 << 64, f"stream {stream} is not a positive 64-bit number")
        self._require(
            0 < next_sequence <= limits.MAX_SEQUENCE, f"next sequence {next_sequence} is out of range"
        )
        self._stream = stream
        self._next_sequence = next_sequence
        message = self._compose(HEARTBEAT)
        message.hello.stream = stream
        message.hello.next_sequence = next_sequence
        message.hello.agent_version = agent_version.encode()[: limits.MAX_AGENT_VERSION]
        self._queue(message)

    def send_payload(self, payload: OutboundPayload, now: float) -> None:
        """A sensor: queue one payload. In version 2 it is in flight until acknowledged.

        Raises WindowFull, or TrampolineMisuse if the session or the payload does not allow it.
        """
        self._require(
            self.side is Side.SENSOR and self.state is State.OPEN,
            f"a {self.side.value} whose session is {self.state.value} sends no payload",
        )
        self._require(0 < payload.channel <= limits.MAX_CHANNEL, f"channel {payload.channel} is out of range")
        self._now = now
        message = self._compose(DATA_MESSAGE)
        message.payload.channel = payload.channel
        message.payload.payloadType = NMSG_CONTAINER
        message.payload.data = payload.data
        if self.version == 1:
            self._require(
                payload.compression is Compression.NONE, "version 1 carries plain or zlib NMSG only"
            )
            self._require(self.can_send, "the payload before is not on the wire yet")
            self._queue(message)
            return
        if not self.can_send:
            raise WindowFull(len(self._in_flight), self._window, self._in_flight_bytes, self._window_bytes)
        self._fill_version_2(message.payload, payload)
        octets = self._queue(message)
        self._highest = message.payload.sequence
        self._in_flight.append(_InFlight(self._highest, octets, now))
        self._in_flight_bytes += octets

    def send_accounting(self, counters: Mapping[str, int]) -> None:
        """A version-2 sensor: send its counters. Not acknowledged: they are cumulative, so the next ones
        repeat them."""
        self._require(
            self.side is Side.SENSOR and self.version == 2 and self.state is State.OPEN,
            f"a {self.side.value} whose session is {self.state.value} sends no accounting record",
        )
        message = self._compose(DATA_MESSAGE)
        message.payload.channel = 0
        message.payload.payloadType = ACCOUNTING_RECORD
        message.payload.data = json.dumps(dict(counters), sort_keys=True, separators=(",", ":")).encode()
        self._require(
            len(message.payload.data) <= limits.MAX_ACCOUNTING, "the accounting record is too large"
        )
        self._queue(message)

    def report_conflict(self, sequence: int) -> None:
        """A sensor: the hub's container of this sequence is another than ours, so the session ends.

        What this side holds must go into a new stream, because its sequence numbers name other containers.
        """
        self._require(self.side is Side.SENSOR and self._stream is not None, "no stream to be in conflict")
        self._require(self.state is not State.CLOSED, f"the session is closed: {self.closed_reason}")
        text = (
            f"the hub holds another payload {sequence} of stream {self._stream:016x} than this sensor:"
            " one machine is a copy of another"
        )
        self._fail(text, text, CONFLICT)

    def send_ack(self, stream: int, sequence: int, digest: bytes | None = None) -> None:
        """A version-2 hub: everything of `stream` up to and including `sequence` is stored durably.

        The first one answers the hello with the stream's position (0: nothing stored) and opens the session;
        the later ones name payloads that this session has brought. Calls between two `outgoing()` become one
        acknowledgement, of the highest sequence. `digest` is that of the container at the position, for the
        first one, if it is known.
        """
        self._require(
            self.side is Side.HUB and self._stream is not None, "no hello to acknowledge anything to"
        )
        self._require(stream == self._stream, "another stream than that of this session's hello")
        self._require(self.state is not State.CLOSED, f"the session is closed: {self.closed_reason}")
        self._require(0 <= sequence <= limits.MAX_SEQUENCE, f"sequence {sequence} is out of range")
        self._require(digest is None or len(digest) == _DIGEST_OCTETS, "a digest is a SHA-256")
        if self._acknowledged is None:
            self._highest = sequence
            self._position_digest = digest
            if self.state is State.GREETING:
                self._enter(State.OPEN)
        else:
            self._require(digest is None, "only the position has a digest")
            self._require(
                self._acknowledged <= sequence <= self._highest,
                f"sequence {sequence} is not in {self._acknowledged}..{self._highest},"
                " from the last acknowledged to the last received",
            )
            if sequence == self._acknowledged:
                return
        self._acknowledged = sequence
        self._ack_due = True

    def alert(self, level: AlertLevel, text: str) -> None:
        """Tell the peer's operator something; FATAL_ERROR closes the session with that text as its reason."""
        if self.state is State.CLOSED:
            return
        if level is AlertLevel.FATAL_ERROR:
            self._fail(f"we reported: {text}", text)
        else:
            self._queue_alert(level, text)

    def shutdown(self) -> None:
        """Ask the peer to stop sending; it answers Finished. A hub that stops calls this, drains, then
        `finish`."""
        if self._shutdown_sent or self._unopened() or self.state is State.CLOSED:
            return
        self._shutdown_sent = True
        self._queue(self._compose(SHUTDOWN))
        self._begin_closing()

    def finish(self) -> None:
        """Say that this side sends no more: a sensor no payloads, a hub no acknowledgements. Closes if
        both have."""
        if self._finish_sent or self._unopened() or self.state is State.CLOSED:
            return
        self._finish_sent = True
        self._queue(self._compose(FINISHED))
        self._begin_closing()
        self._close_if_both_finished()

    # --- state ------------------------------------------------------------------------------------------

    def _enter(self, state: State, reason: str | None = None) -> None:
        """The one place where the state changes."""
        if state not in _TRANSITIONS[self.state]:
            raise AssertionError(f"{self.side.value}: no way from {self.state.value} to {state.value}")
        self.state = state
        match state:
            case State.OPEN:
                self._phase_until = None
            case State.CLOSING:
                self._phase_until = self._now + limits.CLOSING_TIMEOUT
            case State.CLOSED:
                self.closed_reason = reason

    def _begin_closing(self) -> None:
        if self.state in (State.GREETING, State.OPEN):
            self._enter(State.CLOSING)

    def _close_if_both_finished(self) -> None:
        if self._finish_sent and self._finish_received and self.state is not State.CLOSED:
            self.finished = True
            self._enter(State.CLOSED, "both sides have finished")

    def _fail(self, reason: str, text_for_peer: str, code: int = 0) -> None:
        self._queue_alert(AlertLevel.FATAL_ERROR, text_for_peer, code)
        self._enter(State.CLOSED, reason)

    def _unopened(self) -> bool:
        """Close a session that the peer has not opened yet: there is nobody to drain."""
        if self.state is State.OPENING:
            self._fail("we stopped before the session was open", "stopping: try again later")
            return True
        return False

    def _outstanding(self) -> str:
        if self.state is State.OPENING:
            return f"the {self._peer} has sent no configuration in {limits.GREETING_TIMEOUT:.0f} s"
        if self.state is State.CLOSING:
            return f"the {self._peer} has not finished in {limits.CLOSING_TIMEOUT:.0f} s"
        what = "hello" if self._stream is None else "position"
        return f"no {what} in {limits.GREETING_TIMEOUT:.0f} s"

    @property
    def _largest(self) -> int:
        """What a message of the peer may have at most: memory is spent on it before it is understood."""
        if self.side is Side.SENSOR or self.version is None:
            return limits.MAX_CONTROL
        return limits.MAX_MESSAGE if self.version == 1 else limits.MAX_DATA_MESSAGE

    def _require(self, condition: bool, text: str) -> None:
        if not condition:
            raise TrampolineMisuse(text)

    # --- messages in ------------------------------------------------------------------------------------

    def _take(self, message: Message) -> list[Event]:
        opening = self.state is State.OPENING
        events = self._open(message) if opening else self._dispatch(message)
        self._note_life(message, factor=1.0 if opening else limits.HEARTBEAT_GRACE)
        return events

    def _note_life(self, message: Message, *, factor: float) -> None:
        """Move the deadline of silence: in version 1 only a message with an interval does, in version 2
        every one."""
        if message.heartbeat > 0:
            self._peer_heartbeat = min(message.heartbeat / 1000, limits.MAX_HEARTBEAT)
        elif self.version == 1:
            return
        if self._peer_heartbeat is not None:
            self._silent_after = self._now + factor * self._peer_heartbeat

    def _open(self, message: Message) -> list[Event]:
        events: list[Event] = []
        if message.messageType == ALERT_MESSAGE:
            events.append(self._take_alert(message))
            if self.state is State.CLOSED:
                return events
        elif message.messageType not in (TOPOLOGY_MESSAGE, HEARTBEAT):
            raise _Broken(f"unexpected message type {message.messageType} before the configuration")
        common = set(self._offered).intersection(message.protocolVersion)
        if not common:
            theirs = ", ".join(str(version) for version in message.protocolVersion[:8]) or "none"
            ours = ", ".join(str(version) for version in self._offered)
            raise _Broken(f"no version in common: it offers {theirs}, we offer {ours}")
        self.version = max(common)
        self._enter(State.OPEN if self.version == 1 else State.GREETING)
        self._beat()
        events.append(Negotiated(self.version))
        return events

    def _dispatch(self, message: Message) -> list[Event]:
        kind = message.messageType
        if kind == HEARTBEAT:
            return self._take_heartbeat(message) if self.version == 2 else []
        if kind == DATA_MESSAGE:
            return self._take_data(message)
        if kind == ALERT_MESSAGE:
            return [self._take_alert(message)]
        if kind == SHUTDOWN:
            return self._take_shutdown()
        if kind == FINISHED:
            return self._take_finished()
        # A topology says what the peer subscribes to and routes; a hub sends nothing but
        # acknowledgements, so it is noted as a sign of life and no more.
        return []

    def _take_heartbeat(self, message: Message) -> list[Event]:
        events: list[Event] = []
        if message.HasField("hello"):
            events.append(self._take_hello(message))
        for ack in message.ack:
            events.extend(self._take_ack(ack.stream, ack.sequence, ack.digest))
            if self.state is State.CLOSED:
                break
        return events

    def _take_hello(self, message: Message) -> HelloReceived:
        hello = message.hello
        if self.side is not Side.HUB:
            raise _Broken("a hello comes from sensors")
        if self._stream is not None:
            raise _Broken("a second hello")
        if self._peer_heartbeat is None:
            raise _Broken("a hello before the first heartbeat interval")
        if hello.stream == 0 or not 0 < hello.next_sequence <= limits.MAX_SEQUENCE:
            raise _Broken(f"a hello for stream {hello.stream} with next sequence {hello.next_sequence}")
        self._stream = hello.stream
        self._next_sequence = hello.next_sequence
        return HelloReceived(
            hello.stream, hello.next_sequence, _text(hello.agent_version, limits.MAX_AGENT_VERSION)
        )

    def _take_ack(self, stream: int, sequence: int, digest: bytes) -> list[Event]:
        if self.side is not Side.SENSOR or self._stream is None:
            raise _Broken("an acknowledgement that nobody asked for")
        if stream != self._stream:
            raise _Broken(
                f"an acknowledgement of stream {stream:016x}, this session's is {self._stream:016x}"
            )
        is_position = self._acknowledged is None
        if digest and (not is_position or len(digest) != _DIGEST_OCTETS):
            raise _Broken(f"a digest of {len(digest)} octets, or of something else than the position")
        if self._acknowledged is None:
            if self._peer_heartbeat is None:
                raise _Broken("a position before the first heartbeat interval")
            if sequence >= self._next_sequence:
                text = (
                    f"the hub holds payload {sequence} of stream {stream:016x}, of which this sensor has made"
                    f" only {self._next_sequence - 1}: its state is older than the hub's"
                )
                self._fail(text, text, CONFLICT)
                return [StreamConflict(stream, sequence, self._next_sequence)]
            self._highest = sequence
            if self.state is State.GREETING:
                self._enter(State.OPEN)
        elif not self._acknowledged <= sequence <= self._highest:
            raise _Broken(
                f"an acknowledgement of {sequence}, not in {self._acknowledged}..{self._highest},"
                " from the last acknowledged to the last sent"
            )
        elif sequence == self._acknowledged:
            return []
        self._acknowledged = sequence
        while self._in_flight and self._in_flight[0].sequence <= sequence:
            self._in_flight_bytes -= self._in_flight.popleft().octets
        return [Acknowledged(stream, sequence, digest or None)]

    def _take_data(self, message: Message) -> list[Event]:
        if self.side is not Side.HUB:
            raise _Broken("a payload, though nothing was subscribed to")
        if self._finish_received:
            raise _Broken("a payload after Finished")
        if not message.HasField("payload"):
            raise _Broken("a data message without a payload")
        payload = message.payload
        unknown = UnknownFieldSet(payload)
        if any(unknown[index].field_number in _ENUMS_OF_PAYLOAD for index in range(len(unknown))):
            # A decoder of proto2 puts such a value aside, so that it would pass for the default.
            raise _Broken("a payload of an unknown type or compression")
        if self.version == 2 and self._acknowledged is None:
            raise _Broken("data before the position was given")
        if payload.payloadType == ACCOUNTING_RECORD and self.version == 2:
            try:
                return [Accounting(counters_from(payload.data))]
            except BrokenRecord as broken:
                raise _Broken(str(broken)) from None
        if payload.payloadType != NMSG_CONTAINER:
            raise _Broken(f"payload type {payload.payloadType} is not taken here")
        if not 0 < payload.channel <= limits.MAX_CHANNEL:
            raise _Broken(f"channel {payload.channel} is not in 1..{limits.MAX_CHANNEL}")
        if self.version == 1:
            return [self._payload_1(payload)]
        return [self._payload_2(payload)]

    def _payload_1(self, payload: Payload) -> PayloadReceived:
        if payload.compressionType != COMPRESSION_NONE:
            raise _Broken(f"compression {payload.compressionType} is not taken in version 1")
        return PayloadReceived(
            payload.channel,
            payload.data,
            Compression.NONE,
            link_loss=_loss(payload.linkLoss) if payload.HasField("linkLoss") else None,
            path_loss=_loss(payload.pathLoss) if payload.HasField("pathLoss") else None,
        )

    def _payload_2(self, payload: Payload) -> PayloadReceived:
        if payload.stream != self._stream:
            raise _Broken(f"a payload of stream {payload.stream:016x}, the hello named {self._stream:016x}")
        if not self._highest < payload.sequence <= limits.MAX_SEQUENCE:
            raise _Broken(f"payload {payload.sequence} after {self._highest}")
        if payload.compressionType not in (COMPRESSION_NONE, COMPRESSION_ZSTD):
            raise _Broken(f"compression {payload.compressionType} of payload {payload.sequence} is unknown")
        if not 0 < len(payload.data) <= limits.MAX_PAYLOAD:
            raise _Broken(
                f"payload {payload.sequence} of {len(payload.data)} octets, not in 1..{limits.MAX_PAYLOAD}"
            )
        if hashlib.sha256(payload.data).digest() != payload.digest:
            raise _Broken(f"the digest of payload {payload.sequence} does not match its data")
        self._highest = payload.sequence
        return PayloadReceived(
            payload.channel,
            payload.data,
            Compression(payload.compressionType),
            payload.stream,
            payload.sequence,
            payload.digest,
            payload.transactions,
        )

    def _take_alert(self, message: Message) -> AlertReceived:
        alert = message.alert
        text = _text(alert.message, limits.MAX_ALERT_TEXT)
        level = AlertLevel(alert.level)
        if level is AlertLevel.FATAL_ERROR:
            self._enter(State.CLOSED, f"the {self._peer} reported: {text}")
        return AlertReceived(level, text, alert.code)

    def _take_shutdown(self) -> list[Event]:
        self._begin_closing()
        if self.side is Side.SENSOR or self.version == 1:
            self.finish()
        return [PeerShutdown()]

    def _take_finished(self) -> list[Event]:
        if self._finish_received:
            raise _Broken("Finished twice")
        self._finish_received = True
        self._begin_closing()
        if self.side is Side.SENSOR:
            # The hub acknowledges nothing any more, so whatever this side still sent would only be sent
            # again later.
            self.finish()
        self._close_if_both_finished()
        return [PeerFinished()]

    # --- messages out -----------------------------------------------------------------------------------

    def _compose(self, kind: MessageType.ValueType) -> Message:
        message = Message(messageType=kind)
        message.protocolVersion.extend(self._offered if self.version is None else (self.version,))
        return message

    def _fill_version_2(self, target: Payload, payload: OutboundPayload) -> None:
        if payload.stream is None or payload.sequence is None or payload.transactions is None:
            raise TrampolineMisuse("version 2 needs the stream, the sequence and the count of transactions")
        self._require(payload.stream == self._stream, "another stream than that of this session's hello")
        self._require(
            self._highest < payload.sequence <= limits.MAX_SEQUENCE,
            f"payload {payload.sequence} cannot follow {self._highest}",
        )
        self._require(
            0 < len(payload.data) <= limits.MAX_PAYLOAD,
            f"payload {payload.sequence} of {len(payload.data)} octets, not in 1..{limits.MAX_PAYLOAD}",
        )
        if payload.compression is Compression.ZSTD:
            target.compressionType = COMPRESSION_ZSTD
        target.stream = payload.stream
        target.sequence = payload.sequence
        target.digest = hashlib.sha256(payload.data).digest()
        target.transactions = payload.transactions

    def _beat(self) -> None:
        message = self._compose(HEARTBEAT)
        message.heartbeat = round(self._heartbeat * 1000)
        self._queue(message)
        self._next_beat = self._now + self._heartbeat

    def _queue_alert(self, level: AlertLevel, text: str, code: int = 0) -> None:
        message = self._compose(ALERT_MESSAGE)
        message.alert.level = _ALERT_LEVELS[level]
        message.alert.message = printable(text, limits.MAX_ALERT_TEXT).encode()
        if code:
            message.alert.code = code
        self._queue(message)

    def _flush_ack(self) -> None:
        if not self._ack_due or self._stream is None or self._acknowledged is None:
            return
        self._ack_due = False
        message = self._compose(HEARTBEAT)
        message.heartbeat = round(self._heartbeat * 1000)
        message.ack.add(stream=self._stream, sequence=self._acknowledged, digest=self._position_digest)
        self._position_digest = None
        self._outgoing.append(message.SerializeToString())

    def _queue(self, message: Message) -> int:
        """Queue a message behind any acknowledgement that is due; returns its length in octets."""
        encoded = message.SerializeToString()
        self._require(
            len(encoded) <= limits.MAX_MESSAGE,
            f"{len(encoded)} octets, over the {limits.MAX_MESSAGE} of a message",
        )
        self._flush_ack()
        self._outgoing.append(encoded)
        return len(encoded)
