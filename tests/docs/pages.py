"""Pages, the code in them, and the commands in that."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
COLLECTION: Final = REPOSITORY / "collections/ansible_collections/sie_europe/passive_dns"

COMMANDS: Final = "sh"
"""The language of a block that is typed into a shell as it stands."""

LANGUAGES: Final = frozenset({COMMANDS, "text", "yaml", "lua", "mermaid", "transcript"})
"""`text` is output, a layout, a formula or another program's configuration: nothing to be typed."""

_FENCE: Final = re.compile(r"^(?P<indent> *)```(?P<language>\S*) *$")
_SPAN: Final = re.compile(r"`([^`\n]+)`")
_HEADING: Final = re.compile(r"^(#+) (.+)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, relative to the repository, the line of its fence, and its text without
    indentation.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """The first line, by which tables name a block."""
        return self.text.partition("\n")[0]

    @property
    def where(self) -> str:
        """The place, as editors and compilers write it."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page that is written for people, relative to the repository."""
    found = [
        REPOSITORY / "README.md",
        COLLECTION / "README.md",
        *(REPOSITORY / part / "README.md" for part in ("core", "core/fuzz", "agent", "hub")),
        *sorted((REPOSITORY / "docs").rglob("*.md")),
    ]
    return [str(path.relative_to(REPOSITORY)) for path in found]


def read(page: str) -> str:
    """A page's text."""
    return (REPOSITORY / page).read_text()


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order. ValueError for one that does not end."""
    lines = iter(enumerate(read(page).splitlines(), 1))
    for number, line in lines:
        if (opening := _FENCE.match(line)) is None:
            continue
        indent, inside = len(opening["indent"]), []
        for _, text in lines:
            if text.strip() == "```":
                break
            inside.append(text[indent:] if text[:indent].isspace() or not indent else text)
        else:
            raise ValueError(f"{page}:{number}: a block without an end")
        yield Block(page, number, opening["language"], "\n".join(inside))


def outside(page: str) -> Iterator[tuple[int, str]]:
    """The lines of a page that are in no block, with their numbers."""
    inside = False
    for number, line in enumerate(read(page).splitlines(), 1):
        if _FENCE.match(line) or line.strip() == "```":
            inside = not inside
        elif not inside:
            yield number, line


def spans(page: str) -> Iterator[tuple[int, str]]:
    """Code within lines, with the lines' numbers; bars, which tables want escaped, as they are meant."""
    for number, line in outside(page):
        for found in _SPAN.finditer(line):
            yield number, found[1].replace("\\|", "|")


def headings(page: str) -> list[tuple[int, str]]:
    """Level and text of every heading."""
    found = (_HEADING.match(line) for _, line in outside(page))
    return [(len(heading[1]), heading[2]) for heading in found if heading]


def commands(block: Block) -> list[str]:
    """The commands of a block, one for each line as the shell joins lines, without comments."""
    joined = block.text.replace("\\\n", " ")
    stripped = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines())
    return [re.sub(r"\s+", " ", line) for line in stripped if line]
