"""A client of EST (RFC 7030) that asks for one certificate, or for the next, and for the authorities of the
exchange, pinned to those that are trusted already.
"""

import base64
import binascii
import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from cryptography import x509

from sie_agent.errors import AgentError
from sie_core.errors import IdentityError
from sie_core.identity import decode_certs_only
from sie_core.trampoline import printable

CA_CERTS: Final = "/.well-known/est/cacerts"
SIMPLE_ENROLL: Final = "/.well-known/est/simpleenroll"
SIMPLE_REENROLL: Final = "/.well-known/est/simplereenroll"
CERTS_ONLY: Final = "application/pkcs7-mime"

TIMEOUT: Final = 30.0
"""Seconds for each step of the exchange with the hub."""

MAX_ANSWER: Final = 64 << 10
"""Octets of an answer: a certificate takes one KiB, a sentence less."""

MAX_SENTENCE: Final = 500
"""Characters of the hub's refusal that are repeated."""


class EnrolmentFailed(AgentError):
    """There is no certificate: the sentence says whether the hub refused or could not be asked."""


class EnrolmentRefused(EnrolmentFailed):
    """The hub itself said no."""


def ca_certs(url: str, ca_file: Path) -> list[x509.Certificate]:
    """The authorities that the hub names (RFC 7030, section 4.1), unchecked.

    The server is checked as by `simple_enroll`. Raises EnrolmentFailed.
    """
    return _ask("GET", url, CA_CERTS, _context(ca_file), ca_file, "name its authorities", None, {})


def simple_enroll(url: str, ca_file: Path, user: str, token: str, request: bytes) -> list[x509.Certificate]:
    """Send a certificate request (DER) with `user` and `token`; the certificates that come back, unchecked.

    The server must prove the host of `url` by a certificate of an authority in `ca_file`; no other is
    trusted. Redirections are not followed. Raises EnrolmentFailed.
    """
    credentials = base64.b64encode(f"{user}:{token}".encode()).decode()
    more = {"Authorization": f"Basic {credentials}"}
    return _post(url, SIMPLE_ENROLL, _context(ca_file), ca_file, f"enrol {user}", request, more)


def simple_reenroll(
    url: str, ca_file: Path, certificate: Path, key: Path, request: bytes
) -> list[x509.Certificate]:
    """Send a certificate request (DER) over the certificate that this sensor has; what comes back, unchecked.

    The server is checked as by `simple_enroll`. Raises EnrolmentFailed.
    """
    context = _context(ca_file)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise EnrolmentFailed(
            f"{certificate} with {key}: cannot be shown to the hub: {_why(error)}"
        ) from None
    return _post(url, SIMPLE_REENROLL, context, ca_file, "renew the certificate", request, {})


def _post(
    url: str,
    resource: str,
    context: ssl.SSLContext,
    ca_file: Path,
    what: str,
    request: bytes,
    more: Mapping[str, str],
) -> list[x509.Certificate]:
    headers = {**more, "Content-Type": "application/pkcs10", "Content-Transfer-Encoding": "base64"}
    return _ask("POST", url, resource, context, ca_file, what, base64.encodebytes(request), headers)


def _ask(
    method: str,
    url: str,
    resource: str,
    context: ssl.SSLContext,
    ca_file: Path,
    what: str,
    request: bytes | None,
    headers: Mapping[str, str],
) -> list[x509.Certificate]:
    connection = _connection(url, context)
    try:
        connection.request(method, resource, request, {**headers, "Accept": CERTS_ONLY})
        with connection.getresponse() as response:
            body = response.read(MAX_ANSWER + 1)
    except ssl.SSLCertVerificationError as error:
        raise EnrolmentFailed(
            f"{url}: the server does not prove that it is the hub ({error.verify_message}): compare"
            f" uplink.ca, {ca_file}, with the bundle, and look at this host's clock"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise EnrolmentFailed(f"{url}: cannot be asked: {_why(error)}") from None
    finally:
        connection.close()
    if response.status != http.client.OK:
        sentence = printable(body.decode(errors="replace").strip(), MAX_SENTENCE)
        raise EnrolmentRefused(f"the hub refused to {what} (status {response.status}): {sentence}")
    if len(body) > MAX_ANSWER or response.headers.get_content_type() != CERTS_ONLY:
        raise EnrolmentFailed(
            f"{url}: the answer is no {CERTS_ONLY} message: is this the hub's enrolment port?"
        )
    try:
        return decode_certs_only(base64.b64decode(b"".join(body.split()), validate=True))
    except (binascii.Error, IdentityError):
        raise EnrolmentFailed(f"{url}: the certificates in the answer cannot be read") from None


def _connection(url: str, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    """A connection to the hub, through the proxy that the environment names for it (CONNECT).

    TLS is with the hub itself, so that the proxy reads nothing. Raises EnrolmentFailed.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or http.client.HTTPS_PORT
    proxy = None if proxy_bypass(f"{host}:{port}") else getproxies().get("https")
    if proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    via = urlsplit(proxy)
    if via.scheme != "http" or not via.hostname:
        raise EnrolmentFailed(
            f"{url}: the proxy in the environment cannot be used: https_proxy must be http://HOST:PORT"
        )
    headers = {}
    if via.username is not None:
        credentials = f"{unquote(via.username)}:{unquote(via.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    connection = http.client.HTTPSConnection(
        via.hostname, via.port or http.client.HTTP_PORT, timeout=TIMEOUT, context=context
    )
    connection.set_tunnel(host, port, headers)
    return connection


def _context(ca_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        raise EnrolmentFailed(f"{ca_file}: no certificate of the hub's authority: {_why(error)}") from None
    return context


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:.0f} s"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__
