"""The roll-out's own arithmetic, and that what it measures is what a bundle brings."""

import configparser
import signal
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import COLLECTION
from tests.rollout import __main__ as rollout
from tests.rollout import cgroup, report
from tests.rollout.play import Run, changed

RECAP = """
PLAY RECAP *********************************************************************
s001                       : ok=40   changed=12   unreachable=0    failed=0    skipped=30   rescued=0
s002                       : ok=39   changed=0    unreachable=0    failed=0    skipped=30   rescued=0
s003                       : ok=3    changed=1    unreachable=0    failed=1    skipped=0    rescued=0
s004                       : ok=0    changed=0    unreachable=1    failed=0    skipped=0    rescued=0
"""


def run(what: str, hosts: int, changed_tasks: dict[str, int]) -> Run:
    return Run(what, hosts, 25, 100.0, 40.0, 60.0, 20.0, 300 << 20, changed_tasks)


def test_hosts_that_failed_or_were_not_reached_are_not_counted() -> None:
    assert changed(RECAP) == {"s001": 12, "s002": 0}


def test_a_row_says_what_a_host_took() -> None:
    cells = [cell.strip() for cell in report.line(run(report.AGAIN, 10, {})).strip("|").split("|")]
    assert cells == [report.AGAIN, "10", "25", "100", "10.00", "4.00", "6.00", "300", "0.2"]
    assert [len(row.strip("|").split("|")) for row in report.HEADER] == [len(cells)] * 2


def test_what_is_not_as_it_should_be_is_said() -> None:
    as_it_should = [
        run(report.FROM_NOTHING, 2, {"s001": 9, "s002": 9}),
        run(report.AGAIN, 2, changed(RECAP) | {"s001": 0}),
    ]
    assert report.true([], as_it_should)
    assert not report.true(["/etc/sie-hub/participants/isp_a.yml"], as_it_should)
    (left_out,) = report.wrong([run(report.FROM_NOTHING, 2, {"s001": 9})])
    assert "1 of 2 hosts did not come to the end" in left_out
    for what, tasks in ((report.FROM_NOTHING, 0), (report.AGAIN, 1)):
        (surprising,) = report.wrong([run(what, 1, {"s001": tasks})])
        assert "s001" in surprising


def test_forks_and_pipelining_are_those_of_the_bundle() -> None:
    settings = configparser.ConfigParser()
    settings.read(COLLECTION / "roles/onboard/templates/ansible.cfg.j2")
    assert settings.getint("defaults", "forks") == rollout.FORKS_OF_THE_BUNDLE
    assert settings.getboolean("ssh_connection", "pipelining")


@pytest.mark.root
def test_a_group_counts_what_has_ended_and_ends_what_is_left() -> None:
    with cgroup.made("sie-rollout-test") as group:
        before = group.cpu()
        subprocess.run(
            group.enter("sh", "-c", "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done"), check=True
        )
        assert group.cpu() > before
        left = subprocess.Popen(group.enter("sleep", "60"), stdout=subprocess.DEVNULL)
        procs = group.folder / "cgroup.procs"
        while str(left.pid) not in procs.read_text().split():
            assert left.poll() is None
        assert cgroup.of(left.pid) == group
        assert group.resident() > 0
    assert left.wait() == -signal.SIGKILL
    assert not Path(group.folder).exists()
