"""Keys of the inverse table."""

from ipaddress import ip_address, ip_network

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sie_hub.serve.inverse_key import (
    Kind,
    Span,
    address_key,
    after_all_with,
    inverse_key,
    leading_name,
    span_below,
    span_of_addresses,
    span_of_prefix,
)

from .samples import address, name, rdata

names = st.lists(st.binary(min_size=1, max_size=20), max_size=6).map(
    lambda labels: dns.name.Name([*labels, b""]).to_wire() or b""
)


def within(key: bytes, span: Span) -> bool:
    return key >= span.low and (span.high is None or key < span.high)


@pytest.mark.parametrize(
    ("rrtype", "wire", "kind", "key"),
    [
        (1, address("192.0.2.1"), Kind.ADDRESS, bytes(10) + b"\xff\xff\xc0\x00\x02\x01"),
        (28, address("2001:db8::1"), Kind.ADDRESS, address("2001:db8::1")),
        (1, b"\x01\x02\x03", Kind.RAW, b"\x01\x02\x03"),
        (2, name("NS1.Example."), Kind.NAME, b"\7example\3ns1\0"),
        (15, rdata("MX", "10 mail.example."), Kind.NAME, b"\7example\4mail\0"),
        (33, rdata("SRV", "1 2 3 sip.example."), Kind.NAME, b"\7example\3sip\0"),
        (65, rdata("HTTPS", "1 edge.example. alpn=h2"), Kind.NAME, b"\7example\4edge\0"),
        (6, rdata("SOA", "ns1.example. h.example. 1 2 3 4 5"), Kind.NAME, b"\7example\3ns1\0"),
        (15, b"\x00", Kind.RAW, b"\x00"),
        (2, b"\x05abc", Kind.RAW, b"\x05abc"),
        (2, b"\xc0\x0c", Kind.RAW, b"\xc0\x0c"),
        (16, b"\x03abc", Kind.RAW, b"\x03abc"),
    ],
)
def test_an_rdata_is_found_by_its_address_its_name_or_itself(
    rrtype: int, wire: bytes, kind: Kind, key: bytes
) -> None:
    assert inverse_key(rrtype, wire) == (kind, key)


@given(st.integers(0, 65_535), st.binary(max_size=80))
def test_every_rdata_has_a_key(rrtype: int, wire: bytes) -> None:
    kind, key = inverse_key(rrtype, wire)
    assert kind in Kind
    if kind is Kind.RAW:
        assert key == wire


@given(names, st.binary(max_size=10))
def test_a_leading_name_ends_where_it_ends(wire: bytes, rest: bytes) -> None:
    assert leading_name(wire + rest) == wire


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_a_prefix_spans_what_begins_with_it_and_nothing_else(prefix: bytes, key: bytes) -> None:
    assert within(key, span_of_prefix(prefix)) == key.startswith(prefix)


def test_nothing_is_above_all_octets_of_the_highest_value() -> None:
    assert after_all_with(b"\xff\xff") is None
    assert after_all_with(b"a\xff") == b"b"


@given(names, names)
def test_a_domain_spans_itself_and_what_is_below_it(domain: bytes, other: bytes) -> None:
    kind, key = inverse_key(2, other)
    assert kind is Kind.NAME
    ancestor = dns.name.from_wire(domain, 0)[0]
    descendant = dns.name.from_wire(other, 0)[0]
    assert within(key, span_below(domain)) == descendant.is_subdomain(ancestor)


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_a_prefix_of_addresses_spans_its_addresses(address: str, length: int, other: str) -> None:
    base, probe = ip_address(address), ip_address(other)
    network = ip_network((base, min(length, base.max_prefixlen)), strict=False)
    span = span_of_addresses(address_key(network.network_address), address_key(network.broadcast_address))
    if probe.version == base.version:
        assert within(address_key(probe), span) == (probe in network)
