"""Which build of this version runs."""

import re
import sys
from pathlib import Path
from typing import Final

SOURCE_TREE: Final = "source"
"""What runs from anything but an installed release."""

_RELEASE: Final = re.compile(r"sie-agent-[0-9][^-]*-([0-9a-f]{12})")


def build_of(prefix: Path) -> str:
    """The digest of the sources that the release installed in `prefix` was built from.

    A release is installed in a folder of its own name, which ends with that digest.
    """
    match = _RELEASE.fullmatch(prefix.resolve().name)
    return SOURCE_TREE if match is None else match[1]


BUILD: Final = build_of(Path(sys.prefix))
"""The build that runs."""
