"""Why a connection to the hub failed, as one clause for the log and for `sie-agent status`.

A hub says no in three ways: an HTTP status with a text, a fatal alert of the trampoline, a TLS alert. All
three come out here as a `Failure` that is a refusal, with the hub's own words where it gave any. Everything
else (no route, no name, no answer) is a failure that is none.
"""

import asyncio
import socket
import ssl
from typing import Final, NamedTuple

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidStatus,
    ProxyError,
    WebSocketException,
)

from sie_agent.errors import SpoolError
from sie_core.limits import MAX_ALERT_TEXT
from sie_core.trampoline import printable


class Failure(NamedTuple):
    """Why there is no session. `refused` says that the hub itself (or this side's check of it) said no."""

    refused: bool
    text: str


class Refused(Exception):
    """The session was ended by the hub's fatal alert, or by what this side cannot accept of the hub."""


class Ended(Exception):
    """The session ended otherwise than in order; the text says how."""


# The alerts of RFC 8446 section 6.2 by which a server turns a client's certificate down, as OpenSSL spells
# them.
_TLS_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "the hub wants a certificate and none was sent",
    "CERTIFICATE_EXPIRED": "the hub says that this sensor's certificate has expired",
    "CERTIFICATE_REVOKED": "the hub says that this sensor's certificate is revoked",
    "UNKNOWN_CA": "the hub does not know the authority that issued this sensor's certificate",
    "BAD_CERTIFICATE": "the hub does not accept this sensor's certificate",
    "UNSUPPORTED_CERTIFICATE": "this sensor's certificate is not one for sensors",
    "CERTIFICATE_UNKNOWN": "the hub does not accept this sensor's certificate",
    "ACCESS_DENIED": "the hub denies access to this sensor's certificate",
    "DECRYPT_ERROR": "the hub cannot verify this sensor's signature: do key and certificate belong together?",
    "PROTOCOL_VERSION": "the hub does not speak TLS 1.3",
    "HANDSHAKE_FAILURE": "the hub found no common parameters for TLS",
}


def explain(error: BaseException) -> Failure:
    """Say why, for any exception that an attempt or a session ends with."""
    match error:
        case Refused():
            return Failure(True, str(error))
        case Ended() | SpoolError():
            return Failure(False, str(error))
        case ssl.SSLCertVerificationError():
            return Failure(True, f"the hub's certificate is not accepted: {error.verify_message}")
        case ssl.SSLError():
            return _tls(error)
        case InvalidStatus():
            body = (error.response.body or b"").decode(errors="replace").strip()
            text = printable(" ".join(body.split()), MAX_ALERT_TEXT) or error.response.reason_phrase
            return Failure(True, f"HTTP {error.response.status_code}: {text}")
        case InvalidProxy() | ProxyError():
            return Failure(False, f"the proxy does not let through: {_innermost(error)}")
        case ConnectionClosed():
            return _closed(error)
        case InvalidHandshake() if isinstance(error.__cause__, (EOFError, OSError)):
            return Failure(False, "it closed the connection without an answer; its own log may say why")
        case InvalidHandshake() | WebSocketException():
            return Failure(False, f"no WebSocket server there: {_innermost(error)}")
        case ImportError():
            return Failure(False, f"the proxy in the environment cannot be used: {error}")
        case TimeoutError():
            return Failure(False, "no answer in time")
        case socket.gaierror():
            return Failure(False, f"its name has no address: {error.strerror}")
        case ConnectionRefusedError():
            return Failure(False, "nothing listens there (connection refused)")
        case asyncio.IncompleteReadError() | EOFError() | ConnectionResetError() | BrokenPipeError():
            return Failure(False, "the connection was lost")
        case OSError():
            return Failure(False, error.strerror or str(error))
    raise error


def _closed(error: ConnectionClosed) -> Failure:
    if isinstance(error.__cause__, ssl.SSLError):
        return explain(error.__cause__)
    if error.rcvd is None:
        return Failure(False, "the connection was lost")
    reason = printable(error.rcvd.reason, MAX_ALERT_TEXT)
    return Failure(
        False, f"the hub closed the connection ({error.rcvd.code}{f' {reason}' if reason else ''})"
    )


def _tls(error: ssl.SSLError) -> Failure:
    reason = error.reason or ""
    for alert, text in _TLS_ALERTS.items():
        if reason.endswith(f"ALERT_{alert}"):
            return Failure(True, f"{text} (TLS alert {alert.lower().replace('_', ' ')})")
    return Failure(False, f"TLS failed: {reason.lower().replace('_', ' ') or error}")


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
