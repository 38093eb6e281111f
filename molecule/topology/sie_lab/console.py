"""Consoles of hosts that stay open: a program costs no more there than it does by itself.

`podman exec` takes a quarter of a second, sixty times what a small program does, and tests run thousands. So
it is done once for a console: what it starts on the host runs there what it is told, line by line.
"""

import atexit
import base64
import json
import subprocess
import threading
from dataclasses import dataclass

from sie_lab.machine import containers_environment

PYTHON = "/usr/bin/python3"
ENDED_WITH_ITS_HOST = 137  # as podman says it
END_TIMEOUT = 5.0  # seconds for a console to end once its input has

# Runs on the host until its input ends. A program's standard streams are files in memory and no pipes: it has
# ended when it has, even if it leaves another behind that holds them open. Python itself has added LC_CTYPE.
SERVE = """
import base64, json, os, subprocess, sys
environment = {name: value for name, value in os.environ.items() if name != "LC_CTYPE"}
for line in sys.stdin:
    asked = json.loads(line)
    given, output, errors = (open(os.memfd_create("stream"), "w+b", buffering=0) for _ in range(3))
    with given, output, errors:
        given.write(base64.b64decode(asked["stdin"]))
        given.seek(0)
        try:
            code = subprocess.run(
                asked["words"],
                stdin=given,
                stdout=output,
                stderr=errors,
                env=environment,
                start_new_session=True,
            ).returncode
        except OSError as error:
            code = 126 if isinstance(error, PermissionError) else 127
            errors.write(f"{asked['words'][0]}: {error.strerror}".encode())
        said = []
        for stream in (output, errors):
            stream.seek(0)
            said.append(base64.b64encode(stream.read()).decode())
    print(json.dumps([code if code >= 0 else 128 - code, *said]), flush=True)
"""


@dataclass(frozen=True)
class Answer:
    """What became of a program: its exit code as `podman exec` gives it, and what it said."""

    code: int
    output: str
    errors: str


class Console:
    """An open one. It runs one program at a time."""

    def __init__(self, container: str) -> None:
        self._process = subprocess.Popen(
            ["podman", "exec", "--interactive", container, PYTHON, "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=containers_environment(),
            start_new_session=True,  # an interruption of ours is not the host's
        )

    @property
    def is_open(self) -> bool:
        """Whether it can be told to run something."""
        return self._process.poll() is None

    def run(self, words: tuple[str, ...], stdin: str) -> Answer:
        """Run a program. If the host ends meanwhile, or is not there, podman's word on that is the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"words": words, "stdin": base64.b64encode(stdin.encode()).decode()}
        try:
            print(json.dumps(asked), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            errors = self.close()
            return Answer(self._process.returncode or ENDED_WITH_ITS_HOST, "", errors)
        code, output, errors = json.loads(line)
        return Answer(code, _text(output), _text(errors))

    def close(self) -> str:
        """End it, by force where its end does not come by itself; what podman had to say."""
        try:
            return self._process.communicate(timeout=END_TIMEOUT)[1]
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            return self._process.communicate()[1]


_idle: dict[str, list[Console]] = {}
_taking = threading.Lock()


def run_on(container: str, words: tuple[str, ...], stdin: str = "") -> Answer:
    """Run a program on a host, on a console that is free or a new one. Threads may do so at the same time."""
    console = _free(container) or Console(container)
    try:
        answer = console.run(words, stdin)
    except BaseException:
        console.close()  # nobody is to read this program's answer as that of another
        raise
    if console.is_open:
        with _taking:
            _idle.setdefault(container, []).append(console)
    return answer


def _free(container: str) -> Console | None:
    while True:
        with _taking:
            idle = _idle.get(container)
            console = idle.pop() if idle else None
        if console is None or console.is_open:
            return console
        console.close()


def forget(container: str) -> None:
    """Close a host's consoles: what they run on is about to end."""
    with _taking:
        consoles = _idle.pop(container, [])
    for console in consoles:
        console.close()


@atexit.register
def _forget_all() -> None:
    for container in list(_idle):
        forget(container)


def _text(octets: str) -> str:
    """As a pipe that is read as text gives it."""
    return base64.b64decode(octets).decode().replace("\r\n", "\n").replace("\r", "\n")
