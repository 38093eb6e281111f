"""`sie-hub enrol`: the unit."""

import logging
import os
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from aiohttp import web
from cryptography import x509

from sie_core import identity
from sie_core.settings import Config, ConfigError
from sie_hub.config import credential
from sie_hub.connections import IDLE_TIMEOUT
from sie_hub.enrol.authority import AuthorityError, load_ca, load_certificates
from sie_hub.enrol.est import Est, Metrics
from sie_hub.enrol.issuing import Authority, Enroller
from sie_hub.enrol.renewals import RenewalStore
from sie_hub.enrol.tokens import TokenStore
from sie_hub.garbage import counted_garbage
from sie_hub.registry import Registry
from sie_hub.registry_metrics import show_registry
from sie_hub.tls import TlsSite, server_context
from sie_hub.unit import Unit, UnitFailed

RELOAD_INTERVAL: Final = 1.0  # seconds between two looks at the registry
DRAIN_TIMEOUT: Final = 5.0  # seconds for requests under way when the unit is stopped

_http_log = logging.getLogger("sie_hub.enrol.http")


async def run_enrol(unit: Unit, config: Config) -> None:
    """Enrol sensors until the unit is to stop. Raises ConfigError and UnitFailed."""
    authority = load_authority(config)
    registry = Registry(config["registry"])
    metrics = Metrics(unit.metrics)
    show_registry(unit.metrics, registry)
    grace = timedelta(days=config["enrol.grace_days"])
    enroller = Enroller(
        authority,
        registry,
        TokenStore(config["enrol.state"]),
        RenewalStore(config["enrol.state"], grace),
        grace=grace,
        clock=lambda: datetime.now(UTC),
        random=os.urandom,
    )
    context = server_context(
        config["enrol.certificate"],
        credential("tls_key", config["enrol.key"]),
        client_authorities=config["ca.certificate"],
    )
    application = Est(enroller, named(config["ca.certificate"]), metrics).application()
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=_http_log,
        handle_signals=False,
        shutdown_timeout=DRAIN_TIMEOUT,
        keepalive_timeout=IDLE_TIMEOUT,
    )
    with ExitStack() as stack:
        stack.enter_context(counted_garbage(_http_log, lambda: metrics.count("not_http")))
        await runner.setup()
        try:
            for address in config["enrol.listen"]:
                site = TlsSite(runner, address.host, address.port, context, metrics.count)
                try:
                    await site.start()
                except OSError as error:
                    raise UnitFailed(f"cannot listen on {address}: {error.strerror}") from None
            key = identity.fingerprint(identity.public_key_of(authority.certificate))
            unit.ready(f"enrolling on {', '.join(site.name for site in runner.sites)}; the CA's key is {key}")
            while not unit.stopping.is_set():
                registry.reload()
                unit.progress()
                await unit.sleep(RELOAD_INTERVAL)
        finally:
            await runner.cleanup()


def named(ca_file: Path) -> list[x509.Certificate]:
    """What `cacerts` names: the CAs that are trusted, and the link from one to the next (RFC 7030, 4.1.3).

    Raises ConfigError.
    """
    link = ca_file.with_name("link.pem")
    try:
        return load_certificates(ca_file) + (load_certificates(link) if link.exists() else [])
    except AuthorityError as error:
        raise ConfigError([str(error)]) from None


def load_authority(config: Config) -> Authority:
    """The issuing CA: the one place in a running hub that reads its key. Raises ConfigError."""
    if config["ca.elsewhere"]:
        raise ConfigError(["ca.elsewhere is true: the CA's key is not on this hub, where enrol does not run"])
    try:
        certificate, key = load_ca(config["ca.certificate"], credential("ca_key", config["ca.key"]))
    except AuthorityError as error:
        raise ConfigError([str(error)]) from None
    exchange = identity.ca_exchange(certificate)
    if exchange != config["exchange"]:
        raise ConfigError(
            [f"{config['ca.certificate']}: this is the CA of {exchange}, not of {config['exchange']}"]
        )
    return Authority(
        config["exchange"],
        certificate,
        key,
        config["enrol.certificate_days"],
        load_certificates(config["ca.certificate"]),
    )
