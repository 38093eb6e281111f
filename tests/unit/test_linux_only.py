"""What only Linux has stands in few modules, and what stands in their place elsewhere offers the same."""

import re
from pathlib import Path

import pytest

CRATES = Path(__file__).parents[2] / "core/crates"
SOURCES = sorted(path for path in CRATES.glob("*/src/**/*.rs"))
GATES = {"capture/src/lib.rs", "capture/src/dnstap/mod.rs"}
"""Files that tell systems apart: each names one module in two forms."""

LINUX = re.compile(
    r"libc::(?:AF_PACKET|PACKET_|SOL_PACKET|TP_|TPACKET|tpacket|sockaddr_ll|packet_mreq|ARPHRD_|ETH_P_|SIOCGIF|"
    r"SO_ATTACH_FILTER|SO_PEERCRED|ucred|epoll|eventfd|prctl|accept4|MSG_)|std::os::linux|/proc/|/sys/"
)


def inside(path: Path) -> str:
    return str(path.relative_to(CRATES))


def code(path: Path) -> str:
    """A file without its comments."""
    return re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE)


def offered(path: Path) -> set[str]:
    """The public functions of a file, as whoever calls them sees them."""
    found = re.findall(r"pub fn (.+?) \{", code(path), flags=re.DOTALL)
    assert found, path
    # What is no part of a signature: names that are not used, `mut` of a value taken whole, layout.
    return {re.sub(r"\b_(?=[a-z])|(?<=\()mut (?=self)|,(?=\s*\))|\s+", "", function) for function in found}


def test_only_gated_modules_ask_for_what_linux_alone_has() -> None:
    asking = {inside(path) for path in SOURCES if LINUX.search(code(path))}
    assert "capture/src/live/socket.rs" in asking
    assert {path for path in asking if not path.startswith("capture/src/live/")} == {
        "capture/src/dnstap/peer.rs"
    }


def test_systems_are_told_apart_in_few_places() -> None:
    assert {inside(path) for path in SOURCES if "target_os" in code(path)} == GATES


@pytest.mark.parametrize(
    ("on_linux", "elsewhere"),
    [("live/mod.rs", "unsupported.rs"), ("dnstap/peer.rs", "dnstap/peer_unnamed.rs")],
)
def test_what_stands_in_the_place_offers_the_same(on_linux: str, elsewhere: str) -> None:
    assert offered(CRATES / "capture/src" / on_linux) == offered(CRATES / "capture/src" / elsewhere)
