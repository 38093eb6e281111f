"""The trampoline's two ends talking to each other, and to peers that are not ours.

The first half reads as transcripts: what goes over the wire, by name or in hexadecimal digits. The second
half is a state machine (hypothesis) that joins the ends by a link that loses, reconnects and crashes.
"""

import hashlib
import json
from collections.abc import Callable, Collection

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sie_core import limits
from sie_core.errors import TrampolineMisuse, WindowFull
from sie_core.sielink_pb2 import (
    ACCOUNTING_RECORD,
    ALERT_MESSAGE,
    COMPRESSION_LZ4,
    COMPRESSION_ZSTD,
    DATA_MESSAGE,
    FATAL_ERROR,
    FINISHED,
    HEARTBEAT,
    INFORMATIONAL,
    LOG_RECORD,
    NMSG_CONTAINER,
    SHUTDOWN,
    TOPOLOGY_MESSAGE,
    Message,
    MessageType,
)
from sie_core.trampoline import (
    CONFLICT,
    Accounting,
    Acknowledged,
    AlertLevel,
    AlertReceived,
    Compression,
    Event,
    HelloReceived,
    LossCounter,
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
    printable,
)

STREAM = 0x1122334455667788
CONFIG_1 = bytes.fromhex("080110012200")
CONFIG_2 = bytes.fromhex("080210012200")
CONFIG_1_2 = bytes.fromhex("0801080210012200")
LEGACY_HEARTBEAT = bytes.fromhex("0801100328b0ea01")
SHUTDOWN_1 = bytes.fromhex("08011004")
FINISHED_1 = bytes.fromhex("08011005")


def sensor(
    versions: Collection[int] = (2,),
    *,
    heartbeat: float = 10.0,
    window: int = 32,
    window_bytes: int = 16 << 20,
) -> Trampoline:
    return Trampoline(
        Side.SENSOR, versions, now=0.0, heartbeat=heartbeat, window=window, window_bytes=window_bytes
    )


def hub(versions: Collection[int] = (2,), *, heartbeat: float = 10.0) -> Trampoline:
    return Trampoline(Side.HUB, versions, now=0.0, heartbeat=heartbeat)


def container(sequence: int, octets: bytes | None = None, stream: int = STREAM) -> OutboundPayload:
    data = b"container %d" % sequence if octets is None else octets
    return OutboundPayload(202, data, Compression.ZSTD, stream, sequence, 17)


def carry(source: Trampoline, target: Trampoline, now: float = 0.0) -> list[Event]:
    """Everything that one end has to say, to the other."""
    return [event for message in source.outgoing() for event in target.receive(message, now)]


def converse(one: Trampoline, other: Trampoline, now: float = 0.0) -> list[Event]:
    """Back and forth until both are silent; the events of both ends in the order they happened."""
    events: list[Event] = []
    while True:
        said = carry(one, other, now) + carry(other, one, now)
        if not said and not one.outgoing() and not other.outgoing():
            return events
        events += said


def opened(
    position: int = 0, *, window: int = 32, window_bytes: int = 16 << 20
) -> tuple[Trampoline, Trampoline]:
    """A version-2 session whose payloads may flow: the sensor's end and the hub's."""
    s, h = sensor(window=window, window_bytes=window_bytes), hub()
    converse(s, h)
    s.send_hello(STREAM, 100, "0.1.0")
    carry(s, h)
    h.send_ack(STREAM, position)
    carry(h, s)
    assert may_send(s)
    return s, h


def may_send(end: Trampoline) -> bool:
    return end.can_send


def why(end: Trampoline) -> str | None:
    return end.closed_reason


def message(kind: MessageType.ValueType, version: int = 2) -> Message:
    return Message(protocolVersion=[version], messageType=kind)


def sent(trampoline: Trampoline) -> list[Message]:
    return [Message.FromString(octets) for octets in trampoline.outgoing()]


def closed_with(events: list[Event], trampoline: Trampoline, words: str) -> None:
    """The peer broke the protocol, and both sides learn why in a sentence that holds these words."""
    [violation] = events
    assert isinstance(violation, Violation)
    assert words in violation.reason
    assert trampoline.closed_reason == violation.reason
    *_, last = sent(trampoline)
    assert (last.messageType, last.alert.level) == (ALERT_MESSAGE, FATAL_ERROR)
    assert words in last.alert.message.decode()


# --- version 2, transcripts -------------------------------------------------------------------------------


def test_a_whole_session_of_version_2() -> None:
    s, h = sensor(), hub()
    assert s.outgoing() == h.outgoing() == [CONFIG_2]

    assert s.receive(CONFIG_2, 1.0) == [Negotiated(2)]
    assert h.receive(CONFIG_2, 1.0) == [Negotiated(2)]
    assert (s.version, h.version) == (2, 2)

    s.send_hello(STREAM, 8, "0.1.0")
    assert not may_send(s)
    assert carry(s, h) == [HelloReceived(STREAM, 8, "0.1.0")]

    h.send_ack(STREAM, 5)
    assert carry(h, s) == [Acknowledged(STREAM, 5)]
    assert may_send(s)

    s.send_payload(container(6), 2.0)
    s.send_payload(container(7), 2.0)
    assert s.in_flight == 2
    assert carry(s, h) == [
        PayloadReceived(202, data, Compression.ZSTD, STREAM, sequence, hashlib.sha256(data).digest(), 17)
        for sequence, data in ((6, b"container 6"), (7, b"container 7"))
    ]

    h.send_ack(STREAM, 7)
    assert carry(h, s) == [Acknowledged(STREAM, 7)]
    assert s.in_flight == 0

    s.finish()
    assert carry(s, h) == [PeerFinished()]
    h.finish()
    assert carry(h, s) == [PeerFinished()]
    assert s.finished
    assert h.finished
    assert s.closed_reason == h.closed_reason == "both sides have finished"


def test_an_acknowledgement_is_cumulative_and_several_become_one() -> None:
    s, h = opened()
    for sequence in (1, 2, 3):
        s.send_payload(container(sequence), 0.0)
    carry(s, h)
    for sequence in (1, 2, 3):
        h.send_ack(STREAM, sequence)
    [only] = sent(h)
    assert [(ack.stream, ack.sequence) for ack in only.ack] == [(STREAM, 3)]
    assert only.messageType == HEARTBEAT
    assert only.heartbeat == 10_000
    assert s.receive(only.SerializeToString(), 0.0) == [Acknowledged(STREAM, 3)]
    assert s.in_flight == 0


def test_an_acknowledgement_said_twice_happens_once() -> None:
    s, h = opened()
    s.send_payload(container(1), 0.0)
    carry(s, h)
    h.send_ack(STREAM, 1)
    [octets] = h.outgoing()
    assert s.receive(octets, 0.0) == [Acknowledged(STREAM, 1)]
    assert s.receive(octets, 0.0) == []
    h.send_ack(STREAM, 1)
    assert h.outgoing() == []


def test_an_acknowledgement_goes_out_before_what_is_said_after_it() -> None:
    s, h = opened()
    s.send_payload(container(1), 0.0)
    carry(s, h)
    h.send_ack(STREAM, 1)
    h.alert(AlertLevel.FATAL_ERROR, "this sensor was revoked")
    assert carry(h, s) == [
        Acknowledged(STREAM, 1),
        AlertReceived(AlertLevel.FATAL_ERROR, "this sensor was revoked"),
    ]
    assert s.closed_reason == "the hub reported: this sensor was revoked"
    assert h.closed_reason == "we reported: this sensor was revoked"


def test_gaps_of_what_the_sensor_trimmed_are_allowed() -> None:
    s, h = opened(position=5)
    s.send_payload(container(9), 0.0)
    [received] = carry(s, h)
    assert isinstance(received, PayloadReceived)
    assert received.sequence == 9


def test_the_window_counts_payloads() -> None:
    s, h = opened(window=2)
    s.send_payload(container(1), 0.0)
    s.send_payload(container(2), 0.0)
    assert not may_send(s)
    with pytest.raises(WindowFull, match=r"2 of 2 payloads"):
        s.send_payload(container(3), 0.0)
    carry(s, h)
    h.send_ack(STREAM, 1)
    carry(h, s)
    assert may_send(s)


def test_the_window_counts_octets_and_lets_one_payload_of_any_size_through() -> None:
    s, h = opened(window_bytes=1000)
    s.send_payload(container(1, bytes(500)), 0.0)
    assert may_send(s)
    s.send_payload(container(2, bytes(5000)), 0.0)
    assert not may_send(s)
    carry(s, h)
    h.send_ack(STREAM, 1)
    carry(h, s)
    assert not may_send(s)
    h.send_ack(STREAM, 2)
    carry(h, s)
    assert may_send(s)


def test_how_long_the_oldest_payload_has_waited_is_known() -> None:
    assert opened()[0].oldest_in_flight is None
    s, h = opened()
    s.send_payload(container(1), 3.0)
    s.send_payload(container(2), 4.0)
    assert s.oldest_in_flight == 3.0
    carry(s, h, 5.0)
    h.send_ack(STREAM, 1)
    carry(h, s, 5.0)
    assert s.oldest_in_flight == 4.0


def test_a_hub_that_stops_asks_drains_and_finishes() -> None:
    s, h = opened()
    s.send_payload(container(1), 0.0)
    h.shutdown()
    assert carry(h, s) == [PeerShutdown()]
    assert not may_send(s)
    assert [type(event) for event in carry(s, h)] == [PayloadReceived, PeerFinished]
    h.send_ack(STREAM, 1)
    h.finish()
    assert carry(h, s) == [Acknowledged(STREAM, 1), PeerFinished()]
    assert s.finished
    assert h.finished


def test_a_hub_that_finishes_first_ends_the_session_for_both() -> None:
    s, h = opened()
    s.send_payload(container(1), 0.0)
    h.finish()
    assert carry(h, s) == [PeerFinished()]
    assert s.state is State.CLOSED
    assert s.in_flight == 1
    assert [type(event) for event in carry(s, h)] == [PayloadReceived, PeerFinished]
    assert h.finished


def test_draining_does_not_take_for_ever() -> None:
    s, _h = opened()
    s.finish()
    deadline = s.deadline()
    assert deadline is not None
    s.tick(limits.CLOSING_TIMEOUT)
    assert s.closed_reason == "the session was closing for too long: the hub has not finished in 30 s"


def test_stopping_before_the_peer_has_said_anything_says_so() -> None:
    h = hub()
    h.shutdown()
    assert h.state is State.CLOSED
    s = sensor()
    carry(h, s)
    assert why(s) == "the hub reported: stopping: try again later"


def test_accounting_records_arrive_as_counters() -> None:
    s, h = opened()
    s.send_accounting({"packets_seen": 12, "table_evicted": 0})
    assert carry(s, h) == [Accounting({"packets_seen": 12, "table_evicted": 0})]


def test_a_position_right_below_the_next_sequence_is_no_conflict() -> None:
    s, h = sensor(), hub()
    converse(s, h)
    s.send_hello(STREAM, 6)
    carry(s, h)
    h.send_ack(STREAM, 5)
    assert carry(h, s) == [Acknowledged(STREAM, 5)]


def test_a_position_at_the_next_sequence_is_one() -> None:
    s, h = sensor(), hub()
    converse(s, h)
    s.send_hello(STREAM, 6)
    carry(s, h)
    h.send_ack(STREAM, 6)
    assert carry(h, s) == [StreamConflict(STREAM, position=6, next_sequence=6)]


def test_the_position_says_which_container_is_there() -> None:
    s, h = sensor(), hub()
    converse(s, h)
    s.send_hello(STREAM, 6)
    carry(s, h)
    digest = hashlib.sha256(b"five").digest()
    h.send_ack(STREAM, 5, digest)
    assert carry(h, s) == [Acknowledged(STREAM, 5, digest)]
    s.send_payload(container(6), 0.0)
    carry(s, h)
    with pytest.raises(TrampolineMisuse, match="only the position"):
        h.send_ack(STREAM, 6, digest)
    h.send_ack(STREAM, 6)
    assert carry(h, s) == [Acknowledged(STREAM, 6)]


def test_a_sensor_that_holds_another_container_says_so_with_a_code() -> None:
    s, h = sensor(), hub()
    converse(s, h)
    s.send_hello(STREAM, 6)
    carry(s, h)
    h.send_ack(STREAM, 5, hashlib.sha256(b"of the copy").digest())
    carry(h, s)
    s.report_conflict(5)
    assert s.state is State.CLOSED
    assert "another payload 5" in (s.closed_reason or "")
    (alert,) = carry(s, h)
    assert isinstance(alert, AlertReceived)
    assert (alert.level, alert.code) == (AlertLevel.FATAL_ERROR, CONFLICT)
    assert h.state is State.CLOSED
    with pytest.raises(TrampolineMisuse):
        s.report_conflict(5)


def test_a_version_2_hub_that_is_asked_to_stop_still_acknowledges() -> None:
    s, h = opened()
    s.send_payload(container(1), 0.0)
    carry(s, h)
    s.shutdown()
    assert carry(s, h) == [PeerShutdown()]
    assert h.outgoing() == []
    h.send_ack(STREAM, 1)
    h.finish()
    assert carry(h, s) == [Acknowledged(STREAM, 1), PeerFinished()]


def test_a_sensor_whose_state_went_back_in_time_learns_it() -> None:
    s, h = sensor(), hub()
    converse(s, h)
    s.send_hello(STREAM, 6)
    carry(s, h)
    h.send_ack(STREAM, 9)
    assert carry(h, s) == [StreamConflict(STREAM, position=9, next_sequence=6)]
    assert "holds payload 9" in (why(s) or "")
    [alert] = carry(s, h)
    assert isinstance(alert, AlertReceived)
    assert "made only 5" in alert.text


# --- version 1, octets of the deployed clients ----------------------------------------------------------


def test_a_deployed_client_against_our_hub() -> None:
    h = hub({1})
    assert h.outgoing() == [CONFIG_1]
    assert h.receive(CONFIG_1, 0.0) == [Negotiated(1)]
    assert h.outgoing() == [bytes.fromhex("0801100328904e")]
    assert h.receive(LEGACY_HEARTBEAT, 0.0) == []
    data = message(DATA_MESSAGE, 1)
    data.payload.channel = 203
    data.payload.payloadType = NMSG_CONTAINER
    data.payload.data = b"NMSG..."
    data.payload.linkLoss.bytes = 700
    data.payload.linkLoss.payloads = 1
    assert h.receive(data.SerializeToString(), 1.0) == [
        PayloadReceived(203, b"NMSG...", Compression.NONE, link_loss=LossCounter(700, 1))
    ]
    assert h.outgoing() == []
    h.shutdown()
    assert h.outgoing() == [SHUTDOWN_1]
    assert h.receive(FINISHED_1, 2.0) == [PeerFinished()]
    h.finish()
    assert h.outgoing() == [FINISHED_1]
    assert h.finished


def test_a_version_1_hub_answers_a_shutdown_with_finished() -> None:
    h = hub({1})
    h.receive(CONFIG_1, 0.0)
    h.outgoing()
    assert h.receive(SHUTDOWN_1, 1.0) == [PeerShutdown()]
    assert h.outgoing() == [FINISHED_1]


def test_a_version_1_sensor_sends_zlib_nmsg_one_at_a_time() -> None:
    s, h = sensor({1}), hub({1})
    converse(s, h)
    s.send_payload(OutboundPayload(202, b"NMSG\x01\x02", transactions=3), 0.0)
    assert not may_send(s)
    with pytest.raises(TrampolineMisuse, match="not on the wire yet"):
        s.send_payload(OutboundPayload(202, b"NMSG\x01\x02"), 0.0)
    assert carry(s, h) == [PayloadReceived(202, b"NMSG\x01\x02", Compression.NONE)]
    assert may_send(s)
    assert s.in_flight == 0
    with pytest.raises(TrampolineMisuse, match="zlib"):
        s.send_payload(OutboundPayload(202, b"x", Compression.ZSTD), 0.0)


def test_nothing_of_version_2_reaches_a_version_1_peer() -> None:
    s, h = sensor({1, 2}), hub({1})
    assert s.outgoing() == [CONFIG_1_2]
    assert s.receive(CONFIG_1, 0.0) == [Negotiated(1)]
    h.receive(CONFIG_1_2, 0.0)
    s.outgoing()
    with pytest.raises(TrampolineMisuse):
        s.send_hello(STREAM, 1)
    with pytest.raises(TrampolineMisuse):
        s.send_accounting({})
    with pytest.raises(TrampolineMisuse):
        h.send_ack(STREAM, 1)
    s.send_payload(OutboundPayload(202, b"NMSG", Compression.NONE, STREAM, 1, 2), 0.0)
    *_, data = sent(s)
    assert [field.name for field, _ in data.payload.ListFields()] == ["channel", "payloadType", "data"]


def test_what_version_2_would_mean_is_ignored_in_version_1() -> None:
    h = hub({1})
    h.receive(CONFIG_1, 0.0)
    hello = message(HEARTBEAT, 1)
    hello.hello.stream = STREAM
    hello.hello.next_sequence = 1
    assert h.receive(hello.SerializeToString(), 0.0) == []
    data = message(DATA_MESSAGE, 1)
    data.payload.channel = 203
    data.payload.data = b"NMSG"
    data.payload.stream = STREAM
    data.payload.sequence = 4
    [received] = h.receive(data.SerializeToString(), 0.0)
    assert isinstance(received, PayloadReceived)
    assert (received.stream, received.sequence) == (None, None)


def test_an_informational_alert_may_be_the_first_message() -> None:
    h = hub({1})
    first = message(ALERT_MESSAGE, 1)
    first.alert.level = AlertLevel.INFORMATIONAL.value  # type: ignore[assignment]
    first.alert.message = b"hello"
    assert h.receive(first.SerializeToString(), 0.0) == [
        AlertReceived(AlertLevel.INFORMATIONAL, "hello"),
        Negotiated(1),
    ]


# --- versions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [({2}, {2}, 2), ({1, 2}, {2}, 2), ({1, 2}, {1, 2}, 2), ({1, 2}, {1}, 1), ({1}, {1, 2}, 1)],
)
def test_the_highest_common_version_is_spoken(ours: set[int], theirs: set[int], chosen: int) -> None:
    s, h = sensor(ours), hub(theirs)
    converse(s, h)
    assert (s.version, h.version) == (chosen, chosen)


@pytest.mark.parametrize(("ours", "theirs"), [({2}, {1}), ({1}, {2})])
def test_without_a_common_version_both_know_why(ours: set[int], theirs: set[int]) -> None:
    s, h = sensor(ours), hub(theirs)
    to_hub, to_sensor = s.outgoing(), h.outgoing()
    closed_with(h.receive(to_hub[0], 0.0), h, "no version in common")
    closed_with(s.receive(to_sensor[0], 0.0), s, "no version in common")


def test_version_numbers_of_the_future_are_ignored() -> None:
    h = hub({1, 2})
    future = Message(protocolVersion=[9, 2, 7], messageType=TOPOLOGY_MESSAGE)
    assert h.receive(future.SerializeToString(), 0.0) == [Negotiated(2)]


def test_a_refusal_may_be_the_first_message() -> None:
    s = sensor()
    refusal = message(ALERT_MESSAGE, 1)
    refusal.alert.level = FATAL_ERROR
    refusal.alert.message = b"no such key"
    assert s.receive(refusal.SerializeToString(), 0.0) == [
        AlertReceived(AlertLevel.FATAL_ERROR, "no such key")
    ]
    assert s.closed_reason == "the hub reported: no such key"


@pytest.mark.parametrize("versions", [set(), {0}, {2, 3}])
def test_only_known_versions_can_be_offered(versions: set[int]) -> None:
    with pytest.raises(ValueError, match="versions"):
        Trampoline(Side.HUB, versions, now=0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sensor(heartbeat=0.0),
        lambda: sensor(heartbeat=601.0),
        lambda: sensor(window=0),
        lambda: sensor(window_bytes=0),
    ],
)
def test_intervals_and_windows_are_positive(make: Callable[[], Trampoline]) -> None:
    with pytest.raises(ValueError, match="must"):
        make()


# --- time ------------------------------------------------------------------------------------------------


def test_each_side_beats_at_once_and_then_at_its_interval() -> None:
    h = hub(heartbeat=4.0)
    assert h.outgoing() == [CONFIG_2]
    h.receive(CONFIG_2, 0.0)
    [beat] = sent(h)
    assert (beat.messageType, beat.heartbeat) == (HEARTBEAT, 4000)
    assert h.deadline() == 4.0
    h.tick(3.9)
    assert h.outgoing() == []
    h.tick(4.0)
    assert len(h.outgoing()) == 1
    assert h.deadline() == 8.0


def test_beats_that_were_missed_are_not_made_up_for() -> None:
    _s, h = opened()
    h.tick(14.0)
    assert len(h.outgoing()) == 1
    assert h._next_beat == 24.0


def test_a_silent_peer_is_given_up_after_one_and_a_half_of_its_intervals() -> None:
    s, h = opened()
    s.tick(14.9)
    assert why(s) is None
    s.tick(15.0)
    assert s.closed_reason == ("the hub has been silent for too long: it announced a message every 10.0 s")
    carry(s, h)
    assert h.closed_reason == "the sensor reported: silent for too long"


def test_in_version_2_every_message_is_a_sign_of_life() -> None:
    s, h = opened()
    s.send_payload(container(1), 14.0)
    carry(s, h, 14.0)
    h.tick(28.9)
    assert why(h) is None
    h.tick(29.0)
    assert why(h) is not None


@pytest.mark.parametrize("version", [1, 2])
def test_a_peer_is_not_silent_while_nobody_reads(version: int) -> None:
    if version == 2:
        _s, h = opened()
    else:
        h = hub({1})
        h.receive(CONFIG_1, 0.0)
        h.receive(LEGACY_HEARTBEAT, 0.0)
    h.hold()
    h.tick(1000.0)
    assert why(h) is None
    assert h.deadline() == 1010.0
    h.resume(1001.0)
    grace = 15.0 if version == 2 else 45.0
    h.tick(1000.9 + grace)
    assert why(h) is None
    h.tick(1001.0 + grace)
    assert "silent" in (why(h) or "")


def test_in_version_1_only_heartbeats_are() -> None:
    h = hub({1})
    h.receive(CONFIG_1, 0.0)
    h.receive(LEGACY_HEARTBEAT, 0.0)
    h.receive(CONFIG_1, 44.0)
    h.tick(45.0)
    assert "every 30.0 s" in (why(h) or "")


def test_a_version_1_client_that_never_beats_is_never_given_up() -> None:
    h = hub({1})
    h.receive(CONFIG_1, 0.0)
    h.tick(1e6)
    assert why(h) is None


def test_an_interval_in_the_first_message_counts_once() -> None:
    h = hub({1})
    h.receive(bytes.fromhex("08011003") + LEGACY_HEARTBEAT[4:], 0.0)
    assert h._silent_after == 30.0


def test_an_absurd_interval_is_not_believed() -> None:
    h = hub({1})
    h.receive(CONFIG_1, 0.0)
    absurd = message(HEARTBEAT, 1)
    absurd.heartbeat = 2**32 - 1
    h.receive(absurd.SerializeToString(), 0.0)
    assert h._silent_after == limits.HEARTBEAT_GRACE * limits.MAX_HEARTBEAT


@pytest.mark.parametrize(
    ("reach", "missing"),
    [
        (lambda _s, _h: None, "has sent no configuration"),
        (lambda s, h: converse(s, h), "no hello"),
        (lambda s, h: (converse(s, h), s.send_hello(STREAM, 1), carry(s, h)), "no position"),
    ],
    ids=["nothing", "configuration", "hello"],
)
def test_the_greeting_has_a_time_limit(
    reach: Callable[[Trampoline, Trampoline], object], missing: str
) -> None:
    s, h = sensor(heartbeat=100.0), hub(heartbeat=100.0)
    reach(s, h)
    s.outgoing()
    h.outgoing()
    h.tick(limits.GREETING_TIMEOUT - 0.1)
    assert why(h) is None
    h.tick(limits.GREETING_TIMEOUT)
    assert f"{missing} in 30 s" in (why(h) or "")


def test_a_closed_session_has_no_deadline_and_takes_nothing() -> None:
    s, h = opened()
    s.alert(AlertLevel.FATAL_ERROR, "enough")
    assert s.deadline() is None
    s.tick(1e9)
    assert s.receive(b"\xff", 0.0) == []
    s.alert(AlertLevel.WARNING, "more")
    s.finish()
    s.shutdown()
    assert carry(s, h) == [AlertReceived(AlertLevel.FATAL_ERROR, "enough")]


# --- peers that break the protocol ---------------------------------------------------------------------


def ack(sequence: int, stream: int = STREAM) -> Message:
    built = message(HEARTBEAT)
    built.ack.add(stream=stream, sequence=sequence)
    return built


def hello(stream: int = STREAM, next_sequence: int = 1) -> Message:
    built = message(HEARTBEAT)
    built.hello.stream = stream
    built.hello.next_sequence = next_sequence
    return built


def data(sequence: int, stream: int = STREAM, octets: bytes = b"x", **fields: int | bytes) -> Message:
    built = message(DATA_MESSAGE)
    built.payload.channel = 202
    built.payload.payloadType = NMSG_CONTAINER
    built.payload.data = octets
    built.payload.stream = stream
    built.payload.sequence = sequence
    built.payload.digest = hashlib.sha256(octets).digest()
    for name, value in fields.items():
        setattr(built.payload, name, value)
    return built


def record(text: bytes) -> Message:
    return data(1, octets=text, payloadType=ACCOUNTING_RECORD)


def crowded() -> Message:
    """The smallest fields, without number."""
    built = message(TOPOLOGY_MESSAGE)
    for _ in range(limits.MAX_CONTROL // 2):
        built.topology.subscription.add()
    return built


def talkative() -> Message:
    """A container with a speech beside it."""
    built = data(1, octets=bytes(100_000))
    built.alert.level = INFORMATIONAL
    built.alert.message = bytes(limits.MAX_CONTROL)
    return built


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (crowded(), "octets beside the data of a payload, over 65536"),
        (talkative(), "octets beside the data of a payload, over 65536"),
        (ack(1), "nobody asked for"),
        (hello(), "second hello"),
        (data(0), "payload 0 after 0"),
        (data(2**63), "after 0"),
        (data(1, stream=7), "payload of stream 0000000000000007"),
        (data(1, octets=b""), "payload 1 of 0 octets"),
        (data(1, digest=b"x" * 32), "digest"),
        (data(1, channel=0), "channel 0"),
        (data(1, channel=65536), "channel 65536"),
        (data(1, compressionType=COMPRESSION_LZ4), "compression 3"),
        (data(1, payloadType=LOG_RECORD), "payload type 2"),
        (message(DATA_MESSAGE), "without a payload"),
        (record(b"{"), "no JSON"),
        (record(b"[" * 60000), "no JSON"),
        (record(b"[]"), "no JSON object"),
        (record(b'{"a": 1.5}'), "counters"),
        (record(b'{"a": true}'), "counters"),
        (record(b'{"a": -1}'), "counters"),
        (record(b'{"a b": 1}'), "counters"),
        (record(b" " * (limits.MAX_ACCOUNTING + 1)), "octets, over"),
    ],
)
def test_what_a_hub_does_not_take(bad: Message, words: str) -> None:
    _s, h = opened()
    closed_with(h.receive(bad.SerializeToString(), 0.0), h, words)


def test_a_payload_over_the_limit_is_taken_by_neither_end() -> None:
    s, h = opened()
    large = bytes(limits.MAX_PAYLOAD + 1)
    with pytest.raises(TrampolineMisuse, match="octets, not in"):
        s.send_payload(container(1, large), 0.0)
    closed_with(h.receive(data(1, octets=large).SerializeToString(), 0.0), h, "octets, not in")


def test_a_message_over_the_limit_is_not_even_decoded() -> None:
    h = hub({1})
    closed_with(h.receive(bytes(limits.MAX_MESSAGE + 1), 0.0), h, "octets, over")


def test_a_sequence_may_not_fall_within_a_session() -> None:
    _s, h = opened(position=3)
    assert len(h.receive(data(5).SerializeToString(), 0.0)) == 1
    closed_with(h.receive(data(4).SerializeToString(), 0.0), h, "payload 4 after 5")


def test_what_is_stored_already_may_not_be_sent_again_after_the_position_said_so() -> None:
    _s, h = opened(position=3)
    closed_with(h.receive(data(3).SerializeToString(), 0.0), h, "payload 3 after 3")


@pytest.mark.parametrize("early", [data(1), record(b"{}")], ids=["payload", "accounting"])
def test_data_before_the_position_is_refused(early: Message) -> None:
    h = hub()
    h.receive(CONFIG_2, 0.0)
    closed_with(h.receive(early.SerializeToString(), 0.0), h, "before the position")


def test_a_payload_after_finished_is_refused() -> None:
    _s, h = opened()
    h.receive(message(FINISHED).SerializeToString(), 0.0)
    closed_with(h.receive(data(1).SerializeToString(), 0.0), h, "after Finished")


def test_finished_is_said_once() -> None:
    _s, h = opened()
    h.receive(message(FINISHED).SerializeToString(), 0.0)
    closed_with(h.receive(message(FINISHED).SerializeToString(), 0.0), h, "Finished twice")


@pytest.mark.parametrize("bad", [hello(stream=0), hello(next_sequence=0), hello(next_sequence=2**63)])
def test_a_hello_names_a_stream_and_a_sequence(bad: Message) -> None:
    h = hub()
    h.receive(CONFIG_2, 0.0)
    bad.heartbeat = 1000
    h.receive(message(HEARTBEAT).SerializeToString(), 0.0)
    beat = message(HEARTBEAT)
    beat.heartbeat = 1000
    h.receive(beat.SerializeToString(), 0.0)
    closed_with(h.receive(bad.SerializeToString(), 0.0), h, "a hello for stream")


def test_a_hello_follows_the_first_heartbeat_interval() -> None:
    h = hub()
    h.receive(CONFIG_2, 0.0)
    closed_with(h.receive(hello().SerializeToString(), 0.0), h, "before the first heartbeat interval")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (hello(), "a hello comes from sensors"),
        (ack(1, stream=7), "acknowledgement of stream 0000000000000007"),
        (ack(1), "acknowledgement of 1, not in 2..4"),
        (ack(5), "acknowledgement of 5, not in 2..4"),
        (data(5), "nothing was subscribed"),
    ],
)
def test_what_a_sensor_does_not_take(bad: Message, words: str) -> None:
    s, _h = opened(position=2)
    s.send_payload(container(3), 0.0)
    s.send_payload(container(4), 0.0)
    closed_with(s.receive(bad.SerializeToString(), 0.0), s, words)


def test_a_position_follows_the_first_heartbeat_interval() -> None:
    s = sensor()
    s.receive(CONFIG_2, 0.0)
    s.send_hello(STREAM, 9)
    closed_with(s.receive(ack(1).SerializeToString(), 0.0), s, "before the first heartbeat interval")


def test_an_acknowledgement_before_the_hello_is_refused() -> None:
    s = sensor()
    s.receive(CONFIG_2, 0.0)
    closed_with(s.receive(ack(1).SerializeToString(), 0.0), s, "nobody asked for")


@pytest.mark.parametrize("kind", [DATA_MESSAGE, SHUTDOWN, FINISHED])
def test_a_session_begins_with_a_configuration(kind: MessageType.ValueType) -> None:
    h = hub()
    closed_with(h.receive(message(kind).SerializeToString(), 0.0), h, "before the configuration")


def test_compressed_payloads_are_refused_in_version_1() -> None:
    h = hub({1})
    h.receive(CONFIG_1, 0.0)
    bad = data(1, compressionType=COMPRESSION_ZSTD)
    closed_with(h.receive(bad.SerializeToString(), 0.0), h, "compression 1000")


def test_a_topology_is_taken_and_changes_nothing() -> None:
    _s, h = opened()
    topology = message(TOPOLOGY_MESSAGE)
    topology.topology.subscription.add(channel=[202])
    assert h.receive(topology.SerializeToString(), 0.0) == []


def test_a_text_that_is_no_text_harms_no_log() -> None:
    _s, h = opened()
    alert = message(ALERT_MESSAGE)
    alert.alert.level = FATAL_ERROR
    alert.alert.message = b"\xff\x1b[31mred\n" + b"a" * 5000
    [received] = h.receive(alert.SerializeToString(), 0.0)
    assert isinstance(received, AlertReceived)
    assert received.text.startswith("\ufffd?[31mred?aaa")
    assert len(received.text) == limits.MAX_ALERT_TEXT
    assert printable("a\u202eb", 10) == "a?b"


# --- our own side's mistakes -----------------------------------------------------------------------------


def test_the_hub_sends_no_payload() -> None:
    _s, h = opened()
    with pytest.raises(TrampolineMisuse, match="a hub whose session is open sends no payload"):
        h.send_payload(container(1), 0.0)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (container(1, stream=7), "another stream"),
        (container(2), "cannot follow 2"),
        (container(3, b""), "of 0 octets"),
        (OutboundPayload(0, b"x", Compression.ZSTD, STREAM, 3, 1), "channel 0"),
        (OutboundPayload(202, b"x", Compression.ZSTD), "needs the stream"),
    ],
)
def test_a_payload_of_ours_that_breaks_the_protocol_is_not_sent(payload: OutboundPayload, words: str) -> None:
    s, _h = opened(position=2)
    with pytest.raises(TrampolineMisuse, match=words):
        s.send_payload(payload, 0.0)
    assert s.outgoing() == []
    assert s.in_flight == 0


def test_a_payload_that_did_not_arrive_is_not_acknowledged() -> None:
    s, h = opened()
    s.send_payload(container(1), 0.0)
    carry(s, h)
    with pytest.raises(TrampolineMisuse, match=r"sequence 2 is not in 0\.\.1"):
        h.send_ack(STREAM, 2)
    with pytest.raises(TrampolineMisuse, match="another stream"):
        h.send_ack(7, 1)


def test_hello_is_said_once_and_in_range() -> None:
    s, h = sensor(), hub()
    with pytest.raises(TrampolineMisuse, match="only a version-2 sensor"):
        s.send_hello(STREAM, 1)
    converse(s, h)
    with pytest.raises(TrampolineMisuse, match="64-bit"):
        s.send_hello(0, 1)
    with pytest.raises(TrampolineMisuse, match="next sequence"):
        s.send_hello(STREAM, 0)
    s.send_hello(STREAM, 1)
    with pytest.raises(TrampolineMisuse, match="has been said"):
        s.send_hello(STREAM, 1)
    with pytest.raises(TrampolineMisuse, match="only a version-2 sensor"):
        h.send_hello(STREAM, 1)


# --- arbitrary octets ------------------------------------------------------------------------------------

ENDS: list[Callable[[], Trampoline]] = [
    lambda: hub({1}),
    lambda: hub({2}),
    lambda: sensor({1, 2}),
    lambda: opened()[0],
    lambda: opened()[1],
]

INTEGERS = st.sampled_from([0, 1, 2, 3, 202, 65535, 65536, 2**31, 2**32 - 1])
LARGE = st.sampled_from([0, 1, 2, STREAM, 2**63, 2**64 - 1])
OCTETS = st.one_of(st.binary(max_size=40), st.just(b'{"packets_seen": 1}'))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Messages that decode, with fields of every kind in every combination."""
    built = Message(messageType=draw(st.sampled_from(MessageType.values())))
    built.protocolVersion.extend(draw(st.lists(INTEGERS, max_size=3)))
    if draw(st.booleans()):
        built.heartbeat = draw(INTEGERS)
    if draw(st.booleans()):
        built.alert.level = draw(st.integers(0, 3))  # type: ignore[assignment]
        built.alert.message = draw(OCTETS)
    if draw(st.booleans()):
        built.payload.channel = draw(INTEGERS)
        built.payload.payloadType = draw(st.integers(1, 3))  # type: ignore[assignment]
        built.payload.compressionType = draw(st.sampled_from([0, 1, 2, 3, 1000]))  # type: ignore[assignment]
        built.payload.data = draw(OCTETS)
        built.payload.stream = draw(LARGE)
        built.payload.sequence = draw(LARGE)
        digest = draw(st.booleans())
        built.payload.digest = hashlib.sha256(built.payload.data).digest() if digest else draw(OCTETS)
        built.payload.transactions = draw(INTEGERS)
    for _ in range(draw(st.integers(0, 2))):
        built.ack.add(stream=draw(LARGE), sequence=draw(LARGE))
    if draw(st.booleans()):
        built.hello.stream = draw(LARGE)
        built.hello.next_sequence = draw(LARGE)
        built.hello.agent_version = draw(OCTETS)
    return built.SerializeToString()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message with one octet changed, or cut."""
    octets = bytearray(draw(messages()))
    at = draw(st.integers(0, len(octets) - 1))
    octets[at] = draw(st.integers(0, 255))
    return bytes(octets[: draw(st.integers(0, len(octets)))] if draw(st.booleans()) else octets)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(ENDS), st.lists(st.one_of(st.binary(max_size=60), messages(), damaged()), max_size=6))
def test_octets_from_the_network_never_unwind_the_caller(
    make: Callable[[], Trampoline], octets: list[bytes]
) -> None:
    end = make()
    for number, one in enumerate(octets):
        was_closed = end.state is State.CLOSED
        events = end.receive(one, float(number))
        assert not (was_closed and events)
        if any(isinstance(event, Violation) for event in events):
            assert len(events) == 1
            assert end.state is State.CLOSED
        end.tick(float(number))
        for said in end.outgoing():
            assert Message.FromString(said).IsInitialized()
    assert (end.state is State.CLOSED) == (end.closed_reason is not None)


# --- two ends and a link that fails ----------------------------------------------------------------------


class Session:
    """One connection between the sensor and the hub: the two ends, and what is under way between them."""

    def __init__(self, now: float) -> None:
        self.sensor = Trampoline(Side.SENSOR, {2}, now=now, window=4, window_bytes=200)
        self.hub = Trampoline(Side.HUB, {2}, now=now)
        self.to_hub: list[bytes] = []
        self.to_sensor: list[bytes] = []
        self.cursor = 0


class Delivery(RuleBasedStateMachine):
    """A sensor with a spool and a hub with a stream, over sessions that break at any message.

    What survives a crash is kept apart from what does not: the sensor's spool and its counters, and the
    hub's stored stream. The hub's rule is the one of the specification: store what is above the position,
    drop what is not, acknowledge only what this session brought and what is stored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.made: list[bytes] = []
        self.spool: dict[int, bytes] = {}
        self.stored: list[tuple[int, bytes]] = []
        self.received: list[tuple[Session, int, bytes]] = []
        self.session = Session(self.now)

    # What lasts.

    @property
    def position(self) -> int:
        return self.stored[-1][0] if self.stored else 0

    @initialize()
    def begin(self) -> None:
        self.session = Session(self.now)

    # The sensor.

    @rule(size=st.integers(1, 120))
    def make_a_container(self, size: int) -> None:
        octets = b"%d:" % (len(self.made) + 1) + b"x" * size
        self.made.append(octets)
        self.spool[len(self.made)] = octets

    @precondition(lambda self: self.session.sensor.can_send)
    @rule()
    def send(self) -> None:
        end = self.session.sensor
        waiting = sorted(sequence for sequence in self.spool if sequence > self.session.cursor)
        if waiting:
            sequence = waiting[0]
            assert min(end.room) > 0
            end.send_payload(container(sequence, self.spool[sequence]), self.now)
            self.session.cursor = sequence

    @rule()
    def sensor_stops_in_order(self) -> None:
        self.session.sensor.finish()

    def at_the_sensor(self, session: Session, events: list[Event]) -> None:
        for event in events:
            match event:
                case Negotiated():
                    session.sensor.send_hello(STREAM, len(self.made) + 1)
                case Acknowledged(sequence=sequence):
                    session.cursor = max(session.cursor, sequence)
                    self.spool = {
                        number: octets for number, octets in self.spool.items() if number > sequence
                    }
                case Violation() | StreamConflict():
                    raise AssertionError(event)

    # The hub.

    def at_the_hub(self, session: Session, events: list[Event]) -> None:
        for event in events:
            match event:
                case HelloReceived(stream=stream, next_sequence=next_sequence):
                    assert self.position < next_sequence
                    session.hub.send_ack(stream, self.position)
                case PayloadReceived(sequence=int(sequence), data=octets):
                    self.received.append((session, sequence, octets))
                case Violation():
                    raise AssertionError(event)

    @precondition(lambda self: self.received)
    @rule(acknowledge=st.booleans())
    def store(self, acknowledge: bool) -> None:
        """One payload becomes durable, or is dropped because it is already; also one of a session long
        gone."""
        session, sequence, octets = self.received.pop(0)
        if sequence > self.position:
            self.stored.append((sequence, octets))
        else:
            assert dict(self.stored)[sequence] == octets
        if acknowledge and session is self.session and session.hub.state is not State.CLOSED:
            session.hub.send_ack(STREAM, sequence)

    @rule()
    def hub_stops_in_order(self) -> None:
        self.session.hub.shutdown()

    # The link.

    @rule(count=st.integers(1, 5))
    def messages_reach_the_hub(self, count: int) -> None:
        session = self.session
        session.to_hub += session.sensor.outgoing()
        for octets in session.to_hub[:count]:
            self.at_the_hub(session, session.hub.receive(octets, self.now))
        del session.to_hub[:count]

    @rule(count=st.integers(1, 5))
    def messages_reach_the_sensor(self, count: int) -> None:
        session = self.session
        session.to_sensor += session.hub.outgoing()
        for octets in session.to_sensor[:count]:
            self.at_the_sensor(session, session.sensor.receive(octets, self.now))
        del session.to_sensor[:count]

    @rule(seconds=st.sampled_from([0.1, 5.0, 20.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.session.sensor.tick(self.now)
        self.session.hub.tick(self.now)

    @rule()
    def the_link_breaks(self) -> None:
        """Both ends notice; what was under way is lost; what the hub has received it may still store."""
        self.session = Session(self.now)

    @rule()
    def the_hub_crashes(self) -> None:
        """What it had received and not stored is lost with everything it had said and not sent."""
        self.received.clear()
        self.session = Session(self.now)

    @rule()
    def the_sensor_crashes(self) -> None:
        """It comes back with its spool; an acknowledgement that was under way is lost."""
        self.session = Session(self.now)

    # What must hold.

    @invariant()
    def nothing_is_lost(self) -> None:
        stored = {sequence for sequence, _ in self.stored}
        assert stored | set(self.spool) == set(range(1, len(self.made) + 1))

    @invariant()
    def the_stream_holds_each_once_and_in_order(self) -> None:
        assert self.stored == [(number, self.made[number - 1]) for number in range(1, self.position + 1)]

    @invariant()
    def the_window_is_kept(self) -> None:
        assert self.session.sensor.in_flight <= 4

    def teardown(self) -> None:
        """On a link that holds, everything arrives in the end."""
        self.session = Session(self.now)
        for _ in range(20 + 4 * len(self.made)):
            self.messages_reach_the_hub(5)
            while self.received:
                self.store(acknowledge=True)
            self.messages_reach_the_sensor(5)
            if self.session.sensor.can_send:
                self.send()
        assert [octets for _, octets in self.stored] == self.made
        assert not self.spool


Delivery.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestDelivery = Delivery.TestCase


def test_the_example_of_an_accounting_record_is_compact() -> None:
    s, _h = opened()
    s.send_accounting({"b": 2, "a": 1})
    [only] = sent(s)
    assert json.loads(only.payload.data) == {"a": 1, "b": 2}
    assert only.payload.data == b'{"a":1,"b":2}'
