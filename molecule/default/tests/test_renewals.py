"""What ends soon, as the hub's operator asks for it every Monday."""

import pytest
from sie_lab import deploy
from sie_lab.machine import CommandError
from sie_lab.topology import Lab


def test_the_playbook_fails_where_something_ends_soon(lab: Lab) -> None:
    assert deploy.playbook(lab, "renewals", None, ["-e", "days=0"]) == 0
    with pytest.raises(CommandError) as failed:
        deploy.playbook(lab, "renewals", None, ["-e", "days=366"])
    for participant in lab.participants.values():
        assert f"term               {participant.name}" in str(failed.value)
    assert "hub's certificate  ingest" in str(failed.value)
