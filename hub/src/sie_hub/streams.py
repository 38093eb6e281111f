"""The streams that join the hub's units: their names, subjects and headers, and how they are made.

| stream | subjects | written by | read by | kept |
|---|---|---|---|---|
| RAW | raw.<channel>.<participant>.<sensor>.<stream> | ingest | refine | a day |
| KV_POSITION | $KV.POSITION.<participant>.<sensor>.<stream> | ingest | ingest | the last value, for ever |
| KV_TAKEN | $KV.TAKEN.<participant>.<sensor>.<file> | ingest | ingest | 35 days |
| KV_LEDGER | $KV.LEDGER.<participant>.<sensor> | ingest | ingest | the last value, for ever |
| KV_PROBE | $KV.PROBE.<participant>.<sensor>.<place> | refine | ingest | an hour |
| SIE | sie.<channel> | refine | serve | a week |

A stream of a sensor is sixteen hexadecimal digits, with `drop-` before them where its containers come as
files. An upload of protocol version 1 has none, and `v1` stands in its place, or `files` where it puts files.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

RAW: Final = "RAW"
SIE: Final = "SIE"
POSITION: Final = "KV_POSITION"  # the stream under the key-value bucket POSITION
LEDGER: Final = "KV_LEDGER"  # and under the bucket LEDGER
TAKEN: Final = "KV_TAKEN"  # and under the bucket TAKEN
PROBE: Final = "KV_PROBE"  # and under the bucket PROBE

RAW_SUBJECTS: Final = "raw.>"
SIE_SUBJECTS: Final = "sie.>"
POSITION_SUBJECTS: Final = "$KV.POSITION.>"
LEDGER_SUBJECTS: Final = "$KV.LEDGER.>"
TAKEN_SUBJECTS: Final = "$KV.TAKEN.>"
PROBE_SUBJECTS: Final = "$KV.PROBE.>"

SIE_DEDUPLICATED: Final = "sie.204"  # channel 204: processed (de-duplicated) passive DNS

DAY: Final = 86400.0
RAW_MAX_AGE: Final = DAY  # raw data is kept until refine has it, a day at most
SIE_MAX_AGE: Final = 7 * DAY  # how long the store may be away without missing anything
TAKEN_MAX_AGE: Final = 35 * DAY  # a file that comes again later than this counts as another one
PROBE_MAX_AGE: Final = 3600.0  # how long a sensor may wait before it asks for its probe
DUPLICATE_WINDOW: Final = 120.0  # seconds in which a repeated Nats-Msg-Id is recognised

MAX_PAYLOAD: Final = 8 << 20  # of nats-server: the most it takes without advising against it
MAX_HEADERS: Final = 4 << 10  # the headers below, their values and the subject need less than 1 KiB
MAX_MESSAGE: Final = MAX_PAYLOAD - MAX_HEADERS  # octets of data in one message of a stream

HEADER_SEQUENCE: Final = "Sie-Sequence"  # RAW, POSITION: the container's sequence in its sensor's stream
HEADER_DIGEST: Final = "Sie-Digest"  # RAW, POSITION: SHA-256 of the container as it was sent, hexadecimal
HEADER_CODEC: Final = "Sie-Codec"  # RAW: none (NMSG as it is) or zstd
HEADER_TRANSACTIONS: Final = "Sie-Transactions"  # RAW: payloads in the container, as its sensor says
HEADER_STORED_CONTAINERS: Final = "Sie-Stored-Containers"  # RAW, POSITION: of the stream, this one included
HEADER_STORED_TRANSACTIONS: Final = "Sie-Stored-Transactions"  # and the transactions in them
HEADER_FILE: Final = "Sie-File"  # RAW: the name of the file of others that it was
HEADER_PART: Final = "Sie-Part"  # RAW: which part of that file, from 1, where it is more than one message
HEADER_SOURCE: Final = "Sie-Source"  # RAW: the source id that the registry gives the sensor
HEADER_RAW_FIRST: Final = "Sie-Raw-First"  # SIE: the range of RAW that the message covers, both ends included
HEADER_RAW_LAST: Final = "Sie-Raw-Last"
HEADER_RAW_MADE: Final = "Sie-Raw-Made"  # SIE: when RAW was made; made anew, it counts from 1 again
HEADER_WRITER: Final = "Sie-Writer"  # SIE: which run of refine wrote it, sixteen hexadecimal digits

VERSION_1: Final = "v1"  # the last part of the subject of an upload
FILES: Final = "files"  # and of one that puts files into the drop


@dataclass(frozen=True, slots=True)
class Source:
    """Where containers come from: a stream of a sensor, or an upload. Its parts are safe in a subject."""

    participant: str
    sensor: str
    stream: str

    @property
    def position_subject(self) -> str:
        """The subject of its highest stored sequence."""
        return f"$KV.POSITION.{self.participant}.{self.sensor}.{self.stream}"

    def taken_subject(self, name: str) -> str:
        """The subject that remembers a file of its by its name."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        return f"$KV.TAKEN.{self.participant}.{self.sensor}.{digest}"

    @property
    def ledger_subject(self) -> str:
        """The subject of what is kept for the ledger of the sensor or upload, over all its streams."""
        return f"$KV.LEDGER.{self.participant}.{self.sensor}"

    @property
    def raw_subjects_of_sensor(self) -> str:
        """The subjects of the containers of all its sensor's streams."""
        return f"raw.*.{self.participant}.{self.sensor}.*"

    def raw_subject(self, channel: int) -> str:
        """The subject of its containers for a channel."""
        return f"raw.{channel}.{self.participant}.{self.sensor}.{self.stream}"


def source_of_raw(subject: str) -> Source | None:
    """The source whose container has this subject in RAW, or None for another subject."""
    match subject.split("."):
        case ["raw", _channel, participant, sensor, stream]:
            return Source(participant, sensor, stream)
    return None


def drop_stream_name(stream: int) -> str:
    """The same where its containers come as files.

    They have positions of their own, since a file that waits in the drop must not be taken for one that was
    skipped, when its sensor changes to the trampoline meanwhile.
    """
    return f"drop-{stream:016x}"


def stream_name(stream: int) -> str:
    """A sensor's stream id as it stands in subjects."""
    return f"{stream:016x}"


_stream = partial(
    StreamConfig,
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.NEW,
    duplicate_window=DUPLICATE_WINDOW,
    num_replicas=1,
    allow_direct=True,
)
"""What all streams have in common."""

CONFIGS: Final = (
    _stream(
        name=RAW,
        subjects=[RAW_SUBJECTS],
        max_age=RAW_MAX_AGE,
    ),
    _stream(
        name=POSITION,
        subjects=[POSITION_SUBJECTS],
        max_msgs_per_subject=1,
        allow_rollup_hdrs=True,
        deny_delete=True,
    ),
    _stream(
        name=LEDGER,
        subjects=[LEDGER_SUBJECTS],
        max_msgs_per_subject=1,
        allow_rollup_hdrs=True,
        deny_delete=True,
    ),
    _stream(
        name=TAKEN,
        subjects=[TAKEN_SUBJECTS],
        max_age=TAKEN_MAX_AGE,
        max_msgs_per_subject=1,
        allow_rollup_hdrs=True,
        deny_delete=True,
    ),
    _stream(
        name=PROBE,
        subjects=[PROBE_SUBJECTS],
        max_age=PROBE_MAX_AGE,
        max_msgs_per_subject=1,
        allow_rollup_hdrs=True,
        deny_delete=True,
    ),
    _stream(
        name=SIE,
        subjects=[SIE_SUBJECTS],
        max_age=SIE_MAX_AGE,
    ),
)

_COMPARED: Final = (
    "subjects",
    "retention",
    "storage",
    "discard",
    "max_age",
    "max_msgs_per_subject",
    "allow_rollup_hdrs",
    "deny_delete",
    "duplicate_window",
    "allow_direct",
)


async def ensure_streams(jetstream: JetStreamContext, *, dry_run: bool = False) -> dict[str, str]:
    """Create what is missing and update what differs; data is kept.

    Returns for each stream `created`, `updated` or `unchanged`. With `dry_run` it only says what it would do.
    """
    outcome = {}
    for config in CONFIGS:
        name = str(config.name)
        try:
            present = (await jetstream.stream_info(name)).config
        except NotFoundError:
            outcome[name] = "created"
            if not dry_run:
                await jetstream.add_stream(config)
            continue
        if all(_settled(present, key) == _settled(config, key) for key in _COMPARED):
            outcome[name] = "unchanged"
            continue
        outcome[name] = "updated"
        if not dry_run:
            await jetstream.update_stream(config)
    return outcome


def _settled(config: StreamConfig, key: str) -> Any:
    """A setting with what the server puts in the place of one that was left out."""
    value = getattr(config, key)
    if key == "max_msgs_per_subject":
        return -1 if value in (None, 0) else value
    if key in ("allow_rollup_hdrs", "deny_delete", "allow_direct"):
        return bool(value)
    if key == "max_age":
        return value or 0
    return value
