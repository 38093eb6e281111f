"""The units' NATS users and what each may do, and the configuration of nats-server made from that one table.

The hub role, the demo and the tests all render this, so that what is tested is what runs. A user may publish
and subscribe to exactly what its row says; everything else is refused by the server. Replies go to an inbox
prefix of the user's own, so that no unit can listen to another's.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sie_hub.streams import (
    CONFIGS,
    LEDGER,
    LEDGER_SUBJECTS,
    MAX_PAYLOAD,
    POSITION,
    POSITION_SUBJECTS,
    PROBE,
    PROBE_SUBJECTS,
    RAW,
    RAW_SUBJECTS,
    SIE,
    SIE_SUBJECTS,
    TAKEN,
    TAKEN_SUBJECTS,
)

PASSWORD: Final = re.compile(r"[A-Za-z0-9_-]{20,200}")


def inbox_prefix(user: str) -> str:
    """The subject prefix under which a user gets its replies."""
    return f"_INBOX_{user}"


def _reading(stream: str) -> tuple[str, ...]:
    """What reading a stream in order needs: its state, a pull consumer of one's own, and the last message."""
    return (
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.*",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.API.CONSUMER.DELETE.{stream}.*",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*",
    )


def _last_of(stream: str, subjects: str) -> str:
    """What asking for the last message of a subject needs, and no more than that."""
    return f"$JS.API.DIRECT.GET.{stream}.{subjects}"


def _any_of(stream: str) -> str:
    """What asking for a message by its sequence needs."""
    return f"$JS.API.DIRECT.GET.{stream}"


@dataclass(frozen=True, slots=True)
class User:
    """A NATS user: a unit or a command, the subjects to which it may publish; it may hear its inbox alone."""

    name: str
    publish: tuple[str, ...]

    @property
    def subscribe(self) -> tuple[str, ...]:
        """The subjects to which it may subscribe."""
        return (f"{inbox_prefix(self.name)}.>",)


USERS: Final = (
    User(
        "setup",
        tuple(
            f"$JS.API.STREAM.{verb}.{config.name}"
            for config in CONFIGS
            for verb in ("INFO", "CREATE", "UPDATE")
        ),
    ),
    User(
        "ingest",
        (
            RAW_SUBJECTS,
            POSITION_SUBJECTS,
            LEDGER_SUBJECTS,
            TAKEN_SUBJECTS,
            *(f"$JS.API.STREAM.INFO.{stream}" for stream in (RAW, POSITION, LEDGER)),
            _last_of(RAW, RAW_SUBJECTS),
            _last_of(POSITION, POSITION_SUBJECTS),
            _last_of(LEDGER, LEDGER_SUBJECTS),
            _last_of(TAKEN, TAKEN_SUBJECTS),
            _last_of(PROBE, PROBE_SUBJECTS),
        ),
    ),
    User(
        "refine",
        (SIE_SUBJECTS, PROBE_SUBJECTS, *_reading(RAW), f"$JS.API.STREAM.INFO.{SIE}", _any_of(SIE)),
    ),
    User("serve", _reading(SIE)),
    User(
        "offboard",
        tuple(
            f"$JS.API.STREAM.{verb}.{stream}"
            for stream in (RAW, POSITION, LEDGER, TAKEN, PROBE)
            for verb in ("INFO", "PURGE")
        ),
    ),
    User(
        "backup",
        (
            *(f"$JS.API.STREAM.INFO.{stream}" for stream in (POSITION, LEDGER)),
            _last_of(POSITION, POSITION_SUBJECTS),
            _last_of(LEDGER, LEDGER_SUBJECTS),
        ),
    ),
)


def render(url: str, store: Path, passwords: Mapping[str, str], store_max: int | None = None) -> str:
    """The text of nats-server.conf. It holds the passwords: keep it readable by nats-server alone.

    `url` says where to listen, `passwords` has one per user of the table. Raises ValueError for a password
    that is missing or not 20 to 200 characters of a-z, A-Z, 0-9, _ and -, which mean nothing to the server.
    """
    place = urlsplit(url)
    host = place.hostname or "127.0.0.1"
    listen = f"[{host}]:{place.port or 4222}" if ":" in host else f"{host}:{place.port or 4222}"
    limit = "" if store_max is None else f"  max_file_store: {store_max}\n"
    return (
        "# Written by `sie-hub nats-config`. Changes belong in its table or in hub.yml.\n"
        "server_name: sie-hub\n"
        f"listen: {_quoted(listen)}\n"
        f"max_payload: {MAX_PAYLOAD}\n"
        "jetstream {\n"
        f"  store_dir: {_quoted(str(store))}\n"
        "  # An acknowledgement to a sensor promises that its data survives the loss of power.\n"
        "  sync_interval: always\n"
        f"{limit}"
        "}\n"
        "authorization {\n"
        "  users: [\n" + "".join(_user(user, passwords) for user in USERS) + "  ]\n"
        "}\n"
    )


def _user(user: User, passwords: Mapping[str, str]) -> str:
    password = passwords.get(user.name)
    if password is None:
        raise ValueError(f"no password for the NATS user {user.name}")
    if PASSWORD.fullmatch(password) is None:
        raise ValueError(f"the password of the NATS user {user.name} is not {PASSWORD.pattern}")
    return (
        "    {\n"
        f"      user: {_quoted(user.name)}\n"
        f"      password: {_quoted(password)}\n"
        "      permissions: {\n"
        f"        publish: [{', '.join(map(_quoted, user.publish))}]\n"
        f"        subscribe: [{', '.join(map(_quoted, user.subscribe))}]\n"
        "      }\n"
        "    }\n"
    )


def _quoted(text: str) -> str:
    return json.dumps(text)
