"""What a command asks of nats-server: as one user and in a time that ends, where a unit waits for ever."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sie_core.errors import SieError
from sie_core.settings import Config
from sie_hub.config import read_secret
from sie_hub.nats_errors import Unavailable
from sie_hub.nats_link import Link, open_link

T = TypeVar("T")


class NotInTime(SieError):
    """nats-server is away, slow, or refuses: one sentence says which, why, and what to do."""


def add_timeout_argument(parser: argparse.ArgumentParser, seconds: float) -> None:
    """Give a command the option `--timeout SECONDS`."""
    parser.add_argument(
        "--timeout",
        type=float,
        default=seconds,
        metavar="SECONDS",
        help=f"how long nats-server may take (default: {seconds:.0f})",
    )


def in_time(config: Config, seconds: float, work: Coroutine[Any, Any, T], remedy: str = "") -> T:
    """What comes of `work` within that many seconds, as the whole of a loop of its own.

    Raises NotInTime; its sentence ends with `remedy`, which brings its own punctuation.
    """

    async def limited() -> T:
        return await asyncio.wait_for(work, seconds)

    try:
        return asyncio.run(limited())
    except (TimeoutError, Unavailable) as error:
        why = str(error) or f"not ready within {seconds:g} s"
        raise NotInTime(f"{config['nats.url']}: {why}{remedy}") from None


@asynccontextmanager
async def linked(config: Config, user: str, password: Path | None = None) -> AsyncIterator[Link]:
    """A link for as long as the block lasts, with the password of that file, or else of the one for units.

    Raises ConfigError when there is no password to be read.
    """
    if password is None:
        link = await open_link(config, user, on_lost=_left_alone)
    else:
        link = Link(config["nats.url"], user, read_secret(password), _left_alone)
        await link.open()
    try:
        yield link
    finally:
        await link.close()


def _left_alone(_sentence: str) -> None:
    """A link closed for good makes requests fail, and a command says so by its own failure."""
