"""The domains that the generated resolver asks about: a root, the TLD `example.` and zones below it.

Everything follows from the seed. A zone has two name servers, an address on each family for each of them, and
a few host names; popular zones are asked for more often than others, as in life.
"""

import random
from dataclasses import dataclass
from functools import cache, cached_property
from ipaddress import IPv4Address, IPv6Address

import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.traffic.frames import Address

TLD = "example."
DATA_V4 = IPv4Address("203.0.113.0")
DATA_V6 = IPv6Address("2001:db8:ffff::")
SERVERS_V4 = IPv4Address("198.51.100.0")
SERVERS_V6 = IPv6Address("2001:db8:5e7::")

HOSTS = ("www", "mail", "api", "cdn", "Static", "a.b", "_dmarc")
NAME_SERVERS = ("ns1", "ns2")


def rrset(owner: str, ttl: int, rrtype: str, *rdata: str) -> dns.rrset.RRset:
    """An RRset of class IN from presentation form."""
    return dns.rrset.from_text(owner, ttl, dns.rdataclass.IN, dns.rdatatype.from_text(rrtype), *rdata)


@dataclass(frozen=True)
class Zone:
    """A zone that one pair of name servers answers for."""

    apex: str
    number: int

    @cached_property
    def servers(self) -> tuple[str, ...]:
        """The names of its servers, which lie in the zone itself, so that a referral needs glue."""
        return tuple(f"{label}.{self.apex}" for label in NAME_SERVERS)

    def server_address(self, version: int) -> Address:
        """Where its first server listens."""
        if version == 4:
            return SERVERS_V4 + 1 + self.number % 250
        return SERVERS_V6 + 1 + self.number

    @cached_property
    def name_servers(self) -> dns.rrset.RRset:
        """Its NS RRset, the same in its parent and in itself."""
        return rrset(self.apex, 3600, "NS", *self.servers)

    @cached_property
    def glue(self) -> list[dns.rrset.RRset]:
        """The addresses of its servers."""
        return [
            *(rrset(name, 3600, "A", str(self.server_address(4))) for name in self.servers),
            *(rrset(name, 3600, "AAAA", str(self.server_address(6))) for name in self.servers),
        ]

    @cached_property
    def start_of_authority(self) -> dns.rrset.RRset:
        """Its SOA RRset."""
        return rrset(self.apex, 3600, "SOA", f"ns1.{self.apex} hostmaster.{self.apex} 1 7200 900 1209600 300")

    @cache  # noqa: B019 - zones live as long as the world that is generated
    def records(self, host: str, rrtype: str) -> list[dns.rrset.RRset]:
        """The answer for a host of the zone, as RRsets in order."""
        owner = f"{host}.{self.apex}"
        spread = self.number * 7 + len(host)
        match rrtype:
            case "A":
                addresses = (str(DATA_V4 + 1 + (spread + item) % 250) for item in range(1 + spread % 3))
                return [rrset(owner, 60, "A", *addresses)]
            case "AAAA":
                return [rrset(owner, 60, "AAAA", str(DATA_V6 + 1 + spread))]
            case "CNAME":
                target = f"edge.{self.apex}"
                return [
                    rrset(owner, 300, "CNAME", target),
                    rrset(target, 30, "A", str(DATA_V4 + 1 + spread % 250)),
                ]
            case "MX":
                return [rrset(self.apex, 3600, "MX", f"10 mail.{self.apex}", f"20 mx.{TLD}")]
            case "TXT":
                return [rrset(self.apex, 3600, "TXT", '"v=spf1 mx -all"', f'"zone {self.number}" ""')]
            case "NS":
                return [self.name_servers]
        raise AssertionError(f"no record of type {rrtype} in this world")


class World:
    """All zones."""

    def __init__(self, seed: int, zones: int = 400) -> None:
        self.random = random.Random(seed)
        self.tld = Zone(TLD, 0)
        self.zones = [Zone(f"zone-{number}.{TLD}", number) for number in range(1, zones + 1)]
        self._popularity = [1 / number for number in range(1, zones + 1)]

    def zone(self) -> Zone:
        """A zone, the popular ones more often (Zipf)."""
        return self.random.choices(self.zones, self._popularity)[0]
