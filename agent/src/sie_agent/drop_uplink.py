"""The uplink where an estate lets only SSH out: the same loop of attempts and pauses, into the hub's drop."""

import logging
import socket
from collections.abc import Callable, Mapping

import paramiko

from sie_agent.apart import apart
from sie_agent.config import AgentConfig
from sie_agent.drop import Drop
from sie_agent.drop_session import DropSession
from sie_agent.identity_files import IdentityFilesError
from sie_agent.refusal import Ended, Failure, Refused, explain
from sie_agent.spool import Spool
from sie_agent.ssh_key import SshKey, ssh_key
from sie_agent.uplink import Uplink
from sie_core.trampoline import printable

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

    def _ways(self) -> tuple[str, ...]:
        return (str(self._config.drop),)

    def _ready(self) -> bool:
        known = self._key
        try:
            self._key = ssh_key(self._config.identity_directory)
        except IdentityFilesError as error:
            self._without_identity(str(error))
            return False
        if known is None:
            _log.info("this sensor's SSH key is %s: %s", self._key.fingerprint, self._key.public)
        return True

    async def _attempt(self, way: str) -> None:
        self._begin(way)
        config = self._config
        assert config.drop is not None
        assert self._key is not None
        drop: Drop | None = None
        try:
            drop = await apart(Drop, config.drop, self._key, config.known_hosts, config.channel)
            session = DropSession(
                drop, self._spool, self, window=config.window, window_bytes=config.window_bytes
            )
            await self._carry(session)
        except (Refused, Ended, paramiko.SSHException, EOFError, OSError) as error:
            self._failed(_why(error))
        finally:
            if drop is not None:
                drop.close()


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
