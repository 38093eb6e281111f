"""`sie-hub registry …`: show and change the registry. JSON out, for playbooks and for people.

Every changing command prints one JSON object with `changed`; `--check` says what would change and changes
nothing. A key is printed once, when it is made, and never again.
"""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from sie_core.kinds import Kind
from sie_hub.cli import EXIT_FAILURE, EXIT_OK, add_config_argument
from sie_hub.config import load_config
from sie_hub.registry import (
    CHANNEL,
    FINGERPRINT,
    MAX_TERM_DAYS,
    PARTICIPANT_NAME,
    SENSOR_NAME,
    SERIAL_HEX,
    SHA256_HEX,
    Participant,
    Registry,
    Sensor,
    Upload,
    account_name,
    read_participant,
)
from sie_hub.registry_edit import EditRefused, RegistryEditor

Answer = dict[str, Any]


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sie-hub registry`."""
    topics = parser.add_subparsers(dest="topic", required=True, metavar="TOPIC")

    show = topics.add_parser("show", help="list participants, sensors, uploads and readers")
    show.add_argument("participant", nargs="?", type=_of(PARTICIPANT_NAME), metavar="PARTICIPANT")
    show.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    add_config_argument(show)
    show.set_defaults(run=_show)

    verbs = _verbs(topics, "participant", "organisations and their agreements")
    verb = _changing(verbs, "set", _participant_set, "make a participant exist with this agreement")
    verb.add_argument("participant", type=_of(PARTICIPANT_NAME), metavar="NAME")
    verb.add_argument("--signed", type=_day, required=True, metavar="DATE", help="the day of the signature")
    verb.add_argument("--term-days", type=_term, required=True, metavar="N", help="the term in days")
    verb.add_argument(
        "--renews",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether it renews itself (default: it does)",
    )
    verb.add_argument("--terminated", type=_day, metavar="DATE", help="the first day without the agreement")

    verb = _changing(verbs, "remove", _participant_remove, "forget a participant whose agreement has ended")
    verb.add_argument("participant", type=_of(PARTICIPANT_NAME), metavar="NAME")

    verbs = _verbs(topics, "sensor", "sensors, which show a certificate")
    _source_verbs(verbs, "sensors", "sensor")
    verb = verbs.choices["revoke"]
    verb.add_argument(
        "--serial",
        type=_of(SERIAL_HEX),
        metavar="HEX",
        help="take this certificate back only; the sensor may enrol again",
    )
    verb.add_argument(
        "--key",
        type=_of(FINGERPRINT),
        metavar="FINGERPRINT",
        help="take this key back, and with it every certificate for it; the sensor may enrol with another",
    )
    verb.add_argument(
        "--all",
        action="store_true",
        help="take back every certificate and token that was issued to it until now, whoever has them; the "
        "sensor may enrol with a new token",
    )

    verbs = _verbs(topics, "upload", "programs of others, which show an API key")
    _source_verbs(verbs, "uploads", "upload")
    keys = _verbs(verbs, "key", "their keys, two at most")
    verb = _changing(keys, "add", _upload_key_add, "make a key and print it once")
    _two_names(verb, "upload")
    verb.add_argument(
        "--sha256", type=_of(SHA256_HEX), metavar="HEX", help="the hash of a key made elsewhere"
    )
    verb = _changing(keys, "remove", _upload_key_remove, "take a key back")
    _two_names(verb, "upload")
    verb.add_argument("--sha256", type=_of(SHA256_HEX), metavar="HEX", required=True, help="the key's hash")

    verbs = _verbs(topics, "reader", "those who may ask the query API")
    keys = _verbs(verbs, "key", "their keys, two at most")
    verb = _changing(
        keys, "add", _reader_key_add, "make a key and print it once, unless there is one of that id"
    )
    _two_names(verb, "reader")
    verb.add_argument("--id", type=_of(SENSOR_NAME), default="k1", help="what to call the key (default: k1)")
    verb.add_argument(
        "--sha256", type=_of(SHA256_HEX), metavar="HEX", help="the hash of a key made elsewhere"
    )
    verb = _changing(keys, "remove", _reader_key_remove, "take a key back")
    _two_names(verb, "reader")
    verb.add_argument("--id", type=_of(SENSOR_NAME), required=True, help="what the key is called")


# --- the commands -----------------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace) -> int:
    directory: Path = load_config(arguments.config)["registry"]
    if arguments.participant is not None:
        participants = [read_participant(directory / f"{arguments.participant}.yml")]
    else:
        registry = Registry(directory)
        participants = list(registry.participants.values())
        if registry.broken:
            print(f"{directory}: {registry.broken} files cannot be read, see above", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"participants": {p.name: _participant(p) for p in participants}}, sort_keys=True))
        return EXIT_OK
    today = date.today()
    for participant in participants:
        print(f"{participant.name}: {participant.agreement.refusal(today) or 'agreement in force'}")
        for sensor in participant.sensors.values():
            print(f"  sensor {sensor.name}: {_standing(sensor)}")
        for upload in participant.uploads.values():
            print(f"  upload {upload.name}: {_standing(upload)}, {len(upload.key_sha256)} keys")
        for reader in participant.readers.values():
            print(f"  reader {reader.name}: keys {', '.join(key.id for key in reader.keys) or 'none'}")
    return EXIT_OK


def _participant_set(editor: RegistryEditor, arguments: argparse.Namespace) -> Answer:
    changed, document = editor.set_participant(
        arguments.participant,
        signed=arguments.signed,
        term_days=arguments.term_days,
        renews=arguments.renews,
        terminated=arguments.terminated,
    )
    return {"changed": changed, "participant": arguments.participant, "agreement": document["agreement"]}


def _participant_remove(editor: RegistryEditor, arguments: argparse.Namespace) -> Answer:
    return {"changed": editor.remove_participant(arguments.participant), "participant": arguments.participant}


def _set(editor: RegistryEditor, arguments: argparse.Namespace) -> Answer:
    changed, entry = editor.set_source(
        arguments.participant, arguments.section, arguments.name, arguments.channel
    )
    return {"changed": changed, "channels": entry["channels"], "source": entry["source"]}


def _revoke(editor: RegistryEditor, arguments: argparse.Namespace) -> Answer:
    changed, entry = editor.revoke(
        arguments.participant,
        arguments.section,
        arguments.name,
        arguments.reason,
        getattr(arguments, "serial", None),
        getattr(arguments, "key", None),
        everything=getattr(arguments, "all", False),
    )
    return {
        "changed": changed,
        "revoked": entry.get("revoked"),
        "revoked_serials": entry.get("revoked_serials", []),
        "revoked_keys": entry.get("revoked_keys", []),
        "revoked_before": entry.get("revoked_before"),
    }


def _reinstate(editor: RegistryEditor, arguments: argparse.Namespace) -> Answer:
    changed, _entry = editor.reinstate(arguments.participant, arguments.section, arguments.name)
    return {"changed": changed}


def _upload_key_add(editor: RegistryEditor, arguments: argparse.Namespace) -> Answer:
    changed, key = editor.add_upload_key(arguments.participant, arguments.name, arguments.sha256)
    return {"changed": changed, **({"key": key} if key is not None else {})}


def _upload_key_remove(editor: RegistryEditor, arguments: argparse.Namespace) -> Answer:
    return {"changed": editor.remove_upload_key(arguments.participant, arguments.name, arguments.sha256)}


def _reader_key_add(editor: RegistryEditor, arguments: argparse.Namespace) -> Answer:
    changed, key = editor.add_reader_key(
        arguments.participant, arguments.name, arguments.id, arguments.sha256
    )
    return {"changed": changed, "id": arguments.id, **({"key": key} if key is not None else {})}


def _reader_key_remove(editor: RegistryEditor, arguments: argparse.Namespace) -> Answer:
    return {"changed": editor.remove_reader_key(arguments.participant, arguments.name, arguments.id)}


# --- the parser -------------------------------------------------------------------------------------------

_Verbs = Any  # argparse's own type for a set of sub-commands is private


def _verbs(parent: _Verbs, topic: str, about: str) -> _Verbs:
    return parent.add_parser(topic, help=about).add_subparsers(dest=topic, required=True, metavar="VERB")


def _changing(
    verbs: _Verbs, verb: str, change: Callable[[RegistryEditor, argparse.Namespace], Answer], about: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(verb, help=about, description=f"{about.capitalize()}.")
    add_config_argument(parser)
    parser.add_argument("--check", action="store_true", help="say what would change, and change nothing")

    def run(arguments: argparse.Namespace) -> int:
        directory = load_config(arguments.config)["registry"]
        try:
            answer = change(RegistryEditor(directory, dry_run=arguments.check), arguments)
        except EditRefused as refused:
            print(refused, file=sys.stderr)
            return EXIT_FAILURE
        print(json.dumps(answer, sort_keys=True))
        return EXIT_OK

    parser.set_defaults(run=run)
    return parser


def _source_verbs(verbs: _Verbs, section: str, what: str) -> None:
    verb = _changing(verbs, "set", _set, f"make a {what} exist that may send to these channels")
    _two_names(verb, what)
    verb.add_argument(
        "--channel", type=_channel, action="append", required=True, metavar="N", help="a channel; repeatable"
    )
    revoke = _changing(verbs, "revoke", _revoke, f"take nothing from a {what} any more; closes its sessions")
    _two_names(revoke, what)
    revoke.add_argument("--reason", required=True, metavar="TEXT", help="why; both sides will read it")
    reinstate = _changing(verbs, "reinstate", _reinstate, f"undo the revocation of a {what}")
    _two_names(reinstate, what)
    for parser in (verb, revoke, reinstate):
        parser.set_defaults(section=section)


def _two_names(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("participant", type=_of(PARTICIPANT_NAME), metavar="PARTICIPANT")
    parser.add_argument("name", type=_of(SENSOR_NAME), metavar=what.upper())


def _of(kind: Kind) -> Callable[[str], str]:
    def convert(text: str) -> str:
        try:
            value: str = kind.convert(text)
        except ValueError as wrong:
            raise argparse.ArgumentTypeError(f"{wrong}; allowed: {kind.allowed}") from None
        return value

    return convert


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; allowed: YYYY-MM-DD") from None


def _channel(text: str) -> int:
    return _number(text, CHANNEL.least, CHANNEL.most)


def _term(text: str) -> int:
    return _number(text, 1, MAX_TERM_DAYS)


def _number(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)


# --- the registry as JSON ---------------------------------------------------------------------------------


def _participant(participant: Participant) -> Answer:
    agreement = participant.agreement
    return {
        "agreement": {
            "signed": agreement.signed.isoformat(),
            "term_days": agreement.term_days,
            "renews": agreement.renews,
            "terminated": agreement.terminated.isoformat() if agreement.terminated is not None else None,
            "in_force": agreement.refusal(date.today()) is None,
        },
        "sensors": {
            sensor.name: {
                **_source(sensor),
                "revoked_serials": sorted(sensor.revoked_serials),
                "revoked_keys": sorted(sensor.revoked_keys),
                "revoked_before": sensor.revoked_before and sensor.revoked_before.isoformat(),
            }
            for sensor in participant.sensors.values()
        },
        "uploads": {
            upload.name: {**_source(upload), "key_sha256": list(upload.key_sha256)}
            for upload in participant.uploads.values()
        },
        "readers": {
            reader.name: {"keys": [{"id": key.id, "created": key.created.isoformat()} for key in reader.keys]}
            for reader in participant.readers.values()
        },
    }


def _source(entry: Sensor | Upload) -> Answer:
    revoked = entry.revoked
    return {
        "channels": sorted(entry.channels),
        "source": entry.source,
        "account": account_name(entry.source),
        "revoked": None if revoked is None else {"at": revoked.at.isoformat(), "reason": revoked.reason},
    }


def _standing(entry: Sensor | Upload) -> str:
    channels = ", ".join(map(str, sorted(entry.channels)))
    if entry.revoked is not None:
        return f"channels {channels}, revoked since {entry.revoked.at:%Y-%m-%d}: {entry.revoked.reason}"
    return f"channels {channels}, source {entry.source:08x}"
