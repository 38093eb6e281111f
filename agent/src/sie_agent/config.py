"""The agent's one configuration file, `/etc/sie-agent/agent.yml`: the table of its settings and its typed
form.
"""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sie_agent.config_kinds import (
    HOST,
    Drop,
    DropAddress,
    Endpoint,
    OneOf,
    Pattern,
    Resolver,
    Sender,
    Zone,
)
from sie_core import limits
from sie_core.settings import (
    Boolean,
    Check,
    Config,
    File,
    Integer,
    Listen,
    ListenAddress,
    ListOf,
    Octets,
    Seconds,
    Setting,
    Table,
    Text,
    Url,
    load,
)

SHORTEST_V4: Final = 16
"""The widest IPv4 prefix of resolvers. Each address inside counts as a resolver, so that whatever else in it
asks authoritative servers would be recorded too. A farm of resolvers fits a /24; a /16 leaves room for 256 of
those and is still one organisation's own network, where a /8 never is."""

SHORTEST_V6: Final = 32
"""The widest IPv6 prefix of resolvers: a /32 is what a regional registry gives to one provider, so anything
shorter covers the networks of others."""

MOST_RESOLVERS: Final = 64
"""Addresses and prefixes of resolvers. The kernel's filter has 4,096 instructions (BPF_MAXINSNS); one IPv6
prefix takes up to 8 in each of two directions, with and without a VLAN tag: 64 x 8 x 4 = 2,048."""

MOST_SOURCES: Final = 16
"""Interfaces and dnstap sockets. Rings in the kernel are 32 MiB in all, at least 2 MiB an interface."""

MOST_SENDERS: Final = 64
"""Addresses and prefixes from which one endpoint takes dnstap: as many as it takes connections."""

SOCKET_MODES: Final = ("0600", "0660", "0666")
"""Who may connect to a dnstap socket: the agent's own user, its group too, every program of the host."""

MOST_LOCAL_ZONES: Final = 4096
"""Suffixes that are kept out: an organisation of a thousand sites with four internal zones each."""

TRANSACTION_TYPES: Final = ("query_response", "unanswered_query", "unsolicited_response", "icmp")
"""What a transaction may be, in base:dnsqr's words."""

LEAST_SPOOL: Final = 4 << 20
"""The smallest spool: a quarter of it may be in flight, which must exceed one container of 512 KiB."""

EXCHANGE: Final = r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"


def _repeated(what: str, values: tuple[str, ...]) -> str | None:
    for index, value in enumerate(values):
        if value in values[:index]:
            return f"{what} {value} is listed twice"
    return None


def _one_of_both(interface: str | None, dnstap: str | None) -> str | None:
    if interface is None and dnstap is None:
        return "missing: a source is either an interface or a dnstap endpoint"
    if interface is not None and dnstap is not None:
        return "a source is either an interface or a dnstap endpoint: make it two items of the list"
    return None


def _promiscuous_dnstap(promiscuous: bool, dnstap: str | None) -> str | None:
    return "only an interface can be promiscuous" if promiscuous and dnstap is not None else None


def _encapsulated_dnstap(encapsulated: bool, dnstap: str | None) -> str | None:
    return "only by an interface do packets come in tunnels" if encapsulated and dnstap is not None else None


def _access(dnstap: str | None, group: str | None, mode: str | None, senders: tuple[str, ...]) -> str | None:
    endpoint = dnstap or ""
    if not endpoint.startswith("unix:") and (group is not None or mode is not None):
        return "group and mode are those of a file: only a dnstap endpoint unix:/PATH has them"
    if not endpoint.startswith("tcp:"):
        return "senders are addresses: only a dnstap endpoint tcp:ADDRESS:PORT has them" if senders else None
    host = endpoint.removeprefix("tcp:").rpartition(":")[0].strip("[]")
    if not senders and not ipaddress.ip_address(host).is_loopback:
        return (
            f"{endpoint} can be reached from other hosts, and TCP tells neither who sends nor keeps secret "
            "what: list the addresses of the resolvers that may send in senders, or listen on a loopback "
            "address"
        )
    return None


def _each_once(sources: tuple[Config, ...]) -> str | None:
    interfaces = tuple(source["interface"] for source in sources if source["interface"] is not None)
    endpoints = tuple(source["dnstap"] for source in sources if source["dnstap"] is not None)
    return _repeated("interface", interfaces) or _repeated("dnstap", endpoints)


def _resolvers_needed(resolvers: tuple[str, ...], sources: tuple[Config, ...]) -> str | None:
    first = next((source["interface"] for source in sources if source["interface"] is not None), None)
    if resolvers or first is None:
        return None
    return (
        f"none is listed, and only dnstap says by itself which traffic is a resolver's own: list the "
        f"addresses of the resolvers that interface {first} sees, or the word {HOST} on the resolver itself"
    )


def _one_way_out(hubs: tuple[str, ...], drop: DropAddress | None) -> str | None:
    if not hubs and drop is None:
        return "missing: list the hub's addresses, or give uplink.drop where only SSH is let out"
    if hubs and drop is not None:
        return "the uplink goes to hubs or into a drop: give uplink.hubs or uplink.drop, not both"
    return None


def _too_wide(resolvers: tuple[str, ...], admit_every_address: bool) -> str | None:
    for text in resolvers:
        if text == HOST or admit_every_address:
            continue
        network = ipaddress.ip_network(text)
        shortest = SHORTEST_V4 if network.version == 4 else SHORTEST_V6
        if network.prefixlen < shortest:
            return (
                f"{text} covers too much: /{network.prefixlen} is shorter than /{shortest}, so the traffic "
                "of whoever asks from there would be recorded; list the resolvers, or set "
                "privacy.admit_every_address"
            )
    return None


TABLE: Final = Table(
    Setting(
        "participant",
        Text(r"[a-z0-9_]{1,32}", "1 to 32 of the letters a to z, digits and _"),
        help="the organisation that runs this sensor, as the exchange registered it",
    ),
    Setting(
        "sensor",
        Text(r"[a-z0-9-]{1,32}", "1 to 32 of the letters a to z, digits and -"),
        help="the name of this sensor, one of those registered for the participant",
    ),
    Setting("exchange", Text(EXCHANGE, "a lower-case domain name"), help="the name of the exchange"),
    Setting(
        "channel",
        Integer(1, limits.MAX_CHANNEL),
        default=202,
        help="the channel that this sensor contributes to",
    ),
    Setting(
        "resolvers",
        ListOf(Resolver(), most=MOST_RESOLVERS),
        default=[],
        help="the addresses or prefixes of the resolvers whose upstream traffic alone is recorded; may be "
        "left out where every source is dnstap",
    ),
    Setting(
        "sources",
        ListOf(
            Table(
                Setting(
                    "interface",
                    Text(r"(?!\.{1,2}\Z)[^\s/:]{1,15}", "the name of a network interface"),
                    default=None,
                    help="the interface that sees the resolvers' upstream traffic",
                ),
                Setting(
                    "dnstap",
                    Endpoint(),
                    default=None,
                    help="in the place of an interface: where resolvers bring their dnstap",
                ),
                Setting(
                    "promiscuous",
                    Boolean(),
                    default=False,
                    help="whether frames for other hosts are taken in, as a mirror port (SPAN) needs",
                ),
                Setting(
                    "encapsulated",
                    Boolean(),
                    default=False,
                    help="whether packets are looked for inside GRE, ERSPAN type II and VXLAN, in which "
                    "mirrors across a network come; anybody can send a host such packets",
                ),
                Setting(
                    "group",
                    Text(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", "the name of a group of this host"),
                    default=None,
                    help="the group that a dnstap socket belongs to, which the resolver's user must be in "
                    "and the agent's too; the agent's own where it is left out",
                ),
                Setting(
                    "mode",
                    OneOf(SOCKET_MODES),
                    default=None,
                    help="who may connect to a dnstap socket, in quotes: the agent's user alone, its group "
                    'too, or every program of the host; "0660" where it is left out',
                ),
                Setting(
                    "senders",
                    ListOf(Sender(), most=MOST_SENDERS),
                    default=[],
                    help="the resolvers that may bring dnstap over TCP; may be left out on a loopback "
                    "address alone, where every program of the host may",
                ),
                checks=[
                    Check(("interface", "dnstap"), _one_of_both),
                    Check(("promiscuous", "dnstap"), _promiscuous_dnstap),
                    Check(("encapsulated", "dnstap"), _encapsulated_dnstap),
                    Check(("dnstap", "group", "mode", "senders"), _access),
                ],
            ),
            least=1,
            most=MOST_SOURCES,
        ),
        help="where packets or dnstap messages come from",
    ),
    Setting(
        "transactions.types",
        ListOf(OneOf(TRANSACTION_TYPES), least=1, most=len(TRANSACTION_TYPES)),
        default=list(TRANSACTION_TYPES),
        help="which transactions are recorded; those of the other types are counted as filtered",
    ),
    Setting(
        "transactions.keep_query_packets",
        Boolean(),
        default=False,
        help="whether the packets of queries are kept beside those of responses; their times always are",
    ),
    Setting(
        "transactions.query_timeout",
        Seconds(1, 3600),
        default=60,
        help="how long a query waits for its response before it is recorded as unanswered",
    ),
    Setting(
        "transactions.table_max",
        Integer(1024, 4194304),
        default=131072,
        help="how many queries may wait at once; beyond that the oldest is recorded as unanswered",
    ),
    Setting(
        "privacy.clear_resolver_address",
        Boolean(),
        default=False,
        help="whether the resolvers' own addresses are blanked before anything is written to disk",
    ),
    Setting(
        "privacy.local_zones",
        ListOf(Zone(), most=MOST_LOCAL_ZONES),
        default=[],
        help="zones that are kept out, with every name below them",
    ),
    Setting(
        "privacy.suppress_special_use",
        Boolean(),
        default=True,
        help="whether names without a place in the public DNS are kept out: special-use names, reverse "
        "zones of private addresses, single labels",
    ),
    Setting(
        "privacy.exclude_qname_regex",
        Pattern(),
        default=None,
        help="a regular expression, as the Rust crate `regex` has them; look-ups whose name, in lower case "
        "and without the final dot, it matches somewhere are kept out",
    ),
    Setting(
        "privacy.admit_private_responders",
        Boolean(),
        default=False,
        help="whether exchanges with servers at private, link-local or loopback addresses are recorded",
    ),
    Setting(
        "privacy.admit_every_address",
        Boolean(),
        default=False,
        help="whether resolvers may be so wide a prefix that the traffic of others is recorded too",
    ),
    Setting(
        "container.max_bytes",
        Octets(16 << 10, 1 << 20),
        default=limits.CONTAINER_BYTES,
        help="the size at which a container is sealed, before compression",
    ),
    Setting(
        "container.flush_interval",
        Seconds(0.1, 60),
        default=1.0,
        help="the age at which a container is sealed, whatever its size",
    ),
    Setting(
        "spool.directory",
        File(),
        default="/var/lib/sie-agent/spool",
        help="where containers are kept until the hub has acknowledged them",
    ),
    Setting(
        "spool.max_bytes",
        Octets(LEAST_SPOOL, 1 << 50),
        default=1 << 30,
        help="how much the spool may hold; beyond that the oldest containers are trimmed and counted",
    ),
    Setting(
        "spool.max_age",
        Seconds(60, 366 * 86400),
        default="7d",
        help="how long a container may wait in the spool; older ones are trimmed and counted",
    ),
    Setting(
        "uplink.hubs",
        ListOf(Url(("wss",)), most=16),
        default=[],
        help="the addresses of the hub, tried in this order",
    ),
    Setting(
        "uplink.drop",
        Drop(),
        default=None,
        help="in the place of hubs, where only SSH is let out: the account to which containers go as files",
    ),
    Setting(
        "uplink.known_hosts",
        File(),
        default="/etc/sie-agent/known_hosts",
        help="the host keys of the drop's server, as OpenSSH has them; no other key is trusted",
    ),
    Setting(
        "uplink.ca",
        File(),
        default="/etc/sie-agent/hub_ca.pem",
        help="the certificate of the authority that issued the hub's own; no other is trusted, but for "
        "successors of which the hub itself tells",
    ),
    Setting(
        "uplink.enrol",
        Url(("https",)),
        default=None,
        help="where `sie-agent identity enrol` and the renewal ask",
    ),
    Setting(
        "uplink.window",
        Integer(1, 1024),
        default=limits.WINDOW_PAYLOADS,
        help="how many containers may be on their way without an acknowledgement",
    ),
    Setting(
        "uplink.retry_min",
        Seconds(0.1, 60),
        default=1.0,
        help="the pause after a first failed connection; it doubles with every further one, with jitter",
    ),
    Setting(
        "uplink.retry_max", Seconds(1, 3600), default=60, help="the longest pause between two connections"
    ),
    Setting(
        "identity.directory",
        File(),
        default="/var/lib/sie-agent/identity",
        help="where this sensor's key and certificate are; the key is made there and never leaves it",
    ),
    Setting(
        "metrics.listen",
        Listen(loopback_only=True),
        default="127.0.0.1:9153",
        help="where /metrics (Prometheus) and /status (JSON) are served",
    ),
    checks=[
        Check(
            ("uplink.retry_min", "uplink.retry_max"),
            lambda least, most: (
                None if least <= most else f"{least:g} s is longer than uplink.retry_max, {most:g} s"
            ),
        ),
        Check(("uplink.hubs",), lambda hubs: _repeated("hub", hubs)),
        Check(("uplink.hubs", "uplink.drop"), _one_way_out),
        Check(("sources",), _each_once),
        Check(("resolvers",), lambda resolvers: _repeated("resolver", resolvers)),
        Check(("resolvers", "sources"), _resolvers_needed),
        Check(("resolvers", "privacy.admit_every_address"), _too_wide),
        Check(("transactions.types",), lambda types: _repeated("type", types)),
    ],
)


@dataclass(frozen=True)
class SourceConfig:
    """One network interface to listen on."""

    interface: str
    promiscuous: bool
    encapsulated: bool = False


@dataclass(frozen=True)
class DnstapConfig:
    """One endpoint where resolvers bring their dnstap."""

    endpoint: str
    """As sie_agent.config_kinds.Endpoint writes it."""
    group: str | None = None
    mode: int = 0o660
    senders: tuple[str, ...] = ()


FIXED: Final = (
    "participant",
    "sensor",
    "exchange",
    "channel",
    "sources",
    "spool.directory",
    "uplink.drop",
    "identity.directory",
    "metrics.listen",
)
"""Settings that a running agent cannot change: whose the stream is, and what is opened once, at the start."""


@dataclass(frozen=True)
class AgentConfig:
    """The configuration as the program uses it.

    Times in seconds, sizes in octets; `TABLE` says what each means.
    """

    participant: str
    sensor: str
    exchange: str
    channel: int
    resolvers: tuple[str, ...]
    """Addresses, prefixes and perhaps the word `host`: sie_agent.discovery makes addresses of it."""
    interfaces: tuple[SourceConfig, ...]
    dnstap: tuple[DnstapConfig, ...]
    query_timeout: float
    table_max: int
    transaction_types: tuple[str, ...]
    keep_query_packets: bool
    clear_resolver_address: bool
    local_zones: tuple[str, ...]
    suppress_special_use: bool
    exclude_qname_regex: str | None
    admit_private_responders: bool
    admit_every_address: bool
    container_bytes: int
    flush_interval: float
    spool_directory: Path
    spool_max_bytes: int
    spool_max_age: float
    hubs: tuple[str, ...]
    drop: DropAddress | None
    known_hosts: Path
    ca: Path
    enrol: str | None
    window: int
    retry_min: float
    retry_max: float
    identity_directory: Path
    metrics_listen: ListenAddress
    values: Config = field(compare=False, repr=False)
    """The same by the keys of `TABLE`."""

    def changed(self, other: "AgentConfig") -> list[str]:
        """The keys whose values differ."""
        return [key for key, value in self.values.items() if value != other.values[key]]

    @property
    def key(self) -> Path:
        """This sensor's private key."""
        return self.identity_directory / "key.pem"

    @property
    def certificate(self) -> Path:
        """This sensor's certificate."""
        return self.identity_directory / "certificate.pem"

    @property
    def window_bytes(self) -> int:
        """Octets that may be on their way.

        A quarter of the spool at most, so that trimming can spare what is.
        """
        return min(limits.WINDOW_BYTES, self.spool_max_bytes // 4)


def load_config(path: Path) -> AgentConfig:
    """Read the file; raises sie_core.errors.ConfigError with every mistake in it."""
    return _typed(load(path, TABLE))


def _typed(config: Config) -> AgentConfig:
    return AgentConfig(
        participant=config["participant"],
        sensor=config["sensor"],
        exchange=config["exchange"],
        channel=config["channel"],
        resolvers=config["resolvers"],
        interfaces=tuple(
            SourceConfig(item["interface"], item["promiscuous"], item["encapsulated"])
            for item in config["sources"]
            if item["interface"] is not None
        ),
        dnstap=tuple(
            DnstapConfig(
                item["dnstap"], item["group"], int(item["mode"] or SOCKET_MODES[1], 8), item["senders"]
            )
            for item in config["sources"]
            if item["dnstap"] is not None
        ),
        query_timeout=config["transactions.query_timeout"],
        table_max=config["transactions.table_max"],
        transaction_types=config["transactions.types"],
        keep_query_packets=config["transactions.keep_query_packets"],
        clear_resolver_address=config["privacy.clear_resolver_address"],
        local_zones=config["privacy.local_zones"],
        suppress_special_use=config["privacy.suppress_special_use"],
        exclude_qname_regex=config["privacy.exclude_qname_regex"],
        admit_private_responders=config["privacy.admit_private_responders"],
        admit_every_address=config["privacy.admit_every_address"],
        container_bytes=config["container.max_bytes"],
        flush_interval=config["container.flush_interval"],
        spool_directory=config["spool.directory"],
        spool_max_bytes=config["spool.max_bytes"],
        spool_max_age=config["spool.max_age"],
        hubs=config["uplink.hubs"],
        drop=config["uplink.drop"],
        known_hosts=config["uplink.known_hosts"],
        ca=config["uplink.ca"],
        enrol=config["uplink.enrol"],
        window=config["uplink.window"],
        retry_min=config["uplink.retry_min"],
        retry_max=config["uplink.retry_max"],
        identity_directory=config["identity.directory"],
        metrics_listen=config["metrics.listen"],
        values=config,
    )
