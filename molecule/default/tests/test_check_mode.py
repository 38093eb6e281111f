"""Rehearsed, a playbook says what it would change and changes nothing: no file of hosts or controller."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from sie_lab import deploy
from sie_lab.hosts import on
from sie_lab.topology import Lab

AGENT = "/opt/sie/sie-agent/bin/sie-agent"
WHO = "isp_a"


def given(**values: object) -> list[str]:
    """Extra variables as ansible-playbook takes them."""
    return [word for name, value in values.items() for word in ("-e", f"{name}={value}")]


@pytest.mark.parametrize(
    ("options", "participant"),
    [
        (given(rotate="server_certificates"), None),
        (given(rotate="ca"), None),
        (given(rotate="sensor_key"), WHO),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_a_rotation_is_rehearsed(lab: Lab, options: Sequence[str], participant: str | None) -> None:
    assert deploy.rehearse(lab, "rotate_keys", participant, options) > 0


def test_a_rotation_of_api_keys_is_rehearsed(lab: Lab) -> None:
    folder = deploy.handed_over(lab, lab.participant(WHO))
    before = sorted(folder.iterdir())
    options = given(rotate="api_keys", participant=WHO, onboard_output=folder.parent)
    assert deploy.rehearse(lab, "rotate_keys", None, options) > 0
    assert sorted(folder.iterdir()) == before


def test_a_signature_is_rehearsed(lab: Lab, tmp_path: Path) -> None:
    participant = lab.participant(WHO)
    request = tmp_path / "request.csr"
    request.write_text(on(participant.sensor, AGENT, "identity", "csr"))
    options = given(participant=WHO, sensor=participant.sensor_name, request=request)
    assert deploy.rehearse(lab, "sign_request", None, options) > 0
    assert list(tmp_path.iterdir()) == [request]


def test_what_only_looks_has_nothing_to_change(lab: Lab) -> None:
    assert deploy.rehearse(lab, "renewals", None, given(days=0)) == 0
    assert deploy.rehearse(lab, "diagnose", None) == 0
    assert deploy.rehearse(lab, "diagnose", WHO) == 0


def test_who_is_onboarded_has_nothing_to_change(lab: Lab) -> None:
    assert deploy.rehearse(lab, "onboard_participant", WHO) == 0
