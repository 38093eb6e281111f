# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# PRIVATE to the collection: it can change with any release.

"""The programs on the hosts, sie-agent and sie-hub, as their command lines speak: JSON out, one sentence on failure."""

from __future__ import annotations

import json

AGENT = "/opt/sie/sie-agent/bin/sie-agent"
AGENT_CONFIG = "/etc/sie-agent/agent.yml"
HUB = "/opt/sie/sie-hub/bin/sie-hub"
HUB_CONFIG = "/etc/sie-hub/hub.yml"


class ProgramError(Exception):
    """A program refused or is not there; the message is what it said, for an operator."""


class Program:
    """One program with one configuration.

    `run_command` is AnsibleModule.run_command.
    """

    def __init__(self, run_command, path, config):
        self._run_command = run_command
        self.path = path
        self.config = config

    def ask(self, *words, check=False, answers=(0,)):
        """The JSON object that a command prints, with --check in check mode. Raises ProgramError.

        `answers` are the exit codes of a command that has answered, where it has others than 0.
        """
        arguments = list(words) + ["--config", self.config] + (["--check"] if check else [])
        output = self.say(*arguments, answers=answers)
        try:
            answer = json.loads(output)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ProgramError(
                "%s answered %s with something else than an object of JSON: install the release that came with"
                " this collection" % (self.path, " ".join(words[:2]))
            )
        return answer

    def say(self, *arguments, answers=(0,)):
        """What a command prints that ends with one of these codes. Raises ProgramError."""
        try:
            code, output, complaint = self._run_command(
                [self.path] + list(arguments), expand_user_and_vars=False, handle_exceptions=False
            )
        except OSError as error:
            raise ProgramError("%s cannot be run: %s" % (self.path, error.strerror)) from None
        if code not in answers or (code != 0 and not output):
            raise ProgramError(sentence(complaint) or "%s ended with %d and said nothing" % (self.path, code))
        return output


def sentence(complaint):
    """What a program wrote to standard error, on one line."""
    return "; ".join(line.strip() for line in complaint.splitlines() if line.strip())
