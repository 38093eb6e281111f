"""The reference pages say what the program does."""

import re
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from sie_hub.nats_link import Link
from sie_hub.registry import Registry
from sie_hub.serve import query_pool, question, schema, statements
from sie_hub.serve.admission import Outcome
from sie_hub.serve.metrics import ENDINGS, FAILURES, MESSAGES, Metrics
from sie_hub.serve.rrtypes import DNSSEC, NAME_OFFSET, type_text

PAGES = Path(__file__).parents[3] / "docs" / "reference"


@pytest.fixture(scope="module")
def api_page() -> str:
    return (PAGES / "query-api.md").read_text()


@pytest.fixture(scope="module")
def store_page() -> str:
    return (PAGES / "store.md").read_text()


def test_every_metric_has_a_row_and_every_row_a_metric(
    api_page: str, store_page: str, tmp_path: Path
) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.watch_link(cast(Link, _NoLink()))
    metrics.watch_queries(lambda: 0)
    metrics.watch_registry(Registry(tmp_path))
    exported = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    documented = set(re.findall(r"`(sie_hub_[a-z_]+)(?:\{[a-z,]+\})?`", api_page + store_page))
    assert documented == exported


class _NoLink:
    connected = False
    reconnects = 0


@pytest.mark.parametrize("values", [Outcome, MESSAGES, FAILURES])
def test_every_outcome_is_explained(values: Any, store_page: str) -> None:
    for value in values:
        assert f"`{value}`" in store_page


def test_every_ending_is_explained(api_page: str) -> None:
    for ending in ENDINGS:
        assert f"`{ending}`" in api_page


def test_the_limits_are_the_programs(api_page: str, store_page: str) -> None:
    for sentence in (
        f"mean the maximum, {question.MAX_LIMIT} | {question.DEFAULT_LIMIT} |",
        f"rows skipped, up to {question.MAX_OFFSET};",
        f"{query_pool.MAX_QUERIES_OF_READER} queries of this reader, or {query_pool.MAX_QUERIES} of all",
        f"comes every {query_pool.KEEPALIVE:.0f} seconds",
        f"ends after {statements.QUERY_SECONDS} seconds and may take {statements.QUERY_MEMORY >> 20} MiB",
    ):
        assert sentence in api_page
    assert f"the version of this layout, {schema.VERSION}." in store_page


def test_the_types_are_the_programs(api_page: str) -> None:
    for rrtype in DNSSEC | NAME_OFFSET.keys():
        assert re.search(rf"\b{type_text(rrtype)}\b", api_page), type_text(rrtype)
