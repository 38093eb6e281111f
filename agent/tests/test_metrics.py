"""Metrics and status: every number has a name in the reference, and the equations hold in what is served."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sie_agent.dnstap import DnstapStatus
from sie_agent.errors import AgentError
from sie_agent.metrics import METRICS, MetricsServer, markdown
from sie_agent.stages import fates
from sie_agent.status import IdentityStatus, LostStatus, Status, TrimmedStatus, UplinkStatus
from sie_core._native import Recorder
from sie_core.settings import ListenAddress

STATUS = Status(
    running=True,
    participant="isp_a",
    sensor="ns1",
    channel=202,
    stream="00000000000000ff",
    captured=100,
    acknowledged=70,
    pending=25,
    trimmed=5,
    pending_containers=3,
    pending_octets=4096,
    trimmed_by=TrimmedStatus(full=2, expired=3, unreadable=0),
    in_flight=2,
    lost=LostStatus(queue=1, disk=2),
    uplink=UplinkStatus("connected", "wss://198.51.100.10:8443", None, 4, 2, 1, 1, 0, 9, 12345),
    identity=IdentityStatus("5e1a1", 1795000000.0, 3, 1, 2, None),
    sources=({"interface": "eth1", "up": True, "failures": 1, "kernel_drops": 6, "last_error": None},),
    kernel_drops=6,
    dnstap=DnstapStatus(
        ("unix:/run/sie-agent/dnstap.sock",),
        tuple(
            {
                "endpoint": "unix:/run/sie-agent/dnstap.sock",
                "peer": f"process {number}",
                "version": "unbound 1.17.1" if number == 1 else "",
                "frames": 9 * number,
                "resolver": number == 1,
            }
            for number in (1, 0)
        ),
        "unix:/run/sie-agent/dnstap.sock: process 2 is refused: it sends no dnstap",
    ),
    counters={
        "packets_seen": 63,
        "packets_passed": 52,
        "packets_waiting": 3,
        "packets_filtered_direction": 7,
        "packets_rejected_malformed": 1,
        "dnstap_frames_seen": 9,
        "dnstap_frames_passed": 6,
        "dnstap_frames_filtered_type": 3,
        "dnstap_connections_seen": 7,
        "dnstap_connections_open": 2,
        "dnstap_connections_lost": 1,
        "dnstap_connections_refused_clients": 4,
        "messages_seen": 60,
        "messages_recorded": 52,
        "messages_filtered_rd": 4,
        "table_evicted": 0,
        "transactions_query_response": 20,
        "transactions_unanswered_query": 8,
        "transactions_unsolicited_response": 2,
        "transactions_pending": 4,
        "transactions_filtered_icmp": 2,
        "containers_sealed": 5,
    },
)


@pytest.fixture
def samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scrape gives, by name and labels."""
    server = MetricsServer(ListenAddress("127.0.0.1", 0), lambda: STATUS)
    try:
        with urlopen(f"http://127.0.0.1:{server.port}/metrics") as response:
            text = response.read().decode()
    finally:
        server.close()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str) -> float:
    return sum(value for (found, _), value in samples.items() if found == name)


def test_every_metric_is_served(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> None:
    assert {name for name, _ in samples} == {metric.name for metric in METRICS}


def test_the_equations_hold(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> None:
    assert total(samples, "sie_agent_captured_transactions_total") == (
        total(samples, "sie_agent_acknowledged_transactions_total")
        + total(samples, "sie_agent_pending_transactions")
        + total(samples, "sie_agent_trimmed_transactions_total")
    )
    for stage, waiting in (
        ("packets", "sie_agent_packets_waiting"),
        ("dnstap_frames", "nothing"),
        ("dnstap_connections", "sie_agent_dnstap_connections_open"),
        ("messages", "sie_agent_queries_waiting"),
    ):
        seen = total(samples, f"sie_agent_{stage}_seen_total")
        assert seen == total(samples, f"sie_agent_{stage}_total") + total(samples, waiting), stage
    assert total(samples, "sie_agent_trimmed_transactions_total") == STATUS.trimmed


def test_outcomes_and_reasons_are_labels(
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float],
) -> None:
    packets = {
        labels: value for (name, labels), value in samples.items() if name == "sie_agent_packets_total"
    }
    assert packets == {
        (("outcome", "passed"), ("reason", "")): 52,
        (("outcome", "filtered"), ("reason", "direction")): 7,
        (("outcome", "rejected"), ("reason", "malformed")): 1,
    }
    assert samples[("sie_agent_transactions_filtered_total", (("type", "icmp"),))] == 2
    assert total(samples, "sie_agent_transactions_recorded_total") == 30


def test_every_counter_of_the_recorder_has_its_metric() -> None:
    """A counter that no metric shows would be an outcome that nobody sees."""
    names = Recorder(["192.0.2.53"]).counters()
    numbered = {name: 1000 + number for number, name in enumerate(names)}
    status = replace(STATUS, counters=numbered)
    shown = {value for metric in METRICS for _, value in metric.samples(status)}
    assert {name for name, number in numbered.items() if number not in shown} == set()


def test_the_reference_page_holds_every_metric_and_the_equation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "agent-metrics.md").read_text()
    assert markdown() in page
    assert "captured = acknowledged + pending + trimmed" in page


def test_the_status_page_is_the_document() -> None:
    server = MetricsServer(ListenAddress("::1", 0), lambda: STATUS)
    try:
        with urlopen(f"http://[::1]:{server.port}/status") as response:
            document = json.load(response)
        with pytest.raises(HTTPError, match="only /metrics and /status are here") as caught:
            urlopen(f"http://[::1]:{server.port}/")
        caught.value.close()
    finally:
        server.close()
    assert document["captured"] == 100
    assert document["uplink"]["state"] == "connected"


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(AgentError, match=r"Address already in use.*does another sie-agent run here"),
    ):
        MetricsServer(ListenAddress("127.0.0.1", taken.getsockname()[1]), lambda: STATUS)


def test_what_never_came_to_the_spool_is_two_sums_for_the_hub() -> None:
    counters = {
        "messages_seen": 20,
        "messages_recorded": 9,
        "messages_filtered_rd": 3,
        "messages_filtered_scope": 2,
        "messages_rejected_truncated": 4,
        "transactions_query_response": 8,
        "transactions_filtered_icmp": 1,
        "transactions_pending": 1,
        "packets_rejected_length": 50,
        "packets_filtered_port": 50,
    }
    assert fates(counters) == {"filtered": 6, "rejected": 4}
