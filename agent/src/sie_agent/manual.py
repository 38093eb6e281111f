"""The manual pages sie-agent(1) and agent.yml(5), made from the parser and the table of settings.

`python -m sie_agent.manual DIRECTORY` writes them; `make man` does that.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from sie_agent.cli import DEFAULT_CONFIG, EXIT_CODES
from sie_agent.config import TABLE
from sie_agent.outline import Argument, Page, pages
from sie_core import __version__


def program() -> str:
    """sie-agent(1) in the markup of man(7)."""
    root, *commands = pages()
    lines = [
        f'.TH SIE-AGENT 1 "" "sie-agent {__version__}" "User commands"',
        ".SH NAME",
        "sie-agent \\- the program on a sensor of a passive-DNS exchange",
        ".SH SYNOPSIS",
        f".B sie-agent\n{_plain(root.usage.removeprefix('sie-agent '))}",
        ".SH DESCRIPTION",
        _plain(" ".join(root.help.split())),
        ".SH OPTIONS",
        *(line for option in root.options for line in _argument(option)),
        ".SH COMMANDS",
        *(line for page in commands for line in _command(page)),
        ".SH EXIT STATUS",
        *(f".TP\n.B {code}\n{_plain(meaning)}" for code, meaning in EXIT_CODES.items()),
        ".SH FILES",
        f".TP\n.I {DEFAULT_CONFIG}\nThe configuration, unless \\-\\-config names another; see agent.yml(5).",
        ".SH SEE ALSO",
        "agent.yml(5), nmsgtool(1), systemctl(1)",
    ]
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """agent.yml(5) in the markup of man(7)."""
    lines = [
        f'.TH AGENT.YML 5 "" "sie-agent {__version__}" "File formats"',
        ".SH NAME",
        "agent.yml \\- the configuration of sie-agent",
        ".SH DESCRIPTION",
        "One YAML file. A dotted key is a key inside a section. A key that is not listed here, or that is",
        "given twice, is a mistake;",
        ".B sie-agent check-config",
        "lists every mistake at once.",
        ".SH SETTINGS",
    ]
    for key, setting in TABLE.rows():
        lines += [
            f".TP\n.B {_plain(key)}",
            f"{_plain(setting.help[0].upper() + setting.help[1:])}.",
            f"Allowed: {_plain(setting.kind.allowed)}.",
            f"Default: {_plain(setting.shown_default)}.",
        ]
    lines += [".SH SEE ALSO", "sie-agent(1)"]
    return "\n".join(lines) + "\n"


def _command(page: Page) -> Iterator[str]:
    yield f".SS {_plain(' '.join(['sie-agent', *page.words]))}"
    yield f"{_plain(page.help[0].upper() + page.help[1:])}."
    yield f".PP\n.B sie\\-agent\n{_plain(page.usage.removeprefix('sie-agent '))}"
    for argument in page.arguments:
        yield from _argument(argument)
    examples = re.search(r"^examples:\n((?:  .*\n)+)", page.epilog, re.MULTILINE)
    if examples is not None:
        yield ".PP\nExamples:\n.PP\n.nf"
        yield _plain(examples[1].rstrip("\n"))
        yield ".fi"


def _argument(argument: Argument) -> Iterator[str]:
    value = f" \\fI{_plain(argument.metavar)}\\fR" if argument.metavar else ""
    names = ", ".join(f"\\fB{_plain(name)}\\fR" for name in argument.names)
    yield f".TP\n{names}{value}".replace("\n ", "\n")
    yield _plain(argument.help[0].upper() + argument.help[1:]) + "."


def _plain(text: str) -> str:
    """Text in which man(7) sees no markup."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def write(directory: Path) -> None:
    """Put the pages into a directory."""
    for section, name, page in ((1, "sie-agent", program()), (5, "agent.yml", configuration())):
        place = directory / f"man{section}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.{section}").write_text(page)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
