"""The door of ingest: TLS, admission, and the sessions that are live."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aiohttp import web
from cryptography import x509

from sie_core.errors import IdentityError, IdentityRefused
from sie_core.identity import certificates_from_pem, check_peer
from sie_core.limits import MAX_CONTROL, MAX_DATA_MESSAGE
from sie_core.settings import Config, ConfigError, ListenAddress
from sie_hub import log
from sie_hub.config import credential
from sie_hub.connections import IDLE_TIMEOUT, noting_requests
from sie_hub.garbage import counted_garbage
from sie_hub.ingest.admission import (
    FORBIDDEN,
    TOO_MANY,
    UNAUTHORIZED,
    Admitted,
    Refused,
    admit_again,
    admit_key,
    admit_sensor,
)
from sie_hub.ingest.budget import Budget
from sie_hub.ingest.ledger import Ledger
from sie_hub.ingest.metrics import Metrics
from sie_hub.ingest.probe_door import ProbeDoor
from sie_hub.ingest.quota import Quotas
from sie_hub.ingest.session import CLOSE_TIMEOUT, Session
from sie_hub.nats_link import Link
from sie_hub.registry import Registry
from sie_hub.streams import MAX_MESSAGE
from sie_hub.tls import TlsSite, server_context
from sie_hub.unit import UnitFailed

REVIEW_INTERVAL: Final = 1.0  # seconds between two looks at whether live sessions may stay
ALL_WAITING_OCTETS: Final = 256 << 20
"""Containers that wait to be stored in all sessions together: of 500 sensors, one of 512 KiB each."""

LARGEST_OF_UPLOAD: Final = MAX_MESSAGE + MAX_CONTROL
"""What a message of version 1 is read to: a container that can be stored, and the fields around it."""

MAX_SESSIONS: Final = 16
"""Of one sensor or upload at a time, those included that are being closed: each may hold two messages in
memory that are not counted as waiting, 256 MiB together. A sensor has one, a relay one for each of its
outputs."""

DRAIN_TIMEOUT: Final = 5.0  # seconds for live sessions to finish in order when ingest is stopped

_log = logging.getLogger(__name__)
_http_log = logging.getLogger("sie_hub.ingest.http")


class Server:
    """Listens, admits, and keeps the live sessions."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        link: Link,
        metrics: Metrics,
        ledger: Ledger,
        quotas: Quotas,
    ) -> None:
        self._exchange: str = config["exchange"]
        self._max_frame: int = config["ingest.max_frame"]
        self._listen: Sequence[ListenAddress] = config["ingest.listen"]
        self._registry = registry
        self._link = link
        self._metrics = metrics
        self._ledger = ledger
        self._quotas = quotas
        self._probes = ProbeDoor(link, config["probe.zone"])
        self._authorities = _authorities(config["ca.certificate"])
        self._context = server_context(
            config["ingest.certificate"],
            credential("tls_key", config["ingest.key"]),
            client_authorities=config["ca.certificate"],
        )
        self._sessions: dict[int, Session] = {}
        self._newest: dict[tuple[str, str], Session] = {}  # of each identity of version 2
        self._open_of: Counter[tuple[str, str]] = Counter()  # sessions of each sensor and upload
        self._opened = 0
        self._budget = Budget(ALL_WAITING_OCTETS)
        metrics.waiting.set_function(lambda: float(self._budget.taken))
        self._runner: web.AppRunner | None = None
        self._counting = ExitStack()
        self._refusals = log.Limited(_log, "sessions refused")
        self.addresses: tuple[str, ...] = ()

    async def start(self) -> None:
        """Listen on every address. Raises UnitFailed when one cannot be had."""
        self._counting.enter_context(counted_garbage(_http_log, lambda: self._count("not_http")))
        application = web.Application(middlewares=[noting_requests])
        application.router.add_get("/session/{name}", self._open)
        application.router.add_get("/probe", self._probe)
        application.router.add_get("/probe/{nonce}", self._probe)
        application.router.add_route("*", "/{path:.*}", self._not_found)
        runner = web.AppRunner(
            application,
            access_log=None,
            logger=_http_log,
            handle_signals=False,
            shutdown_timeout=CLOSE_TIMEOUT,
            keepalive_timeout=IDLE_TIMEOUT,
        )
        await runner.setup()
        self._runner = runner
        sites = []
        for address in self._listen:
            site = TlsSite(runner, address.host, address.port, self._context, self._count)
            try:
                await site.start()
            except OSError as error:
                await runner.cleanup()
                raise UnitFailed(f"cannot listen on {address}: {error.strerror}") from None
            sites.append(site.name)
        self.addresses = tuple(sites)

    def review(self) -> None:
        """End the sessions of peers that may not stay, by the registry and the clock as they are now."""
        now = datetime.now(UTC)
        for session in list(self._sessions.values()):
            try:
                session.admitted = admit_again(session.admitted, self._registry, now)
            except Refused as refused:
                session.end(f"refused_{refused.reason}", refused.sentence)

    async def stop(self) -> None:
        """Stop listening; let live sessions finish, then cut them."""
        if self._runner is None:
            return
        for site in list(self._runner.sites):
            await site.stop()
        for session in self._sessions.values():
            session.stop()
        over = [asyncio.create_task(session.over.wait()) for session in self._sessions.values()]
        if over:
            _done, late = await asyncio.wait(over, timeout=DRAIN_TIMEOUT)
            for task in late:
                task.cancel()
        for session in list(self._sessions.values()):
            session.end("stopping", "the hub is stopping: try again later")
        await self._runner.cleanup()
        self._counting.close()

    async def _open(self, request: web.Request) -> web.StreamResponse:
        """GET /session/{name}: a session, or a refusal with its reason."""
        try:
            admitted = self._admit(request)
            self._check_room(admitted)
        except Refused as refused:
            return self._refuse(request, refused)
        websocket = web.WebSocketResponse(
            timeout=CLOSE_TIMEOUT, compress=False, max_msg_size=self._largest(admitted), autoping=False
        )
        if not websocket.can_prepare(request).ok:
            self._count("not_websocket")
            answer = _answer(426, "this address speaks the trampoline protocol, over a WebSocket")
            answer.headers["Upgrade"] = "websocket"
            return answer
        self._open_of[admitted.participant, admitted.name] += 1
        try:
            await websocket.prepare(request)
            self._count("accepted")
            await self._serve(admitted, websocket, request)
        finally:
            self._open_of -= Counter([(admitted.participant, admitted.name)])
        return websocket

    def _check_room(self, admitted: Admitted) -> None:
        """Refuse one session more than a sensor or upload may have."""
        count = self._open_of[admitted.participant, admitted.name]
        if count >= MAX_SESSIONS:
            who = f"{admitted.participant}/{admitted.name}"
            raise Refused("sessions", TOO_MANY, f"{who} has {count} sessions open already: close some first")

    def _largest(self, admitted: Admitted) -> int:
        """Octets from which on a message of a peer is not read any further, in however many frames."""
        if admitted.version == 1:
            return min(self._max_frame, LARGEST_OF_UPLOAD)
        return min(self._max_frame, MAX_DATA_MESSAGE + 1)

    async def _probe(self, request: web.Request) -> web.StreamResponse:
        """GET /probe/{nonce}: whether this sensor's probe is here. GET /probe: in which zone to make one."""
        try:
            admitted = self._admit(request)
        except Refused as refused:
            return self._refuse(request, refused)
        self._count("probe")
        reply = await self._probes.answer(admitted, request.match_info.get("nonce"))
        self._metrics.probe_questions.labels(reply.outcome).inc()
        return web.json_response(reply.document, status=reply.status)

    def _refuse(self, request: web.Request, refused: Refused) -> web.Response:
        self._count(f"refused_{refused.reason}")
        self._refusals.event(
            logging.WARNING,
            "session refused",
            peer=request.remote,
            reason=refused.reason,
            text=refused.sentence,
        )
        return _answer(refused.status, refused.sentence)

    def _admit(self, request: web.Request) -> Admitted:
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport is not None else None
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        key = request.headers.get("X-API-Key")
        now = datetime.now(UTC)
        if der is not None and key is not None:
            raise Refused("two_credentials", FORBIDDEN, "a certificate and an API key: show one of them")
        if key is not None:
            return admit_key(key, self._registry, now)
        if der is None:
            raise Refused(
                "no_credential", UNAUTHORIZED, "no certificate and no API key: enrol the sensor first"
            )
        try:
            peer = check_peer(der, authorities=self._authorities, exchange=self._exchange, now=now)
        except IdentityRefused as refused:
            raise Refused(refused.reason.value, FORBIDDEN, str(refused)) from None
        return admit_sensor(peer, self._registry, now)

    async def _serve(
        self, admitted: Admitted, websocket: web.WebSocketResponse, request: web.Request
    ) -> None:
        self._opened += 1
        session = Session(
            self._opened,
            admitted,
            websocket,
            self._link,
            self._metrics,
            self._budget,
            self._ledger,
            self._quotas,
        )
        older = None
        identity = (admitted.participant, admitted.name)
        if admitted.version == 2:
            older = self._newest.get(identity)
            self._newest[identity] = session
        if older is not None:
            older.end("superseded", "another session of this sensor was opened")
        self._sessions[session.number] = session
        log.event(
            _log,
            logging.INFO,
            "session opened",
            session=session.number,
            participant=admitted.participant,
            sensor=admitted.name,
            version=admitted.version,
            peer=request.remote,
            certificate=admitted.certificate.serial if admitted.certificate is not None else None,
        )
        try:
            with self._metrics.sessions.labels(str(admitted.version)).track_inprogress():
                await session.run(older, _abort(request))
        finally:
            del self._sessions[session.number]
            if self._newest.get(identity) is session:
                del self._newest[identity]

    async def _not_found(self, _request: web.Request) -> web.Response:
        self._count("not_found")
        return _answer(404, "there is nothing here; sensors open /session/NAME and ask /probe")

    def _count(self, outcome: str) -> None:
        self._metrics.connections.labels(outcome).inc()


def _authorities(path: Path) -> list[x509.Certificate]:
    try:
        return certificates_from_pem(path.read_bytes())
    except OSError as error:
        raise ConfigError([f"{path}: the CA's certificate cannot be read: {error.strerror}"]) from None
    except IdentityError as error:
        raise ConfigError([f"{path}: {error}"]) from None


def _answer(status: int, sentence: str) -> web.Response:
    answer = web.Response(status=status, text=f"{sentence}\n")
    answer.force_close()
    return answer


def _abort(request: web.Request) -> Callable[[], None]:
    transport = request.transport

    def abort() -> None:
        if transport is not None:
            transport.abort()

    return abort
