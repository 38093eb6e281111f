"""`sie-hub ingest`."""

import argparse
import asyncio
from typing import Any

from sie_core.cycles import collect_seldom
from sie_core.settings import Config
from sie_hub.cli import add_config_argument
from sie_hub.config import load_config
from sie_hub.ingest.ledger import Ledger
from sie_hub.ingest.metrics import Metrics
from sie_hub.ingest.quota import Quotas
from sie_hub.ingest.server import REVIEW_INTERVAL, Server
from sie_hub.ingest.store import reconcile
from sie_hub.ingest.take_in import TakeIn
from sie_hub.nats_errors import Unavailable
from sie_hub.nats_link import open_link
from sie_hub.registry import Registry
from sie_hub.unit import PageUnavailable, Unit, run_unit


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sie-hub ingest`."""
    add_config_argument(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)

    async def body(unit: Unit) -> None:
        await _ingest(unit, config)

    return run_unit("ingest", config["ingest.metrics"], body)


async def _ingest(unit: Unit, config: Config) -> None:
    registry = Registry(config["registry"])
    link = await unit.unless_stopped(open_link(config, "ingest", unit.fail))
    try:
        ledger = Ledger(link)
        metrics = Metrics(unit.metrics, link, registry)
        quotas = Quotas(config["ingest.source_quota"])
        server = Server(config, registry, link, metrics, ledger, quotas)
        behind = await unit.unless_stopped(reconcile(link))
        await unit.unless_stopped(ledger.load())
        unit.pages["ledger"] = lambda: _page(ledger, registry)
        await server.start()
        collect_seldom()
        beside = [asyncio.create_task(ledger.keep())]
        if config["ingest.drop"] is not None:
            take_in = TakeIn(
                config["ingest.drop"], config["ingest.drop_quota"], registry, link, metrics, ledger, quotas
            )
            beside.append(asyncio.create_task(take_in.run()))
        try:
            unit.ready(f"taking containers on {', '.join(server.addresses)}; {behind} positions were behind")
            while not unit.stopping.is_set():
                registry.reload()
                server.review()
                for task in beside:
                    if task.done():
                        task.result()
                unit.progress()
                await unit.sleep(REVIEW_INTERVAL)
        finally:
            await server.stop()
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await ledger.write_all()
    finally:
        await link.close()


async def _page(ledger: Ledger, registry: Registry) -> list[dict[str, Any]]:
    try:
        return [account.as_document() for account in await ledger.accounts(registry.participants)]
    except Unavailable as unavailable:
        raise PageUnavailable(str(unavailable)) from None
