"""What preflight sees of port 53 on the resolver's own host, and what it says of that."""

import importlib.util
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from tests.unit.test_sensor_settings import ROLE, holds, rendered

RESOLVER, CLIENT, SERVER = "192.0.2.53", "192.0.2.99", "198.51.100.1"
RESOLVER_V6, SERVER_V6 = "2001:db8::53", "2001:db8:1::1"
SECONDS = 0.2
ANSWERED, SILENT, COMPLAINED, UNFINISHED = "0", "1", "2", "-"
COMPLAINT = "the response code 2 from 192.0.2.53 to a look-up of preflight-1.probe.example"
TASKS = {task["name"]: task for task in yaml.safe_load((ROLE / "tasks/port53.yml").read_text())}
NO_RESOLVER = "Refuse a host on which there is no resolver"
HALF = "Refuse an interface that shows half of port 53, or nothing"
NOT_YET = "Say that port 53 was not seen yet"
UNBOUND = {"name": "unbound", "running": True, "unseen": None}


@pytest.fixture(scope="module")
def sight() -> ModuleType:
    """The program, as a module."""
    spec = importlib.util.spec_from_file_location("sight", ROLE / "files/sight.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Where frames are put, and where they arrive as at an interface."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    yield ends
    for end in ends:
        end.close()


def frame(source: str, source_port: int, target: str, target_port: int, tags: bytes = b"") -> bytes:
    """A datagram without content, in an Ethernet frame, behind VLAN tags if there are any."""
    addresses = ip_address(source).packed + ip_address(target).packed
    udp = struct.pack("!4H", source_port, target_port, 8, 0)
    if ":" in source:
        packet = b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + addresses
    else:
        packet = b"\x08\x00" + struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + addresses
    return bytes(12) + tags + packet + udp


QUESTION, ANSWER = frame(RESOLVER, 4711, SERVER, 53), frame(SERVER, 53, RESOLVER, 4711)


def listed(address: IPv4Address | IPv6Address) -> bool:
    return str(address) in (RESOLVER, RESOLVER_V6)


@pytest.mark.parametrize(
    ("frames", "seen"),
    [
        ([QUESTION, ANSWER], (1, 1)),
        ([frame(RESOLVER_V6, 4711, SERVER_V6, 53), frame(SERVER_V6, 53, RESOLVER_V6, 4711)], (1, 1)),
        ([QUESTION, frame(SERVER, 53, RESOLVER, 4711, tags=b"\x81\x00\x00\x07")], (1, 1)),
        ([QUESTION, QUESTION], (2, 0)),
        ([ANSWER], (0, 1)),
        ([frame(CLIENT, 4711, RESOLVER, 53), frame(RESOLVER, 53, CLIENT, 4711)], (0, 0)),
        ([frame(RESOLVER, 4711, SERVER, 853), frame(SERVER, 853, RESOLVER, 4711)], (0, 0)),
        ([b"", b"\0" * 13, QUESTION[:30]], (0, 0)),
    ],
)
def test_questions_of_the_resolver_and_their_answers_are_counted(
    sight: ModuleType,
    wire: tuple[socket.socket, socket.socket],
    frames: list[bytes],
    seen: tuple[int, int],
) -> None:
    for one in frames:
        wire[0].send(one)
    assert sight.watched([wire[1]], SECONDS, listed) == seen


def test_directions_may_come_by_two_interfaces(
    sight: ModuleType, wire: tuple[socket.socket, socket.socket]
) -> None:
    other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with other[0], other[1]:
        wire[0].send(QUESTION)
        other[0].send(ANSWER)
        began = time.monotonic()
        assert sight.watched([wire[1], other[1]], 60.0, listed) == (1, 1)
        assert time.monotonic() - began < 30.0


def test_an_answer_has_its_time_even_if_the_question_came_late(
    sight: ModuleType, wire: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, question_comes, answer_comes = [0.0, 0.1, 0.1], [0.9], [1.5, 1.5]
    clock = iter([*begins, *question_comes, *answer_comes])
    monkeypatch.setattr(sight, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    for one in (QUESTION, ANSWER):
        wire[0].send(one)
    assert sight.watched([wire[1]], 1.0, listed) == (1, 1)


@pytest.mark.parametrize(
    ("seen", "chosen", "told"),
    [
        ((1, 1, UNFINISHED), {}, None),
        ((1, 1, ANSWERED), {"sensor_probe_zone": ""}, None),
        ((7, 2, SILENT), {"known": []}, None),
        ((0, 0, ANSWERED), {}, HALF),
        ((0, 0, COMPLAINED), {}, HALF),
        ((3, 0, SILENT), {}, HALF),
        ((0, 4, ANSWERED), {"sensor_probe_zone": ""}, HALF),
        ((0, 0, ANSWERED), {"sensor_probe_zone": ""}, NOT_YET),
        ((0, 0, ANSWERED), {"sensor_probe_zone": "", "known": []}, NOT_YET),
        ((0, 0, COMPLAINED), {"sensor_probe_from": "resolver1", "known": []}, NOT_YET),
        ((0, 0, SILENT), {}, NOT_YET),
        ((0, 0, UNFINISHED), {"sensor_probe_zone": ""}, NOT_YET),
        ((0, 0, SILENT), {"known": []}, NO_RESOLVER),
        ((0, 0, UNFINISHED), {"known": [], "sensor_probe_zone": ""}, NO_RESOLVER),
    ],
)
def test_what_was_seen_is_judged(
    seen: tuple[int, int, str], chosen: dict[str, object], told: str | None
) -> None:
    questions, answers, code = seen
    variables: dict[str, object] = {
        "inventory_hostname": "ns1",
        "ansible_facts": {
            "interfaces": ["lo", "eth0", "eth1"],
            "all_ipv4_addresses": [RESOLVER],
            "all_ipv6_addresses": ["fe80::1"],
        },
        "sensor_interface": "eth1",
        "sensor_resolvers": ["host"],
        "sensor_probe_zone": "probe.example",
        "sensor_sight": {
            "stdout": f"{questions} {answers} {code}",
            "stderr_lines": [COMPLAINT] if code == COMPLAINED else [],
        },
        "sensor_host_resolvers": {"resolvers": chosen.get("known", [UNBOUND])},
        **chosen,
    }
    passed = {
        name: holds(TASKS[name]["ansible.builtin.assert"]["that"], **variables)
        for name in (NO_RESOLVER, HALF)
    }
    refusing = next((name for name, passes in passed.items() if not passes), None)
    assert (refusing or (NOT_YET if holds(TASKS[NOT_YET]["when"], **variables) else None)) == told
    if told is None:
        return
    task = TASKS[told]
    text = (
        task["ansible.builtin.debug"]["msg"]
        if told == NOT_YET
        else task["ansible.builtin.assert"]["fail_msg"]
    )
    said = rendered(text, **variables).strip()
    assert "eth1" in said
    assert "ns1" in said
    assert said.endswith(".")
    assert "\n" not in said
    assert " ;" not in said
    assert (COMPLAINT in said) is (told == HALF and code == COMPLAINED)
    if told == HALF:
        assert f"eth1 showed {questions} packets from sensor_resolvers to port 53 and {answers} back" in said
        assert "of eth0, eth1, and" in said
    if told == NO_RESOLVER:
        assert "nothing answers at 192.0.2.53, 127.0.0.1, ::1, and eth1" in said


@pytest.mark.parametrize(
    ("chosen", "asked"),
    [
        ({"sensor_resolvers": ["host"]}, ["192.0.2.8", "2001:db8::8", "127.0.0.1", "::1"]),
        (
            {"sensor_resolvers": ["192.0.2.0/29", "2001:db8::53"]},
            ["2001:db8::53", "192.0.2.8", "2001:db8::8", "127.0.0.1", "::1"],
        ),
        ({"sensor_resolvers": ["host"], "sensor_probe_resolver": "127.0.0.1"}, ["127.0.0.1"]),
        ({"sensor_resolvers": [RESOLVER], "sensor_vantage": "span"}, [RESOLVER]),
    ],
)
def test_the_resolver_is_asked_wherever_it_may_answer(chosen: dict[str, object], asked: list[str]) -> None:
    own = {"all_ipv4_addresses": ["192.0.2.8"], "all_ipv6_addresses": ["2001:db8::8", "fe80::1"]}
    assert rendered("{{ sensor_probe_all }}", ansible_facts=own, **chosen) == asked


@pytest.mark.parametrize(
    ("identity", "captured", "looked"),
    [("valid", ["eth1"], False), ("valid", ["eth0"], True), ("valid", [], True), ("none", ["eth1"], True)],
)
def test_a_sensor_that_captures_there_already_is_not_looked_at_again(
    identity: str, captured: list[str], looked: bool
) -> None:
    (outer,) = [
        task
        for task in yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
        if task.get("ansible.builtin.import_tasks") == "port53.yml"
    ]
    found = {"identity": {"state": identity}, "sources": [{"interface": name} for name in captured]}
    variables: dict[str, object] = {"sensor_interface": "eth1", "sensor_found": found}
    assert holds(outer["when"], **variables) is looked
    assert not holds(outer["when"], **variables, sensor_sight_seconds=0)
    assert not holds(outer["when"], **variables, sensor_vantage="dnstap")
