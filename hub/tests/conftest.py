"""What the hub's tests share: an exchange's authority and the certificates it issues, made anew for each
test."""

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from sie_core import identity
from sie_core.identity import Identity, KeyKind, PrivateKey

from .broker import Broker

EXCHANGE = "lab.example"


@dataclass(frozen=True)
class Held:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    @property
    def serial(self) -> str:
        """The serial number as the registry writes it."""
        return identity.serial_text(x509.load_pem_x509_certificate(self.certificate.read_bytes()))


class Pki:
    """An issuing CA and what it issues, in files under one directory."""

    def __init__(self, directory: Path, exchange: str = EXCHANGE) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.exchange = exchange
        self.now = datetime.now(UTC)
        self.ca_key: PrivateKey = identity.generate_key(KeyKind.P256, os.urandom)
        self.ca: x509.Certificate = identity.make_ca(self.ca_key, exchange, now=self.now, random=os.urandom)
        self.ca_held = self._hold("ca", self.ca, self.ca_key)

    def server(self, name: str = "server", *more: str) -> Held:
        """A server certificate for loopback and for more addresses."""
        key = identity.generate_key(KeyKind.P256, os.urandom)
        certificate = identity.issue_server_certificate(
            key.public_key(),
            ["localhost"],
            [ip_address(address) for address in ("127.0.0.1", "::1", *more)],
            self.ca,
            self.ca_key,
            now=self.now,
            random=os.urandom,
        )
        return self._hold(name, certificate, key)

    def sensor(
        self, participant: str = "isp_a", sensor: str = "ns1", *, at: datetime | None = None, days: int = 30
    ) -> Held:
        """A sensor's certificate, issued `at` some other time than now if given."""
        key = identity.generate_key(KeyKind.ED25519, os.urandom)
        certificate = identity.issue_sensor_certificate(
            key.public_key(),
            Identity(self.exchange, participant, sensor),
            self.ca,
            self.ca_key,
            now=at or self.now,
            random=os.urandom,
            days=days,
        )
        return self._hold(f"{participant}-{sensor}", certificate, key)

    def client_context(self, shown: Held | None = None) -> ssl.SSLContext:
        """A client that trusts this CA alone and shows a certificate if given."""
        context = ssl.create_default_context(cafile=str(self.ca_held.certificate))
        if shown is not None:
            context.load_cert_chain(shown.certificate, shown.key)
        return context

    def _hold(self, name: str, certificate: x509.Certificate, key: PrivateKey) -> Held:
        held = Held(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        held.certificate.write_bytes(identity.certificate_to_pem(certificate))
        held.key.write_bytes(identity.private_key_to_pem(key))
        held.key.chmod(0o600)
        return held


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """The exchange's own authority."""
    return Pki(tmp_path / "pki")


@pytest.fixture
def other_pki(tmp_path: Path) -> Pki:
    """Another authority, of the same name."""
    return Pki(tmp_path / "other-pki")


@pytest.fixture
def empty_broker(tmp_path: Path) -> Iterator[Broker]:
    """A nats-server that runs, without any stream."""
    broker = Broker(tmp_path / "nats")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
async def broker(empty_broker: Broker) -> Broker:
    """A nats-server that runs, with the hub's streams."""
    await empty_broker.make_streams()
    return empty_broker
