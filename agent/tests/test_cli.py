"""The command line: it teaches, and its exit codes are what it says."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sie_agent.build import BUILD, build_of
from sie_agent.cli import COMMANDS
from sie_agent.config import TABLE
from sie_core import __version__

from .conftest import program


def test_version() -> None:
    done = program("--version")
    assert (done.returncode, done.stdout) == (0, f"sie-agent {__version__} (build {BUILD})\n")


@pytest.mark.parametrize(
    ("prefix", "build"),
    [
        ("/opt/sie/releases/sie-agent-0.1.0-0123456789ab", "0123456789ab"),
        ("/opt/sie/releases/sie-agent-0.1.0", "source"),
        ("/srv/checkout/.venv", "source"),
    ],
)
def test_the_build_is_the_end_of_the_releases_name(prefix: str, build: str) -> None:
    assert build_of(Path(prefix)) == build


def test_help_names_every_command_and_the_exit_codes() -> None:
    done = program("--help")
    assert done.returncode == 0
    assert all(re.search(rf"^    {name}\b", done.stdout, re.MULTILINE) for name in COMMANDS)
    assert "exit codes: 0 done; 1 failed while running; 2 wrong usage or wrong configuration" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_by_example(command: str) -> None:
    done = program(command, "--help")
    assert done.returncode == 0
    assert f"examples:\n  sie-agent {command}" in done.stdout
    assert "exit codes: " in done.stdout


def test_check_config_help_explains_every_setting() -> None:
    done = program("check-config", "--help")
    assert all(f"  {key} (" in done.stdout for key, _ in TABLE.rows())


def test_a_command_that_is_none() -> None:
    done = program("rum")
    assert done.returncode == 2
    assert "invalid choice: 'rum'" in done.stderr


def test_three_mistakes_are_three_lines_and_exit_2(tmp_path: Path) -> None:
    file = tmp_path / "agent.yml"
    file.write_text(
        "participant: ISP A\nsensor: ns1\nexchange: lab.example\nresolvers: [0.0.0.0/0]\n"
        'sources: [{interface: eth1}]\nuplink: {hubs: ["wss://198.51.100.10:8443"], retrymin: 3}\n'
    )
    commands: list[list[str | Path]] = [
        ["check-config", file],
        ["run", "--config", file],
        ["status", "--config", file],
    ]
    for command in commands:
        done = program(*command)
        assert done.returncode == 2
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 3
        assert lines[0].startswith(f'{file}: participant: "ISP A" does not fit; allowed: ')
        assert lines[1] == f'{file}: uplink.retrymin: unknown key (did you mean "uplink.retry_min"?)'
        assert lines[2].startswith(f"{file}: resolvers: 0.0.0.0/0 covers too much: /0 is shorter than /16")


def test_a_good_configuration_is_said_to_be_fine(config_file: Callable[..., Path]) -> None:
    file = config_file()
    done = program("check-config", file)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{file}: no mistakes; sensor ns1 of isp_a, channel 202")


def test_status_without_an_agent_reads_the_spool(config_file: Callable[..., Path], tmp_path: Path) -> None:
    from sie_agent.spool import open_spool

    file = config_file(metrics_port=1)
    with open_spool(tmp_path / "spool", 1 << 30) as spool:
        spool.append(b"container", 10)
        spool.append(b"container", 5)
        spool.acknowledge(1)
        stream = spool.stream
    done = program("status", "--json", "--config", file)
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["running"] is False
    assert (document["captured"], document["acknowledged"], document["pending"]) == (15, 10, 5)
    assert document["stream"] == f"{stream:016x}"
    assert document["uplink"]["state"] == "stopped"
    table = program("status", "--config", file).stdout
    assert "agent         not running" in table
    assert re.search(r"captured +15 transactions", table)


def test_status_before_anything_ever_ran(config_file: Callable[..., Path]) -> None:
    done = program("status", "--json", "--config", config_file(metrics_port=1))
    assert json.loads(done.stdout)["stream"] is None


def test_a_spool_that_cannot_be_is_one_sentence_and_exit_1(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = program("run", "--config", config_file(spool=tmp_path / "file" / "spool"))
    assert done.returncode == 1
    assert "cannot be opened: Not a directory; name a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_installed_script_is_the_same_program() -> None:
    script = Path(sys.executable).parent / "sie-agent"
    if not script.exists():
        pytest.skip(f"no {script}: this interpreter has sie-agent on its path without its script")
    assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout == (
        f"sie-agent {__version__} (build {BUILD})\n"
    )


def test_dnstap_is_checked_without_a_resolver_listed(config_file: Callable[..., Path]) -> None:
    file = config_file(
        resolvers="[]", sources='{dnstap: "unix:/run/dnstap.sock"}, {dnstap: "tcp:[::1]:6000"}'
    )
    done = program("check-config", file)
    assert done.returncode == 0
    assert done.stdout.endswith("0 resolvers, 0 interfaces, 2 dnstap endpoints\n")


def test_what_only_the_recorder_can_judge_is_a_mistake_too(config_file: Callable[..., Path]) -> None:
    file = config_file(
        resolvers='["0.0.0.0/0", host]',
        more="privacy: {admit_every_address: true}\ntransactions: {table_max: 2000}",
    )
    assert program("check-config", file).returncode == 0
    done = program("check-config", config_file(more="privacy: {exclude_qname_regex: '(['}"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"{file}: the recorder does not take these settings: ")
    assert len(done.stderr.splitlines()) == 1
