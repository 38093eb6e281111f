"""What `sie-agent diagnose` may find broken, in the order from capture to hub: the sensor's part of
docs/reference/failures.md.
"""

from typing import Final

from sie_core.diagnosis import Failure, by_slug

CONFIG_INVALID: Final = Failure(
    "config-invalid",
    "The agent's configuration is missing or has mistakes, so that it cannot start.",
    "Run `sie-agent check-config`, which lists every mistake, and configure_my_sensor again.",
)
AGENT_STOPPED: Final = Failure(
    "agent-stopped",
    "The agent does not run on this host.",
    "Run `systemctl start sie-agent` and read `journalctl -u sie-agent`; it must be enabled to start "
    "with the host.",
)
INTERFACE_DOWN: Final = Failure(
    "interface-down",
    "An interface that the agent listens on is missing, down, or cannot be opened.",
    "Bring it up (`ip link set NAME up`) or correct `sensor_interface`; the agent picks it up by itself.",
)
MIRROR_SILENT: Final = Failure(
    "mirror-silent",
    "The interface shows no DNS packet at all while the resolver looks names up.",
    "Have the switch mirror the resolver's port into this interface, both directions; look at cable and "
    "VLAN.",
)
RESOLVER_MISMATCH: Final = Failure(
    "resolver-mismatch",
    "DNS packets pass the interface, but none of them is from or to a listed resolver.",
    "List in `sensor_resolvers` every address from which the resolver asks (outgoing-interface, "
    "query-source).",
)
ONE_DIRECTION: Final = Failure(
    "one-direction",
    "The interface shows one direction of the resolver's traffic alone.",
    "Have the switch mirror ingress and egress, or give a tap's other leg in `sensor_more_interfaces`.",
)
DNSTAP_SILENT: Final = Failure(
    "dnstap-silent",
    "No resolver has brought anything of its own to the dnstap endpoints.",
    "Switch dnstap on in the resolver (docs/how-to/dnstap.md) and let its user open the socket.",
)
KERNEL_DROPS: Final = Failure(
    "kernel-drops",
    "More than one packet in a hundred found the ring between kernel and agent full.",
    "Give the host more processor time; look for what else loads it.",
)
FILTERED_RD: Final = Failure(
    "filtered-rd",
    "The resolver forwards: what it asks has RD=1, so nothing of it is recorded.",
    "Put the sensor at the resolver that asks authoritative servers itself, or switch forwarding off.",
)
FILTERED_LOCAL: Final = Failure(
    "filtered-local",
    "All that the resolver asks lies in zones that are kept out.",
    "Shorten `sensor_local_zones` and `sensor_exclude_qname_regex`, unless that is what you want.",
)
FILTERED_SCOPE: Final = Failure(
    "filtered-scope",
    "All servers that the resolver asks have private addresses, so nothing of it is recorded.",
    "Point the sensor at the resolver that asks the internet, or set `sensor_admit_private_responders`.",
)
FILTERED_OTHER: Final = Failure(
    "filtered-other",
    "Packets of the resolvers are seen, and a rule keeps all of them out.",
    "Read the counters in docs/reference/agent-metrics.md#outcomes, and `sie-agent explain` on a capture.",
)
SPOOL_UNUSABLE: Final = Failure(
    "spool-unusable",
    "The spool cannot be read.",
    "Look at the disk and at the owner of the spool's directory; `journalctl -u sie-agent` says what it met.",
)
DISK_FULL: Final = Failure(
    "disk-full",
    "The disk of the spool has no room, so that what is captured is lost.",
    "Make room on that file system, or lower `sensor_spool_max_bytes` below what it can hold.",
)
SPOOL_TRIMMED: Final = Failure(
    "spool-trimmed",
    "The spool is full, and the oldest transactions are trimmed before the hub has them.",
    "Mend the way to the hub, which is what fills it, or raise `sensor_spool_max_bytes`.",
)
CERTIFICATE_NONE: Final = Failure(
    "certificate-none",
    "This sensor has no certificate.",
    "Run configure_my_sensor with the file of tokens, or `sie-agent identity enrol --token-file FILE`.",
)
CERTIFICATE_EXPIRED: Final = Failure(
    "certificate-expired",
    "This sensor's certificate has expired or is not valid yet.",
    "Set the host's clock; within the grace `sie-agent identity renew` does it, afterwards enrol with a "
    "new token.",
)
CERTIFICATE_WRONG: Final = Failure(
    "certificate-wrong",
    "This sensor's certificate is not one for this sensor of this exchange.",
    "Enrol again with a new token: `sie-agent identity enrol --force --token-file FILE`.",
)
RENEWAL_FAILING: Final = Failure(
    "renewal-failing",
    "The certificate ends soon and could not be renewed.",
    "Let TCP to the hub's enrolment port out, and try `sie-agent identity renew`, which says why it fails.",
)
HUB_NAME: Final = Failure(
    "hub-name",
    "The hub's name has no address on this host.",
    "Mend the host's own name service (resolv.conf), or list the hub by its address.",
)
HUB_UNREACHABLE: Final = Failure(
    "hub-unreachable",
    "No connection to the hub can be made.",
    "Let TCP to the hub's port out through your firewall, or set the proxy; ask the hub's operator if "
    "it is up.",
)
CLOCK_WRONG: Final = Failure(
    "clock-wrong",
    "This host's clock differs from the hub's by more than a minute.",
    "Set the clock and keep it right with chrony or systemd-timesyncd.",
)
TLS_FAILED: Final = Failure(
    "tls-failed",
    "The TLS handshake with the hub fails.",
    "Compare `uplink.ca` with the bundle, take a new bundle if the hub's CA was replaced, and let no "
    "middlebox open TLS.",
)
HUB_REVOKED: Final = Failure(
    "hub-revoked",
    "The hub has revoked this sensor, its certificate or its key.",
    "Ask the hub's operator why; with their consent make a new key and enrol with a new token.",
)
HUB_AGREEMENT: Final = Failure(
    "hub-agreement",
    "The participant's agreement with the exchange is not in force.",
    "Renew the agreement with the hub's operator; the sensor then goes on by itself.",
)
HUB_UNREGISTERED: Final = Failure(
    "hub-unregistered",
    "The hub does not know this sensor.",
    "Ask the hub's operator to register it under exactly this name (onboard_participant).",
)
HUB_REFUSES: Final = Failure(
    "hub-refuses",
    "The hub refuses this sensor.",
    "The evidence holds the hub's own words: give them to its operator.",
)
HUB_STRANGE: Final = Failure(
    "hub-strange",
    "What answers at the hub's address does not answer as a hub.",
    "Correct `sensor_uplink_hubs`; a proxy or another server may stand at that port.",
)
NOT_ACKNOWLEDGED: Final = Failure(
    "not-acknowledged",
    "Transactions wait in the spool and the hub acknowledges none of them.",
    "Nothing is lost meanwhile; ask the hub's operator to run `sie-hub diagnose`: its message server or "
    "its disk.",
)
STREAM_CONFLICT: Final = Failure(
    "stream-conflict",
    "The hub knew more of this sensor's stream than its spool: a copy of the host, or a restored spool.",
    "See that no clone of this host runs with the same identity; if one did, enrol it under a name of "
    "its own.",
)
PROBE_MISSING: Final = Failure(
    "probe-missing",
    "A look-up made just now was acknowledged, and the hub has not refined it.",
    "Ask the hub's operator to run `sie-hub diagnose`: refine may be behind.",
)

FAILURES: Final = by_slug(value for value in dict(globals()).values() if isinstance(value, Failure))
"""All of them, by slug, in their order."""
