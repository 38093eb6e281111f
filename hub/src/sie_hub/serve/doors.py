"""The addresses on which readers are answered: HTTPS, or plain HTTP where nobody but this host can listen."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from aiohttp import web

from sie_core.settings import Config, ListenAddress
from sie_hub.config import credential
from sie_hub.garbage import counted_garbage
from sie_hub.serve.api import Api
from sie_hub.serve.metrics import Metrics
from sie_hub.tls import TlsSite, server_context
from sie_hub.unit import UnitFailed

DRAIN_TIMEOUT: Final = 2.0
"""Seconds for answers that are under way when the unit stops; a reader asks again."""

_http_log = logging.getLogger("sie_hub.serve.http")


class Doors:
    """Every address of `serve.listen`."""

    def __init__(self, config: Config, api: Api, metrics: Metrics) -> None:
        """Raises ConfigError when the certificate or its key cannot be used."""
        self._listen: Sequence[ListenAddress] = config["serve.listen"]
        self._context = None
        if config["serve.certificate"] is not None:
            self._context = server_context(
                config["serve.certificate"], credential("tls_key", config["serve.key"])
            )
        elif exposed := [str(address) for address in self._listen if not address.loopback]:
            # The configuration's own check says so too; keys must not cross a network in the clear by any
            # mistake.
            raise UnitFailed(f"{', '.join(exposed)}: not loopback, and there is no serve.certificate")
        self._metrics = metrics
        self._runner = web.ServerRunner(
            api.server(_http_log), handle_signals=False, shutdown_timeout=DRAIN_TIMEOUT
        )
        self._counting = ExitStack()
        self.addresses: tuple[str, ...] = ()

    async def open(self) -> None:
        """Listen on every address. Raises UnitFailed when one cannot be had."""
        # aiohttp logs the first line of a request that it cannot read, and that line may hold a name.
        self._counting.enter_context(
            counted_garbage(_http_log, lambda: self._metrics.count_request("not_http"), nothing_else=True)
        )
        await self._runner.setup()
        for address in self._listen:
            try:
                self.addresses += (await self._open(address),)
            except OSError as error:
                await self.close()
                raise UnitFailed(f"cannot listen on {address}: {error.strerror}") from None

    async def close(self) -> None:
        """Stop listening; what is being answered gets a moment to finish."""
        await self._runner.cleanup()
        self._counting.close()

    async def _open(self, address: ListenAddress) -> str:
        if self._context is None:
            plain = web.TCPSite(self._runner, address.host, address.port)
            await plain.start()
            return plain.name
        site = TlsSite(self._runner, address.host, address.port, self._context, self._metrics.count_request)
        await site.start()
        return site.name
