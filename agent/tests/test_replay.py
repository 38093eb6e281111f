"""`sie-agent replay`: exactly the transactions of a file, counted by type and outcome, without a
configuration.
"""

import asyncio
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sie_agent.stages import STAGES
from sie_core._native import decode
from sie_core.closed_output import EXIT_CLOSED

from .conftest import Traffic, program
from .hub import Authority, Hub


def replay_json(traffic: Traffic, *arguments: str | Path) -> dict[str, Any]:
    """Replay generated traffic; returns the JSON that the command ends with."""
    resolvers = [word for address in traffic.resolvers for word in ("--resolver", address)]
    done = program("replay", traffic.pcap, *resolvers, "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def test_counts_are_the_truth_and_add_up(traffic: Traffic, tmp_path: Path) -> None:
    report = replay_json(traffic, "--write", tmp_path / "out.nmsg.zst")
    assert_equations(report)
    packets, transactions = report["packets"], report["transactions"]
    assert packets["seen"] == traffic.packets
    assert transactions["total"] == traffic.transactions
    assert transactions["unanswered_query"] == traffic.unanswered
    assert report["written"] == str(tmp_path / "out.nmsg.zst")
    written = (tmp_path / "out.nmsg.zst").read_bytes()
    assert report["octets"] == len(written)
    assert written[:4] == b"\x28\xb5\x2f\xfd"  # a zstd frame (RFC 8878 section 3.1.1)
    messages = decode(written, limit=1 << 26)
    assert len(messages) == traffic.transactions
    assert {(message["vid"], message["msgtype"]) for message in messages} == {(1, 9)}
    assert not any(message["message"]["query_packet"] for message in messages)


def assert_equations(report: dict[str, Any]) -> None:
    """In every stage each unit has one outcome, and what goes on is what the next stage has."""
    for stage in STAGES:
        if stage in report:
            document = dict(report[stage])
            seen = document.pop("seen")
            parts = (sum(v.values()) if isinstance(v, dict) else v for v in document.values())
            assert seen == sum(parts), (stage, report[stage])
    transactions = dict(report["transactions"])
    filtered = transactions.pop("filtered", {})
    assert transactions.pop("total") == sum(transactions.values())
    recorded = report.get("messages", report["packets"])["recorded"]
    everything = {name: count + filtered.get(name, 0) for name, count in transactions.items()}
    assert recorded == (
        2 * everything["query_response"] + everything["unanswered_query"] + everything["unsolicited_response"]
    )


def test_compatible_is_zlib_with_the_packets_of_queries(traffic: Traffic, tmp_path: Path) -> None:
    report = replay_json(traffic, "--write", tmp_path / "out", "--compatible")
    assert report["written"] == str(tmp_path / "out.nmsg")
    written = (tmp_path / "out.nmsg").read_bytes()
    assert written[:6] == b"NMSG\x01\x02"  # compressed, version 2
    messages = decode(written, limit=1 << 26)
    assert len(messages) == traffic.transactions
    answered = [message["message"] for message in messages]
    assert all(message["query_packet"] for message in answered if message["type"] == "UDP_QUERY_RESPONSE")


def test_uncompressed_is_what_the_frames_hold(traffic: Traffic, tmp_path: Path) -> None:
    plain = replay_json(traffic, "--write", tmp_path / "plain", "--uncompressed")
    framed = replay_json(traffic, "--write", tmp_path / "framed.nmsg")
    assert (plain["written"], framed["written"]) == (
        str(tmp_path / "plain.nmsg"),
        str(tmp_path / "framed.nmsg.zst"),
    )
    unpacked = subprocess.run(
        ["zstd", "-dc", tmp_path / "framed.nmsg.zst"], capture_output=True, check=True
    ).stdout
    # A compressed container may hold its transactions in another order.
    by_time = [
        sorted(decode(data, limit=1 << 26), key=lambda message: (message["time_nsec"], repr(message)))
        for data in (unpacked, (tmp_path / "plain.nmsg").read_bytes())
    ]
    assert by_time[0] == by_time[1]
    assert len(unpacked) == (tmp_path / "plain.nmsg").stat().st_size
    assert plain["containers"] == framed["containers"]


def test_compatible_and_uncompressed_is_the_reference_tools_output(vectors: Path, tmp_path: Path) -> None:
    pcap, out = vectors / "nmsg" / "test1-dnsqr.pcap", tmp_path / "out.nmsg"
    done = program(
        "replay", pcap, "--resolver", "203.0.113.195", "--admit-recursion-desired", "--keep-edns-options",
        "--source", "0x19721976", "--write", out, "--compatible", "--uncompressed",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == (vectors / "nmsg" / "test1-dnsqr.nmsg").read_bytes()


def test_what_is_written_is_its_owners_alone(traffic: Traffic, tmp_path: Path) -> None:
    old, umask = tmp_path / "old.nmsg.zst", os.umask(0)
    try:
        old.write_bytes(b"x" * (1 << 20))
        old.chmod(0o666)
        replay_json(traffic, "--write", old)
        replay_json(traffic, "--write", tmp_path / "new.nmsg.zst")
    finally:
        os.umask(umask)
    assert [path.stat().st_mode & 0o777 for path in (old, tmp_path / "new.nmsg.zst")] == [0o600, 0o600]
    assert old.read_bytes() == (tmp_path / "new.nmsg.zst").read_bytes()


def test_standard_output(traffic: Traffic, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sie_agent.cli", "replay", str(traffic.pcap), "--resolver", "192.0.2.53"]
    done = subprocess.run([*command, "--write", "-", "--json"], capture_output=True, check=True)
    report = json.loads(done.stderr)
    assert report["written"] == "-"
    assert len(decode(done.stdout, limit=1 << 26)) == report["transactions"]["total"]


@pytest.mark.parametrize("arguments", [["--json"], ["--write", "-"]])
def test_a_reader_that_has_gone_is_no_failure(traffic: Traffic, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "sie_agent.cli", "replay", str(traffic.pcap), "--resolver", "192.0.2.53"]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (EXIT_CLOSED, "")


def test_a_full_disk_is_one_sentence(traffic: Traffic) -> None:
    done = program("replay", traffic.pcap, "--resolver", "192.0.2.53", "--write", "-", stdout="/dev/full")
    assert done.returncode == 1
    assert done.stderr == (
        "sie-agent: --write -: No space left on device; what was written before is there\n"
    )


def test_a_pace_that_is_asked_for_is_kept(traffic: Traffic) -> None:
    whole = replay_json(traffic)
    frames = list(records(traffic.pcap.read_bytes()))
    last = frames[-1][0] - frames[0][0]
    begun = time.monotonic()
    paced = replay_json(traffic, "--speed", f"{last / 0.5:.3f}")
    assert time.monotonic() - begun >= 0.5
    assert {**paced, "containers": 0, "octets": 0} == {**whole, "containers": 0, "octets": 0}


def records(data: bytes) -> Iterator[tuple[float, bytes]]:
    """The packets of a little-endian pcap file in microseconds, with their times."""
    offset = 24
    while offset < len(data):
        seconds, fraction, length, _ = struct.unpack_from("<IIII", data, offset)
        yield seconds + fraction / 1e6, data[offset + 16 : offset + 16 + length]
        offset += 16 + length


def test_a_clock_that_jumps_either_way_loses_nothing(traffic: Traffic, tmp_path: Path) -> None:
    data = traffic.pcap.read_bytes()
    packets = list(records(data))
    thirds = len(packets) // 3
    jumping = tmp_path / "jumping.pcap"
    with jumping.open("wb") as file:
        file.write(data[:24])
        for number, (when, packet) in enumerate(packets):
            jump = (0, 10, -10)[min(number // thirds, 2)] * 365 * 86400
            seconds = int(when) + jump
            file.write(struct.pack("<IIII", seconds, int(when % 1 * 1e6), len(packet), len(packet)) + packet)
    resolvers = [word for address in traffic.resolvers for word in ("--resolver", address)]
    done = program("replay", jumping, *resolvers, "--write", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert_equations(report)
    assert report["packets"]["seen"] == traffic.packets
    steady = replay_json(traffic)["transactions"]
    # What waited when the clock jumped is given up at once; everything else finds its other half.
    split = report["transactions"]["unsolicited_response"] - steady["unsolicited_response"]
    assert split == steady["query_response"] - report["transactions"]["query_response"]
    assert 0 <= split < 40
    messages = decode((tmp_path / "out.nmsg.zst").read_bytes(), limit=1 << 26)
    assert len(messages) == report["transactions"]["total"]


def test_stamps_are_the_payloads(traffic: Traffic, tmp_path: Path) -> None:
    replay_json(
        traffic, "--write", tmp_path / "x", "--source", "0xa1ba02cf", "--operator", "1", "--group", "7"
    )
    messages = decode((tmp_path / "x.nmsg.zst").read_bytes(), limit=1 << 26)
    assert {(m["source"], m["operator"], m["group"]) for m in messages} == {(0xA1BA02CF, 1, 7)}


def test_without_json_it_is_a_table(traffic: Traffic) -> None:
    done = program("replay", traffic.pcap, "--resolver", "192.0.2.53")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert re.fullmatch(rf"packets seen +{traffic.packets}", lines[1])
    assert any(line.startswith("    direction ") for line in lines)
    assert len({re.search(r"[0-9]+(?= of |$)", line).end() for line in lines[1:]}) == 1  # type: ignore[union-attr]


def test_the_reference_tools_file(vectors: Path, tmp_path: Path) -> None:
    pcap, out = vectors / "nmsg" / "test1-dnsqr.pcap", tmp_path / "out.nmsg"
    done = program("replay", pcap, "--resolver", "203.0.113.195", "--write", out, "--uncompressed", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["packets"]["seen"] == 10
    # Two of the five queries of this file have RD=1, which is no resolver's upstream traffic.
    assert report.get("messages", report["packets"])["filtered"]["rd"] == 4
    lines = (vectors / "nmsg" / "test1-dnsqr.json").read_text().splitlines()
    reference = [json.loads(line)["message"] for line in lines]
    fields = ("type", "query_port", "id", "qtype_number", "response_time_nsec")
    numbers = {"TXT": 16, "A": 1, "SOA": 6}
    expected = [
        tuple({**message, "qtype_number": numbers.get(message["qtype"])}[field] for field in fields)
        for message in reference
    ]
    ours = [
        tuple({**entry["message"], "qtype_number": entry["message"]["qtype"]}[field] for field in fields)
        for entry in decode(out.read_bytes())
    ]
    assert ours == expected[2:]


@pytest.mark.skipif(shutil.which("nmsgtool") is None, reason="nmsgtool is not installed (Debian: nmsgtool)")
def test_nmsgtool_reads_what_is_written(traffic: Traffic, tmp_path: Path) -> None:
    replay_json(traffic, "--write", tmp_path / "out.nmsg", "--compatible")
    read = subprocess.run(
        ["nmsgtool", "-r", str(tmp_path / "out.nmsg"), "-J", "-"], capture_output=True, text=True, check=True
    )
    assert len(read.stdout.splitlines()) == traffic.transactions


def test_a_truncated_file_gives_what_it_had_and_a_warning(traffic: Traffic, tmp_path: Path) -> None:
    whole = traffic.pcap.read_bytes()
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(whole[: len(whole) // 2])
    done = program("replay", cut, "--resolver", "192.0.2.53", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert 0 < report["packets"]["seen"] < traffic.packets
    assert report["warning"].startswith("truncated after ")
    assert done.stderr == f"sie-agent: warning: {report['warning']}\n"


def test_standard_input(traffic: Traffic) -> None:
    command = [sys.executable, "-m", "sie_agent.cli", "replay", "-", "--resolver", "192.0.2.53", "--json"]
    with traffic.pcap.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, check=True)
    assert json.loads(done.stdout)["packets"]["seen"] == traffic.packets


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["FILE"], 2, "name the resolvers whose traffic the file holds: --resolver A"),
        (["FILE", "--resolver", "ns1.example"], 2, "ns1.example"),
        (["FILE", "--send"], 2, "--send needs --config FILE"),
        (["FILE", "--config", "agent.yml", "--send", "--write", "x"], 2, "exclude each other"),
        (["FILE", "--config", "agent.yml", "--send", "--keep-edns-options"], 2, "may tell of clients"),
        (["FILE", "--config", "agent.yml", "--send", "--admit-recursion-desired"], 2, "may tell of clients"),
        (["FILE", "--resolver", "192.0.2.53", "--compatible"], 2, "--compatible says how --write OUT writes"),
        (["absent.pcap", "--resolver", "192.0.2.53"], 1, "absent.pcap"),
        (["/etc/passwd", "--resolver", "192.0.2.53"], 1, "/etc/passwd"),
        (
            ["FILE", "--resolver", "192.0.2.53", "--write", "/absent/out"],
            2,
            "--write /absent/out.nmsg.zst: No such file",
        ),
        (["FILE", "--config", "/absent.yml"], 2, "/absent.yml: cannot be read: No such file or directory"),
    ],
)
def test_mistakes_are_one_sentence(traffic: Traffic, arguments: list[str], code: int, sentence: str) -> None:
    done = program("replay", *(str(traffic.pcap) if word == "FILE" else word for word in arguments))
    assert done.returncode == code
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_configuration_gives_resolvers_and_settings(
    traffic: Traffic, config_file: Callable[..., Path]
) -> None:
    done = program("replay", traffic.pcap, "--config", config_file(), "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["transactions"]["total"] == traffic.transactions
    assert report["containers"] > 10  # of 32 KiB each, as the file says


def test_a_replay_to_a_file_loads_neither_tls_nor_http(traffic: Traffic) -> None:
    code = (
        "import sys; from sie_agent.cli import main; "
        f"main(['replay', {str(traffic.pcap)!r}, '--resolver', '192.0.2.53', '--json']); "
        "print(sorted({'ssl', 'http', 'asyncio', 'websockets', 'yaml', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--speed", "0", "'0' is neither max nor a number from 0.001 to 1000000"),
        ("--speed", "fast", "'fast' is neither max nor a number"),
        ("--source", "0x100000000", "'0x100000000' is no number from 0 to 0xffffffff"),
    ],
)
def test_values_that_are_none(traffic: Traffic, option: str, value: str, sentence: str) -> None:
    done = program("replay", traffic.pcap, "--resolver", "192.0.2.53", option, value)
    assert done.returncode == 2
    assert sentence in done.stderr


async def run_program(*arguments: str | Path) -> tuple[int, str, str]:
    """Run `sie-agent` to its end, while this process serves as its hub."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sie_agent.cli",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_send_delivers_every_transaction_once(
    traffic: Traffic, config_file: Callable[..., Path], authority: Authority
) -> None:
    hub = Hub()
    async with hub.listening(*authority.server(), authority.ca):
        code, out, err = await run_program(
            "replay", traffic.pcap, "--config", config_file(hub.url), "--send", "--json"
        )
    assert code == 0, err
    report = json.loads(out)
    ledger = report["ledger"]
    assert ledger["captured"] == ledger["acknowledged"] == traffic.transactions == hub.transactions
    assert (ledger["pending"], ledger["trimmed"]) == (0, 0)
    (stream,) = hub.stored.values()
    delivered = [message for _, data, _ in stream for message in decode(data)]
    assert len(delivered) == traffic.transactions
    assert "connected to" in err
    assert hub.finished == 1


async def test_send_waits_for_a_hub_and_goes_on_where_it_stopped(
    traffic: Traffic, config_file: Callable[..., Path], authority: Authority
) -> None:
    hub = Hub()
    hub.acknowledging.clear()
    async with hub.listening(*authority.server(), authority.ca):
        arguments = ("replay", traffic.pcap, "--config", config_file(hub.url), "--send", "--json")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sie_agent.cli",
            *map(str, arguments),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        await hub.until(lambda: len(hub.received) == 4)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 1
        assert b"transactions unacknowledged: they stay in the spool" in err
        status = program("status", "--config", config_file(hub.url), "--json")
        pending = json.loads(status.stdout)["pending"]
        assert pending > 0
        hub.acknowledging.set()
        empty = traffic.pcap.parent / "empty.pcap"
        empty.write_bytes(traffic.pcap.read_bytes()[:24])
        code, out, _ = await run_program(
            "replay", empty, "--config", config_file(hub.url), "--send", "--json"
        )
    assert code == 0
    ledger = json.loads(out)["ledger"]
    assert ledger["acknowledged"] == hub.transactions == pending


PIPES = {"plain": ("cat",), "gzip": ("gzip", "-c"), "zstd": ("zstd", "-c"), "xz": ("xz", "-c")}


def packed(traffic: Traffic, compressor: str) -> bytes:
    octets = traffic.pcap.read_bytes()
    return subprocess.run(PIPES[compressor], input=octets, stdout=subprocess.PIPE, check=True).stdout


def await_the_pipe(process: subprocess.Popen[bytes], more: Callable[[], bool]) -> None:
    """Wait until it waits for its pipe: a thread of that name does, and whatever `more` says has come."""
    tasks = Path(f"/proc/{process.pid}/task")
    end = time.monotonic() + 20
    while not (any((task / "comm").read_text() == "pipe\n" for task in tasks.iterdir()) and more()):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("compressor", "share", "number"),
    [
        *((compressor, 0.5, signal.SIGINT) for compressor in PIPES),
        ("gzip", 0.0, signal.SIGINT),
        ("gzip", 0.5, signal.SIGTERM),
    ],
)
def test_a_pipe_that_says_nothing_keeps_nobody_from_stopping(
    traffic: Traffic, tmp_path: Path, compressor: str, share: float, number: signal.Signals
) -> None:
    octets = packed(traffic, compressor)
    out = tmp_path / "out.nmsg"
    command = ["replay", "-", "--resolver", "192.0.2.53", "--uncompressed", "--write", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "sie_agent.cli", *command], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(octets[: int(share * len(octets))])
        process.stdin.flush()
        # Of xz so little comes out only once all of it is in.
        await_the_pipe(process, lambda: out.exists() or share == 0 or compressor == "xz")
        begun = time.monotonic()
        process.send_signal(number)
        # Its standard input stays open.
        process.wait(10)
        assert time.monotonic() - begun < 1
        assert process.stderr is not None
        said = process.stderr.read().decode()
    if number is signal.SIGINT:
        assert process.returncode == 130
        assert said == "sie-agent: interrupted; what was written before is there\n"
    else:
        assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_sending_from_a_pipe_that_says_nothing_can_be_stopped(
    traffic: Traffic, config_file: Callable[..., Path], tmp_path: Path, number: signal.Signals
) -> None:
    octets = packed(traffic, "zstd")
    log = tmp_path / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "sie_agent.cli", "replay", "-", "--send", "--config", str(config_file())],
            stdin=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(octets[: len(octets) // 2])
        process.stdin.flush()
        await_the_pipe(process, lambda: "trying again" in log.read_text())
        begun = time.monotonic()
        process.send_signal(number)
        process.wait(10)
        assert time.monotonic() - begun < 1
    assert process.returncode == 1
    assert "they stay in the spool" in log.read_text()


async def test_progress_is_shown_on_a_terminal(
    traffic: Traffic, config_file: Callable[..., Path], authority: Authority
) -> None:
    hub = Hub()
    ours, theirs = pty.openpty()
    async with hub.listening(*authority.server(), authority.ca):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sie_agent.cli",
            "replay",
            str(traffic.pcap),
            "--config",
            str(config_file(hub.url)),
            "--send",
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "captured 2000, acknowledged 2000\r\n" in shown
    assert "captured                  2000 transactions" in out.decode()
