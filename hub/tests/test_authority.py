"""The CA's files and the hub's own certificates: made once, mended after a crash, never mixed up."""

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from sie_core import identity
from sie_core.identity import KeyKind
from sie_core.settings import ConfigError
from sie_hub.config import load_config
from sie_hub.enrol.authority import AuthorityError, Made, init_ca, make_server_certificate
from sie_hub.enrol.unit import load_authority

from .conftest import EXCHANGE, Pki

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
ADDRESS = ip_address("198.51.100.10")


def make_ca(directory: Path, exchange: str = EXCHANGE, **options: bool) -> Made:
    return init_ca(directory, exchange, KeyKind.P256, now=NOW, random=os.urandom, **options)


def make_server(directory: Path, *names: str, at: datetime = NOW, check: bool = False) -> Made:
    return make_server_certificate(
        directory / "ca",
        directory / "tls",
        "ingest",
        names or ("hub.example",),
        [ADDRESS],
        now=at,
        random=os.urandom,
        check=check,
    )


def test_the_ca_is_made_once(tmp_path: Path) -> None:
    first = make_ca(tmp_path / "ca")
    assert first.changed
    assert stat.S_IMODE(first.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.certificate_file.stat().st_mode) == 0o644
    second = make_ca(tmp_path / "ca")
    assert not second.changed
    assert second.certificate == first.certificate


def test_check_writes_nothing(tmp_path: Path) -> None:
    assert make_ca(tmp_path / "ca", check=True).changed
    assert not (tmp_path / "ca").exists()
    make_ca(tmp_path / "ca")
    assert make_server(tmp_path, check=True).changed
    assert not (tmp_path / "tls").exists()


def test_a_run_that_was_cut_short_between_key_and_certificate_is_finished(tmp_path: Path) -> None:
    first = make_ca(tmp_path / "ca")
    key = first.key_file.read_bytes()
    first.certificate_file.unlink()
    second = make_ca(tmp_path / "ca")
    assert second.changed
    assert second.key_file.read_bytes() == key


def test_the_ca_of_another_exchange_is_not_taken_over(tmp_path: Path) -> None:
    make_ca(tmp_path / "ca")
    with pytest.raises(AuthorityError, match=r"CA of lab\.example, not of other\.example"):
        make_ca(tmp_path / "ca", "other.example")


def test_a_ca_whose_key_is_gone_or_anothers_is_not_replaced(tmp_path: Path) -> None:
    made = make_ca(tmp_path / "ca")
    made.key_file.write_bytes(make_ca(tmp_path / "other").key_file.read_bytes())
    with pytest.raises(AuthorityError, match="do not belong together"):
        make_ca(tmp_path / "ca")
    made.key_file.unlink()
    with pytest.raises(AuthorityError, match=r"ca\.key: this key cannot be read"):
        make_ca(tmp_path / "ca")


def test_a_server_certificate_is_made_again_when_it_must(tmp_path: Path) -> None:
    make_ca(tmp_path / "ca")
    first = make_server(tmp_path)
    assert first.changed
    assert not make_server(tmp_path).changed
    assert not make_server(tmp_path, "hub.example", "hub.example").changed
    assert make_server(tmp_path, "hub.example", "other.example").changed

    third_left = timedelta(days=365 * 2 / 3)
    current = make_server(tmp_path)
    assert not make_server(tmp_path, at=NOW + third_left - timedelta(days=1)).changed
    renewed = make_server(tmp_path, at=NOW + third_left + timedelta(days=1))
    assert renewed.changed
    assert renewed.certificate.serial_number != current.certificate.serial_number


@pytest.mark.parametrize("spoil", ["key of another", "no key", "no certificate", "garbage", "another CA"])
def test_server_files_that_do_not_hold_are_made_again(tmp_path: Path, spoil: str) -> None:
    make_ca(tmp_path / "ca")
    first = make_server(tmp_path)
    match spoil:
        case "key of another":
            key = identity.generate_key(KeyKind.P256, os.urandom)
            first.key_file.write_bytes(identity.private_key_to_pem(key))
        case "no key":
            first.key_file.unlink()
        case "no certificate":
            first.certificate_file.unlink()
        case "garbage":
            first.certificate_file.write_text("garbage")
        case "another CA":
            (tmp_path / "ca").rename(tmp_path / "old-ca")
            make_ca(tmp_path / "ca")
    assert make_server(tmp_path).changed
    assert not make_server(tmp_path).changed


def write_config(directory: Path, pki: Pki, exchange: str = EXCHANGE) -> Path:
    path = directory / "hub.yml"
    path.write_text(
        json.dumps(
            {
                "exchange": exchange,
                "ca": {"certificate": str(pki.ca_held.certificate), "key": str(pki.ca_held.key)},
            }
        )
    )
    return path


def test_enrol_reads_the_key_from_its_credentials_or_from_the_configured_place(
    tmp_path: Path, pki: Pki, other_pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_config(tmp_path, pki))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    found = load_authority(config)
    assert identity.key_digest(found.key.public_key()) == identity.key_digest(pki.ca_key.public_key())
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "ca_key").write_bytes(other_pki.ca_held.key.read_bytes())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    with pytest.raises(ConfigError, match="do not belong together"):
        load_authority(config)


def test_enrol_does_not_start_with_the_ca_of_another_exchange(tmp_path: Path, pki: Pki) -> None:
    config = load_config(write_config(tmp_path, pki, "other.example"))
    with pytest.raises(ConfigError, match=r"CA of lab\.example, not of other\.example"):
        load_authority(config)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sie_hub.cli", *arguments], capture_output=True, text=True, timeout=60
    )


def test_the_commands_print_what_changed(tmp_path: Path) -> None:
    init = ("ca", "init", "--directory", str(tmp_path / "ca"), "--exchange", EXCHANGE)
    said = [json.loads(run(*init).stdout) for _ in range(2)]
    assert [one["changed"] for one in said] == [True, False]
    assert said[0]["fingerprint"] == said[1]["fingerprint"]
    server = (
        "ca",
        "server-certificate",
        "--ca-directory",
        str(tmp_path / "ca"),
        "--out",
        str(tmp_path / "tls"),
    )
    names = (
        "--name",
        "hub.example",
        "--address",
        "198.51.100.10",
        "--address",
        "2001:db8::10",
        "--as",
        "enrol",
    )
    said = [json.loads(run(*server, *names).stdout) for _ in range(2)]
    assert [one["changed"] for one in said] == [True, False]
    assert said[0]["names"] == ["hub.example"]
    assert said[0]["addresses"] == ["198.51.100.10", "2001:db8::10"]
    assert sorted(path.name for path in (tmp_path / "tls").iterdir()) == ["enrol.key", "enrol.pem"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("ca", "init", "--directory", "{}", "--exchange", "Lab Example"), 2, "no lower-case domain name"),
        (("ca", "server-certificate", "--ca-directory", "{}", "--out", "{}"), 1, "at least one --name"),
        (
            ("ca", "server-certificate", "--ca-directory", "{}", "--out", "{}", "--name", "hub.example"),
            1,
            "ca.pem: this certificate cannot be read",
        ),
        (
            ("ca", "server-certificate", "--ca-directory", "{}", "--out", "{}", "--as", "../x"),
            2,
            "plain file",
        ),
        (("token", "issue", "--participant", "ISP", "--sensor", "ns1"), 2, "no name of a participant"),
        (("token", "issue", "--participant", "isp_a", "--sensor", "ns_1"), 2, "no name of a sensor"),
        (("token", "issue", "--participant", "a", "--sensor", "b", "--hours", "2161"), 2, "up to 2160"),
        (("token", "list", "--config", "{}/absent.yml"), 2, "absent.yml"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = run(*(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
