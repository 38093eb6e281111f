#!/usr/bin/python
# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: sensor_identity
short_description: Obtain, renew and carry by hand a sensor's key and certificate
version_added: 0.1.0
description:
  - Runs C(sie-agent identity) on the sensor. The key is made there and never leaves it; what this module returns can be shown
    to anybody.
  - Run it as root or as the agent's user; what root makes is left to the owner of the identity's folder.
author:
  - The sie-fleet maintainers (!UNKNOWN)
options:
  state:
    description:
      - V(present) enrols with a one-time token unless a valid certificate is there.
      - V(renewed) obtains the next certificate by the one that is there, for a new key. A running agent takes it up within
        seconds, and renews by itself in time; O(renew_before) makes this state idempotent.
      - V(csr) returns a certificate request for people to carry to the hub's operator, for a key that is made on the sensor and waits.
      - V(installed) puts the certificate in place that they bring back.
    type: str
    choices: [present, renewed, csr, installed]
    default: present
  token:
    description: The one-time token for this sensor. Needed for O(state=present) while there is no valid certificate.
    type: str
  token_file:
    description: A file on the sensor that holds the token, in the place of O(token).
    type: path
  force:
    description: Whether O(state=present) enrols with a new key although a valid certificate is there.
    type: bool
    default: false
  renew_before:
    description:
      - O(state=renewed) leaves alone a certificate that has more than this many days left.
      - Without it the certificate is renewed every time.
    type: float
  certificate:
    description: What came back from the hub's operator, in PEM, for O(state=installed).
    type: str
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
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows which key and certificate the sensor has before and after.
    support: full
  idempotent:
    description: Changes nothing the second time.
    support: partial
    details:
      - O(state=renewed) without O(renew_before), and O(force), make a new key each time.
"""

EXAMPLES = r"""
- name: Enrol with the token that came encrypted
  sie_europe.passive_dns.sensor_identity:
    token: "{{ sensor_enrol_tokens[inventory_hostname] }}"
  register: enrolled

- name: Show the key, to be compared with what the hub's operator sees
  ansible.builtin.debug:
    msg: "{{ enrolled.fingerprint }}"

- name: Replace the key because it may have been seen
  sie_europe.passive_dns.sensor_identity:
    state: renewed

- name: Renew what the agent should have renewed by itself
  sie_europe.passive_dns.sensor_identity:
    state: renewed
    renew_before: 5

# Where a host may not ask the hub by itself, people carry two files; neither is a secret.
- name: Ask for a certificate
  sie_europe.passive_dns.sensor_identity:
    state: csr
  register: asked

- name: Write the request for the hub's operator
  ansible.builtin.copy:
    content: "{{ asked.request }}"
    dest: ns1.csr
    mode: "0644"
  delegate_to: localhost

- name: Put the certificate in place that came back
  sie_europe.passive_dns.sensor_identity:
    state: installed
    certificate: "{{ lookup('ansible.builtin.file', 'ns1.pem') }}"
"""

RETURN = r"""
identity:
  description: Whose the certificate is and how it stands; in check mode as it was before.
  type: dict
  returned: success
  contains:
    exchange:
      description: The exchange.
      type: str
      returned: always
    participant:
      description: The participant.
      type: str
      returned: always
    sensor:
      description: The sensor.
      type: str
      returned: always
    state:
      description: V(valid), V(none), or why the hub would refuse the certificate.
      type: str
      returned: always
    text:
      description: What is wrong, in a sentence; none if nothing is.
      type: str
      returned: always
    not_before:
      description: Since when the certificate is valid.
      type: str
      returned: always
    pending:
      description: Whether a key waits for its certificate.
      type: bool
      returned: always
  sample:
    exchange: exchange.example
    participant: isp_a
    sensor: ns1
    state: valid
    text: null
    fingerprint: SHA256:0123456789abcdefghijklmnopqrstuvwxyzABCDEFG
    serial: 3fa9c1
    not_before: "2026-11-01T09:30:00+00:00"
    not_after: "2026-12-01T09:30:00+00:00"
    pending: false
fingerprint:
  description: Fingerprint of the sensor's key, none if there is none.
  type: str
  returned: success
  sample: SHA256:0123456789abcdefghijklmnopqrstuvwxyzABCDEFG
serial:
  description: Serial number of the certificate, none if there is no valid one.
  type: str
  returned: success
  sample: 3fa9c1
not_after:
  description: End of the certificate, none if there is no valid one.
  type: str
  returned: success
  sample: "2026-12-01T09:30:00+00:00"
request:
  description: The certificate request, in PEM.
  type: str
  returned: with O(state=csr), except in check mode
  sample: "-----BEGIN CERTIFICATE REQUEST-----..."
"""

import os
import tempfile
from datetime import datetime, timedelta, timezone

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sie_europe.passive_dns.plugins.module_utils import _program


def shown(identity):
    """What a diff says of an identity."""
    return "".join(
        "%s: %s\n" % (name, identity[name]) for name in ("state", "fingerprint", "serial", "not_after")
    )


def due(identity, days, now):
    """Whether a certificate has no more than `days` left; without a number it always is."""
    if days is None or identity["not_after"] is None:
        return True
    return datetime.fromisoformat(identity["not_after"]) - now <= timedelta(days=days)


class Sensor:
    """`sie-agent identity` with the arguments of a task."""

    def __init__(self, module):
        self._params = module.params
        self._check = module.check_mode
        self._folder = module.tmpdir
        self._agent = _program.Program(module.run_command, module.params["program"], module.params["config"])

    def identity(self):
        """How the identity stands."""
        return self._agent.ask("identity", "show", "--json")

    def present(self, before):
        """Enrol, unless there is nothing to do; whether there was, and what else to return."""
        force = self._params["force"]
        if before["state"] == "valid" and not force:
            return False, {}
        if self._params["token"] is None and self._params["token_file"] is None:
            raise _program.ProgramError(
                "%s/%s has no valid certificate and no token is given for it: ask the hub's operator for one"
                % (before["participant"], before["sensor"])
            )
        if self._check:
            return True, {}
        words = ["identity", "enrol", "--json"] + (["--force"] if force else [])
        if self._params["token"] is None:
            return self._agent.ask(*words, "--token-file", self._params["token_file"])["changed"], {}
        return self._with_file(self._params["token"], words + ["--token-file"])["changed"], {}

    def renewed(self, before):
        """Renew, if it is time."""
        if not due(before, self._params["renew_before"], datetime.now(timezone.utc)):
            return False, {}
        if before["fingerprint"] is None:
            raise _program.ProgramError(
                "%s/%s has no certificate to renew: enrol with a token first"
                % (before["participant"], before["sensor"])
            )
        if not self._check:
            self._agent.ask("identity", "renew", "--json")
        return True, {}

    def csr(self, before):
        """Return a request for the key that waits, or for one that is made now."""
        if self._check:
            return not before["pending"], {}
        return not before["pending"], {"request": self._agent.ask("identity", "csr", "--json")["request"]}

    def installed(self, _before):
        """Put a certificate in place, unless it is there."""
        words = ["identity", "install", "--json"] + (["--check"] if self._check else [])
        return self._with_file(self._params["certificate"], words)["changed"], {}

    def _with_file(self, content, words):
        """What a command answers whose last argument is a file that nobody else can read, and that goes again."""
        handle, path = tempfile.mkstemp(dir=self._folder)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(content)
            return self._agent.ask(*words, path)
        finally:
            os.unlink(path)


def main():
    module = AnsibleModule(
        argument_spec=dict(
            state=dict(type="str", choices=["present", "renewed", "csr", "installed"], default="present"),
            token=dict(type="str", no_log=True),
            token_file=dict(type="path", no_log=False),
            force=dict(type="bool", default=False),
            renew_before=dict(type="float"),
            certificate=dict(type="str"),
            config=dict(type="path", default=_program.AGENT_CONFIG),
            program=dict(type="path", default=_program.AGENT),
        ),
        mutually_exclusive=[("token", "token_file")],
        required_if=[("state", "installed", ["certificate"])],
        supports_check_mode=True,
    )
    sensor = Sensor(module)
    try:
        before = sensor.identity()
        changed, besides = getattr(sensor, module.params["state"])(before)
        after = sensor.identity() if changed and not module.check_mode else before
    except _program.ProgramError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=changed,
        identity=after,
        fingerprint=after["fingerprint"],
        serial=after["serial"],
        not_after=after["not_after"],
        diff=dict(before=shown(before), after=shown(after)),
        **besides,
    )


if __name__ == "__main__":
    main()
