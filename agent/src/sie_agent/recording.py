"""The recorder that a configuration asks for, or a command line, or the two together."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from sie_agent.cli import add_config_argument
from sie_agent.errors import UsageError
from sie_agent.sentences import TRANSACTIONS
from sie_core._native import NativeError, Recorder

if TYPE_CHECKING:  # a recorder without a configuration reads no YAML
    from sie_agent.config import AgentConfig

SWITCHES: Final = (
    (
        "clear_resolver_address",
        "blank the resolvers' own addresses, in headers and in packets",
    ),
    ("keep_query_packets", "keep the packets of queries beside those of responses"),
    (
        "keep_edns_options",
        "leave EDNS options in the packets: for a file whose origin is known, since options tell of clients",
    ),
    (
        "admit_recursion_desired",
        "take in queries with RD=1 too: for a file whose origin is known, since clients ask with RD=1",
    ),
    (
        "admit_private_responders",
        "take in exchanges with servers at private, link-local or loopback addresses",
    ),
    (
        "admit_every_address",
        "take in a list of resolvers that covers everybody: for a file that holds nothing but a resolver's "
        "own traffic",
    ),
)
"""Settings of the recorder that are true or false, with what they do."""


def recorder_of(resolvers: Sequence[str], settings: dict[str, Any]) -> Recorder:
    """A recorder with these keywords; all others are as sie_core._native.Recorder has them.

    Raises UsageError, since only settings can be wrong with it.
    """
    try:
        return Recorder(resolvers, **settings)
    except NativeError as error:
        raise UsageError(f"the recorder does not take these settings: {error}") from error


def reconfigure(recorder: Recorder, resolvers: Sequence[str], settings: dict[str, Any]) -> None:
    """Have a recorder go by other settings; its waiting queries stay. Raises UsageError, changing nothing."""
    try:
        recorder.reconfigure(resolvers, **settings)
    except NativeError as error:
        raise UsageError(f"the recorder does not take these settings: {error}") from error


def settings_of(config: "AgentConfig") -> dict[str, Any]:
    """The recorder's keywords that a configuration sets."""
    return {
        "query_timeout": config.query_timeout,
        "table_max": config.table_max,
        "types": config.transaction_types,
        "keep_query_packets": config.keep_query_packets,
        "admit_every_address": config.admit_every_address,
        "clear_resolver_address": config.clear_resolver_address,
        "local_zones": config.local_zones,
        "suppress_special_use": config.suppress_special_use,
        "exclude_qname_regex": config.exclude_qname_regex,
        "admit_private_responders": config.admit_private_responders,
        "container_bytes": config.container_bytes,
        "flush_interval": config.flush_interval,
    }


def add_recording_arguments(parser: "argparse._ActionsContainer") -> None:
    """The options that say what is recorded; where one is not given, --config or the default holds."""
    parser.add_argument(
        "--resolver",
        action="append",
        default=[],
        metavar="A",
        help="an address or prefix whose upstream traffic is recorded, or the word host for this host's own "
        "addresses; may be repeated (default: the resolvers of --config)",
    )
    add_config_argument(parser, default=None)
    parser.add_argument(
        "--type",
        action="append",
        default=[],
        choices=list(TRANSACTIONS),
        metavar="T",
        help=f"a type of transaction that is recorded, one of {', '.join(TRANSACTIONS)}; may be repeated "
        "(default: all)",
    )
    parser.add_argument(
        "--local-zone",
        action="append",
        default=[],
        metavar="Z",
        help="a zone that is kept out with every name below it; may be repeated",
    )
    parser.add_argument(
        "--admit-special-use",
        action="store_const",
        const=False,
        dest="suppress_special_use",
        help="take in names without a place in the public DNS too: special-use names, reverse zones of "
        "private addresses, single labels",
    )
    parser.add_argument(
        "--exclude-qname-regex",
        metavar="R",
        help="a regular expression; look-ups whose name it matches are kept out",
    )
    for name, words in SWITCHES:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            action="store_const",
            const=True,
            dest=name,
            help=words,
        )


def recording_from(arguments: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
    """The resolvers and the recorder's keywords of a command line with `add_recording_arguments`.

    Raises ConfigError, UsageError, AgentError.
    """
    settings: dict[str, Any] = {}
    listed: Sequence[str] = arguments.resolver
    if arguments.config is not None:
        from sie_agent.config import load_config

        config = load_config(arguments.config)
        settings = settings_of(config)
        listed = listed or config.resolvers
    if not listed:
        raise UsageError(
            "name the resolvers whose traffic the file holds: --resolver A (may be repeated) or --config FILE"
        )
    if "host" in listed:
        from sie_agent.discovery import resolver_addresses

        listed = resolver_addresses(listed)
    settings |= {name: True for name, _ in SWITCHES if getattr(arguments, name) is not None}
    given = {
        "types": tuple(dict.fromkeys(arguments.type)),
        "local_zones": tuple(arguments.local_zone),
        "exclude_qname_regex": arguments.exclude_qname_regex,
    }
    settings |= {name: value for name, value in given.items() if value}
    if arguments.suppress_special_use is not None:
        settings["suppress_special_use"] = arguments.suppress_special_use
    return listed, settings
