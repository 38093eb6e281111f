"""Nothing about anybody but the resolver, if that may be shown, and public servers is ever written."""

import threading
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import pytest

from sie_core._native import DnstapSource, PcapSource, Recorder
from tests import dnstap
from tests.privacy.search import Packet, Written, names_of, options_of
from tests.privacy.traffic import (
    CLIENTS,
    COOKIE,
    EXCLUDED,
    HIDDEN,
    LOCAL_ZONES,
    RESOLVERS,
    SERVER_ID,
    SERVERS,
    SPECIAL_USE,
    Marks,
    MixedTraffic,
)
from tests.traffic.frames import write_pcap

ROUNDS = 16
ZONES = [dns.name.from_text(zone) for zone in (*LOCAL_ZONES, *SPECIAL_USE)]
UNSPECIFIED = ("0.0.0.0", "::")
POLICY: dict[str, Any] = {"local_zones": LOCAL_ZONES, "exclude_qname_regex": EXCLUDED}


@pytest.fixture(scope="module", params=[1, 2])
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Marks]:
    """A file of mixed traffic and the marks in it."""
    pcap = tmp_path_factory.mktemp("mixed") / "mixed.pcap"
    traffic = MixedTraffic(seed=request.param)
    write_pcap(pcap, traffic.take(ROUNDS))
    return pcap, traffic.marks


def record(
    pcap: Path, resolvers: tuple[str, ...] = RESOLVERS, **settings: Any
) -> tuple[Written, dict[str, int]]:
    """What a recorder writes of a file, and its counters."""
    recorder, source = Recorder(resolvers, **settings), PcapSource(str(pcap))
    containers = []
    while not recorder.at_end:
        containers += recorder.pump(source, 10)
    containers += recorder.finish()
    return Written(b"".join(container.data for container in containers)), recorder.counters()


@pytest.mark.parametrize("keep_query_packets", [False, True])
@pytest.mark.parametrize("clear_resolver_address", [False, True])
@pytest.mark.parametrize("codec", ["none", "zlib", "zstd"])
def test_only_upstream_exchanges_about_public_names_are_written(
    mixed: tuple[Path, Marks], codec: str, clear_resolver_address: bool, keep_query_packets: bool
) -> None:
    pcap, marks = mixed
    written, _ = record(
        pcap,
        codec=codec,
        clear_resolver_address=clear_resolver_address,
        keep_query_packets=keep_query_packets,
        **POLICY,
    )
    assert written.labels("secret") == set()
    assert written.labels("paired") == set()
    assert written.strangers() == set()
    # The search finds what is there.
    assert written.labels("public") == marks.public
    assert written.addresses(SERVERS) == marks.servers == set(SERVERS)
    assert written.addresses(RESOLVERS) == (set() if clear_resolver_address else set(RESOLVERS))
    assert SERVER_ID in b"".join(
        wire for packet in written.packets() if packet.message for wire in [packet.message]
    )


@pytest.mark.parametrize("clear_resolver_address", [False, True])
def test_what_is_written_says_nothing_else(mixed: tuple[Path, Marks], clear_resolver_address: bool) -> None:
    written, _ = record(
        mixed[0], clear_resolver_address=clear_resolver_address, keep_query_packets=True, **POLICY
    )
    resolvers = set(UNSPECIFIED) if clear_resolver_address else set(RESOLVERS)
    for message in written.messages:
        assert str(ip_address(message["query_ip"])) in resolvers
        assert str(ip_address(message["response_ip"])) in SERVERS
        assert not clear_resolver_address or message["query_port"] == 0
    verdicts = {message.get("udp_checksum") for message in written.messages}
    assert verdicts >= {"CORRECT", "INCORRECT"}
    kinds = [0, 0]
    for packet in written.packets():
        assert_known(packet, resolvers, clear_resolver_address)
        if packet.message:
            # Not one octet more than the records that are announced.
            parsed = dns.message.from_wire(packet.message, continue_on_error=True)
            # Where there is a second OPT record, dnspython says so and goes on.
            assert {type(error.exception) for error in parsed.errors} <= {dns.message.BadEDNS}
            kinds[bool(parsed.flags & dns.flags.QR)] += 1
            assert options_of(parsed) == []
            assert not [name for name in names_of(parsed) if any(name.is_subdomain(zone) for zone in ZONES)]
    assert min(kinds) > 0


def assert_known(packet: Packet, resolvers: set[str], clear: bool) -> None:
    """A packet goes between a resolver and a server; a resolver that is not shown has no port, and no
    checksum that tells of it. A router that reports an error is not shown.
    """
    resolver = 0 if packet.addresses[0] in resolvers and packet.quoted is None else 1
    assert packet.addresses[resolver] in resolvers
    assert packet.addresses[1 - resolver] in {*SERVERS, *(UNSPECIFIED if packet.quoted else ())}
    if clear:
        assert packet.ports is None or packet.ports[resolver] == 0
        assert packet.summed


@pytest.mark.parametrize(
    "lifted",
    [
        {"keep_edns_options": True},
        {"suppress_special_use": False},
        {"local_zones": ()},
        {"exclude_qname_regex": None},
        {"admit_private_responders": True},
        {"admit_recursion_desired": True},
    ],
    ids=lambda lifted: str(*lifted),
)
def test_the_search_finds_what_each_rule_keeps_out(mixed: tuple[Path, Marks], lifted: dict[str, Any]) -> None:
    written, _ = record(mixed[0], **{**POLICY, "keep_query_packets": True, **lifted})
    assert written.labels("secret") | written.strangers()


def test_every_rule_had_work(mixed: tuple[Path, Marks]) -> None:
    _, counters = record(mixed[0], **POLICY)
    busy = {name for name, count in counters.items() if count and ("_filtered_" in name)}
    assert busy >= {
        "packets_filtered_direction",
        "packets_filtered_both_listed",
        "messages_filtered_rd",
        "messages_filtered_opcode",
        "messages_filtered_qtype",
        "messages_filtered_scope",
        "messages_filtered_local_zone",
        "messages_filtered_qname_regex",
    }


KINDS_OF_DNSTAP = range(1, 16)
"""Of dnstap.proto's Message.Type all fourteen, and one that is none of them."""


@pytest.mark.parametrize("clear_resolver_address", [False, True])
def test_of_what_a_resolver_tells_only_its_own_exchanges_are_written(
    tmp_path: Path, clear_resolver_address: bool
) -> None:
    """Frames of every kind hold a question and its answer; those of others also a user's address and name."""

    def messages(name: str, *, rd: bool = False) -> tuple[bytes, bytes]:
        query = dns.message.make_query(name, "A", id=7)
        query.flags = dns.flags.RD if rd else dns.flags.Flag(0)
        response = dns.message.make_response(query)
        for message in (query, response):
            message.use_edns(
                options=[dns.edns.GenericOption(dns.edns.OptionType.make(COOKIE), HIDDEN + b"-1")]
            )
        return query.to_wire(), response.to_wire()

    now = time.time()
    resolver, client = ip_address(RESOLVERS[0]).packed, ip_address(CLIENTS[0]).packed
    own = messages("public-00001.example.")
    frames = [
        dnstap.frame(dnstap.RESOLVER_QUERY, own[0], now, resolver=resolver),
        dnstap.frame(dnstap.RESOLVER_RESPONSE, own[1], now, resolver=resolver),
    ]
    for kind in KINDS_OF_DNSTAP:
        mine = kind in (dnstap.RESOLVER_QUERY, dnstap.RESOLVER_RESPONSE)
        # Of the resolver's own kinds those that ask for recursion, or of a zone that is kept out.
        secrets = (
            messages(f"secret-000{kind:02}.example.", rd=mine),
            messages(f"secret-001{kind:02}.example."),
        )
        zones = "example.", LOCAL_ZONES[0] if mine else "example."
        for (query, response), zone in zip(secrets, zones, strict=True):
            for message in (query, response) if not mine else ((query,) if kind == 3 else (response,)):
                source = resolver if mine else client
                frames.append(dnstap.frame(kind, message, now, resolver=source, zone=zone))
    listening = DnstapSource()
    assert listening.listen(f"unix:{tmp_path}/dnstap.sock") is None
    recorder = Recorder([], keep_query_packets=True, clear_resolver_address=clear_resolver_address, **POLICY)

    def tell() -> None:
        with dnstap.Sender(tmp_path / "dnstap.sock") as sender:
            sender.send(b"".join(frames))
            sender.finish()

    telling = threading.Thread(target=tell)
    telling.start()
    containers = []
    deadline = time.monotonic() + 20
    while recorder.counters()["dnstap_frames_seen"] < len(frames) or telling.is_alive():
        assert time.monotonic() < deadline, recorder.counters()
        containers += recorder.pump(listening, 0.02)
    telling.join()
    containers += recorder.finish()
    written = Written(b"".join(container.data for container in containers))
    assert written.labels("secret") == set()
    assert written.strangers() == set()
    assert written.labels("public") == {"public-00001"}
    assert written.addresses(RESOLVERS) == (set() if clear_resolver_address else {RESOLVERS[0]})
    for packet in written.packets():
        assert packet.summed
        assert packet.message is not None
        assert options_of(dns.message.from_wire(packet.message)) == []
    filtered = {name for name, count in recorder.counters().items() if count and "_filtered_" in name}
    others = ("auth", "client", "forwarder", "stub", "tool", "update", "other")
    assert filtered == {
        *(f"dnstap_frames_filtered_{kind}" for kind in others),
        "messages_filtered_rd",
        "messages_filtered_local_zone",
    }
