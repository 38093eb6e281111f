"""What Python sees of the native module: its types, its errors, files good and bad."""

import contextlib
import ipaddress
import os
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.name
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.utils import rdpcap

import sie_core
from sie_core import _native
from sie_core._native import (
    CaptureError,
    DedupeWindow,
    FormatError,
    NativeError,
    PcapSource,
    Recorder,
    WindowFullError,
    decode,
    dedupe_records,
    name_from_text,
    name_to_text,
    reverse_name,
)

from .traffic import LINK_TYPES, RESOLVERS, Traffic, write_pcap

VECTORS = Path(os.environ.get("SIE_VECTORS", Path(__file__).parents[2].parent / "shared/vectors")) / "nmsg"

needs_vectors = [
    pytest.mark.vectors,
    pytest.mark.skipif(
        not VECTORS.is_dir(), reason=f"no interoperability vectors in {VECTORS} (SIE_VECTORS)"
    ),
]


@pytest.fixture(scope="module")
def pcap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pcap") / "traffic.pcap"
    write_pcap(path, Traffic(seed=1, link="ethernet").take(100), LINK_TYPES["ethernet"])
    return path


def record(path: Path, **options: Any) -> tuple[bytes, Recorder, PcapSource]:
    """All of a file, as one file of containers."""
    recorder, source = Recorder(RESOLVERS, **options), PcapSource(str(path))
    containers = []
    while not recorder.at_end:
        containers += recorder.pump(source, 10)
    containers += recorder.finish()
    return b"".join(container.data for container in containers), recorder, source


def sum_of_outcomes(counters: dict[str, int]) -> int:
    return sum(
        count for name, count in counters.items() if name.startswith("packets_") and name != "packets_seen"
    )


# ---------------------------------------------------------------------- types


def test_the_stub_is_true() -> None:
    command = [sys.executable, "-m", "mypy.stubtest", "sie_core._native"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_one_version() -> None:
    assert _native.__version__ == sie_core.__version__


# ---------------------------------------------------------------------- interoperability


class TestVectors:
    pytestmark = needs_vectors

    def test_the_reference_pcap_gives_the_reference_octets(self) -> None:
        recorder = Recorder(
            ["203.0.113.195"],
            keep_query_packets=True,
            codec="none",
            source=0x19721976,
            flush_interval=60,
            admit_recursion_desired=True,
            keep_edns_options=True,
        )
        containers = recorder.pump(PcapSource(str(VECTORS / "test1-dnsqr.pcap")), 10)
        containers += recorder.finish()
        assert (
            b"".join(container.data for container in containers)
            == (VECTORS / "test1-dnsqr.nmsg").read_bytes()
        )

    def test_recursion_desired_stays_out_unless_admitted(self) -> None:
        recorder = Recorder(["203.0.113.195"], flush_interval=1e9)
        recorder.pump(PcapSource(str(VECTORS / "test1-dnsqr.pcap")), 10)
        assert recorder.counters()["messages_filtered_rd"] == 4

    @pytest.mark.parametrize(
        ("file", "payloads"),
        [
            ("dnsqr", 32),
            ("dedupe", 5),
            ("test1-dnstap", 1),
            ("test_crc32c_correct", 1),
            ("test_crc32c_absent", 1),
            ("test_crc32c_incorrect", 0),
        ],
    )
    def test_reference_files_are_read(self, file: str, payloads: int) -> None:
        assert len(decode((VECTORS / f"{file}.nmsg").read_bytes())) == payloads

    def test_reference_transactions_are_observed(self) -> None:
        window = DedupeWindow()
        added = window.add((VECTORS / "dnsqr.nmsg").read_bytes())
        assert added["transactions"] == added["observed"] == 32
        assert added["observations"] - added["merged"] == len(window) == len(dedupe_records(window.take()))
        damaged = window.add((VECTORS / "test_crc32c_incorrect.nmsg").read_bytes())
        assert damaged["rejected_crc"] == damaged["transactions"] == 1

    @pytest.mark.parametrize(
        ("pcap", "responses"),
        [
            ("edns-v4-ok", 5),
            ("edns-v6-ok", 5),
            ("root-any-v4", 1),
            ("root-any-v6", 1),
            ("root-prime-v4", 1),
            ("root-prime-v6", 1),
        ],
    )
    def test_correct_checksums_are_found_correct(self, pcap: str, responses: int) -> None:
        """Those of responses in pieces too."""
        path = VECTORS / "udp-checksum-correct" / f"correct_{pcap}.pcap"
        packets = rdpcap(str(path))
        recorder = Recorder([packets[-1][IP if IP in packets[-1] else IPv6].dst], flush_interval=1e9)
        recorder.pump(PcapSource(str(path)), 10)
        messages = [
            payload["message"] for container in recorder.finish() for payload in decode(container.data)
        ]
        assert [message["udp_checksum"] for message in messages] == ["CORRECT"] * responses
        assert recorder.counters()["packets_passed"] == len(packets)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("codec", ["none", "zlib", "zstd"])
def test_codecs_hold_the_same(pcap: Path, codec: str) -> None:
    plain, _, _ = record(pcap, codec="none")
    coded, recorder, _ = record(pcap, codec=codec, container_bytes=4096)
    # Compressed containers have their payloads in an order of their own.
    assert sorted(decode(coded), key=repr) == sorted(decode(plain), key=repr)
    counters = recorder.counters()
    assert counters["containers_sealed"] > 1
    assert counters["transactions_pending"] == 0
    transactions = sum(
        counters[f"transactions_{kind}"]
        for kind in ("query_response", "unanswered_query", "unsolicited_response", "icmp")
    )
    assert len(decode(coded)) == transactions


def test_a_truncated_file_gives_the_packets_it_has(pcap: Path, tmp_path: Path) -> None:
    whole = pcap.read_bytes()
    _, complete, _ = record(pcap)
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(whole[:-3])
    _, recorder, source = record(cut)
    packets = complete.counters()["packets_seen"] - 1
    assert recorder.counters()["packets_seen"] == packets
    assert source.warning == f"truncated after {packets} packets: 3 octets of the last packet missing"


def test_a_corrupt_file_gives_the_packets_before(pcap: Path, tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.pcap"
    corrupt.write_bytes(pcap.read_bytes() + b"\xff" * 100)
    _, complete, _ = record(pcap)
    _, recorder, source = record(corrupt)
    assert recorder.counters() == complete.counters()
    packets = complete.counters()["packets_seen"]
    assert source.warning is not None
    assert source.warning.startswith(f"corrupt after {packets} packets: a packet claims ")


@pytest.mark.parametrize("garbage", [b"", b"NMSG", b"\x0a\x0d\x0d\x0a" + bytes(100), os.urandom(100)])
def test_garbage_is_no_pcap_file(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "garbage.pcap"
    path.write_bytes(garbage)
    with pytest.raises(
        FormatError,
        match=r"garbage\.pcap: neither pcap nor pcapng, plain or ",
    ):
        PcapSource(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"absent\.pcap: No such file"):
        PcapSource(str(tmp_path / "absent.pcap"))


def test_a_file_of_another_link_type_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "wlan.pcap"
    write_pcap(path, [(1.0, b"some frame")] * 3, 105)
    _, recorder, _ = record(path)
    counters = recorder.counters()
    assert counters["packets_rejected_linktype"] == counters["packets_seen"] == 3


def test_packets_cut_by_the_capture_are_counted(pcap: Path, tmp_path: Path) -> None:
    path = tmp_path / "snaplen.pcap"
    octets = pcap.read_bytes()[:24] + struct.pack("<IIII", 1, 0, 40, 90) + bytes(40)
    path.write_bytes(octets)
    _, recorder, _ = record(path)
    assert recorder.counters()["packets_rejected_truncated"] == 1


def test_standard_input(pcap: Path) -> None:
    program = (
        "from sie_core._native import PcapSource, Recorder\n"
        f"recorder = Recorder({RESOLVERS!r}, flush_interval=1e9)\n"
        "recorder.pump(PcapSource('-'), 10)\n"
        "print(recorder.counters()['packets_seen'])\n"
    )
    with pcap.open("rb") as file:
        result = subprocess.run([sys.executable, "-c", program], stdin=file, capture_output=True, check=True)
    assert int(result.stdout) > 100


def test_resolver_addresses_are_cleared(pcap: Path) -> None:
    kept, _, _ = record(pcap, codec="none", keep_query_packets=True)
    cleared, _, _ = record(pcap, codec="none", keep_query_packets=True, clear_resolver_address=True)
    addresses = [ipaddress.ip_address(text).packed for text in ("192.0.2.53", "2001:db8::53")]
    assert all(address in kept for address in addresses)
    assert not any(address in cleared for address in addresses)
    for before, after in zip(decode(kept), decode(cleared), strict=True):
        assert after["message"]["resolver_address_zeroed"] is True
        assert set(after["message"]["query_ip"]) == {0}
        assert len(after["message"]["query_ip"]) == len(before["message"]["query_ip"])
        assert after["message"].get("udp_checksum") == before["message"].get("udp_checksum")


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"table_max": 0}, "table_max = 0: must be from 1 to "),
        ({"container_bytes": 10}, "container_bytes = 10: must be from 1024 to 1048576"),
        ({"codec": "lz4"}, 'codec "lz4": must be one of none, zlib, zstd'),
        ({"query_timeout": -1.0}, "query_timeout = -1: must be from 0 to "),
        ({"flush_interval": float("nan")}, "flush_interval = NaN: must be from 0 to "),
    ],
)
def test_settings_are_checked(options: dict[str, Any], text: str) -> None:
    with pytest.raises(NativeError) as error:
        Recorder(RESOLVERS, **options)
    assert str(error.value).startswith(text)


@pytest.mark.parametrize(
    ("resolvers", "text"),
    [
        (["resolver.example"], 'resolver "resolver.example": neither an address nor a prefix'),
        (["192.0.2.1/24"], 'resolver "192.0.2.1/24": bits are set behind the prefix; write 192.0.2.0/24'),
    ],
)
def test_resolvers_are_checked(resolvers: list[str], text: str) -> None:
    with pytest.raises(NativeError) as error:
        Recorder(resolvers)
    assert str(error.value).startswith(text)


def test_a_full_window_says_so(pcap: Path) -> None:
    containers, _, _ = record(pcap)
    window = DedupeWindow(max_entries=1)
    window.add(containers)
    assert window.full
    with pytest.raises(WindowFullError, match=r"the window is full: \d+ entries of 1, "):
        window.add(containers)
    held = len(window)
    assert len(dedupe_records(window.take())) == held
    assert (window.full, len(window), window.octets, window.take()) == (False, 0, 0, b"")


def test_limits_are_kept(pcap: Path) -> None:
    containers, _, _ = record(pcap)
    for read in (decode, DedupeWindow().add):
        with pytest.raises(FormatError, match="inflates beyond the limit of 1000 octets"):
            read(containers, limit=1000)


def test_dedupe_records_are_those_of_closed_windows(pcap: Path) -> None:
    containers, _, _ = record(pcap)
    with pytest.raises(FormatError, match="dnsdedupe: the payload is of another schema"):
        dedupe_records(containers)


# ---------------------------------------------------------------------- any octets

FUZZED = settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def _only_documented(call: Callable[[], object]) -> None:
    """Nothing but NativeError may come out; a panic would be another exception."""
    with contextlib.suppress(NativeError):
        call()


@given(st.binary(max_size=400))
@FUZZED
def test_any_octets_as_containers(octets: bytes) -> None:
    framed = b"NMSG\x00\x02" + len(octets).to_bytes(4, "big") + octets
    for data in (octets, framed, b"\x28\xb5\x2f\xfd" + octets):
        _only_documented(lambda data=data: decode(data))  # type: ignore[misc]
        _only_documented(lambda data=data: DedupeWindow().add(data))  # type: ignore[misc]
        _only_documented(lambda data=data: dedupe_records(data))  # type: ignore[misc]


@given(st.integers(0, 2**32), st.integers(1, 30))
@FUZZED
def test_damaged_containers(pcap: Path, seed: int, damages: int) -> None:
    chance = random.Random(seed)
    containers, _, _ = record(pcap, codec=chance.choice(["none", "zlib", "zstd"]), container_bytes=8192)
    damaged = bytearray(containers)
    for _ in range(damages):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    window = DedupeWindow()
    _only_documented(lambda: decode(bytes(damaged)))
    _only_documented(lambda: window.add(bytes(damaged)))
    for rrname, _, _, bailiwick, rdata, count, first, last, _ in dedupe_records(window.take()):
        assert rrname.lower() == rrname
        assert name_to_text(bailiwick).endswith(".")
        assert count > 0
        assert rdata
        assert first <= last


@given(st.lists(st.binary(max_size=120), max_size=20), st.sampled_from([1, 12, 101, 113, 228, 229, 147]))
@FUZZED
def test_any_frames_have_one_outcome_each(tmp_path: Path, frames: list[bytes], link: int) -> None:
    path = tmp_path / "any.pcap"
    write_pcap(path, [(float(number), frame) for number, frame in enumerate(frames)], link)
    _, recorder, _ = record(path)
    counters = recorder.counters()
    assert counters["packets_seen"] == len(frames) == sum_of_outcomes(counters)


@given(st.integers(0, 2**32), st.integers(1, 20))
@FUZZED
def test_damaged_files_have_one_outcome_a_packet(pcap: Path, tmp_path: Path, seed: int, damages: int) -> None:
    chance = random.Random(seed)
    damaged = bytearray(pcap.read_bytes())
    for _ in range(damages):
        damaged[chance.randrange(24, len(damaged))] = chance.randrange(256)
    path = tmp_path / "damaged.pcap"
    path.write_bytes(damaged)
    octets, recorder, _ = record(path)
    counters = recorder.counters()
    assert counters["packets_seen"] == sum_of_outcomes(counters)
    assert counters["messages_recorded"] == (
        2 * counters["transactions_query_response"]
        + counters["transactions_unanswered_query"]
        + counters["transactions_unsolicited_response"]
        + counters["transactions_icmp"]
    )
    added = DedupeWindow().add(octets)
    refused = sum(count for name, count in added.items() if name.startswith(("filtered_", "rejected_")))
    assert added["transactions"] == added["observed"] + refused == len(decode(octets))


# ---------------------------------------------------------------------- names


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=3))
def test_names_are_those_of_dnspython(labels: list[bytes]) -> None:
    parts = [bytes([len(label)]) + label for label in labels]
    wire = b"".join(parts) + b"\0"
    assert dns.name.from_text(name_to_text(wire)).to_wire() == wire
    assert name_from_text(dns.name.from_wire(wire, 0)[0].to_text()) == wire
    assert name_from_text(name_to_text(wire)) == wire
    assert reverse_name(wire) == b"".join(reversed(parts)) + b"\0"


@given(st.binary(max_size=300))
def test_any_octets_as_names(octets: bytes) -> None:
    for call in (name_to_text, reverse_name):
        _only_documented(lambda call=call: call(octets))  # type: ignore[misc]


@given(st.text(max_size=300))
def test_any_text_as_name(text: str) -> None:
    with contextlib.suppress(FormatError):
        wire = name_from_text(text)
        assert name_from_text(name_to_text(wire)) == wire


# ---------------------------------------------------------------------- threads


def test_the_interpreter_is_free_while_a_pump_waits() -> None:
    """A pump that waits for its pipe holds up no other thread, and its counters can be read."""
    reader, writer = os.pipe()
    os.write(writer, struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
    source = PcapSource(f"/proc/self/fd/{reader}")
    recorder = Recorder(RESOLVERS)
    pump = threading.Thread(target=recorder.pump, args=(source, 60))
    pump.start()
    started = time.monotonic()
    while time.monotonic() - started < 0.2:
        assert recorder.counters()["packets_seen"] == 0
    assert pump.is_alive()
    os.write(writer, struct.pack("<IIII", 1, 0, 4, 4) + b"oops")
    os.close(writer)
    pump.join(10)
    os.close(reader)
    assert recorder.at_end
    assert recorder.counters()["packets_rejected_malformed"] == 1
