"""Look-ups by the stub through each participant's resolver, as its users would make them."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from sie_lab.dns import dig
from sie_lab.machine import LabError
from sie_lab.topology import Lab, Participant

# One of each common type, with what its answer must hold.
QUESTIONS = (
    ("www.alpha.example", "A", "203.0.113.80"),
    ("www.alpha.example", "AAAA", "2001:db8:ffff::80"),
    ("alpha.example", "NS", "ns1.alpha.example."),
    ("alpha.example", "MX", "10 mail.alpha.example."),
    ("alpha.example", "TXT", '"v=spf1 ip4:203.0.113.25 -all"'),
    ("blog.alpha.example", "CNAME", "www.beta.example."),
    ("www.gamma.example", "A", "203.0.113.90"),
    ("www.delta.example", "A", "203.0.113.91"),
)
NEW_NAMES = 20  # below wild.example, for each resolver


@dataclass(frozen=True)
class Driven:
    """What was looked up: for each participant the zone below which its new names are, and those names."""

    zones: dict[str, str]
    names: dict[str, tuple[str, ...]]

    @property
    def total(self) -> int:
        """Look-ups made."""
        return sum(len(names) + len(QUESTIONS) for names in self.names.values())


def drive(lab: Lab) -> Driven:
    """One look-up of each kind, and many of names never seen. LabError if an answer is not as served."""
    run = secrets.token_hex(4)
    zones = {p.name: f"{run}.{p.name.replace('_', '-')}.wild.example" for p in lab.participants.values()}
    names = {who: tuple(f"n{i}.{zone}" for i in range(NEW_NAMES)) for who, zone in zones.items()}
    for participant in lab.participants.values():
        for name, qtype, expected in QUESTIONS:
            answer = look_up(lab, participant, name, qtype)
            if expected not in answer:
                said = ", ".join(answer) or "nothing"
                raise LabError(
                    f"{participant.resolver.name} answered {said} for {name} {qtype} instead of {expected}"
                )
        look_up_many(lab, participant, names[participant.name])
    return Driven(zones, names)


def look_up(lab: Lab, participant: Participant, name: str, qtype: str) -> list[str]:
    """The values that the participant's resolver gives."""
    server = str(participant.resolver_address.v4)
    said = dig(lab, f"@{server}", "+short", "+tries=3", "+timeout=3", name, qtype)
    return [line for line in said.splitlines() if not line.startswith(";")]


def look_up_many(lab: Lab, participant: Participant, names: Iterable[str]) -> None:
    """A look-up of A for each name, alternately over IPv4 and IPv6."""
    servers = [ip_address(text) for text in participant.resolver_address]
    words: list[str] = []
    for number, name in enumerate(names):
        words += [f"@{servers[number % len(servers)]}", name, "A"]
    said = dig(lab, "+short", "+tries=1", "+timeout=3", *words)
    failed = [line for line in said.splitlines() if line.startswith(";")]
    if failed:
        raise LabError(f"{participant.resolver.name}: {failed[0].lstrip('; ')}")
