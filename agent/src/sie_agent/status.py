"""How the agent is: one document, from which `sie-agent status`, /status and /metrics are all made."""

import argparse
import http.client
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sie_agent.accounting import Ledger
from sie_agent.cli import EXIT_OK, add_config_argument
from sie_agent.config import AgentConfig, load_config
from sie_agent.dnstap import DnstapStatus
from sie_agent.spool import snapshot
from sie_core.settings import ListenAddress

ASK_TIMEOUT: Final = 3.0
"""Seconds that a running agent gets to answer on loopback."""


@dataclass(frozen=True)
class UplinkStatus:
    """How the uplink is; `state` is one of sie_agent.uplink.State, or "stopped" when no agent runs."""

    state: str = "stopped"
    hub: str | None = None
    last_error: str | None = None
    attempts: int = 0
    sessions: int = 0
    refusals: int = 0
    failures: int = 0
    stream_conflicts: int = 0
    sent_containers: int = 0
    sent_octets: int = 0


@dataclass(frozen=True)
class IdentityStatus:
    """This sensor's certificate: which is in place, until when, and what renewing it came to since the start.

    `not_after` is in seconds since 1970; both are None while there is none.
    """

    serial: str | None = None
    not_after: float | None = None
    renewed: int = 0
    refused: int = 0
    failed: int = 0
    last_error: str | None = None


@dataclass(frozen=True)
class LostStatus:
    """Transactions that were recorded and did not reach the spool, since the agent started."""

    queue: int = 0
    disk: int = 0


@dataclass(frozen=True)
class TrimmedStatus:
    """Transactions that were trimmed, over the whole life of the spool, by why."""

    full: int = 0
    expired: int = 0
    unreadable: int = 0


@dataclass(frozen=True)
class Status:
    """The document. Transactions, unless a name says otherwise.

    captured = acknowledged + pending + trimmed, over the whole life of the spool. `in_flight` is in
    containers. `sources` are the interfaces. `counters` are those of the recorder and of dnstap connections,
    since the agent started; empty when none runs.
    """

    running: bool
    participant: str
    sensor: str
    channel: int
    stream: str | None
    captured: int
    acknowledged: int
    pending: int
    trimmed: int
    pending_containers: int
    pending_octets: int
    trimmed_by: TrimmedStatus = field(default_factory=TrimmedStatus)
    in_flight: int = 0
    lost: LostStatus = field(default_factory=LostStatus)
    uplink: UplinkStatus = field(default_factory=UplinkStatus)
    identity: IdentityStatus = field(default_factory=IdentityStatus)
    sources: tuple[dict[str, Any], ...] = ()
    kernel_drops: int = 0
    dnstap: DnstapStatus | None = None
    counters: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> str:
        """The document as one line of JSON."""
        return json.dumps(asdict(self))


def describe(config: AgentConfig, stream: int | None, ledger: Ledger, **live: Any) -> Status:
    """The document for a spool; `live` are the fields that only a running agent knows."""
    return Status(
        participant=config.participant,
        sensor=config.sensor,
        channel=config.channel,
        stream=None if stream is None else f"{stream:016x}",
        captured=ledger.captured,
        acknowledged=ledger.acknowledged,
        pending=ledger.pending,
        trimmed=ledger.trimmed,
        pending_containers=ledger.pending_containers,
        pending_octets=ledger.pending_octets,
        trimmed_by=TrimmedStatus(ledger.trimmed_full, ledger.trimmed_expired, ledger.trimmed_unreadable),
        **live,
    )


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `status`."""
    add_config_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    document = current(load_config(arguments.config))
    print(json.dumps(document) if arguments.json else table(document))
    return EXIT_OK


def current(config: AgentConfig) -> dict[str, Any]:
    """The document of the running agent, or, when none runs on this spool, of the spool as it lies.

    Raises SpoolError.
    """
    running = _ask(config.metrics_listen)
    at_rest = snapshot(config.spool_directory)
    if running is not None and (at_rest is None or running.get("stream") == f"{at_rest.stream:016x}"):
        return running
    stream, ledger = (None, Ledger()) if at_rest is None else at_rest
    return asdict(describe(config, stream, ledger, running=False))


def table(document: dict[str, Any]) -> str:
    """The document for people."""
    uplink = document["uplink"]
    lost = document["lost"]
    lines = [
        f"sensor        {document['sensor']} of {document['participant']}, channel {document['channel']}",
        f"agent         {'running' if document['running'] else 'not running'}",
        f"uplink        {uplink['state'].replace('_', ' ')}"
        + (f" ({uplink['hub']})" if uplink["hub"] else ""),
    ]
    if uplink["last_error"]:
        lines.append(f"  because     {uplink['last_error']}")
    for source in document["sources"]:
        what = "up" if source["up"] else f"down: {source['last_error']}"
        lines.append(f"interface     {source['interface']} {what}, {source['kernel_drops']} packets dropped")
    lines += _dnstap_lines(document.get("dnstap"))
    lines += [
        f"captured      {document['captured']:>12} transactions",
        f"acknowledged  {document['acknowledged']:>12}",
        f"pending       {document['pending']:>12} in {document['pending_containers']} containers, "
        f"{document['pending_octets']} octets, {document['in_flight']} containers in flight",
        f"trimmed       {document['trimmed']:>12}"
        + _because({reason: count for reason, count in document["trimmed_by"].items() if count}),
        f"lost          {lost['queue'] + lost['disk']:>12} before the spool, since the agent started",
    ]
    return "\n".join(lines)


def _dnstap_lines(dnstap: dict[str, Any] | None) -> list[str]:
    """Each endpoint, below it who is connected there, and who was refused last."""
    if dnstap is None:
        return []
    lines = []
    for endpoint in dnstap["endpoints"]:
        connected = [one for one in dnstap["connections"] if one["endpoint"] == endpoint]
        lines.append(f"dnstap        {endpoint}, {len(connected)} connected")
        for one in connected:
            who = one["version"] or "a sender that does not tell its version"
            what = "" if one["resolver"] else ", nothing of a resolver's yet"
            lines.append(f"  from        {one['peer']}: {who}, {one['frames']} frames{what}")
    if dnstap["last_refusal"]:
        lines.append(f"  refused     {dnstap['last_refusal']}")
    return lines


def _because(reasons: dict[str, int]) -> str:
    return f" ({', '.join(f'{reason} {count}' for reason, count in reasons.items())})" if reasons else ""


def _ask(address: ListenAddress) -> dict[str, Any] | None:
    """Ask a running agent; None when nothing of the kind answers."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=ASK_TIMEOUT)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        document = json.loads(response.read()) if response.status == http.client.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return document if isinstance(document, dict) and document.get("running") is True else None
