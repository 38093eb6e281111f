"""`sie-hub backup` and `sie-hub restore`: what a hub cannot be built anew without."""

import argparse
import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sie_core.files import acting_as_owner
from sie_core.settings import Config
from sie_hub import log
from sie_hub.backup import (
    BackupError,
    Entry,
    below,
    differing,
    entries_in,
    files_in,
    keep,
    pack,
    put_back,
    unpack,
)
from sie_hub.cli import EXIT_CODES, EXIT_OK, add_config_argument
from sie_hub.config import load_config
from sie_hub.enrol.cli import speaking
from sie_hub.nats_command import add_timeout_argument, in_time, linked
from sie_hub.nats_link import Link
from sie_hub.registry_edit import MODE as REGISTRY_MODE
from sie_hub.streams import LEDGER, LEDGER_SUBJECTS, POSITION, POSITION_SUBJECTS

STREAMS: Final = {POSITION: POSITION_SUBJECTS, LEDGER: LEDGER_SUBJECTS}
REGISTRY_ENDINGS: Final = (".yml", ".json", ".given_sources")
ENROL_MODE: Final = 0o600
KEPT: Final = 14  # two weeks of days: long enough to notice over a holiday what went wrong
NATS_TIMEOUT: Final = 60.0  # seconds, for a hundred thousand subjects one after another at 0.5 ms each
MAX_SUBJECTS: Final = 100_000  # nats-server names no more in one answer
TOGETHER: Final = 64  # questions under way at a time
AGAIN: Final = ": run this again when nats-server is well"


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of one of the two commands."""
    add_config_argument(parser)
    parser.add_argument(
        "--nats-passwords",
        type=Path,
        default=Path("/etc/sie-hub/nats"),
        metavar="DIR",
        help="the directory with one file for each NATS user (default: /etc/sie-hub/nats)",
    )
    add_timeout_argument(parser, NATS_TIMEOUT)
    parser.epilog = EXIT_CODES
    if command == "backup":
        parser.description = (
            f"{parser.description} Registry, enrolment tokens by their hashes, positions and ledger go into"
            " one archive, mode 0600. No private key, no password and no DNS data is in it: keep the CA's"
            " key apart. Prints one JSON object."
        )
        parser.add_argument("--directory", type=Path, required=True, metavar="DIR", help="where it goes")
        parser.add_argument(
            "--keep",
            type=_number,
            default=KEPT,
            metavar="N",
            help=f"how many there are afterwards at most; the oldest are removed (default: {KEPT})",
        )
        parser.set_defaults(run=speaking(_backup))
    else:
        parser.description = (
            f"{parser.description} For a hub that was just built, with the CA of the one before and its"
            " programs stopped; refused where there is a participant already. Prints one JSON object."
        )
        parser.add_argument("archive", type=Path, metavar="ARCHIVE")
        parser.add_argument("--check", action="store_true", help="say what would be restored, and do nothing")
        parser.set_defaults(run=speaking(_restore))


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of backups")
    return int(text)


def _backup(arguments: argparse.Namespace) -> int:
    log.configure("backup")
    config = load_config(arguments.config)
    made = datetime.now(UTC)
    members = {"hub.yml": arguments.config.read_bytes(), "ca.pem": config["ca.certificate"].read_bytes()}
    state: Path = config["enrol.state"]
    for folder, directory, endings in (
        ("registry", config["registry"], REGISTRY_ENDINGS),
        ("enrol/tokens", state / "tokens", (".json",)),
        ("enrol/renewals", state / "renewals", (".json",)),
    ):
        found = files_in(directory, endings)
        members |= {f"{folder}/{name}": data for name, data in found.items()}
    streams = in_time(config, arguments.timeout, _read_streams(config, arguments), AGAIN)
    for stream, entries in streams.items():
        members[f"streams/{stream}.ndjson"] = b"".join(entry.as_line() for entry in entries)
    path, removed = keep(arguments.directory, pack(config["exchange"], made, members), made, arguments.keep)
    counted = {stream: len(entries) for stream, entries in streams.items()}
    print(
        json.dumps({"archive": str(path), "files": len(members), "entries": counted} | {"removed": removed})
    )
    return EXIT_OK


def _restore(arguments: argparse.Namespace) -> int:
    log.configure("restore")
    config = load_config(arguments.config)
    manifest, members = unpack(arguments.archive)
    _fits(config, arguments.archive, str(manifest["exchange"]), members)
    streams = {stream: entries_in(members.get(f"streams/{stream}.ndjson", b"")) for stream in STREAMS}
    registry = below(members, "registry")
    enrol = {kind: below(members, f"enrol/{kind}") for kind in ("tokens", "renewals")}
    in_time(config, arguments.timeout, _write_streams(config, arguments, streams), AGAIN)
    if not arguments.check:
        with acting_as_owner(config["enrol.state"]) as state:
            for kind, files in enrol.items():
                (state / kind).mkdir(mode=0o700, exist_ok=True)
                put_back(state / kind, files, mode=ENROL_MODE)
        # Last, because a hub with a registry is one that is complete, and is refused.
        put_back(config["registry"], registry, mode=REGISTRY_MODE)
    print(
        json.dumps(
            {
                "made": manifest["made"],
                "registry": len(registry),
                **{kind: len(files) for kind, files in enrol.items()},
                "entries": {stream: len(entries) for stream, entries in streams.items()},
            }
        )
    )
    return EXIT_OK


def _fits(config: Config, archive: Path, exchange: str, members: dict[str, bytes]) -> None:
    """Refuse a backup of another hub, one whose CA this is not, and a hub that has participants."""
    if exchange != config["exchange"]:
        raise BackupError(f"{archive}: a backup of {exchange}, and this is the hub of {config['exchange']}")
    certificate: Path = config["ca.certificate"]
    if members.get("ca.pem") != certificate.read_bytes():
        raise BackupError(
            f"{certificate}: not the CA of the backup, which its sensors trust: put that one's key and"
            " certificate in place first"
        )
    directory: Path = config["registry"]
    if present := sorted(path.stem for path in directory.glob("*.yml")):
        raise BackupError(
            f"{directory}: there is {present[0]} already, and a backup is restored to an empty registry alone"
        )


async def _read_streams(config: Config, arguments: argparse.Namespace) -> dict[str, list[Entry]]:
    async with linked(config, "backup", arguments.nats_passwords / "backup") as link:
        return {stream: await _entries(link, stream, subjects) for stream, subjects in STREAMS.items()}


async def _write_streams(
    config: Config, arguments: argparse.Namespace, streams: dict[str, list[Entry]]
) -> None:
    """Put every entry in place. Cut short, it is taken up by running it again; a hub in use is refused."""
    async with linked(config, "backup", arguments.nats_passwords / "backup") as link:
        for stream, entries in streams.items():
            if other := differing(await _entries(link, stream, STREAMS[stream]), entries):
                raise BackupError(
                    f"{stream}: {other[0]} and {len(other) - 1} more hold something else than the backup:"
                    " this hub has taken data in, and is not restored"
                )
    if arguments.check:
        return
    # The one user that may write to them.
    async with linked(config, "ingest", arguments.nats_passwords / "ingest") as link:
        for entries in streams.values():
            for entry in entries:
                await link.publish(entry.subject, entry.data, entry.headers)


async def _entries(link: Link, stream: str, pattern: str) -> list[Entry]:
    subjects = sorted(await link.subjects(stream, pattern))
    if len(subjects) >= MAX_SUBJECTS:
        raise BackupError(
            f"{stream}: more than the {MAX_SUBJECTS} subjects that nats-server names at a time:"
            " offboard who has left"
        )
    entries: list[Entry] = []
    for start in range(0, len(subjects), TOGETHER):
        some = subjects[start : start + TOGETHER]
        messages = await asyncio.gather(*(link.last_message(stream, subject) for subject in some))
        entries += [
            Entry(subject, message.data, {k: v for k, v in message.headers.items() if k.startswith("Sie-")})
            for subject, message in zip(some, messages, strict=True)
            if message is not None  # purged meanwhile
        ]
    return entries
