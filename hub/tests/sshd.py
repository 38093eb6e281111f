"""A private sshd on loopback, whose account is this test's user, by the lines that the hub's role writes."""

import getpass
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from jinja2 import Environment

from .broker import free_port

ROLE = Path(__file__).parents[2] / "collections/ansible_collections/sie_europe/passive_dns/roles/hub"


def found(program: str) -> str:
    """A program of the system; the test is skipped, saying so, where it is missing."""
    path = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        pytest.skip(f"NO {program} HERE: `make test-unit` installs it as root")
    return path


def key(path: Path) -> str:
    """Make a key without a passphrase; returns its public half."""
    subprocess.run([found("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


@contextmanager
def root_directory() -> Iterator[Path]:
    """A directory into which sshd locks somebody up: all above it belongs to root and to nobody else."""
    directory = Path(tempfile.mkdtemp(prefix="sie-drop-", dir="/run"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class Server:
    """An sshd for one kind of account."""

    def __init__(
        self, directory: Path, drop: Path, account: str, keys: Sequence[str], *, rsync: bool
    ) -> None:
        self.user = getpass.getuser()
        self.port = free_port()
        self.known_hosts = directory / "known_hosts"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "drop_keys").mkdir(parents=True)
        (directory / "drop_keys" / self.user).write_text("".join(keys))
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key(directory / 'host_key')}")
        # The account is this test's user here, and its folder is that of the account.
        if not (drop / self.user).exists():
            (drop / self.user).symlink_to(account)
        template = (ROLE / "templates" / "sshd_drop.conf.j2").read_text()
        environment = Environment(trim_blocks=True, autoescape=False)
        environment.filters["comment"] = lambda text: f"# {text}"
        lines = environment.from_string(template).render(
            ansible_managed="written by a test",
            hub_config_dir=str(directory),
            hub_drop_dir=str(drop),
            hub_drop_sftp_users=[] if rsync else [self.user],
            hub_drop_rsync_users=[self.user] if rsync else [],
        )
        self.config = directory / "sshd_config"
        self.config.write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {directory}/host_key\nPidFile none\n"
            f"StrictModes no\nUsePAM no\n"
            "Subsystem sftp /usr/lib/openssh/sftp-server\n"  # as Debian has it
            f"PasswordAuthentication no\nPermitRootLogin prohibit-password\n{lines}"
        )

    def start(self) -> None:
        """Start it and wait until it listens."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        subprocess.run([found("sshd"), "-t", "-f", str(self.config)], check=True)
        with (self._directory / "sshd.log").open("wb") as output:
            self._process = subprocess.Popen(
                [found("sshd"), "-D", "-e", "-f", str(self.config)], stdout=output, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError(self.log)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    @property
    def log(self) -> str:
        """What it has said."""
        return (self._directory / "sshd.log").read_text()
