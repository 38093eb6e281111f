"""`sie-hub enrol`, `sie-hub ca …`, `sie-hub token …` and `sie-hub renewal …`."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from sie_core import identity, limits
from sie_core.errors import SieError
from sie_core.files import acting_as_owner
from sie_core.identity import KeyKind
from sie_core.settings import Config, ConfigError
from sie_hub.cli import EXIT_FAILURE, EXIT_OK, add_config_argument
from sie_hub.config import EXCHANGE_NAME, load_config
from sie_hub.enrol import elsewhere_cli
from sie_hub.enrol.authority import certify_ca, init_ca, make_server_certificate, sign_request
from sie_hub.enrol.elsewhere import key_and_request
from sie_hub.enrol.renewals import RenewalStore
from sie_hub.enrol.rotation import OVERLAP, retire_ca, rotate_ca
from sie_hub.enrol.tokens import DEFAULT_LIFETIME, MAX_LIFETIME, Token, TokenStore
from sie_hub.enrol.unit import run_enrol
from sie_hub.registry import Registry, is_participant_name, is_sensor_name
from sie_hub.unit import Unit, run_unit


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of one of the commands."""
    {
        "enrol": _configure_enrol,
        "ca": _configure_ca,
        "token": _configure_token,
        "renewal": _configure_renewal,
    }[command](parser)


def _configure_enrol(parser: argparse.ArgumentParser) -> None:
    add_config_argument(parser)
    parser.set_defaults(run=_enrol)


def _configure_ca(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    init = verbs.add_parser("init", help="make the issuing CA, unless it is there")
    init.add_argument(
        "--directory", type=Path, required=True, metavar="DIR", help="where ca.pem and ca.key go"
    )
    init.add_argument(
        "--exchange", type=_exchange, required=True, metavar="NAME", help="the exchange it issues for"
    )
    init.add_argument(
        "--key-type",
        type=KeyKind,
        choices=list(KeyKind),
        default=KeyKind.P256,
        metavar="TYPE",
        help="p256 (the default, which every TLS library verifies) or ed25519",
    )
    init.set_defaults(run=speaking(_ca_init))

    server = verbs.add_parser(
        "server-certificate",
        help="make a server certificate of the hub, unless one with these names and a third of its life"
        " left is there",
    )
    server.add_argument(
        "--ca-directory", type=Path, required=True, metavar="DIR", help="where ca.pem and ca.key are"
    )
    server.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the certificate goes")
    server.add_argument(
        "--as",
        dest="stem",
        type=_file_stem,
        default="server",
        metavar="NAME",
        help="the files are NAME.pem and NAME.key (default: server)",
    )
    server.add_argument(
        "--name",
        type=_exchange,
        action="append",
        default=[],
        metavar="DNS",
        help="a name of the hub; repeatable",
    )
    server.add_argument(
        "--address", type=ip_address, action="append", default=[], metavar="IP", help="an address; repeatable"
    )
    server.add_argument(
        "--renew", action="store_true", help="make a new one in any case: each run makes another"
    )
    server.set_defaults(run=speaking(_ca_server_certificate))

    rotate = verbs.add_parser(
        "rotate",
        help="let a new key take over as the issuing CA, while its predecessor is still trusted; restart"
        " ingest and serve, then make the server certificates again, then restart enrol",
    )
    rotate.set_defaults(run=speaking(_ca_rotate))
    retire = verbs.add_parser("retire", help="trust the predecessor of the issuing CA no more")
    retire.add_argument(
        "--after",
        type=int,
        default=OVERLAP.days,
        metavar="DAYS",
        help="how long after its succession it stays trusted: what its certificates live, and the grace"
        f" (default: {OVERLAP.days}); 0 is for a key that was stolen",
    )
    retire.set_defaults(run=speaking(_ca_retire))
    for verb in (rotate, retire):
        verb.add_argument(
            "--directory", type=Path, required=True, metavar="DIR", help="where ca.pem and ca.key are"
        )
        verb.add_argument("--check", action="store_true", help="say what would change, and change nothing")
        verb.epilog = "Prints one JSON object: changed, and the fingerprints of the CAs that are trusted now."

    sign = verbs.add_parser(
        "sign",
        help="sign the certificate request of a sensor that cannot ask by itself; of the request only the key"
        " is used",
    )
    sign.add_argument(
        "--ca-directory", type=Path, required=True, metavar="DIR", help="where ca.pem and ca.key are"
    )
    sign.add_argument("--participant", type=_participant, required=True, metavar="NAME")
    sign.add_argument("--sensor", type=_sensor, required=True, metavar="NAME")
    sign.add_argument(
        "--days",
        type=int,
        choices=range(1, 399),
        default=limits.SENSOR_CERTIFICATE_DAYS,
        metavar="DAYS",
        help=f"how long the certificate lives (default: {limits.SENSOR_CERTIFICATE_DAYS})",
    )
    sign.add_argument(
        "request",
        type=Path,
        metavar="FILE",
        help="what `sie-agent identity csr` printed; - is standard input",
    )
    sign.epilog = "Prints one JSON object: the certificate in PEM, its serial number, the key's fingerprint."
    sign.set_defaults(run=speaking(_ca_sign))
    init.add_argument(
        "--key-stdin",
        action="store_true",
        help="make the certificate alone, for the key on standard input, which is kept elsewhere",
    )
    sign.add_argument(
        "--key-stdin",
        action="store_true",
        help="standard input holds the CA's key, which is not in DIR, and the request",
    )
    elsewhere_cli.configure(verbs, speaking, dns_name=_exchange, stem=_file_stem)
    for verb in (init, server):
        verb.add_argument("--check", action="store_true", help="say what would change, and change nothing")
        verb.epilog = "Prints one JSON object: changed, the files, and what the certificate says."


def _configure_token(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    issue = verbs.add_parser("issue", help="issue a token, and show it this once")
    issue.add_argument("--participant", type=_participant, required=True, metavar="NAME")
    issue.add_argument("--sensor", type=_sensor, required=True, metavar="NAME")
    issue.add_argument(
        "--hours",
        type=_lifetime,
        default=DEFAULT_LIFETIME,
        metavar="HOURS",
        help=f"how long it is good (default: {DEFAULT_LIFETIME // timedelta(hours=1)})",
    )
    issue.add_argument(
        "--unless-valid",
        action="store_true",
        help="issue none while the sensor has one that is neither expired nor revoked",
    )
    issue.set_defaults(run=speaking(_token_issue))

    listing = verbs.add_parser("list", help="list tokens, without their texts")
    listing.add_argument("--participant", type=_participant, metavar="NAME", help="of this participant alone")
    listing.set_defaults(run=speaking(_token_list))

    revoke = verbs.add_parser("revoke", help="take a token back")
    revoke.add_argument("id", help="as `sie-hub token list` shows it")
    revoke.set_defaults(run=speaking(_token_revoke))

    for verb in (issue, listing, revoke):
        add_config_argument(verb)
        verb.add_argument("--json", action="store_true", help="print one JSON object")


def _configure_renewal(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="list the certificates that were renewed, and with which keys")
    listing.add_argument("--participant", type=_participant, metavar="NAME", help="of this participant alone")
    add_config_argument(listing)
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    listing.set_defaults(run=speaking(_renewal_list))


def _enrol(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)

    async def body(unit: Unit) -> None:
        await run_enrol(unit, config)

    return run_unit("enrol", config["enrol.metrics"], body)


def _ca_init(arguments: argparse.Namespace) -> int:
    if arguments.key_stdin:
        key = identity.private_key_from_pem(sys.stdin.buffer.read())
        made = certify_ca(
            arguments.directory,
            arguments.exchange,
            key,
            now=datetime.now(UTC),
            random=os.urandom,
            check=arguments.check,
        )
        print(json.dumps(made.public()))
        return EXIT_OK
    made = init_ca(
        arguments.directory,
        arguments.exchange,
        arguments.key_type,
        now=datetime.now(UTC),
        random=os.urandom,
        check=arguments.check,
    )
    print(json.dumps(made.public()))
    return EXIT_OK


def _ca_server_certificate(arguments: argparse.Namespace) -> int:
    if not arguments.name and not arguments.address:
        return _complain("give at least one --name or --address")
    made = make_server_certificate(
        arguments.ca_directory,
        arguments.out,
        arguments.stem,
        arguments.name,
        arguments.address,
        now=datetime.now(UTC),
        random=os.urandom,
        renew=arguments.renew,
        check=arguments.check,
    )
    print(json.dumps(made.public()))
    return EXIT_OK


def _ca_rotate(arguments: argparse.Namespace) -> int:
    done = rotate_ca(arguments.directory, now=datetime.now(UTC), random=os.urandom, check=arguments.check)
    print(json.dumps(done.public()))
    return EXIT_OK


def _ca_retire(arguments: argparse.Namespace) -> int:
    overlap = timedelta(days=arguments.after)
    done = retire_ca(arguments.directory, now=datetime.now(UTC), overlap=overlap, check=arguments.check)
    print(json.dumps(done.public()))
    return EXIT_OK


def _ca_sign(arguments: argparse.Namespace) -> int:
    text = sys.stdin.buffer.read() if str(arguments.request) == "-" else arguments.request.read_bytes()
    key = None
    if arguments.key_stdin:
        key, text = key_and_request(text)
    certificate = sign_request(
        arguments.ca_directory,
        arguments.participant,
        arguments.sensor,
        text,
        now=datetime.now(UTC),
        random=os.urandom,
        days=arguments.days,
        ca_key=key,
    )
    print(
        json.dumps(
            {
                "participant": arguments.participant,
                "sensor": arguments.sensor,
                "serial": identity.serial_text(certificate),
                "not_after": certificate.not_valid_after_utc.isoformat(),
                "fingerprint": identity.fingerprint(identity.public_key_of(certificate)),
                "certificate": identity.certificate_to_pem(certificate).decode(),
            }
        )
    )
    return EXIT_OK


def _token_issue(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    who = f"{arguments.participant}/{arguments.sensor}"
    fault = _not_enrollable(config, arguments.participant, arguments.sensor)
    if fault is not None:
        return _complain(f"no token for {who}: {fault}")
    now = datetime.now(UTC)
    with _tokens(config) as tokens:
        token, secret = tokens.issue(
            arguments.participant,
            arguments.sensor,
            now=now,
            random=os.urandom,
            lifetime=arguments.hours,
            unless_valid=arguments.unless_valid,
        )
    if arguments.json:
        shown = {"changed": secret is not None, "user": who, "secret": secret, "token": token.public(now)}
        print(json.dumps(shown))
    elif secret is None:
        print(f"{who} has token {token.id} already, good until {_minute(token.expires)}", file=sys.stderr)
    else:
        # The token alone on standard output, so that it can be sent on without passing through a screen.
        print(f"token {token.id} for {who}, good until {_minute(token.expires)}:", file=sys.stderr)
        print(secret)
    return EXIT_OK


def _token_list(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    now = datetime.now(UTC)
    with _tokens(config) as store:
        tokens = [token for token in store.list() if arguments.participant in (None, token.participant)]
    if arguments.json:
        print(json.dumps({"tokens": [token.public(now) for token in tokens]}))
        return EXIT_OK
    for token in tokens:
        print(_line(token, now))
    return EXIT_OK


def _token_revoke(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    with _tokens(config) as tokens:
        changed = tokens.revoke(arguments.id, now=datetime.now(UTC))
    if changed is None:
        return _complain(f"there is no token {arguments.id}")
    if arguments.json:
        print(json.dumps({"changed": changed, "id": arguments.id}))
    else:
        print(f"token {arguments.id} is revoked{'' if changed else ' already'}")
    return EXIT_OK


def _renewal_list(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    directory: Path = config["enrol.state"]
    with acting_as_owner(directory):
        store = RenewalStore(directory, timedelta(days=config["enrol.grace_days"]))
        renewals = [one for one in store.list() if arguments.participant in (None, one.participant)]
    if arguments.json:
        print(json.dumps({"renewals": [one.public() for one in renewals]}))
        return EXIT_OK
    for one in renewals:
        who = f"{one.participant}/{one.sensor}"
        print(
            f"{one.serial:>32}  {who:24}  {_minute(one.bound_at)}  key {one.bound_key}"
            f"  {len(one.issued)} issued, the last {one.issued[-1].serial}"
        )
    return EXIT_OK


@contextmanager
def _tokens(config: Config) -> Iterator[TokenStore]:
    """The tokens of enrol, with enrol's own rights: root issues them into a directory that is not root's."""
    directory: Path = config["enrol.state"]
    with acting_as_owner(directory):
        yield TokenStore(directory)


def _not_enrollable(config: Config, participant: str, sensor: str) -> str | None:
    """Why a token would be of no use to a sensor, by the registry; None if it would."""
    entry = Registry(config["registry"]).sensor(participant, sensor)
    if entry is None:
        return f"it is not in the registry, {config['registry']}; add it by `sie-hub registry sensor`"
    if entry.revoked is not None:
        return f"it is revoked: {entry.revoked.reason}"
    return entry.agreement.refusal(datetime.now(UTC).date())


def _line(token: Token, now: datetime) -> str:
    key = f"  key {token.bound_key}" if token.bound_key is not None else ""
    who = f"{token.participant}/{token.sensor}"
    return f"{token.id}  {token.state(now):8}  {who:24}  until {_minute(token.expires)}{key}"


def _minute(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC")


def _complain(sentence: str) -> int:
    print(f"sie-hub: {sentence}", file=sys.stderr)
    return EXIT_FAILURE


def speaking(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Errors become one sentence on standard error and exit code 1; those of a configuration are the
    caller's."""

    def wrapped(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except ConfigError:
            raise
        except SieError as error:
            return _complain(str(error))
        except OSError as error:
            return _complain(f"{error.filename}: {error.strerror}")

    return wrapped


def _exchange(text: str) -> str:
    if not re.fullmatch(EXCHANGE_NAME, text):
        raise argparse.ArgumentTypeError(f"{text!r} is no lower-case domain name")
    return text


def _participant(text: str) -> str:
    if not is_participant_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a participant (1 to 32 of a-z, 0-9 and _)")
    return text


def _sensor(text: str) -> str:
    if not is_sensor_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a sensor (1 to 32 of a-z, 0-9 and -)")
    return text


def _file_stem(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no plain file name")
    return text


def _lifetime(text: str) -> timedelta:
    most = MAX_LIFETIME // timedelta(hours=1)
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours up to {most}")
    return timedelta(hours=hours)
