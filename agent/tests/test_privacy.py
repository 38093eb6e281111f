"""What the agent writes, to a file or into its spool, holds nobody's address and no excluded name; and what
docs/explanation/privacy.md says of it is so.
"""

import asyncio
import json
import re
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from sie_agent.sentences import SENTENCES
from tests.agent_process import running
from tests.netns import Namespace, namespace
from tests.privacy.search import Written, named
from tests.privacy.traffic import (
    CLIENTS,
    EXCLUDED,
    HIDDEN,
    LOCAL_ZONES,
    RESOLVERS,
    SERVERS,
    Marks,
    MixedTraffic,
)
from tests.traffic.frames import Frame, read_pcap, udp_frame, write_pcap

from .conftest import REPOSITORY, program
from .hub import Authority, Hub
from .test_service import counted, put

ROUNDS = 8
PRIVACY = json.dumps({"local_zones": LOCAL_ZONES, "exclude_qname_regex": EXCLUDED})
BROKEN_QUESTION = bytes(5) + b"\1" + bytes(6) + b"\x3f"
"""A header that announces one question, and the first octet of a name that goes no further."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Marks]:
    """A file of mixed traffic and the marks in it."""
    pcap = tmp_path_factory.mktemp("mixed") / "mixed.pcap"
    traffic = MixedTraffic(seed=3)
    write_pcap(pcap, traffic.take(ROUNDS))
    return pcap, traffic.marks


@pytest.fixture
def wire() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def assert_private(written: Written, marks: Marks, resolvers: set[str]) -> None:
    """Nothing is in it that must not be, and the search finds what is to be there."""
    assert written.labels("secret") == set()
    assert written.strangers() == set()
    assert written.labels("public") == marks.public
    assert written.addresses(SERVERS) == marks.servers
    assert written.addresses(RESOLVERS) == resolvers


@pytest.mark.parametrize("form", [(), ("--compatible",), ("--uncompressed", "--keep-query-packets")])
@pytest.mark.parametrize("clear", [False, True])
def test_what_replay_writes(
    mixed: tuple[Path, Marks],
    config_file: Callable[..., Path],
    tmp_path: Path,
    form: tuple[str, ...],
    clear: bool,
) -> None:
    pcap, marks = mixed
    config = config_file(resolvers=json.dumps(RESOLVERS), more=f"privacy: {PRIVACY}")
    clearing = ["--clear-resolver-address"] if clear else []
    done = program(
        "replay", pcap, *clearing, *form, "--config", config, "--json", "--write", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    written = Path(json.loads(done.stdout.splitlines()[-1])["written"])
    assert_private(Written(written.read_bytes()), marks, set() if clear else set(RESOLVERS))


@pytest.mark.root
async def test_what_lies_on_the_disk_and_what_is_sent(
    wire: Namespace,
    mixed: tuple[Path, Marks],
    config_file: Callable[..., Path],
    authority: Authority,
    tmp_path: Path,
) -> None:
    """The containers hold what they may; all else that an agent writes, shows and sends holds nothing."""
    pcap, marks = mixed
    resolver, server = ip_address(RESOLVERS[0]), ip_address(SERVERS[0])
    last = udp_frame(resolver, 40000, server, 53, BROKEN_QUESTION)
    hub = Hub()
    hub.acknowledging.clear()
    listener = wire.inside(lambda: socket.create_server(("127.0.0.1", 0)))
    async with hub.listening(*authority.server(), authority.ca, sock=listener):
        config = config_file(
            f"wss://127.0.0.1:{listener.getsockname()[1]}",
            interface=wire.inner,
            encapsulated=True,
            resolvers=json.dumps(RESOLVERS),
            more=f"privacy: {PRIVACY}",
        )
        async with running(wire, config, tmp_path) as agent:
            await put(wire, [*read_pcap(pcap), last])
            status = await agent.until(lambda status: counted(status)["messages_rejected_malformed"] > 0)
            shown = [await asyncio.to_thread(agent.page, page) for page in ("status", "metrics")]
            await agent.stop()
        # Nothing is acknowledged, so that all of it is still there.
        spool = files_in(tmp_path / "spool")
        async with running(wire, config, tmp_path) as agent:
            hub.acknowledging.set()
            await agent.until(lambda status: status["pending"] == 0)
            await agent.stop()
    containers = [data for name, data in sorted(spool.items()) if name.endswith(".nmsg.zst")]
    assert_private(Written(b"".join(containers)), marks, set(RESOLVERS))
    sent = {data for _, data, _ in hub.stored[int(str(status["stream"]), 16)]}
    assert sent == set(containers)
    spool |= files_in(tmp_path / "spool")
    assert set(spool) >= {"stream.json", "position.json"}
    logs = [data for name, data in files_in(tmp_path).items() if name.startswith("log-")]
    assert len(logs) == 2
    besides = [message for message in hub.heard if not any(data in message for data in sent)]
    others = [data for name, data in spool.items() if not name.endswith(".nmsg.zst")]
    for octets in (*others, *logs, *shown, *besides, *(name.encode() for name in spool)):
        assert named(octets) == set()


def files_in(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def test_what_a_file_says_beside_its_packets(config_file: Callable[..., Path], tmp_path: Path) -> None:
    """Comments, names and addresses that capturing programs write down are not read; nor is what a file is
    called, or what is wrong with it, told in what leaves.
    """
    traffic = MixedTraffic(seed=4)
    frames = traffic.take(2)
    plain, talkative = tmp_path / "plain.pcap", tmp_path / f"secret-99999-of-{CLIENTS[0]}.pcapng"
    write_pcap(plain, frames)
    write_pcapng(talkative, frames)
    config = config_file(resolvers=json.dumps(RESOLVERS), more=f"privacy: {PRIVACY}")
    outputs = []
    for pcap in (plain, talkative):
        done = program("replay", pcap, "--config", config, "--write", tmp_path / f"{pcap.suffix[1:]}-out")
        assert done.returncode == 0, done.stderr
        outputs.append((tmp_path / f"{pcap.suffix[1:]}-out.nmsg.zst").read_bytes())
        assert named(f"{done.stdout}{done.stderr}".replace(str(pcap), "").encode()) == set()
    assert outputs[0] == outputs[1]
    assert_private(Written(outputs[1]), traffic.marks, set(RESOLVERS))


@pytest.mark.parametrize("damage", ["cut", "overwritten", "another link type"])
def test_what_is_said_of_a_file_that_is_damaged(
    mixed: tuple[Path, Marks], config_file: Callable[..., Path], tmp_path: Path, damage: str
) -> None:
    octets = bytearray(mixed[0].read_bytes())
    match damage:
        case "cut":
            del octets[len(octets) // 2 + 17 :]
        case "overwritten":
            octets[len(octets) // 2 :] = bytes(octet ^ 1 for octet in octets[len(octets) // 2 :])
        case _:
            octets[20:24] = struct.pack("<I", 147)
    pcap = tmp_path / "damaged.pcap"
    pcap.write_bytes(octets)
    config = config_file(resolvers=json.dumps(RESOLVERS), more=f"privacy: {PRIVACY}")
    done = program("replay", pcap, "--config", config)
    assert done.stdout or done.stderr
    assert named(f"{done.stdout}{done.stderr}".encode()) == set()


def write_pcapng(path: Path, frames: list[Frame]) -> None:
    """What nobody is to know stands beside section, interface, hosts and every packet."""
    private = f"secret-99998.corp.example {CLIENTS[0]} ".encode() + HIDDEN

    def padded(octets: bytes) -> bytes:
        return octets + bytes(-len(octets) % 4)

    def options(*numbers: int) -> bytes:
        each = [struct.pack("<HH", number, len(private)) + padded(private) for number in numbers]
        return b"".join(each) + bytes(4)

    def block(kind: int, body: bytes) -> bytes:
        length = struct.pack("<I", len(body) + 12)
        return struct.pack("<I", kind) + length + body + length

    client = ip_address(CLIENTS[0]).packed + b"secret-99997.corp.example\0"
    with path.open("wb") as file:
        file.write(block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + options(1, 2, 3, 4)))
        file.write(block(1, struct.pack("<HHI", 1, 0, 0) + options(1, 2, 3, 12)))
        file.write(block(4, struct.pack("<HH", 1, len(client)) + padded(client) + bytes(4) + options(1)))
        for frame in frames:
            time, size = round(frame.time * 1_000_000), len(frame.data)
            head = struct.pack("<IIIII", 0, time >> 32, time & 0xFFFFFFFF, size, size)
            file.write(block(6, head + padded(frame.data) + options(1)))


@pytest.mark.parametrize("command", ["replay", "explain"])
@pytest.mark.parametrize("everybody", [["0.0.0.0/0"], ["::/0"], ["0.0.0.0/1", "128.0.0.0/1"]])
def test_a_list_that_lets_everybody_in_is_refused_by_commands_too(
    mixed: tuple[Path, Marks], command: str, everybody: list[str]
) -> None:
    resolvers = [word for prefix in everybody for word in ("--resolver", prefix)]
    done = program(command, mixed[0], *resolvers)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "admit" in done.stderr
    told = program(command, mixed[0], *resolvers, "--admit-every-address")
    assert told.returncode == 0, told.stderr


class TestPage:
    """docs/explanation/privacy.md, read by people who cannot check it against the code."""

    page = (REPOSITORY / "docs" / "explanation" / "privacy.md").read_text()

    def test_quotes_what_explain_says(self) -> None:
        quoted = re.findall(r'`((?:packets|messages)_\w+)`: "([^"]+)"', self.page)
        assert len(quoted) > 5
        assert [line for line in quoted if line[1] not in SENTENCES[line[0]]] == []

    def test_names_every_rule(self) -> None:
        rules = {name for name in SENTENCES if "_filtered_" in name}
        elsewhere = {"packets_filtered_port", "packets_filtered_protocol"}  # what is no DNS at all
        assert {rule for rule in rules - elsewhere if f"`{rule}`" not in self.page} == set()

    def test_names_files_that_are_there(self) -> None:
        sources = REPOSITORY / "core" / "crates" / "passive_dns" / "src"
        named = [sources / name for name in re.findall(r"`(\w+\.rs)`", self.page)]
        named += [REPOSITORY / path for path in re.findall(r"`((?:core|agent|molecule)/[\w/.]+)`", self.page)]
        assert len(named) > 10
        assert [path for path in named if not path.exists()] == []

    def test_says_what_units_say_of_core_dumps(self) -> None:
        said = re.search(r"`(LimitCORE=0)` in its unit", self.page)
        assert said is not None
        for role in ("sensor", "hub"):
            sandbox = REPOSITORY / "roles" / role / "templates" / "sandbox.j2"
            assert said[1] in sandbox.read_text().splitlines()
