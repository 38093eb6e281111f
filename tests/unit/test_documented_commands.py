"""Every command of the pages is executed: typed on a machine of the tests, or run by the test that is named.

Blocks of the language `sh` are commands, typed as they stand. Commands within lines are read by the program's
own parser, so that none asks for what there is not.
"""

import argparse
import fnmatch
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from sie_lab import cli as lab

from sie_agent import cli as agent
from sie_hub import cli as hub
from tests.docs.machine import machine
from tests.docs.pages import (
    COLLECTION,
    COMMANDS,
    LANGUAGES,
    REPOSITORY,
    Block,
    blocks,
    commands,
    outside,
    pages,
    read,
    spans,
)
from tests.docs.where import (
    ELSEWHERE,
    NOT_EVERYWHERE,
    ON_A_MACHINE,
    PLACEHOLDERS,
    PLAYBOOKS,
    TARGETS,
    Preparation,
)

BLOCKS = [block for page in pages() for block in blocks(page)]
TYPED = [block for block in BLOCKS if block.language == COMMANDS]
PLAYBOOK = re.compile(r"ansible-playbook sie_europe\.passive_dns\.(\w+)(.*)")
TARGET = re.compile(r"make (?:--silent )?([a-z-]+)(?: .*)?")
OURS = (
    "sie-agent",
    "sie-hub",
    "ansible-playbook",
    "ansible-galaxy",
    "make",
    "systemctl",
    "tcpdump",
    "lab.py",
)
OPTIONS = ("-i", "-e", "--check", "--diff", "--limit", "--tags", "--ask-vault-pass", "--ask-become-pass")


def of_its_own(block: Block) -> bool:
    """Whether each command of a block is one of a playbook or of make, which tables name by themselves."""
    return all(PLAYBOOK.fullmatch(line) or TARGET.fullmatch(line) for line in commands(block))


def test_every_block_has_a_language() -> None:
    unknown = [
        f"{block.where}: {block.language or 'none'}" for block in BLOCKS if block.language not in LANGUAGES
    ]
    assert not unknown


def test_no_command_is_indented_instead_of_fenced() -> None:
    assert not [
        f"{page}:{number}: {line}"
        for page in pages()
        for number, line in outside(page)
        if line.startswith("    ") and line.split()[:1] and line.split()[0] in OURS
    ]


def named(block: Block) -> bool:
    """Whether a table names the test that runs the like of a block."""
    return any(entry.page == block.page and block.text.startswith(entry.begins) for entry in ELSEWHERE)


def test_every_block_of_commands_is_executed_somewhere() -> None:
    typed = {block.text for block in TYPED if any(block.page in story for story in ON_A_MACHINE)}
    nowhere = [
        f"{block.where}: {block.first}"
        for block in TYPED
        if block.text not in typed and not named(block) and not of_its_own(block)
    ]
    assert not nowhere, "let a machine type it, or name the test that runs its like (tests/docs/where.py)"


def test_what_is_named_is_there() -> None:
    for entry in ELSEWHERE:
        assert [b for b in TYPED if b.page == entry.page and b.text.startswith(entry.begins)], entry
        file, _, function = entry.test.partition("::")
        assert f"def {function}(" in (REPOSITORY / file).read_text(), entry.test
    for page in (page for story in ON_A_MACHINE for page in story):
        assert any(block.page == page for block in TYPED), page
    for file in {*PLAYBOOKS.values(), *TARGETS.values()}:
        assert (REPOSITORY / file).exists(), file


def test_no_command_hides_in_a_block_that_nobody_types() -> None:
    hidden = re.compile(rf"[$#>]? ?(?:sudo )?(?:{'|'.join(map(re.escape, OURS))})\b")
    silent = [block for block in BLOCKS if block.language in ("text", "transcript")]
    assert not [
        f"{block.where}: {line}"
        for block in silent
        for line in block.text.splitlines()
        if hidden.match(line.strip())
    ]


def playbook_lines() -> list[tuple[str, str, str]]:
    """Every command that runs a playbook, typed or within a line: place, playbook, what follows."""
    typed = [(block.where, line) for block in TYPED for line in commands(block)]
    typed += [(f"{page}:{number}", span) for page in pages() for number, span in spans(page)]
    found = [(where, PLAYBOOK.fullmatch(line)) for where, line in typed]
    return [(where, match[1], match[2]) for where, match in found if match]


def units() -> set[str]:
    """The units of which the roles write or change the files."""
    programs = yaml.safe_load((COLLECTION / "roles/hub/vars/main.yml").read_text())["hub_programs"]
    templates = {path.name.partition(".")[0] for path in COLLECTION.glob("roles/*/templates/*.service.j2")}
    return {"nats-server", *templates, *(f"sie-hub-{program}" for program in programs)}


@pytest.mark.parametrize(
    ("where", "span"),
    [
        (f"{page}:{number}", span)
        for page in pages()
        for number, span in spans(page)
        if re.match(r"(systemctl|journalctl) ", span)
    ],
)
def test_a_unit_in_a_line_is_one_that_the_roles_bring(where: str, span: str) -> None:
    _program, *words = shlex.split(span)
    verbs = {"start", "restart", "reload", "status", "disable", "enable", "stop", "kill", "list-timers"}
    for word in words:
        if word not in verbs and not word.startswith("-"):
            assert fnmatch.filter(units(), word.removesuffix(".service")), f"{where}: {word}"


def test_the_bundle_s_readme_has_the_commands_of_the_guide() -> None:
    readme = (COLLECTION / "roles/onboard/templates/README.md.j2").read_text()
    for name, value in {
        "onboard_name": "isp_a-onboarding",
        "onboard_participant": "isp_a",
        "onboard_collection_file | basename": "sie_europe-passive_dns-0.1.0.tar.gz",
    }.items():
        readme = readme.replace(f"{{{{ {name} }}}}", value)
    indented = [line[7:] for line in readme.splitlines() if line.startswith(" " * 7) and line.strip()]
    typed = [line for block in blocks("docs/guide/en/first-data.md") for line in commands(block)]
    shown = commands(Block("", 0, COMMANDS, "\n".join(indented)))
    assert len(shown) == 4
    assert [line for line in shown if line not in typed] == []


def variables_of(playbook: str) -> str:
    """Where a variable given to a playbook must be named."""
    roles = "".join(path.read_text() for path in COLLECTION.glob("roles/*/meta/argument_specs.yml"))
    return (COLLECTION / f"playbooks/{playbook}.yml").read_text() + roles


@pytest.mark.parametrize(("where", "playbook", "rest"), playbook_lines())
def test_a_playbook_is_run_on_hosts_and_knows_what_it_is_given(where: str, playbook: str, rest: str) -> None:
    assert playbook in PLAYBOOKS, f"{where}: which test runs {playbook}?"
    words = shlex.split(rest)
    while words:
        option = words.pop(0)
        assert option in OPTIONS, f"{where}: {option}"
        if option in ("-i", "-e", "--limit", "--tags"):
            value = words.pop(0)
            if option == "-e" and not value.startswith("@"):
                assert re.search(rf"\b{value.partition('=')[0]}\b", variables_of(playbook)), (
                    f"{where}: {value}"
                )


def test_targets_of_make_are_there_and_run_by_a_test() -> None:
    wanted = {
        match[1]
        for text in (
            *(line for block in TYPED for line in commands(block)),
            *(s for p in pages() for _, s in spans(p)),
        )
        if (match := TARGET.fullmatch(text))
    }
    known = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert wanted <= known
    in_blocks = {
        m[1] for b in TYPED for line in commands(b) if of_its_own(b) and (m := TARGET.fullmatch(line))
    }
    assert in_blocks <= TARGETS.keys()


def session(page: str) -> str:
    """The commands of a page as one text for a shell, which tells at which block it has failed."""
    typed = ["trap 'echo it was at $PLACE >&2' ERR"]
    for block in blocks(page):
        lacks = [name for name in NOT_EVERYWHERE if name in block.text and shutil.which(name) is None]
        if block.language == COMMANDS and not named(block) and not lacks:
            typed.append(f"PLACE={block.where}\n{block.text}")
    return "\n".join(typed)


@pytest.mark.root
@pytest.mark.parametrize("story", ON_A_MACHINE, ids=lambda story: next(iter(story)))
def test_the_commands_of_pages_do_what_they_are_for(story: dict[str, Preparation], tmp_path: Path) -> None:
    with machine(tmp_path) as on:
        for page, prepare in story.items():
            prepare(on)
            text = session(page)
            for placeholder, value in PLACEHOLDERS.items():
                if placeholder in text:
                    text = text.replace(placeholder, value(on))
            on.run(text)


def parse(parser: argparse.ArgumentParser, words: list[str]) -> str:
    """What a parser objects to in the words of a command; empty if it takes them."""

    class Objection(Exception):
        pass

    def object_to(message: str) -> None:
        raise Objection(message)

    def teach(one: argparse.ArgumentParser) -> None:
        one.error = object_to  # type: ignore[assignment, method-assign]
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    teach(child)
            else:  # what stands for a value need not be one
                action.type = action.choices = None

    teach(parser)
    try:
        parser.parse_args(words)
    except Objection as objection:
        return str(objection)
    except SystemExit:
        pass  # --help and --version say what they say
    return ""


PARSERS: dict[str, Callable[[str], argparse.ArgumentParser]] = {
    "sie-agent": lambda word: agent.parser_of([word]),
    "sie-hub": hub._parser,
    "lab.py": lambda _word: lab.parser(),
}
UNFINISHED = re.compile(
    r"the following arguments are required|expected (one|at least one) argument|one of the arguments"
)


def spoken() -> list[tuple[str, str]]:
    """Commands of our programs within lines, each once, with the place of the first."""
    found: dict[str, str] = {}
    for page in pages():
        for number, span in spans(page):
            if span.partition(" ")[0] in PARSERS and " " in span:
                found.setdefault(span, f"{page}:{number}")
    return [(place, span) for span, place in found.items()]


def as_typed(span: str) -> list[str]:
    """The words of a command in prose: brackets around what may be left out are taken away, of alternatives
    the first counts, and an ellipsis stands for nothing.
    """
    text = re.sub(r"[\[\]]", "", span).replace("…", "")
    return [re.split(r"[|]", word)[0] for word in shlex.split(text.partition(" > ")[0].partition(" < ")[0])]


@pytest.mark.parametrize(("place", "span"), spoken())
def test_a_command_in_a_line_is_one_that_the_program_has(place: str, span: str) -> None:
    program, *words = as_typed(span)
    objection = parse(PARSERS[program](words[0]), words)
    assert not objection or UNFINISHED.search(objection), f"{place}: {span}: {objection}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda block: block.where)
def test_a_block_of_yaml_is_yaml_and_names_options_that_there_are(block: Block) -> None:
    options = {
        option
        for path in COLLECTION.glob("roles/*/meta/argument_specs.yml")
        for option in yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]
    }
    assert yaml.safe_load(block.text)
    for key in re.findall(r"^ *((?:sensor|hub|onboard)_\w+):", block.text, re.MULTILINE):
        assert key in options or f"{key}:" in read("docs/reference/roles.md") or key in ENTRIES, (
            f"{block.where}: {key}"
        )


ENTRIES = frozenset({"sensor_bundle", "sensor_bundle_signer"})
"""What the playbook configure_my_sensor itself asks for."""
