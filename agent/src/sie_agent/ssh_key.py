"""This sensor's SSH key, for an uplink by files: made here, readable by its owner alone, never leaving.

    DIRECTORY/ssh_ed25519      the private key, in OpenSSH's format

Only the public half goes to the hub's operator, who enters it for this sensor's account.
"""

import base64
import hashlib
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
from sie_core.files import acting_as_owner, replace_file

FILE: Final = "ssh_ed25519"


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
    """The key in a directory, made if there is none. Raises IdentityFilesError."""
    path = directory / FILE
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        with acting_as_owner(directory):
            if not path.exists():
                made = Ed25519PrivateKey.generate()
                octets = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
                replace_file(path, octets, mode=SECRET_MODE)
            key = load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as wrong:
        raise IdentityFilesError(f"{path} cannot be used: {wrong.strerror}") from wrong
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityFilesError(
            f"{path} is no SSH key without a passphrase: move it away, and another one is made, whose public "
            "half the hub's operator has to enter"
        ) from None
    return SshKey(path, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())
