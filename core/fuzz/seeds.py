"""Writes the seeds of the fuzz targets' corpora: `python -m core.fuzz.seeds` at the top of the repository.

A seed is one well-formed input of some kind, made from the traffic that the tests make; the comments of a
target's module say what its octets mean. The same octets come out each time. What libFuzzer and people have
found since stands beside the seeds, under other names.
"""

import gzip
import json
import lzma
import random
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import dns.edns
import dns.flags
import dns.message
import dns.rrset

from core.fuzz import trampoline
from core.tests.traffic import LINK_TYPES, RESOLVERS, Traffic, write_pcap
from sie_core._native import DedupeWindow, PcapSource, Recorder
from sie_core.trampoline import Side

CORPUS: Final = Path(__file__).parent / "corpus"
TRANSCRIPTS: Final = Path(__file__).parents[1] / "tests" / "vectors" / "trampoline.json"

FRAME_LINKS: Final = {"ethernet": 0, "raw": 1, "sll": 2}
"""The number of each link type in a packet's seed."""

AS_THEY_STAND, TO_BE_PACKED = b"\0", b"\1"
"""The first octet of inputs that are containers, or what is to be made into one."""


def chunk(octets: bytes) -> bytes:
    """Octets behind their length, as targets take their inputs apart."""
    return struct.pack(">H", len(octets)) + octets


# ---------------------------------------------------------------------------------------------- traffic


def packets() -> Iterator[tuple[str, bytes]]:
    """For each link type some scenes, under settings that differ."""
    for switches in range(8):
        for link, number in FRAME_LINKS.items():
            octets = bytes([switches * 8 + switches, 0xFF])
            for _, frame in Traffic(switches, link).take(6):
                octets += bytes([number, 1]) + chunk(frame)
            yield f"{link}-{switches}", octets


def containers() -> Iterator[tuple[str, bytes]]:
    """Containers of every codec, of transactions and of merged records, alone and concatenated."""
    with TemporaryDirectory() as folder:
        pcap = Path(folder, "traffic.pcap")
        write_pcap(pcap, Traffic(1, "raw").take(40), LINK_TYPES["raw"])
        recorded = {}
        for codec in ("none", "zlib", "zstd"):
            recorder = Recorder(RESOLVERS, codec=codec, container_bytes=1024, source=1, operator=2, group=3)
            source, sealed = PcapSource(str(pcap)), []
            while not recorder.at_end:
                sealed += recorder.pump(source, 10)
            recorded[codec] = [container.data for container in sealed + recorder.finish()]
    for codec, sealed_octets in recorded.items():
        yield f"transactions-{codec}", AS_THEY_STAND + sealed_octets[0]
    yield "transactions-concatenated", AS_THEY_STAND + b"".join(sealed[1] for sealed in recorded.values())
    yield "transactions-body", TO_BE_PACKED + recorded["none"][0][10:]
    window = DedupeWindow()
    for octets in recorded["none"]:
        window.add(octets)
    yield "records", AS_THEY_STAND + window.take()


# ---------------------------------------------------------------------------------------------- messages

RRSETS: Final = (
    ("www.example.", 300, "A", ["192.0.2.1", "192.0.2.2"]),
    ("www.example.", 300, "AAAA", ["2001:db8::1"]),
    ("example.", 86400, "NS", ["ns1.example.", "ns2.example."]),
    ("example.", 86400, "SOA", ["ns1.example. hostmaster.example. 1 7200 3600 1209600 300"]),
    ("example.", 60, "MX", ["10 mail.example.", "20 mail.example.net."]),
    ("example.", 60, "TXT", ['"v=spf1 -all" "more"', '""']),
    ("example.", 60, "CAA", ['0 issue "ca.example"']),
    ("example.", 60, "HTTPS", ['1 . alpn="h2,h3" ipv4hint=192.0.2.1']),
    ("_sip._tcp.example.", 60, "SRV", ["0 5 5060 sip.example."]),
    ("example.", 60, "NAPTR", ['100 10 "S" "SIP+D2U" "" _sip._udp.example.']),
    ("example.", 60, "NSEC", ["a.example. A NS RRSIG NSEC"]),
    ("example.", 60, "RRSIG", ["A 13 1 300 20300101000000 20200101000000 12345 example. AAAA"]),
    ("example.", 60, "DNAME", ["example.net."]),
    ("example.", 60, "TYPE65280", [r"\# 4 01020304"]),
)


def messages() -> Iterator[tuple[str, bytes]]:
    """A query, a response for each type, a referral, a negative answer, and one with everything in it."""
    query = dns.message.make_query("www.example.", "A", flags=0, id=1, use_edns=0, payload=1232)
    yield "query", query.to_wire()
    rrsets = [dns.rrset.from_text(owner, ttl, "IN", kind, *data) for owner, ttl, kind, data in RRSETS]
    for rrset in rrsets:
        yield dns.rdatatype.to_text(rrset.rdtype).lower(), response([rrset])
    yield "everything", response(rrsets, rrsets[2:4], rrsets[:2])
    yield "referral", response([], [rrsets[2]], rrsets[:2], flags=0)
    yield "negative", response([], [rrsets[3]], [])


def response(
    answer: Iterable[dns.rrset.RRset],
    authority: Iterable[dns.rrset.RRset] = (),
    additional: Iterable[dns.rrset.RRset] = (),
    *,
    flags: int = dns.flags.AA,
) -> bytes:
    """A response to the question for www.example."""
    message = dns.message.make_query("www.example.", "A", flags=dns.flags.QR | flags, id=1)
    message.answer, message.authority, message.additional = list(answer), list(authority), list(additional)
    return message.to_wire()


def private_messages() -> Iterator[tuple[str, bytes]]:
    """Messages with options that go and options that stay, and with names that are kept out."""
    yield from messages()
    options = [
        dns.edns.ECSOption("192.0.2.0", 24),
        dns.edns.NSIDOption(b"ns1"),
        dns.edns.GenericOption(dns.edns.OptionType.COOKIE, bytes(range(24))),
        dns.edns.EDEOption(dns.edns.EDECode.NO_REACHABLE_AUTHORITY, "no reachable authority"),
        dns.edns.GenericOption(dns.edns.OptionType(65001), bytes(6)),
    ]
    referral = dns.message.from_wire(
        response([], [dns.rrset.from_text(*RRSETS[2][:2], "IN", "NS", "ns.example.")])
    )
    for number in range(len(options) + 1):
        referral.use_edns(0, payload=1232, options=options[:number])
        yield f"options-{number}", referral.to_wire()
    octets = bytearray(referral.to_wire())
    # The record in front of OPT, with its pointers, once more behind it.
    begin = octets.index(b"\xc0\x10\x00\x02")
    record = octets[begin : begin + 17]
    octets[11] += 1
    yield "names-behind-options", bytes(octets + record)
    for name in ("host.local.", "10.in-addr.arpa.", "www.corp.example.", "intranet."):
        yield f"local-{name.split('.')[0]}", dns.message.make_query(name, "A", flags=0, id=1).to_wire()


def observations() -> Iterator[tuple[str, bytes]]:
    """Each message in a transaction of its own, and all of them together."""
    made = [(name, chunk(octets) + b"\1") for name, octets in messages()]
    for name, octets in made:
        yield name, TO_BE_PACKED + octets
    yield "over-tcp", TO_BE_PACKED + made[0][1][:-1] + b"\4" + made[1][1][:-1] + b"\5"
    everything = b"".join(octets for _, octets in made)
    yield "together", TO_BE_PACKED + everything


# ---------------------------------------------------------------------------------------------- transports


def segments() -> Iterator[tuple[str, bytes]]:
    """Each message in one stream: in one segment, in several, out of order; and an honest sender's stream."""
    made = [(name, struct.pack(">H", len(octets)) + octets) for name, octets in messages()]
    for name, stream in made:
        side = 0x10 if name != "query" else 0
        syn = bytes([1, side]) + struct.pack(">H", 0) + chunk(b"")
        halves = [(0, stream[:32]), (2, stream[32:])]
        for order in (halves, halves[::-1]):
            data = b"".join(bytes([0x10, side]) + struct.pack(">H", at) + chunk(part) for at, part in order)
            yield f"{name}-{'in-order' if order is halves else 'backwards'}", AS_THEY_STAND + syn + data
    every = [octets for _, octets in messages()][:7]
    honest = bytes([len(every)]) + b"".join(map(chunk, every))
    yield "honest", TO_BE_PACKED + honest + bytes(range(256))


def pieces() -> Iterator[tuple[str, bytes]]:
    """Datagrams of each family cut by hand: in order and out of it, overlapping, too late, some that do not
    enter; and an honest sender's.
    """
    contents, more, refused, late = bytes(range(40)), 2, 4, 0xF0
    for family in (0, 1):

        def piece(units: int, state: int, family: int = family) -> bytes:
            octets = contents[8 * units : 8 * units + 16] if state & more else contents[8 * units :]
            return bytes([family | state, 7]) + struct.pack(">H", units) + chunk(octets)

        first, second, last = piece(0, more), piece(2, more), piece(4, 0)
        for name, cut in {
            "in-order": (first, second, last),
            "backwards": (last, second, first),
            "twice": (first, first, second, second, last),
            "overlapping": (first, piece(1, more), second, last),
            "late": (first, piece(2, more | late), piece(4, late), piece(4, late), first, second, last),
            "refused": (piece(0, more | refused), second, last),
        }.items():
            yield f"ipv{6 if family else 4}-{name}", AS_THEY_STAND + b"".join(cut)
        cuts = bytes([1, 0, 2, 9]) + bytes(range(3, 40))
        yield f"ipv{6 if family else 4}-honest", TO_BE_PACKED + bytes([family]) + chunk(contents * 5) + cuts


def errors() -> Iterator[tuple[str, bytes]]:
    """Errors of both families that quote a query over UDP or TCP, whole or cut short."""
    query = next(octets for name, octets in messages() if name == "query")
    udp = struct.pack(">HHHH", 50000, 53, 8 + len(query), 0) + query
    data = struct.pack(">H", len(query)) + query
    tcp = struct.pack(">HHIIBBHHH", 50000, 53, 1, 1, 0x50, 0x18, 1024, 0, 0) + data
    for family, types in ((4, (3, 11)), (6, (1, 2, 3))):
        for protocol, transport in ((17, udp), (6, tcp)):
            for cut in (8, len(transport)):
                if family == 4:
                    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(transport), 1, 0, 64, protocol, 0)
                    quoted = head + bytes([192, 0, 2, 53, 203, 0, 113, 1])
                else:
                    addresses = bytes.fromhex(
                        "20010db800000000000000000000005320010db8ffff00000000000000000001"
                    )
                    quoted = struct.pack(">IHBB", 6 << 28, len(transport), protocol, 64) + addresses
                for kind in types:
                    message = bytes([kind, 1, 0, 0, 0, 0, 5, 0]) + quoted + transport[:cut]
                    yield f"ipv{family}-{kind}-{protocol}-{cut}", bytes([(family == 6) | 2]) + message


# ---------------------------------------------------------------------------------------------- sources


def files() -> Iterator[tuple[str, bytes]]:
    """Some packets as pcap and pcapng, of either byte order, plain and compressed."""
    whole = bytes([255])
    with TemporaryDirectory() as folder:
        path = Path(folder, "traffic.pcap")
        write_pcap(path, Traffic(1, "ethernet").take(3), LINK_TYPES["ethernet"])
        classic = path.read_bytes()
    yield "pcap", whole + classic
    yield "pcap-gzip", whole + gzip.compress(classic, mtime=0)
    yield "pcap-xz", whole + lzma.compress(classic, preset=0)
    frames = [frame for _, frame in Traffic(2, "raw").take(3)]
    for name, order in (("little", "<"), ("big", ">")):

        def block(kind: int, body: bytes, order: str = order) -> bytes:
            body += bytes(-len(body) % 4)
            length = struct.pack(order + "I", len(body) + 12)
            return struct.pack(order + "I", kind) + length + body + length

        file = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
        options = struct.pack(order + "HHBxxxHHqI", 9, 1, 9, 14, 8, 3600, 0)
        file += block(1, struct.pack(order + "HHI", 101, 0, 0)) + block(
            1, struct.pack(order + "HHI", 101, 0, 64) + options
        )
        file += block(5, bytes(12))
        for number, frame in enumerate(frames):
            length = len(frame)
            head = struct.pack(order + "IIIII", number % 2, 0x60000, number, length, length)
            file += block(6, head + frame)
        file += block(3, struct.pack(order + "I", len(frames[0])) + frames[0])
        yield f"pcapng-{name}", whole + file


def taps() -> Iterator[tuple[str, bytes]]:
    """A connection of either kind, and frames of the two kinds that are taken and of one that is not."""
    content = b"protobuf:dnstap.Dnstap"
    field = struct.pack(">II", 1, len(content)) + content

    def control(kind: int, fields: bytes = b"") -> bytes:
        return struct.pack(">III", 0, 4 + len(fields), kind) + fields

    frames = []
    for (name, octets), kind in zip(messages(), (3, 4, 5), strict=False):
        message = (
            b"\x08" + bytes([kind]) + b"\x10\x01\x18\x01\x22\x04\xc0\x00\x02\x35\x2a\x04\xcb\x00\x71\x01"
        )
        message += b"\x30\xd0\x86\x03\x38\x35\x40\x80\xe2\xcf\xaa\x06\x4d\x01\x00\x00\x00"
        if kind == 4:
            message += b"\x5a\x09\x07example\x00\x60\x80\xe2\xcf\xaa\x06\x6d\x02\x00\x00\x00"
        message += (b"\x72" if kind == 4 else b"\x52") + varint(len(octets)) + octets
        frame = b"\x12\x07unbound\x72" + varint(len(message)) + message + b"\x78\x01"
        frames.append(frame)
        yield f"frame-{name}", TO_BE_PACKED + frame
    data = b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)
    yield "file", AS_THEY_STAND + b"\xff" + control(2, field) + data + control(3)
    yield "socket", AS_THEY_STAND + b"\x10" + control(4, field) + control(2, field) + data + control(3)


def varint(number: int) -> bytes:
    """A number as protobuf has it."""
    octets = b""
    while number > 0x7F:
        octets += bytes([number & 0x7F | 0x80])
        number >>= 7
    return octets + bytes([number])


# ---------------------------------------------------------------------------------------------- sessions


def sessions() -> Iterator[tuple[str, bytes]]:
    """The transcripts that other implementations of the trampoline are held to, faults included."""
    for vector in json.loads(TRANSCRIPTS.read_text())["vectors"]:
        octets = trampoline.begin(Side(vector["end"]), frozenset(vector["offers"]))
        for step in vector["steps"]:
            if "hears" in step:
                octets += trampoline.hear(bytes.fromhex(step["hears"]))
            elif "does" in step:
                given = step["with"]
                sequence = given.get("sequence", given.get("next_sequence", 0))
                what = step["does"].removeprefix("send_") + (" with a digest" if "digest" in given else "")
                octets += trampoline.ask(what, sequence)
        yield re.sub(r"[^a-z0-9]+", "-", vector["name"].lower()), octets


# ---------------------------------------------------------------------------------------------- writing

SEEDS: Final = {
    "dns": messages,
    "dnstap": taps,
    "icmp": errors,
    "nmsg": containers,
    "observation": observations,
    "packet": packets,
    "pcap": files,
    "reassembly": pieces,
    "scrub": private_messages,
    "tcp": segments,
    "trampoline": sessions,
}


def main() -> None:
    """Write the seeds of every target."""
    for target, seeds in SEEDS.items():
        random.seed(target)  # scapy takes some of its numbers from there
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, octets in seeds():
            (folder / f"seed-{name}").write_bytes(octets)


if __name__ == "__main__":
    main()
