#!/usr/bin/python
# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: wait_for_observation
short_description: Wait until the hub has what a sensor observed
version_added: 0.1.0
description:
  - Asks C(sie-agent status) until the hub has acknowledged as many more transactions as wanted, which it does when they are on its disk.
  - Changes nothing, and does not itself make the resolver ask anybody.
author:
  - The sie-fleet maintainers (!UNKNOWN)
options:
  since:
    description:
      - How many transactions the hub had acknowledged before, from RV(acknowledged) of an earlier task or from
        M(sie_europe.passive_dns.sensor_info).
      - Without it, how many it has when this task begins. What came between would then be missed, so give it wherever something
        is to be observed that was made on purpose.
    type: int
  more:
    description: For how many transactions more to wait. V(0) answers at once.
    type: int
    default: 1
  timeout:
    description: How long to wait, in seconds.
    type: float
    default: 60.0
  interval:
    description: The pause between two questions, in seconds.
    type: float
    default: 1.0
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
    description: Answers at once with the present numbers, for what it would wait for is not done in check mode.
    support: full
  diff_mode:
    description: Has nothing to show, for it changes nothing.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Read what the hub has
  sie_europe.passive_dns.wait_for_observation:
    more: 0
  register: before

- name: Make the resolver ask an authoritative server
  ansible.builtin.command: dig @192.0.2.53 probe-{{ 1000000 | random }}.probe.exchange.example
  changed_when: false

- name: Wait until the hub has it
  sie_europe.passive_dns.wait_for_observation:
    since: "{{ before.acknowledged }}"
    timeout: 30
"""

RETURN = r"""
acknowledged:
  description: How many transactions the hub has acknowledged, over the life of the spool.
  type: int
  returned: always, if the agent answered
  sample: 4711
captured:
  description: How many transactions were captured, over the life of the spool.
  type: int
  returned: always, if the agent answered
  sample: 4711
observed:
  description: How many transactions the hub has acknowledged since O(since).
  type: int
  returned: always, if the agent answered
  sample: 1
uplink:
  description: State of the uplink and its last error.
  type: dict
  returned: always, if the agent answered
  sample: {state: connected, last_error: null}
waited:
  description: For how long, in seconds.
  type: float
  returned: always, if the agent answered
  sample: 2.0
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sie_europe.passive_dns.plugins.module_utils import _program


def result(status, since, waited):
    """What is returned for a status document."""
    return dict(
        acknowledged=status["acknowledged"],
        captured=status["captured"],
        observed=status["acknowledged"] - since,
        uplink={name: status["uplink"][name] for name in ("state", "last_error")},
        waited=round(waited, 1),
    )


def complaint(status, since, more, waited):
    """Why what was waited for has not come, in one sentence with its numbers."""
    return (
        "The hub acknowledged %d transactions of %s in %.0f seconds and %d were waited for; captured %d, %s; uplink %s, %s."
        % (
            status["acknowledged"] - since,
            status["sensor"],
            waited,
            more,
            status["captured"],
            "the agent runs" if status["running"] else "the agent does not run",
            status["uplink"]["state"],
            status["uplink"]["last_error"] or "no error",
        )
    )


def main():
    module = AnsibleModule(
        argument_spec=dict(
            since=dict(type="int"),
            more=dict(type="int", default=1),
            timeout=dict(type="float", default=60.0),
            interval=dict(type="float", default=1.0),
            config=dict(type="path", default=_program.AGENT_CONFIG),
            program=dict(type="path", default=_program.AGENT),
        ),
        supports_check_mode=True,
    )
    agent = _program.Program(module.run_command, module.params["program"], module.params["config"])
    more = module.params["more"]
    began = time.monotonic()
    try:
        status = agent.ask("status", "--json")
        since = status["acknowledged"] if module.params["since"] is None else module.params["since"]
        while not module.check_mode and status["acknowledged"] - since < more:
            waited = time.monotonic() - began
            if waited >= module.params["timeout"]:
                module.fail_json(msg=complaint(status, since, more, waited), **result(status, since, waited))
            time.sleep(module.params["interval"])
            status = agent.ask("status", "--json")
    except _program.ProgramError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result(status, since, time.monotonic() - began))


if __name__ == "__main__":
    main()
