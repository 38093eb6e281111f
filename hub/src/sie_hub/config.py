"""The hub's one configuration file, `/etc/sie-hub/hub.yml`, as a table, and the secrets that lie beside it.

Every unit reads the same file and takes its own section from it. No secret stands in the file: a unit finds
its NATS password and its keys in the directory that systemd names in `$CREDENTIALS_DIRECTORY`
(systemd.exec(5), LoadCredential), or else where the file says.
"""

import os
from pathlib import Path
from typing import Final

from sie_core.kinds import Boolean, File, Integer, Listen, ListenAddress, ListOf, Octets, Seconds, Text, Url
from sie_core.settings import Check, Config, ConfigError, Setting, Table, load

DEFAULT_PATH: Final = Path("/etc/sie-hub/hub.yml")

MAX_SECRET_OCTETS: Final = 16 * 1024  # a key or a password is far smaller; a larger file was named by mistake

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
EXCHANGE_NAME: Final = rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*"


def _serve_is_private(
    listen: tuple[ListenAddress, ...], certificate: Path | None, key: Path | None
) -> str | None:
    if (certificate is None) != (key is None):
        return "serve.certificate and serve.key go together: give both or neither"
    exposed = [str(address) for address in listen if not address.loopback]
    if certificate is None and exposed:
        return (
            f"{', '.join(exposed)} is not loopback, and readers' keys must not cross a network in the clear: "
            "give serve.certificate and serve.key"
        )
    return None


TABLE: Final = Table(
    Setting(
        "exchange",
        Text(EXCHANGE_NAME, "a lower-case domain name"),
        help="the name of the exchange, which stands in every sensor's certificate",
    ),
    Setting(
        "registry",
        File(),
        default="/etc/sie-hub/participants",
        help="the directory of the registry, one file per participant, read again when a file changes",
    ),
    Setting(
        "nats.url",
        Url(("nats",)),
        default="nats://127.0.0.1:4222",
        help="where nats-server listens; the user is the unit's own name",
    ),
    Setting(
        "nats.password_file",
        File(),
        default=None,
        help="the file of the unit's NATS password, where systemd passes no credential `nats_password`",
    ),
    Setting(
        "nats.store",
        File(),
        default="/var/lib/nats",
        help="the directory in which nats-server keeps the streams (used by `sie-hub nats-config`)",
    ),
    Setting(
        "nats.store_max",
        Octets(64 << 20, 1 << 50),
        default=None,
        help="the most that all streams together may take on disk; without it nats-server takes three "
        "quarters of what is free when it starts",
    ),
    Setting(
        "ca.certificate",
        File(),
        default="/etc/sie-hub/ca/ca.pem",
        help="the certificate of the issuing CA, which sensors' certificates are checked against",
    ),
    Setting(
        "ca.key",
        File(),
        default="/etc/sie-hub/ca/ca.key",
        help="the key of the issuing CA, read by enrol alone, where systemd passes no credential `ca_key`",
    ),
    Setting(
        "ca.elsewhere",
        Boolean(),
        default=False,
        help="whether that key is kept off this hub; then enrol does not run, and requests are "
        "signed elsewhere",
    ),
    Setting(
        "enrol.listen",
        ListOf(Listen(), least=1, most=8),
        default=["127.0.0.1:8444"],
        help="where sensors enrol (HTTPS)",
    ),
    Setting(
        "enrol.certificate",
        File(),
        default="/etc/sie-hub/tls/enrol.pem",
        help="the server certificate of enrol, issued by the hub's CA",
    ),
    Setting(
        "enrol.key",
        File(),
        default="/etc/sie-hub/tls/enrol.key",
        help="its key, where systemd passes no credential `tls_key`",
    ),
    Setting(
        "enrol.state",
        File(),
        default="/var/lib/sie-hub-enrol",
        help="the directory of enrolment tokens and of what was issued on them",
    ),
    Setting(
        "enrol.certificate_days",
        Integer(1, 398),
        default=30,
        help="how many days a sensor's certificate lives",
    ),
    Setting(
        "enrol.grace_days",
        Integer(0, 365),
        default=30,
        help="how many days after its end a sensor's certificate can still be renewed, and do nothing else",
    ),
    Setting(
        "enrol.metrics",
        Listen(loopback_only=True),
        default="127.0.0.1:9164",
        help="where enrol answers GET /metrics",
    ),
    Setting(
        "ingest.listen",
        ListOf(Listen(), least=1, most=8),
        default=["127.0.0.1:8443"],
        help="where sensors deliver (WebSocket over TLS)",
    ),
    Setting(
        "ingest.certificate",
        File(),
        default="/etc/sie-hub/tls/ingest.pem",
        help="the server certificate of ingest, issued by the hub's CA",
    ),
    Setting(
        "ingest.key",
        File(),
        default="/etc/sie-hub/tls/ingest.key",
        help="its key, where systemd passes no credential `tls_key`",
    ),
    Setting(
        "ingest.metrics",
        Listen(loopback_only=True),
        default="127.0.0.1:9161",
        help="where ingest answers GET /metrics",
    ),
    Setting(
        "ingest.max_frame",
        Octets(1 << 16, 1 << 26),
        default=33554432,
        help="the largest WebSocket message taken from a sensor; a larger one ends the session",
    ),
    Setting(
        "ingest.source_quota",
        Octets(1 << 26, 1 << 40),
        default=16 << 30,
        help="how much a sensor or upload may deliver at once, and as much again within a day: by default two"
        " days of an extremely busy resolver",
    ),
    Setting(
        "ingest.drop",
        File(),
        default=None,
        help="the directory of the drop, into which sensors put files over SSH; without it none is looked at",
    ),
    Setting(
        "ingest.drop_quota",
        Octets(1 << 26, 1 << 40),
        default=8 << 30,
        help="how much of one account may wait in the drop: by default a day of an extremely busy resolver",
    ),
    Setting(
        "probe.zone",
        Text(EXCHANGE_NAME, "a lower-case domain name"),
        default=None,
        help="the zone whose names sensors look up to prove that they are received; such names go no further "
        "than refine",
    ),
    Setting(
        "refine.window",
        Seconds(0.1, 300.0),
        default=5.0,
        help="how long refine merges equal records before it hands them on",
    ),
    Setting(
        "refine.metrics",
        Listen(loopback_only=True),
        default="127.0.0.1:9162",
        help="where refine answers GET /metrics",
    ),
    Setting(
        "serve.listen",
        ListOf(Listen(), least=1, most=8),
        default=["127.0.0.1:8445"],
        help="where readers ask (HTTPS; plain HTTP on loopback addresses without a certificate)",
    ),
    Setting(
        "serve.certificate",
        File(),
        default=None,
        help="the server certificate of serve, from a CA that readers trust",
    ),
    Setting("serve.key", File(), default=None, help="its key, where systemd passes no credential `tls_key`"),
    Setting(
        "serve.store", File(), default="/var/lib/sie-hub-serve/store", help="the directory of the database"
    ),
    Setting(
        "serve.retention_days", Integer(1, 3660), default=60, help="how many days a record is kept and served"
    ),
    Setting(
        "serve.metrics",
        Listen(loopback_only=True),
        default="127.0.0.1:9163",
        help="where serve answers GET /metrics",
    ),
    checks=(Check(("serve.listen", "serve.certificate", "serve.key"), _serve_is_private),),
)


def load_config(path: Path) -> Config:
    """Read and check the hub's configuration. Raises ConfigError, whose `problems` hold every mistake."""
    return load(path, TABLE)


def credential(name: str, fallback: Path | None) -> Path:
    """The path of a secret: the systemd credential `name` when this unit has it, else `fallback`.

    Raises ConfigError when neither is there to be read.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory is not None and (Path(directory) / name).is_file():
        return Path(directory) / name
    if fallback is None:
        raise ConfigError(
            [f"no secret {name}: pass it by systemd (LoadCredential={name}:FILE) or name its file"]
        )
    return fallback


def read_secret(path: Path) -> str:
    """The text of a secret file without the line break at its end.

    Raises ConfigError when it cannot be read, is empty or is too large to be a secret.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_OCTETS + 1)
    except OSError as error:
        raise ConfigError([f"{path}: this secret cannot be read: {error.strerror}"]) from None
    if len(data) > MAX_SECRET_OCTETS:
        raise ConfigError(
            [f"{path}: larger than {MAX_SECRET_OCTETS} octets, so it is no secret of the hub's"]
        )
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: not text, so it is no secret of the hub's"]) from None
    if not text:
        raise ConfigError([f"{path}: empty, where a secret is expected"])
    return text
