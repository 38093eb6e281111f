"""Keeps this sensor's certificate fresh: a new key and certificate at two thirds of the old one's life.

The old certificate opens the hub until the new one is in place and a session under it has taken over, so that
nothing is refused between. A hub that is away is asked again and again; also a certificate that has expired
meanwhile still opens `simplereenroll`, for as long as the hub's grace lasts. What a person or a playbook
installs while the agent runs is taken up in the same way.
"""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sie_agent.apart import apart
from sie_agent.backoff import Backoff
from sie_agent.config import AgentConfig
from sie_agent.enrolment import renew
from sie_agent.errors import AgentError
from sie_agent.est import EnrolmentRefused
from sie_agent.identity_files import IdentityFiles, Lifetime
from sie_agent.status import IdentityStatus

SHARE: Final = 2 / 3
"""The share of its life after which a certificate is renewed: ten of thirty days are left to a hub that is
away."""

JITTER: Final = 1 / 30
"""The share of its life over which sensors that enrolled together spread their renewals: a day of thirty."""

RETRY_MIN: Final = 60.0
RETRY_MAX: Final = 6 * 3600.0
"""Seconds between attempts while there is no new certificate: forty times in the ten days that are left."""

POLL: Final = 5.0
"""Seconds between looks at the files, for what somebody else has installed."""

_log = logging.getLogger(__name__)


@dataclass
class RenewalCounts:
    """What renewing came to since the program started; `last_error` is None while all is well."""

    renewed: int = 0
    refused: int = 0
    failed: int = 0
    last_error: str | None = None


def due(life: Lifetime, jitter: float) -> datetime:
    """When a certificate is to be renewed; `jitter` in [0, 1) says where in the spread."""
    return life.not_before + (life.not_after - life.not_before) * (SHARE + JITTER * jitter)


class Renewal:
    """Renews in the event loop's background until cancelled.

    `config` gives the configuration as it is now. `changed` is awaited whenever there is another certificate
    than before: the session begins anew with it.
    """

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        changed: Callable[[], Awaitable[None]],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.counts = RenewalCounts()
        self.life: Lifetime | None = None
        """Of the certificate that is in place, None while there is none."""
        self._config = config
        self._changed = changed
        self._clock = clock
        self._jitter = jitter()
        self._backoff = Backoff(RETRY_MIN, RETRY_MAX, jitter)
        self._not_before = datetime.min.replace(tzinfo=UTC)

    def status(self) -> IdentityStatus:
        """For the status document. May be called from any thread."""
        life = self.life
        return IdentityStatus(
            serial=None if life is None else life.serial,
            not_after=None if life is None else life.not_after.timestamp(),
            **asdict(self.counts),
        )

    async def run(self) -> None:
        """Look at the files every now and then, and renew when it is time."""
        while True:
            await self._look()
            if self.life is not None and self._clock() >= max(due(self.life, self._jitter), self._not_before):
                await self._attempt()
            await asyncio.sleep(POLL)

    async def _look(self) -> None:
        """Take notice of the certificate that is in place."""
        files = IdentityFiles(self._config().identity_directory)
        try:
            life = await asyncio.to_thread(files.lifetime)
        except AgentError as error:
            self._tell(str(error))
            return
        before, self.life = self.life, life
        if before is not None and life is not None and life.serial != before.serial:
            self._backoff.reset()
            self._not_before = life.not_before
            _log.info("certificate %s is in place, good until %s", life.serial, life.not_after.isoformat())
            await self._changed()

    async def _attempt(self) -> None:
        try:
            done = await apart(renew, self._config(), clock=self._clock, random=os.urandom)
        except EnrolmentRefused as refused:
            self.counts.refused += 1
            self._fail(refused)
        except AgentError as error:
            self.counts.failed += 1
            self._fail(error)
        else:
            self.counts.renewed += 1
            self.counts.last_error = None
            _log.info("renewed: this sensor's key is %s now", done.standing.fingerprint)
            await self._look()

    def _fail(self, error: AgentError) -> None:
        pause = self._backoff.pause()
        self._not_before = self._clock() + timedelta(seconds=pause)
        self._tell(f"{error}; trying again every {RETRY_MIN:.0f} to {RETRY_MAX:.0f} s")

    def _tell(self, text: str) -> None:
        if text != self.counts.last_error:
            _log.error("this sensor's certificate is not renewed: %s", text)
        self.counts.last_error = text
