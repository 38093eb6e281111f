"""Files of packets: written by independent programs, compressed by independent compressors, read the same."""

import bz2
import gzip
import lzma
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.utils import rdpcap, wrpcapng

from sie_core._native import FormatError, PcapSource, Recorder, decode

from .traffic import LINK_TYPES, RESOLVERS, Traffic, write_pcap


@pytest.fixture(scope="module")
def pcap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classic pcap file of mixed traffic."""
    path = tmp_path_factory.mktemp("files") / "mixed.pcap"
    write_pcap(path, Traffic(seed=11, link="ethernet").take(60), LINK_TYPES["ethernet"])
    return path


def record(path: Path | str) -> tuple[list[dict[str, object]], dict[str, int], str | None]:
    """Everything in a file: transactions, counters, warning."""
    recorder, source = Recorder(RESOLVERS, flush_interval=1e9), PcapSource(str(path))
    octets = b""
    while not recorder.at_end:
        octets += b"".join(container.data for container in recorder.pump(source, 10))
    octets += b"".join(container.data for container in recorder.finish())
    return decode(octets), recorder.counters(), source.warning


# ---------------------------------------------------------------------- pcapng


def by_editcap(pcap: Path, out: Path) -> None:
    subprocess.run(["editcap", "-F", "pcapng", str(pcap), str(out)], check=True)


def by_mergecap(pcap: Path, out: Path) -> None:
    """Two interfaces, the packets dealt out to them in turn."""
    halves = [out.with_suffix(f".{half}") for half in (0, 1)]
    packets = rdpcap(str(pcap))
    for half, path in enumerate(halves):
        write_pcap(path, [(float(p.time), bytes(p)) for p in packets[half::2]], LINK_TYPES["ethernet"])
    subprocess.run(["mergecap", "-I", "none", "-w", str(out), *map(str, halves)], check=True)


def by_scapy(pcap: Path, out: Path) -> None:
    wrpcapng(str(out), rdpcap(str(pcap)))


def by_hand(pcap: Path, out: Path) -> None:
    """Big-endian, in nanoseconds, one section for every ten packets, with blocks that nobody knows."""

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        length = len(body) + 12
        return struct.pack(">II", kind, length) + body + struct.pack(">I", length)

    with out.open("wb") as file:
        for number, packet in enumerate(rdpcap(str(pcap))):
            if number % 10 == 0:
                file.write(block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1)))
                file.write(block(4, b"names of the section"))
                file.write(block(1, struct.pack(">HHIHHB3xHH", 1, 0, 0, 9, 1, 9, 0, 0)))
            octets = bytes(packet)
            time = int(packet.time * 1_000_000_000)
            head = struct.pack(">IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(octets), len(octets))
            file.write(block(6, head + octets))
            file.write(block(0x0BAD, b"?" * (number % 7)))


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "editcap": by_editcap,
    "mergecap": by_mergecap,
    "scapy": by_scapy,
    "hand": by_hand,
}
INSTALLED = [name for name in WRITERS if not name.endswith("cap") or shutil.which(name)]


@pytest.mark.parametrize("writer", INSTALLED)
def test_pcapng_holds_the_same_as_pcap(pcap: Path, tmp_path: Path, writer: str) -> None:
    written = tmp_path / "same.pcapng"
    WRITERS[writer](pcap, written)
    transactions, counters, warning = record(written)
    assert (transactions, counters) == record(pcap)[:2]
    assert len(transactions) > 20
    assert warning is None


def test_every_section_has_interfaces_of_its_own(pcap: Path, tmp_path: Path) -> None:
    """The same section twice, its one interface the second time of bare IP, which the frames are not."""
    path = tmp_path / "links.pcapng"
    by_scapy(pcap, path)
    ethernet = path.read_bytes()
    (described,) = struct.unpack_from("<I", ethernet, 4)
    assert struct.unpack_from("<I", ethernet, described) == (1,)
    bare = bytearray(ethernet)
    struct.pack_into("<H", bare, described + 8, LINK_TYPES["raw"])
    path.write_bytes(ethernet + bare)
    _, counters, warning = record(path)
    expected = record(pcap)[1]
    assert counters["packets_seen"] == 2 * expected["packets_seen"]
    assert counters["messages_recorded"] == expected["messages_recorded"]
    assert warning is None


# ---------------------------------------------------------------------- compression


def halves(octets: bytes) -> tuple[bytes, bytes]:
    return octets[: len(octets) // 2], octets[len(octets) // 2 :]


def by_tool(*command: str) -> Callable[[bytes], bytes]:
    return lambda octets: subprocess.run(command, input=octets, capture_output=True, check=True).stdout


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip module": gzip.compress,
    "gzip": by_tool("gzip", "-9"),
    "lzma module": lzma.compress,
    "xz": by_tool("xz", "-9", "--check=sha256"),
    "zstd": by_tool("zstd", "-q", "-19", "--long=27"),
}


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("writer", [None, "scapy"])
def test_compressed_files_hold_the_same(
    pcap: Path, tmp_path: Path, compressor: str, writer: str | None
) -> None:
    """Whole, and as two members, frames or streams one behind the other; the name tells nothing."""
    plain = tmp_path / "plain"
    WRITERS[writer](pcap, plain) if writer else shutil.copy(pcap, plain)
    expected = record(pcap)
    compress = COMPRESSORS[compressor]
    for parts in ((plain.read_bytes(),), halves(plain.read_bytes())):
        packed = tmp_path / "packed"
        packed.write_bytes(b"".join(map(compress, parts)))
        assert record(packed) == expected


def test_zstd_may_begin_with_a_frame_to_be_skipped(pcap: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    skipped = struct.pack("<II", 0x184D2A51, 5) + b"index"
    packed.write_bytes(skipped + COMPRESSORS["zstd"](pcap.read_bytes()))
    assert record(packed) == record(pcap)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_a_compressed_pipe(pcap: Path, tmp_path: Path, compressor: str) -> None:
    program = (
        "from sie_core._native import PcapSource, Recorder\n"
        f"recorder = Recorder({RESOLVERS!r}, flush_interval=1e9)\n"
        "recorder.pump(PcapSource('-'), 10)\n"
        "print(recorder.counters()['packets_seen'])\n"
    )
    packed = COMPRESSORS[compressor](pcap.read_bytes())
    result = subprocess.run([sys.executable, "-c", program], input=packed, capture_output=True, check=True)
    assert int(result.stdout) == record(pcap)[1]["packets_seen"]


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_a_compressed_file_that_is_cut_off_gives_what_it_has(
    pcap: Path, tmp_path: Path, compressor: str
) -> None:
    first, second = map(COMPRESSORS[compressor], halves(pcap.read_bytes()))
    cut = tmp_path / "cut"
    cut.write_bytes(first + second[:-9])
    _, counters, warning = record(cut)
    name = compressor.removesuffix(" module").replace("lzma", "xz")
    assert counters["packets_seen"] > 20
    assert warning == f"damaged after {counters['packets_seen']} packets: its {name} data: it is cut off"


def test_what_is_compressed_otherwise_is_no_capture(pcap: Path, tmp_path: Path) -> None:
    packed = tmp_path / "mixed.pcap.bz2"
    packed.write_bytes(bz2.compress(pcap.read_bytes()))
    with pytest.raises(FormatError, match=r"bz2: neither pcap nor pcapng, .*: it begins with \[42, 5a, 68"):
        PcapSource(str(packed))


def bomb(compressor: str) -> bytes:
    """Half a gibibyte of one packet over and over, in some hundred kilobytes."""
    packets = struct.pack("<IIII", 1, 0, 65520, 65520) + bytes(65520)
    chunk = COMPRESSORS[compressor](packets * 256)
    return COMPRESSORS[compressor](struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)) + chunk * 32


@pytest.mark.parametrize("compressor", ["gzip", "xz", "zstd"])
def test_a_bomb_is_read_in_bounded_memory(tmp_path: Path, compressor: str) -> None:
    packed = tmp_path / "bomb"
    packed.write_bytes(bomb(compressor))
    most = 220 << 20  # the interpreter, a window or dictionary of 128 MiB at most, and the buffers
    program = (
        "import sys, resource\n"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({most}, {most}))\n"
        "from sie_core._native import PcapSource, Recorder\n"
        f"recorder = Recorder({RESOLVERS!r})\n"
        "source = PcapSource(sys.argv[1])\n"
        "while not recorder.at_end:\n"
        "    recorder.pump(source, 10)\n"
        "print(recorder.counters()['packets_rejected_malformed'], source.warning)\n"
    )
    command = [sys.executable, "-c", program, str(packed)]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "8192 None\n"


def test_a_dictionary_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    """An xz stream that claims a dictionary of 1 GiB, which would be allocated before the first octet."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    packed = bytearray(lzma.compress(b"little", filters=filters))
    # The dictionary's size is one octet of the block header, which ends with a CRC (xz format, 3.1, 5.3.1).
    header = 12
    length = (packed[header] + 1) * 4
    place = packed.index(bytes([0x21, 0x01]), header) + 2
    packed[place] = 38
    crc = struct.pack("<I", zlib.crc32(bytes(packed[header : header + length - 4])))
    packed[header + length - 4 : header + length] = crc
    path = tmp_path / "wide.xz"
    path.write_bytes(packed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError, match="its xz data: it wants more than 128 MiB of memory"):
        PcapSource(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
