"""The participant's guide: the same in both languages, and as the programs are."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from sie_agent.config import TABLE as AGENT
from sie_agent.config import load_config
from sie_core.limits import SENSOR_CERTIFICATE_DAYS
from sie_core.settings import Table
from sie_hub.config import TABLE as HUB
from sie_hub.streams import RAW_MAX_AGE, SIE_MAX_AGE
from tests.docs.pages import REPOSITORY, Block, blocks, headings, outside, pages, read, spans
from tests.unit.test_sensor_settings import ROLE, written

GUIDE = REPOSITORY / "docs/guide"
PAGES = sorted(path.name for path in (GUIDE / "en").iterdir())
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)*")
SUCCESS = re.compile(r"success_msg: >-\n((?: {10}.*\n)+)")
BACKUPS_KEPT = yaml.safe_load((ROLE.parent / "hub/defaults/main.yml").read_text())["hub_backup_keep"]
LINK = re.compile(r"\]\(([^)#]+)?(?:#([^)]+))?\)")


def in_both(page: str) -> tuple[str, str]:
    """A page of the guide in English and in German."""
    return f"docs/guide/en/{page}", f"docs/guide/de/{page}"


def prose(page: str) -> str:
    """What is neither code nor the target of a link."""
    text = "\n".join(line for _, line in outside(page))
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`\n]+`", "", text))


def test_there_is_a_page_in_each_language() -> None:
    assert sorted(path.name for path in (GUIDE / "de").iterdir()) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_say_the_same(page: str) -> None:
    english, german = in_both(page)
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(german)]
    assert [block.text for block in blocks(english)] == [block.text for block in blocks(german)]
    assert Counter(span for _, span in spans(english)) == Counter(span for _, span in spans(german))
    assert Counter(NUMBER.findall(prose(english))) == Counter(NUMBER.findall(prose(german)))
    rows = [
        [line.count(" | ") for _, line in outside(one) if line.startswith("|")] for one in (english, german)
    ]
    assert rows[0] == rows[1]
    targets = [[match[1] for match in LINK.finditer(read(one))] for one in (english, german)]
    assert len(targets[0]) == len(targets[1])


@pytest.mark.parametrize("page", PAGES)
def test_german_is_written_as_germans_write_it(page: str) -> None:
    text = prose(in_both(page)[1])
    assert re.search("[äöüß]", text)
    assert not re.search(r"\b(?:fuer|ueber|koennen|muess|waehl|Schluessel|pruef|loesch|groess|aender)", text)
    assert not re.search(r"\b(?:du|dein|deine|deinen|euch|euer)\b", text)


@pytest.mark.parametrize("block", [b for b in blocks("docs/guide/en/first-data.md") if b.language == "yaml"])
def test_the_inventories_are_ones_that_the_role_takes(block: Block, tmp_path: Path) -> None:
    ((name, variables),) = yaml.safe_load(block.text)["sensors"]["hosts"].items()
    chosen = {key: value for key, value in variables.items() if key.startswith("sensor_")}
    config = load_config(written(tmp_path, **chosen | {"sensor_name": name}))
    assert len(config.interfaces) + len(config.dnstap) == 1


def test_the_proof_is_the_one_that_the_role_gives() -> None:
    tasks = (ROLE / "tasks/verify.yml").read_text()
    said = [re.sub(r"{{.*?}}", "…", " ".join(text.split())) for text in SUCCESS.findall(tasks)]
    shown = [block.text for block in blocks("docs/guide/en/first-data.md") if block.language == "text"]
    patterns = [".*".join(map(re.escape, text.split("…"))) for text in said]
    assert shown
    assert all(any(re.fullmatch(pattern, text) for pattern in patterns) for text in shown)


def default(table: Table, key: str) -> object:
    """A setting's value where nobody has chosen one."""
    return next(setting.default for setting in table.settings if setting.key == key)


def test_the_times_are_the_programs() -> None:
    text = read("docs/guide/en/what-is-collected.md")
    day = 24 * 3600
    for what, words in {
        f"{default(AGENT, 'transactions.query_timeout')} seconds": "waits for its answer",
        f"at most {str(default(AGENT, 'spool.max_age')).removesuffix('d')} days and 1 GiB": "spool on",
        f"{RAW_MAX_AGE / day:.0f} day |": "containers as they came",
        f"{SIE_MAX_AGE / day:.0f} days |": "merged records",
        f"{default(HUB, 'serve.retention_days')} days, or": "database of the hub",
        f"{BACKUPS_KEPT} nights, or": "backups of the hub",
        f"certificates live {SENSOR_CERTIFICATE_DAYS} days": "keys",
    }.items():
        assert any(what in line and words in line for line in text.splitlines()), what


def anchors(page: str) -> set[str]:
    """What a link may point to within a page, as GitHub makes it of the headings."""
    plain = (re.sub(r"[`*]|\]\([^)]*\)", "", text).lower() for _, text in headings(page))
    return {re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-") for text in plain}


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    for number, line in outside(page):
        for match in LINK.finditer(line):
            target, anchor = match[1], match[2]
            if target and target.startswith(("http://", "https://", "mailto:")):
                continue
            path = (REPOSITORY / page).parent / target if target else REPOSITORY / page
            assert path.exists(), f"{page}:{number}: {target}"
            if anchor and path.suffix == ".md":
                there = str(path.resolve().relative_to(REPOSITORY))
                assert anchor in anchors(there), f"{page}:{number}: {target or ''}#{anchor}"
