"""What another implementation is held to, held against ours: vectors of octets, the table of what may come
when, and peers that say anything at all at any time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sie_core import limits
from sie_core.errors import TrampolineMisuse, WindowFull
from sie_core.sielink_pb2 import (
    ACCOUNTING_RECORD,
    ALERT_MESSAGE,
    DATA_MESSAGE,
    FATAL_ERROR,
    FINISHED,
    HEARTBEAT,
    NMSG_CONTAINER,
    SHUTDOWN,
    WARNING,
    Message,
    MessageType,
)
from sie_core.trampoline import (
    AlertLevel,
    Compression,
    Event,
    OutboundPayload,
    Side,
    State,
    Trampoline,
    Violation,
)

VECTORS = Path(__file__).parent / "vectors" / "trampoline.json"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "trampoline.md"
STREAM = 0x1122334455667788


# --- vectors ----------------------------------------------------------------------------------------------


def described(event: Event) -> dict[str, Any]:
    """An event as the vectors have it: octets and streams in hexadecimal digits, what is absent left out."""
    document: dict[str, Any] = {"event": type(event).__name__}
    for field in fields(event):
        value = getattr(event, field.name)
        if field.name == "stream" and value is not None:
            value = f"{value:016x}"
        elif isinstance(value, bytes):
            value = value.hex()
        elif isinstance(value, Enum):
            value = value.name.lower()
        elif isinstance(value, Mapping):
            value = dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        if value is not None and field.name != "reason":
            document[field.name] = value
    return document


def spoken(octets: bytes) -> str:
    """A message as the vectors have it: its octets, or what kind of alert it is, whose words are free."""
    message = Message.FromString(octets)
    if message.messageType == ALERT_MESSAGE:
        return f"alert {AlertLevel(message.alert.level).name.lower()}"
    return octets.hex()


def do(end: Trampoline, what: str, arguments: Mapping[str, Any]) -> None:
    """What the program around an end asks of it."""
    given = dict(arguments)
    if "stream" in given:
        given["stream"] = int(given["stream"], 16)
    if "digest" in given:
        given["digest"] = bytes.fromhex(given["digest"])
    if what == "send_payload":
        compression = Compression[given.pop("compression").upper()]
        payload = OutboundPayload(data=bytes.fromhex(given.pop("data")), compression=compression, **given)
        end.send_payload(payload, 0.0)
    else:
        getattr(end, what)(**given)


def vectors() -> list[dict[str, Any]]:
    return list(json.loads(VECTORS.read_text())["vectors"])


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["name"])
def test_a_vector(vector: dict[str, Any]) -> None:
    end = Trampoline(Side(vector["end"]), vector["offers"], now=0.0)
    for step in vector["steps"]:
        if "hears" in step:
            events = end.receive(bytes.fromhex(step["hears"]), 0.0)
            assert [described(event) for event in events] == step["events"]
        elif "does" in step:
            do(end, step["does"], step["with"])
        assert [spoken(octets) for octets in end.outgoing()] == step["says"]
    assert (end.state is State.CLOSED, end.finished) == (vector["closed"], vector["finished"])


def test_the_vectors_name_every_event_and_both_ends() -> None:
    happened = {
        event["event"] for vector in vectors() for step in vector["steps"] for event in step.get("events", ())
    }
    assert happened == {kind.__name__ for kind in Event.__args__}
    assert {(vector["end"], tuple(vector["offers"])) for vector in vectors()} >= {
        ("hub", (1,)),
        ("hub", (2,)),
        ("sensor", (2,)),
    }


# --- what may come when -----------------------------------------------------------------------------------


def message(kind: MessageType.ValueType) -> Message:
    return Message(protocolVersion=[2], messageType=kind)


def alert(level: int) -> Message:
    built = message(ALERT_MESSAGE)
    built.alert.level = level  # type: ignore[assignment]
    return built


def payload(sequence: int) -> Message:
    built = message(DATA_MESSAGE)
    built.payload.channel = 202
    built.payload.payloadType = NMSG_CONTAINER
    built.payload.data = b"x"
    built.payload.stream = STREAM
    built.payload.sequence = sequence
    built.payload.digest = hashlib.sha256(b"x").digest()
    return built


def accounting() -> Message:
    built = message(DATA_MESSAGE)
    built.payload.channel = 0
    built.payload.payloadType = ACCOUNTING_RECORD
    built.payload.data = b"{}"
    return built


def hello() -> Message:
    built = message(HEARTBEAT)
    built.hello.stream = STREAM
    built.hello.next_sequence = 8
    return built


def ack(sequence: int) -> Message:
    built = message(HEARTBEAT)
    built.ack.add(stream=STREAM, sequence=sequence)
    return built


MESSAGES: dict[str, Message] = {
    "configuration": Message.FromString(bytes.fromhex("080210012200")),
    "heartbeat": Message(protocolVersion=[2], messageType=HEARTBEAT, heartbeat=10_000),
    "hello": hello(),
    "acknowledgement": ack(5),
    "container": payload(6),
    "accounting record": accounting(),
    "alert": alert(WARNING),
    "fatal alert": alert(FATAL_ERROR),
    "Shutdown": message(SHUTDOWN),
    "Finished": message(FINISHED),
}

SITUATIONS = (
    "opening",
    "greeting",
    "greeting, hello said",
    "open",
    "closing: Shutdown said",
    "closing: Shutdown heard",
    "closing: Finished heard",
)


def situated(side: Side, situation: str) -> Trampoline:
    """An end of version 2 in a situation, with nothing left to say."""
    end = Trampoline(side, {2}, now=0.0)
    mine = side is Side.SENSOR
    at = SITUATIONS.index(situation)
    heard: list[Callable[[], object]] = [
        lambda: hear(end, "configuration", "heartbeat"),
        lambda: end.send_hello(STREAM, 8, "0.1.0") if mine else hear(end, "hello"),
        lambda: hear(end, "acknowledgement") if mine else end.send_ack(STREAM, 5),
    ]
    for step in heard[: min(at, 3)]:
        step()
    if situation.endswith("Shutdown said"):
        end.shutdown()
    elif situation.endswith("heard"):
        hear(end, situation.removeprefix("closing: ").removesuffix(" heard"))
    end.outgoing()
    return end


def hear(end: Trampoline, *names: str) -> list[Event]:
    return [event for name in names for event in end.receive(MESSAGES[name].SerializeToString(), 0.0)]


def outcome(side: Side, situation: str, name: str) -> str:
    """What comes of a message in a situation, in one word of the page's legend."""
    end = situated(side, situation)
    before = standing(end)
    if before is State.CLOSED:
        return "-"
    events = hear(end, name)
    if any(isinstance(event, Violation) for event in events):
        return "fault"
    if standing(end) is State.CLOSED:
        return "end"
    return "taken" if events or standing(end) is not before else "noted"


def standing(end: Trampoline) -> State:
    return end.state


def table(side: Side) -> Iterator[str]:
    """The page's table for one end."""
    yield f"| {'hub' if side is Side.HUB else 'sensor'} hears | " + " | ".join(SITUATIONS) + " |"
    yield "|---" * (len(SITUATIONS) + 1) + "|"
    for name in MESSAGES:
        yield f"| {name} | " + " | ".join(outcome(side, at, name) for at in SITUATIONS) + " |"


@pytest.mark.parametrize("side", list(Side))
def test_the_page_says_what_may_come_when(side: Side) -> None:
    assert "\n".join(table(side)) in PAGE.read_text()


# --- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "most"),
    [
        (lambda: situated(Side.SENSOR, "open"), limits.MAX_CONTROL),
        (lambda: situated(Side.HUB, "opening"), limits.MAX_CONTROL),
        (lambda: situated(Side.HUB, "open"), limits.MAX_DATA_MESSAGE),
        (lambda: Trampoline(Side.HUB, {1}, now=0.0), limits.MAX_CONTROL),
    ],
    ids=["sensor", "hub before a version", "hub", "hub of version 1 before its peer's first message"],
)
def test_a_message_is_bounded_before_it_is_decoded(end: Callable[[], Trampoline], most: int) -> None:
    (event,) = end().receive(bytes(most + 1), 0.0)
    assert isinstance(event, Violation)
    assert f"over {most}" in event.reason
    (event,) = end().receive(bytes(most), 0.0)  # of a size that is decoded, and no message
    assert isinstance(event, Violation)
    assert "over" not in event.reason


# --- anything at any time ---------------------------------------------------------------------------------

NUMBERS = st.sampled_from([0, 1, 2, 5, 6, 7, 8, 202, 65536, 2**31, 2**32 - 1])
LARGE = st.sampled_from([0, 1, 5, 6, 7, 8, STREAM, 2**63, 2**64 - 1])
WORDS = st.sampled_from([b"", b"x", b"{}", b'{"packets_seen":1}', b"[" * 2000, b"\xff" * 40])


@st.composite
def anything(draw: st.DrawFn) -> bytes:
    """Octets, a message of the table, or one with every field drawn; sometimes damaged."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=60))
    if kind == 1:
        octets = bytearray(draw(st.sampled_from(list(MESSAGES.values()))).SerializeToString())
    else:
        built = Message(messageType=draw(st.sampled_from(MessageType.values())))
        built.protocolVersion.extend(draw(st.lists(NUMBERS, max_size=3)))
        built.heartbeat = draw(NUMBERS)
        for _ in range(draw(st.integers(0, 3))):
            built.ack.add(stream=draw(LARGE), sequence=draw(LARGE))
        if draw(st.booleans()):
            built.hello.stream, built.hello.next_sequence = draw(LARGE), draw(LARGE)
        if draw(st.booleans()):
            built.alert.level = draw(st.integers(0, 3))  # type: ignore[assignment]
            built.alert.message = draw(WORDS)
        if draw(st.booleans()):
            built.payload.channel = draw(NUMBERS)
            built.payload.payloadType = draw(st.integers(1, 3))  # type: ignore[assignment]
            built.payload.data = draw(WORDS)
            built.payload.stream, built.payload.sequence = draw(LARGE), draw(LARGE)
            built.payload.digest = hashlib.sha256(built.payload.data).digest()
        octets = bytearray(built.SerializeToString())
    if kind == 3 and octets:
        octets[draw(st.integers(0, len(octets) - 1))] = draw(st.integers(0, 255))
    return bytes(octets)


class AnythingAtAnyTime(RuleBasedStateMachine):
    """One end, a peer that says anything, and a program that asks anything of the end.

    The complete list of what may come of it: hearing gives events, of which a Violation is alone and closes;
    asking is done, or raises TrampolineMisuse or WindowFull; time passes. Nothing else is raised, what is
    kept stays within the window, and one message heard has at most three said in answer.
    """

    @initialize(side=st.sampled_from(list(Side)), versions=st.sampled_from([{1}, {2}, {1, 2}]))
    def begin(self, side: Side, versions: set[int]) -> None:
        self.now = 0.0
        self.end = Trampoline(side, versions, now=0.0, window=4, window_bytes=400)
        self.end.outgoing()
        self.cause: str | None = None

    @rule(octets=anything())
    def hear(self, octets: bytes) -> None:
        was_closed = self.end.state is State.CLOSED
        events = self.end.receive(octets, self.now)
        assert not (was_closed and events)
        assert len(events) <= 3
        if any(isinstance(event, Violation) for event in events):
            assert len(events) == 1
            assert self.end.state is State.CLOSED
        assert len(self.end.outgoing()) <= 3

    @rule(
        ask=st.sampled_from(
            ["hello", "payload", "ack", "accounting", "shutdown", "finish", "hold", "resume"]
        ),
        large=LARGE,
        number=NUMBERS,
    )
    def ask(self, ask: str, large: int, number: int) -> None:
        end = self.end
        container = OutboundPayload(number, b"x" * 90, Compression.ZSTD, STREAM, large, 1)
        asked: dict[str, Callable[[], object]] = {
            "hello": lambda: end.send_hello(STREAM, large),
            "payload": lambda: end.send_payload(container, self.now),
            "ack": lambda: end.send_ack(STREAM, large),
            "accounting": lambda: end.send_accounting({"captured": number}),
            "shutdown": end.shutdown,
            "finish": end.finish,
            "hold": end.hold,
            "resume": lambda: end.resume(self.now),
        }
        try:
            asked[ask]()
        except (TrampolineMisuse, WindowFull):
            return
        assert len(end.outgoing()) <= 2

    @rule(seconds=st.sampled_from([0.1, 5.0, 20.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.end.tick(self.now)
        assert len(self.end.outgoing()) <= 1

    @invariant()
    def closed_is_for_ever_and_has_its_reason(self) -> None:
        assert (self.end.state is State.CLOSED) == (self.end.closed_reason is not None)
        assert (self.end.deadline() is None) <= (self.end.version == 1 or self.end.state is State.CLOSED)
        self.cause = self.cause or self.end.closed_reason
        assert self.end.closed_reason == self.cause

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        assert self.end.in_flight <= 4
        kept = (value for value in vars(self.end).values() if hasattr(value, "__len__"))
        assert all(
            len(value) <= max(4, limits.MAX_ALERT_TEXT + 200 * isinstance(value, str)) for value in kept
        )


AnythingAtAnyTime.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnythingAtAnyTime = AnythingAtAnyTime.TestCase
