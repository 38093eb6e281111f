"""`sie-agent run`: the parts put together, started, watched and stopped in order."""

import argparse
import asyncio
import dataclasses
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from sie_agent import log
from sie_agent.capture import Capture, SpoolWriter
from sie_agent.cli import EXIT_OK, add_config_argument
from sie_agent.config import FIXED, AgentConfig, load_config
from sie_agent.discovery import resolver_addresses
from sie_agent.dnstap import DnstapSockets
from sie_agent.errors import AgentError, SpoolError
from sie_agent.metrics import MetricsServer
from sie_agent.recording import reconfigure, recorder_of, settings_of
from sie_agent.renewal import Renewal
from sie_agent.sources import Interfaces, Source
from sie_agent.spool import LOOK_INTERVAL, Spool, open_spool
from sie_agent.stages import fates
from sie_agent.status import LostStatus, Status, UplinkStatus, describe
from sie_agent.uplink import uplink_of
from sie_core import __version__
from sie_core.cycles import collect_seldom
from sie_core.kinds import ConfigError
from sie_core.systemd import Notifier

CAPTURE_STALL: Final = 10.0
"""Seconds without a turn of the capture thread after which the watchdog is no longer fed: fifty turns."""

UPLINK_STALL: Final = 60.0
"""Seconds without a turn of the uplink: it turns every second in a session and in a pause, and an attempt
ends after 15.
"""

STATUS_INTERVAL: Final = 1.0
"""Seconds between looks at the parts."""

_log = logging.getLogger(__name__)


class Agent:
    """The running parts of an agent, and what they say about themselves."""

    def __init__(self, config: AgentConfig, spool: Spool) -> None:
        """To be made in the event loop that the uplink shall live in. Raises AgentError."""
        self.config = config
        """What the agent goes by."""
        self._spool = spool
        self._resolvers = resolvers = resolver_addresses(config.resolvers)
        self._recorder = recorder_of(resolvers, settings_of(config))
        self._interfaces = Interfaces(config.interfaces, resolvers) if config.interfaces else None
        self._dnstap = DnstapSockets(config.dnstap) if config.dnstap else None
        sources: list[Source] = [source for source in (self._interfaces, self._dnstap) if source is not None]
        self.writer = SpoolWriter(spool)
        self.capture = Capture(self._recorder, sources, self.writer.offer)
        self.uplink = uplink_of(config)(config, spool, self.accounts, self._uplink_progressed)
        self.renewal = Renewal(lambda: self.config, self.uplink.renew)
        self._uplink_progressed_at = time.monotonic()

    def status(self) -> Status:
        """The status document. May be called from any thread."""
        interfaces = [] if self._interfaces is None else self._interfaces.statuses()
        sources = tuple(dataclasses.asdict(source) for source in interfaces)
        lost = self.writer.lost
        uplink = self.uplink
        return describe(
            self.config,
            self._spool.stream,
            self._spool.ledger,
            running=True,
            in_flight=uplink.in_flight,
            lost=LostStatus(lost.queue, lost.disk),
            uplink=UplinkStatus(
                state=uplink.state.value,
                hub=uplink.hub,
                last_error=uplink.last_error,
                **dataclasses.asdict(uplink.counts),
            ),
            identity=self.renewal.status(),
            sources=sources,
            kernel_drops=sum(source["kernel_drops"] for source in sources),
            dnstap=None if self._dnstap is None else self._dnstap.status(),
            counters={
                **self.capture.counters,
                **({} if self._dnstap is None else self._dnstap.counters()),
            },
        )

    def accounts(self) -> Mapping[str, int]:
        """The counters for the hub's ledger."""
        status = self.status()
        return {
            **status.counters,
            "captured": status.captured,
            "acknowledged": status.acknowledged,
            "pending": status.pending,
            "trimmed": status.trimmed,
            "trimmed_expired": status.trimmed_by.expired,
            **fates(status.counters),
            "lost_queue": status.lost.queue,
            "lost_disk": status.lost.disk,
            "kernel_drops": status.kernel_drops,
        }

    async def reconfigure(self, config: AgentConfig) -> None:
        """Go by another configuration, all of it or, raising AgentError, nothing of it.

        No packet is lost and no waiting query given up: the recorder keeps its table, and the kernel's filter
        is replaced in place.
        """
        fixed = [key for key in self.config.changed(config) if key in FIXED]
        if fixed:
            raise AgentError(f"{', '.join(fixed)} cannot change while the agent runs: restart it for that")
        resolvers = await asyncio.to_thread(resolver_addresses, config.resolvers)
        await asyncio.wrap_future(self.capture.between_turns(lambda: self._record_by(config, resolvers)))
        self.config = config
        await asyncio.to_thread(self._spool.set_bounds, config.spool_max_bytes, config.spool_max_age)
        await self.uplink.reconfigure(config)

    def _record_by(self, config: AgentConfig, resolvers: tuple[str, ...]) -> None:
        """Change what is recorded; where the kernel does not take it, go back to what was."""
        reconfigure(self._recorder, resolvers, settings_of(config))
        try:
            if self._interfaces is not None:
                self._interfaces.set_resolvers(resolvers)
        except AgentError:
            reconfigure(self._recorder, self._resolvers, settings_of(self.config))
            raise
        self._resolvers = resolvers

    def stalled(self) -> str | None:
        """Which part has not turned for too long, if one has not."""
        now = time.monotonic()
        if now - self.capture.progressed_at > CAPTURE_STALL:
            return "the capture thread"
        if now - self._uplink_progressed_at > UPLINK_STALL:
            return "the uplink"
        return None

    def _uplink_progressed(self) -> None:
        self._uplink_progressed_at = time.monotonic()


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    add_config_argument(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    log.configure()
    with open_spool(config.spool_directory, config.spool_max_bytes, config.spool_max_age) as spool:
        asyncio.run(_serve(arguments.config, config, spool))
    return EXIT_OK


async def _serve(file: Path, config: AgentConfig, spool: Spool) -> None:
    notifier = Notifier.from_environment()
    stopping, reloading = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reloading.set)
    agent = Agent(config, spool)
    metrics = MetricsServer(config.metrics_listen, agent.status)
    spool.on_append = agent.uplink.wake
    agent.writer.start()
    agent.capture.start()
    uplink = asyncio.create_task(agent.uplink.run())
    _log.info(
        "sie-agent %s: sensor %s of %s, channel %d, metrics on port %d",
        __version__,
        config.sensor,
        config.participant,
        config.channel,
        metrics.port,
    )
    notifier.ready(_summary(agent.status()))
    collect_seldom()
    beside = [
        asyncio.create_task(_reload_when(reloading, file, agent, notifier)),
        asyncio.create_task(_trim_what_is_too_old(spool)),
        asyncio.create_task(agent.renewal.run()),
    ]
    try:
        await _watch(agent, [uplink, *beside], notifier, stopping)
    finally:
        notifier.stopping("writing down what was recorded")
        for task in beside:
            task.cancel()
        await asyncio.to_thread(agent.capture.stop)
        await asyncio.to_thread(agent.writer.close)
        await agent.uplink.stop()
        await uplink
        metrics.close()
    ledger = spool.ledger
    _log.info(
        "stopped: captured %d = acknowledged %d + pending %d + trimmed %d; lost %d",
        ledger.captured,
        ledger.acknowledged,
        ledger.pending,
        ledger.trimmed,
        agent.writer.lost.total,
    )


async def _reload_when(reloading: asyncio.Event, file: Path, agent: Agent, notifier: Notifier) -> None:
    """Read the configuration again whenever asked to; one that does not fit changes nothing."""
    while True:
        await reloading.wait()
        reloading.clear()
        notifier.reloading("reading the configuration again")
        try:
            config = await asyncio.to_thread(load_config, file)
            changed = agent.config.changed(config)
            await agent.reconfigure(config)
        except ConfigError as error:
            _log.error("not reloaded, the configuration stays as it was: %s", "; ".join(error.problems))
        except AgentError as error:
            _log.error("not reloaded, the configuration stays as it was: %s", error)
        else:
            _log.info("reloaded %s: %s", file, ", ".join(changed) or "no setting has changed")
        notifier.ready(_summary(agent.status()))


async def _trim_what_is_too_old(spool: Spool) -> None:
    """Look from time to time, so that what is too old leaves although nothing new comes."""
    while True:
        try:
            trimmed = await asyncio.to_thread(spool.trim_expired)
        except SpoolError as error:
            _log.error("%s; what is too old stays until then", error)
        else:
            if trimmed:
                _log.warning("trimmed %d transactions that were older than spool.max_age", trimmed)
        await asyncio.sleep(LOOK_INTERVAL)


async def _watch(
    agent: Agent, tasks: Sequence[asyncio.Task[None]], notifier: Notifier, stopping: asyncio.Event
) -> None:
    """Look at the parts until told to stop; feed the watchdog only while they turn."""
    interval = min(STATUS_INTERVAL, notifier.watchdog_interval or STATUS_INTERVAL)
    told: str | None = None
    while not stopping.is_set():
        stalled = agent.stalled()
        if stalled is None:
            notifier.watchdog()
        elif stalled != told:
            _log.error("%s does not turn: the watchdog is no longer fed", stalled)
        told = stalled
        for failure in (agent.capture.failure, agent.writer.failure):
            if failure is not None:
                raise failure
        for task in tasks:
            if task.done():
                task.result()
        notifier.status(_summary(agent.status()))
        with suppress(TimeoutError):
            async with asyncio.timeout(interval):
                await stopping.wait()


def _summary(status: Status) -> str:
    """One line for `systemctl status`."""
    up = sum(1 for source in status.sources if source["up"])
    watched = [f"{up} of {len(status.sources)} interfaces up"] if status.sources else []
    if status.dnstap is not None:
        resolvers = sum(1 for connection in status.dnstap.connections if connection["resolver"])
        watched.append(f"{resolvers} connections of resolvers")
    return (
        f"{', '.join(watched)}; uplink {status.uplink.state.replace('_', ' ')}; "
        f"captured {status.captured}, acknowledged {status.acknowledged}, pending {status.pending}"
    )
