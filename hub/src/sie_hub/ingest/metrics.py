"""What ingest counts. docs/reference/hub.md describes each; a test compares."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sie_hub.link_metrics import show_link
from sie_hub.nats_link import Link
from sie_hub.registry import Registry
from sie_hub.registry_metrics import show_registry
from sie_hub.tls import OUTCOMES as TLS_OUTCOMES

REFUSALS: Final = (
    "no_credential",
    "two_credentials",
    "missing",
    "unreadable",
    "other_authority",
    "expired",
    "not_yet_valid",
    "wrong_usage",
    "wrong_name",
    "other_exchange",
    "unknown_sensor",
    "unknown_key",
    "revoked",
    "certificate_revoked",
    "key_revoked",
    "agreement",
    "sessions",
)

CONNECTIONS: Final = (
    "accepted",
    "probe",
    "not_http",
    "not_found",
    "not_websocket",
    *(f"refused_{reason}" for reason in REFUSALS),
    *TLS_OUTCOMES,
)
"""Outcomes of a connection or request: exactly one each."""

PROBE_QUESTIONS: Final = (
    "received",
    "unknown",
    "zone",
    "no_certificate",
    "no_zone",
    "malformed",
    "limited",
    "unavailable",
)
"""Outcomes of a sensor's question about a probe: exactly one each."""

ENDINGS: Final = (
    "finished",
    "peer_gone",
    "peer_reported",
    "silent",
    "violation",
    "text_message",
    "bad_frame",
    "too_large",
    "channel",
    "conflict",
    "quota",
    "storage",
    "streams",
    "superseded",
    "stopping",
    "failed",
    *(f"refused_{reason}" for reason in REFUSALS),
)
"""Outcomes of a session: exactly one each. refused_* are decided while it lives, by the registry or the
clock."""

CONTAINERS: Final = ("stored", "duplicate", "conflict", "channel", "size", "quota", "returned", "lost")
"""Outcomes of a container: exactly one each. `returned` stays with its sensor, which sends it again; `lost`
is an upload's, which does not."""

REPORTED: Final = (
    "captured",
    "acknowledged",
    "pending",
    "trimmed",
    "filtered",
    "rejected",
    "lost_queue",
    "lost_disk",
    "kernel_drops",
)
"""Counters of a sensor's accounting records that are shown again here."""

KEY_DIGITS: Final = 12
"""Of the SHA-256 of an upload's key, by which it is named: two keys valid at a time differ in them."""

HOPS: Final = ("link", "path")
"""Where an upload says that it lost payloads: on its own link to here, or on the path before it."""


DROP: Final = (
    "stored",
    "duplicate",
    "conflict",
    "channel",
    "size",
    "name",
    "kind",
    "torn",
    "quota",
    "abandoned",
)
"""Outcomes of a file in the drop: exactly one each."""


class Metrics:
    """Every metric of ingest, in one Prometheus registry."""

    def __init__(self, metrics: CollectorRegistry, link: Link, registry: Registry) -> None:
        self.connections = Counter(
            "sie_hub_ingest_connections",
            "Connections and requests by what became of them.",
            ["outcome"],
            registry=metrics,
        )
        self.probe_questions = Counter(
            "sie_hub_ingest_probe_questions",
            "Questions of sensors about their probes by what was answered.",
            ["outcome"],
            registry=metrics,
        )
        self.sessions = Gauge(
            "sie_hub_ingest_sessions", "Sessions that are open.", ["version"], registry=metrics
        )
        self.endings = Counter(
            "sie_hub_ingest_sessions_ended", "Sessions by how they ended.", ["outcome"], registry=metrics
        )
        self.received = Counter(
            "sie_hub_ingest_containers_received", "Containers that arrived intact.", registry=metrics
        )
        self.containers = Counter(
            "sie_hub_ingest_containers",
            "Containers by what became of them; their sum is what was received.",
            ["outcome"],
            registry=metrics,
        )
        self.transactions = Counter(
            "sie_hub_ingest_transactions",
            "Transactions in containers, as their sensors count them, by what became of the container.",
            ["outcome"],
            registry=metrics,
        )
        self.waiting = Gauge(
            "sie_hub_ingest_waiting_octets", "Octets of containers that wait to be stored.", registry=metrics
        )
        self.octets = Counter(
            "sie_hub_ingest_octets", "Octets of containers that were stored.", registry=metrics
        )
        self.gaps = Counter(
            "sie_hub_ingest_gap_containers",
            "Sequence numbers that a sensor skipped: containers that it trimmed from its spool.",
            registry=metrics,
        )
        self.conflicts = Counter(
            "sie_hub_ingest_conflicts",
            "Streams whose sensor went back in time or was cloned. Each is an alarm.",
            registry=metrics,
        )
        self.store_seconds = Histogram(
            "sie_hub_ingest_store_seconds",
            "From the arrival of a container to its being on disk.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=metrics,
        )
        self.sensor_transactions = Counter(
            "sie_hub_ingest_sensor_transactions",
            "Transactions stored, by sensor.",
            ["participant", "sensor"],
            registry=metrics,
        )
        self.sensor_containers = Counter(
            "sie_hub_ingest_sensor_containers",
            "Containers stored, by sensor or upload.",
            ["participant", "sensor"],
            registry=metrics,
        )
        self.sensor_stored_at = Gauge(
            "sie_hub_ingest_sensor_stored_at_seconds",
            "When a container of a sensor or upload was last stored, in Unix time.",
            ["participant", "sensor"],
            registry=metrics,
        )
        self.sensor_reported = Gauge(
            "sie_hub_ingest_sensor_reported",
            "What a sensor last reported about itself.",
            ["participant", "sensor", "counter"],
            registry=metrics,
        )
        self.upload_lost_payloads = Counter(
            "sie_hub_ingest_upload_lost_payloads",
            "Payloads that did not reach an upload, or that it dropped, as it says: a lower bound.",
            ["participant", "sensor", "hop"],
            registry=metrics,
        )
        self.upload_lost_octets = Counter(
            "sie_hub_ingest_upload_lost_octets",
            "Their octets.",
            ["participant", "sensor", "hop"],
            registry=metrics,
        )
        self.upload_key_used_at = Gauge(
            "sie_hub_ingest_upload_key_used_at_seconds",
            "When an upload last sent with a key, named by the beginning of its SHA-256, in Unix time.",
            ["participant", "sensor", "key"],
            registry=metrics,
        )
        self.drop_files = Counter(
            "sie_hub_ingest_drop_files",
            "Files of the drop by what became of them.",
            ["outcome"],
            registry=metrics,
        )
        self.drop_waiting = Gauge(
            "sie_hub_ingest_drop_waiting_files",
            "Files that the last look at the drop found.",
            registry=metrics,
        )
        self.drop_held = Gauge(
            "sie_hub_ingest_drop_held_files",
            "Files of accounts that may not deliver, by the registry; they stay where they are.",
            registry=metrics,
        )
        show_link(metrics, link)
        show_registry(metrics, registry)
        for counter, outcomes in (
            (self.connections, CONNECTIONS),
            (self.endings, ENDINGS),
            (self.probe_questions, PROBE_QUESTIONS),
            (self.containers, CONTAINERS),
            (self.transactions, CONTAINERS),
            (self.drop_files, DROP),
        ):
            for outcome in outcomes:
                counter.labels(outcome)
        for version in ("1", "2"):
            self.sessions.labels(version)
