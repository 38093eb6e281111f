"""`sie-hub ledger`: the accounts of all sources, as the running ingest has them."""

import argparse
import http.client
import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from sie_core.settings import ListenAddress
from sie_hub.cli import EXIT_FAILURE, EXIT_OK, add_config_argument
from sie_hub.config import load_config
from sie_hub.table import aligned

ASK_TIMEOUT: Final = 30.0
"""Seconds for ingest to read a thousand positions from its message server, ten times over."""

HEADINGS: Final = (
    "SOURCE",
    "SEEN",
    "ACKNOWLEDGED",
    "PENDING",
    "TRIMMED",
    "FILTERED",
    "REJECTED",
    "STORED",
    "STATE",
)


class _NoAnswer(Exception):
    """Ingest does not answer; the text says what to do."""


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sie-hub ledger`."""
    add_config_argument(parser)
    parser.add_argument("participant", nargs="?", metavar="PARTICIPANT", help="of this participant alone")
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of a table")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    try:
        accounts = _ask(config["ingest.metrics"])
    except _NoAnswer as failure:
        print(failure, file=sys.stderr)
        return EXIT_FAILURE
    if arguments.participant is not None:
        accounts = [account for account in accounts if account["participant"] == arguments.participant]
    print(
        json.dumps(accounts)
        if arguments.json
        else "\n".join(aligned(HEADINGS, [_row(account) for account in accounts], HEADINGS[1:-1]))
    )
    return EXIT_OK


def _ask(address: ListenAddress) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=ASK_TIMEOUT)
    try:
        connection.request("GET", "/ledger")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise _NoAnswer(
            f"ingest does not answer on {address} ({error}): is sie-hub-ingest running?"
        ) from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise _NoAnswer(f"ingest has no ledger now: {body.decode(errors='replace').strip()}")
    accounts: list[dict[str, Any]] = json.loads(body)
    return accounts


def _row(account: Mapping[str, Any]) -> tuple[str, ...]:
    reported = account["reported"]
    fates = (_number(reported.get(heading.lower())) for heading in HEADINGS[2:7])
    stored = account["stored"]["transactions"]
    return (
        f"{account['participant']}/{account['source']}",
        _number(account["seen"]),
        *fates,
        _number(stored) if stored is not None else f"{account['stored']['containers']} containers",
        account["state"],
    )


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
