"""The hub's drop, over SFTP: files put there whole, and the hub's word for what it has stored. Blocking.

docs/reference/hub.md says how the drop is laid out. The server is a stock OpenSSH `internal-sftp`.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import paramiko
from paramiko.config import SSH_PORT
from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey
from paramiko.sftp import CMD_EXTENDED

from sie_agent.config_kinds import DropAddress
from sie_agent.refusal import Ended, Refused
from sie_agent.ssh_key import SshKey
from sie_core.limits import MAX_SEQUENCE
from sie_core.trampoline import printable

OPEN_TIMEOUT: Final = 15.0
"""Seconds each for TCP, the banner, and authentication, as of the other uplink."""

ANSWER_TIMEOUT: Final = 60.0
"""Seconds for an answer: 4 MiB pass in that time at 560 kbit/s, with the disk's wait at the end."""

MAX_POSITION: Final = 4096
"""Octets of position.json, which has some 150."""

FSYNC: Final = "fsync@openssh.com"

# paramiko tells of every connection, and of every failure with its traceback; the uplink says it in a line.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


def file_name(stream: int, sequence: int, transactions: int) -> str:
    """What a container is called in the drop; names sort as sequences do."""
    return f"{stream:016x}.{sequence:020}.{transactions:08}.nmsg.zst"


class Position(NamedTuple):
    """What the hub has stored of a stream: the highest sequence, and its container's SHA-256 if known."""

    sequence: int = 0
    digest: bytes | None = None


class Drop:
    """An open connection to the drop. Not for several threads at a time, but for `close`.

    The keys are offered in their order, on one connection. Raises Refused or Ended, OSError, EOFError or
    paramiko.SSHException.
    """

    key: SshKey
    """The one that the hub took."""

    def __init__(self, address: DropAddress, keys: Sequence[SshKey], known_hosts: Path, channel: int) -> None:
        self._up = "/up"
        self._channel = f"{self._up}/ch{channel}"
        self._client = paramiko.SSHClient()
        try:
            self._sftp = self._opened(address, keys, known_hosts)
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        """Cut the connection; what another thread waits for fails. May be called twice."""
        self._client.close()

    def position(self, stream: int) -> Position:
        """What of the stream the hub has stored, as far as it has said so."""
        try:
            with self._sftp.open(f"{self._up}/position.json", "rb") as file:
                document = json.loads(file.read(MAX_POSITION))
            if document["stream"] != f"{stream:016x}":
                return Position()
            position, digest = document["position"], bytes.fromhex(document.get("digest", ""))
        except FileNotFoundError:
            return Position()
        except (ValueError, TypeError, KeyError):
            raise Ended("the hub's position.json is none; tell the hub's operator") from None
        if type(position) is not int or not 0 <= position <= MAX_SEQUENCE:
            raise Ended("the hub's position.json holds no position; tell the hub's operator")
        return Position(position, digest or None)

    def names(self) -> frozenset[str]:
        """What waits in the drop to be taken in."""
        return frozenset(self._sftp.listdir(self._channel))

    def put(self, name: str, data: bytes) -> None:
        """Put a container there: whole and on the hub's disk when it has its name."""
        self._put(self._channel, name, data)

    def put_accounts(self, counters: Mapping[str, int]) -> None:
        """Say how this sensor's things stand."""
        text = json.dumps(dict(counters), sort_keys=True, separators=(",", ":"))
        self._put(self._up, "accounts.json", text.encode())

    def _put(self, directory: str, name: str, data: bytes) -> None:
        temporary = f"{directory}/.{name}.part"
        with self._sftp.open(temporary, "wb") as file:
            file.set_pipelined(True)
            file.write(data)
            file.flush()
            self._sync(file)
        size = self._sftp.stat(temporary).st_size
        if size != len(data):
            raise Ended(f"the hub's disk has taken {size} of {len(data)} octets: it may be full")
        self._sftp.posix_rename(temporary, f"{directory}/{name}")

    def _sync(self, file: paramiko.SFTPFile) -> None:
        """Make the server write the file to its disk, where it can: paramiko has no public way to ask."""
        with suppress(OSError):
            cast(Any, self._sftp)._request(CMD_EXTENDED, FSYNC, file.handle)

    def _opened(self, address: DropAddress, keys: Sequence[SshKey], known_hosts: Path) -> paramiko.SFTPClient:
        client = self._client
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            client.load_host_keys(str(known_hosts))
        except OSError as wrong:
            raise Refused(f"{known_hosts} cannot be used to check the hub: {wrong.strerror}") from None
        self.key, *others = keys
        try:
            try:
                self._connect(address)
            except paramiko.BadHostKeyException as other:
                # Of the keys of one kind that are listed for a host, paramiko looks at the first alone; while
                # the hub changes its own there are two.
                name = address.host if address.port == SSH_PORT else f"[{address.host}]:{address.port}"
                if not _lists(known_hosts, name, other.key):
                    raise
                client.close()
                client.get_host_keys().clear()
                client.get_host_keys().add(name, other.key.get_name(), other.key)
                self._connect(address)
        except paramiko.BadHostKeyException as wrong:
            raise Refused(
                f"the hub shows another host key (…{wrong.key.get_base64()[-16:]}) than {known_hosts} has "
                "for it: ask the hub's operator, and do not go on before"
            ) from None
        except paramiko.AuthenticationException:
            self.key = self._authenticated(address.account, self.key, others)
        except paramiko.SSHException as wrong:
            if "not found in known_hosts" in str(wrong):
                raise Refused(
                    f"{known_hosts} has no host key for {address.host}: enter the one of the hub"
                ) from None
            raise Ended(
                f"no SSH server there, or one that bars this address: {printable(str(wrong), 200)}"
            ) from None
        sftp = client.open_sftp()
        channel = sftp.get_channel()
        if channel is None:
            raise Ended("the hub opened no SFTP channel")
        channel.settimeout(ANSWER_TIMEOUT)
        with suppress(OSError):
            sftp.mkdir(self._channel)  # it is there already, but at a channel's beginning
        return sftp

    def _connect(self, address: DropAddress) -> None:
        self._client.connect(
            address.host,
            address.port,
            address.account,
            pkey=_private(self.key),
            timeout=OPEN_TIMEOUT,
            banner_timeout=OPEN_TIMEOUT,
            auth_timeout=OPEN_TIMEOUT,
            channel_timeout=OPEN_TIMEOUT,
            allow_agent=False,
            look_for_keys=False,
        )

    def _authenticated(self, account: str, refused: SshKey, others: Sequence[SshKey]) -> SshKey:
        """The first of the other keys that the hub takes, on the connection that is open."""
        transport = self._client.get_transport()
        for key in others:
            if transport is None or not transport.is_active():
                break
            try:
                transport.auth_publickey(account, _private(key))
            except paramiko.AuthenticationException:
                refused = key
            else:
                return key
        raise Refused(
            f"the hub does not take the SSH key {refused.fingerprint} for {account}: give its operator what "
            "`sie-agent identity ssh-key` prints"
        )


def _lists(known_hosts: Path, name: str, key: paramiko.PKey) -> bool:
    """Whether a file of OpenSSH's known_hosts has this key for a host, in whichever of its lines. OSError."""
    for line in known_hosts.read_text(errors="replace").splitlines():
        try:
            entry = HostKeyEntry.from_line(line.strip())
        except InvalidHostKey:
            continue
        if entry is None:
            continue
        alone = HostKeys()
        for host in entry.hostnames:
            alone.add(host, entry.key.get_name(), entry.key)
        if alone.check(name, key):
            return True
    return False


def _private(key: SshKey) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key_file(str(key.path))
