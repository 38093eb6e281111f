"""Lines of answers: what the clients cannot bear never stands in one."""

import json

import dns.name
import dns.rdata
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sie_hub.serve import answer
from sie_hub.serve.answer import rdata_text
from sie_hub.serve.rrtypes import type_number, type_text

from .samples import address, name, rdata


@pytest.mark.parametrize(
    ("rrtype", "wire", "text"),
    [
        (1, address("203.0.113.1"), "203.0.113.1"),
        (28, address("2001:db8::1"), "2001:db8::1"),
        (2, name("ns1.example."), "ns1.example."),
        (2, b"\0", "."),
        (15, rdata("MX", "10 mail.example."), "10 mail.example."),
        (16, b"\0", '""'),
        (16, b"", "\\# 0"),
        (16, rdata("TXT", '"v=spf1 -all" "x"'), '"v=spf1 -all" "x"'),
        (16, b'\4a"\\\n', r'"a\"\\\010"'),
        (33, rdata("SRV", "1 2 3 sip.example."), "1 2 3 sip.example."),
        (1, b"\1\2\3", "\\# 3 010203"),
        (65_534, b"\xab\xcd", "\\# 2 ABCD"),
        (48, bytes.fromhex("01010308") + b"k" * 70, "257 3 8 " + "a2tr" * 23 + "aw=="),
    ],
)
def test_rdata_in_presentation_form(rrtype: int, wire: bytes, text: str) -> None:
    assert rdata_text(rrtype, wire) == text


@given(st.integers(0, 65_535), st.binary(max_size=120))
def test_any_rdata_has_a_text_of_one_line(rrtype: int, wire: bytes) -> None:
    text = rdata_text(rrtype, wire)
    assert text
    assert text.isprintable()
    assert text.isascii()


@given(
    st.sampled_from([2, 5, 6, 15, 16, 33, 35, 43, 46, 47, 48, 50, 52, 64, 65, 257]), st.binary(max_size=120)
)
def test_common_types_have_a_text_of_one_line_whatever_they_hold(rrtype: int, wire: bytes) -> None:
    text = rdata_text(rrtype, wire)
    assert text
    assert "\n" not in text


@given(
    st.one_of(
        st.tuples(st.just(1), st.binary(min_size=4, max_size=4)),
        st.tuples(st.just(28), st.binary(min_size=16, max_size=16)),
        st.tuples(
            st.sampled_from([2, 5, 12, 39]),
            st.lists(st.binary(min_size=1, max_size=12), max_size=5).map(
                lambda labels: dns.name.Name([*labels, b""]).to_wire() or b""
            ),
        ),
    )
)
def test_addresses_and_bare_names_have_the_text_that_dnspython_gives(typed: tuple[int, bytes]) -> None:
    rrtype, wire = typed
    assert (
        rdata_text(rrtype, wire) == dns.rdata.from_wire("IN", type_text(rrtype), wire, 0, len(wire)).to_text()
    )


@given(st.integers(0, 65_535))
def test_every_type_is_read_back_from_its_text(rrtype: int) -> None:
    assert type_number(type_text(rrtype)) == rrtype
    assert type_number(type_text(rrtype).lower()) == rrtype
    assert type_number(f"TYPE{rrtype}") == rrtype


def test_every_line_is_one_object_and_ends() -> None:
    lines = [
        answer.BEGIN,
        answer.ONGOING,
        answer.SUCCEEDED,
        answer.LIMITED,
        answer.failed("a\nb"),
        answer.line({"obj": {"rrname": "a\nb.", "rdata": ["\u2028"]}}),
    ]
    for line in lines:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert isinstance(json.loads(line), dict)
