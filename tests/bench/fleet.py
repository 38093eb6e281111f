"""Many sensors in one process, each sending one container a second; run as a program of its own.

They speak by the trampoline's own class, over TLS 1.3 with a certificate each, and cost as little as that
allows: no task for each, and octets that are made once. A container's time counts from the moment at which it
was due, not from when it could be sent, so that a hub which is slow, or this process being late, shows.
"""

import asyncio
import json
import os
import ssl
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from sie_core.trampoline import Acknowledged, Compression, Negotiated, OutboundPayload, Side, Trampoline

STREAM: Final = 1
TRANSACTIONS: Final = 400
"""In a container, by its own account: 64 KiB of them."""

CONNECTIONS_OF_ADDRESS: Final = 100
"""From one address of loopback; a hub takes 128."""

HANDSHAKES: Final = 8
"""At once."""

CHECK_INTERVAL: Final = 1.0
DRAIN_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Plan:
    """What the fleet is to do."""

    port: int
    authority: str
    channel: int
    sensors: list[tuple[str, str]]
    """Key and certificate of each."""
    octets: int
    warm_up: int
    seconds: int


class Sensor(asyncio.Protocol):
    """One connection. `acknowledged_in` are when each container was due, and seconds from then until it was
    acknowledged.
    """

    def __init__(self, plan: Plan, data: bytes) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: str | None = None
        self.sent = 0
        self.acknowledged_in: list[tuple[float, float]] = []
        self._channel = plan.channel
        self._data = data
        self._websocket = ClientProtocol(parse_uri(f"wss://localhost:{plan.port}/session/bench"))
        self._websocket.max_message_size = None
        self._trampoline = Trampoline(Side.SENSOR, {2}, now=time.monotonic())
        self._unsent: deque[float] = deque()
        self._in_flight: deque[float] = deque()
        self._acknowledged = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._websocket.send_request(self._websocket.connect())
        self._write()

    def data_received(self, data: bytes) -> None:
        self._websocket.receive_data(data)
        for event in self._websocket.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                self._receive(bytes(event.data))
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = self.ended or self._trampoline.closed_reason or f"the connection was lost: {error}"
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(self.ended))

    def put(self, due: float) -> None:
        """A container lies in the spool since `due`."""
        self._unsent.append(due)
        self._flush()

    @property
    def pending(self) -> int:
        """Containers without an acknowledgement."""
        return len(self._unsent) + len(self._in_flight)

    def tick(self) -> None:
        """Take the time."""
        self._trampoline.tick(time.monotonic())
        self._flush()

    def _receive(self, message: bytes) -> None:
        now = time.monotonic()
        for event in self._trampoline.receive(message, now):
            match event:
                case Negotiated():
                    self._trampoline.send_hello(STREAM, 1, "bench")
                case Acknowledged(_, sequence):
                    if not self.opened.done():
                        self.opened.set_result(None)
                    while self._acknowledged < sequence:
                        self._acknowledged += 1
                        due = self._in_flight.popleft()
                        self.acknowledged_in.append((due, now - due))
                case _:
                    self.ended = str(event)
                    self._transport.abort()

    def _flush(self) -> None:
        while self._unsent and self._trampoline.can_send:
            self.sent += 1
            self._trampoline.send_payload(
                OutboundPayload(self._channel, self._data, Compression.ZSTD, STREAM, self.sent, TRANSACTIONS),
                time.monotonic(),
            )
            self._in_flight.append(self._unsent.popleft())
        if self._websocket.state.name == "OPEN":
            for message in self._trampoline.outgoing():
                self._websocket.send_binary(message)
        self._write()

    def _write(self) -> None:
        for octets in self._websocket.data_to_send():
            if octets:
                self._transport.write(octets)


async def deliver(plan: Plan) -> dict[str, Any]:
    """Connect all, send for `warm_up` and then `seconds`, wait for the last acknowledgement, and report."""
    data = os.urandom(plan.octets)
    sensors = await _connected(plan, data)
    begin = time.monotonic() + 1.0
    counted_from = begin + plan.warm_up
    ticking = asyncio.create_task(_tick(sensors))
    late = 0.0
    cpu = 0.0
    for turn in range(plan.warm_up + plan.seconds):
        if turn == plan.warm_up:
            cpu = time.process_time()
            print(json.dumps("counting"), flush=True)
        for number, sensor in enumerate(sensors):
            due = begin + turn + number / len(sensors)
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            if turn >= plan.warm_up:
                late = max(late, time.monotonic() - due)
            sensor.put(due)
            if number % 16 == 0:
                await asyncio.sleep(0)  # one that is late must not keep acknowledgements waiting
    print(json.dumps("counted"), flush=True)
    cpu = time.process_time() - cpu
    end = time.monotonic() + DRAIN_SECONDS
    while any(sensor.pending for sensor in sensors) and time.monotonic() < end:  # noqa: ASYNC110  # of many
        await asyncio.sleep(0.01)
    ticking.cancel()
    return {
        "sensors": len(sensors),
        "put": len(sensors) * plan.seconds,
        "pending": sum(sensor.pending for sensor in sensors),
        "sent": sum(sensor.sent for sensor in sensors),
        "ended": [sensor.ended for sensor in sensors if sensor.ended is not None],
        "cpu": cpu,
        "late": late,
        "seconds": [
            [round(due - begin, 6), round(seconds, 6)]
            for sensor in sensors
            for due, seconds in sensor.acknowledged_in
            if due >= counted_from
        ],
    }


async def _connected(plan: Plan, data: bytes) -> list[Sensor]:
    loop = asyncio.get_running_loop()
    at_once = asyncio.Semaphore(HANDSHAKES)

    async def connected(number: int, key: str, certificate: str) -> Sensor:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(plan.authority)
        context.load_cert_chain(certificate, key)
        source = f"127.0.0.{2 + number // CONNECTIONS_OF_ADDRESS}"
        async with at_once:
            _, sensor = await loop.create_connection(
                lambda: Sensor(plan, data),
                "127.0.0.1",
                plan.port,
                ssl=context,
                server_hostname="localhost",
                local_addr=(source, 0),
            )
            await sensor.opened
        return sensor

    return list(await asyncio.gather(*(connected(n, *files) for n, files in enumerate(plan.sensors))))


async def _tick(sensors: list[Sensor]) -> None:
    while True:
        for sensor in sensors:
            sensor.tick()
            await asyncio.sleep(CHECK_INTERVAL / len(sensors))


def main() -> None:
    """Do what the plan on standard input says. Prints `counting`, `counted` and the report, a line each."""
    plan = Plan(**json.load(sys.stdin))
    print(json.dumps(asyncio.run(deliver(plan))))


if __name__ == "__main__":
    main()
