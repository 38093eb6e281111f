#!/usr/bin/python
# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: resolver_info
short_description: Say where the resolvers of a host ask
version_added: 0.1.0
description:
  - Reads the configurations of Unbound, BIND and PowerDNS Recursor, where they are installed, and says whether each asks authoritative servers
    or forwards to another resolver. Of a forwarder a sensor records nothing, for it asks as clients do.
  - Changes nothing. Run it as root; configurations may be readable by their owners alone.
author:
  - The sie-fleet maintainers (!UNKNOWN)
options: {}
attributes:
  check_mode:
    description: Can run in check mode and return the same as otherwise.
    support: full
  diff_mode:
    description: Has nothing to show, for it changes nothing.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Look at the resolvers
  sie_europe.passive_dns.resolver_info:
  register: found

- name: Say which of them a sensor would see nothing of
  ansible.builtin.debug:
    msg: "{{ item.name }} {{ item.unseen }}"
  loop: "{{ found.resolvers | selectattr('unseen') }}"
"""

RETURN = r"""
resolvers:
  description: The resolvers that are installed.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: V(unbound), V(bind) or V(pdns_recursor).
      type: str
      returned: always
    unit:
      description: Its unit.
      type: str
      returned: always
    running:
      description: Whether the unit is active.
      type: bool
      returned: always
    config:
      description: Its configuration.
      type: str
      returned: always
    recursive:
      description: Whether it resolves names at all.
      type: bool
      returned: always
    forwards:
      description: What it forwards, each with C(zone), C(servers) and C(tls).
      type: list
      elements: dict
      returned: always
    unseen:
      description: Why a sensor would record nothing of it, in a clause; none if it would.
      type: str
      returned: always
    problem:
      description: Why its configuration was not understood; none if it was.
      type: str
      returned: always
  sample:
    - name: unbound
      unit: unbound.service
      running: true
      config: /etc/unbound/unbound.conf
      recursive: true
      forwards: [{zone: corp.example, servers: [192.0.2.1], tls: false}]
      unseen: null
      problem: null
"""

import glob
import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sie_europe.passive_dns.plugins.module_utils import _upstream

try:
    import yaml
except ImportError:
    yaml = None

SBIN = ["/usr/sbin", "/usr/local/sbin", "/sbin"]
BIND_CONFIGS = ("/etc/bind/named.conf", "/etc/named.conf", "/usr/local/etc/namedb/named.conf")
RECURSOR_CONFIGS = tuple(
    os.path.join(folder, name)
    for folder in ("/etc/powerdns", "/etc/pdns-recursor", "/usr/local/etc/pdns")
    for name in ("recursor.yml", "recursor.conf")
)


class NotUnderstood(Exception):
    """A configuration that says nothing for certain: why, in a clause."""


def read(path):
    """The text of a file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def included(pattern):
    """The texts of the files that a pattern names, in order."""
    return [read(path) for path in sorted(glob.glob(pattern)) if os.path.isfile(path)]


def first(paths):
    """The first of the paths that is there, None if none is."""
    return next((path for path in paths if os.path.exists(path)), None)


class Host:
    """The resolvers of this host. Each method gives the path of a configuration and how to read it, None if there is none."""

    def __init__(self, module):
        self._module = module

    def unbound(self):
        """By what unbound-checkconf says it has checked."""
        checker = self._program("unbound-checkconf")
        if checker is None:
            return None
        _code, output, complaint = self._module.run_command([checker])
        named = re.search(r"no errors in (\S+)", output)
        if named is None:
            raise NotUnderstood(
                "unbound-checkconf is not content with it: %s" % last_line(output + complaint)
            )
        return named.group(1), lambda: _upstream.unbound(read(named.group(1)), included)

    def bind(self):
        """By what named-checkconf prints of the configuration that it takes by itself."""
        checker = self._program("named-checkconf")
        if checker is None:
            return None
        code, output, complaint = self._module.run_command([checker, "-p"])
        if code != 0:
            raise NotUnderstood("named-checkconf is not content with it: %s" % last_line(output + complaint))
        return first(BIND_CONFIGS) or "named.conf", lambda: _upstream.bind(output)

    def pdns_recursor(self):
        """By its files."""
        path = first(RECURSOR_CONFIGS)
        if self._program("pdns_recursor") is None or path is None:
            return None
        return path, lambda: recursor(read(path))

    def runs(self, unit):
        """Whether a unit is active."""
        systemctl = self._program("systemctl")
        return (
            systemctl is not None
            and self._module.run_command([systemctl, "is-active", "--quiet", unit])[0] == 0
        )

    def _program(self, name):
        return self._module.get_bin_path(name, required=False, opt_dirs=SBIN)


def last_line(text):
    """The last line of what a program said."""
    return (text.strip().splitlines() or ["it says nothing"])[-1]


def recursor(text):
    """The Recursor's upstream, whichever of its two forms the configuration has."""
    if not re.search(r"^(recursor|outgoing|incoming|dnssec|logging):", text, re.MULTILINE):
        return _upstream.recursor(text, included)
    if yaml is None:
        raise NotUnderstood("it is YAML, which only Python's module yaml reads (Debian: python3-yaml)")
    try:
        return _upstream.recursor_document(yaml.safe_load(text))
    except yaml.YAMLError:
        raise NotUnderstood("it is no YAML that can be read") from None


UNITS = {"unbound": "unbound.service", "bind": "named.service", "pdns_recursor": "pdns-recursor.service"}


def described(host, name):
    """What is known of one resolver, None if it is not installed."""
    result = dict(
        name=name, unit=UNITS[name], config=None, recursive=True, forwards=[], unseen=None, problem=None
    )
    try:
        found = getattr(host, name)()
        if found is None:
            return None
        result["config"] = found[0]
        upstream = found[1]()
    except (NotUnderstood, OSError) as error:
        result["problem"] = str(error)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        result["problem"] = "it is written otherwise than this collection reads it"
    else:
        result["recursive"] = upstream.recursive
        result["forwards"] = [forward._asdict() for forward in upstream.forwards]
        result["unseen"] = upstream.unseen()
    result["running"] = host.runs(UNITS[name])
    return result


def main():
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    host = Host(module)
    found = [described(host, name) for name in UNITS]
    module.exit_json(changed=False, resolvers=[one for one in found if one is not None])


if __name__ == "__main__":
    main()
