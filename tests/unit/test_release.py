"""A release as a host gets it: everything in it accounted for, and installable with no network and no pip."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
BUILD = [sys.executable, str(REPOSITORY / "molecule/release/build.py")]
SYSTEM_PYTHON = "/usr/bin/python3"
PYTHONS = ("cp311", "cp312", "cp313")
GLIBC = 28  # RedHat 8's is 2.28; every newer one has its symbols


@pytest.fixture(scope="module")
def archives() -> dict[str, Path]:
    """The releases of the tree as it is, from the cache if it has them."""
    built = subprocess.run(BUILD, check=True, stdout=subprocess.PIPE, text=True)
    return {name: Path(path) for name, path in json.loads(built.stdout).items()}


@pytest.fixture(scope="module", params=["agent", "hub"])
def release(
    request: pytest.FixtureRequest, archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An unpacked release."""
    folder = tmp_path_factory.mktemp("release")
    subprocess.run(["tar", "--extract", f"--file={archives[request.param]}"], cwd=folder, check=True)
    return folder / archives[request.param].name.removesuffix(".tar")


def manifest_of(release: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((release / "manifest.json").read_text())
    return manifest


def test_an_unchanged_tree_builds_nothing(archives: dict[str, Path]) -> None:
    again = subprocess.run(BUILD, check=True, capture_output=True, text=True)
    assert {name: Path(path) for name, path in json.loads(again.stdout).items()} == archives
    assert again.stderr == ""
    for name, archive in archives.items():
        suffix = ".tar.gz" if name == "collection" else ".tar"
        latest = archive.parents[0 if name != "collection" else 1] / f"{name}{suffix}"
        assert latest.resolve() == archive.resolve()


def test_the_manifest_names_every_file(release: Path) -> None:
    found = {str(path.relative_to(release)) for path in release.rglob("*") if path.is_file()}
    assert found == {"manifest.json", *manifest_of(release)["files"]}


def test_every_requirement_is_pinned_to_one_wheel(release: Path) -> None:
    digests = set(manifest_of(release)["files"].values())
    used: set[str] = set()
    for python in manifest_of(release)["pythons"]:
        for line in (release / f"requirements-{python}.txt").read_text().splitlines():
            pinned, digest = line.split(" --hash=sha256:")
            assert "==" in pinned
            assert digest in digests, pinned
            used.add(digest)
    wheels = {path: digest for path, digest in manifest_of(release)["files"].items() if path.endswith(".whl")}
    unused = [path for path, digest in wheels.items() if digest not in used]
    assert [path.split("-")[0] for path in unused] == ["wheels/pip"]


def test_wheels_fit_every_supported_system(release: Path) -> None:
    """Nothing is tagged for this machine alone: `linux_x86_64` would not even install elsewhere."""
    for wheel in (release / "wheels").iterdir():
        python, abi, platform = wheel.stem.split("-")[-3:]
        glibc = [int(minor) for minor in re.findall(r"manylinux_2_([0-9]+)_", platform)]
        assert platform == "any" or re.search("manylinux(1|2010|2014)_", platform) or min(glibc) <= GLIBC, (
            wheel.name
        )
        assert python in ("py3", "py2.py3", *PYTHONS) or abi == "abi3", wheel.name


def test_our_wheel_needs_no_newer_c_library_than_its_tag_says(release: Path) -> None:
    """Of this machine's C library nothing is in it: auditwheel reads which versions its symbols ask for."""
    (wheel,) = (release / "wheels").glob("sie_core-*.whl")
    said = subprocess.run(
        ["auditwheel", "show", str(wheel)], check=True, capture_output=True, text=True
    ).stdout
    assert f'platform tag: "manylinux_2_{GLIBC}_x86_64"' in " ".join(said.split())


def test_no_registry_is_named(release: Path) -> None:
    for python in manifest_of(release)["pythons"]:
        text = (release / f"requirements-{python}.txt").read_text()
        assert "://" not in text
        assert "--index" not in text


@pytest.mark.root
def test_a_release_installs_without_network_and_pip(release: Path, tmp_path: Path) -> None:
    """As the role `bundle` does it, in a network namespace that has not even a loopback that is up."""
    program = manifest_of(release)["program"]
    (pip,) = (release / "wheels").glob("pip-*.whl")
    home = tmp_path / "home"
    alone = ["unshare", "--net"]
    which = [SYSTEM_PYTHON, "-c", "import sys; print('cp%d%d' % sys.version_info[:2])"]
    python = subprocess.run(which, check=True, capture_output=True, text=True).stdout.strip()
    if python not in manifest_of(release)["pythons"]:
        pytest.skip(f"releases are not built for this system's {python}")
    subprocess.run([*alone, SYSTEM_PYTHON, "-m", "venv", "--without-pip", str(home)], check=True)
    install = [str(home / "bin/python"), str(pip / "pip"), "install", "--quiet", "--no-index", "--no-deps"]
    install += ["--require-hashes", "--find-links", str(release / "wheels")]
    install += ["--requirement", str(release / f"requirements-{python}.txt")]
    subprocess.run([*alone, *install], check=True, env={"PATH": "/usr/bin:/bin"})
    said = subprocess.run(
        [*alone, home / "bin" / program, "--version"], check=True, capture_output=True, text=True
    )
    assert said.stdout.split()[:2] == [program, manifest_of(release)["version"]]
    checked = subprocess.run(
        [*alone, home / "bin" / program, "check-config", tmp_path / "absent.yml"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 2
    assert str(tmp_path / "absent.yml") in checked.stderr
