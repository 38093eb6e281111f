#!/usr/bin/python
# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: sensor_info
short_description: Say how a sensor is, without any DNS data
version_added: 0.1.0
description:
  - Asks C(sie-agent) for its version, its certificate and its status. Changes nothing.
  - A sensor that is not installed, not configured or not running is an answer, not a failure. What the program refused to say stands in
    RV(problems).
  - What is returned holds names of the participant, of the sensor and of interfaces, addresses of the hub, and numbers. No name that
    anybody looked up, no resolver's address and no key is among it.
author:
  - The sie-fleet maintainers (!UNKNOWN)
options:
  config:
    description: The agent's configuration.
    type: path
    default: /etc/sie-agent/agent.yml
  program:
    description: The agent.
    type: path
    default: /opt/sie/sie-agent/bin/sie-agent
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
- name: Ask the sensors how they are
  sie_europe.passive_dns.sensor_info:
  register: sensor

- name: Name those that the hub does not hear
  ansible.builtin.assert:
    that: sensor.uplink.state == 'connected'
    fail_msg: "{{ inventory_hostname }}: {{ sensor.uplink.last_error }}"
"""

RETURN = r"""
installed:
  description: Whether the program is there and runs.
  type: bool
  returned: success
version:
  description: What C(sie-agent --version) says; none if the program is not there.
  type: str
  returned: success
  sample: sie-agent 0.1.0 (build 0123456789ab)
configured:
  description: Whether there is a configuration.
  type: bool
  returned: success
running:
  description: Whether an agent answered.
  type: bool
  returned: success
problems:
  description: What the program said in the place of an answer, a sentence each.
  type: list
  elements: str
  returned: success
  sample: []
identity:
  description: The certificate, as M(sie_europe.passive_dns.sensor_identity) returns it; none if it is not known.
  type: dict
  returned: success
uplink:
  description: How the agent and the hub are connected; none if the status is not known.
  type: dict
  returned: success
  sample:
    state: connected
    hub: wss://192.0.2.10:8443
    last_error: null
    sessions: 1
    in_flight: 0
renewal:
  description:
    - Which certificate the running agent shows, and what renewing it came to since the start; none if the status is not known.
    - C(not_after) is in seconds since 1970.
  type: dict
  returned: success
  sample: {serial: 3fa9c1, not_after: 1780000000.0, renewed: 1, refused: 0, failed: 0, last_error: null}
spool:
  description: What waits on disk for the hub; none if the status is not known.
  type: dict
  returned: success
  sample:
    stream: 0123456789abcdef
    pending_containers: 0
    pending_octets: 0
accounting:
  description:
    - What became of what was captured, in transactions; none if the status is not known.
    - C(captured) is the sum of C(acknowledged), C(pending) and C(trimmed), over the life of the spool. C(lost) never reached it, and
      C(kernel_drops) are packets, both since the agent started.
  type: dict
  returned: success
  sample:
    captured: 4711
    acknowledged: 4700
    pending: 11
    trimmed: 0
    trimmed_by: {full: 0, expired: 0, unreadable: 0}
    lost: {queue: 0, disk: 0}
    kernel_drops: 0
sources:
  description: The interfaces that are captured on, each with C(interface), C(up), C(failures), C(kernel_drops) and C(last_error).
  type: list
  elements: dict
  returned: success
  sample: []
counters:
  description: The recorder's counters since the agent started, empty if none runs.
  type: dict
  returned: success
  sample: {}
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sie_europe.passive_dns.plugins.module_utils import _program

# Of the status document only what is named here is passed on, so that nothing new slips out with it.
UPLINK = ("state", "hub", "last_error", "attempts", "sessions", "refusals", "failures", "stream_conflicts")
RENEWAL = ("serial", "not_after", "renewed", "refused", "failed", "last_error")
SPOOL = ("stream", "pending_containers", "pending_octets")
ACCOUNTING = ("captured", "acknowledged", "pending", "trimmed", "trimmed_by", "lost", "kernel_drops")
SOURCE = ("interface", "up", "failures", "kernel_drops", "last_error")


def some(document, names):
    """The members of a document that are named and there."""
    return {name: document[name] for name in names if name in document}


def described(status):
    """What is passed on of a status document."""
    return dict(
        running=status["running"],
        uplink=dict(some(status["uplink"], UPLINK), in_flight=status["in_flight"]),
        renewal=some(status["identity"], RENEWAL),
        spool=some(status, SPOOL),
        accounting=some(status, ACCOUNTING),
        sources=[some(source, SOURCE) for source in status["sources"]],
        counters=status["counters"],
    )


def answered(problems, question):
    """What a question gives; None, and the reason among `problems`, if it is refused."""
    try:
        return question()
    except _program.ProgramError as error:
        problems.append(str(error))
        return None


def info(agent):
    """Everything that a sensor says of itself."""
    problems = []
    version = answered(problems, lambda: agent.say("--version")) if os.path.exists(agent.path) else None
    found = dict(
        installed=version is not None,
        version=version and version.strip(),
        configured=os.path.exists(agent.config),
        running=False,
        identity=None,
        uplink=None,
        renewal=None,
        spool=None,
        accounting=None,
        sources=[],
        counters={},
        problems=problems,
    )
    if found["installed"] and found["configured"]:
        found["identity"] = answered(problems, lambda: agent.ask("identity", "show", "--json"))
        status = answered(problems, lambda: agent.ask("status", "--json"))
        found.update(described(status) if status is not None else {})
    return found


def main():
    module = AnsibleModule(
        argument_spec=dict(
            config=dict(type="path", default=_program.AGENT_CONFIG),
            program=dict(type="path", default=_program.AGENT),
        ),
        supports_check_mode=True,
    )
    agent = _program.Program(module.run_command, module.params["program"], module.params["config"])
    module.exit_json(changed=False, **info(agent))


if __name__ == "__main__":
    main()
