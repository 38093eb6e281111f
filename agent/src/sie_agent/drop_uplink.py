"""The uplink where an estate lets only SSH out: the same loop of attempts and pauses, into the hub's drop."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import paramiko

from sie_agent.apart import apart
from sie_agent.config import AgentConfig
from sie_agent.drop import Drop
from sie_agent.drop_session import DropSession
from sie_agent.identity_files import IdentityFilesError
from sie_agent.refusal import Ended, Failure, Refused, explain
from sie_agent.spool import Spool
from sie_agent.ssh_key import SshKey, next_ssh_key, ssh_key, take_next_ssh_key
from sie_agent.uplink import State, Uplink
from sie_core.trampoline import printable

REFUSED_PAUSE: Final = 6.0
"""Seconds at least between two logins with a key that is not taken. OpenSSH bars an address for a while once
its refused logins, of 5 s each, come to 15 s (sshd_config(5), PerSourcePenalties); so they never do."""

_log = logging.getLogger(__name__)


class DropUplink(Uplink):
    """Carries the spool into the drop until told to stop. Lives in one event loop."""

    def __init__(
        self,
        config: AgentConfig,
        spool: Spool,
        accounts: Callable[[], Mapping[str, int]],
        progressed: Callable[[], None],
    ) -> None:
        super().__init__(config, spool, accounts, progressed)
        self._key: SshKey | None = None
        self._next: SshKey | None = None
        self._told: str | None = None  # the next key of which was said that the hub does not take it yet

    def _ways(self) -> tuple[str, ...]:
        return (str(self._config.drop),)

    def _ready(self) -> bool:
        known = self._key
        try:
            self._key = ssh_key(self._config.identity_directory)
            self._next = next_ssh_key(self._config.identity_directory)
        except IdentityFilesError as error:
            self._without_identity(str(error))
            return False
        if known is None:
            _log.info("this sensor's SSH key is %s: %s", self._key.fingerprint, self._key.public)
        return True

    async def _round(self) -> float:
        pause = await super()._round()
        return max(pause, REFUSED_PAUSE) if pause and self.state is State.REFUSED else pause

    async def _attempt(self, way: str) -> None:
        self._begin(way)
        drop: Drop | None = None
        offering: asyncio.Task[None] | None = None
        try:
            assert self._key is not None
            # The next key comes first: a hub that has it may have ended the one before.
            drop = await self._open([key for key in (self._next, self._key) if key is not None])
            if drop.key == self._next:
                await self._take_next()
            config = self._config
            session = DropSession(
                drop, self._spool, self, window=config.window, window_bytes=config.window_bytes
            )
            offering = asyncio.create_task(self._offer())
            await self._carry(session)
        except (Refused, Ended, paramiko.SSHException, EOFError, OSError) as error:
            self._failed(_why(error))
        finally:
            if offering is not None:
                offering.cancel()
            if drop is not None:
                drop.close()

    async def _open(self, keys: list[SshKey]) -> Drop:
        config = self._config
        assert config.drop is not None
        return await apart(Drop, config.drop, keys, config.known_hosts, config.channel)

    async def _offer(self) -> None:
        """While a session goes on: offer a key that waits beside it, until the hub takes it."""
        while True:
            await asyncio.sleep(max(self._config.retry_max, REFUSED_PAUSE))
            with suppress(IdentityFilesError):  # said by whoever needs the file, at the next connection
                self._next = next_ssh_key(self._config.identity_directory)
            if self._next is None:
                continue
            try:
                drop = await self._open([self._next])
            except (Refused, Ended, paramiko.SSHException, EOFError, OSError) as error:
                if self._told != self._next.public:
                    self._told = self._next.public
                    _log.info("the next SSH key waits: %s", _why(error).text)
                continue
            drop.close()
            await self._take_next()
            await self._leave("to come back with another SSH key")
            return

    async def _take_next(self) -> None:
        self._key = await asyncio.to_thread(take_next_ssh_key, self._config.identity_directory)
        self._next = None
        _log.info("the hub takes the SSH key %s: the one before can be ended there", self._key.fingerprint)


def _why(error: Exception) -> Failure:
    if isinstance(error, (socket.timeout, TimeoutError)):
        return Failure(False, "no answer in time")
    if isinstance(error, paramiko.SSHException):
        return Failure(False, f"the SSH connection was lost: {printable(str(error), 200)}")
    if isinstance(error, PermissionError):
        return Failure(False, "the drop does not let this sensor do that: tell the hub's operator")
    if isinstance(error, OSError) and error.errno is None:
        return Failure(False, f"the drop says: {printable(str(error), 200)}; its disk may be full")
    return explain(error)
