"""Every fault of the catalogue: what was captured has arrived, each transaction once."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.faults.catalogue import FAULTS, Fault
from tests.faults.place import Outcome
from tests.faults.traffic import batches

pytestmark = pytest.mark.root

AT_ONCE = 3
"""Faults that run beside each other: most of the time they wait for something to be noticed."""

Outcomes = dict[str, "Future[Outcome]"]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """What comes of every fault that is asked for."""
    chosen = [
        fault
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
        if isinstance(fault := item.callspec.params["fault"], Fault)
    ]
    batches(0, max(fault.batches for fault in chosen))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            fault.name: pool.submit(asyncio.run, fault.inject(tmp_path_factory.mktemp(fault.name)))
            for fault in chosen
        }


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_was_captured_arrives_each_once(fault: Fault, outcomes: Outcomes) -> None:
    outcome = outcomes[fault.name].result()
    assert outcome.captured == outcome.arrived
    assert outcome.captured > 0
