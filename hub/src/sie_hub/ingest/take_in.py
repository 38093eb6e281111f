"""Taking in the drop: each file into RAW exactly once, then acknowledged and removed.

A sensor's file has its stream and sequence in its name, so it goes by the same rule as a container of the
trampoline, in a stream of its own (`drop-…`), whose position is the acknowledgement. A file of others has
nothing but its name: the name is remembered, and the last message in RAW tells which file a crash has cut
short.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from sie_core.trampoline import BrokenRecord, counters_from
from sie_hub import log
from sie_hub.ingest.admission import TOO_MANY, Refused, check_standing
from sie_hub.ingest.drop import (
    TORN_AFTER,
    TRIMMED_FILES,
    Folder,
    Numbered,
    Refusal,
    Waiting,
    oversize,
    pieces,
    refusal,
    whole,
)
from sie_hub.ingest.ledger import Ledger
from sie_hub.ingest.metrics import REPORTED, Metrics
from sie_hub.ingest.quota import Quotas
from sie_hub.ingest.store import Arrival, Fate, NamedWriter, StreamWriter, Unstorable
from sie_hub.ingest.trees import MAX_ENTRIES
from sie_hub.nats_link import Link
from sie_hub.registry import Registry, Sensor, Upload, account_name
from sie_hub.streams import Source, drop_stream_name, stream_name

SCAN_INTERVAL: Final = 1.0
"""Seconds between two looks at the drop: what a sensor waits for its acknowledgement, at most."""

CLEAR_INTERVAL: Final = 3600.0

STREAMS_KEPT: Final = 4
"""Streams of one account whose position is kept in memory, those that were used last: a sensor has one, and a
second after its spool began anew."""

_log = logging.getLogger(__name__)


class _Growing(Exception):
    """A file is not whole and may still become so: whoever puts files there renames them when they are."""


class TakeIn:
    """Takes files in until cancelled. One task; the disk is waited for in threads."""

    def __init__(
        self,
        drop: Path,
        quota: int,
        registry: Registry,
        link: Link,
        metrics: Metrics,
        ledger: Ledger,
        quotas: Quotas,
    ) -> None:
        self._drop = drop
        self._quota = quota
        self._registry = registry
        self._link = link
        self._metrics = metrics
        self._ledger = ledger
        self._quotas = quotas
        self._writers: dict[tuple[int, int], StreamWriter] = {}  # by source id and stream
        self._heard: dict[int, bytes] = {}  # by source id: the accounting record that was read last
        self._complaints = log.Limited(_log, "complaints about the drop")
        self._cleared = 0.0

    async def run(self) -> None:
        """Look at the drop again and again."""
        while True:
            await self._link.wait_up()
            more = await self.round()
            if not more:
                await asyncio.sleep(SCAN_INTERVAL)

    async def round(self) -> bool:
        """One look at every account. Returns whether more is waiting than was taken."""
        waiting = held = 0
        more = False
        for source in self._sources():
            folder = Folder(self._drop, account_name(source.source))
            if not folder.exists:
                continue
            try:
                self._check(source)
                found, left = await self._account(source, folder)
                waiting += found
                more = more or left
            except Refused as refused:
                held += await self._hold(folder)
                self._complain(folder, refused.sentence)
            except OSError as error:
                self._complain(folder, f"cannot be used: {error.strerror}; look at its owner and mode")
            except Unstorable as failure:
                self._complain(folder, str(failure))
        self._metrics.drop_waiting.set(waiting)
        self._metrics.drop_held.set(held)
        if time.monotonic() - self._cleared > CLEAR_INTERVAL:
            self._cleared = time.monotonic()
            await self._clear()
        return more

    def _check(self, source: Sensor | Upload) -> None:
        """Raise Refused unless a source may deliver now."""
        who = f"{source.participant}/{source.name}"
        check_standing(source, who, datetime.now(UTC))
        if not self._quotas.allows((source.participant, source.name)):
            text = f"{who} has delivered more than {self._quotas.octets} octets within a day: its files wait"
            raise Refused("quota", TOO_MANY, text)

    # --- one account ------------------------------------------------------------------------------------

    async def _account(self, source: Sensor | Upload, folder: Folder) -> tuple[int, bool]:
        """Take in what one account has put there.

        Returns how many files it had, and whether what this turn has left is worth a look at once."""
        # Read before the files are listed: whatever it says was delivered is among them, or taken already.
        accounts = await asyncio.to_thread(folder.accounts)
        listing = await asyncio.to_thread(folder.waiting)
        files, total, _below = listing
        streams: dict[int, StreamWriter] = {}
        growing = 0
        for file in files:
            fault = refusal(file, source.channels)
            if fault is None and file.numbered is not None:
                writer = await self._writer(source, file.numbered.stream)
                fault = await self._numbered(source, folder, writer, file, file.numbered)
                streams[file.numbered.stream] = writer
            elif fault is None:
                try:
                    fault = await self._named(source, folder, file)
                except _Growing:
                    growing += 1
            if fault is not None:
                await self._refuse(folder, file, fault)
        for stream, writer in streams.items():
            await writer.record(writer.position)
            await asyncio.to_thread(folder.say_position, stream, writer.position, writer.digest)
            for file in files:
                done = file.numbered
                if done is not None and done.stream == stream and done.sequence <= writer.position:
                    await self._remove(folder, file)
        if accounts is not None and total == len(files):
            self._hear(source, folder, accounts)
        if listing.over(self._quota):
            await self._trim(folder)
        return total, len(files) > growing and total > len(files)

    async def _hold(self, folder: Folder) -> int:
        """Leave what an account has put there that may not deliver, within its quota; how many files."""
        listing = await asyncio.to_thread(folder.waiting)
        if listing.over(self._quota):
            await self._trim(folder)
        return listing.total

    async def _trim(self, folder: Folder) -> None:
        """Let no more wait than an account may have. What a sensor still has is removed, for it comes again;
        what may be nowhere else is laid aside."""
        strays = await asyncio.to_thread(folder.discard_strays)
        self._metrics.drop_files.labels("quota").inc(strays)
        excess = await asyncio.to_thread(lambda: list(islice(folder.excess(self._quota), TRIMMED_FILES)))
        for file in excess:
            sentence = (
                f"more than the {self._quota} octets wait that an account may have here, or than"
                f" {MAX_ENTRIES} files; a sensor puts it there again, others must"
            )
            if file.numbered is not None or file.name.startswith("."):
                await self._remove(folder, file)
                await self._account_for(folder, file, Refusal("quota", sentence))
            else:
                await self._refuse(folder, file, Refusal("quota", sentence))

    async def _writer(self, source: Sensor | Upload, stream: int) -> StreamWriter:
        writer = self._writers.get((source.source, stream))
        if writer is None:
            place = Source(source.participant, source.name, drop_stream_name(stream))
            writer = StreamWriter(self._link, place, source.source)
            await writer.begin(source.channels)
            self._writers[source.source, stream] = writer
            before = [key for key in self._writers if key[0] == source.source]
            for key in before[:-STREAMS_KEPT]:
                del self._writers[key]
        return writer

    async def _numbered(
        self, source: Sensor | Upload, folder: Folder, writer: StreamWriter, file: Waiting, number: Numbered
    ) -> Refusal | None:
        """Store a sensor's container. What is stored is removed only after its position is recorded."""
        data = await asyncio.to_thread(folder.read, file)
        grown = oversize(file, len(data))
        if grown is not None:
            return grown
        if not whole(data, compressed=True):
            return Refusal("torn", "it is no zstd frame")
        digest = hashlib.sha256(data).hexdigest()
        before = writer.position
        fate = await writer.store(
            Arrival(file.channel, data, "zstd", number.sequence, digest, number.transactions)
        )
        if fate is Fate.CONFLICT:
            self._metrics.conflicts.inc()
            stream = stream_name(number.stream)
            return Refusal(
                "conflict", f"container {number.sequence} of {stream} is here with another content"
            )
        if fate is Fate.STORED:
            self._quotas.spend((source.participant, source.name), len(data))
            self._metrics.gaps.inc(max(0, number.sequence - before - 1) if before else 0)
        self._metrics.drop_files.labels(fate.value).inc()
        return None

    async def _named(self, source: Sensor | Upload, folder: Folder, file: Waiting) -> Refusal | None:
        """Store a file of others, which may hold several containers."""
        data = await asyncio.to_thread(folder.read, file)
        grown = oversize(file, len(data))
        if grown is not None:
            return grown
        if not whole(data, compressed=False):
            if file.age < TORN_AFTER:
                raise _Growing
            return Refusal("torn", "it does not consist of whole NMSG containers")
        parts = pieces(data)
        if isinstance(parts, Refusal):
            return parts
        writer = NamedWriter(self._link, source.participant, source.name, source.source)
        fate = await writer.store(file.name, hashlib.sha256(data).hexdigest(), file.channel, parts)
        if fate is Fate.CONFLICT:
            return Refusal("conflict", "a file of this name was taken before, with another content")
        self._metrics.drop_files.labels(fate.value).inc()
        if fate is Fate.STORED:
            self._quotas.spend((source.participant, source.name), len(data))
            self._ledger.taken(source.participant, source.name, len(data), time.time())
        await self._remove(folder, file)
        return None

    async def _remove(self, folder: Folder, file: Waiting) -> None:
        try:
            await asyncio.to_thread(folder.remove, file)
        except FileNotFoundError:
            return  # refused, or taken back by its owner

    async def _refuse(self, folder: Folder, file: Waiting, fault: Refusal) -> None:
        await asyncio.to_thread(folder.refuse, file)
        await self._account_for(folder, file, fault)

    async def _account_for(self, folder: Folder, file: Waiting, fault: Refusal) -> None:
        """Count a file that is not taken, and say why, here and to whoever sends."""
        self._metrics.drop_files.labels(fault.outcome).inc()
        sentence = f"{file.shown} is not taken: {fault.sentence}"
        await asyncio.to_thread(folder.say_refusal, sentence)
        self._complain(folder, sentence, fault.outcome)

    def _hear(self, source: Sensor | Upload, folder: Folder, record: bytes) -> None:
        """Enter a sensor's own words in the ledger, once for each version of them."""
        if self._heard.get(source.source) == record:
            return
        self._heard[source.source] = record
        try:
            counters: Mapping[str, int] = counters_from(record)
        except BrokenRecord as broken:
            self._complain(folder, f"accounts.json is {broken}")
            return
        reported = {name: counters[name] for name in REPORTED if name in counters}
        for name, count in reported.items():
            self._metrics.sensor_reported.labels(source.participant, source.name, name).set(count)
        self._ledger.reported(source.participant, source.name, reported, time.time())

    # --- the rest ---------------------------------------------------------------------------------------

    def _sources(self) -> list[Sensor | Upload]:
        sources: list[Sensor | Upload] = []
        for participant in self._registry.participants.values():
            sources += participant.sensors.values()
            sources += participant.uploads.values()
        return sources

    async def _clear(self) -> None:
        for source in self._sources():
            folder = Folder(self._drop, account_name(source.source))
            if folder.exists:
                try:
                    removed = await asyncio.to_thread(folder.clear_abandoned)
                except OSError as error:
                    self._complain(folder, f"cannot be cleared: {error.strerror}")
                else:
                    self._metrics.drop_files.labels("abandoned").inc(removed)

    def _complain(self, folder: Folder, sentence: str, outcome: str | None = None) -> None:
        self._complaints.event(
            logging.WARNING, "drop", account=folder.account, outcome=outcome, text=sentence
        )
