"""The agent on another system than Linux: everything but interfaces, which are refused in one sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sie_agent import sources
from sie_agent.cli import main
from sie_agent.config import SourceConfig
from sie_agent.errors import AgentError, SourceError
from sie_agent.sight import look
from sie_agent.sources import Interfaces
from sie_core._native import CaptureError, LiveSource

SENTENCE = "on plan9 no interface can be listened to"

WITHOUT_LINUX = """
import pkgutil, os, select, socket, sys, time
from importlib import import_module
from pathlib import Path

for module, prefixes in (
    (os, ("sched_", "memfd_", "eventfd", "pidfd_", "splice", "setns", "unshare", "copy_file_range")),
    (select, ("epoll", "EPOLL")),
    (socket, ("AF_PACKET", "PACKET_", "AF_NETLINK", "NETLINK_", "AF_VSOCK", "SO_PEERCRED")),
    (time, ("CLOCK_BOOTTIME", "CLOCK_TAI")),
):
    for name in [name for name in dir(module) if name.startswith(prefixes)]:
        delattr(module, name)

import sie_agent, sie_core

found = [module.name for package in (sie_agent, sie_core)
         for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
for name in found:
    import_module(name)

from sie_agent.discovery import resolver_addresses
from sie_agent.errors import AgentError
from sie_agent.spool import open_spool

with open_spool(Path(sys.argv[1]), 1 << 20) as spool:
    spool.append(b"container", 10)
    print(spool.ledger.pending_containers)
try:
    resolver_addresses(["host"])
except AgentError as error:
    print(error)
"""


class Elsewhere:
    """What the native source says where it cannot be."""

    def __init__(self, *_arguments: object, **_options: object) -> None:
        self.check_system()

    @staticmethod
    def check_system() -> None:
        raise CaptureError(SENTENCE)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LiveSource", Elsewhere)


def test_linux_is_no_such_system() -> None:
    LiveSource.check_system()
    sources.check_system()


@pytest.mark.usefixtures("elsewhere")
def test_an_interface_is_refused_in_one_sentence_by_whatever_would_need_it(
    config_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    refused = f"the interfaces cannot be listened to: {SENTENCE}"
    with pytest.raises(AgentError) as opened:
        Interfaces([SourceConfig("em0", promiscuous=False, encapsulated=False)], ["192.0.2.53"])
    assert str(opened.value) == refused
    with pytest.raises(SourceError) as watched:
        look(["em0"], ["192.0.2.53"], 1.0, lambda: None)
    assert str(watched.value) == refused
    file = config_file(interface="em0")
    assert main(["check-config", str(file)]) == 2
    assert capsys.readouterr().err == f"{file}: {refused}\n"


@pytest.mark.usefixtures("elsewhere")
def test_dnstap_alone_is_no_mistake(config_file: Callable[..., Path]) -> None:
    assert main(["check-config", str(config_file(sources='{dnstap: "unix:/var/run/dnstap.sock"}'))]) == 0


def test_nothing_else_asks_for_what_linux_alone_has(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LINUX, str(tmp_path / "spool")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    pending, refused = done.stdout.splitlines()
    assert pending == "1"
    assert refused == (
        "resolvers: the addresses of this host cannot be listed (Linux has no rtnetlink); list them in the "
        "configuration in the place of host"
    )
