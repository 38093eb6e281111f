"""The list of faults, in the order in which the page has them."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from inspect import getdoc
from pathlib import Path
from typing import Any, Final

from tests.faults import disks, kills, network, time_of_day, twins
from tests.faults.place import Outcome
from tests.faults.traffic import TEN_MINUTES


@dataclass(frozen=True)
class Fault:
    """A fault. `inject` brings it about in a directory; `recovered` says from when recovery counts."""

    title: str
    inject: Callable[[Path], Coroutine[Any, Any, Outcome]]
    recovered: str
    batches: int = 4
    """Of traffic, at most."""

    @property
    def name(self) -> str:
        """Its name in commands."""
        return self.inject.__name__

    @property
    def text(self) -> str:
        """How it is brought about, in a sentence or two."""
        return " ".join((getdoc(self.inject) or "").split())


HEALED: Final = "from the healing of the line"
LAST_PACKET: Final = "from the last packet recorded, with the fault still in force"
ENROLMENT: Final = "from the moment enrolment is within reach"
STARTED: Final = "from the new start of what was killed"

FAULTS: Final = (
    Fault("Partition for ten minutes of traffic", network.partition, HEALED, 1 + TEN_MINUTES),
    Fault("5% loss and 200 ms of delay", network.loss_and_delay, LAST_PACKET),
    Fault("Connection reset every 3 s", network.resets, "from a reset, the longest of all"),
    Fault("Hub killed between storing and acknowledging", kills.hub_killed, STARTED),
    Fault("Sensor killed between sending and acknowledgement", kills.sensor_killed, STARTED),
    Fault("Disk full at the sensor", disks.sensor_disk_full, "from the moment there is room again"),
    Fault("Disk full at the hub", disks.hub_disk_full, "from the new start of nats-server"),
    Fault("Clock one hour ahead on the sensor", time_of_day.clock_ahead, "from the program's start"),
    Fault("Certificate expired during a partition", time_of_day.certificate_expired, ENROLMENT),
    Fault("Two sensors with the same identity", twins.same_identity, HEALED),
    Fault("A hub address that accepts and never answers", network.silent_address, "from the sensor's start"),
    Fault("A hub that is too slow", network.slow_hub, "from the moment it goes on"),
)
