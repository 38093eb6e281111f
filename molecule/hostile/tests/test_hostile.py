"""A first run that cannot succeed says so in one sentence and leaves the host as it was."""

import contextlib
import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import pytest
from sie_lab import deploy
from sie_lab.hosts import on
from sie_lab.machine import CommandError
from sie_lab.topology import Host, Lab, Participant

from tests.fleet.holdings import status
from tests.fleet.newcomer import WHO, fresh, tokens

TOKENS = "sensor_enrol_tokens"
DATE = "/usr/local/bin/date"
FAILED = re.compile(r"^(?:fatal|failed): \[[^\]]+\][^\n]*?=> (\{.*\})$", re.MULTILINE)
# All that could be changed: files with owner, mode, size and time, units, interfaces. Left out are what runs
# by itself (the resolver's trust anchor), and byte code that Python writes when Ansible looks around.
SNAPSHOT = """
find /etc /opt /usr /var/lib /home /srv -xdev \\
    \\( -name __pycache__ -o -path /var/lib/unbound -o -path /var/lib/systemd \\) -prune -o \\
    -printf '%p %y %m %u:%g %s %T@ %l\\n' | sort
systemctl list-unit-files --no-legend --plain
systemctl list-units --all --no-legend --plain 'sie-*'
ip -oneline address
"""


class Hostile(NamedTuple):
    """What is wrong with a host or its inventory, and what the one sentence must name."""

    means: Callable[[Lab, Host], AbstractContextManager[list[str]]]
    says: tuple[str, ...]


@pytest.fixture(scope="module")
def newcomer(lab: Lab) -> Participant:
    return fresh(lab)


@contextlib.contextmanager
def _variables(**values: object) -> Iterator[list[str]]:
    yield ["-e", json.dumps(values)]


@contextlib.contextmanager
def _read_only_opt(_lab: Lab, host: Host) -> Iterator[list[str]]:
    on(host, "mount", "--bind", "/opt", "/opt")
    try:
        on(host, "mount", "-o", "remount,bind,ro", "/opt")
        yield []
    finally:
        on(host, "umount", "/opt")


@contextlib.contextmanager
def _an_hour_ahead(_lab: Lab, host: Host) -> Iterator[list[str]]:
    """The clock is this machine's and cannot be moved: whoever asks the host for its time is told another."""
    on(host, "tee", DATE, stdin='#!/bin/sh\nexec /bin/date --date="1 hour" "$@"\n')
    on(host, "chmod", "755", DATE)
    try:
        yield []
    finally:
        on(host, "rm", DATE)


@contextlib.contextmanager
def _closed(_lab: Lab, host: Host) -> Iterator[list[str]]:
    """The participant's own firewall lets nothing out to the hub but what was established before."""
    rules = """
    table inet hostile {
        chain out {
            type filter hook output priority 0;
            tcp dport { 8443, 8444 } drop
        }
    }
    """
    on(host, "nft", "-f", "-", stdin=rules)
    try:
        yield []
    finally:
        on(host, "nft", "delete", "table", "inet", "hostile")


def _of_another(lab: Lab, _host: Host) -> AbstractContextManager[list[str]]:
    """A token that is good, but for another sensor of the same participant."""
    said = on(
        lab.hub,
        *("/opt/sie/sie-hub/bin/sie-hub", "token", "issue", "--json", "--config=/etc/sie-hub/hub.yml"),
        *("--participant=isp_a", "--sensor=ns1", "--hours=1"),
    )
    return _variables(**{TOKENS: {"ns1": json.loads(said)["secret"]}})


HOSTILE = {
    "wrong clock": Hostile(
        _an_hour_ahead,
        ("The clock of ns1 is 3", "seconds ahead of the hub's", "set it and keep it right with"),
    ),
    "missing interface": Hostile(
        lambda _lab, _host: _variables(sensor_interface="eth7"),
        ("ns1 has no interface eth7 but", "eth1", "set sensor_interface to the one that sees"),
    ),
    "another interface than the resolver's": Hostile(
        lambda _lab, _host: _variables(sensor_interface="eth0", sensor_sight_seconds=2),
        ("While the resolver of ns1 looked up a name, eth0 showed 0 packets", "and 0 back; set"),
    ),
    "read-only /opt": Hostile(_read_only_opt, ("/opt of ns1 cannot be written to", "mount it writable")),
    "hub unreachable": Hostile(
        _closed, ("ns1 cannot open a connection to", ":8443", "out through your firewall")
    ),
    "wrong token": Hostile(
        lambda _lab, _host: _variables(**{TOKENS: {"ns1": secrets.token_urlsafe(32)}}),
        ("nic_d/ns1 would get no certificate", "not known here", "ask the exchange's operator for a new one"),
    ),
    "another's token": Hostile(_of_another, ("nic_d/ns1 would get no certificate", "is not for nic_d/ns1")),
    "no token": Hostile(
        lambda _lab, _host: _variables(**{TOKENS: {}}),
        ("ns1 has no valid certificate", "ask the hub's operator for a token for ns1"),
    ),
    "another's bundle": Hostile(
        lambda _lab, _host: _variables(sensor_bundle_signer="SHA256:" + "A" * 43),
        ("manifest.json was signed by SHA256:", ", not by SHA256:AAAA", "by another way"),
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_run_that_cannot_succeed_ends_in_one_sentence_and_changes_nothing(
    lab: Lab, newcomer: Participant, what: str
) -> None:
    with HOSTILE[what].means(lab, newcomer.sensor) as options:
        before = on(newcomer.sensor, "sh", "-c", SNAPSHOT)
        with pytest.raises(CommandError):
            deploy.playbook(lab, "configure_my_sensor", WHO, options)
        assert on(newcomer.sensor, "sh", "-c", SNAPSHOT) == before
    said = deploy.log_of(lab, f"configure_my_sensor-{WHO}").read_text()
    assert sum(map(int, re.findall(r"failed=(\d+)", said))) == 1
    assert "Traceback" not in said
    sentences = [json.loads(found)["msg"] for found in FAILED.findall(said)]
    clear = [one for one in sentences if all(words in one for words in HOSTILE[what].says)]
    assert len(clear) == 1, sentences
    assert re.fullmatch(r"\S[^\n]*[^ ]\.", clear[0]), clear
    assert tokens(lab)[-1] == "open"


def test_the_same_host_becomes_a_sensor_once_nothing_is_wrong(lab: Lab, newcomer: Participant) -> None:
    assert deploy.rehearse(lab, "configure_my_sensor", WHO) > 0
    assert deploy.playbook(lab, "configure_my_sensor", WHO) > 0
    assert status(newcomer.sensor)["uplink"]["state"] == "connected"
    assert tokens(lab)[-1] == "used"
    assert deploy.rehearse(lab, "configure_my_sensor", WHO) == 0
    assert deploy.playbook(lab, "configure_my_sensor", WHO) == 0
