"""This sensor's SSH key, for an uplink by files: made here, readable by its owner alone, never leaving.

    DIRECTORY/ssh_ed25519       the private key in use, in OpenSSH's format
    DIRECTORY/ssh_ed25519.next  the one that follows, until the hub takes it

Only the public half goes to the hub's operator, who enters it for this sensor's account. That of a next key
goes signed by the key in use, so that the operator sees that it comes from where the one before came from.
"""

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from sie_agent.identity_files import DIRECTORY_MODE, SECRET_MODE, IdentityFilesError
from sie_core.files import acting_as_owner, replace_file, sync_directory

FILE: Final = "ssh_ed25519"
NEXT_FILE: Final = "ssh_ed25519.next"

NAMESPACE: Final = "sie-drop-key"
"""What signatures under next keys are for (`ssh-keygen -Y verify -n`): one made for anything else is none."""

_ARMOR_COLUMNS: Final = 70  # as ssh-keygen breaks its lines


class SshKey(NamedTuple):
    """Where the private key is, and its public half as `authorized_keys` takes it, without a comment."""

    path: Path
    public: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it."""
        blob = base64.b64decode(self.public.split()[1])
        return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


def ssh_key(directory: Path) -> SshKey:
    """The key in use, made if there is none. Raises IdentityFilesError."""
    with _usable(directory, FILE) as path:
        if not path.exists():
            _make(path)
        return _shown(directory / FILE, _private(path))


def next_ssh_key(directory: Path) -> SshKey | None:
    """The key that waits to be taken by the hub, if there is one. Raises IdentityFilesError."""
    with _usable(directory, NEXT_FILE) as path:
        return _shown(directory / NEXT_FILE, _private(path)) if path.exists() else None


class Made(NamedTuple):
    """A next key, whether it was made just now, and what its sensor says to whom it goes."""

    changed: bool
    key: SshKey
    line: str
    """Its public half with the sensor's name, as `authorized_keys` takes it, without the line's end."""
    signature: str
    """Of the line with its end, by the key in use, in NAMESPACE: OpenSSH's PROTOCOL.sshsig, armored."""


def make_next_ssh_key(directory: Path, comment: str) -> Made:
    """Make the key that is to follow, unless one waits already, and sign it. Raises IdentityFilesError."""
    ssh_key(directory)
    with _usable(directory, FILE) as path:
        present = _private(path)
    with _usable(directory, NEXT_FILE) as path:
        changed = not path.exists()
        if changed:
            _make(path)
        key = _shown(directory / NEXT_FILE, _private(path))
    line = f"{key.public} {comment}"
    return Made(changed, key, line, _signature(present, f"{line}\n".encode()))


def take_next_ssh_key(directory: Path) -> SshKey:
    """Let the next key be the one in use; the one before is gone then. Raises IdentityFilesError."""
    with _usable(directory, NEXT_FILE) as path:
        path.replace(path.with_name(FILE))
        sync_directory(path.parent)
    return ssh_key(directory)


@contextmanager
def _usable(directory: Path, name: str) -> Iterator[Path]:
    """A key's file to work with, as its directory's owner; what goes wrong becomes a sentence."""
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        with acting_as_owner(directory) as reached:
            yield reached / name
    except OSError as wrong:
        raise IdentityFilesError(f"{directory / name} cannot be used: {wrong.strerror}") from wrong
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityFilesError(
            f"{directory / name} is no SSH key without a passphrase: move it away, and another one is made, "
            "whose public half the hub's operator has to enter"
        ) from None


def _make(path: Path) -> None:
    made = Ed25519PrivateKey.generate()
    octets = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    replace_file(path, octets, mode=SECRET_MODE)


def _private(path: Path) -> Ed25519PrivateKey:
    key = load_ssh_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} is a key of another kind")
    return key


def _shown(path: Path, key: Ed25519PrivateKey) -> SshKey:
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return SshKey(path, public.decode())


def _signature(key: Ed25519PrivateKey, message: bytes) -> str:
    """OpenSSH's PROTOCOL.sshsig: what is signed is a hash of the message, bound to the namespace."""
    kind, blob = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()
    namespace = _string(NAMESPACE.encode()) + _string(b"") + _string(b"sha512")
    signed = key.sign(b"SSHSIG" + namespace + _string(hashlib.sha512(message).digest()))
    octets = (
        b"SSHSIG"
        + (1).to_bytes(4, "big")
        + _string(base64.b64decode(blob))
        + namespace
        + _string(_string(kind) + _string(signed))
    )
    text = base64.b64encode(octets).decode()
    lines = [text[at : at + _ARMOR_COLUMNS] for at in range(0, len(text), _ARMOR_COLUMNS)]
    return "\n".join(("-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""))


def _string(octets: bytes) -> bytes:
    """RFC 4251, section 5: a length and that many octets."""
    return len(octets).to_bytes(4, "big") + octets
