# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# PRIVATE to the collection: it can change with any release.

"""Where resolvers ask upstream, from their configurations: authoritative servers, or another resolver for which they are clients.

Each function takes text and gives an Upstream; nothing here reads a file or runs a program.
"""

from __future__ import annotations

import re
from typing import NamedTuple

EVERYTHING = "."
MAX_FILES = 200  # that one configuration includes: more is a loop


class Forward(NamedTuple):
    """A zone that is asked of other resolvers, with recursion desired."""

    zone: str
    servers: tuple
    tls: bool


class Upstream(NamedTuple):
    """What a resolver asks of whom: what it forwards, whether it encrypts all the rest, whether it resolves at all."""

    forwards: tuple
    encrypts: bool = False
    recursive: bool = True

    @property
    def forwards_everything(self):
        """Whether no name is left that it would ask authoritative servers for."""
        return any(forward.zone == EVERYTHING for forward in self.forwards)

    def unseen(self):
        """Why a sensor beside it would record nothing, in a clause; None if it would record."""
        if not self.recursive:
            return None
        for forward in self.forwards:
            if forward.zone == EVERYTHING:
                return (
                    "forwards everything to %s%s and asks there with recursion desired (RD=1), as clients do"
                    % (
                        ", ".join(forward.servers) or "another resolver",
                        " over TLS" if forward.tls else "",
                    )
                )
        return (
            "asks authoritative servers over TLS (DoT) alone, which nobody reads on the way"
            if self.encrypts
            else None
        )


def zone(name):
    """A zone's name in one spelling: lower case, without the final dot but for the root's."""
    return name.lower().rstrip(".") or EVERYTHING


# --- Unbound ------------------------------------------------------------------------------------------------

_UNBOUND_TOKEN = re.compile(r'"([^"]*)"|\'([^\']*)\'|(#.*)|(\S+)')
_UNBOUND_CLAUSES = (
    *(
        "server:",
        "forward-zone:",
        "stub-zone:",
        "auth-zone:",
        "remote-control:",
        "view:",
        "dnstap:",
        "python:",
    ),
    *("dynlib:", "cachedb:", "ipset:", "rpz:", "dnscrypt:"),
)


def unbound(text, included):
    """unbound.conf(5). `included` gives the texts of the files that a pattern names."""
    forwards = []
    tls_upstream = False
    clause = None
    words = iter(_unbound_words(text, included, [MAX_FILES]))
    for word in words:
        if word in _UNBOUND_CLAUSES:
            clause = word
            if clause == "forward-zone:":
                forwards.append({"name": None, "servers": [], "tls": False})
        elif clause == "server:" and word in ("tls-upstream:", "ssl-upstream:"):
            tls_upstream = next(words, "no") == "yes"
        elif clause == "forward-zone:" and word == "name:":
            forwards[-1]["name"] = zone(next(words, ""))
        elif clause == "forward-zone:" and word in ("forward-addr:", "forward-host:"):
            forwards[-1]["servers"].append(next(words, "").split("#")[0])
        elif clause == "forward-zone:" and word in ("forward-tls-upstream:", "forward-ssl-upstream:"):
            forwards[-1]["tls"] = next(words, "no") == "yes"
    found = [
        Forward(one["name"], tuple(one["servers"]), one["tls"] or tls_upstream)
        for one in forwards
        if one["name"] is not None and one["servers"]
    ]
    return Upstream(tuple(found), encrypts=tls_upstream)


def _unbound_words(text, included, files_left):
    """The words of a configuration with what it includes in place."""
    words = []
    for line in text.splitlines():
        found = [
            quoted or single or plain
            for quoted, single, comment, plain in _UNBOUND_TOKEN.findall(line)
            if not comment
        ]
        if found and found[0] in ("include:", "include-toplevel:"):
            for inner in included(found[1]) if len(found) > 1 else []:
                files_left[0] -= 1
                if files_left[0] < 0:
                    raise ValueError("it includes more than %d files" % MAX_FILES)
                words += _unbound_words(inner, included, files_left)
        else:
            words += found
    return words


# --- BIND ---------------------------------------------------------------------------------------------------

_BIND_TOKEN = re.compile(r'"([^"]*)"|([{};])|([^\s{};"]+)')


def bind(text):
    """named.conf(5), as `named-checkconf -p` prints it: without comments, with what it includes in place."""
    statements = _bind_statements(iter(_BIND_TOKEN.findall(text)))
    options = [inner for words in statements if words[0] == "options" for inner in words[-1]]
    views = [words[-1] for words in statements if words[0] == "view" and words[1] != "_bind"]
    outside = [words for words in statements if words[0] == "zone"]
    scopes = [_bind_scope(view, options) for view in views] or [_bind_scope(options + outside, [])]
    resolving = [forwards for recursive, forwards in scopes if recursive]
    everything = resolving and all(any(one.zone == EVERYTHING for one in forwards) for forwards in resolving)
    found = []
    for forward in (one for forwards in resolving for one in forwards):
        if forward not in found and (everything or forward.zone != EVERYTHING):
            found.append(forward)
    return Upstream(tuple(found), recursive=bool(resolving))


def _bind_statements(tokens):
    """Statements as lists of words, in which a block is a list of statements."""
    statements = []
    words = []
    for quoted, mark, plain in tokens:
        if mark == "{":
            words.append(_bind_statements(tokens))
        elif mark == "}":
            break
        elif mark == ";":
            statements += [words] if words else []
            words = []
        else:
            words.append(quoted or plain)
    return statements


def _bind_scope(statements, defaults):
    """Whether a view resolves, and what it forwards; `defaults` are the global options."""
    recursive = True
    everything = None
    forwards = []
    for words in defaults + statements:
        if words[0] == "recursion":
            recursive = words[1] in ("yes", "true", "1")
        elif words[0] == "forwarders":
            everything = words
        elif words[0] == "zone" and ["type", "forward"] in words[-1]:
            forwards += [
                _bind_forward(zone(words[1]), inner) for inner in words[-1] if inner[0] == "forwarders"
            ]
    if everything is not None:
        forwards.insert(0, _bind_forward(EVERYTHING, everything))
    return recursive, [forward for forward in forwards if forward.servers]


def _bind_forward(name, words):
    servers = tuple(entry[0] for entry in words[-1])
    return Forward(name, servers, "tls" in words or any("tls" in entry for entry in words[-1]))


# --- PowerDNS Recursor --------------------------------------------------------------------------------------


def recursor(text, included):
    """recursor.conf of `key=value`. `included` gives the texts of the files that a pattern names."""
    settings = _recursor_settings(text)
    for inner in (
        included(settings["include-dir"].rstrip("/") + "/*.conf") if settings.get("include-dir") else []
    ):
        settings.update(_recursor_settings(inner, settings))
    forwards = [_recursor_forward(entry) for entry in _listed(settings.get("forward-zones-recurse", ""))]
    for file in included(settings["forward-zones-file"]) if settings.get("forward-zones-file") else []:
        for line in file.splitlines():
            entry = line.split("#")[0].strip()
            if entry.startswith(("+", "^+")):
                forwards.append(_recursor_forward(entry.lstrip("^+")))
    encrypts = EVERYTHING in [zone(name) for name in _listed(settings.get("dot-to-auth-names", ""))]
    return Upstream(tuple(forward for forward in forwards if forward.servers), encrypts=encrypts)


def recursor_document(document):
    """The Recursor's configuration of version 5, after YAML has been read."""
    recursive = document.get("recursor") or {}
    entries = list(recursive.get("forward_zones_recurse") or [])
    entries += [entry for entry in recursive.get("forward_zones") or [] if entry.get("recurse")]
    forwards = tuple(
        Forward(
            zone(entry["zone"]), tuple(entry.get("forwarders") or ()), _on_dot_port(entry.get("forwarders"))
        )
        for entry in entries
    )
    names = (document.get("outgoing") or {}).get("dot_to_auth_names") or []
    return Upstream(forwards, encrypts=EVERYTHING in [zone(name) for name in names])


def _recursor_settings(text, before=None):
    settings = {}
    for line in text.splitlines():
        key, equals, value = line.split("#")[0].partition("=")
        if equals and key.strip().endswith("+"):
            name = key.strip()[:-1]
            earlier = settings.get(name) or (before or {}).get(name)
            settings[name] = ",".join(filter(None, [earlier, value.strip()]))
        elif equals:
            settings[key.strip()] = value.strip()
    return settings


def _listed(text):
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def _recursor_forward(entry):
    name, _equals, servers = entry.partition("=")
    listed = tuple(part.strip() for part in re.split("[;,]", servers) if part.strip())
    return Forward(zone(name.strip()), listed, _on_dot_port(listed))


def _on_dot_port(servers):
    return bool(servers) and all(str(server).endswith(":853") for server in servers)
