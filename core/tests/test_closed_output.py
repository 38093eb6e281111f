"""A reader that goes away: a command ends with one exit code and no word, whatever it was to say yet."""

import os
import subprocess
import sys

import pytest

from sie_core.closed_output import EXIT_CLOSED

RUN = "import sys; from sie_core.closed_output import until_closed; sys.exit(until_closed(lambda: {}))"
FLOOD = "[print('x' * 70) for _ in range(100_000)] and 0"  # more than any pipe holds


def behind_a_closed_pipe(command: str, *, buffered: bool = True) -> tuple[int, str]:
    """Exit code and standard error of a command of which nobody reads a word."""
    with subprocess.Popen(
        [sys.executable, *([] if buffered else ["-u"]), "-c", RUN.format(command)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    return process.returncode, said


@pytest.mark.parametrize(
    "command",
    [
        FLOOD,
        "print('what fits into the buffer') or 0",
        "print('help') or sys.exit(0)",  # as argparse ends
    ],
)
@pytest.mark.parametrize("buffered", [True, False])
def test_nothing_is_said(command: str, buffered: bool) -> None:
    assert behind_a_closed_pipe(command, buffered=buffered) == (EXIT_CLOSED, "")


def test_a_pipe_that_is_not_standard_output_is_a_failure_that_is_seen() -> None:
    breaking = "(os := __import__('os')) and os.close((pipe := os.pipe())[0]) or os.write(pipe[1], b'x')"
    done = subprocess.run([sys.executable, "-c", RUN.format(breaking)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_is_read_ends_as_it_says(code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(f"print('read') or {code}")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "read\n", "")


def test_no_standard_output_at_all_is_no_failure() -> None:
    command = f'exec "{sys.executable}" -c "{RUN.format("print(1) or 0")}" >&-'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
