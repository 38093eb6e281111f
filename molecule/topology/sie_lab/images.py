"""The two host images, Debian 12 and 13, bootstrapped from the mirror in this machine's apt sources.

An image's tag is a hash of all that goes into it, so that an image that exists is the right one; its archive
is kept in the cache.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sie_lab import apt_sources
from sie_lab.machine import LabError, cache, exclusively, podman, run

BASE = (
    *(
        "systemd",
        "systemd-sysv",
        "dbus",
        "python3",
        "python3-venv",
        "openssh-server",
        "ca-certificates",
        "tzdata",
    ),
    *(
        "iproute2",
        "nftables",
        "procps",
        "iputils-ping",
        "ethtool",
        "tcpdump",
        "bind9-dnsutils",
        "libcap2-bin",
    ),
)
# unbound needs dns-root-data, a recommended package
NAME_SERVICE = ("unbound", "bind9", "pdns-recursor", "nsd", "dns-root-data")


@dataclass(frozen=True)
class Recipe:
    """What an image is made of."""

    release: str
    packages: tuple[str, ...]


RECIPES: Mapping[str, Recipe] = {
    "debian12": Recipe("bookworm", (*BASE, *NAME_SERVICE)),
    "debian13": Recipe("trixie", (*BASE, "nats-server", "nsd")),
}

LAST_STEP = Path(__file__).resolve().parents[1] / "image-hook.sh"
NO_DOCUMENTATION = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")
# What a mirror needs of this machine's apt settings to be reached and believed.
FORWARDED_SETTINGS = (
    "Acquire::http::Proxy ",
    "Acquire::https::Proxy ",
    "Acquire::Check-Valid-Until ",
    "Acquire::Check-Date ",
)


def reference(name: str) -> str:
    """The image's full name: localhost/sie-lab-debian12:<hash of its recipe>."""
    recipe = RECIPES[name]
    content = json.dumps([recipe.release, recipe.packages, LAST_STEP.read_text(), NO_DOCUMENTATION])
    return f"localhost/sie-lab-{name}:{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def ensure(name: str) -> bool:
    """Make the image exist; True if it had to be imported or built (a minute). LabError without a mirror."""
    full = reference(name)
    with exclusively(cache() / f"{name}.lock"):
        archive = cache() / "images" / f"{full.removeprefix('localhost/').replace(':', '-')}.tar.zst"
        missing = full not in _existing(name)
        if missing:
            if not archive.exists():
                _bootstrap(RECIPES[name], archive)
            podman("import", "--change", 'CMD ["/sbin/init"]', archive, full)
        _forget_older(name, full, archive)
    return missing


def _existing(name: str) -> list[str]:
    listed = podman("image", "list", "--format", "{{.Repository}}:{{.Tag}}").split()
    return [full for full in listed if full.startswith(f"localhost/sie-lab-{name}:")]


def _bootstrap(recipe: Recipe, archive: Path) -> None:
    current = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    sources = apt_sources.for_release(apt_sources.read(), current, recipe.release)
    if not sources:
        raise LabError(
            f"no Debian mirror found: no source under /etc/apt is Debian's archive with suite {current!r}; "
            "add the one that this machine may use"
        )
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f"partial-{archive.name}")
    settings = [
        line for line in run(["apt-config", "dump"]).splitlines() if line.startswith(FORWARDED_SETTINGS)
    ]
    run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(recipe.packages)}",
            *(f"--dpkgopt=path-exclude={path}" for path in NO_DOCUMENTATION),
            *(f"--aptopt={setting}" for setting in settings),
            f"--customize-hook={LAST_STEP}",
            recipe.release,
            partial,
            *(source.line() for source in sources),
        ]
    )
    partial.rename(archive)


def _forget_older(name: str, full: str, archive: Path) -> None:
    """Images of earlier recipes go, but for those that a host still runs from."""
    for old in _existing(name):
        if old != full:
            podman("image", "rm", old, check=False)
    for file in archive.parent.glob(f"sie-lab-{name}-*.tar.zst"):
        if file != archive:
            file.unlink()
