"""`sie-agent explain FILE`: what becomes of each packet of a file, and why, for somebody who has to check it.

The file is the reader's own, so that nothing in it is kept back here: addresses and names are shown as they
stand there, whatever the sensor would do to them. Nothing is written and nothing is sent.
"""

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sie_agent.cli import EXIT_OK
from sie_agent.errors import SourceError
from sie_agent.reading import open_file, warn
from sie_agent.recording import add_recording_arguments, recorder_of, recording_from
from sie_agent.sentences import SENTENCES, TRANSACTIONS
from sie_agent.stages import QUERIES_WAITING, outcome_of
from sie_core._native import NativeError, PcapSource, Recorder, explain

PORTION: Final = 1000
"""Packets that are explained at one go: some hundred KiB."""

PROTOCOLS: Final = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}

QTYPES: Final = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 35: "NAPTR",
    41: "OPT", 43: "DS", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 52: "TLSA", 64: "SVCB",
    65: "HTTPS", 249: "TKEY", 251: "IXFR", 252: "AXFR", 255: "ANY", 257: "CAA",
}  # fmt: skip
"""The types that people meet; any other is shown as RFC 3597 writes it."""

RCODES: Final = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}

RECORDED: Final = "messages_recorded"

_GREEN, _YELLOW, _DIM, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `explain`."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a pcap or pcapng file, plain or compressed by gzip, zstd or xz; - is standard input",
    )
    add_recording_arguments(parser.add_argument_group("what is recorded"))
    parser.add_argument(
        "--limit", type=_count, default=None, metavar="N", help="explain the first N packets only"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line for each packet, and at the end one with the summary",
    )
    parser.set_defaults(run=_run)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of packets")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    resolvers, settings = recording_from(arguments)
    recorder = recorder_of(resolvers, settings)
    wanted = settings.get("types", tuple(TRANSACTIONS))
    source = open_file(arguments.file)
    colours = not arguments.json and sys.stdout.isatty()
    for number, packet in enumerate(_packets(recorder, source, arguments.limit), 1):
        explained = {"number": number, **packet, **verdict(packet, wanted)}
        print(json.dumps(explained) if arguments.json else line(explained, colours=colours))
    recorder.finish()
    summary = summarised(recorder.counters())
    print(json.dumps({"summary": summary}) if arguments.json else f"\n{table(summary)}")
    warn(source)
    return EXIT_OK


def _packets(recorder: Recorder, source: PcapSource, limit: int | None) -> Iterator[dict[str, Any]]:
    left = limit
    ended = False
    while not ended and left != 0:
        portion = PORTION if left is None else min(left, PORTION)
        try:
            packets, ended = explain(recorder, source, portion)
        except NativeError as error:
            raise SourceError(str(error)) from error
        left = None if left is None else left - len(packets)
        yield from packets


def verdict(packet: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Any]:
    """What became of a packet: `outcome`, the counter, and `sentence`; `wanted` are the types recorded.

    A packet that completes messages is told by what became of these; several of one TCP segment are told one
    after the other.
    """
    if not packet["messages"]:
        return {"outcome": packet["packet"], "sentence": SENTENCES[packet["packet"]]}
    sentences = []
    for message in packet["messages"]:
        sentence = SENTENCES[message["outcome"]]
        kind = message["transaction"]
        if kind is not None:
            sentence = (
                f"Recorded: {TRANSACTIONS[kind]}."
                if kind in wanted
                else f"Not recorded: {TRANSACTIONS[kind]}, and such transactions are switched off."
            )
        sentences.append(sentence)
    return {"outcome": packet["messages"][0]["outcome"], "sentence": " ".join(dict.fromkeys(sentences))}


def line(packet: Mapping[str, Any], *, colours: bool) -> str:
    """One packet on one line: number, time, what it is, and what became of it."""
    time = datetime.fromtimestamp(packet["time"], UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    what = f"{packet['number']:>6}  {time}  {described(packet)}"
    outcome, sentence = packet["outcome"], packet["sentence"]
    if not colours:
        return f"{what}  | {sentence}"
    colour = _GREEN if outcome == RECORDED else _YELLOW if outcome == QUERIES_WAITING else _DIM
    return f"{what}  | {colour}{sentence}{_PLAIN}"


def described(packet: Mapping[str, Any]) -> str:
    """What a packet is: link, protocol, addresses, and what its DNS header says."""
    parts = [packet["link"]]
    if packet["source"] is None:
        return f"{packet['link']}, {packet['octets']} octets, no IP packet that can be read"
    number = packet["protocol"]
    parts.append(PROTOCOLS.get(number, f"protocol {number}"))
    parts.append(
        f"{_place(packet['source'], packet['source_port'])} > "
        f"{_place(packet['destination'], packet['destination_port'])}"
    )
    if packet["fragment"]:
        parts.append("fragment")
    dns = packet["dns"]
    parts.append(f"{packet['octets']} octets" if dns is None else _dns(dns))
    return " ".join(parts)


def _place(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _dns(dns: Mapping[str, Any]) -> str:
    words = ["response" if dns["response"] else "query", f"{dns['id']:#06x}"]
    if not dns["standard_query"]:
        words.append("other opcode")
    if dns["qname"] is not None:
        qtype = dns["qtype"]
        words += [dns["qname"], QTYPES.get(qtype, f"TYPE{qtype}")]
    if dns["response"]:
        words.append(RCODES.get(dns["rcode"], f"rcode {dns['rcode']}"))
    words += [flag for flag, set_ in (("RD", dns["recursion_desired"]), ("TC", dns["truncated"])) if set_]
    return " ".join(words)


def summarised(counters: Mapping[str, int]) -> dict[str, Any]:
    """How often each outcome came, those that did not left out, and the transactions by type.

    What waited at the end of the file has been recorded by then.
    """
    judged = {name: count for name, count in counters.items() if outcome_of(name) is not None and count}
    types = {kind: counters.get(f"transactions_{kind}", 0) for kind in TRANSACTIONS}
    return {
        "packets": counters["packets_seen"],
        "messages": counters.get("messages_seen", 0),
        "outcomes": judged,
        "transactions": {kind: count for kind, count in types.items() if count},
    }


def table(summary: Mapping[str, Any]) -> str:
    """The summary for people."""
    rows = [(summary["packets"], "packets", "")]
    rows += _rows(summary, "packets_")
    rows.append((summary["messages"], "messages in them", ""))
    rows += _rows(summary, "messages_")
    total = sum(summary["transactions"].values())
    rows.append((total, "transactions of them", ""))
    rows += [(count, "", TRANSACTIONS[kind]) for kind, count in summary["transactions"].items()]
    digits = max(len(str(count)) for count, _, _ in rows)
    return "\n".join(
        f"{count:>{digits}}  {title}" if title else f"{'':>4}{count:>{digits}}  {sentence}"
        for count, title, sentence in rows
    )


def _rows(summary: Mapping[str, Any], stage: str) -> list[tuple[int, str, str]]:
    return [
        (count, "", SENTENCES[outcome])
        for outcome, count in summary["outcomes"].items()
        if outcome.startswith(stage)
    ]
