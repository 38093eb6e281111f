"""What the lab writes on its hosts, as Jinja templates beside this file."""

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jinja2

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # configuration files, not web pages
)
_ENVIRONMENT.tests["in_v4"] = lambda text: ip_address(text).version == 4


def render(template: str, /, **values: Any) -> str:
    """The template of that name, filled in; a value that is missing is an error."""
    return _ENVIRONMENT.get_template(template).render(**values)
