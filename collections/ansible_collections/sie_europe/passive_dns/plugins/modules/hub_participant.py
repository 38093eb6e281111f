#!/usr/bin/python
# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: hub_participant
short_description: Keep a participant's agreement, sensors and readers in the hub's registry
version_added: 0.1.0
description:
  - Runs C(sie-hub registry) on the hub. Sensors and readers that are not named stay as they are.
  - Keys and tokens are made by M(sie_europe.passive_dns.hub_token); no secret goes in or out here.
author:
  - The sie-fleet maintainers (!UNKNOWN)
options:
  name:
    description: The participant, of a-z, 0-9 and _.
    type: str
    required: true
  state:
    description:
      - V(present) makes the participant exist with this agreement, and what is named under O(sensors) and O(readers) be as described.
      - V(revoked) ends the agreement, takes back every sensor and upload, and every reader's key. The file stays, and with it the
        reason, which both sides read.
      - V(absent) does the same and removes the file. Only the participant's source ids stay noted, so that none is given to another.
    type: str
    choices: [present, revoked, absent]
    default: present
  signed:
    description: Day from which the agreement is in force, as YYYY-MM-DD. Needed for O(state=present).
    type: str
  term_days:
    description: Term of the agreement, in days.
    type: int
    default: 365
  renews:
    description: Whether the agreement renews itself at the end of its term.
    type: bool
    default: true
  terminated:
    description:
      - The first day on which the agreement is no longer in force, as YYYY-MM-DD.
      - With O(state=revoked) and O(state=absent) it is today (UTC), unless the agreement is not in force as it is.
    type: str
  reason:
    description: Why everything is taken back; both sides read it. Needed for O(state=revoked) and O(state=absent).
    type: str
  sensors:
    description: Sensors of the participant.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The sensor, of a-z, 0-9 and -.
        type: str
        required: true
      channels:
        description: To which channels it may send; 202 carries passive-DNS transactions.
        type: list
        elements: int
        default: [202]
      state:
        description: V(present) makes a sensor exist and leaves a revocation in force; V(reinstated) undoes one; V(revoked) takes
          nothing from it any more and ends its sessions.
        type: str
        choices: [present, reinstated, revoked]
        default: present
      reason:
        description: Why it is revoked; both sides read it.
        type: str
  readers:
    description: Those who may ask the query API with a key that they made themselves, of which the hub gets the hash alone.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The reader, of a-z, 0-9 and -.
        type: str
        required: true
      key_id:
        description: What the key is called.
        type: str
        default: k1
      sha256:
        description: SHA-256 of the key, 64 hexadecimal digits.
        type: str
      state:
        description: Whether the reader has this key.
        type: str
        choices: [present, absent]
        default: present
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
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows agreement, sensors and readers before and after.
    support: full
  idempotent:
    description: Changes nothing the second time.
    support: full
"""

EXAMPLES = r"""
- name: Register what was agreed
  sie_europe.passive_dns.hub_participant:
    name: isp_a
    signed: "2026-11-01"
    sensors:
      - name: ns1
      - name: ns2
        channels: [202, 203]

- name: Take nothing more from a host that was sold
  sie_europe.passive_dns.hub_participant:
    name: isp_a
    signed: "2026-11-01"
    sensors:
      - name: ns2
        state: revoked
        reason: host decommissioned

- name: End an agreement
  sie_europe.passive_dns.hub_participant:
    name: isp_a
    state: revoked
    reason: agreement ended by letter of 2026-12-01
"""

RETURN = r"""
participant:
  description: What the registry knows of the participant, without keys; in check mode what it would know. None if it is not there.
  type: dict
  returned: success
  sample:
    agreement: {signed: "2026-11-01", term_days: 365, renews: true, terminated: null}
    sensors:
      ns1: {channels: [202], revoked: null}
    uploads: {}
    readers: {analyst: [k1]}
"""

import json
from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sie_europe.passive_dns.plugins.module_utils import _program

NOBODY = {"agreement": {}, "sensors": {}, "uploads": {}, "readers": {}}


def known(document):
    """What is shown of a participant: everything that this module can change, and nothing that is a key's."""
    sources = {
        section: {
            name: {"channels": entry["channels"], "revoked": (entry["revoked"] or {}).get("reason")}
            for name, entry in document[section].items()
        }
        for section in ("sensors", "uploads")
    }
    agreement = {name: value for name, value in document["agreement"].items() if name != "in_force"}
    readers = {name: [key["id"] for key in entry["keys"]] for name, entry in document["readers"].items()}
    return dict(sources, agreement=agreement, readers=readers)


class Participant:
    """One participant in the registry: what is there, and what it comes to by the changes asked for.

    Every change is the program's own, which says whether it changed anything, in check mode too.
    """

    def __init__(self, hub, name, check):
        self._hub = hub
        self._name = name
        self._check = check
        self.changed = False
        everybody = hub.ask("registry", "show", "--json")["participants"]
        self.exists = name in everybody
        self.in_force = self.exists and everybody[name]["agreement"]["in_force"]
        self.known = known(everybody.get(name, NOBODY))

    def agree(self, signed, term_days, renews, terminated):
        """Make the participant exist with this agreement."""
        words = ["--signed", signed, "--term-days", str(term_days), "--renews" if renews else "--no-renews"]
        words += ["--terminated", terminated] if terminated is not None else []
        agreement = self._change("participant", "set", *words)["agreement"]
        self.known["agreement"] = dict({"terminated": None}, **agreement)

    def admit(self, sensor, channels):
        """Make a sensor exist with these channels; if it is revoked it stays so."""
        words = [part for channel in channels for part in ("--channel", str(channel))]
        answer = self._change("sensor", "set", sensor, *words)
        self.known["sensors"].setdefault(sensor, {"revoked": None})["channels"] = answer["channels"]

    def reinstate(self, sensor):
        """Undo the revocation of a sensor, if there is one."""
        entry = self.known["sensors"][sensor]
        if entry["revoked"] is not None:
            self._change("sensor", "reinstate", sensor)
            entry["revoked"] = None

    def revoke(self, section, name, reason):
        """Take a sensor or an upload back; one that was taken back before keeps its reason."""
        entry = self.known[section].get(name)
        if entry is None or entry["revoked"] is None:
            self._change(section[:-1], "revoke", name, "--reason", reason)
            self.known[section].setdefault(name, {})["revoked"] = reason

    def let_read(self, reader, key, sha256):
        """Make a reader have a key of which only the hash comes here."""
        self._change("reader", "key", "add", reader, "--id", key, "--sha256", sha256)
        keys = self.known["readers"].setdefault(reader, [])
        keys += [key] if key not in keys else []

    def stop_reading(self, reader, key):
        """Make a reader have no such key."""
        if key in self.known["readers"].get(reader, []):
            self._change("reader", "key", "remove", reader, "--id", key)
            self.known["readers"][reader].remove(key)

    def end(self, terminated, reason):
        """Let nothing of the participant be in force."""
        agreement = self.known["agreement"]
        day = terminated if terminated is not None else datetime.now(timezone.utc).date().isoformat()
        if self.in_force or terminated is not None:
            self.agree(agreement["signed"], agreement["term_days"], agreement["renews"], day)
        for section in ("sensors", "uploads"):
            for name in sorted(self.known[section]):
                self.revoke(section, name, reason)
        for reader in sorted(self.known["readers"]):
            for key in list(self.known["readers"][reader]):
                self.stop_reading(reader, key)

    def remove(self):
        """Let the registry forget the participant."""
        if not self._check:
            self._hub.ask("registry", "participant", "remove", self._name)
        self.changed = True
        self.known = None

    def _change(self, topic, *words):
        """One change by the program: `words` are the verb, then what stands behind the participant's name."""
        verbs = 2 if words[0] == "key" else 1
        answer = self._hub.ask(
            "registry", topic, *words[:verbs], self._name, *words[verbs:], check=self._check
        )
        self.changed = self.changed or answer["changed"]
        return answer


def apply(participant, params):
    """Make the registry say what a task asks for."""
    if params["state"] != "present":
        if participant.exists:
            participant.end(params["terminated"], params["reason"])
            if params["state"] == "absent":
                participant.remove()
        return
    participant.agree(params["signed"], params["term_days"], params["renews"], params["terminated"])
    for sensor in params["sensors"]:
        if sensor["state"] == "revoked":
            participant.revoke("sensors", sensor["name"], sensor["reason"])
            continue
        participant.admit(sensor["name"], sensor["channels"])
        if sensor["state"] == "reinstated":
            participant.reinstate(sensor["name"])
    for reader in params["readers"]:
        if reader["state"] == "present":
            participant.let_read(reader["name"], reader["key_id"], reader["sha256"])
        else:
            participant.stop_reading(reader["name"], reader["key_id"])


def text(participant):
    """A participant for a diff."""
    return json.dumps(participant, indent=1, sort_keys=True) + "\n"


def main():
    module = AnsibleModule(
        argument_spec=dict(
            name=dict(type="str", required=True),
            state=dict(type="str", choices=["present", "revoked", "absent"], default="present"),
            signed=dict(type="str"),
            term_days=dict(type="int", default=365),
            renews=dict(type="bool", default=True),
            terminated=dict(type="str"),
            reason=dict(type="str"),
            sensors=dict(
                type="list",
                elements="dict",
                default=[],
                options=dict(
                    name=dict(type="str", required=True),
                    channels=dict(type="list", elements="int", default=[202]),
                    state=dict(type="str", choices=["present", "reinstated", "revoked"], default="present"),
                    reason=dict(type="str"),
                ),
                required_if=[("state", "revoked", ["reason"])],
            ),
            readers=dict(
                type="list",
                elements="dict",
                default=[],
                options=dict(
                    name=dict(type="str", required=True),
                    key_id=dict(type="str", default="k1", no_log=False),
                    sha256=dict(type="str"),
                    state=dict(type="str", choices=["present", "absent"], default="present"),
                ),
                required_if=[("state", "present", ["sha256"])],
            ),
            config=dict(type="path", default=_program.HUB_CONFIG),
            program=dict(type="path", default=_program.HUB),
        ),
        required_if=[
            ("state", "present", ["signed"]),
            ("state", "revoked", ["reason"]),
            ("state", "absent", ["reason"]),
        ],
        supports_check_mode=True,
    )
    hub = _program.Program(module.run_command, module.params["program"], module.params["config"])
    try:
        participant = Participant(hub, module.params["name"], module.check_mode)
        before = text(participant.known) if participant.exists else ""
        apply(participant, module.params)
    except _program.ProgramError as error:
        module.fail_json(msg=str(error))
    there = participant.known if participant.exists or module.params["state"] == "present" else None
    module.exit_json(
        changed=participant.changed,
        participant=there,
        diff=dict(before=before, after=text(there) if there is not None else ""),
    )


if __name__ == "__main__":
    main()
