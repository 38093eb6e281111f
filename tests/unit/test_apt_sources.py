"""Where a machine gets Debian from, in each form that apt accepts."""

from pathlib import Path

import pytest
from sie_lab.apt_sources import Source, for_release, parse_deb822, parse_lines, read

DEB822 = """\
Types: deb deb-src
URIs: https://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

# switched off
Types: deb
URIs: https://old.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: https://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----
"""

LINES = """\
# deb https://never.example/debian bookworm main
deb https://mirror.example/debian bookworm main contrib   # the archive
deb [arch=amd64 signed-by=/etc/apt/keyrings/tool.gpg] https://tool.example/apt bookworm main
deb-src https://mirror.example/debian bookworm main
deb https://mirror.example/debian-security bookworm-security main
"""


def test_deb822_paragraphs() -> None:
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert list(parse_deb822(DEB822)) == [
        Source("https://mirror.example/debian", "bookworm", ("main", "contrib"), keyring),
        Source("https://mirror.example/debian", "bookworm-updates", ("main", "contrib"), keyring),
        Source("https://mirror.example/debian-security", "bookworm-security", ("main",)),
    ]


def test_one_line_sources() -> None:
    assert list(parse_lines(LINES)) == [
        Source("https://mirror.example/debian", "bookworm", ("main", "contrib")),
        Source("https://tool.example/apt", "bookworm", ("main",), "/etc/apt/keyrings/tool.gpg"),
        Source("https://mirror.example/debian-security", "bookworm-security", ("main",)),
    ]


@pytest.mark.parametrize("sources", [list(parse_deb822(DEB822)), list(parse_lines(LINES))])
def test_suites_are_replaced_and_strangers_left_out(sources: list[Source]) -> None:
    moved = for_release(sources, "bookworm", "trixie")
    assert {source.suite for source in moved} <= {"trixie", "trixie-updates", "trixie-security"}
    assert {source.uri for source in moved} == {
        "https://mirror.example/debian",
        "https://mirror.example/debian-security",
    }
    assert all(source.components == ("main",) for source in moved)


def test_security_alone_is_no_mirror() -> None:
    only = [Source("https://mirror.example/debian-security", "bookworm-security", ("main",))]
    assert for_release(only, "bookworm", "trixie") == []


def test_a_line_for_the_bootstrapper() -> None:
    line = Source("https://mirror.example/debian", "trixie", ("main",)).line()
    assert line.startswith("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ")
    assert line.endswith("https://mirror.example/debian trixie main")


def test_all_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb https://a.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "b.list").write_text("deb https://b.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "c.sources").write_text(DEB822)
    assert {source.uri.split("/")[2] for source in read(tmp_path)} == {
        "a.example",
        "b.example",
        "mirror.example",
    }
