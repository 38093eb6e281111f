"""Completion and manual pages: everything that help names, made from the same parser."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sie_agent import manual
from sie_agent.completion import SHELLS
from sie_agent.config import TABLE
from sie_agent.outline import pages

from .conftest import program


def completed(line: str, directory: Path) -> list[str]:
    """What bash offers behind a command line."""
    words = line.split(" ")
    script = (
        f"source completion.bash; COMP_WORDS=({' '.join(repr(word) for word in words)}); "
        f"COMP_CWORD={len(words) - 1}; _sie_agent; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    (directory / "completion.bash").write_text(program("completion", "bash").stdout)
    done = subprocess.run(["bash", "-euc", script], cwd=directory, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sie-agent re", {"replay"}),
        ("sie-agent replay --unc", {"--uncompressed"}),
        ("sie-agent replay --config ag", {"agent.yml"}),
        ("sie-agent replay --resolver ", set()),
        ("sie-agent replay up", {"up.pcap"}),
        ("sie-agent identity enr", {"enrol"}),
        ("sie-agent identity enrol --t", {"--token-file"}),
        ("sie-agent --version", {"--version"}),
        ("sie-agent completion f", {"fish"}),
        ("sie-agent status up", set()),
    ],
)
def test_bash_completes(line: str, expected: set[str], tmp_path: Path) -> None:
    for name in ("agent.yml", "up.pcap"):
        (tmp_path / name).touch()
    assert set(completed(line, tmp_path)) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_is_told_every_option_and_command(shell: str) -> None:
    script = SHELLS[shell](pages())
    for page in pages():
        for option in page.options:
            for name in option.names:
                assert (name if shell != "fish" else name.lstrip("-")) in script
        for name, _ in page.commands:
            assert name in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n", "/dev/stdin"], input=script, text=True, check=True)


def test_the_manual_names_every_command_option_setting_and_exit_code(tmp_path: Path) -> None:
    manual.write(tmp_path)
    page = (tmp_path / "man1" / "sie-agent.1").read_text().replace("\\-", "-")
    for part in pages():
        assert " ".join(part.words) in page
        for option in part.options:
            assert all(f"\\fB{name}\\fR" in page for name in option.names)
        for line in part.epilog.splitlines():
            assert not line.startswith("  sie-agent") or line in page
    settings = (tmp_path / "man5" / "agent.yml.5").read_text().replace("\\-", "-")
    assert all(f".B {key}\n" in settings for key, _ in TABLE.rows())


def test_the_manual_is_well_formed(tmp_path: Path) -> None:
    manual.write(tmp_path)
    if shutil.which("groff") is None:
        return
    for page in tmp_path.rglob("*.[15]"):
        done = subprocess.run(
            ["groff", "-ww", "-man", "-Tascii", page], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
