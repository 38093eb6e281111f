"""The command line as data, read from its own parser: completion and manual pages are made from this."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sie_agent.cli import COMMANDS, parser_of

FILE_METAVARS: Final = ("FILE", "OUT", "DIRECTORY")
"""How the values of options are called that are names of files."""


@dataclass(frozen=True)
class Argument:
    """An option, or (without names) a positional argument."""

    names: tuple[str, ...]
    metavar: str
    """How its value is called; empty for a switch."""
    choices: tuple[str, ...]
    help: str

    @property
    def is_file(self) -> bool:
        """Whether its value is the name of a file."""
        return self.metavar in FILE_METAVARS


@dataclass(frozen=True)
class Page:
    """What may follow some first words of the command line."""

    words: tuple[str, ...]
    """The first words, behind the program's name; none for the program itself."""
    help: str
    usage: str
    arguments: tuple[Argument, ...]
    commands: tuple[tuple[str, str], ...]
    """Further first words, each with what it does."""
    epilog: str

    @property
    def options(self) -> tuple[Argument, ...]:
        """The arguments that have names."""
        return tuple(argument for argument in self.arguments if argument.names)

    @property
    def takes_files(self) -> bool:
        """Whether a positional argument is the name of a file."""
        return any(argument.is_file for argument in self.arguments if not argument.names)


def pages() -> list[Page]:
    """The program's page, then one for each command, in the order in which help lists them."""
    return list(_pages(parser_of(COMMANDS), (), ""))


def _pages(parser: argparse.ArgumentParser, words: tuple[str, ...], help_text: str) -> Iterator[Page]:
    children: list[tuple[str, str, argparse.ArgumentParser]] = []
    arguments = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            children += [(name, helps.get(name, ""), child) for name, child in action.choices.items()]
        else:
            arguments.append(_argument(action))
    yield Page(
        words,
        help_text or (parser.description or ""),
        " ".join(parser.format_usage().removeprefix("usage: ").split()),
        tuple(arguments),
        tuple((name, words_of_it) for name, words_of_it, _ in children),
        parser.epilog or "",
    )
    for name, words_of_it, child in children:
        yield from _pages(child, (*words, name), words_of_it)


def _argument(action: argparse.Action) -> Argument:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return Argument(
        tuple(action.option_strings),
        "" if action.nargs == 0 else metavar,
        tuple(str(choice) for choice in action.choices or ()),
        " ".join((action.help or "").split()),
    )
