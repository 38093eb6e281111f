"""Files over SSH on real hosts, by the playbooks: a sensor's SFTP, a legacy sensor's rsync, and keys that are
replaced in traffic."""

import base64
import dataclasses
import io
import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import paramiko
import pytest
from sie_lab import deploy, domains, span
from sie_lab.hosts import on
from sie_lab.machine import CommandError
from sie_lab.topology import Host, Lab, Participant

from tests.fleet.holdings import status
from tests.fleet.kept import kept
from tests.fleet.lookups import Traffic, settled
from tests.fleet.programs import lend, take_back
from tests.fleet.reader import Reader, await_true

HUB_PROGRAM = "/opt/sie/sie-hub/bin/sie-hub"
AGENT = "/opt/sie/sie-agent/bin/sie-agent"
DROP = "/srv/sie-drop"
# Of ours on the hub, and what brings its programs back to it.
PLACES = (
    "/etc/sie-hub",
    "/etc/systemd/system/sie-hub-ingest.service",
    "/etc/ssh/sshd_config.d/sie-drop.conf",
    DROP,
)
BACK = "systemctl daemon-reload; systemctl restart sie-hub-ingest.service; systemctl reload ssh.service"
SENSOR, LEGACY = "ns2", "legacy1"
CHANNEL, LEGACY_CHANNEL = 202, 203
NMSG = b"NMSG\x00\x02\x00\x00\x00\x03abc"  # a container's header, and as many octets as it says
WITHIN = 30.0  # seconds for a file to be taken in, or for a sensor to go over to another key
SSH_KEY = "/var/lib/sie-agent/identity/ssh_ed25519"


class Account(NamedTuple):
    """Where and as whom files are put."""

    address: str
    user: str
    host_key: paramiko.PKey

    def open(self, private: str) -> paramiko.SSHClient:
        """Log in with a private key, as OpenSSH writes it. Raises paramiko.AuthenticationException."""
        client = paramiko.SSHClient()
        client.get_host_keys().add(self.address, self.host_key.get_name(), self.host_key)
        key = paramiko.Ed25519Key.from_private_key(io.StringIO(private))
        client.connect(self.address, 22, self.user, pkey=key, allow_agent=False, look_for_keys=False)
        return client


def _registered(lab: Lab, participant: str, kind: str, name: str, channel: int) -> str:
    """Make a source exist in the registry; its account."""
    on(lab.hub, HUB_PROGRAM, "registry", kind, "set", participant, name, "--channel", str(channel))
    shown = json.loads(on(lab.hub, HUB_PROGRAM, "registry", "show", "--json"))["participants"]
    account: str = shown[participant][f"{kind}s"][name]["account"]
    return account


@pytest.fixture(scope="module")
def hub(lab: Lab) -> Iterator[Host]:
    """The hub, as it was before again in the end: nobody comes in by SSH any more."""
    with ExitStack() as back:
        back.callback(on, lab.hub, "sh", "-euc", BACK)
        back.enter_context(kept(lab.hub, *PLACES))
        yield lab.hub


@pytest.fixture(scope="module")
def sensor(lab: Lab, hub: Host) -> Iterator[Participant]:
    """A second sensor of the second participant's, on the resolver's own host; no mirror meanwhile."""
    known = lab.participant("uni_b")
    further = dataclasses.replace(known, sensor=known.resolver, sensor_name=SENSOR, capture="eth1")
    span.switch(lab, on_=False)
    yield further
    host = further.sensor
    on(host, "systemctl", "disable", "--now", "sie-agent.service")
    places = ("/etc/sie-agent", "/var/lib/private/sie-agent", "/var/lib/sie-agent", "/opt/sie/sie-agent")
    on(host, "sh", "-c", f"rm -rf {' '.join(places)} /opt/sie/sie-agent-* /etc/systemd/system/sie-agent*")
    on(host, "systemctl", "daemon-reload")
    span.switch(lab, on_=True)


def _host_key(lab: Lab) -> str:
    return on(lab.hub, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")


@pytest.fixture(scope="module")
def account(lab: Lab, sensor: Participant) -> Account:
    user = _registered(lab, sensor.name, "sensor", SENSOR, CHANNEL)
    kind, blob = _host_key(lab).split()[:2]
    host_key = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
    assert lab.hub.management is not None
    return Account(lab.hub.management, user, host_key)


def _entry(participant: str, source: str, *keys: str, rsync: bool = False) -> dict[str, Any]:
    return {"participant": participant, "source": source, "keys": list(keys), "rsync": rsync}


def _operators(lab: Lab, name: str, accounts: list[dict[str, Any]], *words: str) -> int:
    """One of the hub operator's playbooks, with these accounts of the drop in the inventory."""
    values = {"hub_drop_dir": DROP if accounts else "", "hub_drop_accounts": accounts}
    return deploy.playbook(lab, name, None, ["-e", json.dumps(values), *words])


def _sensors(lab: Lab, sensor: Participant, account: Account, name: str, *extra: str) -> int:
    """One of the participant's playbooks on the further sensor, which has nothing but SSH to the hub."""
    known_hosts = sensor.home / "known_hosts_of_the_drop"
    kind, key = _host_key(lab).split()[:2]
    domains.note(sensor, known_hosts, f"{account.address} {kind} {key}\n")
    values = [
        "sensor_uplink=sftp",
        f"sensor_drop=sftp://{account.user}@{account.address}",
        f"sensor_known_hosts={known_hosts}",
        *extra,
    ]
    return deploy.participant_playbook(lab, name, sensor, [w for value in values for w in ("-e", value)])


def _key(sensor: Participant) -> dict[str, Any]:
    """What the sensor says of its SSH key."""
    document: dict[str, Any] = json.loads(on(sensor.sensor, AGENT, "identity", "ssh-key", "--json"))
    return document


def _taken(lab: Lab, source: str) -> int:
    """How many containers of a source the hub has stored."""
    told = json.loads(on(lab.hub, HUB_PROGRAM, "ledger", "--json"))
    return sum(one["stored"]["containers"] for one in told if one["source"] == source)


def test_files_are_taken_in_and_keys_are_replaced_meanwhile(
    lab: Lab, reader: Reader, sensor: Participant, account: Account
) -> None:
    """SFTP and rsync by the role; then the next key waits, is let in, taken over, and the one before ends."""
    # The participant goes first: its sensor keeps what it has, and says which key the hub's operator needs.
    with pytest.raises(CommandError, match="the hub does not take the SSH key"):
        _sensors(lab, sensor, account, "configure_my_sensor", "sensor_verify_seconds=2")
    old = _key(sensor)
    thiefs = on(sensor.sensor, "cat", SSH_KEY)
    legacy_host = lab.participant("isp_a").sensor
    legacy_user = _registered(lab, "isp_a", "upload", LEGACY, LEGACY_CHANNEL)
    on(legacy_host, "sh", "-c", "rm -f /root/legacy*; ssh-keygen -q -t ed25519 -N '' -f /root/legacy")
    legacy = _entry("isp_a", LEGACY, on(legacy_host, "cat", "/root/legacy.pub").strip(), rsync=True)
    accounts = [_entry(sensor.name, SENSOR, old["public"]), legacy]

    lent = lend(lab.hub, "rsync", "rrsync"), lend(legacy_host, "rsync")
    try:
        assert _operators(lab, "hub", accounts, "--tags", "preflight,configure,run") > 0
        await_true(partial(_connected, sensor), WITHIN, "the sensor, by SFTP")
        _rsync_delivers_once_and_no_more(lab, legacy_user, account.address)
        _nothing_but_files(account, thiefs)
        traffic = Traffic(lab, [sensor])
        try:
            _rotated(lab, sensor, account, accounts, thiefs)
        finally:
            traffic.stop()
    finally:
        take_back(lab.hub, lent[0])
        take_back(legacy_host, lent[1])
    settled(reader, traffic, [sensor])
    assert status(sensor.sensor)["uplink"]["failures"] <= 1, "the session that ended with the old key"
    assert on(lab.hub, "ls", f"{DROP}/refused") == ""


def _connected(sensor: Participant) -> bool:
    return bool(status(sensor.sensor)["uplink"]["state"] == "connected")


def _rotated(
    lab: Lab, sensor: Participant, account: Account, accounts: list[dict[str, Any]], thiefs: str
) -> None:
    """Each step of docs/how-to/rotate-keys.md, and what must not get through."""
    old, (_, legacy) = _key(sensor), accounts
    sent = sensor.home / "next-key.txt"
    who = ("-e", f"participant={sensor.name}", "-e", f"source={SENSOR}")
    let_in = ("-e", "rotate=drop_key", *who, "-e", f"key={sent}")

    assert (
        _sensors(lab, sensor, account, "rotate_keys", "rotate=drop_key", f"sensor_drop_key_file={sent}") > 0
    )
    following = sent.read_text().splitlines()[0]
    assert _key(sensor)["next"] not in (None, old["fingerprint"])
    with pytest.raises(CommandError, match="Enter it in hub_drop_accounts beside the one there"):
        _operators(lab, "rotate_keys", accounts, *let_in)
    forged = Path(f"{sent}.forged")
    forged.write_text(sent.read_text().replace(following, legacy["keys"][0]))
    both = [_entry(sensor.name, SENSOR, old["public"], following), legacy]
    with pytest.raises(CommandError, match="is not signed by a key that hub_drop_accounts has"):
        _operators(lab, "rotate_keys", both, *let_in, "-e", f"key={forged}")
    assert _operators(lab, "rotate_keys", both, *let_in) > 0
    assert (_key(sensor)["public"], _key(sensor)["next"]) == (following, None)

    new_alone = [_entry(sensor.name, SENSOR, following), legacy]
    retire = ("-e", "rotate=drop_key_retire", *who)
    thief = account.open(thiefs)
    with pytest.raises(CommandError, match="came last with the key that is to end"):
        _operators(lab, "rotate_keys", new_alone, *retire)
    account.open(on(sensor.sensor, "cat", SSH_KEY)).close()
    assert _operators(lab, "rotate_keys", new_alone, *retire) > 0
    await_true(lambda: not thief.get_transport().is_active(), WITHIN, "the thief's session ended")  # type: ignore[union-attr]
    with pytest.raises(paramiko.AuthenticationException):
        account.open(thiefs)
    await_true(partial(_connected, sensor), WITHIN, "the sensor with its new key alone")


def _rsync_delivers_once_and_no_more(lab: Lab, user: str, address: str) -> None:
    """The legacy sensor's own command, from a participant's host; a lost status makes it send twice."""
    host = lab.participant("isp_a").sensor
    kind, key = _host_key(lab).split()[:2]
    on(host, "sh", "-c", "cat > /root/legacy_known", stdin=f"{address} {kind} {key}\n")
    shell = "ssh -i /root/legacy -o UserKnownHostsFile=/root/legacy_known -o StrictHostKeyChecking=yes"
    rsync = ("rsync", "-e", shell, "--timeout=10")
    name = f"ns.isp-a.example.20261101.0930.1793525400.{secrets.randbelow(10**9):09}.nmsg"
    before, there = _taken(lab, LEGACY), f"{DROP}/{user}/up/ch{LEGACY_CHANNEL}"
    for _ in range(2):
        on(host, "sh", "-c", f"cat > /root/{name}", stdin=(NMSG * 3).decode("latin-1"))
        on(host, *rsync, "--remove-source-files", f"/root/{name}", f"{user}@{address}:up/ch{LEGACY_CHANNEL}/")
        await_true(lambda: on(lab.hub, "ls", there) == "", WITHIN, "the file taken in")
    assert _taken(lab, LEGACY) == before + 1
    on(host, "ln", "-sfn", "/etc/passwd", "/root/legacy_link")
    on(host, *rsync, "--links", "/root/legacy_link", f"{user}@{address}:up/ch{LEGACY_CHANNEL}/")
    await_true(lambda: _leads_to(lab, user) != "", WITHIN, "the link refused")
    assert _leads_to(lab, user) == "/rsyncd-munged//etc/passwd", "it leads nowhere"
    on(lab.hub, "find", f"{DROP}/refused", "-type", "l", "-delete")
    with pytest.raises(CommandError):
        on(host, *rsync, f"{user}@{address}:up/accounts.json", "/root/legacy_read")
    with pytest.raises(CommandError):
        on(host, *rsync, f"/root/{name}.not", f"{user}@{address}:../../etc/cron.d/")
    with pytest.raises(CommandError):
        on(host, *shell.split(), f"{user}@{address}", "id")


def _leads_to(lab: Lab, user: str) -> str:
    """Where the link leads that an account has sent and ingest has laid aside; empty while there is none."""
    return on(lab.hub, "find", f"{DROP}/refused", "-name", f"*{user}*", "-type", "l", "-printf", "%l").strip()


def _nothing_but_files(account: Account, private: str) -> None:
    """What an account of SFTP cannot do: leave its folder, change what is root's, run, forward."""
    with account.open(private) as client:
        with client.open_sftp() as sftp:
            assert sftp.listdir("/") == ["up"]
            assert sftp.normalize("/up/../../..") == "/"
            for path in ("/mine", "/up/../mine"):
                with pytest.raises(PermissionError):
                    sftp.open(path, "w")
            sftp.symlink("/etc/passwd", "/up/link")
            with pytest.raises(FileNotFoundError):
                sftp.open("/up/link")
            sftp.remove("/up/link")
        _, output, _ = client.exec_command("id")  # the forced command is run in its place
        output.channel.shutdown_write()
        assert b"uid=" not in output.read()
        transport = client.get_transport()
        assert transport is not None
        with pytest.raises(paramiko.ChannelException):
            transport.open_channel("direct-tcpip", ("127.0.0.1", 9161), ("127.0.0.1", 0))
