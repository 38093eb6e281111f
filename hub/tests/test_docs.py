"""The hub's reference pages say what the program does."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sie_core.settings import markdown_table
from sie_hub import connections, log, registry_cli
from sie_hub.cli import COMMANDS
from sie_hub.config import TABLE
from sie_hub.ingest import metrics as ingest
from sie_hub.nats_config import USERS
from sie_hub.nats_link import Link
from sie_hub.refine import metrics as refine
from sie_hub.registry import Registry
from sie_hub.streams import CONFIGS
from sie_hub.unit import Unit

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def hub_page() -> str:
    return (DOCS / "reference" / "hub.md").read_text()


@pytest.fixture(scope="module")
def registry_page() -> str:
    return (DOCS / "reference" / "registry.md").read_text()


def test_every_setting_is_described(hub_page: str) -> None:
    assert markdown_table(TABLE) in hub_page


async def test_every_metric_is_described(hub_page: str, tmp_path: Path) -> None:
    link = Link("nats://127.0.0.1:4222", "nobody", "", lambda _sentence: None)
    shared, of_refine = Unit("test").metrics, CollectorRegistry()
    ingest.Metrics(shared, link, Registry(tmp_path))
    refine.Metrics(of_refine, link)
    for family in (*shared.collect(), *of_refine.collect()):
        if not family.name.startswith(("process_", "python_")):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert f"`{name}`" in hub_page or f"`{name}{{" in hub_page, name


@pytest.mark.parametrize(
    "outcome",
    sorted(
        {
            *ingest.CONNECTIONS,
            *ingest.PROBE_QUESTIONS,
            *ingest.ENDINGS,
            *ingest.CONTAINERS,
            *ingest.DROP,
            *ingest.REPORTED,
            *refine.CONTAINERS,
            *refine.TRANSACTIONS,
            *(outcome.removeprefix("records_") for outcome in refine.RECORDS),
            *refine.PROBES,
            *refine.OBSERVATIONS,
            *refine.WINDOWS,
        }
    ),
)
def test_every_outcome_is_described(hub_page: str, outcome: str) -> None:
    assert f"`{outcome}`" in hub_page


def test_the_limits_on_strangers_are_the_programs(hub_page: str) -> None:
    for cell in (
        f"| {connections.MAX_CONNECTIONS}, 280 KiB",
        f"| {connections.MAX_CONNECTIONS_OF_ADDRESS} |",
        f"| {connections.IDLE_TIMEOUT:.0f} s |",
        f"| {log.BURST} a minute |",
    ):
        assert cell in hub_page
    assert log.PERIOD == 60


def test_every_command_user_and_stream_is_named(hub_page: str) -> None:
    for command in COMMANDS:
        assert f"sie-hub {command}" in hub_page or f"`{command}`" in hub_page, command
    for user in USERS:
        assert f"| `{user.name}` |" in hub_page, user.name
    for config in CONFIGS:
        assert f"| `{config.name}` |" in hub_page, config.name


def leaves(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    subparsers = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not subparsers:
        yield words
    for action in subparsers:
        for name, child in action.choices.items():
            yield from leaves(child, (*words, name))


def test_every_registry_command_is_described(registry_page: str) -> None:
    parser = argparse.ArgumentParser()
    registry_cli.configure("registry", parser)
    commands = list(leaves(parser, ()))
    assert len(commands) == 13
    for words in commands:
        assert " ".join(("`sie-hub registry", *words)) in registry_page, words
