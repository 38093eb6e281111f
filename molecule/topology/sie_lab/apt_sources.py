"""Where this machine gets Debian from, and the same mirror for another release. Pure, but for `read`.

Both forms of sources.list(5) are understood: one line each, and deb822 paragraphs.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

POCKETS = ("", "-updates", "-security")
DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Source:
    """One binary package source."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str | None = None

    def line(self) -> str:
        """As a line of sources.list."""
        keyring = self.signed_by or DEBIAN_KEYRING
        return f"deb [signed-by={keyring}] {self.uri} {self.suite} {' '.join(self.components)}"


def parse_lines(text: str) -> Iterator[Source]:
    """Sources of a one-line-style file."""
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[(?P<options>[^]]*)]\s+)?(?P<uri>\S+)\s+(?P<rest>[^#]+)", line.strip())
        if match is None:
            continue
        options = dict(o.split("=", 1) for o in (match["options"] or "").split() if "=" in o)
        suite, *components = match["rest"].split()
        yield Source(match["uri"], suite, tuple(components), options.get("signed-by"))


def parse_deb822(text: str) -> Iterator[Source]:
    """Sources of a deb822-style file, without those switched off."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        unfolded = re.sub(r"\n[ \t]+", " ", "\n".join(lines))
        pairs = (line.partition(":") for line in unfolded.splitlines())
        fields = {key.strip().lower(): value.strip() for key, colon, value in pairs if colon}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        keyring = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(
                    uri,
                    suite,
                    tuple(fields.get("components", "").split()),
                    keyring if keyring.startswith("/") else None,
                )


def for_release(sources: Iterable[Source], current: str, wanted: str) -> list[Source]:
    """The Debian archive among `sources` (of release `current`), moved to `wanted`; empty if there is none.

    Other archives that happen to use Debian's suite names are told by their own keyring.
    """
    suites = {current + pocket: wanted + pocket for pocket in POCKETS}
    found = [
        replace(source, suite=suites[source.suite], components=("main",))
        for source in sources
        if source.suite in suites
        and "main" in source.components
        and (source.signed_by is None or Path(source.signed_by).name.startswith("debian-archive"))
    ]
    if not any(source.suite == wanted for source in found):
        return []
    return list(dict.fromkeys(found))


def read(folder: Path = Path("/etc/apt")) -> list[Source]:
    """All sources that apt reads on this machine."""
    parts = folder / "sources.list.d"
    one_line = [folder / "sources.list", *sorted(parts.glob("*.list"))]
    sources = [s for path in one_line if path.is_file() for s in parse_lines(path.read_text())]
    return sources + [s for path in sorted(parts.glob("*.sources")) for s in parse_deb822(path.read_text())]
