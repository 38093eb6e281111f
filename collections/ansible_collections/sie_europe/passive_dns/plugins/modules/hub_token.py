#!/usr/bin/python
# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: hub_token
short_description: Issue and take back one-time enrolment tokens and readers' keys
version_added: 0.1.0
description:
  - Runs C(sie-hub token) for a sensor and C(sie-hub registry reader key) for a reader, on the hub, which keeps the hash of either alone.
  - The secret is returned by the task that makes it and can never be had again. Give such a task C(no_log=true), and put what it
    returns into a file that is encrypted before it is written.
author:
  - The sie-fleet maintainers (!UNKNOWN)
options:
  participant:
    description: The participant.
    type: str
    required: true
  sensor:
    description: The sensor that a token is for.
    type: str
  reader:
    description: The reader that a key is for.
    type: str
  key_id:
    description: What the reader's key is called. A reader has two keys at most.
    type: str
    default: k1
  hours:
    description: How long a new token can be used, in hours.
    type: float
    default: 168.0
  state:
    description:
      - V(present) makes a token if the sensor has none that is good, or a key if the reader has none of this name.
      - V(absent) takes back the tokens that nobody has used, or the reader's key.
    type: str
    choices: [present, absent]
    default: present
  once:
    description: Whether a token counts although it has expired or was taken back, so that a sensor is never given a second one by itself.
    type: bool
    default: false
  reissue:
    description: Whether V(present) first takes back what is there, and makes a new token or key each time.
    type: bool
    default: false
  config:
    description: The hub's configuration.
    type: path
    default: /etc/sie-hub/hub.yml
  program:
    description: The hub's program.
    type: path
    default: /opt/sie/sie-hub/bin/sie-hub
attributes:
  check_mode:
    description: Says what would change, and changes nothing; no secret is made.
    support: full
  diff_mode:
    description: Shows which tokens or keys there are before and after, never a secret.
    support: full
  idempotent:
    description: Changes nothing the second time.
    support: partial
    details:
      - O(reissue) makes a new one each time.
"""

EXAMPLES = r"""
- name: Issue a token for each sensor that has none
  sie_europe.passive_dns.hub_token:
    participant: isp_a
    sensor: "{{ item }}"
    hours: 72
  loop: [ns1, ns2]
  register: tokens
  no_log: true

- name: Replace a reader's key at once
  sie_europe.passive_dns.hub_token:
    participant: isp_a
    reader: analyst
    reissue: true
  register: fresh
  no_log: true

- name: Take back the tokens that nobody has used
  sie_europe.passive_dns.hub_token:
    participant: isp_a
    sensor: ns1
    state: absent
"""

RETURN = r"""
secret:
  description: The token or key, once.
  type: str
  returned: when one was made
  sample: (43 letters, digits, - and _)
id:
  description: What names the token or key without telling it.
  type: str
  returned: with O(state=present), except in check mode for a token that is only to be made
  sample: 0123456789abcdef
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sie_europe.passive_dns.plugins.module_utils import _program

GOOD = ("open", "used")  # a used token still opens for the key that it is bound to


class Tokens:
    """The enrolment tokens of one sensor."""

    def __init__(self, hub, params):
        self._hub = hub
        self._participant = params["participant"]
        self._sensor = params["sensor"]
        self._once = params["once"]
        self._hours = params["hours"]
        listed = hub.ask("token", "list", "--json", "--participant", self._participant)["tokens"]
        self._tokens = [token for token in listed if token["sensor"] == self._sensor]

    def names(self):
        """{id: state} of all tokens."""
        return {token["id"]: token["state"] for token in self._tokens}

    def found(self):
        """The id of a token that makes another one unnecessary, None if there is none."""
        good = [token["id"] for token in self._tokens if self._once or token["state"] in GOOD]
        return good[-1] if good else None

    def open(self):
        """The ids of what can be taken back."""
        return [token["id"] for token in self._tokens if token["state"] == "open"]

    def take_back(self, name):
        """Take one back."""
        self._hub.ask("token", "revoke", name, "--json")

    def make(self):
        """Make one; its id and the secret."""
        answer = self._hub.ask(
            *("token", "issue", "--json", "--participant", self._participant),
            *("--sensor", self._sensor, "--hours", str(self._hours)),
        )
        return answer["token"]["id"], answer["secret"]


class Keys:
    """The keys of one reader."""

    def __init__(self, hub, params):
        self._hub = hub
        self._names = (params["participant"], params["reader"])
        self._id = params["key_id"]
        readers = hub.ask("registry", "show", "--json")["participants"].get(self._names[0], {"readers": {}})[
            "readers"
        ]
        self._ids = [key["id"] for key in readers.get(params["reader"], {"keys": []})["keys"]]

    def names(self):
        """{id: state} of all keys."""
        return dict.fromkeys(self._ids, "good")

    def found(self):
        """The id of the key if it is there, None if not."""
        return self._id if self._id in self._ids else None

    def open(self):
        """The ids of what can be taken back."""
        return [self._id] if self._id in self._ids else []

    def take_back(self, name):
        """Take one back."""
        self._hub.ask("registry", "reader", "key", "remove", *self._names, "--id", name)

    def make(self):
        """Make one; its id and the secret."""
        answer = self._hub.ask("registry", "reader", "key", "add", *self._names, "--id", self._id)
        return self._id, answer["key"]


def shown(names):
    """Tokens or keys for a diff."""
    return "".join("%s %s\n" % (name, names[name]) for name in sorted(names))


def main():
    module = AnsibleModule(
        argument_spec=dict(
            participant=dict(type="str", required=True),
            sensor=dict(type="str"),
            reader=dict(type="str"),
            key_id=dict(type="str", default="k1", no_log=False),
            hours=dict(type="float", default=168.0),
            state=dict(type="str", choices=["present", "absent"], default="present"),
            once=dict(type="bool", default=False),
            reissue=dict(type="bool", default=False),
            config=dict(type="path", default=_program.HUB_CONFIG),
            program=dict(type="path", default=_program.HUB),
        ),
        required_one_of=[("sensor", "reader")],
        mutually_exclusive=[("sensor", "reader")],
        supports_check_mode=True,
    )
    params = module.params
    hub = _program.Program(module.run_command, params["program"], params["config"])
    result = {}
    try:
        kept = Keys(hub, params) if params["sensor"] is None else Tokens(hub, params)
        before = kept.names()
        wanted = params["state"] == "present"
        going = kept.open() if params["reissue"] or not wanted else []
        making = wanted and (params["reissue"] or kept.found() is None)
        if wanted and not making:
            result["id"] = kept.found()
        after = {name: state for name, state in before.items() if name not in going}
        if not module.check_mode:
            for name in going:
                kept.take_back(name)
            if making:
                result["id"], result["secret"] = kept.make()
    except _program.ProgramError as error:
        module.fail_json(msg=str(error))
    if making:
        after[result.get("id", "(new)")] = "new"
    diff = dict(before=shown(before), after=shown(after))
    module.exit_json(changed=bool(going) or making, diff=diff, **result)


if __name__ == "__main__":
    main()
