"""What is handed to a participant: written the same every time, and refused when anything in it was touched.

The modules run in processes of their own, as under Ansible; ssh-keygen is the real one.
"""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ansible_module import run_module

CONTENT = {"README.md": "Read me.\n", "wheels/agent.whl": "\0\1\2" * 1000, "hub_ca.pem": "certificate\n"}


def make_key(path: Path, kind: str = "ed25519") -> str:
    """A new signing key; its fingerprint."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    shown = subprocess.run(["ssh-keygen", "-l", "-f", path], check=True, capture_output=True, text=True)
    return shown.stdout.split()[1]


def sign(file: Path, *, key: Path, namespace: str) -> None:
    """Sign a file as ssh-keygen does for anybody."""
    command: list[str | Path] = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", key, file]
    subprocess.run(command, check=True, capture_output=True)


def wanted(folder: Path, **changes: Any) -> dict[str, Any]:
    """Arguments that write CONTENT as isp_a's bundle into `folder`."""
    files = [{"path": path, "content": content} for path, content in CONTENT.items()]
    arguments = {"path": str(folder), "name": "isp_a-onboarding", "signing_key": str(folder / "key")}
    return arguments | {"files": files, "facts": {"participant": "isp_a"}} | changes


@pytest.fixture
def unpacked(tmp_path: Path) -> tuple[Path, str]:
    """A bundle as a participant has it after unpacking, and its signer's fingerprint."""
    signer = make_key(tmp_path / "key")
    assert run_module("onboarding_bundle", wanted(tmp_path))["changed"]
    subprocess.run(["tar", "--extract", "--file=isp_a-onboarding.tar.gz"], cwd=tmp_path, check=True)
    return tmp_path / "isp_a-onboarding", signer


def test_a_bundle_holds_what_it_was_given_and_is_signed(tmp_path: Path) -> None:
    signer = make_key(tmp_path / "key")

    result = run_module("onboarding_bundle", wanted(tmp_path))

    archive = Path(result["archive"])
    assert result["changed"]
    assert result["signer"] == signer
    with tarfile.open(archive) as tar:
        names = {member.name.removeprefix("isp_a-onboarding/") for member in tar}
        assert names == {*CONTENT, "manifest.json", "manifest.json.sig"}
        for path, content in CONTENT.items():
            member = tar.extractfile(f"isp_a-onboarding/{path}")
            assert member is not None
            assert member.read() == content.encode()
    shown = subprocess.run(
        ["ssh-keygen", "-Y", "check-novalidate", "-n", "sie-onboarding", "-s", f"{archive}.sig"],
        input=archive.read_bytes(),
        check=True,
        capture_output=True,
    )
    assert signer in shown.stdout.decode()


def test_writing_the_same_again_changes_nothing(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    archive = Path(run_module("onboarding_bundle", wanted(tmp_path))["archive"])
    octets = archive.read_bytes()

    assert not run_module("onboarding_bundle", wanted(tmp_path))["changed"]
    assert archive.read_bytes() == octets
    other = [*wanted(tmp_path)["files"][:-1], {"path": "hub_ca.pem", "content": "another certificate\n"}]
    assert run_module("onboarding_bundle", wanted(tmp_path, files=other), check=True)["changed"]
    assert archive.read_bytes() == octets
    assert run_module("onboarding_bundle", wanted(tmp_path, files=other))["changed"]
    assert archive.read_bytes() != octets


def test_a_key_whose_signatures_differ_each_time_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path / "key", "ecdsa")
    result = run_module("onboarding_bundle", wanted(tmp_path))
    assert result["failed"]
    assert "is not an Ed25519 key" in result["msg"]


def test_check_mode_needs_no_key_yet(tmp_path: Path) -> None:
    assert run_module("onboarding_bundle", wanted(tmp_path), check=True)["changed"]
    assert list(tmp_path.iterdir()) == []


def test_an_untouched_bundle_passes(unpacked: tuple[Path, str]) -> None:
    folder, signer = unpacked
    (folder / "inventory.yml").write_text("a participant's own file, which no manifest names")

    result = run_module("signed_manifest", {"path": str(folder), "signer": signer})

    assert not result["changed"]
    assert result["manifest"]["participant"] == "isp_a"
    assert set(result["manifest"]["files"]) == set(CONTENT)


def alter(folder: Path) -> None:
    (folder / "hub_ca.pem").write_text("certificatf\n")


def remove(folder: Path) -> None:
    (folder / "wheels/agent.whl").unlink()


def link(folder: Path) -> None:
    shutil.move(folder / "README.md", folder / "elsewhere")
    (folder / "README.md").symlink_to("elsewhere")


def rewrite_manifest(folder: Path) -> None:
    alter(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["hub_ca.pem"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))


def sign_with_another_key(folder: Path) -> None:
    make_key(folder / "other")
    (folder / "manifest.json.sig").unlink()
    sign(folder / "manifest.json", key=folder / "other", namespace="sie-onboarding")


def sign_for_another_purpose(folder: Path) -> None:
    (folder / "manifest.json.sig").unlink()
    sign(folder / "manifest.json", key=folder.parent / "key", namespace="file")


def remove_signature(folder: Path) -> None:
    (folder / "manifest.json.sig").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (alter, "hub_ca.pem has been altered"),
        (remove, "wheels/agent.whl is missing"),
        (link, "README.md is not a regular file"),
        (rewrite_manifest, "does not fit what it signs"),
        (sign_with_another_key, "was signed by SHA256:"),
        (sign_for_another_purpose, "does not fit what it signs"),
        (remove_signature, "does not fit what it signs"),
        (remove_manifest, "cannot be read: No such file or directory"),
    ],
)
def test_a_bundle_that_was_touched_is_refused(
    unpacked: tuple[Path, str], tamper: Callable[[Path], None], sentence: str
) -> None:
    folder, signer = unpacked
    tamper(folder)
    result = run_module("signed_manifest", {"path": str(folder), "signer": signer})
    assert result["failed"]
    assert sentence in result["msg"]


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a//b"])
def test_a_manifest_that_reaches_outside_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "files": {path: "0" * 64}}))
    result = run_module("signed_manifest", {"path": str(tmp_path)})
    assert result["failed"]
    assert f"{path} points outside the folder" in result["msg"]


def test_another_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2, "files": {}}))
    result = run_module("signed_manifest", {"path": str(tmp_path)})
    assert "has format 2 and this collection reads format 1" in result["msg"]
