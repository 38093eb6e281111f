"""docs/reference/trampoline.md is a specification: its transcript, tables and numbers are the code's."""

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from sie_core import limits, sielink_pb2
from sie_core.sielink_pb2 import DESCRIPTOR
from sie_core.trampoline import (
    Accounting,
    Acknowledged,
    Compression,
    Event,
    HelloReceived,
    OutboundPayload,
    PayloadReceived,
    Side,
    Trampoline,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "trampoline.md"
STREAM = 0x1122334455667788


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


def transcript(page: str) -> list[tuple[str, bytes]]:
    """Who says which octets. A line that begins with blanks continues the message before it."""
    [block] = re.findall(r"```transcript\n(.*?)```", page, re.DOTALL)
    said: list[tuple[str, bytes]] = []
    for line in block.splitlines():
        who, octets = line[0], bytes.fromhex(line[2:].split()[0])
        if who == " ":
            said[-1] = (said[-1][0], said[-1][1] + octets)
        else:
            said.append((who, octets))
    return said


def test_the_transcript_is_what_the_two_ends_say(page: str) -> None:
    sensor, hub = Trampoline(Side.SENSOR, {2}, now=0.0), Trampoline(Side.HUB, {2}, now=0.0)
    said: list[tuple[str, bytes]] = []
    happened: list[Event] = []

    def speak(who: str, end: Trampoline, other: Trampoline) -> None:
        for octets in end.outgoing():
            said.append((who, octets))
            happened.extend(other.receive(octets, 1.0))

    speak("S", sensor, hub)
    speak("H", hub, sensor)
    speak("S", sensor, hub)
    sensor.send_hello(STREAM, 8, "0.1.0")
    speak("S", sensor, hub)
    hub.send_ack(STREAM, 5)
    speak("H", hub, sensor)
    sensor.send_payload(OutboundPayload(202, b"first", Compression.ZSTD, STREAM, 6, 17), 2.0)
    sensor.send_payload(OutboundPayload(202, b"second", Compression.ZSTD, STREAM, 7, 4), 2.0)
    speak("S", sensor, hub)
    hub.send_ack(STREAM, 7)
    speak("H", hub, sensor)
    sensor.send_accounting({"packets_seen": 12})
    sensor.finish()
    speak("S", sensor, hub)
    hub.finish()
    speak("H", hub, sensor)

    assert transcript(page) == said
    assert sensor.finished
    assert hub.finished
    assert HelloReceived(STREAM, 8, "0.1.0") in happened
    assert [event for event in happened if isinstance(event, Acknowledged)] == [
        Acknowledged(STREAM, 5),
        Acknowledged(STREAM, 7),
    ]
    assert [event.sequence for event in happened if isinstance(event, PayloadReceived)] == [6, 7]
    assert Accounting({"packets_seen": 12}) in happened


def test_the_table_of_fields_is_the_schema(page: str) -> None:
    documented = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d+) \| (\w+) (\w+) \|$", page, re.MULTILINE))
    schema = set()
    for message in DESCRIPTOR.message_types_by_name.values():
        for field in message.fields:
            label = "required" if field.is_required else "repeated" if field.is_repeated else "optional"
            kind = field.message_type or field.enum_type
            name = kind.name if kind is not None else SCALARS[field.type]
            schema.add((message.name, field.name, str(field.number), label, name))
    assert documented == schema


SCALARS = {
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_FIXED64: "fixed64",
    FieldDescriptor.TYPE_BYTES: "bytes",
}


def test_the_table_of_enums_is_the_schema(page: str) -> None:
    documented = {
        name: dict(re.findall(r"`(\w+)` (\d+)", values))
        for name, values in re.findall(r"^\| `(\w+)` \| (`\w+` \d+, .*) \|$", page, re.MULTILINE)
    }
    schema = {
        enum.name: {value.name: str(value.number) for value in enum.values}
        for enum in DESCRIPTOR.enum_types_by_name.values()
    }
    assert documented == schema


def test_every_limit_of_the_protocol_is_on_the_page(page: str) -> None:
    documented = {
        name: float(value)
        for name, value in re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+)\b[^|]* \|", page, re.MULTILINE)
    }
    source = Path(limits.__file__).read_text()
    section = source.split("# --- trampoline")[1].split("# --- identity")[0]
    names = re.findall(r"^([A-Z_]+): Final", section, re.MULTILINE)
    assert documented == {name: float(getattr(limits, name)) for name in names}


def test_the_modules_are_those_of_the_schema() -> None:
    """sielink_pb2.py is generated and committed: every name of the schema file is in it."""
    schema = (Path(sielink_pb2.__file__).parent / "sielink.proto").read_text()
    fields = re.findall(r"^  (?:required|optional|repeated) \w+ (\w+) = (\d+);", schema, re.MULTILINE)
    generated = [
        (field.name, str(field.number))
        for message in DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    ]
    assert sorted(fields) == sorted(generated)
