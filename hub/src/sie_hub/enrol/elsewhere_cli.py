"""`sie-hub ca key`, `server-request`, `sign-server`, `install-server`: for a CA whose key lies elsewhere."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from sie_core import identity
from sie_core.identity import KeyKind
from sie_hub.cli import EXIT_OK
from sie_hub.enrol.elsewhere import install_server_certificate, server_request, sign_server_request

Run = Callable[[argparse.Namespace], int]


def configure(
    verbs: Any, speaking: Callable[[Run], Run], *, dns_name: Callable[[str], str], stem: Callable[[str], str]
) -> None:
    """Add the verbs of `sie-hub ca`."""
    key = verbs.add_parser(
        "key", help="print a new private key for a CA that is to lie elsewhere, and keep nothing of it"
    )
    key.add_argument(
        "--key-type",
        type=KeyKind,
        choices=list(KeyKind),
        default=KeyKind.P256,
        metavar="TYPE",
        help="p256 (the default, which every TLS library verifies) or ed25519",
    )
    key.epilog = "Prints the key in PEM."
    key.set_defaults(run=speaking(_key))
    asking = verbs.add_parser(
        "server-request",
        help="print a request for a server certificate of the hub, unless one with these names and a third of"
        " its life left is there; its key waits beside",
    )
    asking.add_argument("--renew", action="store_true", help="ask for a new one in any case")
    asking.add_argument("--check", action="store_true", help="say what would change, and change nothing")
    asking.epilog = "Prints one JSON object: changed, and the request in PEM."
    asking.set_defaults(run=speaking(_request))
    signing = verbs.add_parser(
        "sign-server",
        help="sign such a request, elsewhere; standard input holds the CA's key and the request, both in PEM",
    )
    signing.epilog = "Prints one JSON object: the certificate in PEM."
    signing.set_defaults(run=speaking(_sign))
    installing = verbs.add_parser(
        "install-server", help="put what came back in place; standard input holds the certificate in PEM"
    )
    installing.epilog = "Prints one JSON object: changed."
    installing.set_defaults(run=speaking(_install))
    for verb in (asking, signing, installing):
        verb.add_argument(
            "--ca", type=Path, required=True, metavar="FILE", help="the CA's certificate, ca.pem"
        )
    for verb in (asking, signing):
        verb.add_argument("--name", type=dns_name, action="append", default=[], metavar="DNS", help="a name")
        verb.add_argument(
            "--address", type=ip_address, action="append", default=[], metavar="IP", help="an address"
        )
    for verb in (asking, installing):
        verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the certificate goes")
        verb.add_argument(
            "--as", dest="stem", type=stem, required=True, metavar="NAME", help="NAME.pem and NAME.key"
        )


def _key(arguments: argparse.Namespace) -> int:
    pem = identity.private_key_to_pem(identity.generate_key(arguments.key_type, os.urandom))
    print(pem.decode(), end="")
    return EXIT_OK


def _request(arguments: argparse.Namespace) -> int:
    asked = server_request(
        arguments.ca,
        arguments.out,
        arguments.stem,
        arguments.name,
        arguments.address,
        now=datetime.now(UTC),
        random=os.urandom,
        renew=arguments.renew,
        check=arguments.check,
    )
    request = None if asked.request is None else asked.request.decode()
    print(json.dumps({"changed": asked.changed, "request": request}))
    return EXIT_OK


def _sign(arguments: argparse.Namespace) -> int:
    certificate = sign_server_request(
        arguments.ca,
        sys.stdin.buffer.read(),
        arguments.name,
        arguments.address,
        now=datetime.now(UTC),
        random=os.urandom,
    )
    print(json.dumps({"certificate": identity.certificate_to_pem(certificate).decode()}))
    return EXIT_OK


def _install(arguments: argparse.Namespace) -> int:
    changed = install_server_certificate(arguments.ca, arguments.out, arguments.stem, sys.stdin.buffer.read())
    print(json.dumps({"changed": changed}))
    return EXIT_OK
