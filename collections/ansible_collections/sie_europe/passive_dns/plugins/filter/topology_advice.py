# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
name: topology_advice
short_description: Say where a participant's sensors belong, from a few answers
version_added: 0.1.0
description:
  - Turns answers about a participant's resolvers and network into a vantage point, an uplink, a number of sensors and sentences that say
    why. Changes nothing and asks nobody.
author:
  - The sie-fleet maintainers (!UNKNOWN)
positional: _input
options:
  _input:
    description:
      - The answers. C(resolver_hosts) (a number, 1 if left out) are hosts with a resolver that asks authoritative servers.
        C(install_on_resolvers) (true if left out) says whether a program may be installed there, C(dnstap_possible) whether the resolvers are
        built with dnstap, C(span_available) whether a switch can copy their traffic. C(forwarders) says that resolvers forward to others,
        C(encrypted_upstream) that they ask over TLS. C(egress) is the way out of the hosts, one of C(https), C(proxy) and C(ssh).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say where the sensors belong
  ansible.builtin.debug:
    msg: "{{ ({'resolver_hosts': 2, 'dnstap_possible': true, 'egress': 'proxy'} | sie_europe.passive_dns.topology_advice).sentences }}"
"""

RETURN = r"""
_value:
  description:
    - C(vantage) (C(onhost), C(span), C(dnstap), or empty where nothing could be recorded), C(uplink) (C(trampoline) or C(sftp)), C(sensors)
      (their number) and C(sentences).
  type: dict
"""

from ansible.errors import AnsibleFilterError

DEFAULTS = {
    "resolver_hosts": 1,
    "install_on_resolvers": True,
    "dnstap_possible": False,
    "span_available": False,
    "forwarders": False,
    "encrypted_upstream": False,
    "egress": "https",
}

UPLINKS = {
    "https": (
        "trampoline",
        "The sensors' hosts reach the hub by themselves: let TCP out to the hub's ports for enrolment and delivery, nothing else.",
    ),
    "proxy": (
        "trampoline",
        "The sensors' hosts go out by a proxy: name it in sensor_uplink_proxy; it must permit CONNECT to the hub's two ports and "
        "leave TLS untouched.",
    ),
    "ssh": (
        "sftp",
        "Only SSH goes out: set sensor_uplink to sftp, and give the sensors an account in the hub's drop. Such a sensor needs no "
        "certificate.",
    ),
}

NOTHING = "Nothing can be recorded there: "


def checked(answers):
    """The answers with the defaults of those left out. AnsibleFilterError names what nobody asked for."""
    strange = sorted(set(answers) - set(DEFAULTS))
    if strange:
        raise AnsibleFilterError(
            "topology_advice knows no answer %s; it asks for %s" % (", ".join(strange), ", ".join(DEFAULTS))
        )
    known = {**DEFAULTS, **answers}
    if known["egress"] not in UPLINKS:
        raise AnsibleFilterError("egress is %r; it is one of %s" % (known["egress"], ", ".join(UPLINKS)))
    hosts = known["resolver_hosts"]
    if not isinstance(hosts, int) or isinstance(hosts, bool) or hosts < 0:
        raise AnsibleFilterError("resolver_hosts is %r; it is a number of hosts, from 0" % (hosts,))
    for name, default in DEFAULTS.items():
        if isinstance(default, bool) and not isinstance(known[name], bool):
            raise AnsibleFilterError("%s is %r; it is true or false" % (name, known[name]))
    return known


def obstacles(known):
    """Sentences about resolvers of which a sensor would see nothing."""
    found = []
    if known["forwarders"]:
        found.append(
            "Resolvers that forward ask no authoritative server, and a sensor there sends nothing: it belongs to the resolver that "
            "they forward to. They are not counted here."
        )
    if known["resolver_hosts"] == 0:
        found.append(NOTHING + "no host with a resolver that asks authoritative servers itself is left.")
    elif known["encrypted_upstream"]:
        found.append(
            NOTHING
            + "resolvers that ask over TLS are read neither on the wire nor by dnstap; have them ask port 53 or leave them out."
        )
    return found


def vantage_of(known):
    """(vantage point, number of sensors, sentence) where something can be recorded."""
    hosts = known["resolver_hosts"]
    each = (
        "one sensor on the resolver's host"
        if hosts == 1
        else "one sensor on each of the %d resolver hosts" % hosts
    )
    if known["install_on_resolvers"] and known["dnstap_possible"]:
        return (
            "dnstap",
            hosts,
            "Let the resolvers bring their dnstap, %s: it needs no privilege and no mirror, and knows which zone was asked. Set "
            "sensor_vantage to dnstap." % each,
        )
    if known["install_on_resolvers"]:
        return (
            "onhost",
            hosts,
            "Put %s, on the interface that asks the internet: nothing of the network is changed. Set sensor_vantage to onhost."
            % each,
        )
    if known["span_available"]:
        return (
            "span",
            1,
            "Put one sensor on a host of its own at the SPAN port, with an interface without address that gets both directions of every "
            "resolver's traffic with the internet. Set sensor_vantage to span, and list every resolver's addresses.",
        )
    return (
        "",
        0,
        NOTHING
        + "no program may be installed on the resolvers and no switch copies their traffic. Ask for one of the two, or for a tap.",
    )


def topology_advice(answers):
    """The advice; {} without answers."""
    if not answers:
        return {}
    known = checked(answers)
    sentences = obstacles(known)
    if any(sentence.startswith(NOTHING) for sentence in sentences):
        return {"vantage": "", "uplink": "", "sensors": 0, "sentences": sentences}
    vantage, sensors, where = vantage_of(known)
    if not vantage:
        return {"vantage": "", "uplink": "", "sensors": 0, "sentences": sentences + [where]}
    uplink, way = UPLINKS[known["egress"]]
    return {"vantage": vantage, "uplink": uplink, "sensors": sensors, "sentences": sentences + [where, way]}


class FilterModule:
    """What Ansible finds in this file."""

    def filters(self):
        return {"topology_advice": topology_advice}
