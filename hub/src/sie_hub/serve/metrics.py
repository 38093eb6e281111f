"""What serve counts. docs/reference/store.md and docs/reference/query-api.md describe each; a test
compares."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sie_hub.link_metrics import show_link
from sie_hub.nats_link import Link, StoredMessage
from sie_hub.registry import Reader, Registry
from sie_hub.registry_metrics import show_registry
from sie_hub.serve.admission import Admitted, Outcome

MESSAGES: Final = ("stored", "rejected", "lost")
"""Outcomes of a message of SIE. `rejected` cannot be read; `lost` was gone from the stream before it was
read."""

TABLES: Final = ("rrset", "rdata")

ENDINGS: Final = ("succeeded", "limited", "failed", "abandoned", "stalled")
"""How answers end: whole; cut by the limit; by a failure of the database; by the reader leaving; by the
reader not reading."""

FAILURES: Final = ("writing", "query")


class Metrics:
    """Every metric of serve, in one Prometheus registry."""

    def __init__(self, metrics: CollectorRegistry) -> None:
        self._registry = metrics
        self._messages = Counter(
            "sie_hub_serve_messages",
            "Messages of SIE by what became of them.",
            ["outcome"],
            registry=metrics,
        )
        self._records = Counter(
            "sie_hub_serve_records",
            "Records of stored messages by what became of them.",
            ["outcome"],
            registry=metrics,
        )
        self._rows = Counter(
            "sie_hub_serve_rows", "Rows inserted, before they are merged.", ["table"], registry=metrics
        )
        self._trimmed = Counter(
            "sie_hub_serve_trimmed_rows",
            "Rows dropped with their week, which was over retention.",
            ["table"],
            registry=metrics,
        )
        self.position = Gauge(
            "sie_hub_serve_sie_position", "The last sequence of SIE that is in the store.", registry=metrics
        )
        self._pending = Gauge(
            "sie_hub_serve_sie_pending", "Messages in SIE behind the last one stored.", registry=metrics
        )
        self.write_seconds = Histogram(
            "sie_hub_serve_write_seconds",
            "Taking one message into the store, until it is on disk.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=metrics,
        )
        self.store_failures = Counter(
            "sie_hub_serve_store_failures",
            "Statements in which the database failed, by what they were for.",
            ["purpose"],
            registry=metrics,
        )
        self._requests = Counter(
            "sie_hub_serve_requests",
            "Connections and requests by what became of them: status_<HTTP status>, not_http, tls_<reason>.",
            ["outcome"],
            registry=metrics,
        )
        self.answers = Counter(
            "sie_hub_serve_answers", "Answers begun, by how they ended.", ["ending"], registry=metrics
        )
        self.answered_rows = Counter(
            "sie_hub_serve_answered_rows", "Rows sent to readers or summed up for them.", registry=metrics
        )
        self.answer_seconds = Histogram(
            "sie_hub_serve_answer_seconds",
            "From a request to the end of its answer.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            registry=metrics,
        )
        self._key_used_at = Gauge(
            "sie_hub_serve_reader_key_used_at_seconds",
            "When a reader last asked with a key, in Unix time.",
            ["participant", "reader", "key"],
            registry=metrics,
        )
        for counter, values in (
            (self._messages, MESSAGES),
            (self._records, Outcome),
            (self._rows, TABLES),
            (self._trimmed, TABLES),
            (self.store_failures, FAILURES),
            (self.answers, ENDINGS),
        ):
            for value in values:
                counter.labels(value)

    def count_request(self, outcome: str) -> None:
        """Account for a request, or for a connection that never became one."""
        self._requests.labels(outcome).inc()

    def key_used(self, reader: Reader, key: str) -> None:
        """A reader asks with a key, of which the registry's name for it alone is kept."""
        name = reader.key_id(key)
        if name is not None:
            self._key_used_at.labels(reader.participant, reader.name, name).set_to_current_time()

    def watch_link(self, link: Link) -> None:
        """Show the connection to nats-server."""
        show_link(self._registry, link)

    def watch_registry(self, registry: Registry) -> None:
        """Show whether the registry can be read."""
        show_registry(self._registry, registry)

    def watch_queries(self, active: Callable[[], int]) -> None:
        """Show how many queries are open."""
        Gauge("sie_hub_serve_active_queries", "Queries open now.", registry=self._registry).set_function(
            lambda: float(active())
        )

    def taken(self, message: StoredMessage, admitted: Admitted, pending: int, *, rejected: bool) -> None:
        """Account for a message that the store's position has passed."""
        self._messages.labels("rejected" if rejected else "stored").inc()
        self.position.set(message.sequence)
        self._pending.set(pending)
        for outcome, records in admitted.outcomes.items():
            self._records.labels(outcome).inc(records)
        self._rows.labels("rrset").inc(admitted.rrset_rows)
        self._rows.labels("rdata").inc(admitted.rdata_rows)

    def lost(self, messages: int) -> None:
        """Account for messages that were gone before they could be read."""
        self._messages.labels("lost").inc(messages)

    def trimmed(self, rows: dict[str, int]) -> None:
        """Account for rows that retention has dropped, by table."""
        for table, number in rows.items():
            self._trimmed.labels(table).inc(number)
