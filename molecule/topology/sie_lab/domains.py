"""Control domains: the hub operator's, and a unix user for each participant. No key opens another's hosts."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

from sie_lab.hosts import File, in_parallel, on, write_files
from sie_lab.machine import cache, run
from sie_lab.topology import Host, Lab, Participant

# What a participant's engineer has where playbooks run from, besides the bundle: Ansible, in the version that
# the project is tested with.
CONTROLLER_PACKAGES = (
    "ansible-core",
    "jinja2",
    "MarkupSafe",
    "PyYAML",
    "cryptography",
    "packaging",
    "resolvelib",
)
PROCESS_END_TIMEOUT = 5.0  # seconds
SYSTEM_PYTHON = "/usr/bin/python3"  # a participant cannot read root's own interpreters


@dataclass(frozen=True)
class Keys:
    """A domain's way into its hosts."""

    private: Path
    known_hosts: Path


def state(lab: Lab) -> Path:
    """The lab's own folder: the hub operator's keys and files, logs, generated inventories."""
    folder = cache() / lab.prefix
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def operator_keys(lab: Lab) -> Keys:
    """The hub operator's, who is whoever runs the lab."""
    folder = state(lab) / "operator" / "ssh"
    return Keys(folder / "id_ed25519", folder / "known_hosts")


def participant_keys(participant: Participant) -> Keys:
    """A participant's, in its user's home."""
    folder = participant.home / ".ssh"
    return Keys(folder / "id_ed25519", folder / "known_hosts")


def ensure(lab: Lab) -> int:
    """Users, keys and controllers in place, each host opened to its own domain; how much had to be done."""
    done = _ensure_keys(operator_keys(lab), os.getuid(), "hub-operator")
    for participant in lab.everyone.values():
        user = _ensure_user(lab, participant)
        done += user.changed
        done += _ensure_keys(participant_keys(participant), user.uid, participant.user)
    done += _ensure_controller(lab)
    done += _open_hosts(lab, "hub", operator_keys(lab), os.getuid())
    for participant in lab.everyone.values():
        uid = pwd.getpwnam(participant.user).pw_uid
        done += _open_hosts(lab, participant.name, participant_keys(participant), uid)
    return done


@dataclass(frozen=True)
class _User:
    uid: int
    changed: int


def _ensure_user(lab: Lab, participant: Participant) -> _User:
    lab.shared.mkdir(mode=0o755, exist_ok=True)
    try:
        return _User(pwd.getpwnam(participant.user).pw_uid, 0)
    except KeyError:
        run(
            [
                *("useradd", "--system", "--user-group", "--shell", "/bin/sh"),
                *("--comment", f"controller of the lab's participant {participant.name}"),
                *("--home-dir", participant.home, "--no-create-home", participant.user),
            ]
        )
    entry = pwd.getpwnam(participant.user)
    participant.home.mkdir(mode=0o700, exist_ok=True)
    os.chown(participant.home, entry.pw_uid, entry.pw_gid)
    return _User(entry.pw_uid, 1)


def _ensure_keys(keys: Keys, uid: int, comment: str) -> int:
    if keys.private.exists():
        return 0
    folder = keys.private.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", keys.private])
    for path in (folder, *folder.iterdir()):
        os.chown(path, uid, uid if uid == 0 else pwd.getpwuid(uid).pw_gid)
    return 1


def _open_hosts(lab: Lab, domain: str, keys: Keys, uid: int) -> int:
    """Let a domain's key into its hosts, and tell its ssh what those hosts' keys are."""
    hosts = lab.domain_hosts(domain)
    public = keys.private.with_suffix(".pub").read_text()
    written = in_parallel(
        lambda host: write_files(host, [File("/root/.ssh/authorized_keys", public, 0o600)]), hosts
    )
    known = in_parallel(_known_host, hosts)
    done = sum(1 for paths in written if paths)
    # ssh adds the hosts' other keys by itself once it has connected.
    if not keys.known_hosts.exists() or not set(known) <= set(keys.known_hosts.read_text().splitlines()):
        keys.known_hosts.write_text("".join(f"{line}\n" for line in known))
        os.chown(keys.known_hosts, uid, uid if uid == 0 else pwd.getpwuid(uid).pw_gid)
        done += 1
    return done


def _known_host(host: Host) -> str:
    kind, key, *_ = on(host, "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()
    return f"{host.management} {kind} {key}"


def controller(lab: Lab) -> Path:
    """The folder of programs that participants run their playbooks with."""
    return lab.shared / "controller" / "bin"


def _ensure_controller(lab: Lab) -> int:
    wanted = [f"{package}=={version(package)}" for package in CONTROLLER_PACKAGES]
    folder = lab.shared / "controller"
    stamp = folder / "made-of"
    if stamp.exists() and stamp.read_text().split() == wanted:
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run([SYSTEM_PYTHON, "-m", "venv", folder], environment=environment)
    run(
        [folder / "bin" / "pip", "install", "--quiet", "--only-binary", ":all:", *wanted],
        environment=environment,
    )
    run(["chmod", "--recursive", "go+rX", folder])
    stamp.write_text("\n".join(wanted))
    return 1


def environment_of(lab: Lab, participant: Participant) -> dict[str, str]:
    """All that a participant's process finds in its environment."""
    return {
        "HOME": str(participant.home),
        "USER": participant.user,
        "LOGNAME": participant.user,
        "PATH": f"{controller(lab)}:/usr/bin:/bin",
        "LANG": "C.UTF-8",
    }


@contextlib.contextmanager
def empty_folder(participant: Participant) -> Iterator[Path]:
    """A new folder that the participant owns, removed afterwards."""
    entry = pwd.getpwnam(participant.user)
    folder = Path(mkdtemp(prefix="run-", dir=participant.home))
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def as_participant(
    lab: Lab,
    participant: Participant,
    command: Sequence[str | Path],
    *,
    cwd: Path,
    extra_environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> int:
    """Run a program as the participant: its user, its environment and nothing of ours. The exit code.

    Output goes to `log`, or to our own where none is given.
    """
    entry = pwd.getpwnam(participant.user)
    environment = environment_of(lab, participant) | dict(extra_environment or {})
    words = [str(word) for word in command]
    with contextlib.ExitStack() as stack:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        sink = stack.enter_context(log.open("w")) if log else None
        return subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=[],
            umask=0o077,
            stdin=subprocess.DEVNULL,
            stdout=sink or sys.stdout,
            stderr=subprocess.STDOUT if sink else sys.stderr,
            check=False,
        ).returncode


def hand_over(participant: Participant, source: Path, target: Path) -> None:
    """Give the participant a copy of a file, as a courier would."""
    shutil.copyfile(source, target)
    _give(participant, target)


def note(participant: Participant, target: Path, text: str) -> None:
    """Write down for the participant what it was told, or decided by itself."""
    target.write_text(text)
    _give(participant, target)


def _give(participant: Participant, path: Path) -> None:
    entry = pwd.getpwnam(participant.user)
    path.chmod(0o600)
    os.chown(path, entry.pw_uid, entry.pw_gid)


def remove(lab: Lab) -> int:
    """Users, homes, keys, logs: everything of this lab outside podman; how much there was."""
    done = 0
    for participant in lab.everyone.values():
        try:
            uid = pwd.getpwnam(participant.user).pw_uid
        except KeyError:
            continue
        _end_processes(uid)
        run(["userdel", participant.user])
        done += 1
    for folder in (lab.shared, cache() / lab.prefix):
        if folder.exists():
            shutil.rmtree(folder)
            done += 1
    return done


def _end_processes(uid: int) -> None:
    """End what still runs as a user: ssh keeps its connections open for a while after a playbook.

    Hosts of another house are no part of that: in them the same number is another user, of the hub for one.
    """
    processes = [process for process in Path("/proc").iterdir() if process.name.isdigit()]
    mine = [int(process.name) for process in processes if _owner(process) == uid and not _in_a_host(process)]
    for pid in mine:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + PROCESS_END_TIMEOUT
    while any(_owner(Path(f"/proc/{pid}")) == uid for pid in mine) and time.monotonic() < deadline:
        time.sleep(0.05)


def _in_a_host(process: Path) -> bool:
    """Whether a process has a process table of its own, as a container's have, or has ended."""
    try:
        return (process / "ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()
    except OSError:
        return True


def _owner(process: Path) -> int | None:
    try:
        return process.stat().st_uid
    except FileNotFoundError:
        return None
