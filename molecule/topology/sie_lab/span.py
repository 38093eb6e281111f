"""The mirror port: a cable into the sensor's host, and rules that copy the resolver's frames onto it."""

import json

from sie_lab.hosts import on, process_id
from sie_lab.machine import CommandError, LabError, run
from sie_lab.topology import Host, Lab

DIRECTIONS = ("ingress", "egress")


def _host_end(lab: Lab) -> str:
    return f"{lab.prefix}-span"


def _wire(host: Host, interface: str) -> str:
    """The name of this machine's end of a host's interface."""
    index = int(on(host, "cat", f"/sys/class/net/{interface}/iflink"))
    for link in json.loads(run(["ip", "-json", "link"])):
        if link["ifindex"] == index:
            return str(link["ifname"])
    raise LabError(f"{host.container}: {interface} has no other end on this machine")


def is_on(lab: Lab) -> bool:
    """Whether frames are being copied."""
    wire = _wire(lab.span.of, lab.span.interface)
    return all("mirred" in run(["tc", "filter", "show", "dev", wire, d], check=False) for d in DIRECTIONS)


def ensure(lab: Lab) -> int:
    """Cable and copying in place, also after either host was restarted; how much had to be done."""
    if lab.mirror is None:
        return 0
    done = _ensure_cable(lab)
    if not is_on(lab):
        switch(lab, on_=True)
        done += 1
    return done


def switch(lab: Lab, *, on_: bool) -> None:
    """Copy frames, or stop copying. The cable stays, as it does when a switch is told to stop mirroring."""
    wire = _wire(lab.span.of, lab.span.interface)
    run(["tc", "qdisc", "delete", "dev", wire, "clsact"], check=False)
    if not on_:
        return
    run(["tc", "qdisc", "add", "dev", wire, "clsact"])
    for direction in DIRECTIONS:
        run(
            [
                *("tc", "filter", "add", "dev", wire, direction, "protocol", "all", "prio", "10"),
                *(
                    "u32",
                    "match",
                    "u32",
                    "0",
                    "0",
                    "action",
                    "mirred",
                    "egress",
                    "mirror",
                    "dev",
                    _host_end(lab),
                ),
            ]
        )


def _ensure_cable(lab: Lab) -> int:
    port, ours = lab.span.port, _host_end(lab)
    try:
        on(lab.span.to, "test", "-e", f"/sys/class/net/{port}")
        run(["ip", "link", "show", "dev", ours])
        return 0
    except CommandError:
        run(["ip", "link", "delete", "dev", ours], check=False)
    pid = str(process_id(lab.span.to))
    run(["ip", "link", "add", ours, "type", "veth", "peer", "name", port, "netns", pid])
    # No address of either family, not even a link-local one, and no word on the wire from either end.
    run(["sysctl", "-qw", f"net.ipv6.conf.{ours}.disable_ipv6=1"])
    run(["ip", "link", "set", "dev", ours, "arp", "off", "up"])
    run(["nsenter", "-t", pid, "-n", "sysctl", "-qw", f"net.ipv6.conf.{port}.disable_ipv6=1"])
    run(["nsenter", "-t", pid, "-n", "ip", "link", "set", "dev", port, "arp", "off", "up"])
    return 1
