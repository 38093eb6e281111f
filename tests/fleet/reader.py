"""An analyst: the unmodified dnsdbq, and for sums the API itself."""

import json
import os
import ssl
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

POLL = 0.25  # seconds between two questions while an answer is awaited

T = TypeVar("T")


@dataclass(frozen=True)
class Reader:
    """Where to ask, and with which key."""

    api_url: str
    api_key: str

    def dnsdbq(self, *arguments: str) -> list[dict[str, Any]]:
        """Rows as dnsdbq prints them with -j; -U since the lab's certificate is the lab's own."""
        done = subprocess.run(
            ["dnsdbq", "-u", "dnsdb2", "-U", "-j", *arguments],
            env={**os.environ, "DNSDB_SERVER": self.api_url, "DNSDB_API_KEY": self.api_key},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def counts(self, zone: str, rrtype: str = "A") -> Counter[str]:
        """sum(count) by owner name of everything below `zone`; AssertionError for a row with count 0."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        request = urllib.request.Request(
            f"{self.api_url}/dnsdb/v2/lookup/rrset/name/*.{zone}/{rrtype}?limit=0",
            headers={"X-API-Key": self.api_key, "Accept": "application/x-ndjson"},
        )
        total: Counter[str] = Counter()
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            lines = [json.loads(line) for line in answer]
        assert lines[0] == {"cond": "begin"}, lines[0]
        assert lines[-1] == {"cond": "succeeded"}, lines[-1]
        for row in (line["obj"] for line in lines if "obj" in line):
            assert row["count"] > 0, f"a row with count {row['count']}: {row}"
            total[row["rrname"].rstrip(".")] += row["count"]
        return total


def await_equal(left: Callable[[], T], right: T, seconds: float, what: str) -> None:
    """Polls until something is as expected. AssertionError shows both when that does not come."""
    start = time.monotonic()
    while (found := left()) != right:
        assert time.monotonic() - start < seconds, f"{what}: {found}, not {right} within {seconds} s"
        time.sleep(POLL)


def await_true(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Polls until a condition holds; how long that took. AssertionError names what did not come."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"{what}: not within {seconds} s"
        time.sleep(POLL)
    return time.monotonic() - start
