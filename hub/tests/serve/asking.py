"""Asking a store without HTTP: the path and parameters of a request in, the objects of its answer out."""

import json
from contextlib import closing
from typing import Any

from sie_hub.serve import answer
from sie_hub.serve.engine import Connection
from sie_hub.serve.question import Verb, parse_question, path_segments
from sie_hub.serve.statements import statement


class Answered:
    """The objects of an answer and how it ended."""

    def __init__(self, lines: bytes) -> None:
        *data, last = map(json.loads, lines.splitlines())
        self.objects: list[dict[str, Any]] = [line["obj"] for line in data]
        self.ending: str = last["cond"]


def ask(connection: Connection, path: str, query: str, now: int, verb: Verb = Verb.LOOKUP) -> Answered:
    """The answer to a request."""
    question = parse_question(verb, path_segments(path), query, now)
    rendering = answer.Summary(question) if verb is Verb.SUMMARIZE else answer.Rows(question)
    lines = b""
    with closing(connection.stream(*statement(question))) as blocks:
        for block in blocks:
            lines += rendering.add(block)
            if rendering.full:
                break
    return Answered(lines + rendering.end())
