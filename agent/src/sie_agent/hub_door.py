"""Asking the hub one question over HTTPS, by the way that the uplink takes: the same certificate, the same
trust, the same proxy.
"""

import base64
import http.client
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from websockets.exceptions import InvalidProxy
from websockets.proxy import Proxy, get_proxy, parse_proxy
from websockets.uri import parse_uri

from sie_agent.anchors import Anchors
from sie_agent.config import AgentConfig
from sie_agent.errors import AgentError
from sie_agent.refusal import Failure, explain
from sie_core.trampoline import printable

TIMEOUT: Final = 10.0
"""Seconds for each step: TCP, a proxy, TLS, the answer."""

MAX_ANSWER: Final = 64 << 10
"""Octets of an answer: what the hub says of a probe takes half a KiB."""

MAX_SENTENCE: Final = 500
"""Characters of the hub's own words that are repeated."""


class DoorClosed(AgentError):
    """The hub could not be asked. `step` is where it ended: identity, name, connection, tls or answer."""

    def __init__(self, step: str, failure: Failure) -> None:
        super().__init__(failure.text)
        self.step = step
        self.refused = failure.refused


@dataclass(frozen=True)
class Answer:
    """What the hub said: the HTTP status and its text."""

    status: int
    text: str

    @property
    def sentence(self) -> str:
        """Its text as something to repeat to a person."""
        return printable(" ".join(self.text.split()), MAX_SENTENCE)


def ask(config: AgentConfig, hub: str, path: str, timeout: float = TIMEOUT) -> Answer:
    """GET a path of a hub (`wss://HOST:PORT`) with this sensor's certificate. Raises DoorClosed."""
    context = client_context(config)
    parts = urlsplit(hub)
    host, port = parts.hostname or "", parts.port or http.client.HTTPS_PORT
    connection = _connection(hub, host, port, context, timeout)
    with closing(connection):
        step = "connection"
        try:
            connection.connect()
            step = "answer"
            connection.request("GET", path)
            with connection.getresponse() as response:
                body = response.read(MAX_ANSWER)
        except ssl.SSLError as error:
            # In TLS 1.3 the hub turns a client's certificate down after the client's handshake is over.
            raise DoorClosed("tls", explain(error)) from None
        except OSError as error:
            failure = explain(error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error)
            raise DoorClosed(_step_of(error, step), failure) from None
        except http.client.HTTPException as error:
            text = f"what answers is no hub: {str(error) or type(error).__name__}"
            raise DoorClosed("answer", Failure(False, text)) from None
    return Answer(response.status, body.decode(errors="replace"))


def seconds_ahead(hub: str, timeout: float = TIMEOUT) -> float | None:
    """By how many seconds this host's clock is ahead of the hub's; None if the hub does not tell its time.

    Nothing is checked and nothing shown: to a host whose clock is wrong every certificate looks wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    parts = urlsplit(hub)
    try:
        connection = _connection(
            hub, parts.hostname or "", parts.port or http.client.HTTPS_PORT, context, timeout
        )
        with closing(connection):
            connection.request("GET", "/")
            with connection.getresponse() as response:
                said = _date(response.headers)
    except (DoorClosed, OSError, http.client.HTTPException):
        return None
    return None if said is None else (datetime.now(UTC) - said).total_seconds()


def client_context(config: AgentConfig) -> ssl.SSLContext:
    """TLS as the uplink speaks it: 1.3, the exchange's authorities, this sensor's certificate.

    Raises DoorClosed for what is not there or cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    trusted = Anchors(config.ca, config.identity_directory).file()
    _load(trusted, lambda: context.load_verify_locations(trusted))
    _load(config.certificate, lambda: context.load_cert_chain(config.certificate, config.key))
    return context


def _load(path: Path, load: Callable[[], None]) -> None:
    try:
        load()
    except OSError as error:
        why = (error.reason or str(error)) if isinstance(error, ssl.SSLError) else error.strerror
        text = f"{path} cannot be used: {str(why).lower().replace('_', ' ')}"
        raise DoorClosed("identity", Failure(False, text)) from None


def _connection(
    hub: str, host: str, port: int, context: ssl.SSLContext, timeout: float
) -> http.client.HTTPSConnection:
    """A connection to the hub, through the proxy of the environment if there is one."""
    try:
        named = get_proxy(parse_uri(hub))
        proxy = None if named is None else parse_proxy(named)
    except InvalidProxy as error:
        raise DoorClosed("connection", explain(error)) from None
    if proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    if proxy.scheme != "http":
        text = (
            f"the proxy in the environment is of the kind {proxy.scheme}, through which nothing is asked here"
        )
        raise DoorClosed("connection", Failure(False, text))
    connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=timeout, context=context)
    connection.set_tunnel(host, port, _authorization(proxy))
    return connection


def _authorization(proxy: Proxy) -> Mapping[str, str]:
    if proxy.username is None:
        return {}
    token = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {token}"}


def _step_of(error: OSError, step: str) -> str:
    return "name" if isinstance(error, socket.gaierror) else step


def _date(headers: http.client.HTTPMessage) -> datetime | None:
    try:
        return parsedate_to_datetime(headers.get("Date", ""))
    except ValueError:
        return None
