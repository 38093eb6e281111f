"""The directory of a demonstration: everything that the roles would put on hosts, put in one place."""

import contextlib
import io
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from sie_hub import cli
from sie_hub.demo.programs import DemoFailed, free_ports
from sie_hub.nats_config import USERS, render

EXCHANGE: Final = "demo.example"
PARTICIPANT: Final = "isp_a"
SENSOR: Final = "ns1"
READER: Final = "analyst"
CHANNEL: Final = 202

UNITS: Final = ("enrol", "ingest", "refine", "serve")

WINDOW: Final = 1.0
"""Seconds in which refine merges: short, because somebody is watching."""

RETENTION_DAYS: Final = 3660
"""As long as the configuration allows, because the capture may be of any year."""


@dataclass
class Place:
    """Paths, ports and secrets. `prepare` makes what they name."""

    root: Path
    resolvers: list[str]
    nats_port: int = 0
    ports: dict[str, int] = field(default_factory=dict)
    metrics_ports: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    api_key: str = ""

    @property
    def hub_config(self) -> Path:
        """The hub's configuration."""
        return self.root / "hub.yml"

    @property
    def agent_config(self) -> Path:
        """The agent's configuration."""
        return self.root / "agent.yml"

    @property
    def nats_config(self) -> Path:
        """nats-server's configuration."""
        return self.root / "nats-server.conf"

    @property
    def token_file(self) -> Path:
        """The sensor's enrolment token."""
        return self.root / "token"

    @property
    def nats_url(self) -> str:
        """Where nats-server listens."""
        return f"nats://127.0.0.1:{self.nats_port}"

    @property
    def api_url(self) -> str:
        """Where readers ask."""
        return f"http://127.0.0.1:{self.ports['serve']}"

    def credentials(self, unit: str) -> Path:
        """What a unit gets as `$CREDENTIALS_DIRECTORY`."""
        return self.root / "credentials" / unit

    def prepare(self) -> None:
        """Make certificates, registry, configurations and secrets."""
        self.nats_port, *ports = free_ports(1 + 2 * len(UNITS))
        self.ports = dict(zip(UNITS, ports, strict=False))
        self.metrics_ports = dict(zip(UNITS, ports[len(UNITS) :], strict=True))
        self.passwords = {user.name: secrets.token_urlsafe(24) for user in USERS}
        (self.root / "participants").mkdir()
        self.hub_config.write_text(yaml.safe_dump(self._hub_settings()))
        self.agent_config.write_text(yaml.safe_dump(self._agent_settings()))
        self.nats_config.touch(mode=0o600)
        self.nats_config.write_text(render(self.nats_url, self.root / "nats", self.passwords))
        for user, password in self.passwords.items():
            self.credentials(user).mkdir(parents=True)
            (self.credentials(user) / "nats_password").write_text(password)
        self._certificates()
        self._registry()

    def streams(self) -> None:
        """Make the streams of nats-server, which runs by now."""
        _hub("streams", "--config", str(self.hub_config))

    def _certificates(self) -> None:
        authority = str(self.root / "ca")
        _hub("ca", "init", "--directory", authority, "--exchange", EXCHANGE)
        for unit in ("enrol", "ingest"):
            _hub(
                *("ca", "server-certificate", "--ca-directory", authority, "--out", str(self.root / "tls")),
                *("--as", unit, "--name", "localhost", "--address", "127.0.0.1"),
            )

    def _registry(self) -> None:
        config = ("--config", str(self.hub_config))
        today = datetime.now(UTC).date().isoformat()
        _hub("registry", "participant", "set", PARTICIPANT, "--signed", today, "--term-days", "365", *config)
        _hub("registry", "sensor", "set", PARTICIPANT, SENSOR, "--channel", str(CHANNEL), *config)
        self.api_key = _hub("registry", "reader", "key", "add", PARTICIPANT, READER, *config)["key"]
        issued = _hub("token", "issue", "--participant", PARTICIPANT, "--sensor", SENSOR, "--json", *config)
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(issued["secret"])

    def _hub_settings(self) -> dict[str, Any]:
        def listen(unit: str) -> dict[str, Any]:
            return {
                "listen": [f"127.0.0.1:{self.ports[unit]}"],
                "metrics": f"127.0.0.1:{self.metrics_ports[unit]}",
            }

        def certificate(unit: str) -> dict[str, str]:
            return {
                "certificate": str(self.root / "tls" / f"{unit}.pem"),
                "key": str(self.root / "tls" / f"{unit}.key"),
            }

        return {
            "exchange": EXCHANGE,
            "registry": str(self.root / "participants"),
            "nats": {
                "url": self.nats_url,
                "password_file": str(self.credentials("setup") / "nats_password"),
            },
            "ca": {
                "certificate": str(self.root / "ca" / "ca.pem"),
                "key": str(self.root / "ca" / "ca.key"),
            },
            "enrol": listen("enrol") | certificate("enrol") | {"state": str(self.root / "enrol")},
            "ingest": listen("ingest") | certificate("ingest"),
            "refine": {"window": WINDOW, "metrics": listen("refine")["metrics"]},
            "serve": listen("serve") | {"store": str(self.root / "store"), "retention_days": RETENTION_DAYS},
        }

    def _agent_settings(self) -> dict[str, Any]:
        return {
            "participant": PARTICIPANT,
            "sensor": SENSOR,
            "exchange": EXCHANGE,
            "channel": CHANNEL,
            "resolvers": self.resolvers,
            "sources": [{"interface": "lo"}],  # a replay listens to none, but an agent has one
            "spool": {"directory": str(self.root / "agent" / "spool")},
            "uplink": {
                "hubs": [f"wss://localhost:{self.ports['ingest']}"],
                "ca": str(self.root / "ca" / "ca.pem"),
                "enrol": f"https://localhost:{self.ports['enrol']}",
            },
            "identity": {"directory": str(self.root / "agent" / "identity")},
        }


def _hub(*arguments: str) -> dict[str, Any]:
    """Run a command of `sie-hub` that prints one JSON object, and return that. Raises DemoFailed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(arguments)
    if code != cli.EXIT_OK:
        raise DemoFailed(
            f"sie-hub {' '.join(arguments)} ended with exit code {code}: {err.getvalue().strip()}"
        )
    document: dict[str, Any] = json.loads(out.getvalue())
    return document
