"""The kinds of values that settings have: what a configuration file may say and what a program makes of it.

A kind is pure: it turns a value as YAML reads it into the value the program uses, or says in one clause what
is wrong with it and in another what is allowed.
"""

import ipaddress
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from sie_core.errors import SieError

Number = TypeVar("Number", int, float)

MAX_SHOWN_VALUE: Final = 60  # characters of a wrong value that are repeated in the message about it


class Problem(NamedTuple):
    """One mistake: the dotted key it is about (empty for the file as a whole) and the sentence about it."""

    key: str
    text: str


class ConfigError(SieError):
    """A configuration file with mistakes.

    `problems` holds one line per mistake, ``FILE: key: what is wrong; allowed: ...``.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Kind(ABC):
    """What values a setting may have.

    A kind turns what YAML gave into what the program uses, or says what is wrong.
    """

    @property
    @abstractmethod
    def allowed(self) -> str:
        """What a file may say, in words that end the sentence "allowed: ..."."""

    @abstractmethod
    def convert(self, value: object) -> Any:
        """Return the value the program uses; raise ValueError with what is wrong, without a full stop."""

    def read(self, value: object, key: str, problems: list[Problem]) -> Any:
        """Convert, or append to `problems` what is wrong with `value` or parts of it and return None."""
        try:
            return self.convert(value)
        except ValueError as wrong:
            problems.append(Problem(key, f"{wrong}; allowed: {self.allowed}"))
            return None

    def show(self, value: object) -> str:
        """The value as one would write it in the file."""
        return shown(value)


@dataclass(frozen=True)
class Text(Kind):
    """Characters matching a regular expression as a whole. `words` says in words what the expression says."""

    pattern: str
    words: str

    @property
    def allowed(self) -> str:
        return self.words

    def convert(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not text (quotes make it text)")
        if re.fullmatch(self.pattern, value) is None:
            raise ValueError(f"{shown(value)} does not fit")
        return value


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number between two bounds, both allowed."""

    least: int
    most: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def convert(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not a whole number")
        return _within(value, self.least, self.most, shown)


@dataclass(frozen=True)
class Seconds(Kind):
    """A span of time: a number of seconds, or a number with one of the units ms, s, m, h, d.

    Gives a float of seconds.
    """

    least: float
    most: float

    UNITS: ClassVar[dict[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

    @property
    def allowed(self) -> str:
        return (
            f"{_compact(self.least)} to {_compact(self.most)} seconds, "
            f"as a number or with a unit ({', '.join(self.UNITS)})"
        )

    def convert(self, value: object) -> float:
        return _within(_quantity(value, self.UNITS, "a span of time"), self.least, self.most, _compact)


@dataclass(frozen=True)
class Octets(Kind):
    """A size: a whole number of octets, or a number with one of the units KiB, MiB, GiB, TiB.

    Gives an int of octets.
    """

    least: int
    most: int

    UNITS: ClassVar[dict[str, float]] = {
        "B": 1.0,
        "KiB": 1024.0,
        "MiB": 1024.0**2,
        "GiB": 1024.0**3,
        "TiB": 1024.0**4,
    }

    @property
    def allowed(self) -> str:
        return (
            f"{self.show(self.least)} to {self.show(self.most)}, "
            f"as a number of octets or with a unit ({', '.join(self.UNITS)})"
        )

    def convert(self, value: object) -> int:
        octets = _quantity(value, self.UNITS, "a size")
        if not octets.is_integer():
            raise ValueError(f"{shown(value)} is not a whole number of octets")
        return _within(int(octets), self.least, self.most, self.show)

    def show(self, value: object) -> str:
        if isinstance(value, int):
            for unit in reversed(self.UNITS):
                size = int(self.UNITS[unit])
                if value >= size and value % size == 0 and unit != "B":
                    return f"{value // size} {unit}"
        return shown(value)


@dataclass(frozen=True)
class Boolean(Kind):
    """true or false."""

    @property
    def allowed(self) -> str:
        return "true or false"

    def convert(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not true or false")
        return value


@dataclass(frozen=True)
class File(Kind):
    """The absolute path of a file or directory, which need not exist."""

    @property
    def allowed(self) -> str:
        return "an absolute path"

    def convert(self, value: object) -> Path:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not a path")
        if "\0" in value:
            raise ValueError(f"{shown(value)} holds a NUL character")
        path = Path(value)
        if not path.is_absolute():
            raise ValueError(
                f"{shown(value)} is relative, so its place would depend on where the program starts"
            )
        return path


@dataclass(frozen=True)
class Prefix(Kind):
    """An IP address or prefix. `shortest_v4` and `shortest_v6` bound how wide a prefix may be."""

    shortest_v4: int = 0
    shortest_v6: int = 0

    @property
    def allowed(self) -> str:
        return (
            f"an IPv4 address or prefix of /{self.shortest_v4} or longer, "
            f"an IPv6 address or prefix of /{self.shortest_v6} or longer"
        )

    def convert(self, value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not an address (quotes make it text)")
        try:
            network = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise ValueError(f"{shown(value)} is neither an IP address nor a prefix") from None
        length_given = "/" in value
        if length_given and ipaddress.ip_address(value.partition("/")[0]) != network.network_address:
            raise ValueError(
                f"{shown(value)} has bits set to the right of its length: {network} or one address is meant"
            )
        if network.network_address.is_unspecified and network.prefixlen == network.max_prefixlen:
            raise ValueError(f"{shown(value)} is no host's address")
        shortest = self.shortest_v4 if network.version == 4 else self.shortest_v6
        if network.prefixlen < shortest:
            raise ValueError(
                f"{shown(value)} covers too much: /{network.prefixlen} is shorter than /{shortest}"
            )
        return network


@dataclass(frozen=True)
class Url(Kind):
    """A URL of one of the given schemes with a host, and neither credentials nor a path.

    Gives the text without a slash.
    """

    schemes: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return " or ".join(f"{scheme}://HOST[:PORT]" for scheme in self.schemes)

    def convert(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not a URL")
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as wrong:
            raise ValueError(f"{shown(value)} is not a URL ({wrong})") from None
        if parts.scheme not in self.schemes:
            raise ValueError(
                f"{shown(value)} does not begin with {' or '.join(s + '://' for s in self.schemes)}"
            )
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL in a configuration holds no user name or password")
        if not parts.hostname or re.search(r"\s", value) or port == 0:
            raise ValueError(f"{shown(value)} names no host and port to connect to")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(
                f"{shown(value)} has something after the host and port, which the program adds by itself"
            )
        return value.rstrip("/")


class ListenAddress(NamedTuple):
    """Where a server listens: an IP address in text, and a port (0: a free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this host can connect."""
        return ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True)
class Listen(Kind):
    """An IP address and a port to listen on, `192.0.2.1:8443` or `[2001:db8::1]:8443`.

    Gives a `ListenAddress`.
    """

    loopback_only: bool = False

    @property
    def allowed(self) -> str:
        where = "a loopback address" if self.loopback_only else "an IP address"
        return f"{where} and a port, as in 127.0.0.1:9153 or [::1]:9153"

    def convert(self, value: object) -> ListenAddress:
        match = (
            re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", value)
            if isinstance(value, str)
            else None
        )
        if match is None:
            raise ValueError(f"{shown(value)} is not an IP address and a port")
        try:
            host = ipaddress.ip_address(match[1] or match[2])
        except ValueError:
            raise ValueError(f"{shown(value)} does not begin with an IP address") from None
        if int(match[3]) > 65535:
            raise ValueError(f"{shown(value)} ends with a port above 65535")
        if self.loopback_only and not host.is_loopback:
            raise ValueError(f"{shown(value)} could be reached from other hosts")
        return ListenAddress(str(host), int(match[3]))


@dataclass(frozen=True)
class ListOf(Kind):
    """A list whose items are all of one kind. Gives a tuple. A wrong item is reported as ``key[index]``."""

    item: Kind
    least: int = 0
    most: int = 1000

    @property
    def allowed(self) -> str:
        return f"a list of {self.least} to {self.most} items, each {self.item.allowed}"

    def convert(self, value: object) -> tuple[Any, ...]:
        problems: list[Problem] = []
        items = self.read(value, "", problems)
        if problems:
            raise ValueError("; ".join(f"{problem.key} {problem.text}".strip() for problem in problems))
        return items or ()

    def read(self, value: object, key: str, problems: list[Problem]) -> tuple[Any, ...] | None:
        if not isinstance(value, list):
            hint = (
                f" (write [{value}])" if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
            )
            problems.append(Problem(key, f"{shown(value)} is {a_kind_of(value)}, not a list{hint}"))
            return None
        if not self.least <= len(value) <= self.most:
            problems.append(
                Problem(key, f"has {len(value)} items; allowed: {self.least} to {self.most} of them")
            )
            return None
        before = len(problems)
        items = tuple(self.item.read(item, f"{key}[{index}]", problems) for index, item in enumerate(value))
        return items if len(problems) == before else None

    def show(self, value: object) -> str:
        if isinstance(value, list):
            return f"[{', '.join(self.item.show(item) for item in value)}]"
        return shown(value)


def shown(value: object) -> str:
    """A value as it would stand in the file, cut to a length that fits a message; of lists only that they
    are.
    """
    if isinstance(value, list):
        return "[...]" if value else "[]"
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN_VALUE else f"{text[: MAX_SHOWN_VALUE - 3]}..."


def a_kind_of(value: object) -> str:
    """What YAML took a value for, in words."""
    if value is None:
        return "nothing"
    for kind, words in (
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number"),
        (str, "text"),
        (list, "a list"),
        (dict, "a section"),
    ):
        if isinstance(value, kind):
            return words
    return "a date or another YAML type"


def _quantity(value: object, units: Mapping[str, float], what: str) -> float:
    """A number, or text of a number and a unit, as a float of the smallest unit's meaning."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not {what}")
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)", value)
        if match is None or match[2] not in units:
            raise ValueError(f"{shown(value)} is not {what}")
        return float(match[1]) * units[match[2]]
    if not math.isfinite(value):
        raise ValueError(f"{value} is not {what}")
    return float(value)


def _within(value: Number, least: Number, most: Number, show: Callable[[Number], str]) -> Number:
    if value < least:
        raise ValueError(f"{show(value)} is too small")
    if value > most:
        raise ValueError(f"{show(value)} is too large")
    return value


def _compact(number: float) -> str:
    return f"{number:.12g}"
