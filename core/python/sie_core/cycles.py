"""Python's collector of cycles, for programs that run for months with many objects that never go."""

import gc
from typing import Final

COLLECT_AFTER: Final = 20_000
"""Objects made and not freed after which Python looks for cycles: some megabytes of them. After every 700,
which is the default, looking took a third of ingest's time with 150 sessions, and a quarter of a sending
agent's."""


def collect_seldom() -> None:
    """Have the collector leave alone for ever what is there now, and look at the rest more seldom.

    To be called once, when a program has made what it needs to run.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
