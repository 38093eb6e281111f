"""A program of this machine, put on a host of the lab, which has no source to install it from."""

import re
import shutil
from pathlib import Path

from sie_lab.hosts import on
from sie_lab.machine import podman, run
from sie_lab.topology import Host

NOT_FOUND = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)


def lend(host: Host, *names: str) -> list[str]:
    """Put programs, and the libraries that they miss there, on a host; the paths that were not there before.

    To be given back by `take_back`.
    """
    lent: list[str] = []
    for name in names:
        found = shutil.which(name)
        assert found is not None, f"{name} is missing here: molecule/topology/prerequisites.sh installs it"
        _put(host, Path(found).resolve(), found, lent)
        libraries = dict(re.findall(r"(\S+) => (/\S+)", run(["ldd", found], check=False)))
        for missing in NOT_FOUND.findall(on(host, "ldd", found, check=False)):
            _put(host, Path(libraries[missing]).resolve(), libraries[missing], lent)
    return lent


def take_back(host: Host, lent: list[str]) -> None:
    """Remove what was lent."""
    if lent:
        on(host, "rm", "--force", *lent)


def _put(host: Host, source: Path, path: str, lent: list[str]) -> None:
    if not on(host, "sh", "-c", f"test -e {path} && echo there || true"):
        podman("cp", str(source), f"{host.container}:{path}")
        lent.append(path)
