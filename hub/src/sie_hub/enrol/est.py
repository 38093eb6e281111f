"""EST (RFC 7030) over aiohttp: `cacerts`, `simpleenroll` and `simplereenroll`.

To enrol, a client authenticates by HTTP Basic (RFC 7617), `participant/sensor` and its token, inside TLS that
proves the server alone; to renew, by its certificate in TLS. Certificates travel as certs-only PKCS #7 in
base64; every refusal is one sentence of text.
"""

import asyncio
import base64
import binascii
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from cryptography import x509
from prometheus_client import CollectorRegistry, Counter

from sie_core import limits
from sie_core.identity import Identity, encode_certs_only, serial_text
from sie_hub import log
from sie_hub.connections import noting_requests
from sie_hub.enrol.issuing import REFUSALS, Enrolled, Enroller, EnrolmentRefused
from sie_hub.enrol.state import StateError
from sie_hub.tls import OUTCOMES as TLS_OUTCOMES

WELL_KNOWN: Final = "/.well-known/est"
CERTS_ONLY: Final = "application/pkcs7-mime; smime-type=certs-only"
REQUEST_TYPE: Final = "application/pkcs10"

BODY_TIMEOUT: Final = 30.0
"""Seconds for the body of a request, which is half a KiB."""

OUTCOMES: Final = (
    "enrolled",
    "enrolled_again",
    "renewed",
    "renewed_again",
    "authorities",
    "standing",
    "not_found",
    "not_http",
    "failed",
    *(f"refused_{reason}" for reason in REFUSALS),
    *TLS_OUTCOMES,
)
"""What became of a connection or request: exactly one each."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Metrics:
    """What enrol counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "sie_hub_enrol_requests",
            "Connections and requests by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self.alarms = Counter(
            "sie_hub_enrol_alarms",
            "Tokens and certificates that were used for a second key. Each is an alarm.",
            registry=registry,
        )
        for outcome in OUTCOMES:
            self.requests.labels(outcome)

    def count(self, outcome: str) -> None:
        """Count one connection or request."""
        self.requests.labels(outcome).inc()


class Est:
    """The resources of EST that enrol serves."""

    def __init__(self, enroller: Enroller, authorities: Iterable[x509.Certificate], metrics: Metrics) -> None:
        self._enroller = enroller
        self._authorities = _encoded(authorities)
        self._metrics = metrics
        self._refusals = log.Limited(_log, "enrolments refused or failed")

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(
            client_max_size=limits.MAX_REQUEST, middlewares=[noting_requests, _one_sentence(self._metrics)]
        )
        application.on_response_prepare.append(_anonymous)
        application.router.add_get(f"{WELL_KNOWN}/cacerts", self.cacerts)
        application.router.add_get(f"{WELL_KNOWN}/simpleenroll", self.standing, allow_head=False)
        application.router.add_post(f"{WELL_KNOWN}/simpleenroll", self.simpleenroll)
        application.router.add_post(f"{WELL_KNOWN}/simplereenroll", self.simplereenroll)
        return application

    async def cacerts(self, _request: web.Request) -> web.Response:
        """RFC 7030, 4.1: the CA's certificate. Who does not trust it already learns nothing from it that
        can be trusted."""
        self._metrics.count("authorities")
        return _certificates(self._authorities)

    async def standing(self, request: web.Request) -> web.Response:
        """Beyond RFC 7030: whether `simpleenroll` would take this token now, before anything is installed
        that would have to be taken away again. 204 if so."""

        async def ask() -> Identity:
            return await asyncio.to_thread(self._enroller.standing, *_credentials(request))

        asked = await self._granted(request, ask)
        if isinstance(asked, web.Response):
            return asked
        self._metrics.count("standing")
        return web.Response(status=web.HTTPNoContent.status_code)

    async def simpleenroll(self, request: web.Request) -> web.Response:
        """RFC 7030, 4.2: a certificate for a request and a token."""

        async def issue() -> Enrolled:
            user, token = _credentials(request)
            der = await _body(request)
            return await asyncio.to_thread(self._enroller.enrol, user, token, der)

        return await self._answer(request, "enrolled", issue)

    async def simplereenroll(self, request: web.Request) -> web.Response:
        """RFC 7030, 4.2.2: a new certificate for a request and the certificate that the client has shown."""
        shown = _shown(request)

        async def issue() -> Enrolled:
            der = await _body(request)
            return await asyncio.to_thread(self._enroller.renew, shown, der)

        return await self._answer(request, "renewed", issue)

    async def _answer(
        self, request: web.Request, done: str, issue: Callable[[], Awaitable[Enrolled]]
    ) -> web.Response:
        """What `issue` gives, counted and logged as `done`, or the reason why there is no certificate."""
        enrolled = await self._granted(request, issue)
        if isinstance(enrolled, web.Response):
            return enrolled
        self._metrics.count(f"{done}_again" if enrolled.again else done)
        log.event(
            _log,
            logging.INFO,
            f"{done} again" if enrolled.again else done,
            peer=request.remote,
            participant=enrolled.identity.participant,
            sensor=enrolled.identity.sensor,
            key=enrolled.fingerprint,
            serial=serial_text(enrolled.certificate),
            expires=enrolled.certificate.not_valid_after_utc.isoformat(),
            by=enrolled.by,
        )
        return _certificates(_encoded([enrolled.certificate]))

    async def _granted(self, request: web.Request, ask: Callable[[], Awaitable[_T]]) -> _T | web.Response:
        """What `ask` gives, or the answer that says why it gives nothing, counted and logged."""
        try:
            return await ask()
        except EnrolmentRefused as refused:
            return self._refuse(request, refused)
        except StateError as error:
            self._metrics.count("failed")
            self._refusals.event(logging.ERROR, f"cannot enrol: {error}", peer=request.remote)
            return _sentence(500, "the hub cannot enrol sensors now: try again later")

    def _refuse(self, request: web.Request, refused: EnrolmentRefused) -> web.Response:
        self._metrics.count(f"refused_{refused.reason}")
        said = {"peer": request.remote, "reason": refused.reason, "text": str(refused)}
        if refused.alarm is None:
            self._refusals.event(logging.WARNING, "enrolment refused", **said)
        else:
            # Only who holds a token or a certificate can cause it, so that the log bears every one.
            self._metrics.alarms.inc()
            log.event(_log, logging.CRITICAL, f"ALARM: {refused.alarm}", **said)
        response = _sentence(refused.status, str(refused))
        if refused.status == web.HTTPUnauthorized.status_code:
            response.headers[hdrs.WWW_AUTHENTICATE] = 'Basic realm="enrolment", charset="UTF-8"'
        return response


def _credentials(request: web.Request) -> tuple[str, str]:
    """User and password of HTTP Basic."""
    scheme, _, encoded = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError(scheme)
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        if not colon or not password:
            raise ValueError(colon)
    except ValueError:
        raise EnrolmentRefused(
            "no_credentials", "give PARTICIPANT/SENSOR and the token by HTTP Basic authentication"
        ) from None
    return user, password


def _shown(request: web.Request) -> bytes | None:
    """The client's certificate in DER, None if it has shown none."""
    tls: ssl.SSLObject | None = request.get_extra_info("ssl_object")
    return None if tls is None else tls.getpeercert(binary_form=True)


async def _body(request: web.Request) -> bytes:
    """The request in DER. Line breaks are taken wherever a client puts them (RFC 8951, section 3.1)."""
    if request.content_type != REQUEST_TYPE:
        raise EnrolmentRefused("bad_request", f"the content type must be {REQUEST_TYPE}")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            text = await request.read()
        return base64.b64decode(b"".join(text.split()), validate=True)
    except web.HTTPRequestEntityTooLarge:
        raise EnrolmentRefused(
            "bad_request", f"a request is no larger than {limits.MAX_REQUEST} octets"
        ) from None
    except TimeoutError:
        raise EnrolmentRefused(
            "bad_request", f"the request did not arrive within {BODY_TIMEOUT:.0f} s"
        ) from None
    except binascii.Error:
        raise EnrolmentRefused("bad_request", "the certificate request must be sent in base64") from None


def _encoded(certificates: Iterable[x509.Certificate]) -> bytes:
    return base64.encodebytes(encode_certs_only(certificates))


def _certificates(encoded: bytes) -> web.Response:
    return web.Response(
        body=encoded, headers={hdrs.CONTENT_TYPE: CERTS_ONLY, "Content-Transfer-Encoding": "base64"}
    )


def _sentence(status: int, text: str) -> web.Response:
    response = web.Response(status=status, text=f"{text}\n")
    response.force_close()
    return response


async def _anonymous(_request: web.Request, response: web.StreamResponse) -> None:
    """Who asks need not know what the hub is built of."""
    response.headers[hdrs.SERVER] = "sie-hub"


def _one_sentence(metrics: Metrics) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            metrics.count("not_found")
            response = _sentence(error.status, f"{error.reason}: this address speaks EST under {WELL_KNOWN}/")
            if hdrs.ALLOW in error.headers:
                response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
            return response

    return middleware
