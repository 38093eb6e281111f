"""The unmodified dnsdbq, as analysts have it: every form of request that it sends, and what it makes of the
answers."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sie_hub.serve import question
from sie_hub.serve.engine import Engine

from .samples import Sample
from .test_api import KEY, Serve, serving, write_registry

pytestmark = pytest.mark.skipif(
    shutil.which("dnsdbq") is None, reason="NO dnsdbq HERE: install Debian's package dnsdbq"
)


class Said(NamedTuple):
    """What a run of dnsdbq gave."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of a run with -j."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]


class Dnsdbq:
    """dnsdbq, pointed at a serve."""

    def __init__(self, url: str, home: Path, key: str = KEY) -> None:
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "DNSDBQ_CONFIG_FILE": "/dev/null",
            "DNSDB_SERVER": url,
            "DNSDB_API_KEY": key,
            "TZ": "UTC",
        }

    async def __call__(self, *arguments: str, given: str = "") -> Said:
        process = await asyncio.create_subprocess_exec(
            "dnsdbq",
            "-u",
            "dnsdb2",
            *arguments,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate(given.encode())
        return Said(process.returncode or 0, out.decode(), err.decode())


@pytest.fixture
async def serve(store: Engine, content: list[Sample], tmp_path: Path) -> AsyncIterator[Serve]:
    write_registry(tmp_path / "participants")
    async with serving(store, tmp_path / "participants") as found:
        yield found


@pytest.fixture
def dnsdbq(serve: Serve, tmp_path: Path) -> Dnsdbq:
    return Dnsdbq(serve.url, tmp_path)


def found(said: Said) -> set[tuple[str, str]]:
    assert said.code == 0, said.err
    assert "missing" not in said.err
    return {(row["rrname"], row["rrtype"]) for row in said.rows}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-r", "www.example"), {("www.example.", "A"), ("www.example.", "AAAA")}),
        (("-r", "WWW.Example."), {("www.example.", "A"), ("www.example.", "AAAA")}),
        (("-r", "www.example/A/example"), {("www.example.", "A")}),
        (("-r", "www.example/A/other"), set()),
        (("-r", "www.example/A,AAAA"), {("www.example.", "A"), ("www.example.", "AAAA")}),
        (("-r", "www.example", "-t", "TYPE28"), {("www.example.", "AAAA")}),
        (("-r", "*.example", "-t", "ANY-DNSSEC"), {("example.", "DS"), ("example.", "RRSIG")}),
        (("-r", "example/DS"), {("example.", "DS")}),
        (("-r", "*.example", "-t", "MX"), {("example.", "MX")}),
        (("-r", "www.*"), {("www.example.", "A"), ("www.example.", "AAAA"), ("www.other.test.", "A")}),
        (("-r", "www.*", "-b", "other.test"), {("www.other.test.", "A")}),
        (("-r", "example", "-t", "NS", "-b", "."), {("example.", "NS")}),
        (("-r", "."), {(".", "NS")}),
        (("-r", "a b%_x.example"), {("a\\032b%_x.example.", "A")}),
        (("-r", "0/25.2.0.192.in-addr.arpa"), set()),
        (("-8", "-r", "bücher.example"), {("b\\195\\188cher.example.", "A")}),
        (
            ("-n", "ns1.example/NS,SOA"),
            {("example.", "NS"), ("0/25.2.0.192.in-addr.arpa.", "NS"), ("example.", "SOA")},
        ),
        (("-n", "mail.example"), {("example.", "MX")}),
        (("-n", "sip.example"), {("_sip._tcp.example.", "SRV")}),
        (("-n", "edge.*"), {("svc.example.", "HTTPS")}),
        (("-n", "*.root.example", "-t", "any"), {(".", "NS")}),
        (("-i", "203.0.113.80"), {("www.example.", "A")}),
        (
            ("-i", "203.0.113.80/31"),
            {("www.example.", "A"), ("a\\032b%_x.example.", "A")},
        ),
        (
            ("-i", "203.0.113.80,31"),
            {("www.example.", "A"), ("a\\032b%_x.example.", "A")},
        ),
        (("-i", "198.51.100.0-198.51.100.32"), {("www.other.test.", "A")}),
        (("-i", "2001:db8:ffff::80"), {("www.example.", "AAAA")}),
        (("-i", "2001:db8::/32"), {("www.example.", "AAAA")}),
        (("-R", "03777777076578616d706c6500/A"), {("www.example.", "A")}),
        (("-N", "cb007150/A"), {("www.example.", "A")}),
        (("-r", "nowhere.example"), set()),
    ],
)
async def test_every_form_of_look_up(dnsdbq: Dnsdbq, arguments: tuple[str, ...], expected: set[Any]) -> None:
    assert found(await dnsdbq(*arguments, "-j")) == expected


async def test_a_name_with_a_slash_is_found_in_batch_and_by_its_escape(dnsdbq: Dnsdbq) -> None:
    """dnsdbq splits -r at slashes; the name is reached with the slash as an escape."""
    assert found(await dnsdbq("-r", "0\\04725.2.0.192.in-addr.arpa", "-j")) == {
        ("0/25.2.0.192.in-addr.arpa.", "NS")
    }


async def test_text_as_people_see_it(dnsdbq: Dnsdbq) -> None:
    said = await dnsdbq("-r", "example/NS/example")
    assert said.code == 0
    assert ";; count: 4; bailiwick: example." in said.out
    assert "example.  NS  ns1.example." in said.out
    assert "example.  NS  ns2.example." in said.out
    said = await dnsdbq("-r", "example/TXT")
    assert 'example.  TXT  "v=spf1 -all" "x y"' in said.out


async def test_an_empty_text_record_survives_sorting(dnsdbq: Dnsdbq) -> None:
    said = await dnsdbq("-r", "empty.example", "-s", "-j")
    assert [row["rdata"] for row in said.rows] == [['""']]


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (("-l", "1"), 1),
        (("-l", "0"), 2),
        (("-O", "1"), 1),
        (("-L", "1"), 1),
        (("-g",), 2),
        (("-A", "-3600"), 2),
        (("-B", "2020-01-01"), 0),
        (("-A", "2020-01-01", "-B", "2038-01-01"), 2),
        (("-A", "2020-01-01", "-B", "2038-01-01", "-c"), 2),
        (("-A", "2020-01-01", "-B", "2020-01-02", "-c"), 0),
        (("-s", "-k", "first"), 2),
        (("-S", "-k", "count"), 2),
        (("-T", "datefix,reverse,chomp"), 2),
    ],
)
async def test_options(dnsdbq: Dnsdbq, arguments: tuple[str, ...], rows: int) -> None:
    said = await dnsdbq("-r", "www.example", "-j", *arguments)
    assert said.code == 0
    assert len(said.rows) == rows
    assert "missing" not in said.err


async def test_a_limit_that_nobody_asked_for_is_told(dnsdbq: Dnsdbq, monkeypatch: pytest.MonkeyPatch) -> None:
    """dnsdbq says nothing about a limit that it has asked for itself with -l."""
    monkeypatch.setattr(question, "DEFAULT_LIMIT", 3)
    said = await dnsdbq("-r", "*.example", "-j")
    assert len(said.rows) == 3
    assert "Database limit: Result limit reached" in said.err


async def test_no_results_are_told(dnsdbq: Dnsdbq) -> None:
    said = await dnsdbq("-r", "nowhere.example")
    assert (said.code, said.out) == (0, "")
    assert "NOERROR (no results found for query.)" in said.err


async def test_the_quota_is_readable(dnsdbq: Dnsdbq) -> None:
    said = await dnsdbq("-I")
    assert said.code == 0
    assert "unlimited" in said.out
    assert not said.err


async def test_summaries(dnsdbq: Dnsdbq) -> None:
    said = await dnsdbq("-V", "summarize", "-r", "www.example", "-j")
    assert [(row["count"], row["num_results"]) for row in said.rows] == [(5, 2)]
    said = await dnsdbq("-V", "summarize", "-i", "203.0.113.0/24", "-M", "1", "-l", "5", "-j")
    assert said.rows[0]["num_results"] == 1


async def test_a_batch_of_parallel_requests(dnsdbq: Dnsdbq) -> None:
    queries = ["rrset/name/www.example/A,AAAA", "rdata/ip/203.0.113.80", "rdata/ip/203.0.113.0,24"]
    queries += ["rdata/name/ns1.example/NS", "rrset/name/%2A.example/ANY/example", "rdata/raw/cb007150/A"]
    queries += ["# a comment", "$OPTIONS -l 1", "rrset/name/*.example"]
    said = await dnsdbq("-f", "-j", given="".join(f"{query}\n" for query in queries))
    assert said.code == 0
    assert said.out.count("--\n") >= 7
    parallel = await dnsdbq("-f", "-m", "-j", given="".join(f"rdata/ip/203.0.113.{n}\n" for n in range(40)))
    assert parallel.code == 0
    assert "503" not in parallel.err


@pytest.mark.parametrize(
    ("arguments", "said_of_it"),
    [
        (("-r", "www.example/NONSENSE"), "unknown RRTYPE"),
        (("-r", "a..b"), "not a domain name"),
        (("-i", "203.0.113.300"), ""),
        (("-r", "www.example", "-O", "9999999"), "over the maximum"),
    ],
)
async def test_refusals_are_told(dnsdbq: Dnsdbq, arguments: tuple[str, ...], said_of_it: str) -> None:
    said = await dnsdbq(*arguments)
    assert said.out == ""
    assert said.err
    assert said_of_it in said.err


async def test_a_wrong_key_is_told(serve: Serve, tmp_path: Path) -> None:
    said = await Dnsdbq(serve.url, tmp_path, key="wrong")("-r", "www.example")
    assert "Error: the API key is not valid" in said.err


async def test_a_slash_behind_the_server_does_no_harm(serve: Serve, tmp_path: Path) -> None:
    for suffix in ("/", "/dnsdb/v2"):
        said = await Dnsdbq(serve.url + suffix, tmp_path)("-r", "www.example/A", "-j")
        assert found(said) == {("www.example.", "A")}
