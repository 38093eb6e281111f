"""`sie-hub enrol` as a program on loopback, for the tests that speak to it."""

import base64
import contextlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509

from sie_core import identity
from sie_hub.enrol.tokens import TokenStore

from .broker import free_port
from .conftest import EXCHANGE, Pki


class Enrol:
    """`sie-hub enrol` running on loopback, and everything around it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pki = Pki(directory / "pki")
        self.state = directory / "state"
        self.port = free_port()
        self.metrics_port = free_port()
        self.log_file = directory / "enrol.log"
        self.config = directory / "hub.yml"
        self.secrets: list[str] = []
        server = self.pki.server()
        credentials = directory / "credentials"
        credentials.mkdir()
        shutil.copy(self.pki.ca_held.key, credentials / "ca_key")
        shutil.copy(server.key, credentials / "tls_key")
        registry = directory / "participants"
        registry.mkdir()
        entry = {"channels": [202], "source": 1}
        revoked = {"at": "2026-11-01T00:00:00Z", "reason": "the host was stolen"}
        agreement = {"signed": "2026-01-01", "term_days": 365, "renews": True}
        for participant, standing in (
            ("isp_a", agreement),
            ("late", {**agreement, "terminated": "2026-02-01"}),
        ):
            names = [f"ns{number}" for number in range(1, 30)]
            sensors = {name: {**entry, "source": 100 * len(participant) + i} for i, name in enumerate(names)}
            sensors["gone"] = {**entry, "source": 77, "revoked": revoked}
            (registry / f"{participant}.yml").write_text(
                yaml.safe_dump({"participant": participant, "agreement": standing, "sensors": sensors})
            )
        self.config.write_text(
            yaml.safe_dump(
                {
                    "exchange": EXCHANGE,
                    "registry": str(registry),
                    "ca": {
                        "certificate": str(self.pki.ca_held.certificate),
                        "key": str(directory / "absent.key"),
                    },
                    "enrol": {
                        "listen": [f"127.0.0.1:{self.port}"],
                        "certificate": str(server.certificate),
                        "key": str(directory / "absent.key"),
                        "state": str(self.state),
                        "metrics": f"127.0.0.1:{self.metrics_port}",
                    },
                }
            )
        )
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sie_hub.cli", "enrol", "--config", str(self.config)],
                env={**os.environ, "CREDENTIALS_DIRECTORY": str(credentials)},
                stderr=log,
            )

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def ca(self) -> Path:
        return self.pki.ca_held.certificate

    def pause(self, seconds: float) -> None:
        """Wait a little for something that only polling can tell, but not for a unit that has died."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
            raise AssertionError(self.log())

    def log(self) -> str:
        return self.log_file.read_text()

    def token(
        self, sensor: str, participant: str = "isp_a", *, age: timedelta = timedelta(), hours: float = 1
    ) -> str:
        """A token, issued `age` ago by what `sie-hub token issue` uses."""
        _, secret = TokenStore(self.state).issue(
            participant,
            sensor,
            now=datetime.now(UTC) - age,
            random=os.urandom,
            lifetime=timedelta(hours=hours),
        )
        assert secret is not None
        self.secrets.append(secret)
        return secret

    def ask(
        self,
        user: str,
        token: str,
        body: bytes | None,
        *,
        content_type: str = "application/pkcs10",
        path: str = "simpleenroll",
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request, a GET without a body, by a client of a few lines."""
        method = "GET" if body is None else "POST"
        request = urllib.request.Request(f"{self.url}/.well-known/est/{path}", data=body, method=method)
        request.add_header("Content-Type", content_type)
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode())
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def standing(self, user: str, token: str) -> tuple[int, str]:
        """Status and sentence of what the unit says of a token that is not used."""
        status, _headers, body = self.ask(user, token, None)
        return status, body.decode().strip()

    def enrol(self, sensor: str, token: str, csr: bytes, participant: str = "isp_a") -> x509.Certificate:
        """The certificate for a request, which must be granted."""
        status, _headers, body = self.ask(f"{participant}/{sensor}", token, base64.encodebytes(csr))
        assert status == 200, body
        [certificate] = identity.decode_certs_only(base64.b64decode(body))
        return certificate

    def refused(self, sensor: str, token: str, csr: bytes, participant: str = "isp_a") -> tuple[int, str]:
        """Status and sentence of a refusal, which must be one line of text."""
        status, headers, body = self.ask(f"{participant}/{sensor}", token, base64.encodebytes(csr))
        assert headers["Content-Type"].startswith("text/plain")
        assert body.count(b"\n") == 1
        return status, body.decode().strip()

    def count(self, outcome: str) -> float:
        """A counter of the unit, as its metrics show it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.search(rf'^sie_hub_enrol_requests_total{{outcome="{outcome}"}} (\S+)$', text, re.MULTILINE)
        assert found is not None, outcome
        return float(found[1])

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of `sie-hub`."""
        return subprocess.run(
            [sys.executable, "-m", "sie_hub.cli", *arguments], capture_output=True, text=True, timeout=60
        )


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Enrol]:
    """The unit, ready; ended in order, with no token in its log."""
    made = Enrol(directory)
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    while " ready: " not in made.log():
        assert datetime.now(UTC) < deadline, made.log()
        made.pause(0.05)
    yield made
    made.process.send_signal(signal.SIGTERM)
    assert made.process.wait(20) == 0, made.log()
    for secret in made.secrets:
        assert secret not in made.log()
