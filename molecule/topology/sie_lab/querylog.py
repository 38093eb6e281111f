"""What the name servers were asked, exactly: the count that everything downstream is held against."""

import time
from collections import Counter
from dataclasses import dataclass

from sie_lab.dns import ZONES
from sie_lab.hosts import on
from sie_lab.machine import LabError
from sie_lab.topology import Lab

LOG = "/var/log/lab-querylog/queries.tsv"
TYPES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    257: "CAA",
}
SETTLE_TIMEOUT = 10.0  # seconds; a name server hands its messages on within one
POLL = 0.1
START_SLACK = 0.2  # seconds between reading a server's age and this machine's clock


@dataclass(frozen=True)
class Entry:
    """One query ("Q") or response ("R") at one name server."""

    time: float
    kind: str
    server: str
    transport: str
    resolver: str
    port: int
    rcode: int
    qtype: str
    qname: str
    id: int


def parse(line: str) -> Entry:
    """One line of the log."""
    time_, kind, server, transport, resolver, port, rcode, qtype, qname, id_ = line.split("\t")
    type_name = TYPES.get(int(qtype), f"TYPE{qtype}")
    return Entry(
        float(time_), kind, server, transport, resolver, int(port), int(rcode), type_name, qname, int(id_)
    )


def mark(lab: Lab) -> int:
    """The log's size, for `entries(since=...)`, once everything asked before has been written."""
    settle(lab)
    return int(on(lab.host("auth"), "stat", "--format=%s", LOG))


def entries(lab: Lab, since: int = 0) -> list[Entry]:
    """What was logged after that mark."""
    settle(lab)
    text = on(lab.host("auth"), "tail", f"--bytes=+{since + 1}", LOG)
    return [parse(line) for line in text.splitlines()]


def counts(lab: Lab, since: int = 0, kind: str = "Q") -> Counter[tuple[str, str, str]]:
    """How often each (name, type, resolver's address) was asked, names in lower case."""
    return Counter((e.qname.lower(), e.qtype, e.resolver) for e in entries(lab, since) if e.kind == kind)


def asked_of_holder(lab: Lab, since: int = 0) -> Counter[tuple[str, str, str]]:
    """As `counts`, of the server alone that holds the name.

    A resolver that does not know a zone yet asks the parent's server first, with the whole name, and gets a
    referral, in which the name has no record.
    """
    return Counter(
        (e.qname.lower(), e.qtype, e.resolver)
        for e in entries(lab, since)
        if e.kind == "Q" and e.server == _holder(e.qname.lower())
    )


def _holder(name: str) -> str:
    """The server with the longest zone that the name is in."""
    _, server = max(
        (len(zone), server)
        for server, zones in ZONES.items()
        for zone in zones
        if zone == "." or f".{name}".endswith(f".{zone}")
    )
    return server


def settle(lab: Lab) -> None:
    """Return once the log holds what the name servers have counted; LabError if it does not come to that.

    The servers hand their messages on in batches, and would drop some if the logger could not keep up: this
    is the check that none is missing.
    """
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while True:
        served, logged = _compare(lab)
        if served == logged:
            return
        if time.monotonic() > deadline:
            raise LabError(
                f"the name servers were asked {served} times since they started, and logged {logged}"
            )
        time.sleep(POLL)


def _compare(lab: Lab) -> tuple[int, int]:
    """Queries that the name servers have counted since each started, and those logged since then."""
    auth = lab.host("auth")
    served = 0
    begun: dict[str, float] = {}
    for name in ZONES:
        statistics = on(auth, "nsd-control", "-c", f"/etc/lab-nsd/{name}.conf", "stats_noreset")
        values = dict(line.split("=", 1) for line in statistics.splitlines() if "=" in line)
        served += int(values["num.queries"])
        begun[name] = time.time() - float(values["time.boot"]) - START_SLACK
    conditions = " || ".join(f'$3 == "{name}" && $1 >= {start:.6f}' for name, start in begun.items())
    logged = on(auth, "awk", f'$2 == "Q" && ({conditions}) {{ n++ }} END {{ print n + 0 }}', LOG)
    return served, int(logged)
