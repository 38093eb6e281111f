"""What came of the traffic: the table that the lab ends with."""

import json
import os
import shlex
import time
from dataclasses import dataclass

from sie_lab import deploy
from sie_lab.hosts import on
from sie_lab.machine import run
from sie_lab.topology import Lab, Participant
from sie_lab.traffic import NEW_NAMES, Driven

STATUS = ("/opt/sie/sie-agent/bin/sie-agent", "status", "--json", "--config", "/etc/sie-agent/agent.yml")
ARRIVAL_TIMEOUT = 20.0  # seconds; refine's window is five
POLL = 0.5


@dataclass(frozen=True)
class Row:
    """One sensor's ledger: transactions, and how many of the names looked up just now readers can find."""

    sensor: str
    captured: int
    acknowledged: int
    searchable: int
    looked_up: int

    @property
    def arrived(self) -> bool:
        """Whether nothing is on the way any more."""
        return self.captured == self.acknowledged and self.searchable == self.looked_up


def dnsdbq(lab: Lab, *arguments: str) -> tuple[str, str]:
    """The exact command for a reader (-U: the certificate is of the lab's own CA), and what it answers."""
    settings = {"DNSDB_SERVER": deploy.api_url(lab), "DNSDB_API_KEY": deploy.api_key(lab)}
    words = ["dnsdbq", "-u", "dnsdb2", "-U", *arguments]
    said = run(words, environment={**os.environ, **settings}, check=False)
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    return f"{assignments} {shlex.join(words)}", said


def row(lab: Lab, participant: Participant, driven: Driven) -> Row:
    """The ledger of one participant's sensor at this moment."""
    status = json.loads(on(participant.sensor, *STATUS))
    wanted = driven.names[participant.name]
    _, said = dnsdbq(lab, "-j", "-l", str(10 * NEW_NAMES), "-r", f"*.{driven.zones[participant.name]}/A")
    found = {json.loads(line)["rrname"].rstrip(".") for line in said.splitlines() if line.startswith("{")}
    return Row(
        sensor=f"{participant.name}/{participant.sensor_name}",
        captured=status["captured"],
        acknowledged=status["acknowledged"],
        searchable=len(found.intersection(wanted)),
        looked_up=len(wanted),
    )


def rows(lab: Lab, driven: Driven) -> list[Row]:
    """A row for each sensor, once all has arrived or time is up."""
    deadline = time.monotonic() + ARRIVAL_TIMEOUT
    while True:
        table = [row(lab, participant, driven) for participant in lab.participants.values()]
        if all(r.arrived for r in table) or time.monotonic() > deadline:
            return table
        time.sleep(POLL)


def report(lab: Lab, driven: Driven) -> str:
    """The table, and a command to try with what it answers."""
    lines = [f"{'sensor':<16}{'captured':>10}{'acknowledged':>14}{'searchable':>22}"]
    for r in rows(lab, driven):
        searchable = f"{r.searchable} of {r.looked_up} new names"
        lines.append(f"{r.sensor:<16}{r.captured:>10}{r.acknowledged:>14}{searchable:>22}")
    command, said = dnsdbq(lab, "-r", "www.alpha.example")
    return "\n".join([*lines, "", f"$ {command}", said.rstrip()])
