"""The hub's command line: mistakes named all at once, and nothing loaded that was not asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sie_core import __version__
from sie_core.settings import ConfigError
from sie_hub.cli import COMMANDS
from sie_hub.config import credential, load_config, read_secret

from .broker import Broker, nats_server


def sie_hub(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sie_hub.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hub.yml"
    path.write_text(text)
    return path


def test_the_smallest_configuration_is_the_exchange_s_name(tmp_path: Path) -> None:
    path = written(tmp_path, "exchange: lab.example")
    done = sie_hub("check-config", str(path))
    assert (done.returncode, done.stdout) == (0, f"{path}: no mistakes\n")


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "exchange: Lab.example\ningest: {listn: ['127.0.0.1:1']}\nrefine: {window: 1h}\nnats: {url: 7}\n",
    )
    done = sie_hub("check-config", str(path))
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(f'{path}: exchange: "Lab.example" does not fit')
    assert f'{path}: ingest.listn: unknown key (did you mean "ingest.listen"?)' in lines
    assert any("refine.window" in line and "too large" in line for line in lines)
    assert any("nats.url" in line and "not a URL" in line for line in lines)


@pytest.mark.parametrize("command", ["ingest", "refine", "streams"])
def test_a_wrong_configuration_ends_a_unit_with_2(tmp_path: Path, command: str) -> None:
    done = sie_hub(command, "--config", str(written(tmp_path, "exchange: lab.example\nrefin: {}\n")))
    assert done.returncode == 2
    assert 'refin: unknown key (did you mean "refine"?)' in done.stderr


def test_readers_keys_never_cross_a_network_in_the_clear(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must not cross a network in the clear"):
        load_config(written(tmp_path, 'exchange: lab.example\nserve: {listen: ["192.0.2.1:8445"]}'))
    with pytest.raises(ConfigError, match="go together"):
        load_config(written(tmp_path, "exchange: lab.example\nserve: {certificate: /etc/x.pem}"))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    done = sie_hub(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: sie-hub {command} ")
    assert "exit codes: 0 done; 1 failed while running; 2 wrong usage or wrong configuration" in done.stdout


def test_the_version_is_that_of_the_release() -> None:
    assert sie_hub("--version").stdout == f"sie-hub {__version__}\n"


def test_no_command_is_wrong_usage() -> None:
    assert sie_hub().returncode == 2
    assert sie_hub("ingset").returncode == 2


@pytest.mark.parametrize(
    ("command", "forbidden"),
    [
        ("serve", {"sie_hub.ingest", "sie_hub.refine", "sie_hub.enrol", "sie_core.trampoline"}),
        ("ingest", {"sie_hub.serve", "sie_hub.refine", "sie_hub.enrol", "chdb"}),
        ("refine", {"sie_hub.serve", "sie_hub.ingest", "sie_hub.enrol", "chdb", "sie_core.trampoline"}),
        ("enrol", {"sie_hub.serve", "sie_hub.ingest", "sie_hub.refine", "chdb"}),
    ],
)
def test_a_unit_loads_nothing_that_only_others_need(command: str, forbidden: set[str]) -> None:
    program = (
        "import sys; from sie_hub import cli\n"
        f"try: cli.main([{command!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert forbidden & set(done.stderr.split()) == set()
    assert f"sie_hub.{command}.cli" in done.stderr.split()


# --- secrets ----------------------------------------------------------------------------------------------


def test_a_credential_of_systemd_comes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert credential("tls_key", Path("/etc/elsewhere")) == Path("/etc/elsewhere")
    (tmp_path / "tls_key").write_text("secret\n")
    assert read_secret(credential("tls_key", Path("/etc/elsewhere"))) == "secret"


def test_a_secret_that_is_nowhere_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="LoadCredential=nats_password:FILE"):
        credential("nats_password", None)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "empty"), (b"\n", "empty"), (b"x" * 20_000, "larger than"), (b"\xff\xfe", "not text")],
)
def test_what_is_no_secret(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        read_secret(path)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_secret(tmp_path / "missing")


# --- nats-server ------------------------------------------------------------------------------------------


def config_of(tmp_path: Path, broker: Broker) -> str:
    path = written(tmp_path, yaml.safe_dump({"exchange": "lab.example", "nats": {"url": broker.url}}))
    return str(path)


def test_streams_are_made_once(tmp_path: Path, empty_broker: Broker) -> None:
    config = config_of(tmp_path, empty_broker)
    credentials = str(empty_broker.credentials("setup"))

    def streams(*words: str) -> tuple[bool, set[str]]:
        done = sie_hub("streams", "--config", config, *words, CREDENTIALS_DIRECTORY=credentials)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        return answer["changed"], set(answer["streams"].values())

    assert streams("--check") == (True, {"created"})
    assert streams() == (True, {"created"})
    assert streams() == (False, {"unchanged"})
    assert streams("--check") == (False, {"unchanged"})


async def test_streams_that_somebody_changed_are_mended_without_losing_data(
    tmp_path: Path, broker: Broker
) -> None:
    async with broker.link("ingest") as link:
        await link.publish("raw.202.isp_a.ns1.0000000000000001", b"kept", {})
    async with broker.administrator() as administrator:
        config = (await administrator.jetstream.stream_info("RAW")).config
        await administrator.jetstream.update_stream(config, max_age=3600.0)
    assert (await broker.make_streams())["RAW"] == "updated"
    async with broker.administrator() as administrator:
        assert (await administrator.jetstream.stream_info("RAW")).config.max_age == 86400.0
    assert [message.data for message in await broker.raw()] == [b"kept"]


def test_a_message_server_that_is_not_there_ends_streams_in_time(
    tmp_path: Path, empty_broker: Broker
) -> None:
    empty_broker.kill()
    done = sie_hub(
        "streams",
        "--config",
        config_of(tmp_path, empty_broker),
        "--timeout",
        "1",
        CREDENTIALS_DIRECTORY=str(empty_broker.credentials("setup")),
    )
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"error": f"{empty_broker.url}: not ready within 1 s"}


def test_the_server_s_configuration_is_written_once_and_for_few_eyes(tmp_path: Path) -> None:
    path = written(tmp_path, "exchange: lab.example")
    passwords = tmp_path / "passwords"
    passwords.mkdir()
    for user in ("setup", "ingest", "refine", "serve", "offboard", "backup"):
        (passwords / user).write_text(f"{user}-password-of-the-tests\n")
    output = tmp_path / "nats-server.conf"
    words = ("nats-config", "--config", str(path), "--passwords", str(passwords))
    assert json.loads(sie_hub(*words, "--output", str(output), "--check").stdout) == {"changed": True}
    assert not output.exists()
    assert json.loads(sie_hub(*words, "--output", str(output)).stdout) == {"changed": True}
    assert json.loads(sie_hub(*words, "--output", str(output)).stdout) == {"changed": False}
    assert output.stat().st_mode & 0o777 == 0o640
    assert sie_hub(*words).stdout == output.read_text()
    (passwords / "serve").write_text("short")
    done = sie_hub(*words, "--output", str(output))
    assert done.returncode == 2
    assert "the password of the NATS user serve is not" in done.stderr


def test_the_server_takes_its_configuration_before_it_is_written(tmp_path: Path) -> None:
    path = written(tmp_path, "exchange: lab.example")
    passwords, output = tmp_path / "passwords", tmp_path / "nats-server.conf"
    passwords.mkdir()
    for user in ("setup", "ingest", "refine", "serve", "offboard", "backup"):
        (passwords / user).write_text(f"{user}-password-of-the-tests\n")
    refusing = tmp_path / "refusing"
    refusing.write_text(
        '#!/bin/sh\ngrep -q sync_interval "$3" && echo nats-server: unknown field >&2; exit 1\n'
    )
    refusing.chmod(0o755)
    words = ("nats-config", "--config", str(path), "--passwords", str(passwords), "--output", str(output))
    for checker, sentence in (
        (str(refusing), "refuses what was to be written: nats-server: unknown field\n"),
        (str(tmp_path / "absent"), "cannot be asked: No such file or directory\n"),
    ):
        done = sie_hub(*words, "--checker", checker)
        assert (done.returncode, done.stderr) == (2, f"{output}: {checker} {sentence}")
        assert not output.exists()
    assert json.loads(sie_hub(*words, "--checker", nats_server()).stdout) == {"changed": True}
    assert output.stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in tmp_path.iterdir() if one.name.startswith(".")) == []
