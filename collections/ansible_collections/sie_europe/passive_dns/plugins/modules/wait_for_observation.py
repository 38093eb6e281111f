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
  - With O(nonce) it lets C(sie-agent probe) ask the hub itself, over the sensor's own certificate and without any reader's key, whether it
    has received one look-up.
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
  nonce:
    description:
      - Wait for this probe in the place of a number of transactions. 32 hexadecimal digits, of which somebody has the resolver look up the
        name below the exchange's probe zone.
      - Fails where the hub has no probe zone, and where containers go as files over SSH, since such a sensor has no certificate to ask with.
    type: str
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

- name: Make up a name that nobody has looked up before
  ansible.builtin.set_fact:
    nonce: "{{ lookup('ansible.builtin.password', '/dev/null', length=32, chars=['abcdef', 'digits']) }}"

- name: Look it up from the host of a client
  ansible.builtin.command: dig @192.0.2.53 {{ nonce }}.probe.exchange.example
  changed_when: false
  delegate_to: client.example

- name: Wait until the hub has received just that
  sie_europe.passive_dns.wait_for_observation:
    nonce: "{{ nonce }}"
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
probe:
  description: What became of O(nonce) - outcome, a sentence, and the stages that it has reached with the seconds until then.
  type: dict
  returned: with O(nonce), if the agent answered
  sample:
    outcome: received
    sentence: the hub has received what this sensor captured of the look-up, question and answer
    stages: {received: {seconds: 3.2, text: "udp query response, answered 12 ms after it was asked"}}
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

import re
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


RECEIVED = 0
NOT_RECEIVED = 3
UNPROVABLE = 1
NONCE = re.compile("[0-9a-f]{32}$")


def probed(agent, nonce, timeout):
    """What the hub says of a probe. Raises ProgramError."""
    words = ("probe", "--json", "--nonce", nonce, "--timeout", str(timeout))
    proof = agent.ask(*words, answers=(RECEIVED, NOT_RECEIVED, UNPROVABLE))
    return {name: proof[name] for name in ("outcome", "sentence", "stages")}


def main():
    module = AnsibleModule(
        argument_spec=dict(
            since=dict(type="int"),
            more=dict(type="int", default=1),
            nonce=dict(type="str", no_log=False),
            timeout=dict(type="float", default=60.0),
            interval=dict(type="float", default=1.0),
            config=dict(type="path", default=_program.AGENT_CONFIG),
            program=dict(type="path", default=_program.AGENT),
        ),
        supports_check_mode=True,
    )
    agent = _program.Program(module.run_command, module.params["program"], module.params["config"])
    nonce = module.params["nonce"]
    if nonce is not None and not NONCE.match(nonce):
        module.fail_json(msg="nonce is %s; it is 32 hexadecimal digits in lower case." % nonce)
    more = 0 if nonce is not None else module.params["more"]
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
        told = {}
        if nonce is not None and not module.check_mode:
            told["probe"] = probed(agent, nonce, module.params["timeout"])
            status = agent.ask("status", "--json")
    except _program.ProgramError as error:
        module.fail_json(msg=str(error))
    told.update(result(status, since, time.monotonic() - began))
    if "probe" in told and told["probe"]["outcome"] != "received":
        module.fail_json(msg="%s: %s." % (status["sensor"], told["probe"]["sentence"]), **told)
    module.exit_json(changed=False, **told)


if __name__ == "__main__":
    main()
