"""Letting a participant go: what is taken back, what is purged, and the record of it.

Every step says how much it found and removed, and finds nothing the second time. The record adds up over all
runs, so that one that was cut short and taken up again ends with the same record as one that was not.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sie_core.errors import SieError
from sie_core.files import acting_as_owner
from sie_hub.enrol.renewals import RenewalStore
from sie_hub.enrol.tokens import TokenStore
from sie_hub.files import replace_file
from sie_hub.ingest.drop import forget_account
from sie_hub.nats_link import Link
from sie_hub.registry import Participant, account_name
from sie_hub.registry_edit import MODE
from sie_hub.streams import LEDGER, POSITION, PROBE, RAW, TAKEN

SUFFIX: Final = ".offboarded.json"

PARTITION_DAYS: Final = 7
"""The store drops whole weeks, so that a row may outlive its retention by one."""

STREAMS: Final = {
    "raw_containers": (RAW, "raw.*.{}.>"),
    "stream_positions": (POSITION, "$KV.POSITION.{}.>"),
    "ledger_entries": (LEDGER, "$KV.LEDGER.{}.>"),
    "file_names": (TAKEN, "$KV.TAKEN.{}.>"),
    "probes": (PROBE, "$KV.PROBE.{}.>"),
}
"""What of a participant is in the streams: what it is called in the record, where, and under which subjects.
SIE is not among them: its records are merged and carry no source."""

COUNTED: Final = (
    "upload_keys",
    "reader_keys",
    "enrolment_tokens",
    "renewal_records",
    *STREAMS,
    "dropped_files",
    "refused_files",
)
"""Everything that is purged, each with its number in the record."""


class RecordDamaged(SieError):
    """The record of an offboarding is not one: the sentence says which and what to do."""


@dataclass(frozen=True, slots=True)
class Record:
    """What was done when a participant left: names with the time since when they are revoked, in UTC."""

    participant: str
    exchange: str
    reason: str
    begun: str
    done: str
    agreement_ended: str
    retention_days: int
    sensors: Mapping[str, str] = field(default_factory=dict)
    uploads: Mapping[str, str] = field(default_factory=dict)
    readers: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    purged: Mapping[str, int] = field(default_factory=dict)

    @property
    def merged_rows_gone(self) -> str:
        """The day by which retention has dropped everything to which the participant has contributed."""
        gone = datetime.fromisoformat(self.done) + timedelta(days=self.retention_days + PARTITION_DAYS)
        return gone.date().isoformat()

    def as_document(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return {**asdict(self), "merged_rows_gone": self.merged_rows_gone}


def keys_of(participant: Participant) -> Counter[str]:
    """How many keys a participant has that open something."""
    return Counter(
        upload_keys=sum(len(upload.key_sha256) for upload in participant.uploads.values()),
        reader_keys=sum(len(reader.keys) for reader in participant.readers.values()),
    )


def added(
    before: Record | None,
    participant: Participant,
    purged: Mapping[str, int],
    *,
    exchange: str,
    reason: str,
    retention_days: int,
    began: datetime,
    now: datetime,
) -> Record:
    """The record behind a run that has purged so much; `participant` is what the registry says now."""
    start, at = (time.astimezone(UTC).replace(microsecond=0).isoformat() for time in (began, now))
    unchanged = before is not None and not any(purged.values())
    terminated = participant.agreement.terminated
    return Record(
        participant=participant.name,
        exchange=exchange,
        reason=before.reason if before is not None else reason,
        begun=before.begun if before is not None else start,
        done=before.done if before is not None and unchanged else at,
        agreement_ended=terminated.isoformat() if terminated is not None else "",
        retention_days=retention_days,
        sensors=_revoked(participant.sensors),
        uploads=_revoked(participant.uploads),
        readers=tuple(sorted(participant.readers)),
        accounts=tuple(sorted(accounts_of(participant))),
        purged={
            what: (before.purged.get(what, 0) if before is not None else 0) + purged.get(what, 0)
            for what in COUNTED
        },
    )


def _revoked(entries: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: entry.revoked.at.isoformat()
        for name, entry in sorted(entries.items())
        if entry.revoked is not None
    }


def accounts_of(participant: Participant) -> list[str]:
    """The accounts in the drop that its sensors and uploads have or could have."""
    sources = [sensor.source for sensor in participant.sensors.values()]
    sources += [upload.source for upload in participant.uploads.values()]
    return [account_name(source) for source in sources]


def read_record(directory: Path, participant: str) -> Record | None:
    """The record of an earlier run; None if there was none. Raises RecordDamaged."""
    path = directory / f"{participant}{SUFFIX}"
    try:
        document = json.loads(path.read_bytes())
        document.pop("merged_rows_gone")
        return Record(
            **{**document, "readers": tuple(document["readers"]), "accounts": tuple(document["accounts"])}
        )
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise RecordDamaged(f"{path}: this record of an offboarding is damaged: move it aside") from None


def write_record(directory: Path, record: Record) -> None:
    """Keep the record beside the registry. Raises OSError."""
    text = json.dumps(record.as_document(), indent=1, sort_keys=True)
    replace_file(directory / f"{record.participant}{SUFFIX}", f"{text}\n", MODE)


# --- the steps --------------------------------------------------------------------------------------------


def purge_enrolment(state: Path, participant: str, *, dry_run: bool) -> Counter[str]:
    """Remove the participant's tokens and the records of its renewals. Raises StateError."""
    if not state.is_dir():
        return Counter()
    with acting_as_owner(state):
        tokens, renewals = TokenStore(state), RenewalStore(state, timedelta())
        return Counter(
            enrolment_tokens=tokens.forget(participant, dry_run=dry_run),
            renewal_records=renewals.forget(participant, dry_run=dry_run),
        )


def purge_drop(drop: Path | None, participant: Participant, *, dry_run: bool) -> Counter[str]:
    """Remove what waits in its folders of the drop, and what of it was refused. Raises OSError."""
    purged: Counter[str] = Counter()
    if drop is None:
        return purged
    for account in accounts_of(participant):
        waiting, refused = forget_account(drop, account, dry_run=dry_run)
        purged += Counter(dropped_files=waiting, refused_files=refused)
    return purged


async def purge_streams(link: Link, participant: str, *, dry_run: bool) -> Counter[str]:
    """Remove what of the participant is in the streams that carry sources. Raises Unavailable."""
    purged: Counter[str] = Counter()
    for what, (stream, pattern) in STREAMS.items():
        subjects = pattern.format(participant)
        purged[what] = sum((await link.subjects(stream, subjects)).values())
        if purged[what] and not dry_run:
            await link.purge(stream, subjects)
    return purged
