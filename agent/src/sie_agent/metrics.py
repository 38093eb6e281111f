"""The agent's metrics, all made from the status document, and the server that shows both on loopback."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from threading import Thread
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from sie_agent.build import BUILD
from sie_agent.errors import AgentError
from sie_agent.stages import QUERIES_WAITING, WAITING, outcomes
from sie_agent.status import Status
from sie_core import __version__
from sie_core.settings import ListenAddress

REQUEST_TIMEOUT: Final = 5.0
"""Seconds that a client on loopback has for its request, so that an idle one holds no thread for ever."""

Sample = tuple[tuple[str, ...], float]


class Described(NamedTuple):
    """One metric: its name, what it counts, its labels, and its samples in a status document."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Status], Iterable[Sample]]

    @property
    def counter(self) -> bool:
        """Whether it only ever rises (then its name ends with _total)."""
        return self.name.endswith("_total")


def _one(value: Callable[[Status], float]) -> Callable[[Status], Iterable[Sample]]:
    return lambda status: [((), value(status))]


def _seen(stage: str) -> Callable[[Status], Iterable[Sample]]:
    return _one(lambda status: status.counters.get(f"{stage}_seen", 0))


def _judged(stage: str) -> Callable[[Status], Iterable[Sample]]:
    """One sample for each outcome and reason of a stage, but for what still waits."""
    return lambda status: [
        ((outcome.outcome, outcome.reason), count)
        for outcome, count in outcomes(status.counters, stage)
        if outcome.outcome != WAITING
    ]


def _transactions(counter: Callable[[str], bool]) -> Callable[[Status], Iterable[Sample]]:
    """One sample for each type of transaction, of the counters that are asked for."""
    return lambda status: [
        ((name.removeprefix("transactions_").removeprefix("filtered_"),), count)
        for name, count in status.counters.items()
        if name.startswith("transactions_") and name != QUERIES_WAITING and counter(name)
    ]


def _connections(status: Status) -> Iterable[Sample]:
    if status.dnstap is None:
        return []
    open_now = Counter(
        (one["endpoint"], "yes" if one["resolver"] else "no") for one in status.dnstap.connections
    )
    keys = [(endpoint, word) for endpoint in status.dnstap.endpoints for word in ("yes", "no")]
    return [(key, open_now[key]) for key in keys]


def _ended(status: Status) -> Iterable[Sample]:
    """One sample for each way in which a connection may end."""
    stage = "dnstap_connections_"
    for name, count in status.counters.items():
        outcome, _, reason = name.removeprefix(stage).partition("_")
        if name.startswith(stage) and outcome not in ("seen", "open"):
            yield (outcome, reason), count


METRICS: Final = (
    Described(
        "sie_agent_info",
        "Always 1; the labels say what runs. `build` is the digest that ends a release's name.",
        ("version", "build", "participant", "sensor"),
        lambda status: [((__version__, BUILD, status.participant, status.sensor), 1)],
    ),
    Described(
        "sie_agent_packets_seen_total",
        "Packets that the kernel's filter let through. The sum of sie_agent_packets_total and "
        "sie_agent_packets_waiting.",
        (),
        _seen("packets"),
    ),
    Described(
        "sie_agent_packets_total",
        "Packets by what became of them: passed on, filtered (by a rule), rejected (why) or lost (where).",
        ("outcome", "reason"),
        _judged("packets"),
    ),
    Described(
        "sie_agent_packets_waiting",
        "Packets held until the rest of their datagram or message is there.",
        (),
        _one(lambda status: status.counters.get("packets_waiting", 0)),
    ),
    Described(
        "sie_agent_dnstap_frames_seen_total",
        "Frames that resolvers brought. The sum of sie_agent_dnstap_frames_total.",
        (),
        _seen("dnstap_frames"),
    ),
    Described(
        "sie_agent_dnstap_frames_total",
        "Frames by what became of them, as packets.",
        ("outcome", "reason"),
        _judged("dnstap_frames"),
    ),
    Described(
        "sie_agent_dnstap_connections_open",
        "Connections that are open, and whether a message of a resolver's has come by them.",
        ("endpoint", "resolver"),
        _connections,
    ),
    Described(
        "sie_agent_dnstap_connections_seen_total",
        "Connections since the agent started. The sum of sie_agent_dnstap_connections_open and "
        "sie_agent_dnstap_connections_total.",
        (),
        _seen("dnstap_connections"),
    ),
    Described(
        "sie_agent_dnstap_connections_total",
        "Connections by how they ended: finished or lost by the sender, refused or rejected (why), or closed "
        "with the agent.",
        ("outcome", "reason"),
        _ended,
    ),
    Described(
        "sie_agent_messages_seen_total",
        "DNS messages that packets or frames carried. The sum of sie_agent_messages_total and "
        "sie_agent_queries_waiting.",
        (),
        _seen("messages"),
    ),
    Described(
        "sie_agent_messages_total",
        "DNS messages by what became of them: recorded, filtered (by which rule) or rejected (why).",
        ("outcome", "reason"),
        _judged("messages"),
    ),
    Described(
        "sie_agent_kernel_drops_total",
        "Packets lost because the ring between kernel and agent was full.",
        ("interface",),
        lambda status: [((source["interface"],), source["kernel_drops"]) for source in status.sources],
    ),
    Described(
        "sie_agent_source_up",
        "1 while the interface is listened to, 0 while it is not there.",
        ("interface",),
        lambda status: [((source["interface"],), float(source["up"])) for source in status.sources],
    ),
    Described(
        "sie_agent_source_failures_total",
        "How often an interface vanished or could not be opened.",
        ("interface",),
        lambda status: [((source["interface"],), source["failures"]) for source in status.sources],
    ),
    Described(
        "sie_agent_transactions_recorded_total",
        "Transactions made of packets, by type, since the agent started.",
        ("type",),
        _transactions(lambda name: "_filtered_" not in name),
    ),
    Described(
        "sie_agent_transactions_filtered_total",
        "Transactions of a type that transactions.types leaves out.",
        ("type",),
        _transactions(lambda name: "_filtered_" in name),
    ),
    Described(
        "sie_agent_queries_waiting",
        "Queries in the table whose response has not come.",
        (),
        _one(lambda status: status.counters.get(QUERIES_WAITING, 0)),
    ),
    Described(
        "sie_agent_table_evicted_total",
        "Queries recorded as unanswered before their time because the table was full.",
        (),
        _one(lambda status: status.counters.get("table_evicted", 0)),
    ),
    Described(
        "sie_agent_containers_sealed_total",
        "Containers sealed since the agent started.",
        (),
        _one(lambda status: status.counters.get("containers_sealed", 0)),
    ),
    Described(
        "sie_agent_lost_transactions_total",
        "Transactions that did not reach the spool: its queue was full, or its disk did not take them.",
        ("where",),
        lambda status: [(("queue",), status.lost.queue), (("disk",), status.lost.disk)],
    ),
    Described(
        "sie_agent_captured_transactions_total",
        "Transactions that reached the spool, in its whole life.",
        (),
        _one(lambda status: status.captured),
    ),
    Described(
        "sie_agent_acknowledged_transactions_total",
        "Transactions that the hub has on disk and said so.",
        (),
        _one(lambda status: status.acknowledged),
    ),
    Described(
        "sie_agent_pending_transactions",
        "Transactions in the spool.",
        (),
        _one(lambda status: status.pending),
    ),
    Described(
        "sie_agent_trimmed_transactions_total",
        "Transactions that left the spool unacknowledged: it was full, they were older than spool.max_age "
        "(expired), or the disk did not give them back (unreadable).",
        ("reason",),
        lambda status: [((reason,), count) for reason, count in asdict(status.trimmed_by).items()],
    ),
    Described(
        "sie_agent_pending_containers",
        "Containers in the spool.",
        (),
        _one(lambda status: status.pending_containers),
    ),
    Described(
        "sie_agent_pending_octets",
        "Octets in the spool.",
        (),
        _one(lambda status: status.pending_octets),
    ),
    Described(
        "sie_agent_in_flight_containers",
        "Containers sent and not yet acknowledged in this session.",
        (),
        _one(lambda status: status.in_flight),
    ),
    Described(
        "sie_agent_uplink_connected",
        "1 while a hub takes the session.",
        (),
        _one(lambda status: float(status.uplink.state == "connected")),
    ),
    Described(
        "sie_agent_uplink_attempts_total",
        "Attempts to connect to a hub.",
        (),
        _one(lambda status: status.uplink.attempts),
    ),
    Described(
        "sie_agent_uplink_sessions_total",
        "Sessions that a hub took.",
        (),
        _one(lambda status: status.uplink.sessions),
    ),
    Described(
        "sie_agent_uplink_failures_total",
        "Attempts and sessions that failed: `refused` by the hub (or by the check of it), or otherwise.",
        ("kind",),
        lambda status: [(("refused",), status.uplink.refusals), (("other",), status.uplink.failures)],
    ),
    Described(
        "sie_agent_certificate_not_after_seconds",
        "When this sensor's certificate ends, in seconds since 1970; no sample while there is none.",
        (),
        lambda status: [] if status.identity.not_after is None else [((), status.identity.not_after)],
    ),
    Described(
        "sie_agent_renewals_total",
        "Attempts to renew the certificate: it was `renewed`, `refused` by the hub, or the attempt `failed`.",
        ("outcome",),
        lambda status: [
            (("renewed",), status.identity.renewed),
            (("refused",), status.identity.refused),
            (("failed",), status.identity.failed),
        ],
    ),
    Described(
        "sie_agent_stream_conflicts_total",
        "How often the hub had other containers of the stream than the spool (a copied or restored machine).",
        (),
        _one(lambda status: status.uplink.stream_conflicts),
    ),
    Described(
        "sie_agent_sent_containers_total",
        "Containers put on the wire, repetitions included, since the agent started.",
        (),
        _one(lambda status: status.uplink.sent_containers),
    ),
    Described(
        "sie_agent_sent_octets_total",
        "Their octets.",
        (),
        _one(lambda status: status.uplink.sent_octets),
    ),
)


def markdown() -> str:
    """The reference table of the metrics; docs hold it verbatim and a test compares."""
    lines = ["| metric | labels | meaning |", "|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


class StatusCollector(Collector):
    """Gives Prometheus the metrics of one status document for each scrape."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Every metric, all of the same moment."""
        status = self._status()
        for described in METRICS:
            family = CounterMetricFamily if described.counter else GaugeMetricFamily
            metric = family(described.name, described.help, labels=described.labels)
            for labels, value in described.samples(status):
                metric.add_metric(labels, value)
            yield metric


class MetricsServer:
    """Serves /metrics and /status on a loopback address, in threads of its own."""

    def __init__(self, address: ListenAddress, status: Callable[[], Status]) -> None:
        """Begin to listen. Raises AgentError if the address is taken."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(StatusCollector(status))

        class Handler(_Handler):
            pages = {  # noqa: RUF012 - made once for this server
                "/metrics": (CONTENT_TYPE_PLAIN_0_0_4, lambda: generate_latest(registry)),
                "/status": ("application/json", lambda: status().as_json().encode()),
            }

        class Server(ThreadingHTTPServer):
            address_family = AF_INET6 if ":" in address.host else AF_INET
            daemon_threads = True

        try:
            self._server = Server((address.host, address.port), Handler)
        except OSError as wrong:
            raise AgentError(
                f"metrics.listen: {address} cannot be listened on ({wrong.strerror}); does another sie-agent "
                "run here?"
            ) from wrong
        self.port: int = self._server.server_address[1]
        """The port that is listened on, also where the configuration left it open."""
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT
    pages: dict[str, tuple[str, Callable[[], bytes]]]

    def do_GET(self) -> None:
        page = self.pages.get(self.path)
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND, "only /metrics and /status are here")
            return
        content_type, body = page[0], page[1]()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are no events."""
