"""The lab's newcomer: onboarded, with a token that nobody has used, on a host with nothing of the product."""

import json

from sie_lab import deploy
from sie_lab.hosts import on
from sie_lab.topology import Host, Lab, Participant

WHO = "nic_d"
# A host on which tests of newcomers have ended well is a sensor.
WIPE = """
systemctl disable --now sie-agent 2>/dev/null
rm -rf /opt/sie /etc/sie-agent /etc/systemd/system/sie-agent* /usr/local/bin/sie-agent
rm -rf /var/lib/sie-agent /var/lib/private/sie-agent
systemctl daemon-reload
"""


def fresh(lab: Lab) -> Participant:
    """The newcomer, made new if it is not any more."""
    participant = lab.participant(WHO)
    wipe(participant.sensor)
    spent = tokens(lab)[-1:] == ["used"]
    deploy.playbook(lab, "onboard_participant", WHO, ["-e", "reissue=true"] if spent else [])
    assert tokens(lab)[-1] == "open"
    return participant


def wipe(host: Host) -> None:
    """The newcomer's host with nothing of the product, whoever has used it."""
    on(host, "sh", "-c", WIPE)


def tokens(lab: Lab) -> list[str]:
    """The states of the newcomer's tokens that are good or were used, the newest last."""
    said = on(
        lab.hub,
        *("/opt/sie/sie-hub/bin/sie-hub", "token", "list", "--json", "--config=/etc/sie-hub/hub.yml"),
        f"--participant={WHO}",
    )
    return [token["state"] for token in json.loads(said)["tokens"] if token["state"] in ("open", "used")]
