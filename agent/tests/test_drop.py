"""The uplink by files: its rules, with a drop in memory; the hub's tests have it with a real server."""

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
import pytest

from sie_agent.config import AgentConfig, load_config
from sie_agent.drop import Position, file_name
from sie_agent.drop_session import DropSession
from sie_agent.drop_uplink import DropUplink
from sie_agent.identity_files import IdentityFilesError
from sie_agent.refusal import Refused
from sie_agent.spool import Spool, open_spool
from sie_agent.ssh_key import make_next_ssh_key, next_ssh_key, ssh_key, take_next_ssh_key
from sie_agent.uplink import State, Uplink, uplink_of
from sie_core.trampoline import AlertLevel

from .conftest import program

TRANSACTIONS = 10


@dataclass
class Memory:
    """A drop whose hub stores when the test says so."""

    files: dict[str, bytes] = field(default_factory=dict)
    stored: int = 0
    digest: bytes | None = None
    puts: list[str] = field(default_factory=list)
    accounts: list[Mapping[str, int]] = field(default_factory=list)
    fails: bool = False

    def position(self, _stream: int) -> Position:
        return Position(self.stored, self.digest)

    def names(self) -> frozenset[str]:
        return frozenset(self.files)

    def put(self, name: str, data: bytes) -> None:
        if self.fails:
            raise OSError("Failure")
        self.puts.append(name)
        self.files[name] = data

    def put_accounts(self, counters: Mapping[str, int]) -> None:
        self.accounts.append(counters)

    def take_in(self) -> None:
        """What the hub does."""
        for name in sorted(self.files):
            self.stored = max(self.stored, int(name.split(".")[1]))
        self.files.clear()


@dataclass
class Watching:
    """What a session tells of itself."""

    positions: list[int] = field(default_factory=list)
    octets: int = 0

    def opened(self, position: int) -> None:
        self.positions.append(position)

    def sent(self, octets: int) -> None:
        self.octets += octets

    def alerted(self, level: AlertLevel, text: str) -> None:
        raise AssertionError((level, text))

    def progressed(self) -> None:
        pass

    def accounts(self) -> Mapping[str, int]:
        return {"captured": 7}


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with open_spool(tmp_path / "spool", 1 << 30) as opened:
        yield opened


def fill(spool: Spool, count: int) -> None:
    for _ in range(count):
        spool.append(b"container %d" % spool.next_sequence, TRANSACTIONS)


@asynccontextmanager
async def carrying(memory: Memory, spool: Spool, window: int = 4) -> AsyncIterator[DropSession]:
    session = DropSession(memory, spool, Watching(), window=window, window_bytes=1 << 20, poll=0.01)
    task = asyncio.create_task(session.run())
    yield session
    await session.finish(1)
    await asyncio.wait_for(task, 5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in threads
            await asyncio.sleep(0.005)


async def test_a_file_in_the_drop_is_not_acknowledged_until_the_hub_has_stored_it(spool: Spool) -> None:
    """And no more than a window of them is there, so that a hub that takes nothing fills the spool alone."""
    memory = Memory()
    fill(spool, 10)
    async with carrying(memory, spool) as session:
        await until(lambda: len(memory.files) == 4)
        assert session.in_flight == 4
        assert (spool.ledger.acknowledged, spool.ledger.pending) == (0, 100)
        while spool.ledger.pending:
            memory.take_in()
            await asyncio.sleep(0.005)
    assert spool.ledger.acknowledged == 100
    names = [file_name(spool.stream, sequence, TRANSACTIONS) for sequence in range(1, 11)]
    assert memory.puts == names == sorted(names)
    assert memory.accounts[0] == {"captured": 7}


async def test_a_session_begins_where_the_hub_is_and_puts_nothing_there_twice(spool: Spool) -> None:
    fill(spool, 6)
    waiting = file_name(spool.stream, 4, TRANSACTIONS)
    memory = Memory({waiting: b"container 4"}, stored=3)
    async with carrying(memory, spool):
        await until(lambda: len(memory.files) == 3)
        memory.take_in()
        await until(lambda: spool.ledger.pending == 0)
    assert memory.puts == [file_name(spool.stream, sequence, TRANSACTIONS) for sequence in (5, 6)]


async def test_another_machine_s_container_at_the_position_is_a_conflict_at_any_time(spool: Spool) -> None:
    """Two copies of one machine deliver side by side; what the other one has put there is not this one's."""
    fill(spool, 3)
    memory = Memory()
    session = DropSession(memory, spool, Watching(), window=4, window_bytes=1 << 20, poll=0.01)
    running = asyncio.create_task(session.run())
    await until(lambda: len(memory.puts) == 3)
    memory.digest = hashlib.sha256(b"the other machine's").digest()
    memory.take_in()
    with pytest.raises(Refused, match="holds another container 3 of stream"):
        await running
    assert session.conflict
    assert spool.ledger.pending_containers == 3


async def test_one_s_own_container_at_the_position_is_none(spool: Spool) -> None:
    fill(spool, 3)
    entry = spool.held(3)
    assert entry is not None
    memory = Memory(stored=3, digest=hashlib.sha256(spool.read(entry) or b"").digest())
    async with carrying(memory, spool):
        await until(lambda: spool.ledger.pending == 0)
    assert memory.puts == []


async def test_a_position_beyond_what_was_made_is_a_conflict(spool: Spool) -> None:
    fill(spool, 3)
    for position, conflict in ((3, False), (4, True)):
        session = DropSession(Memory(stored=position), spool, Watching(), window=4, window_bytes=100)
        if conflict:
            with pytest.raises(Refused, match="its state is older than the hub's"):
                await session.run()
        else:
            await session.finish(0)
            await session.run()
        assert session.conflict is conflict


async def test_a_drop_that_takes_nothing_ends_the_session_and_loses_nothing(spool: Spool) -> None:
    fill(spool, 2)
    session = DropSession(Memory(fails=True), spool, Watching(), window=4, window_bytes=1000)
    with pytest.raises(OSError, match="Failure"):
        await session.run()
    assert spool.ledger.pending == 20
    memory = Memory()
    async with carrying(memory, spool):
        await until(lambda: len(memory.files) == 2)


# --- the key ----------------------------------------------------------------------------------------------


def test_the_key_is_made_once_readable_by_its_owner_alone(tmp_path: Path) -> None:
    made = ssh_key(tmp_path / "identity")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert ssh_key(tmp_path / "identity") == made
    loaded = paramiko.Ed25519Key.from_private_key_file(str(made.path))
    assert made.public == f"ssh-ed25519 {loaded.get_base64()}"
    assert made.fingerprint == loaded.fingerprint


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_root_makes_keys_of_the_agent_s_own_below_a_directory_that_the_agent_cannot_pass(
    tmp_path: Path,
) -> None:
    """As it is under systemd: /var/lib/private is root's alone, what is in it the unit's user's."""
    private = tmp_path / "private"
    identity, victim = private / "identity", private / "victim"
    private.mkdir(mode=0o700)
    identity.mkdir(mode=0o700)
    os.chown(identity, 64123, 64124)
    here = Path.cwd()
    made = make_next_ssh_key(identity, "isp_a/ns1")
    assert ssh_key(identity).path == identity / "ssh_ed25519"
    assert next_ssh_key(identity) == made.key
    assert take_next_ssh_key(identity).public == made.key.public
    assert (next_ssh_key(identity), Path.cwd(), os.geteuid()) == (None, here, 0)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in identity.iterdir()} == {(64123, 64124)}

    victim.mkdir()
    identity.rename(private / "before")
    identity.symlink_to(victim)
    with pytest.raises(IdentityFilesError, match="Not a directory"):
        ssh_key(identity)
    assert list(victim.iterdir()) == []


def test_a_file_that_is_no_key_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ssh_ed25519").write_text("no key")
    with pytest.raises(IdentityFilesError, match="move it away"):
        ssh_key(tmp_path)
    assert (tmp_path / "ssh_ed25519").read_text() == "no key"


def config_with_drop(file: Path, known_hosts: str = "/nonexistent") -> Path:
    text = file.read_text().replace('hubs: ["wss://127.0.0.1:1"]', "drop: sftp://sie-00000007@127.0.0.1:1")
    file.write_text(text.replace("window: 4", f"window: 4, known_hosts: {known_hosts}"))
    return file


def test_the_command_prints_the_public_half_and_nothing_else(config_file: Callable[..., Path]) -> None:
    file = config_with_drop(config_file())
    first, second = (program("identity", "ssh-key", "--config", file) for _ in range(2))
    assert first.returncode == 0
    assert first.stdout == second.stdout
    assert first.stdout.startswith("ssh-ed25519 ")
    assert first.stdout.endswith(" isp_a/ns1\n")


# --- the uplink -------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(config: AgentConfig, spool: Spool) -> AsyncIterator[Uplink]:
    uplink = uplink_of(config)(config, spool, dict, lambda: None)
    task = asyncio.create_task(uplink.run())
    yield uplink
    await uplink.stop()
    await asyncio.wait_for(task, 5)


async def test_a_server_that_cannot_be_checked_is_not_spoken_to(
    config_file: Callable[..., Path], spool: Spool
) -> None:
    config = load_config(config_with_drop(config_file()))
    async with running(config, spool) as uplink:
        assert isinstance(uplink, DropUplink)
        await until(lambda: uplink.state is State.REFUSED)
        assert "/nonexistent cannot be used to check the hub" in str(uplink.last_error)
        assert uplink.hub == "sftp://sie-00000007@127.0.0.1:1"


async def test_nobody_there_is_said_and_tried_again(
    config_file: Callable[..., Path], spool: Spool, tmp_path: Path
) -> None:
    (tmp_path / "known_hosts").write_text("")
    config = load_config(config_with_drop(config_file(), str(tmp_path / "known_hosts")))
    async with running(config, spool) as uplink:
        await until(lambda: uplink.counts.failures >= 2)
        assert uplink.state in (State.UNREACHABLE, State.CONNECTING)


async def test_a_server_that_says_nothing_does_not_hold_up_the_end(
    config_file: Callable[..., Path], spool: Spool, tmp_path: Path
) -> None:
    connected: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _reader, writer: connected.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    (tmp_path / "known_hosts").write_text("")
    file = config_with_drop(config_file(), str(tmp_path / "known_hosts"))
    file.write_text(file.read_text().replace("@127.0.0.1:1", f"@127.0.0.1:{port}"))
    async with running(load_config(file), spool):
        await until(lambda: bool(connected))
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 2
    for writer in connected:
        writer.close()
        await writer.wait_closed()
    silent.close()
    await silent.wait_closed()
    await until(lambda: not any(thread.name == "Drop" for thread in threading.enumerate()))
