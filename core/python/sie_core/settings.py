"""Configuration files as a table: one list of settings feeds the loader, the help, the docs and the tests.

A program declares its configuration once::

    TABLE = Table(
        Setting("channel", Integer(1, 65535), help="the channel this sensor contributes to"),
        Setting("uplink.window", Integer(1, 1024), default=32, help="containers sent ahead"),
        Setting("sources", ListOf(Table(Setting("interface", Text(...), help="...")), least=1), help="..."),
    )
    config = load(Path("/etc/sie-agent/agent.yml"), TABLE)
    config["uplink.window"]

A dotted key is a key inside a section of the YAML file. `load` never stops at the first mistake: it raises
one `ConfigError` whose `problems` hold a line per mistake, ``FILE: key: what is wrong; allowed: ...``. A key
that is written twice or that the table does not know is a mistake too, because a setting that silently has no
effect is the worst kind.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from sie_core.kinds import (
    Boolean,
    ConfigError,
    File,
    Integer,
    Kind,
    Listen,
    ListenAddress,
    ListOf,
    Octets,
    Prefix,
    Problem,
    Seconds,
    Text,
    Url,
    a_kind_of,
    shown,
)

__all__ = [
    "REQUIRED",
    "Boolean",
    "Check",
    "Config",
    "ConfigError",
    "File",
    "Integer",
    "Kind",
    "ListOf",
    "Listen",
    "ListenAddress",
    "Octets",
    "Prefix",
    "Problem",
    "Seconds",
    "Setting",
    "Table",
    "Text",
    "Url",
    "help_text",
    "load",
    "markdown_table",
    "nearest_key",
]

MAX_FILE_OCTETS: Final = (
    1 << 20
)  # a configuration is a few KiB: a larger file is another file, given by mistake


class _Required:
    """The type of `REQUIRED`."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()
"""The default of a setting that every file must give."""


class Config(Mapping[str, Any]):
    """The values of one table by their dotted keys, defaults filled in; None is an optional setting not
    given.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class Setting:
    """One key of a file.

    `default` is written as it would be in the file and goes through `kind` like anything that is; None makes
    the setting optional, REQUIRED makes it compulsory. `help` is a clause for people: no capital, no full
    stop.
    """

    key: str
    kind: Kind
    help: str
    default: object = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def shown_default(self) -> str:
        """The default as one would write it: "required" and "none" where there is none."""
        if self.required:
            return "required"
        return "none" if self.default is None else self.kind.show(self.default)


@dataclass(frozen=True)
class Check:
    """A rule over several settings, asked only when each of them is fine by itself.

    `wrong` takes their values in the order of `keys` and returns what is wrong, or None. The problem is
    reported under the first key.
    """

    keys: tuple[str, ...]
    wrong: Callable[..., str | None]


class Table(Kind):
    """A set of settings: a whole file, or one item of a list. Gives a `Config`."""

    def __init__(self, *settings: Setting, checks: Sequence[Check] = ()) -> None:
        self.settings = settings
        self.checks = tuple(checks)
        self._by_key = {setting.key: setting for setting in settings}
        self._sections = {setting.key.rsplit(".", 1)[0] for setting in settings if "." in setting.key}
        if len(self._by_key) != len(settings):
            raise ValueError("a table holds each key once")

    @property
    def allowed(self) -> str:
        return f"a section with the keys {', '.join(self._by_key)}"

    def convert(self, value: object) -> Config:
        problems: list[Problem] = []
        config = self.read(value, "", problems)
        if problems or config is None:
            raise ValueError("; ".join(f"{problem.key}: {problem.text}" for problem in problems))
        return config

    def read(self, value: object, key: str, problems: list[Problem]) -> Config | None:
        """Read a mapping out of YAML (None is an empty one); `key` is the place of the mapping."""
        if value is not None and not isinstance(value, dict):
            problems.append(
                Problem(key, f"{shown(value)} is {a_kind_of(value)}, not a section; allowed: {self.allowed}")
            )
            return None
        before = len(problems)
        place = f"{key}." if key else ""
        values: dict[str, Any] = {}
        excused: set[str] = set()  # keys whose absence another problem explains already
        for given, raw in self._flattened(value or {}, "", place, problems, excused):
            setting = self._by_key.get(given)
            if setting is None:
                excused |= self._unknown(given, place, problems)
                continue
            count = len(problems)
            converted = setting.kind.read(raw, place + given, problems)
            if len(problems) == count:
                values[given] = converted
            else:
                excused.add(given)
        for setting in self.settings:
            if setting.key not in values and setting.key not in excused:
                self._fill(setting, place, values, problems)
        for check in self.checks:
            if all(name in values for name in check.keys):
                wrong = check.wrong(*(values[name] for name in check.keys))
                if wrong is not None:
                    problems.append(Problem(place + check.keys[0], wrong))
        return Config(values) if len(problems) == before else None

    def rows(self, place: str = "") -> Iterator[tuple[str, Setting]]:
        """Every setting with its full key, the settings of list items as ``sources[].interface``."""
        for setting in self.settings:
            yield place + setting.key, setting
            if isinstance(setting.kind, ListOf) and isinstance(setting.kind.item, Table):
                yield from setting.kind.item.rows(f"{place}{setting.key}[].")

    def _flattened(
        self,
        section: dict[object, object],
        prefix: str,
        place: str,
        problems: list[Problem],
        excused: set[str],
    ) -> Iterator[tuple[str, object]]:
        """Dotted keys with their values; a null is the same as leaving the key out."""
        for name, value in section.items():
            key = f"{prefix}{name}"
            if key not in self._sections:
                if value is not None or key not in self._by_key:
                    yield key, value
            elif isinstance(value, dict):
                yield from self._flattened(value, f"{key}.", place, problems, excused)
            elif value is not None:
                inside = [k for k in self._by_key if k.startswith(f"{key}.")]
                names = ", ".join(k.removeprefix(f"{key}.") for k in inside)
                problems.append(
                    Problem(
                        place + key,
                        f"{shown(value)} is {a_kind_of(value)}, not a section; allowed: the keys {names}",
                    )
                )
                excused.update(inside)

    def _unknown(self, key: str, place: str, problems: list[Problem]) -> set[str]:
        """Report a key that the table does not know; returns the required key it was probably meant to be, if
        any.
        """
        nearest = nearest_key(key, [*self._by_key, *self._sections])
        text = "unknown key" if nearest is None else f'unknown key (did you mean "{place}{nearest}"?)'
        problems.append(Problem(place + key, text))
        return {
            known for known in self._by_key if nearest is not None and f"{known}.".startswith(f"{nearest}.")
        }

    def _fill(self, setting: Setting, place: str, values: dict[str, Any], problems: list[Problem]) -> None:
        if setting.required:
            problems.append(
                Problem(place + setting.key, f"missing, and required; allowed: {setting.kind.allowed}")
            )
        elif setting.default is None:
            values[setting.key] = None
        else:
            values[setting.key] = setting.kind.convert(setting.default)


def load(path: Path, table: Table) -> Config:
    """Read a YAML file by a table.

    Raises ConfigError with every mistake at once: a file that cannot be read, YAML that is none, keys given
    twice, unknown keys, values that are not allowed, required keys that are missing, rules over several keys.
    """
    problems: list[Problem] = []
    config: Config | None = None
    try:
        document = _parse(_read(path), problems)
    except ValueError as wrong:
        problems.append(Problem("", str(wrong)))
    else:
        config = table.read(document, "", problems)
    if problems or config is None:
        raise ConfigError([f"{path}: {f'{key}: ' if key else ''}{text}" for key, text in problems])
    return config


def nearest_key(key: str, known: Sequence[str]) -> str | None:
    """The known key that `key` was probably meant to be: like it as a whole, or like it in its last part."""
    whole = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if whole:
        return whole[0]
    last_parts: dict[str, str] = {}
    for name in known:
        last_parts.setdefault(name.rsplit(".", 1)[-1], name)
    last = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(last_parts), n=1, cutoff=0.75)
    return last_parts[last[0]] if last else None


def markdown_table(table: Table) -> str:
    """The reference table of a configuration in Markdown; docs hold it verbatim and a test compares."""
    lines = ["| key | meaning | allowed | default |", "|---|---|---|---|"]
    for key, setting in table.rows():
        lines.append(f"| `{key}` | {setting.help} | {_allowed_here(setting)} | {_as_code(setting)} |")
    return "\n".join(lines) + "\n"


def help_text(table: Table) -> str:
    """The same as plain text for `--help`: one indented block per key."""
    blocks = []
    for key, setting in table.rows():
        blocks.append(f"  {key} ({setting.shown_default})\n      {setting.help}")
    return "\n".join(blocks) + "\n"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_OCTETS + 1)
    except OSError as wrong:
        raise ValueError(f"cannot be read: {wrong.strerror}") from None
    if len(data) > MAX_FILE_OCTETS:
        raise ValueError(f"is larger than {MAX_FILE_OCTETS} octets, which no configuration is")
    try:
        return data.decode()
    except UnicodeDecodeError as wrong:
        raise ValueError(f"is not UTF-8 text (octet {wrong.start})") from None


def _parse(text: str, problems: list[Problem]) -> object:
    """YAML to Python; keys given twice go to `problems`, since YAML readers silently keep the last."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        problems.extend(_duplicates(node, "", set()))
        document: object = yaml.safe_load(text)
    except yaml.YAMLError as wrong:
        raise ValueError(f"is not YAML: {' '.join(str(wrong).split())}") from None
    except ValueError as wrong:
        # PyYAML leaves some impossible scalars (a date of month 13) to the constructors of Python's own
        # types.
        raise ValueError(f"is not YAML: {wrong}") from None
    if document is not None and not isinstance(document, dict):
        raise ValueError(f"holds {a_kind_of(document)}, not keys and values")
    return document


def _duplicates(node: yaml.Node | None, prefix: str, walked: set[int]) -> Iterator[Problem]:
    if (
        id(node) in walked
    ):  # an alias leads to a node once more, and may lead to one that is still being walked
        return
    walked.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, f"{prefix}[{index}]", walked)
    elif isinstance(node, yaml.MappingNode):
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = f"{prefix}.{key_node.value}" if prefix else f"{key_node.value}"
            line = key_node.start_mark.line + 1
            if key in first_lines:
                yield Problem(key, f"given twice, in line {first_lines[key]} and in line {line}")
            first_lines.setdefault(key, line)
            yield from _duplicates(value_node, key, walked)


def _allowed_here(setting: Setting) -> str:
    kind = setting.kind
    if isinstance(kind, ListOf) and isinstance(kind.item, Table):
        return f"a list of {kind.least} to {kind.most} sections, with the keys below"
    return kind.allowed.replace("|", "\\|")


def _as_code(setting: Setting) -> str:
    return (
        setting.shown_default if setting.required or setting.default is None else f"`{setting.shown_default}`"
    )
