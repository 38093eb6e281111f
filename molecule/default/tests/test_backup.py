"""Backups of the hub: made by themselves, without any key, and good for a hub that is built anew."""

import json
import secrets
from collections.abc import Iterator

import pytest
from sie_lab.hosts import File, on, write_files
from sie_lab.topology import Lab

BACKUPS = "/var/backups/sie-hub"
HUB = "/opt/sie/sie-hub/bin/sie-hub"
ANEW_URL = "nats://127.0.0.1:4333"
UNIT = "sie-anew-nats"
SEARCH = """
import json, sys, tarfile
with tarfile.open(sys.argv[1]) as tar:
    contents = {member.name: tar.extractfile(member).read() for member in tar}
wanted = sys.stdin.read().encode().split()
print(json.dumps([name for name, data in contents.items() if any(text in data for text in wanted)]))
"""


def newest(lab: Lab) -> str:
    """The path of the newest backup, made just now."""
    on(lab.hub, "systemctl", "start", "sie-hub-backup.service")
    return f"{BACKUPS}/{on(lab.hub, 'ls', BACKUPS).split()[-1]}"


def holding(lab: Lab, archive: str, wanted: list[str]) -> list[str]:
    """The files of a backup that hold one of these texts."""
    found: list[str] = json.loads(
        on(lab.hub, "/usr/bin/python3", "-c", SEARCH, archive, stdin="\n".join(wanted))
    )
    return found


def test_a_backup_is_made_each_night(lab: Lab) -> None:
    shown = on(lab.hub, "systemctl", "show", "sie-hub-backup.timer", "--property=ActiveState,UnitFileState")
    assert set(shown.split()) == {"ActiveState=active", "UnitFileState=enabled"}
    assert on(lab.hub, "ls", BACKUPS).split()  # the playbook has made one


def test_a_backup_is_made_and_its_owners_alone(lab: Lab) -> None:
    archive = newest(lab)
    seen = on(lab.hub, "stat", "--format=%U %a", BACKUPS, archive).splitlines()
    assert seen == ["root 700", "root 600"]


def test_a_backup_holds_no_key(lab: Lab) -> None:
    archive = newest(lab)
    keys = on(lab.hub, "sh", "-c", "cat /etc/sie-hub/ca/ca.key /etc/sie-hub/tls/*.key").splitlines()
    known = [line for line in keys if len(line) > 40 and "-----" not in line]
    known += on(lab.hub, "sh", "-c", "cat /etc/sie-hub/nats/[!n]*").split()
    assert len(known) > 8
    assert holding(lab, archive, [*known, "PRIVATE"]) == []
    assert "registry/isp_a.yml" in holding(lab, archive, ["isp_a"])


@pytest.fixture
def anew(lab: Lab) -> Iterator[str]:
    """The folder of a hub built anew, beside the one that runs: its own nats-server, an empty registry."""
    folder = f"/root/anew-{secrets.token_hex(4)}"
    on(
        lab.hub,
        "mkdir",
        "--parents",
        *(f"{folder}/{name}" for name in ("participants", "enrol", "store", "backups")),
    )
    on(lab.hub, "cp", "--recursive", "/etc/sie-hub/nats", f"{folder}/nats")
    on(lab.hub, "cp", "--recursive", "/etc/sie-hub/ca", f"{folder}/ca")
    config = {
        "exchange": lab.exchange,
        "registry": f"{folder}/participants",
        "nats": {"url": ANEW_URL, "store": f"{folder}/store", "password_file": f"{folder}/nats/setup"},
        "ca": {"certificate": f"{folder}/ca/ca.pem", "key": f"{folder}/ca/ca.key"},
        "enrol": {"state": f"{folder}/enrol"},
    }
    write_files(lab.hub, [File(f"{folder}/hub.yml", json.dumps(config))])
    options = ("--config", f"{folder}/hub.yml")
    on(
        lab.hub,
        HUB,
        "nats-config",
        "--passwords",
        f"{folder}/nats",
        "--output",
        f"{folder}/nats.conf",
        *options,
    )
    on(
        lab.hub,
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit={UNIT}",
        "/usr/sbin/nats-server",
        "-c",
        f"{folder}/nats.conf",
    )
    on(lab.hub, HUB, "streams", *options)
    yield folder
    on(lab.hub, "systemctl", "stop", f"{UNIT}.service")
    on(lab.hub, "rm", "--recursive", folder)


def test_what_is_restored_is_the_registry_that_was(lab: Lab, anew: str) -> None:
    archive = newest(lab)
    options = ("--config", f"{anew}/hub.yml", "--nats-passwords", f"{anew}/nats")
    answer = json.loads(on(lab.hub, HUB, "restore", archive, *options))
    assert answer["registry"] >= len(lab.participants)
    assert answer["entries"]["KV_POSITION"] >= len(lab.participants)
    assert answer["tokens"] >= len(lab.participants)
    shown = [
        json.loads(on(lab.hub, HUB, "registry", "show", "--json", "--config", config))
        for config in ("/etc/sie-hub/hub.yml", f"{anew}/hub.yml")
    ]
    assert shown[0]["participants"] == shown[1]["participants"]
    assert set(lab.participants) <= set(shown[1]["participants"])
    again = json.loads(on(lab.hub, HUB, "backup", "--directory", f"{anew}/backups", *options))
    assert again["entries"] == answer["entries"]
