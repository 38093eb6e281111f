"""A participant is onboarded while others send: nothing of theirs is touched, and they notice nothing."""

import shutil

import pytest
from sie_lab import deploy
from sie_lab.hosts import on
from sie_lab.topology import Lab

from tests.fleet.holdings import status
from tests.fleet.newcomer import WHO
from tests.fleet.others import REGISTRY, held, touched


@pytest.fixture
def unknown(lab: Lab) -> None:
    """The newcomer as before its agreement: the hub knows no such participant and nothing was handed over."""
    on(lab.hub, "rm", "--force", f"{REGISTRY}/{WHO}.yml")
    shutil.rmtree(deploy.handed_over(lab, lab.participant(WHO)), ignore_errors=True)


@pytest.mark.usefixtures("unknown")
def test_onboarding_one_participant_touches_no_other(lab: Lab) -> None:
    neighbours = list(lab.participants.values())
    before, sessions = held(lab), [status(one.sensor)["uplink"]["sessions"] for one in neighbours]
    for neighbour in neighbours:
        assert f"{REGISTRY}/{neighbour.name}.yml" in before
        assert f"onboarding/{neighbour.name}/{neighbour.name}-onboarding.tar.gz" in before

    assert deploy.playbook(lab, "onboard_participant", WHO, ["-e", "reissue=true"]) > 0

    after = held(lab)
    assert {
        f"{REGISTRY}/{WHO}.yml",
        f"onboarding/{WHO}/{WHO}-onboarding.tar.gz",
    } <= after.keys() - before.keys()
    assert touched(lab, before, WHO) == []
    assert [status(one.sensor)["uplink"]["sessions"] for one in neighbours] == sessions
    assert all(status(one.sensor)["uplink"]["state"] == "connected" for one in neighbours)
