"""Server certificates where the CA's key is not on the hub: asked for there, signed elsewhere, put in place.

    OUT/<name>.new.key     the key of a certificate that is asked for; it takes its place with the certificate

No private key moves: the hub makes its servers' keys, and the CA's key comes on standard input to the program
that signs, on the machine of who keeps it. The same checks as in `sie_hub.enrol.authority` say when a
certificate is to be made again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from sie_core import identity
from sie_core.files import replace_file, sync_directory
from sie_core.identity import Address, Identity, KeyKind, PrivateKey, Random
from sie_hub.enrol.authority import (
    PUBLIC_MODE,
    SECRET_MODE,
    AuthorityError,
    authority_of,
    belong_together,
    good_server_certificate,
    in_order,
    load_certificate,
    load_key,
)

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Asked:
    """Whether a certificate is needed, and the request for it (PEM), which is None with `check`, too."""

    changed: bool
    request: bytes | None


def server_request(
    ca_file: Path,
    out: Path,
    name: str,
    dns_names: Sequence[str],
    addresses: Sequence[Address],
    *,
    now: datetime,
    random: Random,
    renew: bool = False,
    check: bool = False,
) -> Asked:
    """A request for a server certificate of the hub, unless the present one will do; with `renew` always.

    A key that waits already is asked for again. Raises AuthorityError and OSError.
    """
    ca = load_certificate(ca_file)
    wanted = in_order(dns_names, addresses)
    present = good_server_certificate(out / f"{name}.pem", out / f"{name}.key", ca, [], wanted, now)
    if present is not None and not renew:
        return Asked(False, None)
    if check:
        return Asked(True, None)
    exchange = identity.ca_exchange(ca)
    if exchange is None:
        raise AuthorityError(f"{ca_file}: this is the CA of no exchange")
    waiting = out / f"{name}.new.key"
    if not waiting.exists():
        out.mkdir(mode=0o755, parents=True, exist_ok=True)
        key = identity.generate_key(KeyKind.P256, random)
        replace_file(waiting, identity.private_key_to_pem(key), mode=SECRET_MODE)
    # The name is for people alone: who signs names the addresses and takes the key.
    der = identity.make_request(load_key(waiting), Identity(exchange, "hub", name))
    return Asked(True, identity.request_to_pem(der))


def sign_server_request(
    ca_file: Path,
    pem: bytes,
    dns_names: Sequence[str],
    addresses: Sequence[Address],
    *,
    now: datetime,
    random: Random,
) -> x509.Certificate:
    """A server certificate for the key of a request, with these names.

    `pem` holds the CA's key and the request. Raises AuthorityError, IdentityError, ValueError for no names.
    """
    key, request = key_and_request(pem)
    public = identity.key_from_request(identity.request_from_pem(request))
    ca = authority_of(ca_file, key)
    return identity.issue_server_certificate(public, dns_names, addresses, ca, key, now=now, random=random)


def install_server_certificate(ca_file: Path, out: Path, name: str, pem: bytes) -> bool:
    """Put a certificate that was signed elsewhere in place, with the key that waited for it.

    Returns whether anything changed. Raises AuthorityError and OSError.
    """
    (certificate, *_) = identity.certificates_from_pem(pem)
    waiting, key_file, certificate_file = (out / f"{name}{end}" for end in (".new.key", ".key", ".pem"))
    if not identity.issued_by(certificate, load_certificate(ca_file)):
        raise AuthorityError(f"the certificate for {certificate_file} was not issued by the CA in {ca_file}")
    if not waiting.exists() and belong_together(certificate, load_key(key_file)):
        return False
    if not belong_together(certificate, load_key(waiting)):
        raise AuthorityError(f"the certificate for {certificate_file} is not for the key in {waiting}")
    waiting.replace(key_file)
    replace_file(certificate_file, identity.certificate_to_pem(certificate), mode=PUBLIC_MODE)
    sync_directory(out)
    return True


def key_and_request(pem: bytes) -> tuple[PrivateKey, bytes]:
    """The private key and the certificate request in a text. Raises AuthorityError and IdentityError."""
    blocks = {match[1].decode(): match[0] for match in _BLOCK.finditer(pem)}
    keys = [block for kind, block in blocks.items() if kind.endswith("PRIVATE KEY")]
    requests = [block for kind, block in blocks.items() if kind.endswith("CERTIFICATE REQUEST")]
    if len(keys) != 1 or len(requests) != 1:
        raise AuthorityError("standard input is to hold the CA's key and a certificate request, in PEM")
    return identity.private_key_from_pem(keys[0]), requests[0]
