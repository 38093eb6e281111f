"""Putting containers into the RAW stream, each exactly once. docs/explanation/exactly-once.md has the
argument.

The truth about a sensor's stream is its last message in RAW, or the position in the key-value bucket where
that is higher (RAW keeps a day, the bucket keeps for ever). A write names the last message that it believes
in, so that nobody else can have written in between, and a write whose fate is unknown is settled by reading
the truth again."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from sie_hub.nats_errors import Fenced, Unavailable
from sie_hub.nats_link import RETRY_WAIT, Link, StoredMessage, expect_last_of_subject, name_once
from sie_hub.streams import (
    FILES,
    HEADER_CODEC,
    HEADER_DIGEST,
    HEADER_FILE,
    HEADER_PART,
    HEADER_SEQUENCE,
    HEADER_SOURCE,
    HEADER_STORED_CONTAINERS,
    HEADER_STORED_TRANSACTIONS,
    HEADER_TRANSACTIONS,
    POSITION,
    RAW,
    RAW_SUBJECTS,
    TAKEN,
    VERSION_1,
    Source,
)

STORE_TIMEOUT: Final = 10.0
"""Seconds that storing one container may take, restarts of nats-server included, before its session is
given up. Below the 15 s of silence after which a session that waits for room would be closed for want of
heartbeats."""

KNOWN_DIGESTS: Final = 1024
"""How many of a stream's last containers are remembered: 32 windows of 32, some 200 KiB a session."""


MAX_STREAMS: Final = 64
"""Streams that a sensor may begin in a day, which is how long RAW knows them. It needs one, and another when
its spool begins anew. Each is a position that is kept for ever and looked at whenever ingest starts."""


class Unstorable(Exception):
    """A container could not be stored in time. The sensor keeps it."""


class TooManyStreams(Unstorable):
    """A sensor begins one more stream than it may."""


class Fate(Enum):
    """What became of a container that was to be stored."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A container as it arrived. `sequence`, `digest` (hexadecimal) and `transactions`: version 2 only."""

    channel: int
    data: bytes
    codec: str
    sequence: int = 0
    digest: str = ""
    transactions: int | None = None


class Standing(NamedTuple):
    """How a stream stands behind one of its containers: its digest, and what the stream holds up to it."""

    digest: str
    containers: int
    transactions: int


def standing_in(message: StoredMessage) -> Standing:
    """What a message of RAW or of the position bucket says about its stream."""
    return Standing(
        message.headers.get(HEADER_DIGEST, ""),
        message.number(HEADER_STORED_CONTAINERS) or 0,
        message.number(HEADER_STORED_TRANSACTIONS) or 0,
    )


class StreamWriter:
    """The writer of one stream of one sensor. One task may `store` while another one may `record`."""

    def __init__(self, link: Link, source: Source, source_id: int) -> None:
        self.position = 0
        self._link = link
        self._source = source
        self._source_id = source_id
        self._standing = Standing("", 0, 0)  # at the position
        self._last: dict[int, int] = {}  # by channel: the RAW sequence of the stream's last message
        self._known: OrderedDict[int, Standing] = OrderedDict()
        self._recorded = 0  # the position as the bucket has it
        self._record_sequence = 0  # the bucket's own sequence of that entry

    async def open(self, channels: frozenset[int]) -> int:
        """Find the highest stored sequence of the stream, 0 if there is none. Raises `Unstorable`."""
        async with _in_time(self._link, "the stream's position could not be read"):
            await self._link.persist(self._load_position)
            for channel in sorted(channels):
                await self._load_channel(channel)
        return self.position

    async def begin(self, channels: frozenset[int]) -> int:
        """As `open`, for a stream that a sensor names. Raises `TooManyStreams` for one that is new here if
        the sensor has begun too many."""
        position = await self.open(channels)
        if position:
            return position
        async with _in_time(self._link, "the sensor's streams could not be read"):
            subjects = await self._link.persist(
                lambda: self._link.subjects(RAW, self._source.raw_subjects_of_sensor)
            )
        begun = {subject.rpartition(".")[2] for subject in subjects}
        if len(begun) >= MAX_STREAMS:
            who = f"{self._source.participant}/{self._source.sensor}"
            raise TooManyStreams(
                f"{who} has begun {len(begun)} streams within a day: why does its spool not last?"
            )
        return position

    @property
    def digest(self) -> bytes | None:
        """Of the container at the position, None if it is not known."""
        return bytes.fromhex(self._standing.digest) or None

    async def store(self, arrival: Arrival) -> Fate:
        """Put a container into RAW unless it is there. Returns when it is on disk. Raises `Unstorable`."""
        attempted = False
        async with _in_time(self._link, f"container {arrival.sequence} could not be stored"):
            if arrival.channel not in self._last:
                await self._load_channel(arrival.channel)
            while arrival.sequence > self.position:
                standing = self._behind(arrival)
                headers = _raw_headers(arrival, self._source_id) | _standing_headers(standing)
                headers[HEADER_SEQUENCE] = str(arrival.sequence)
                try:
                    attempted = True
                    sequence = await self._link.publish(
                        self._source.raw_subject(arrival.channel),
                        arrival.data,
                        headers | expect_last_of_subject(self._last[arrival.channel]),
                    )
                except (Fenced, Unavailable) as failure:
                    await self._settle(failure)
                    await self._load_channel(arrival.channel)
                else:
                    self._last[arrival.channel] = sequence
                    self._advance(arrival.sequence, standing)
                    return Fate.STORED
        known = self._known.get(arrival.sequence)
        if known is not None and known.digest and known.digest != arrival.digest:
            return Fate.CONFLICT
        # What we tried to write and now find there is our own first copy, not a second one.
        return Fate.STORED if attempted and known is not None and known.digest else Fate.DUPLICATE

    async def record(self, sequence: int) -> None:
        """Bring the position in the bucket up to a stored sequence. Raises `Unstorable`."""
        async with _in_time(self._link, f"position {sequence} could not be recorded"):
            while self._recorded < sequence:
                headers = _standing_headers(self._known.get(sequence, self._standing._replace(digest="")))
                try:
                    self._record_sequence = await self._link.publish(
                        self._source.position_subject,
                        str(sequence).encode(),
                        headers | expect_last_of_subject(self._record_sequence),
                    )
                except (Fenced, Unavailable) as failure:
                    await self._settle(failure)
                    await self._link.persist(self._load_position)
                else:
                    self._recorded = sequence

    async def _load_position(self) -> None:
        message = await self._link.last_message(POSITION, self._source.position_subject)
        if message is not None:
            self._record_sequence = message.sequence
            self._recorded = max(self._recorded, position_in(message))
            self._advance(self._recorded, standing_in(message))

    async def _load_channel(self, channel: int) -> None:
        subject = self._source.raw_subject(channel)
        message = await self._link.persist(lambda: self._link.last_message(RAW, subject))
        self._last[channel] = message.sequence if message is not None else 0
        if message is not None:
            self._advance(message.number(HEADER_SEQUENCE) or 0, standing_in(message))

    async def _settle(self, failure: Exception) -> None:
        if isinstance(failure, Unavailable):
            await asyncio.sleep(RETRY_WAIT)

    def _advance(self, sequence: int, standing: Standing) -> None:
        if sequence > self.position:
            self.position = sequence
            self._standing = standing
        self._known[sequence] = standing
        while len(self._known) > KNOWN_DIGESTS:
            self._known.popitem(last=False)

    def _behind(self, arrival: Arrival) -> Standing:
        """How the stream will stand when this is stored."""
        stands = self._standing
        return Standing(
            arrival.digest, stands.containers + 1, stands.transactions + (arrival.transactions or 0)
        )


class UploadWriter:
    """The writer of an upload of version 1, whose containers carry no sequence and are never sent again."""

    def __init__(self, link: Link, participant: str, upload: str, source_id: int) -> None:
        self._link = link
        self._source = Source(participant, upload, VERSION_1)
        self._source_id = source_id

    async def store(self, arrival: Arrival) -> Fate:
        """Put a container into RAW. Returns when it is on disk. Raises `Unstorable`."""
        headers = _raw_headers(arrival, self._source_id) | name_once(secrets.token_hex(16))
        subject = self._source.raw_subject(arrival.channel)
        async with _in_time(self._link, "a container could not be stored"):
            await self._link.persist(lambda: self._link.publish(subject, arrival.data, headers))
        return Fate.STORED


class NamedWriter:
    """The writer of an upload's files, of which nothing but the name tells one from another.

    A name that was taken is remembered. A crash between storing and remembering leaves the name on the last
    message of the upload's subject, because files are stored one after the other.
    """

    def __init__(self, link: Link, participant: str, upload: str, source_id: int) -> None:
        self._link = link
        self._source = Source(participant, upload, FILES)
        self._source_id = source_id

    async def store(self, name: str, digest: str, channel: int, parts: Sequence[bytes]) -> Fate:
        """Put a file into RAW, a message for each part, unless it was there. Returns when it is on disk.

        Raises `Unstorable`."""
        async with _in_time(self._link, f"the file {name} could not be stored"):
            subject = self._source.taken_subject(name)
            taken = await self._link.persist(lambda: self._link.last_message(TAKEN, subject))
            if taken is not None:
                same = taken.headers.get(HEADER_DIGEST) == digest
                return Fate.DUPLICATE if same else Fate.CONFLICT
            await self._put(name, digest, channel, parts)
            remembered = {HEADER_DIGEST: digest}
            await self._link.persist(lambda: self._link.publish(subject, name.encode(), remembered))
        return Fate.STORED

    async def _put(self, name: str, digest: str, channel: int, parts: Sequence[bytes]) -> None:
        subject = self._source.raw_subject(channel)
        headers = _raw_headers(Arrival(channel, b"", "none"), self._source_id)
        headers |= {HEADER_FILE: name, HEADER_DIGEST: digest}
        while True:
            last = await self._link.persist(lambda: self._link.last_message(RAW, subject))
            stored = _parts_stored(last, name, digest)
            if stored >= len(parts):
                return
            number = {HEADER_PART: str(stored + 1)}
            fence = expect_last_of_subject(last.sequence if last is not None else 0)
            try:
                await self._link.publish(subject, parts[stored], headers | number | fence)
            except Fenced:
                continue
            except Unavailable:
                await asyncio.sleep(RETRY_WAIT)


def _parts_stored(last: StoredMessage | None, name: str, digest: str) -> int:
    """How many parts of a file are in RAW, by the last message of its subject."""
    if last is None or (last.headers.get(HEADER_FILE), last.headers.get(HEADER_DIGEST)) != (name, digest):
        return 0
    return last.number(HEADER_PART) or 1


def position_in(message: StoredMessage) -> int:
    """The sequence that an entry of the position bucket holds; 0 for one that holds something else."""
    return int(message.data) if message.data.isdigit() else 0


async def reconcile(link: Link) -> int:
    """Bring every position up to what RAW holds, for streams whose writer died between the two writes.

    Returns how many were behind. Waits for nats-server as long as it takes.
    """
    behind = 0
    for subject in await link.persist(lambda: link.subjects(RAW, RAW_SUBJECTS)):
        _raw, channel, participant, sensor, stream = subject.split(".")
        if stream in (VERSION_1, FILES):
            continue
        writer = StreamWriter(link, Source(participant, sensor, stream), source_id=0)
        recorded = await _unhurried(writer, int(channel))
        behind += writer.position > recorded
    return behind


async def _unhurried(writer: StreamWriter, channel: int) -> int:
    while True:
        try:
            await writer.open(frozenset())
            recorded = writer.position
            await writer.open(frozenset({channel}))
            await writer.record(writer.position)
        except Unstorable:
            continue
        return recorded


def _standing_headers(standing: Standing) -> dict[str, str]:
    return {
        HEADER_DIGEST: standing.digest,
        HEADER_STORED_CONTAINERS: str(standing.containers),
        HEADER_STORED_TRANSACTIONS: str(standing.transactions),
    }


def _raw_headers(arrival: Arrival, source_id: int) -> dict[str, str]:
    headers = {HEADER_CODEC: arrival.codec, HEADER_SOURCE: str(source_id)}
    if arrival.transactions is not None:
        headers[HEADER_TRANSACTIONS] = str(arrival.transactions)
    return headers


@asynccontextmanager
async def _in_time(link: Link, sentence: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            yield
    except TimeoutError:
        why = "is there and stores nothing: look at its disk and its log" if link.connected else "is away"
        raise Unstorable(f"{sentence} within {STORE_TIMEOUT:.0f} s: the hub's message server {why}") from None
