"""`sie-hub refine`."""

import argparse

from sie_core.settings import Config
from sie_hub.cli import add_config_argument
from sie_hub.config import load_config
from sie_hub.nats_link import open_link
from sie_hub.refine.metrics import Metrics
from sie_hub.refine.refiner import Refiner
from sie_hub.unit import Unit, run_unit


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sie-hub refine`."""
    add_config_argument(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)

    async def body(unit: Unit) -> None:
        await _refine(unit, config)

    return run_unit("refine", config["refine.metrics"], body)


async def _refine(unit: Unit, config: Config) -> None:
    link = await unit.unless_stopped(open_link(config, "refine", unit.fail))
    try:
        metrics = Metrics(unit.metrics, link)
        await Refiner(unit, link, config["refine.window"], metrics, config["probe.zone"]).run()
    finally:
        await link.close()
