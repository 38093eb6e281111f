"""How a request to nats-server can fail. There are two ways only, and what to do differs."""

from collections.abc import Mapping
from typing import Any, Final

_WRONG_LAST_SEQUENCE: Final = {10071, 10164}  # JetStream error codes: JSStreamWrongLastSequence…


class Unavailable(Exception):
    """nats-server did not answer, or could not do what was asked now. It may or may not have been done."""


class Fenced(Exception):
    """Nothing was written: the last sequence was another than expected, so somebody else has written."""


def refusal(error: Mapping[str, Any]) -> Exception:
    """What an error of JetStream's API means; the fields are those of its JSON."""
    description, code = error.get("description"), error.get("err_code")
    if code in _WRONG_LAST_SEQUENCE:
        return Fenced(description or "wrong last sequence")
    return Unavailable(f"nats-server refused: {description} (code {code})")
