"""What each place of the exchange holds, decoded: spool, wire, streams, store, and a recorded pcap."""

import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sie_lab.hosts import on
from sie_lab.machine import podman, run
from sie_lab.summary import STATUS
from sie_lab.topology import Host, Lab, Participant

from sie_core import _native
from tests.wire.sielink import containers, messages
from tests.wire.tls13 import conversations

SPOOL = "/var/lib/sie-agent/spool"
HUB_PYTHON = "/opt/sie/sie-hub/bin/python"
# What `sie-agent status` asks a running agent, without that program's start. Hosts have no HTTP client.
ASK_STATUS = r"exec 3<>/dev/tcp/127.0.0.1/9153 && printf 'GET /status HTTP/1.0\r\n\r\n' >&3 && cat <&3"
STREAMS_READ_BY = {"RAW": "refine", "SIE": "serve"}

# Runs on the hub with the hub's own libraries: every message of a stream as one JSON line.
READ_STREAM = """
import asyncio, base64, json, sys
import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
async def main(stream, user, password):
    link = await nats.connect(
        "nats://127.0.0.1:4222", user=user, password=password, inbox_prefix=f"_INBOX_{user}".encode()
    )
    jetstream = link.jetstream()
    left = (await jetstream.stream_info(stream)).state.messages
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, name="search",
                            inactive_threshold=10)
    await jetstream.add_consumer(stream, config)
    reader = await jetstream.pull_subscribe_bind("search", stream)
    while left > 0:
        for message in await reader.fetch(min(left, 100), timeout=5):
            left -= 1
            line = {"subject": message.subject, "headers": dict(message.headers or {}),
                    "data": base64.b64encode(message.data).decode()}
            print(json.dumps(line))
    await jetstream.delete_consumer(stream, "search")
    await link.close()
asyncio.run(main(*sys.argv[1:3], sys.stdin.read().strip()))
"""

# Runs on the hub beside a stopped `serve` (one process per store): every column of every row of every table.
READ_STORE = """
import json, sys
from pathlib import Path
from sie_hub.serve.engine import Engine
store = Engine(Path(sys.argv[1])).connection()
def rows(statement):
    return [json.loads(line) for line in store.execute(f"{statement} FORMAT JSONEachRow").splitlines()]
def readable(name, type):
    if type == "String":
        return f"hex({name}) AS {name}_"
    return f"arrayMap(v -> hex(v), {name}) AS {name}_" if type == "Array(String)" else f"{name} AS {name}_"
columns = {}
for column in rows("SELECT table, name, type, default_kind FROM system.columns WHERE database = 'sie'"):
    if column["default_kind"] != "EPHEMERAL":
        columns.setdefault(column["table"], []).append(readable(column["name"], column["type"]))
for table, expressions in columns.items():
    for row in rows(f"SELECT {', '.join(expressions)} FROM sie.{table}"):
        print(json.dumps({"table": table, "row": row}))
"""


def spool(sensor: Host) -> list[dict[str, Any]]:
    """Every payload in the containers that a sensor has not been rid of yet."""
    names = on(sensor, "find", SPOOL, "-name", "*.nmsg.zst").split()
    return [payload for name in names for payload in _native.decode(_fetch(sensor, name))]


def stream(lab: Lab, name: str) -> list[dict[str, Any]]:
    """Every message of a stream with its containers decoded, read as the one unit that may read it."""
    user = STREAMS_READ_BY[name]
    password = on(lab.hub, "cat", f"/etc/sie-hub/nats/{user}")
    said = on(lab.hub, HUB_PYTHON, "-c", READ_STREAM, name, user, stdin=password)
    messages = [json.loads(line) for line in said.splitlines()]
    for message in messages:
        message["payloads"] = _native.decode(base64.b64decode(message.pop("data")))
    return messages


def store(lab: Lab) -> list[dict[str, Any]]:
    """Every row of every table, octet strings as octets. Stops `serve` while it reads."""
    on(lab.hub, "systemctl", "stop", "sie-hub-serve")
    try:
        said = on(
            lab.hub,
            *("setpriv", "--reuid=sie-serve", "--regid=sie-serve", "--clear-groups", "env", "HOME=/tmp"),
            *(HUB_PYTHON, "-c", READ_STORE, "/var/lib/sie-hub-serve/store"),
        )
    finally:
        on(lab.hub, "systemctl", "start", "sie-hub-serve")
    rows = [json.loads(line) for line in said.splitlines()]
    return [{"table": row["table"], "row": {k: _unhex(v) for k, v in row["row"].items()}} for row in rows]


def wire(capture: Path, key_log: Path) -> Iterator[dict[str, Any]]:
    """Everything that crossed a recorded wire, opened: octets, unmasked messages, decoded containers."""
    for conversation in conversations(capture, key_log):
        yield {
            "sent": conversation.sent,
            "received": conversation.received,
            "messages": [message.SerializeToString() for message in messages(conversation.sent)],
            "payloads": [p for data in containers(conversation.sent) for p in _native.decode(data)],
        }


def replayed(
    participant: Participant, capture: Path, agent: Path, resolvers: list[str]
) -> list[dict[str, Any]]:
    """What `sie-agent replay --write` makes of a recorded pcap."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"{participant.name}.nmsg.zst"
        command = [str(agent), "replay", str(capture), "--write", str(out), "--json"]
        for resolver in resolvers:
            command += ["--resolver", resolver]
        run(command)
        return _native.decode(out.read_bytes())


def status(sensor: Host) -> dict[str, Any]:
    """`sie-agent status --json` of a sensor."""
    document: dict[str, Any] = json.loads(on(sensor, *STATUS))
    return document


def running_status(sensor: Host) -> dict[str, Any] | None:
    """The same document as a running agent serves it, for who asks often; None where none answers."""
    head, _, body = on(sensor, "bash", "-c", ASK_STATUS, check=False).partition("\n\n")
    if not body:
        return None
    assert head.split()[1] == "200", head
    document: dict[str, Any] = json.loads(body)
    return document


def fetch(host: Host, path: str, to: Path) -> Path:
    """Copies a file from a host."""
    podman("cp", f"{host.container}:{path}", str(to))
    return to


def _fetch(host: Host, path: str) -> bytes:
    return base64.b64decode(on(host, "base64", "--wrap=0", path))


def _unhex(value: object) -> object:
    match value:
        case str():
            return bytes.fromhex(value)
        case list():
            return [_unhex(member) for member in value]
        case _:
            return value
