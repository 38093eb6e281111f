"""Names and wildcards as readers write them."""

from contextlib import suppress

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sie_hub.serve.name_pattern import Beginning, Below, Exact, parse_name, parse_pattern

from .samples import name


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (b"www.example", Exact(name("www.example."))),
        (b"WWW.Example.", Exact(name("www.example."))),
        (b".", Exact(b"\0")),
        (b"*.example", Below(name("example."))),
        (b"*.example.", Below(name("example."))),
        (b"*.a.b.example", Below(name("a.b.example."))),
        (b"www.example.*", Beginning(b"\3www\7example")),
        (b"WWW.*.", Beginning(b"\3www")),
        (rb"\*.example", Exact(b"\1*\7example\0")),
        (rb"www.\*", Exact(b"\3www\1*\0")),
        (rb"www\\.*", Beginning(b"\4www\\")),
        (b"a*.example", Exact(b"\2a*\7example\0")),
        (rb"dot\.ted.example", Exact(b"\7dot.ted\7example\0")),
        (rb"a\032b.example", Exact(b"\3a b\7example\0")),
        (b"a b.example", Exact(b"\3a b\7example\0")),
        (b"b\xc3\xbccher.example", Exact(b"\7b\xc3\xbccher\7example\0")),
        (b"\\\xc3.example", Exact(b"\1\xc3\7example\0")),
        (b"a/b.example", Exact(b"\3a/b\7example\0")),
        (b"new\nline.example", Exact(b"\x08new\nline\7example\0")),
        (b"quote'\".example", Exact(b"\7quote'\"\7example\0")),
    ],
)
def test_what_is_written_is_what_is_meant(text: bytes, pattern: Exact | Below | Beginning) -> None:
    assert parse_pattern(text) == pattern


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"*", "one wildcard"),
        (b"*.", "one wildcard"),
        (b"*.*", "one wildcard"),
        (b"*.example.*", "one wildcard"),
        (b"*.*.example", "one wildcard"),
        (b"www.*.example", "first or the last label"),
        (b"a..b", "not a domain name"),
        (b"", "a name is missing"),
        (b"a" * 64, "not a domain name"),
        (b".".join([b"a" * 60] * 5), "not a domain name"),
        (rb"a\300.example", "not a domain name"),
        (b"a\\", "not a domain name"),
    ],
)
def test_what_cannot_be_meant_gets_a_sentence(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_pattern(text)


@given(st.lists(st.binary(min_size=1, max_size=12), max_size=5))
def test_every_name_is_read_back_from_its_text(labels: list[bytes]) -> None:
    wire = dns.name.Name([*labels, b""]).to_wire() or b""
    text = dns.name.Name([*labels, b""]).to_text().encode()
    assert parse_name(text) == wire.lower()


@given(st.binary(max_size=300))
def test_any_octets_are_a_pattern_or_a_sentence(text: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(parse_pattern(text), Exact | Below | Beginning)
