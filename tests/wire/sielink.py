"""The sielink messages inside an opened trampoline connection."""

from collections.abc import Iterator

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from sie_core import sielink_pb2


def messages(sent: bytes) -> Iterator[sielink_pb2.Message]:
    """Yields what a WebSocket client sent after its request: each binary frame, unmasked, is one message."""
    request, separator, frames = sent.partition(b"\r\n\r\n")
    if not separator or b"upgrade: websocket" not in request.lower():
        return
    reader = Protocol(Side.SERVER, state=OPEN, max_size=None)
    reader.receive_data(frames)
    for event in reader.events_received():
        if isinstance(event, Frame) and event.opcode is Opcode.BINARY:
            yield sielink_pb2.Message.FromString(bytes(event.data))


def containers(sent: bytes) -> Iterator[bytes]:
    """Yields the containers among the payloads, as the spool holds them."""
    for message in messages(sent):
        if message.payload.payloadType == sielink_pb2.NMSG_CONTAINER and message.payload.data:
            yield message.payload.data
