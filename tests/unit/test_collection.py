"""The collection as it is shipped: complete when built, documented, and of one version with the programs."""

import ast
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.unit.roles_page import ORDER, PAGE, ROLES, page

REPOSITORY = Path(__file__).parents[2]
COLLECTION = REPOSITORY / "collections/ansible_collections/sie_europe/passive_dns"
PLAYBOOKS = tuple(sorted(path.stem for path in (COLLECTION / "playbooks").glob("*.yml")))
HOW_TO = {
    "hub": "build-a-hub.md",
    "diagnose": "diagnose.md",
    "renewals": "rotate-keys.md",
    "sign_request": "ca-off-the-hub.md",
    "rotate_keys": "rotate-keys.md",
    "offboard_participant": "participant-leaves.md",
    "upgrade": "upgrade.md",
    "rollback": "upgrade.md",
    "onboard_participant": "onboard-a-participant.md",
    "configure_my_sensor": "configure-my-sensor.md",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `ansible-galaxy collection build` packs. It ends with success even when it leaves roles out."""
    output = tmp_path_factory.mktemp("built")
    build = ["ansible-galaxy", "collection", "build", "--output-path", str(output)]
    subprocess.run(build, cwd=COLLECTION, check=True, capture_output=True)
    (made,) = output.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def shipped(archive: Path) -> dict[str, tarfile.TarInfo]:
    """The files in it."""
    with tarfile.open(archive) as tar:
        return {member.name: member for member in tar}


@pytest.fixture(scope="module")
def elsewhere(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run Ansible in an empty folder in which nothing but the collection is installed."""
    place = tmp_path_factory.mktemp("elsewhere")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "ANSIBLE_COLLECTIONS_PATH": str(place / "collections"),
        "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("ansible-galaxy", "collection", "install", "--offline", "-p", "collections", str(archive))
    return run


def test_an_installed_collection_runs(elsewhere: Callable[..., str]) -> None:
    said = elsewhere(
        "ansible", "localhost", "-m", "sie_europe.passive_dns.sensor_info", "-a", "program=/nowhere/agent"
    )
    assert said.startswith("localhost | SUCCESS")
    assert '"installed": false' in said


def test_installed_playbooks_have_the_tags_that_are_documented(elsewhere: Callable[..., str]) -> None:
    names = [f"sie_europe.passive_dns.{playbook}" for playbook in PLAYBOOKS]
    said = elsewhere("ansible-playbook", "--list-tags", "-i", "one,", *names)
    listed: dict[str, set[str]] = {}
    for part in said.split("\nplaybook: ")[1:]:
        name = Path(part.splitlines()[0]).stem
        tags = {tag for line in re.findall(r"TAGS: \[(.*)\]", part) for tag in line.split(", ")}
        listed[name] = tags - {"", "always"}
    assert tuple(listed) == PLAYBOOKS
    table = (
        (COLLECTION / "README.md")
        .read_text()
        .partition("| playbook | tags |\n|---|---|\n")[2]
        .partition("\n\n")[0]
    )
    documented: dict[str, set[str]] = {playbook: set() for playbook in PLAYBOOKS}
    for row in table.splitlines():
        playbooks, tags_of_them = row.strip("|").split("|")
        for playbook in re.findall(r"`(\w+)`", playbooks):
            documented[playbook] = set(re.findall(r"`(\w+)`", tags_of_them))
    assert listed == documented


def words_of(role: str, file: str) -> set[str]:
    """Every name in a file of tasks, in what it imports from its role, and in variables that these use."""
    text = (ROLES / role / "tasks" / file).read_text()
    words = set(re.findall(r"\w+", text))
    for inner in re.findall(r"(?:import|include)_tasks: (\w+[.]yml)", text):
        words |= words_of(role, inner)
    path = ROLES / role / "vars/main.yml"
    variables = {
        name: set(re.findall(r"\w+", str(value))) for name, value in yaml.safe_load(path.read_text()).items()
    }
    while more := {word for name in words & variables.keys() for word in variables[name]} - words:
        words |= more
    return words


@pytest.mark.parametrize("role", ["hub", "sensor", "onboard"])
def test_what_one_phase_finds_out_for_another_is_found_out_under_the_others_tag(role: str) -> None:
    main = yaml.safe_load((ROLES / role / "tasks/main.yml").read_text())
    phases = {task["tags"][0]: task["ansible.builtin.import_tasks"] for task in main}
    for phase, file in phases.items():
        users = {tag: words_of(role, other) for tag, other in phases.items() if tag != phase}
        for task in yaml.safe_load((ROLES / role / "tasks" / file).read_text()):
            for name in {task.get("register"), *task.get("ansible.builtin.set_fact", {})} - {None}:
                needed = {tag for tag, words in users.items() if name in words}
                tags = set(task.get("tags", []))
                assert "always" in tags or needed <= tags, f"{role}/{file}: {name} is used under {needed}"


def test_the_changelog_is_what_its_fragments_say(tmp_path: Path) -> None:
    copy = tmp_path / "ansible_collections/sie_europe/passive_dns"
    shutil.copytree(COLLECTION, copy, ignore=shutil.ignore_patterns("output", "__pycache__"))
    subprocess.run(
        ["antsibull-changelog", "generate"],
        cwd=copy,
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    for file in ("CHANGELOG.md", "changelogs/changelog.yaml"):
        assert (copy / file).read_text() == (COLLECTION / file).read_text(), "write it again: make changelog"
    releases = yaml.safe_load((COLLECTION / "changelogs/changelog.yaml").read_text())["releases"]
    known = {fragment for release in releases.values() for fragment in release["fragments"]}
    assert known == {path.name for path in (COLLECTION / "changelogs/fragments").iterdir()}, "make changelog"


def test_what_is_shipped_is_complete(shipped: dict[str, tarfile.TarInfo]) -> None:
    for role in ORDER:
        for file in ("tasks/main.yml", "defaults/main.yml", "meta/argument_specs.yml"):
            assert f"roles/{role}/{file}" in shipped
    for playbook in PLAYBOOKS:
        assert f"playbooks/{playbook}.yml" in shipped
    source = {
        str(path.relative_to(COLLECTION))
        for folder in ("roles", "playbooks", "plugins", "meta")
        for path in (COLLECTION / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert source <= shipped.keys()


def test_what_is_shipped_has_no_links_and_no_tests(shipped: dict[str, tarfile.TarInfo]) -> None:
    assert not [member.name for member in shipped.values() if member.issym() or member.islnk()]
    assert not [name for name in shipped if name.startswith("tests/") or name.endswith(".pyc")]


def test_top_level_roles_are_the_collections() -> None:
    assert (REPOSITORY / "roles").is_symlink()
    assert (REPOSITORY / "roles").resolve() == ROLES.resolve()
    assert sorted(ORDER) == sorted(path.name for path in ROLES.iterdir())


def test_there_is_one_version() -> None:
    versions = {"galaxy.yml": yaml.safe_load((COLLECTION / "galaxy.yml").read_text())["version"]}
    for folder in ("core", "agent", "hub"):
        with (REPOSITORY / folder / "pyproject.toml").open("rb") as file:
            versions[folder] = tomllib.load(file)["project"]["version"]
    assert len(set(versions.values())) == 1, versions


def test_the_page_of_roles_is_what_the_roles_say() -> None:
    assert PAGE.read_text() == page(), "write it again: python -m tests.unit.roles_page"


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_every_playbook_is_documented(playbook: str) -> None:
    fqcn = f"sie_europe.passive_dns.{playbook}"
    assert fqcn in (COLLECTION / "README.md").read_text()
    assert f"ansible-playbook {fqcn}" in (COLLECTION / f"playbooks/{playbook}.yml").read_text()
    assert f"ansible-playbook {fqcn}" in (REPOSITORY / "docs/how-to" / HOW_TO[playbook]).read_text()


def test_every_module_is_listed() -> None:
    listed = (COLLECTION / "README.md").read_text()
    for module in (COLLECTION / "plugins/modules").glob("*.py"):
        assert f"| `{module.stem}` |" in listed


@pytest.mark.parametrize("role", ORDER)
def test_variables_of_a_role_carry_its_name(role: str) -> None:
    for file in ("defaults/main.yml", "vars/main.yml"):
        if (path := ROLES / role / file).exists():
            assert all(name.startswith(f"{role}_") for name in yaml.safe_load(path.read_text()))


def test_phases_are_files_with_a_tag_each() -> None:
    for role in ("hub", "sensor"):
        tasks = yaml.safe_load((ROLES / role / "tasks/main.yml").read_text())
        phases = [(task["ansible.builtin.import_tasks"], task["tags"]) for task in tasks]
        wanted = ["preflight", "install", "configure", "run", "verify"]
        assert phases == [(f"{phase}.yml", [phase]) for phase in wanted]


ON_TARGETS = [*(COLLECTION / "plugins").rglob("*.py"), *ROLES.glob("*/files/*.py")]


@pytest.mark.parametrize("path", ON_TARGETS, ids=lambda path: path.name)
def test_what_runs_on_targets_is_written_for_their_oldest_python(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))
