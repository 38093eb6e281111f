"""What refine counts. docs/reference/hub.md describes each; a test compares.

Everything is counted when its window is published, so that a container that is read twice, because refine was
killed in between, is counted by one process alone.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sie_hub.link_metrics import show_link
from sie_hub.nats_link import Link
from sie_hub.refine.window import Output

CONTAINERS: Final = ("refined", "rejected_unreadable", "rejected_too_large", "lost")
"""Outcomes of a container of RAW: exactly one each. `lost` had vanished from RAW before refine came to it."""

TRANSACTIONS: Final = (
    "observed",
    "filtered_type",
    "filtered_rcode",
    "filtered_truncated",
    "filtered_class",
    "filtered_fragmented",
    "rejected_crc",
    "rejected_schema",
    "rejected_malformed",
    "rejected_question",
    "lost_room",
    "probe",
)
"""Outcomes of a transaction of a refined container: exactly one each."""

RECORDS: Final = ("records_observed", "records_filtered_meta", "records_filtered_class", "records_repeated")
"""Accounts of the resource records of observed transactions: exactly one each."""

PROBES: Final = ("noted", "repeated", "limited", "unnoted", "lost")
"""Outcomes of a transaction that is a probe: exactly one each. `lost` could not be written down."""

OBSERVATIONS: Final = ("passed_on", "merged")
"""Outcomes of an observation of an RRset: a record of its own, or counted in one."""

WINDOWS: Final = ("time", "size")
"""Why a window was closed."""


class Metrics:
    """Every metric of refine, in one Prometheus registry."""

    def __init__(self, metrics: CollectorRegistry, link: Link) -> None:
        self._containers = Counter(
            "sie_hub_refine_containers",
            "Containers of RAW by what became of them.",
            ["outcome"],
            registry=metrics,
        )
        self._transactions = Counter(
            "sie_hub_refine_transactions",
            "Transactions of refined containers by what became of them.",
            ["outcome"],
            registry=metrics,
        )
        self._query_zones = Counter(
            "sie_hub_refine_query_zones",
            "Observed transactions that say which zone's server was asked.",
            registry=metrics,
        )
        self._records = Counter(
            "sie_hub_refine_records",
            "Resource records of observed transactions by what became of them.",
            ["outcome"],
            registry=metrics,
        )
        self._probes = Counter(
            "sie_hub_refine_probes", "Probes by what became of them.", ["outcome"], registry=metrics
        )
        self._observations = Counter(
            "sie_hub_refine_observations",
            "Observations of RRsets by what became of them.",
            ["outcome"],
            registry=metrics,
        )
        self._windows = Counter(
            "sie_hub_refine_windows", "Windows published, by what closed them.", ["reason"], registry=metrics
        )
        self._octets_in = Counter(
            "sie_hub_refine_octets_in", "Octets of containers that were read.", registry=metrics
        )
        self._octets_out = Counter(
            "sie_hub_refine_octets_out", "Octets of records that were published.", registry=metrics
        )
        self.divided = Counter(
            "sie_hub_refine_windows_divided",
            "Windows whose records did not fit one message and were made again from fewer containers.",
            registry=metrics,
        )
        self.foreign = Counter(
            "sie_hub_refine_foreign_messages",
            "Messages in SIE that name no range of RAW, and that refine therefore has not written.",
            registry=metrics,
        )
        self.refine_seconds = Histogram(
            "sie_hub_refine_seconds",
            "Work on one container.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
            registry=metrics,
        )
        self.publish_seconds = Histogram(
            "sie_hub_refine_publish_seconds",
            "Writing one message to SIE, until it is on disk.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=metrics,
        )
        self.delay_seconds = Histogram(
            "sie_hub_refine_delay_seconds",
            "From a window's first container being in RAW to its records being in SIE.",
            buckets=(0.25, 0.5, 1, 2.5, 5, 7.5, 10, 15, 30, 60, 300, 3600),
            registry=metrics,
        )
        self._position = Gauge(
            "sie_hub_refine_raw_position",
            "The last sequence of RAW that is covered by SIE.",
            registry=metrics,
        )
        self.pending = Gauge(
            "sie_hub_refine_raw_pending", "Containers in RAW behind the last one read.", registry=metrics
        )
        show_link(metrics, link)
        for counter, outcomes in (
            (self._containers, CONTAINERS),
            (self._transactions, TRANSACTIONS),
            (self._records, RECORDS),
            (self._probes, PROBES),
            (self._observations, OBSERVATIONS),
            (self._windows, WINDOWS),
        ):
            for outcome in outcomes:
                counter.labels(outcome.removeprefix("records_"))

    def published(self, output: Output, reason: str, *, too_large: bool, probes_lost: int) -> None:
        """Account for a window that is in SIE; `too_large`: its one container's records did not fit.

        `probes_lost` are the probes to note that could not be written down."""
        refined = output.containers - output.rejected - too_large
        self._containers.labels("refined").inc(refined)
        self._containers.labels("rejected_unreadable").inc(output.rejected)
        self._containers.labels("rejected_too_large").inc(too_large)
        self._containers.labels("lost").inc(output.lost)
        self._windows.labels(reason).inc()
        self._octets_in.inc(output.octets)
        self._position.set(output.last)
        if too_large:
            return
        self._octets_out.inc(len(output.data))
        for outcome in TRANSACTIONS:
            self._transactions.labels(outcome).inc(output.counts[outcome])
        for outcome, count in output.probe_counts.items():
            self._probes.labels(outcome).inc(count - (probes_lost if outcome == "noted" else 0))
        self._probes.labels("lost").inc(probes_lost)
        self._query_zones.inc(output.counts["query_zones"])
        for outcome in RECORDS:
            self._records.labels(outcome.removeprefix("records_")).inc(output.counts[outcome])
        self._observations.labels("merged").inc(output.counts["merged"])
        self._observations.labels("passed_on").inc(output.counts["observations"] - output.counts["merged"])
