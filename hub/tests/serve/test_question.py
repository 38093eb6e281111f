"""Paths and parameters, in every form in which the clients send them."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sie_hub.serve.errors import Refused
from sie_hub.serve.inverse_key import Span
from sie_hub.serve.name_pattern import Beginning, Below, Exact
from sie_hub.serve.question import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    MAX_OFFSET,
    Fences,
    Question,
    RdataAddresses,
    RdataNames,
    RdataOctets,
    RRsets,
    Selection,
    TypeSet,
    Verb,
    parse_question,
    path_segments,
)

from .samples import address, name

NOW = 1_800_000_000
MAPPED = bytes(10) + b"\xff\xff"


def ask(path: str, query: str = "", verb: Verb = Verb.LOOKUP) -> Question:
    return parse_question(verb, path_segments(path), query, NOW)


def mapped(first: str, beyond: str) -> Span:
    return Span(MAPPED + address(first), MAPPED + address(beyond))


WWW = Exact(name("www.example.com."))
ANY = TypeSet.ANY


@pytest.mark.parametrize(
    ("path", "selection"),
    [
        ("rrset/name/www.example.com", RRsets(WWW, ANY)),
        ("rrset/name/www.example.com.", RRsets(WWW, ANY)),
        ("rrset/name/www.example.com/A/example.com", RRsets(WWW, 1, name("example.com."))),
        ("rrset/name/www.example.com/AAAA", RRsets(WWW, 28)),
        ("rrset/name/www.example.com/any", RRsets(WWW, ANY)),
        ("rrset/name/www.example.com/TYPE255", RRsets(WWW, ANY)),
        ("rrset/name/www.example.com/type65534", RRsets(WWW, 65_534)),
        ("rrset/name/www.example.com/ds", RRsets(WWW, 43)),
        (
            "rrset/name/%2A.example.com/ANY-DNSSEC",
            RRsets(Below(name("example.com.")), TypeSet.ANY_DNSSEC),
        ),
        ("rrset/name/example.%2A/ANY/com", RRsets(Beginning(b"\7example"), ANY, name("com."))),
        ("rrset/name/.", RRsets(Exact(b"\0"), ANY)),
        ("rrset/name/./NS/.", RRsets(Exact(b"\0"), 2, b"\0")),
        ("rrset/name/a%20b%25_x.example", RRsets(Exact(b"\6a b%_x\7example\0"), ANY)),
        ("rrset/name/b%C3%BCcher.example", RRsets(Exact(b"\7b\xc3\xbccher\7example\0"), ANY)),
        ("rrset/name/0%2F25.2.0.192.in-addr.arpa", RRsets(Exact(name("0/25.2.0.192.in-addr.arpa.")), ANY)),
        ("rrset/raw/03777777076578616D706C6503636f6d00", RRsets(WWW, ANY)),
        ("rrset/raw/03777777076578616d706c6503636f6d00/A", RRsets(WWW, 1)),
        ("rdata/name/www.example.com/NS", RdataNames(WWW, 2)),
        ("rdata/name/%2A.example.net/any", RdataNames(Below(name("example.net.")), ANY)),
        ("rdata/ip/198.51.100.80", RdataAddresses(mapped("198.51.100.80", "198.51.100.81"), 1)),
        (
            "rdata/ip/198.51.100.7,24",
            RdataAddresses(Span(MAPPED + address("198.51.100.0"), MAPPED + b"\xc6\x33\x65"), 1),
        ),
        (
            "rdata/ip/198.51.100.0%2C24",
            RdataAddresses(Span(MAPPED + address("198.51.100.0"), MAPPED + b"\xc6\x33\x65"), 1),
        ),
        (
            "rdata/ip/198.51.100.0-198.51.100.32",
            RdataAddresses(mapped("198.51.100.0", "198.51.100.33"), 1),
        ),
        (
            "rdata/ip/2001%3Adb8%3A%3A,32",
            RdataAddresses(Span(address("2001:db8::"), bytes.fromhex("20010db9")), 28),
        ),
        ("rdata/ip/2001:db8::1", RdataAddresses(Span(address("2001:db8::1"), address("2001:db8::2")), 28)),
        ("rdata/ip/::,0", RdataAddresses(Span(bytes(16), None), 28)),
        ("rdata/raw/c6336450/A", RdataOctets(b"\xc6\x33\x64\x50", 1)),
        ("rdata/raw/C6336450", RdataOctets(b"\xc6\x33\x64\x50", ANY)),
    ],
)
def test_paths(path: str, selection: Selection) -> None:
    assert ask(path).selection == selection


@pytest.mark.parametrize(
    "path",
    [
        "",
        "rrset",
        "rrset/name",
        "rrset/name/",
        "rrset/name//A",
        "rrset/name/x/A/y/z",
        "rrset/name/x/",
        "rrset/name/x/NONSENSE",
        "rrset/name/x/TYPE65536",
        "rrset/name/x/A/",
        "rrset/raw/03777777",
        "rrset/raw/0377777700ff",
        "rrset/raw/xyz0",
        "rrset/raw/00/A/com",
        "rrset/ip/192.0.2.1",
        "rdata/ip/192.0.2.1/A",
        "rdata/ip/192.0.2.256",
        "rdata/ip/192.0.2.1,33",
        "rdata/ip/192.0.2.1,-1",
        "rdata/ip/192.0.2.1,",
        "rdata/ip/192.0.2.9-192.0.2.1",
        "rdata/ip/192.0.2.1-2001:db8::1",
        "rdata/ip/fe80::1%25eth0",
        "rdata/ip/2001:db8::,129",
        "rdata/raw/",
        "rdata/raw/abc",
        "rdata/raw/ab%20cd",
        "rdata/nonsense/x",
        "nonsense/name/x",
    ],
)
def test_paths_that_cannot_be_read(path: str) -> None:
    with pytest.raises(Refused) as refusal:
        ask(path)
    assert refusal.value.status == 400
    assert refusal.value.text
    assert "\n" not in refusal.value.text


def test_without_parameters() -> None:
    question = ask("rrset/name/x", "swclient=dnsdbq&version=2.6.4&id=a:b&unheard_of=1")
    assert question == Question(Verb.LOOKUP, RRsets(Exact(b"\1x\0"), ANY))
    assert question.limit == DEFAULT_LIMIT


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ("limit=1", "limit", 1),
        ("limit=0", "limit", MAX_LIMIT),
        (f"limit={MAX_LIMIT + 1}", "limit", MAX_LIMIT),
        ("limit=5&limit=7", "limit", 7),
        ("offset=100", "offset", 100),
        (f"offset={MAX_OFFSET}", "offset", MAX_OFFSET),
        ("aggr=f", "merged", False),
        ("aggr=False", "merged", False),
        ("aggr=0", "merged", False),
        ("aggr=t", "merged", True),
        ("aggr=true", "merged", True),
        ("aggr=1", "merged", True),
        ("humantime=True", "human_time", True),
        ("max_count=9", "max_count", 9),
        ("time_first_before=7", "fences", Fences(first_before=7)),
        ("time_first_after=7", "fences", Fences(first_after=7)),
        ("time_last_before=0", "fences", Fences(last_before=0)),
        ("time_last_after=-3600", "fences", Fences(last_after=NOW - 3600)),
    ],
)
def test_parameters(query: str, field: str, value: object) -> None:
    assert getattr(ask("rrset/name/x", query), field) == value


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=-1", 400),
        ("limit=ten", 400),
        ("limit=", 400),
        ("limit=1.5", 400),
        ("limit=%D9%A3", 400),
        ("offset=-1", 400),
        (f"offset={MAX_OFFSET + 1}", 416),
        ("aggr=perhaps", 400),
        ("time_last_after=2026-01-01", 400),
        ("time_last_after=" + "9" * 40, 400),
        ("&".join(f"p{number}=1" for number in range(100)), 400),
    ],
)
def test_parameters_that_cannot_be_read(query: str, status: int) -> None:
    with pytest.raises(Refused) as refusal:
        ask("rrset/name/x", query)
    assert refusal.value.status == status


def test_a_summary_takes_no_offset() -> None:
    with pytest.raises(Refused, match="offset not allowed") as refusal:
        ask("rrset/name/x", "offset=1", Verb.SUMMARIZE)
    assert refusal.value.status == 416


def test_slashes_at_the_beginning_count_as_one() -> None:
    assert path_segments("//dnsdb/v2/ping") == path_segments("/dnsdb/v2/ping")


@given(st.text(max_size=100), st.text(max_size=60))
def test_anything_is_a_question_or_is_refused(path: str, query: str) -> None:
    for start in ("", "rrset/name/", "rdata/ip/", "rdata/raw/", "rrset/raw/"):
        with suppress(Refused):
            assert 1 <= ask(start + path, query).limit <= MAX_LIMIT
