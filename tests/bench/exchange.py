"""A hub on loopback to deliver to: the real nats-server and the real `sie-hub ingest`, as the product
configures them, and a key and a certificate for each of as many sensors as are asked for.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import yaml

from sie_core import identity
from sie_core.identity import Identity, KeyKind, PrivateKey
from sie_hub.demo.programs import Programs, find_nats_server, free_ports, read_metrics
from sie_hub.nats_config import USERS, render

EXCHANGE: Final = "bench.example"
CHANNEL: Final = 202
SENSORS_OF_PARTICIPANT: Final = 10

HUB: Final = str(Path(sys.executable).parent / "sie-hub")


@dataclass(frozen=True)
class Held:
    """A sensor's name, key and certificate."""

    identity: Identity
    key: Path
    certificate: Path


@dataclass
class Exchange:
    """The hub's files and, once `running`, its processes."""

    folder: Path
    sensors: list[Held] = field(default_factory=list)
    nats_port: int = 0
    port: int = 0
    metrics_port: int = 0
    nats_process: int = 0
    ingest_process: int = 0

    @property
    def url(self) -> str:
        """Where sensors deliver."""
        return f"wss://localhost:{self.port}"

    @property
    def authority(self) -> Path:
        """The certificate of the CA."""
        return self.folder / "ca.pem"

    def stored(self) -> int:
        """Containers that ingest has stored since it runs."""
        return int(read_metrics(self.metrics_port).get("sie_hub_ingest_containers_total/stored", 0))


@contextmanager
def running(folder: Path, sensors: int) -> Iterator[Exchange]:
    """An exchange that takes containers from so many sensors. Raises DemoFailed."""
    exchange = Exchange(folder)
    exchange.nats_port, exchange.port, exchange.metrics_port = free_ports(3)
    _certificates(exchange, sensors)
    _registry(exchange)
    passwords = {user.name: f"{user.name}-password-of-the-benchmark" for user in USERS}
    nats_config, config = folder / "nats-server.conf", _config(exchange)
    nats_config.write_text(render(_nats_url(exchange), folder / "nats", passwords))
    for user, password in passwords.items():
        (folder / user).mkdir()
        (folder / user / "nats_password").write_text(password)
    with Programs(folder / "logs") as programs:
        programs.start("nats-server", [find_nats_server(), "-c", str(nats_config)])
        programs.await_listening("nats-server", exchange.nats_port)
        subprocess.run(
            [HUB, "streams", "--config", str(config)],
            env={**os.environ, "CREDENTIALS_DIRECTORY": str(folder / "setup")},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        programs.start(
            "ingest",
            [HUB, "ingest", "--config", str(config)],
            {"CREDENTIALS_DIRECTORY": str(folder / "ingest")},
        )
        programs.await_listening("ingest", exchange.port)
        exchange.nats_process = programs.process("nats-server")
        exchange.ingest_process = programs.process("ingest")
        yield exchange
        programs.check()


def _nats_url(exchange: Exchange) -> str:
    return f"nats://127.0.0.1:{exchange.nats_port}"


def _certificates(exchange: Exchange, sensors: int) -> None:
    now = datetime.now(UTC)
    ca_key = identity.generate_key(KeyKind.P256, os.urandom)
    ca = identity.make_ca(ca_key, EXCHANGE, now=now, random=os.urandom)
    exchange.authority.write_bytes(identity.certificate_to_pem(ca))
    key = identity.generate_key(KeyKind.P256, os.urandom)
    loopback = [ip_address("127.0.0.1"), ip_address("::1")]
    server = identity.issue_server_certificate(
        key.public_key(), ["localhost"], loopback, ca, ca_key, now=now, random=os.urandom
    )
    _hold(exchange.folder / "server", key, identity.certificate_to_pem(server))
    for number in range(sensors):
        name = Identity(EXCHANGE, f"isp_{number // SENSORS_OF_PARTICIPANT}", f"ns{number}")
        # As `sie-agent identity enrol` makes them.
        key = identity.generate_key(KeyKind.ED25519, os.urandom)
        issued = identity.issue_sensor_certificate(
            key.public_key(), name, ca, ca_key, now=now, random=os.urandom
        )
        place = exchange.folder / "sensors" / name.sensor
        _hold(place, key, identity.certificate_to_pem(issued))
        exchange.sensors.append(Held(name, place / "key.pem", place / "certificate.pem"))


def _hold(place: Path, key: PrivateKey, certificate: bytes) -> None:
    place.mkdir(parents=True)
    (place / "key.pem").touch(mode=0o600)
    (place / "key.pem").write_bytes(identity.private_key_to_pem(key))
    (place / "certificate.pem").write_bytes(certificate)


def _registry(exchange: Exchange) -> None:
    registry = exchange.folder / "participants"
    registry.mkdir()
    signed = datetime.now(UTC).date().isoformat()
    by_participant: dict[str, dict[str, object]] = {}
    for source, held in enumerate(exchange.sensors, start=1):
        name = held.identity
        entry = {"channels": [CHANNEL], "source": source}
        by_participant.setdefault(name.participant, {})[name.sensor] = entry
    for participant, sensors in by_participant.items():
        document = {
            "participant": participant,
            "agreement": {"signed": signed, "term_days": 365, "renews": True},
            "sensors": sensors,
        }
        (registry / f"{participant}.yml").write_text(yaml.safe_dump(document))


def _config(exchange: Exchange) -> Path:
    file = exchange.folder / "hub.yml"
    server = exchange.folder / "server"
    file.write_text(
        yaml.safe_dump(
            {
                "exchange": EXCHANGE,
                "registry": str(exchange.folder / "participants"),
                "nats": {"url": _nats_url(exchange)},
                "ca": {"certificate": str(exchange.authority)},
                "ingest": {
                    "listen": [f"127.0.0.1:{exchange.port}"],
                    "certificate": str(server / "certificate.pem"),
                    "key": str(server / "key.pem"),
                    "metrics": f"127.0.0.1:{exchange.metrics_port}",
                },
            }
        )
    )
    return file
