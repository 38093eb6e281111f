"""What of a message is not its container's data, found without decoding it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sie_core.sielink_pb2 import ALERT_MESSAGE, DATA_MESSAGE, INFORMATIONAL, Message
from sie_core.sielink_size import MAX_FIELDS, octets_beside_data


@given(data=st.binary(max_size=300), text=st.binary(max_size=300), sequence=st.integers(0, 2**64 - 1))
def test_it_is_all_but_the_data(data: bytes, text: bytes, sequence: int) -> None:
    message = Message(messageType=DATA_MESSAGE, protocolVersion=[2], heartbeat=10_000)
    message.payload.channel = 202
    message.payload.data = data
    message.payload.stream = sequence
    message.payload.sequence = sequence
    message.alert.level = INFORMATIONAL
    message.alert.message = text
    encoded = message.SerializeToString()
    assert octets_beside_data(encoded) == len(encoded) - len(data)


def test_without_a_payload_it_is_everything() -> None:
    encoded = Message(messageType=ALERT_MESSAGE).SerializeToString()
    assert octets_beside_data(encoded) == len(encoded)
    assert octets_beside_data(b"") == 0


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (b"\x10", "beyond the end"),
        (b"\x1a\x05abc", "beyond the end"),
        (b"\x1a\x03\x22\x05a", "beyond the end"),
        (b"\x19abc", "beyond the end"),
        (b"\x13", "wire type 3"),
        (b"\x10" + b"\xff" * 11, "more than 10 octets"),
        (b"\x10\x00" * (MAX_FIELDS + 1), "more than 64 fields"),
        (b"\x1a\x84\x01" + b"\x08\x01" * (MAX_FIELDS + 2), "more than 64 fields"),
    ],
)
def test_what_cannot_be_walked(encoded: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        octets_beside_data(encoded)


def test_as_many_fields_as_may_be() -> None:
    assert octets_beside_data(b"\x10\x00" * MAX_FIELDS) == 2 * MAX_FIELDS
