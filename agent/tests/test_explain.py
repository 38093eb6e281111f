"""`sie-agent explain`: each packet of a file with what became of it, in words, and a summary that adds up."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sie_agent.explain import described, verdict
from sie_agent.sentences import SENTENCES, TRANSACTIONS
from sie_core.closed_output import EXIT_CLOSED

from .conftest import Traffic, program


def explained(traffic: Traffic, *arguments: str) -> list[dict[str, object]]:
    """The lines of JSON that generated traffic gives."""
    resolvers = [word for address in traffic.resolvers for word in ("--resolver", address)]
    done = program("explain", traffic.pcap, *resolvers, "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_packet_is_told_once_and_the_summary_adds_up(traffic: Traffic) -> None:
    *packets, last = explained(traffic)
    assert [packet["number"] for packet in packets] == list(range(1, traffic.packets + 1))
    assert all(packet["sentence"] for packet in packets)
    stub = [packet for packet in packets if "stub-secret" in str(packet["dns"])]
    assert len(stub) == traffic.stub_packets
    assert all(str(packet["sentence"]).startswith("Not recorded: ") for packet in stub)
    summary = last["summary"]
    assert isinstance(summary, dict)
    assert summary["packets"] == traffic.packets
    counted = dict.fromkeys(("packets", "messages"), 0)
    for outcome, count in summary["outcomes"].items():
        counted[outcome.partition("_")[0]] += count
    assert counted == {"packets": summary["packets"], "messages": summary["messages"]}
    assert sum(summary["transactions"].values()) == traffic.transactions
    assert summary["transactions"]["unanswered_query"] == traffic.unanswered


def test_what_is_switched_off_is_told_as_such(traffic: Traffic) -> None:
    *packets, last = explained(traffic, "--type", "unanswered_query")
    told = {str(packet["sentence"]) for packet in packets}
    assert "Not recorded: a query and its response, and such transactions are switched off." in told
    assert not any(sentence.startswith("Recorded: ") for sentence in told)
    assert last["summary"]["transactions"] == {"unanswered_query": traffic.unanswered}  # type: ignore[index]


def test_the_table_is_for_people(traffic: Traffic) -> None:
    done = program("explain", traffic.pcap, "--resolver", "192.0.2.53", "--limit", "40")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    what = r"Ethernet UDP \S+:\d+ > \S+:53 query 0x[0-9a-f]{4} \S+ [A-Z]+"
    assert re.fullmatch(rf" {{5}}1  [0-9-]{{10}} [0-9:.]{{15}}  {what}  \| .+\.", lines[0])
    assert lines[40] == ""
    assert lines[41] == "40  packets"
    assert all(SENTENCES[name] in done.stdout for name in ("packets_passed", "messages_filtered_direction"))
    assert "\x1b" not in done.stdout  # no colours where no terminal is


def test_colours_are_for_terminals(traffic: Traffic) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sie_agent.cli", "explain", str(traffic.pcap)]
    subprocess.run([*command, "--resolver", "192.0.2.53", "--limit", "3"], stdout=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "\x1b[" in shown


def test_a_reader_that_has_seen_enough_is_no_failure(traffic: Traffic) -> None:
    command = f"{sys.executable} -m sie_agent.cli explain {traffic.pcap} --resolver 192.0.2.53 | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (EXIT_CLOSED, "")
    assert done.stdout.count("\n") == 1


def test_several_messages_of_one_packet_are_told_one_after_the_other() -> None:
    packet = {
        "packet": "packets_passed",
        "messages": [
            {"outcome": "messages_recorded", "transaction": "query_response"},
            {"outcome": "messages_filtered_rd", "transaction": None},
            {"outcome": "messages_recorded", "transaction": "query_response"},
        ],
    }
    told = verdict(packet, TRANSACTIONS)
    assert told["outcome"] == "messages_recorded"
    assert told["sentence"] == f"Recorded: a query and its response. {SENTENCES['messages_filtered_rd']}"


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        ({"source": None, "octets": 60}, "Ethernet, 60 octets, no IP packet that can be read"),
        ({"protocol": 6}, "Ethernet TCP 192.0.2.53:1024 > 198.51.100.1:53 80 octets"),
        (
            {"protocol": 47, "source_port": None, "destination_port": None},
            "Ethernet protocol 47 192.0.2.53 > ",
        ),
        ({"fragment": True}, "Ethernet UDP 192.0.2.53:1024 > 198.51.100.1:53 fragment 80 octets"),
        ({"source": "2001:db8::53"}, "Ethernet UDP [2001:db8::53]:1024 > 198.51.100.1:53"),
    ],
)
def test_what_a_packet_is(packet: dict[str, object], words: str) -> None:
    plain = {
        "link": "Ethernet",
        "octets": 80,
        "source": "192.0.2.53",
        "source_port": 1024,
        "destination": "198.51.100.1",
        "destination_port": 53,
        "protocol": 17,
        "fragment": False,
        "dns": None,
    }
    assert described({**plain, **packet}).startswith(words)


def test_dns_facts_are_shown_whatever_they_are() -> None:
    dns = {
        "id": 7,
        "response": True,
        "standard_query": False,
        "recursion_desired": True,
        "truncated": True,
        "rcode": 9,
        "qname": "a.example.",
        "qtype": 1234,
    }
    plain = {"link": "bare IP", "octets": 80, "source": "192.0.2.53", "source_port": 53, "fragment": False}
    packet = {**plain, "destination": "192.0.2.7", "destination_port": 7, "protocol": 17, "dns": dns}
    shown = described(packet)
    assert shown.endswith("response 0x0007 other opcode a.example. TYPE1234 rcode 9 RD TC")


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    done = program("explain", tmp_path / "absent.pcap", "--resolver", "192.0.2.53")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert program("explain", "x", "--resolver", "192.0.2.53", "--limit", "0").returncode == 2


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        (["--local-zone", "zone-5.example"], "messages_filtered_local_zone"),
        (["--exclude-qname-regex", r"^www\."], "messages_filtered_qname_regex"),
    ],
)
def test_what_is_kept_out_is_told_as_such(traffic: Traffic, options: list[str], outcome: str) -> None:
    plain, kept_out = explained(traffic), explained(traffic, *options)
    told = [packet for packet in kept_out if packet.get("outcome") == outcome]
    assert told
    assert all(packet["sentence"] == SENTENCES[outcome] for packet in told)
    before = sum(plain[-1]["summary"]["transactions"].values())  # type: ignore[index]
    after = sum(kept_out[-1]["summary"]["transactions"].values())  # type: ignore[index]
    assert after < before == traffic.transactions
