"""What ends soon: each kind at its last day and a day before it counts, and what never counts."""

import json
import os
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from sie_hub.cli import main
from sie_hub.enrol.authority import load_certificates
from sie_hub.enrol.due import Ending, agreements
from sie_hub.enrol.tokens import TokenStore
from sie_hub.registry import Agreement, Participant

from .conftest import EXCHANGE, Pki

NOW = datetime.now(UTC)
TODAY = NOW.date()


def participant(**agreement: Any) -> Participant:
    said: dict[str, Any] = {"signed": date(2026, 1, 1), "term_days": 365, "renews": True, "terminated": None}
    return Participant("isp_a", Agreement(**said | agreement), {}, {}, {})


def ends(today: date, **agreement: Any) -> list[tuple[str, date]]:
    return [(e.what, e.at.date()) for e in agreements([participant(**agreement)], today)]


def test_the_end_of_each_kind_of_agreement() -> None:
    first_end = date(2027, 1, 1)
    assert ends(date(2026, 6, 1)) == [("term", first_end)]
    assert ends(date(2026, 12, 31)) == [("term", first_end)]
    assert ends(first_end) == [("term", date(2028, 1, 1))]
    assert ends(date(2025, 6, 1)) == [("term", first_end)]
    assert ends(date(2026, 6, 1), renews=False) == [("agreement", first_end)]
    assert ends(date(2027, 6, 1), renews=False) == [("agreement", first_end)]
    assert ends(date(2026, 6, 1), terminated=date(2026, 7, 1)) == [("agreement", date(2026, 7, 1))]
    assert ends(date(2026, 7, 1), terminated=date(2026, 7, 1)) == []


def test_days_are_whole_and_negative_after_the_end() -> None:
    ending = Ending("agreement", "isp_a", NOW, "")
    assert ending.days(NOW - timedelta(hours=25)) == 1
    assert ending.days(NOW - timedelta(hours=1)) == 0
    assert ending.days(NOW + timedelta(hours=1)) == -1


class Hub:
    """A hub's files, with a participant whose sensors have certificates that end after these many days."""

    def __init__(self, directory: Path, pki: Pki, signed: date, sensors: dict[str, float | None]) -> None:
        registry, state = directory / "participants", directory / "state"
        registry.mkdir()
        entry: dict[str, Any] = {"channels": [202]}
        names = {name: entry | {"source": number} for number, name in enumerate(sensors, start=1)}
        names["gone"] = entry | {"source": 99, "revoked": {"at": "2026-11-01T00:00:00Z", "reason": "lost"}}
        terms = {"signed": signed.isoformat(), "term_days": 365, "renews": True}
        text = yaml.safe_dump({"participant": "isp_a", "agreement": terms, "sensors": names})
        (registry / "isp_a.yml").write_text(text)
        store = TokenStore(state)
        for name, left in {**sensors, "gone": 1.0}.items():
            if left is None:
                continue
            at = NOW - timedelta(days=30 - left)
            _, secret = store.issue("isp_a", name, now=at, random=os.urandom)
            assert secret is not None
            (certificate,) = load_certificates(pki.sensor(sensor=name, at=at).certificate)
            store.redeem(
                "isp_a", name, secret, f"SHA256:{name}", now=at, issue=partial(next, iter([certificate]))
            )
        server = pki.server()
        self.config = directory / "hub.yml"
        unit = {"certificate": str(server.certificate), "key": str(server.key)}
        self.config.write_text(
            yaml.safe_dump(
                {
                    "exchange": EXCHANGE,
                    "registry": str(registry),
                    "ca": {"certificate": str(pki.ca_held.certificate), "key": str(pki.ca_held.key)},
                    "enrol": {**unit, "state": str(state)},
                    "ingest": unit,
                    "serve": unit,
                }
            )
        )

    def ask(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, int]]:
        """The exit code of `sie-hub due`, and the days that are left by what is due and whose."""
        code = main(["due", "--config", str(self.config), "--json", *words])
        shown = json.loads(capsys.readouterr().out)["due"]
        return code, {f"{one['what']} {one['whose']}": one["days"] for one in shown}


def test_what_is_due_is_shown_and_told_by_the_exit_code(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sensors that never enrolled, are revoked or renew in time are not due; nor are far ends."""
    lives = {"new": 29.5, "renewing": 9.5, "failing": 7.5, "over": -1.5, "never": None}
    hub = Hub(tmp_path, pki, TODAY - timedelta(days=365 - 30), lives)
    failing = {"certificate isp_a/failing": 7, "certificate isp_a/over": -2}
    assert hub.ask(capsys) == (3, failing | {"term isp_a": 29})
    assert hub.ask(capsys, "--days", "20") == (3, failing)
    assert hub.ask(capsys, "--days", "20", "--sensor-days", "0") == (3, {"certificate isp_a/over": -2})
    own = {f"hub's certificate {name}": 364 for name in ("enrol", "ingest", "serve")}
    assert hub.ask(capsys, "--days", "366")[1].items() >= own.items()


def test_nothing_due_is_said_and_is_a_success(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub(tmp_path, pki, TODAY, {"new": 29.5})
    assert main(["due", "--config", str(hub.config)]) == 0
    assert capsys.readouterr().out == "nothing is due\n"


@pytest.mark.parametrize(
    ("section", "values", "left"),
    [
        pytest.param("serve", None, ("enrol", "ingest"), id="serve on loopback"),
        pytest.param("ca", {"elsewhere": True}, ("ingest", "serve"), id="no key of the CA, no enrol"),
    ],
)
def test_a_program_that_needs_no_certificate_has_none(
    tmp_path: Path,
    pki: Pki,
    capsys: pytest.CaptureFixture[str],
    section: str,
    values: dict[str, Any] | None,
    left: tuple[str, ...],
) -> None:
    hub = Hub(tmp_path, pki, TODAY, {})
    settings = yaml.safe_load(hub.config.read_text())
    settings[section] = None if values is None else settings[section] | values
    hub.config.write_text(yaml.safe_dump(settings))
    _, due = hub.ask(capsys, "--days", "366")
    assert [name for name in due if name.startswith("hub's")] == [
        f"hub's certificate {name}" for name in left
    ]


def test_the_table_is_aligned_and_names_the_remedy(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub(tmp_path, pki, TODAY - timedelta(days=365 - 30), {"failing": 2.5})
    assert main(["due", "--config", str(hub.config)]) == 3
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "WHAT"
    assert first[head.index("WHAT TO DO") :].startswith("it renews itself with ten days left")
    assert second[head.index("WHAT TO DO") :] == "it renews itself unless ended"
    assert first[: head.index("WHAT TO DO")].rstrip().endswith(" 2")
