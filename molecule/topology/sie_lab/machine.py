"""The machine under the lab: running programs, telling the user what goes on, where state is kept."""

import contextlib
import fcntl
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

MAX_PROCESSES = 32768  # podman's own ceiling for a container's nproc
TAIL_LINES = 30
REPOSITORY = Path(__file__).resolve().parents[3]


class LabError(Exception):
    """The lab cannot go on; the message is a sentence for the user."""


class CommandError(LabError):
    """A program failed; the message holds its command line, exit code and last words."""


def cache() -> Path:
    """The folder for everything slow to make: $XDG_CACHE_HOME/sie-fleet."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "sie-fleet"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def containers_environment() -> dict[str, str]:
    """Podman's environment: a configuration of our own, so that nothing is written to /etc.

    Both limits are needed where nobody may raise them (a container's default exceeds the hard limit then),
    and runc because crun sets its own regardless.
    """
    hard_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    hard_processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    processes = MAX_PROCESSES if hard_processes < 0 else min(MAX_PROCESSES, hard_processes)
    path = cache() / "containers.conf"
    text = (
        "[containers]\n"
        f'default_ulimits = ["nofile={hard_files}:{hard_files}", "nproc={processes}:{processes}"]\n'
        '[engine]\nruntime = "runc"\n'
        '[network]\nnetwork_backend = "netavark"\n'
    )
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return {**os.environ, "CONTAINERS_CONF": str(path), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def ansible_environment(
    own: Mapping[str, str], *, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What a program of Ansible's gets: of Ansible's settings `own` alone, and no colours.

    Molecule exports settings to what it starts, and at a terminal one of them is that every line is coloured,
    which whoever reads results does not expect.
    """
    others = {name: value for name, value in inherited.items() if not name.startswith("ANSIBLE_")}
    return {**others, "ANSIBLE_NOCOLOR": "true", **own}


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program, return its standard output. Raises CommandError if it fails and `check` is set."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=environment if environment is not None else containers_environment(),
    )
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise CommandError(f"{shlex.join(words)}: exit {done.returncode}: {said}")
    return done.stdout


def podman(*arguments: str | Path, stdin: str | None = None, check: bool = True) -> str:
    """Run podman; as `run`."""
    return run(["podman", *arguments], stdin=stdin, check=check)


def run_logged(command: Sequence[str | Path], log: Path, *, cwd: Path, environment: Mapping[str, str]) -> str:
    """Run a long program, what it says going to `log`; return that. On failure CommandError shows its end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in command]
    with log.open("w") as sink:
        print("$", shlex.join(words), file=sink, flush=True)
        done = subprocess.run(
            words, cwd=cwd, env=environment, stdout=sink, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise CommandError(f"{Path(words[0]).name} ended with {done.returncode}; {tail(log)}")
    return log.read_text()


def tail(log: Path) -> str:
    """The end of a log, for an error's text."""
    return f"the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-TAIL_LINES:])


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold a lock file: two runs at once wait for each other instead of building the same thing twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another run that holds {path}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Progress:
    """One line for each step, written when it starts and completed when it ends, on standard error."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.changes = 0

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator["Step"]:
        """Show that a step runs, and afterwards its time and what it changed."""
        step = Step()
        start = time.monotonic()
        print(f"{self.title}: {what} ...", end="", file=sys.stderr, flush=True)
        try:
            yield step
        except BaseException:
            print(" failed", file=sys.stderr)
            raise
        self.changes += step.changed
        said = step.note or (f"{step.changed} changed" if step.changed else "unchanged")
        print(f" {said} ({time.monotonic() - start:.1f} s)", file=sys.stderr)


class Step:
    """What a step did: how many things it changed, and a word about it."""

    def __init__(self) -> None:
        self.changed = 0
        self.note = ""
