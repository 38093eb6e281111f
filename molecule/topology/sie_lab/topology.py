"""The lab as data: which hosts there are, how they are wired and called. Pure, but for `load`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import yaml

DOCUMENTATION_V4 = tuple(map(IPv4Network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))  # RFC 5737
DOCUMENTATION_V6 = IPv6Network("2001:db8::/32")  # RFC 3849


class TopologyError(Exception):
    """The inventory contradicts itself; the message names host and key."""


@dataclass(frozen=True)
class Network:
    """One bridge without a way out."""

    name: str
    v4: IPv4Network
    v6: IPv6Network | None


@dataclass(frozen=True)
class Address:
    """What a name server or an interface answers to."""

    v4: IPv4Address
    v6: IPv6Address | None

    def __iter__(self) -> Iterator[str]:
        yield str(self.v4)
        if self.v6 is not None:
            yield str(self.v6)


@dataclass(frozen=True)
class Interface:
    """A host's end of a wire to a network."""

    name: str
    network: str
    address: Address


@dataclass(frozen=True)
class Host:
    """One machine of the lab; `container` is its name to podman, `domain` who may log in (None: nobody).

    `more_services` are further resolvers of the host's, each with the loopback address that it answers at.
    """

    name: str
    container: str
    image: str
    domain: str | None
    service: str | None
    more_services: Mapping[str, str]
    management: str | None
    interfaces: tuple[Interface, ...]

    def interface(self, name: str) -> Interface:
        """The interface of that name; TopologyError if there is none."""
        for interface in self.interfaces:
            if interface.name == name:
                return interface
        raise TopologyError(f"{self.name}: no interface {name}")

    def on(self, network: str) -> Interface | None:
        """The interface on that network, if the host is on it."""
        return next((i for i in self.interfaces if i.network == network), None)


@dataclass(frozen=True)
class Participant:
    """One participant's domain: its unix user here, its hosts, its sensor."""

    name: str
    user: str
    home: Path
    sensor: Host
    sensor_name: str
    capture: str
    resolver: Host
    resolver_address: Address
    dnstap: bool
    """Whether resolvers bring their dnstap to the sensor."""


@dataclass(frozen=True)
class Span:
    """A mirror port: traffic of one host's interface copied to another host's port."""

    of: Host
    interface: str
    to: Host
    port: str


@dataclass(frozen=True)
class Lab:
    """Everything that the inventory says, resolved."""

    prefix: str
    exchange: str
    networks: Mapping[str, Network]
    hosts: Mapping[str, Host]
    participants: Mapping[str, Participant]
    newcomers: Mapping[str, Participant]
    """Participants with hosts and a domain that no playbook has been run for."""
    name_servers: Mapping[str, tuple[Address, ...]]
    mirror: Span | None
    shared: Path

    @property
    def span(self) -> Span:
        """The mirror port; TopologyError in a lab without one."""
        if self.mirror is None:
            raise TopologyError(f"{self.prefix} has no mirror port")
        return self.mirror

    @property
    def hub(self) -> Host:
        """The hub operator's one host."""
        return next(h for h in self.hosts.values() if h.domain == "hub")

    @property
    def probe_server(self) -> Address | None:
        """Where the hub's own name server answers the lab's internet, in a lab whose hub is on it."""
        facing = self.hub.on("net")
        return None if facing is None else facing.address

    def host(self, name: str) -> Host:
        """The host of that name, with or without the lab's prefix; TopologyError names the known ones."""
        host = self.hosts.get(name.removeprefix(f"{self.prefix}-"))
        if host is None:
            raise TopologyError(f"no host {name} in {self.prefix}; there are {', '.join(self.hosts)}")
        return host

    @property
    def everyone(self) -> Mapping[str, Participant]:
        """Participants and newcomers."""
        return {**self.participants, **self.newcomers}

    def participant(self, name: str) -> Participant:
        """The participant of that name, or newcomer; TopologyError names the known ones."""
        if name not in self.everyone:
            raise TopologyError(f"no participant {name}; there are {', '.join(self.everyone)}")
        return self.everyone[name]

    def domain_hosts(self, domain: str) -> list[Host]:
        """The hosts that one control domain may log in to."""
        return [h for h in self.hosts.values() if h.domain == domain]

    def podman_network(self, network: str) -> str:
        """A network's name to podman."""
        return f"{self.prefix}-{network}"

    def routes(self, host: Host) -> list[tuple[str, str]]:
        """What an estate's host needs beyond its networks: the way to the hub, as (destination, next hop).

        It leaves where the host is managed, not where its resolver asks the world.
        """
        hub_address = self.hub.management
        if hub_address is None or host is self.hub or host.domain is None:
            return []
        managed = [i.network for i in host.interfaces if str(i.address.v4) == host.management]
        gates = [gate for network in managed if (gate := self.hub.on(network)) is not None]
        return [(f"{hub_address}/32", str(gate.address.v4)) for gate in gates]


def load(path: Path) -> Lab:
    """Read a lab's inventory (plain YAML, no templates). TopologyError names the first contradiction."""
    tree = yaml.safe_load(path.read_text())["all"]
    settings = tree["vars"]
    prefix = str(settings["lab_prefix"])
    shared = Path("/var/lib") / prefix
    networks = {
        name: Network(name, IPv4Network(n["v4"]), IPv6Network(n["v6"]) if "v6" in n else None)
        for name, n in settings["lab_networks"].items()
    }
    for network in networks.values():
        reserved = any(network.v4.subnet_of(block) for block in DOCUMENTATION_V4)
        if not reserved or (network.v6 is not None and not network.v6.subnet_of(DOCUMENTATION_V6)):
            raise TopologyError(
                f"lab_networks: {network.name}: only addresses for documentation are used here"
            )
    hosts = {
        name: _host(prefix, name, values, networks)
        for group in tree["children"].values()
        for name, values in group["hosts"].items()
    }
    participants, newcomers = (
        {
            name: _participant(prefix, shared, name, values, hosts)
            for name, values in settings.get(key, {}).items()
        }
        for key in ("lab_participants", "lab_newcomers")
    )
    name_servers = {
        name: tuple(_address(a) for a in addresses)
        for name, addresses in settings["lab_name_servers"].items()
    }
    mirror = settings.get("lab_span")
    span = None
    if mirror is not None:
        span = Span(hosts[mirror["of"]], mirror["interface"], hosts[mirror["to"]], mirror["port"])
        span.of.interface(span.interface)
    return Lab(
        prefix=prefix,
        exchange=settings["lab_exchange"],
        networks=networks,
        hosts=hosts,
        participants=participants,
        newcomers=newcomers,
        name_servers=name_servers,
        mirror=span,
        shared=shared,
    )


def _address(values: Mapping[str, Any]) -> Address:
    return Address(IPv4Address(values["v4"]), IPv6Address(values["v6"]) if "v6" in values else None)


def _host(prefix: str, name: str, values: Mapping[str, Any], networks: Mapping[str, Network]) -> Host:
    interfaces = []
    for interface, wire in values["lab_interfaces"].items():
        address = _address(wire)
        network = networks.get(wire["network"])
        if network is None:
            raise TopologyError(f"{name}: {interface}: no network {wire['network']}")
        if address.v4 not in network.v4 or (address.v6 is None) != (network.v6 is None):
            raise TopologyError(f"{name}: {interface}: {network.name} is of other families or addresses")
        if address.v6 is not None and network.v6 is not None and address.v6 not in network.v6:
            raise TopologyError(f"{name}: {interface}: {' '.join(address)} is not in {network.name}")
        interfaces.append(Interface(interface, network.name, address))
    return Host(
        name=name,
        container=f"{prefix}-{name}",
        image=values["lab_image"],
        domain=values.get("lab_domain"),
        service=values.get("lab_service"),
        more_services=values.get("lab_more_services", {}),
        management=values.get("ansible_host"),
        interfaces=tuple(interfaces),
    )


def _participant(
    prefix: str, shared: Path, name: str, values: Mapping[str, Any], hosts: Mapping[str, Host]
) -> Participant:
    dashed = name.replace("_", "-")
    resolver = hosts[values["resolver"]]
    facing = resolver.on("net")
    if facing is None:
        raise TopologyError(f"{resolver.name}: a resolver needs an interface on net")
    return Participant(
        name=name,
        user=f"{prefix}-{dashed}",
        home=shared / dashed,
        sensor=hosts[values["sensor"]],
        sensor_name=values["sensor_name"],
        capture=values["capture"],
        resolver=resolver,
        resolver_address=facing.address,
        dnstap=values.get("dnstap", False),
    )
