"""Build what is released: the Ansible collection, and the programs that its roles install offline.

A program's release `sie-agent-0.1.0-<digest>.tar` holds one folder of the same name:

    manifest.json              program, version, Python tags, form of its state, SHA-256 of every other file
    requirements-cp311.txt     hash-locked, one per Python tag; names no registry
    wheels/*.whl               everything those files name, and pip itself to install it

The digest covers what the release is made from (sources, requirements-dev.lock, this folder), so an unchanged
tree finds its release in the cache and builds nothing. Versions are those of requirements-dev.lock: what was
tested is what is shipped. Prints one JSON object {what: path} on standard output, progress on standard
error; links `agent.tar`, `hub.tar` and `collection.tar.gz` in the cache's releases/ name the newest.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LOCK = REPOSITORY / "requirements-dev.lock"
INSTALLER = HERE / "installer.txt"

DEBIAN_PYTHONS = ("3.11", "3.13")  # Debian 12, also RedHat 9's AppStream, and Debian 13
LIBRARY = "manylinux_2_28"
PLATFORM = f"x86_64-{LIBRARY}"  # the oldest C library of a system that has these Pythons
# pip takes a platform literally: each tag that glibc 2.28 satisfies is named.
WHEEL_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
)
COLLECTION = "collections/ansible_collections/sie_europe/passive_dns"
KEPT_RELEASES = 3  # of each kind in the cache; older ones go when a new one is built
DIGEST_LENGTH = 12  # hex digits in a release's name: enough to tell one tree from another
UNSOURCED = {"__pycache__", "target", "tests", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


@dataclass(frozen=True)
class Program:
    """One installable program: its distribution's folder, the Pythons it is for, and dependencies it can do
    without.

    `state` is raised when the release before cannot read any more what the program keeps on a host; roles
    refuse to go back across it.
    """

    name: str
    folder: str
    pythons: tuple[str, ...] = DEBIAN_PYTHONS
    state: int = 1
    unneeded: tuple[str, ...] = ()


PROGRAMS = {
    "agent": Program("sie-agent", "agent", ("3.11", "3.12", "3.13")),  # 3.12: Ubuntu 24.04, RedHat 10
    # sie_hub.serve.engine loads the database's extension directly; the package around it would pull these in.
    "hub": Program("sie-hub", "hub", unneeded=("pandas", "pyarrow")),
}


class BuildError(Exception):
    """A step failed; the message says which and how."""


def tag(python: str) -> str:
    """`3.11` -> `cp311`."""
    return "cp" + python.replace(".", "")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_files(folder: Path) -> Iterator[Path]:
    """Every file that goes into the wheel built from `folder`, in a fixed order."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not UNSOURCED & set(inside.parts) and path.suffix not in {".so", ".pyc"}:
            yield path


def digest(paths: Iterable[Path]) -> str:
    """One digest over names and contents of files inside the repository."""
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{path.relative_to(REPOSITORY)}\0{sha256(path)}\n".encode())
    return whole.hexdigest()[:DIGEST_LENGTH]


def project(folder: str) -> dict[str, object]:
    """The [project] table of a distribution."""
    with (REPOSITORY / folder / "pyproject.toml").open("rb") as file:
        table = tomllib.load(file)["project"]
    assert isinstance(table, dict)
    return table


def dependencies(folder: str) -> list[str]:
    """Third-party requirements of one distribution; its siblings are built here."""
    listed = project(folder)["dependencies"]
    assert isinstance(listed, list)
    return [entry for entry in listed if not entry.startswith("sie-")]


def run(arguments: Sequence[str | Path], *, cwd: Path | None = None, stdin: str | None = None) -> str:
    """Run a tool of the virtual environment; its output, or a BuildError carrying what it said."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(a) for a in arguments],
        cwd=cwd,
        input=stdin,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"{' '.join(map(str, arguments[:4]))} ... failed:\n{done.stderr or done.stdout}")
    return done.stdout


def say(text: str) -> None:
    """Progress, for the person waiting."""
    print(f"release: {text}", file=sys.stderr, flush=True)


def own_wheel(folder: str, cache: Path) -> Path:
    """The wheel of one of our distributions, built unless its sources have one already."""
    kept = cache / "wheels" / f"{folder}-{LIBRARY}-{digest(source_files(REPOSITORY / folder))}"
    if not kept.is_dir():
        say(f"building the wheel of {folder}/")
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            built = Path(scratch, "built")
            if folder == "core":
                # zig links against that C library, whichever this machine has; maturin checks the tag.
                old = ["--zig", "--compatibility", LIBRARY]
                run(
                    ["maturin", "build", "--release", "--quiet", *old, "--out", built],
                    cwd=REPOSITORY / folder,
                )
            else:
                hatch = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
                run([*hatch, "--directory", str(built)], cwd=REPOSITORY / folder)
            built.rename(kept)
    (wheel,) = kept.glob("*.whl")
    return wheel


def resolve(program: Program, python: str) -> str:
    """Requirements of `program` for one Python with hashes, in the versions of requirements-dev.lock."""
    wanted = sorted({*dependencies("core"), *dependencies(program.folder)})
    with tempfile.TemporaryDirectory() as scratch:
        never = Path(scratch, "unneeded.txt")
        never.write_text("".join(f"{name} ; python_version < '3'\n" for name in program.unneeded))
        versions: list[str | Path] = ["--constraint", LOCK, "--override", never, "--generate-hashes"]
        target = ["--python-version", python, "--python-platform", PLATFORM, "--only-binary", ":all:"]
        plain = ["--quiet", "--no-header", "--no-annotate", "--no-emit-index-url"]
        return run(
            ["uv", "--system-certs", "pip", "compile", *versions, *target, *plain, "-"],
            stdin="\n".join(wanted),
        )


def download(requirements: Path, destination: Path, python: str | None) -> list[Path]:
    """Fetch the wheels that a hash-locked file names, for one Python or, with None, for any."""
    target: list[str] = []
    if python is not None:
        target = ["--implementation", "cp", "--python-version", python]
        target += [part for name in WHEEL_PLATFORMS for part in ("--platform", name)]
        target += [part for abi in (tag(python), "abi3", "none") for part in ("--abi", abi)]
    destination.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    wheels_only = ["--only-binary", ":all:", "--require-hashes"]
    run([*pip, *wheels_only, *target, "--dest", destination, "--requirement", requirements])
    return sorted(destination.glob("*.whl"))


def requirement(wheel: Path) -> str:
    """The line that pins exactly this wheel: `name==version --hash=sha256:...`."""
    name, version, *_ = wheel.name.split("-")
    return f"{name.lower().replace('_', '-')}=={version} --hash=sha256:{sha256(wheel)}\n"


def fill(release: Path, program: Program, cache: Path) -> None:
    """Put wheels, requirements and manifest of `program` into an empty folder."""
    wheels = release / "wheels"
    wheels.mkdir(parents=True)
    own = [Path(shutil.copy2(own_wheel(folder, cache), wheels)) for folder in ("core", program.folder)]
    with tempfile.TemporaryDirectory() as scratch:
        for python in program.pythons:
            say(f"fetching what {program.name} needs on Python {python}")
            locked = Path(scratch, f"{tag(python)}.txt")
            locked.write_text(resolve(program, python))
            fetched = download(locked, Path(scratch, tag(python)), python)
            lines = sorted(requirement(wheel) for wheel in [*own, *fetched])
            (release / f"requirements-{tag(python)}.txt").write_text("".join(lines))
            for wheel in fetched:
                shutil.copy2(wheel, wheels)
        for wheel in download(INSTALLER, Path(scratch, "installer"), None):
            shutil.copy2(wheel, wheels)
    manifest = {
        "format": 1,
        "program": program.name,
        "version": project(program.folder)["version"],
        "state": program.state,
        "pythons": [tag(python) for python in program.pythons],
        "files": files(release),
    }
    (release / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def files(folder: Path) -> Mapping[str, str]:
    """SHA-256 of every file below `folder`, by its relative path."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in found}


def pack(folder: Path, archive: Path) -> None:
    """Write `folder` as a tar whose octets depend on its content alone."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = "root"
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    partial = archive.with_suffix(".part")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder, arcname=folder.name, filter=anonymous)  # tarfile walks a folder in sorted order
    partial.rename(archive)


def build_collection(cache: Path) -> Path:
    """The collection's archive for the tree as it is: from the cache, or made now."""
    kept = cache / "releases" / f"collection-{digest(source_files(REPOSITORY / COLLECTION))}"
    if not kept.is_dir():
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            built = Path(scratch, "built")
            run(
                ["ansible-galaxy", "collection", "build", "--output-path", str(built)],
                cwd=REPOSITORY / COLLECTION,
            )
            built.rename(kept)
    keep_newest(kept.parent, "collection-*")
    (archive,) = kept.glob("*.tar.gz")
    return archive


def name_latest(archive: Path, stem: Path) -> None:
    """Make a link to the newest archive of its kind, such as `releases/hub.tar`, for inventories to name."""
    link = stem.with_name(f"{stem.name}.tar{'.gz' if archive.suffix == '.gz' else ''}")
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(archive.relative_to(stem.parent))
    fresh.replace(link)


def keep_newest(folder: Path, pattern: str) -> None:
    """Remove all but the newest of what `pattern` finds."""
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in found[KEPT_RELEASES:]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()


def build_program(program: Program, cache: Path) -> Path:
    """The release of `program` for the tree as it is: from the cache, or made now."""
    releases = cache / "releases"
    sources = [path for folder in ("core", program.folder) for path in source_files(REPOSITORY / folder)]
    made_from = digest([*sources, LOCK, INSTALLER, Path(__file__).resolve()])
    name = f"{program.name}-{project(program.folder)['version']}-{made_from}"
    archive = releases / f"{name}.tar"
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir=releases) as scratch:
            fill(Path(scratch, name), program, cache)
            pack(Path(scratch, name), archive)
        say(f"{archive.name}: {archive.stat().st_size / 1e6:.1f} MB")
    archive.touch()
    keep_newest(releases, f"{program.name}-*.tar")
    return archive


def main() -> int:
    """Command line; exit codes 0 built, 1 a step failed."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sie-fleet")
    everything = [*PROGRAMS, "collection"]
    parser = argparse.ArgumentParser(description="Build the collection, and the programs that it installs.")
    parser.add_argument("wanted", nargs="*", help=f"what to build, of {', '.join(everything)}; default: all")
    parser.add_argument(
        "--cache", type=Path, default=default, help="where wheels and releases are kept (%(default)s)"
    )
    arguments = parser.parse_args()
    wanted: list[str] = arguments.wanted or everything
    if unknown := set(wanted) - set(everything):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(everything)}")
    cache: Path = arguments.cache
    os.environ.setdefault("CARGO_TARGET_DIR", str(cache / "target"))
    made: dict[str, str] = {}
    try:
        for folder in ("releases", "wheels"):
            (cache / folder).mkdir(parents=True, exist_ok=True)
        for name in wanted:
            archive = build_program(PROGRAMS[name], cache) if name in PROGRAMS else build_collection(cache)
            name_latest(archive, cache / "releases" / name)
            made[name] = str(archive)
    except BuildError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print(json.dumps(made, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
