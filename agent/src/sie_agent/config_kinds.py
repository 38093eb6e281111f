"""The kinds of values that only the agent's configuration has. Pure, as those of sie_core.kinds."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from sie_core.kinds import Kind, Prefix, a_kind_of, shown

HOST: Final = "host"
"""The word that stands for every global address of this host's interfaces."""

MAX_SOCKET_PATH: Final = 107
"""Octets of a UNIX socket's path: the 108 of `sun_path` in unix(7), less the final zero."""

MAX_PATTERN: Final = 4096
"""Characters of a regular expression: a few hundred alternatives; a longer list is one of suffixes."""

ACCOUNT: Final = r"[a-z_][a-z0-9_-]{0,31}"
"""A name of an account, as Linux has them."""

_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"


@dataclass(frozen=True)
class Resolver(Kind):
    """An address or prefix as text in its shortest form, or the word `host`."""

    @property
    def allowed(self) -> str:
        return f"an IP address or prefix, or the word {HOST} (every global address of this host)"

    def convert(self, value: object) -> str:
        return HOST if value == HOST else str(Prefix().convert(value))


@dataclass(frozen=True)
class OneOf(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return ", ".join(self.words[:-1]) + f" or {self.words[-1]}"

    def convert(self, value: object) -> str:
        if value not in self.words:
            raise ValueError(f"{shown(value)} is none of them")
        return str(value)


class DropAddress(NamedTuple):
    """An account at an SSH server."""

    account: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"sftp://{self.account}@{host}:{self.port}"


@dataclass(frozen=True)
class Drop(Kind):
    """Where containers are put as files: `sftp://ACCOUNT@HOST[:PORT]`. Gives a DropAddress."""

    @property
    def allowed(self) -> str:
        return "sftp://ACCOUNT@HOST[:PORT]"

    def convert(self, value: object) -> DropAddress:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not an address")
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as wrong:
            raise ValueError(f"{shown(value)} is not an address ({wrong})") from None
        if parts.scheme != "sftp" or not parts.hostname or port == 0 or re.search(r"\s", value):
            raise ValueError(f"{shown(value)} is not sftp:// with an account, a host and perhaps a port")
        if parts.password is not None:
            raise ValueError("an address in a configuration holds no password: this sensor has a key")
        if re.fullmatch(ACCOUNT, parts.username or "") is None:
            raise ValueError(f"{shown(value)} names no account: ask the hub's operator for this sensor's")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(
                f"{shown(value)} has something after the host and port, which the program adds by itself"
            )
        return DropAddress(str(parts.username), parts.hostname, port or 22)


@dataclass(frozen=True)
class Endpoint(Kind):
    """Where a resolver brings its dnstap: `unix:/PATH`, or `tcp:ADDRESS:PORT` with IPv6 in brackets."""

    @property
    def allowed(self) -> str:
        return "unix:/PATH or tcp:ADDRESS:PORT, as in tcp:127.0.0.1:6000 or tcp:[::1]:6000"

    def convert(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not an endpoint")
        if value.startswith("unix:"):
            return self._unix(value)
        match = re.fullmatch(r"tcp:(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", value)
        if match is None:
            raise ValueError(f"{shown(value)} is no endpoint")
        try:
            address = ipaddress.ip_address(match[1] or match[2])
        except ValueError:
            raise ValueError(f"{shown(value)} names no IP address") from None
        if not 1 <= int(match[3]) <= 65535:
            raise ValueError(f"{shown(value)} ends with a port that is not between 1 and 65535")
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"tcp:{host}:{int(match[3])}"

    @staticmethod
    def _unix(value: str) -> str:
        path = value.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or path.endswith("/"):
            raise ValueError(f"{shown(value)} names no absolute path of a socket")
        if (octets := len(path.encode())) > MAX_SOCKET_PATH:
            raise ValueError(f"its path has {octets} octets, where a socket's has {MAX_SOCKET_PATH} at most")
        return value


@dataclass(frozen=True)
class Sender(Kind):
    """An address or prefix as text in its shortest form."""

    @property
    def allowed(self) -> str:
        return "an IP address or prefix"

    def convert(self, value: object) -> str:
        return str(Prefix().convert(value))


@dataclass(frozen=True)
class Zone(Kind):
    """The name of a zone in its usual form, with or without the final dot; gives it without, lower-case."""

    @property
    def allowed(self) -> str:
        return "a domain name, as in corp.example"

    def convert(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not a domain name")
        if value == ".":
            raise ValueError('"." is the root: it would keep out every name')
        name = value.removesuffix(".").lower()
        if len(name) > 253 or re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", name) is None:
            raise ValueError(f"{shown(value)} is no domain name")
        return name


@dataclass(frozen=True)
class Pattern(Kind):
    """A regular expression. Only its length is judged here; its grammar is judged by what uses it."""

    @property
    def allowed(self) -> str:
        return f"a regular expression of 1 to {MAX_PATTERN} characters"

    def convert(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is {a_kind_of(value)}, not text (quotes make it text)")
        if not 1 <= len(value) <= MAX_PATTERN:
            raise ValueError(f"it has {len(value)} characters")
        return value
