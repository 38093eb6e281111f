"""`sie-agent identity enrol`, `renew`, `csr`, `install` and `show`: how this sensor gets a certificate, and
the next one.

The key is made here and stays here. What leaves is a request that proves possession of it, and the token
that the exchange's operator has given for this sensor, or the certificate that is to be renewed; what comes
back is installed only if it is a
certificate for this key and this name by the pinned authority.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from sie_agent.anchors import Anchors, AnchorsError, successors
from sie_agent.cli import EXIT_OK, add_config_argument
from sie_agent.config import AgentConfig, load_config
from sie_agent.errors import UsageError
from sie_agent.est import EnrolmentFailed, ca_certs, simple_enroll, simple_reenroll
from sie_agent.identity_files import IdentityFiles, Standing, check_own, fits, load_authorities
from sie_agent.ssh_key import make_next_ssh_key, next_ssh_key, ssh_key
from sie_core import identity
from sie_core.errors import IdentityRefused
from sie_core.identity import Identity, PrivateKey, Random

MAX_TOKEN_FILE: Final = 4096  # octets; a token has 43 characters

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an enrolment came to: whether anything changed, and how the identity stands."""

    changed: bool
    standing: Standing


def enrol(
    config: AgentConfig, token: Callable[[], str], *, force: bool = False, clock: Clock, random: Random
) -> Enrolment:
    """Obtain this sensor's certificate, unless a valid one is there and `force` is not given.

    `token` is asked for only if it is needed. Raises EnrolmentFailed, IdentityFilesError and UsageError.
    """
    wanted = Identity(config.exchange, config.participant, config.sensor)
    files = IdentityFiles(config.identity_directory)
    files.settle()
    anchors = Anchors(config.ca, config.identity_directory)
    standing = files.standing(wanted, anchors.file(), clock())
    if standing.state == "valid" and not force:
        return Enrolment(False, standing)
    if config.enrol is None:
        raise UsageError("uplink.enrol is not set: the bundle says where this exchange enrols its sensors")
    secret = token()
    authorities = _learn(files, anchors, config.enrol, wanted.exchange, clock())
    key = files.pending_key(random)
    asked = identity.make_request(key, wanted)
    answer = simple_enroll(config.enrol, anchors.file(), str(wanted), secret, asked)
    _install(files, wanted, key, answer, authorities, config.enrol, clock())
    return Enrolment(True, files.standing(wanted, anchors.file(), clock()))


def renew(config: AgentConfig, *, clock: Clock, random: Random) -> Enrolment:
    """Obtain the next certificate by the one that is there, for a new key.

    Raises EnrolmentFailed, IdentityFilesError and UsageError.
    """
    wanted = Identity(config.exchange, config.participant, config.sensor)
    files = IdentityFiles(config.identity_directory)
    files.settle()
    if config.enrol is None:
        raise UsageError("uplink.enrol is not set: the bundle says where this exchange enrols its sensors")
    if files.lifetime() is None:
        raise UsageError(
            f"{config.identity_directory}: there is no certificate to renew: enrol with a token first"
        )
    anchors = Anchors(config.ca, config.identity_directory)
    authorities = _learn(files, anchors, config.enrol, wanted.exchange, clock())
    key = files.pending_key(random)
    asked = identity.make_request(key, wanted)
    answer = simple_reenroll(config.enrol, anchors.file(), files.certificate, files.key, asked)
    _install(files, wanted, key, answer, authorities, config.enrol, clock())
    return Enrolment(True, files.standing(wanted, anchors.file(), clock()))


def request(config: AgentConfig, *, random: Random) -> bytes:
    """A certificate request (PEM) for the key that waits for one, made now if none does.

    It holds no secret: people may carry it to the hub's operator in any way. Raises IdentityFilesError.
    """
    wanted = Identity(config.exchange, config.participant, config.sensor)
    files = IdentityFiles(config.identity_directory)
    files.settle()
    return identity.request_to_pem(identity.make_request(files.pending_key(random), wanted))


def install(config: AgentConfig, path: Path, *, check: bool = False, clock: Clock) -> Enrolment:
    """Put a certificate that people have carried here in place, unless it is there already.

    With `check` everything is looked at and nothing is written. Raises IdentityFilesError and UsageError.
    """
    wanted = Identity(config.exchange, config.participant, config.sensor)
    files = IdentityFiles(config.identity_directory)
    if not check:
        files.settle()
    anchors = Anchors(config.ca, config.identity_directory)
    authorities = load_authorities(anchors.file())
    before = files.lifetime()
    for certificate in load_authorities(path):
        if before is not None and identity.serial_text(certificate) == before.serial:
            return Enrolment(False, files.standing(wanted, anchors.file(), clock()))
        if not files.has_key_of(certificate):
            continue
        try:
            check_own(certificate, wanted, authorities, clock())
        except IdentityRefused as refused:
            raise UsageError(f"{path}: this certificate is not for us: {refused}") from None
        if not check:
            files.install(certificate)
        return Enrolment(True, files.standing(wanted, anchors.file(), clock()))
    raise UsageError(
        f"{path}: holds no certificate for this sensor's key: let the operator sign what"
        " `sie-agent identity csr` prints here"
    )


def _learn(
    files: IdentityFiles, anchors: Anchors, url: str, exchange: str, now: datetime
) -> list[x509.Certificate]:
    """Ask the hub for its authorities, which may be others than last time, and keep what is new; all of them.

    Asked before the certificate, which may come of one that is not known here yet.
    """
    trusted = load_authorities(anchors.file())
    try:
        good = successors(ca_certs(url, anchors.file()), trusted, exchange, now)
    except AnchorsError as error:
        raise EnrolmentFailed(f"{url}: {error}") from None
    if set(good) != set(trusted):
        files.keep_authorities(anchors.learnt, anchors.content(good))
    return good


def _install(
    files: IdentityFiles,
    wanted: Identity,
    key: PrivateKey,
    answer: list[x509.Certificate],
    authorities: list[x509.Certificate],
    url: str,
    now: datetime,
) -> None:
    """Put the certificate for `key` in place, if the answer holds one that is for us."""
    for certificate in answer:
        if not fits(certificate, key):
            continue
        try:
            check_own(certificate, wanted, authorities, now)
        except IdentityRefused as refused:
            raise EnrolmentFailed(f"{url}: the certificate in the answer is not for us: {refused}") from None
        files.install(certificate)
        return
    raise EnrolmentFailed(f"{url}: the answer holds no certificate for this sensor's key")


def read_token(path: Path) -> str:
    """The token in a file. Raises UsageError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TOKEN_FILE).decode(errors="replace").strip()
    except OSError as error:
        raise UsageError(f"{path}: the token cannot be read: {error.strerror}") from None
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,200}", text):
        raise UsageError(f"{path}: holds no token: one line of letters, digits, - and _ is expected")
    return text


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `identity`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    enrolling = verbs.add_parser(
        "enrol", help="obtain this sensor's certificate, unless a valid one is there"
    )
    enrolling.add_argument(
        "--token-file",
        type=Path,
        required=True,
        metavar="FILE",
        help="the token for this sensor, read only if it is needed",
    )
    enrolling.add_argument(
        "--force", action="store_true", help="enrol with a new key although a valid certificate is there"
    )
    enrolling.set_defaults(run=_enrol)
    renewing = verbs.add_parser(
        "renew",
        help="obtain the next certificate now, for a new key; a running agent does it by itself in time, and "
        "takes this one up within seconds",
    )
    renewing.set_defaults(run=_renew)
    requesting = verbs.add_parser(
        "csr",
        help="print a certificate request, for people to carry to the hub's operator; it holds no secret",
    )
    requesting.set_defaults(run=_csr)
    installing = verbs.add_parser("install", help="put a certificate that people have carried here in place")
    installing.add_argument("file", type=Path, metavar="FILE", help="the certificate that came back, in PEM")
    installing.add_argument(
        "--check", action="store_true", help="say whether it would be put in place, and change nothing"
    )
    installing.set_defaults(run=_install_file)
    showing = verbs.add_parser("show", help="show this sensor's key fingerprint and certificate")
    showing.set_defaults(run=_show)
    keying = verbs.add_parser(
        "ssh-key",
        help="print the public half of this sensor's SSH key, for an uplink by files; makes the key if there "
        "is none",
    )
    keying.add_argument(
        "--next",
        action="store_true",
        help="make the key that is to follow, and print its public half signed by the one in use; a running "
        "agent goes over to it as soon as the hub takes it",
    )
    keying.set_defaults(run=_ssh_key)
    for verb in (enrolling, renewing, requesting, installing, showing, keying):
        add_config_argument(verb)
        verb.add_argument("--json", action="store_true", help="print one JSON object")


def _enrol(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    done = enrol(
        config,
        lambda: read_token(arguments.token_file),
        force=arguments.force,
        clock=_utc_now,
        random=os.urandom,
    )
    return _report(arguments, config, done, "enrolled")


def _ssh_key(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    who = f"{config.participant}/{config.sensor}"
    if arguments.next:
        made = make_next_ssh_key(config.identity_directory, who)
        document: dict[str, Any] = {
            "changed": made.changed,
            "public": made.line,
            "fingerprint": made.key.fingerprint,
            "signature": made.signature,
        }
        text = f"{made.line}\n{made.signature}"
    else:
        key, following = ssh_key(config.identity_directory), next_ssh_key(config.identity_directory)
        text = f"{key.public} {who}\n"
        document = {
            "public": text.rstrip(),
            "fingerprint": key.fingerprint,
            "next": None if following is None else following.fingerprint,
        }
    print(json.dumps(document) if arguments.json else text, end="\n" if arguments.json else "")
    return EXIT_OK


def _renew(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    done = renew(config, clock=_utc_now, random=os.urandom)
    return _report(arguments, config, done, "renewed")


def _report(arguments: argparse.Namespace, config: AgentConfig, done: Enrolment, verb: str) -> int:
    """Say what an enrolment, a renewal or an installation came to."""
    if arguments.json:
        print(json.dumps({"changed": done.changed, **_public(config, done.standing)}))
    else:
        print(verb if done.changed else f"{verb} already, nothing changed", file=sys.stderr)
        _print(config, done.standing)
    return EXIT_OK


def _csr(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    pem = request(config, random=os.urandom).decode()
    if arguments.json:
        print(json.dumps({"participant": config.participant, "sensor": config.sensor, "request": pem}))
    else:
        print(pem, end="")
    return EXIT_OK


def _install_file(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    done = install(config, arguments.file, check=arguments.check, clock=_utc_now)
    if arguments.check and not arguments.json:
        print("would be installed" if done.changed else "installed already", file=sys.stderr)
        return EXIT_OK
    return _report(arguments, config, done, "installed")


def _show(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    files = IdentityFiles(config.identity_directory)
    wanted = Identity(config.exchange, config.participant, config.sensor)
    trusted = Anchors(config.ca, config.identity_directory).file()
    standing = files.standing(wanted, trusted, _utc_now())
    if arguments.json:
        print(json.dumps(_public(config, standing)))
    else:
        _print(config, standing)
    return EXIT_OK


def _public(config: AgentConfig, standing: Standing) -> dict[str, Any]:
    peer = standing.peer
    return {
        "exchange": config.exchange,
        "participant": config.participant,
        "sensor": config.sensor,
        "state": standing.state,
        "text": standing.text,
        "fingerprint": standing.fingerprint,
        "serial": peer.serial if peer else None,
        "not_before": peer.not_before.isoformat() if peer else None,
        "not_after": peer.not_after.isoformat() if peer else None,
        "pending": IdentityFiles(config.identity_directory).has_pending_key(),
    }


def _print(config: AgentConfig, standing: Standing) -> None:
    print(f"sensor       {config.participant}/{config.sensor} of {config.exchange}")
    print(f"key          {standing.fingerprint or 'none'}")
    if standing.peer is None:
        print(f"certificate  {standing.text}")
    else:
        until = standing.peer.not_after.strftime("%Y-%m-%d %H:%M UTC")
        print(f"certificate  {standing.peer.serial}, valid until {until}")
        print("The hub's operator sees the same key by `sie-hub token list`: compare the two.")


def _utc_now() -> datetime:
    return datetime.now(UTC)
