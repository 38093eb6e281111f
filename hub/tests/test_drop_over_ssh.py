"""The drop with what is really there: a stock sshd by the role's own lines, rsync, the agent, and ingest."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import paramiko
import pytest

from sie_hub.registry import account_name
from sie_hub.streams import HEADER_FILE, HEADER_TRANSACTIONS
from tests.traffic.frames import write_pcap
from tests.traffic.generator import RESOLVERS, generate

from .broker import Broker
from .conftest import EXCHANGE, Pki
from .hub import Hub
from .sshd import Server, found, key, root_directory

pytestmark = pytest.mark.root

ACCOUNT = account_name(7)
NMSG = b"NMSG\x00\x02\x00\x00\x00\x03abc"
TRANSACTIONS = 1500
LONG = 1600  # of which a window of one container a look makes half a minute


@pytest.fixture
def drop() -> Iterator[Path]:
    """The drop as the role lays it out, with one account."""
    with root_directory() as directory:
        (directory / "refused").mkdir()
        (directory / ACCOUNT / "up" / "ch202").mkdir(parents=True)
        yield directory


@pytest.fixture
async def hub(pki: Pki, broker: Broker, drop: Path) -> AsyncIterator[Hub]:
    hub = Hub(pki.directory.parent / "hub", pki, broker)
    text = hub.path.read_text()
    hub.path.write_text(text.replace("ingest:\n", f"ingest:\n  drop: {drop}\n"))
    hub.start("ingest")
    yield hub
    hub.stop_all()


def agent_config(directory: Path, server: Server, ca: Path, window: int = 8) -> Path:
    file = directory / "agent.yml"
    resolvers = json.dumps([str(address) for address in RESOLVERS])
    file.write_text(
        f"""
participant: isp_a
sensor: ns1
exchange: {EXCHANGE}
resolvers: {resolvers}
sources: [{{interface: lo}}]
container: {{max_bytes: 16 KiB}}
spool: {{directory: {directory}/spool}}
uplink:
  drop: sftp://{server.user}@127.0.0.1:{server.port}
  known_hosts: {server.known_hosts}
  ca: {ca}
  window: {window}
  retry_min: 100ms
  retry_max: 1
identity: {{directory: {directory}/identity}}
metrics: {{listen: "127.0.0.1:0"}}
"""
    )
    return file


def agent(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sie_agent.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def until_raw(broker: Broker, count: int) -> None:
    async with asyncio.timeout(20):
        while len(await broker.raw()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_sensor_delivers_by_sftp_and_the_ledger_agrees(
    hub: Hub, broker: Broker, pki: Pki, drop: Path, tmp_path: Path
) -> None:
    """The whole way: real agent, real sshd, real ingest; ingest is killed once on the way."""
    (tmp_path / "agent").mkdir()
    server = Server(tmp_path / "sshd", drop, ACCOUNT, [], rsync=False)
    config = agent_config(tmp_path / "agent", server, pki.ca_held.certificate)
    public = agent("identity", "ssh-key", "--config", config).stdout
    (tmp_path / "sshd" / "drop_keys" / server.user).write_text(public)
    server.start()
    write_pcap(tmp_path / "up.pcap", generate(TRANSACTIONS, 3, 1_790_000_000.0).frames)
    sending = asyncio.create_task(
        asyncio.to_thread(agent, "replay", tmp_path / "up.pcap", "--config", config, "--send")
    )
    await until_raw(broker, 3)
    hub.stop("ingest")
    hub.start("ingest")
    done = await sending
    server.stop()
    assert done.returncode == 0, done.stderr
    raw = await broker.raw()
    assert sum(message.number(HEADER_TRANSACTIONS) or 0 for message in raw) == TRANSACTIONS
    assert len({message.data for message in raw}) == len(raw)
    assert [path.name for path in (drop / ACCOUNT / "up" / "ch202").iterdir()] == []

    words = [sys.executable, "-m", "sie_hub.cli", "ledger", "--json", "--config", str(hub.path)]
    async with asyncio.timeout(20):
        while True:
            asked = await asyncio.to_thread(subprocess.run, words, capture_output=True, check=False)
            account = json.loads(asked.stdout)[0] if asked.returncode == 0 else {}
            if account.get("reported"):
                break
            await asyncio.sleep(0.1)
    assert account["stored"]["transactions"] == TRANSACTIONS
    assert account["state"] == "agrees"


async def test_the_sensor_s_key_is_replaced_while_files_flow(
    hub: Hub, broker: Broker, pki: Pki, drop: Path, tmp_path: Path
) -> None:
    """The next key waits, is entered beside the one in use, taken over, and the one before is ended."""
    (tmp_path / "agent").mkdir()
    server = Server(tmp_path / "sshd", drop, ACCOUNT, [], rsync=False)
    config = agent_config(tmp_path / "agent", server, pki.ca_held.certificate, window=1)
    entered = tmp_path / "sshd" / "drop_keys" / server.user
    old = agent("identity", "ssh-key", "--config", config).stdout
    entered.write_text(old)
    server.start()
    write_pcap(tmp_path / "up.pcap", generate(LONG, 3, 1_790_000_000.0).frames)
    sending = asyncio.create_task(
        asyncio.to_thread(agent, "replay", tmp_path / "up.pcap", "--config", config, "--send")
    )
    await until_raw(broker, 1)
    made = json.loads(agent("identity", "ssh-key", "--next", "--json", "--config", config).stdout)
    assert signed_by(old, made["public"], made["signature"], tmp_path)
    again = json.loads(agent("identity", "ssh-key", "--next", "--json", "--config", config).stdout)
    assert (again["changed"], again["public"]) == (False, made["public"]), "one waits until it is taken"

    async with asyncio.timeout(30):
        while "[preauth]" not in server.log:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert fingerprints(config) == (fingerprint(old), made["fingerprint"]), "not before it is entered"
    entered.write_text(f"{old}{made['public']}\n")
    async with asyncio.timeout(40):
        while fingerprints(config) != (made["fingerprint"], None):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    entered.write_text(f"{made['public']}\n")
    assert not sending.done(), "files flowed all the time"
    done = await sending
    server.stop()
    assert done.returncode == 0, done.stderr
    assert "the next SSH key waits" in done.stderr
    assert "refused by" not in done.stderr
    raw = await broker.raw()
    assert sum(message.number(HEADER_TRANSACTIONS) or 0 for message in raw) == LONG
    assert len({message.data for message in raw}) == len(raw)


def fingerprint(public: str) -> str:
    """As ssh-keygen shows it."""
    command = [found("ssh-keygen"), "-l", "-f", "-"]
    return subprocess.run(command, input=public, capture_output=True, text=True, check=True).stdout.split()[1]


def fingerprints(config: Path) -> tuple[str, str | None]:
    """Of the key that an agent uses, and of the one that waits."""
    shown = json.loads(agent("identity", "ssh-key", "--json", "--config", config).stdout)
    return shown["fingerprint"], shown["next"]


def signed_by(old: str, line: str, signature: str, directory: Path) -> bool:
    """Whether OpenSSH itself takes the signature under a next key, as the playbook rotate_keys asks it."""
    (directory / "allowed").write_text(f"me {old}")
    (directory / "signature").write_text(signature)
    command = [found("ssh-keygen"), "-Y", "verify", "-f", str(directory / "allowed"), "-I", "me"]
    command += ["-n", "sie-drop-key", "-s", str(directory / "signature")]
    wrong = subprocess.run(command, input=f"{line}.\n", capture_output=True, text=True, check=False)
    right = subprocess.run(command, input=f"{line}\n", capture_output=True, text=True, check=False)
    return right.returncode == 0 and wrong.returncode != 0


async def test_a_sensor_comes_with_its_next_key_where_the_one_before_has_been_ended(
    hub: Hub, broker: Broker, pki: Pki, drop: Path, tmp_path: Path
) -> None:
    (tmp_path / "agent").mkdir()
    server = Server(tmp_path / "sshd", drop, ACCOUNT, [], rsync=False)
    config = agent_config(tmp_path / "agent", server, pki.ca_held.certificate)
    made = json.loads(agent("identity", "ssh-key", "--next", "--json", "--config", config).stdout)
    (tmp_path / "sshd" / "drop_keys" / server.user).write_text(f"{made['public']}\n")
    server.start()
    write_pcap(tmp_path / "up.pcap", generate(10, 3, 1_790_000_000.0).frames)
    done = await asyncio.to_thread(agent, "replay", tmp_path / "up.pcap", "--config", config, "--send")
    server.stop()
    assert done.returncode == 0, done.stderr
    assert fingerprints(config) == (made["fingerprint"], None)


async def test_a_key_that_is_not_entered_is_refused_with_what_to_do(
    pki: Pki, drop: Path, tmp_path: Path
) -> None:
    (tmp_path / "agent").mkdir()
    server = Server(tmp_path / "sshd", drop, ACCOUNT, [], rsync=False)
    server.start()
    config = agent_config(tmp_path / "agent", server, pki.ca_held.certificate)
    not_taken = "operator what `sie-agent identity ssh-key` prints"
    another = f"[127.0.0.1]:{server.port} {key(tmp_path / 'another')}"
    shown = server.known_hosts.read_text()
    for known_hosts, words in (
        (shown, not_taken),
        # Two keys of one kind, while the hub changes its own: either is trusted.
        (f"# of the hub\n\n{another}{shown}", not_taken),
        (shown + another, not_taken),
        (another, "ask the hub's operator"),
        (another + shown.replace("[127.0.0.1]", "[127.0.0.2]"), "ask the hub's operator"),
        ("", "has no host key for 127.0.0.1"),
    ):
        server.known_hosts.write_text(known_hosts)
        assert words in await refusal(config)
    server.stop()


async def refusal(config: Path) -> str:
    """The line by which an agent says that it is refused."""
    words = [sys.executable, "-m", "sie_agent.cli", "run", "--config", str(config)]
    running = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    assert running.stderr is not None
    said = b""
    async with asyncio.timeout(20):
        while b"refused by" not in said:
            said = await running.stderr.readline()
            assert said
    running.terminate()
    await running.communicate()
    return said.decode()


async def test_an_account_can_put_files_and_nothing_else(drop: Path, tmp_path: Path) -> None:
    public = key(tmp_path / "key")
    server = Server(tmp_path / "sshd", drop, ACCOUNT, [public], rsync=False)
    server.start()
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(server.known_hosts))
        await asyncio.to_thread(
            client.connect,
            "127.0.0.1",
            server.port,
            server.user,
            key_filename=str(tmp_path / "key"),
            allow_agent=False,
            look_for_keys=False,
        )
        with client.open_sftp() as sftp:
            assert sftp.listdir("/") == ["up"]
            sftp.put(str(tmp_path / "key.pub"), "/up/ch202/../../../../../x.nmsg", confirm=False)
            assert (drop / ACCOUNT / "x.nmsg").exists()  # only because it is root's here
        _, output, _ = client.exec_command("cat /etc/passwd")  # the forced command is run instead
        output.channel.shutdown_write()
        assert b"root:" not in output.read()
        with pytest.raises(paramiko.ChannelException):
            client.get_transport().open_channel(  # type: ignore[union-attr]
                "direct-tcpip", ("127.0.0.1", server.port), ("127.0.0.1", 0)
            )
    server.stop()


async def test_the_legacy_sensor_s_rsync_delivers_once_and_can_read_nothing(
    hub: Hub, broker: Broker, drop: Path, tmp_path: Path
) -> None:
    """Its own command line but for names; a status that got lost makes it send a file twice."""
    public = key(tmp_path / "key")
    server = Server(tmp_path / "sshd", drop, ACCOUNT, [public], rsync=True)
    server.start()
    name = "ns.isp-a.example.20261101.0930.1793525400.000000001.nmsg"
    shell = (
        f"{found('ssh')} -p {server.port} -i {tmp_path / 'key'} -o UserKnownHostsFile={server.known_hosts}"
        " -o StrictHostKeyChecking=yes"
    )

    def rsync(*words: str) -> subprocess.CompletedProcess[str]:
        command = [found("rsync"), "-e", shell, "--timeout=10", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    for _ in range(2):
        (tmp_path / name).write_bytes(NMSG * 3)
        sent = await asyncio.to_thread(
            rsync, "--remove-source-files", str(tmp_path / name), f"{server.user}@127.0.0.1:up/ch202/"
        )
        assert sent.returncode == 0, (sent.stderr, server.log)
        assert not (tmp_path / name).exists()
        async with asyncio.timeout(10):
            while (drop / ACCOUNT / "up" / "ch202" / name).exists():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    (message,) = await broker.raw()
    assert (message.data, message.headers[HEADER_FILE]) == (NMSG * 3, name)

    (drop / ACCOUNT / "up" / "mine").write_text("mine")
    read = await asyncio.to_thread(rsync, f"{server.user}@127.0.0.1:up/mine", str(tmp_path / "mine"))
    assert read.returncode != 0
    assert not (tmp_path / "mine").exists()
    (tmp_path / "out").write_text("x")
    out = await asyncio.to_thread(rsync, str(tmp_path / "out"), f"{server.user}@127.0.0.1:../out")
    assert out.returncode != 0
    assert not (drop / "out").exists()
    server.stop()
