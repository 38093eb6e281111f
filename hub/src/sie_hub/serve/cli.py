"""`sie-hub serve`."""

import argparse
import asyncio

from sie_core.settings import Config
from sie_hub.cli import add_config_argument
from sie_hub.config import load_config
from sie_hub.nats_link import open_link
from sie_hub.registry import Registry
from sie_hub.serve.api import Api
from sie_hub.serve.doors import Doors
from sie_hub.serve.errors import StoreUnusable
from sie_hub.serve.metrics import Metrics
from sie_hub.serve.query_pool import QueryPool
from sie_hub.serve.schema import open_store
from sie_hub.serve.stream_reader import StreamReader
from sie_hub.serve.writer import Writer
from sie_hub.unit import Unit, UnitFailed, run_unit


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sie-hub serve`."""
    add_config_argument(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)

    async def body(unit: Unit) -> None:
        await _serve(unit, config)

    return run_unit("serve", config["serve.metrics"], body)


async def _serve(unit: Unit, config: Config) -> None:
    registry = Registry(config["registry"])
    metrics = Metrics(unit.metrics)
    metrics.watch_registry(registry)
    try:
        store = open_store(config["serve.store"])
    except StoreUnusable as error:
        raise UnitFailed(str(error)) from None
    pool = QueryPool(store)
    metrics.watch_queries(lambda: pool.active)
    doors = Doors(config, Api(pool, registry, metrics), metrics)
    watching = asyncio.create_task(registry.watch(lambda: None))
    try:
        # Readers are answered from the store whether or not nats-server is there.
        await doors.open()
        unit.ready(f"answering on {', '.join(doors.addresses)}")
        link = await unit.unless_stopped(open_link(config, "serve", unit.fail))
        try:
            metrics.watch_link(link)
            await StreamReader(
                unit, link, Writer(store.connection(), config["serve.retention_days"]), metrics
            ).run()
        finally:
            await link.close()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await doors.close()
        await pool.close()
        store.close()
