"""The table-driven configuration: every mistake is reported at once, by its key, with what is allowed."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sie_core.settings import (
    Boolean,
    Check,
    Config,
    ConfigError,
    File,
    Integer,
    Kind,
    Listen,
    ListOf,
    Octets,
    Prefix,
    Problem,
    Seconds,
    Setting,
    Table,
    Text,
    Url,
    help_text,
    load,
    markdown_table,
)

TABLE = Table(
    Setting("name", Text(r"[a-z]{1,8}", "1 to 8 of the letters a to z"), help="who it is"),
    Setting("channel", Integer(1, 65535), default=202, help="where it goes"),
    Setting("uplink.retry_min", Seconds(0.1, 60), default=1.0, help="the first pause"),
    Setting("uplink.retry_max", Seconds(1, 3600), default="1m", help="the longest pause"),
    Setting("uplink.ca", File(), default=None, help="whom to trust"),
    Setting("spool.max_bytes", Octets(1024, 1 << 40), default=1 << 30, help="how much is kept"),
    Setting(
        "sources",
        ListOf(
            Table(
                Setting(
                    "interface", Text(r"[^/\s]{1,15}", "a network interface"), help="what is listened to"
                ),
                Setting("promiscuous", Boolean(), default=False, help="whether strangers' frames are taken"),
            )
        ),
        default=[],
        help="where packets come from",
    ),
    checks=[
        Check(
            ("uplink.retry_min", "uplink.retry_max"),
            lambda least, most: None if least <= most else f"{least:g} s is longer than uplink.retry_max",
        )
    ],
)


def read(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "program.yml"
    file.write_text(text)
    return load(file, TABLE)


def problems(tmp_path: Path, text: str) -> list[str]:
    """The problems of a file, without the file's name in front, which every one of them must have."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    place = f"{tmp_path / 'program.yml'}: "
    assert all(line.startswith(place) for line in caught.value.problems)
    return [line.removeprefix(place) for line in caught.value.problems]


def test_defaults_are_filled_in_and_converted(tmp_path: Path) -> None:
    config = read(tmp_path, "name: abc\n")
    assert dict(config) == {
        "name": "abc",
        "channel": 202,
        "uplink.retry_min": 1.0,
        "uplink.retry_max": 60.0,
        "uplink.ca": None,
        "spool.max_bytes": 1 << 30,
        "sources": (),
    }


def test_values_are_converted(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "name: abc\nuplink: {retry_min: 500ms, ca: /etc/ca.pem}\nspool:\n  max_bytes: 2 GiB\n"
        "sources: [{interface: eth1}, {interface: span0, promiscuous: true}]\n",
    )
    assert config["uplink.retry_min"] == 0.5
    assert config["uplink.ca"] == Path("/etc/ca.pem")
    assert config["spool.max_bytes"] == 2 << 30
    assert [dict(source) for source in config["sources"]] == [
        {"interface": "eth1", "promiscuous": False},
        {"interface": "span0", "promiscuous": True},
    ]


def test_three_mistakes_are_three_lines(tmp_path: Path) -> None:
    assert problems(tmp_path, "name: ABC\nchannel: 0\nuplink: {retrys: 3}\n") == [
        'name: "ABC" does not fit; allowed: 1 to 8 of the letters a to z',
        "channel: 0 is too small; allowed: a whole number from 1 to 65535",
        'uplink.retrys: unknown key (did you mean "uplink.retry_min"?)',
    ]


def test_a_misspelt_required_key_is_one_mistake(tmp_path: Path) -> None:
    assert problems(tmp_path, "nmae: abc\n") == ['nmae: unknown key (did you mean "name"?)']


def test_a_missing_required_key_says_what_it_takes(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == ["name: missing, and required; allowed: 1 to 8 of the letters a to z"]


def test_a_key_outside_its_section_is_pointed_to_it(tmp_path: Path) -> None:
    assert problems(tmp_path, "name: abc\nmax_bytes: 4096\n") == [
        'max_bytes: unknown key (did you mean "spool.max_bytes"?)'
    ]


def test_a_key_like_no_other_is_unknown_and_nothing_more(tmp_path: Path) -> None:
    assert problems(tmp_path, "name: abc\nzzz: 1\n") == ["zzz: unknown key"]


def test_a_misspelt_section_is_one_mistake(tmp_path: Path) -> None:
    assert problems(tmp_path, "name: abc\nspol: {max_bytes: 1}\n") == [
        'spol: unknown key (did you mean "spool"?)'
    ]


def test_a_section_that_is_a_value(tmp_path: Path) -> None:
    assert problems(tmp_path, "name: abc\nuplink: 3\n") == [
        "uplink: 3 is a number, not a section; allowed: the keys retry_min, retry_max, ca"
    ]


def test_mistakes_in_list_items_name_the_item(tmp_path: Path) -> None:
    assert problems(
        tmp_path, "name: abc\nsources: [{interface: eth1}, {interfaces: eth2, promiscuous: 1}]\n"
    ) == [
        'sources[1].interfaces: unknown key (did you mean "sources[1].interface"?)',
        "sources[1].promiscuous: 1 is a number, not true or false; allowed: true or false",
    ]


def test_duplicate_keys_are_mistakes(tmp_path: Path) -> None:
    text = (
        "name: abc\nuplink:\n  retry_min: 1\n  retry_min: 2\n"
        "sources: [{interface: eth1, interface: eth2}]\nname: abc\n"
    )
    assert problems(tmp_path, text) == [
        "uplink.retry_min: given twice, in line 3 and in line 4",
        "sources[0].interface: given twice, in line 5 and in line 5",
        "name: given twice, in line 1 and in line 6",
    ]


def test_a_null_is_the_same_as_leaving_out(tmp_path: Path) -> None:
    assert read(tmp_path, "name: abc\nchannel:\nuplink:\n")["channel"] == 202


def test_checks_over_several_keys_run_only_on_good_values(tmp_path: Path) -> None:
    assert problems(tmp_path, "name: abc\nuplink: {retry_min: 30, retry_max: 2}\n") == [
        "uplink.retry_min: 30 s is longer than uplink.retry_max"
    ]
    assert problems(tmp_path, "name: abc\nuplink: {retry_min: 30, retry_max: 0}\n") == [
        "uplink.retry_max: 0 is too small; allowed: 1 to 3600 seconds, "
        "as a number or with a unit (ms, s, m, h, d)"
    ]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("- a\n- b\n", "holds a list, not keys and values"),
        ("name: [abc\n", "is not YAML: while parsing a flow sequence"),
        ("name: !!python/object:os.system {}\n", "is not YAML: could not determine a constructor"),
        ("name: 2026-13-01\n", "is not YAML: month must be in 1..12"),
        ("just text", "holds text, not keys and values"),
    ],
)
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str, start: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(start)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yml: cannot be read: No such file or directory"):
        load(tmp_path / "absent.yml", TABLE)
    (tmp_path / "latin.yml").write_bytes(b"name: \xe4bc\n")
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(octet 6\)"):
        load(tmp_path / "latin.yml", TABLE)
    (tmp_path / "huge.yml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="is larger than 1048576 octets"):
        load(tmp_path / "huge.yml", TABLE)


def test_an_alias_that_contains_itself_is_refused_not_followed_for_ever(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "name: abc\nsources: &loop [*loop]\n")
    assert problem.startswith("sources[0]: ")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Seconds(0, 100), 5, 5.0),
        (Seconds(0, 100), "1.5 m", 90.0),
        (Octets(0, 1 << 40), "1.5 KiB", 1536),
        (Octets(0, 1 << 40), 700, 700),
        (Prefix(16, 32), "192.0.2.53", ipaddress.ip_network("192.0.2.53/32")),
        (Prefix(16, 32), "2001:db8:5::/48", ipaddress.ip_network("2001:db8:5::/48")),
        (Url(("wss",)), "wss://[2001:db8::1]:8443/", "wss://[2001:db8::1]:8443"),
        (Listen(), "[::1]:9153", ("::1", 9153)),
        (Listen(loopback_only=True), "127.0.0.1:0", ("127.0.0.1", 0)),
        (ListOf(Integer(0, 9)), [1, 2], (1, 2)),
    ],
)
def test_accepted(kind: Kind, value: object, expected: object) -> None:
    assert kind.convert(value) == expected


@pytest.mark.parametrize(
    ("kind", "value", "wrong"),
    [
        (Text("a", "an a"), 1, "1 is a number, not text"),
        (Text("a", "an a"), "a\n", "does not fit"),
        (Integer(0, 9), True, "true is true or false, not a whole number"),
        (Integer(0, 9), "5", '"5" is text, not a whole number'),
        (Integer(0, 9), 10, "10 is too large"),
        (Seconds(1, 9), "5 years", '"5 years" is not a span of time'),
        (Seconds(1, 9), float("nan"), "nan is not a span of time"),
        (Octets(0, 99), "0.3 B", "is not a whole number of octets"),
        (Octets(0, 4096), "1 GiB", "1 GiB is too large"),
        (Octets(0, 4096), "1 GB", '"1 GB" is not a size'),
        (Boolean(), "on", '"on" is text, not true or false'),
        (File(), "etc/x", '"etc/x" is relative'),
        (Prefix(16, 32), "0.0.0.0/0", "covers too much: /0 is shorter than /16"),
        (Prefix(16, 32), "::/0", "covers too much: /0 is shorter than /32"),
        (Prefix(16, 32), "192.0.2.53/24", "192.0.2.0/24 or one address is meant"),
        (Prefix(16, 32), "::", "is no host's address"),
        (Prefix(16, 32), "ns1.example", "is neither an IP address nor a prefix"),
        (Prefix(16, 32), 1220, "is a number, not an address"),
        (Url(("wss",)), "ws://192.0.2.1", "does not begin with wss://"),
        (Url(("wss",)), "wss://u:p@192.0.2.1", "holds no user name or password"),
        (Url(("wss",)), "wss://192.0.2.1/session", "which the program adds by itself"),
        (Url(("wss",)), "wss://192.0.2.1:99999", "is not a URL"),
        (Url(("wss",)), "wss://[192.0.2.1", "is not a URL"),
        (Url(("wss",)), "wss://", "names no host"),
        (Listen(), "localhost:1", "is not an IP address and a port"),
        (Listen(), "127.0.0.1:70000", "ends with a port above 65535"),
        (Listen(), "1.2.3:70", "does not begin with an IP address"),
        (Listen(loopback_only=True), "0.0.0.0:9153", "could be reached from other hosts"),
        (ListOf(Integer(0, 9)), 3, r"not a list (write [3])"),
        (ListOf(Integer(0, 9), least=1), [], "has 0 items"),
        (ListOf(Integer(0, 9)), [1, 99], "[1] 99 is too large"),
    ],
)
def test_refused(kind: Kind, value: object, wrong: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        kind.convert(value)
    assert wrong in str(caught.value)


def test_a_url_with_credentials_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="user name") as caught:
        Url(("wss",)).convert("wss://u:secret@192.0.2.1")
    assert "secret" not in str(caught.value)


def test_documentation_comes_from_the_table() -> None:
    table = markdown_table(TABLE)
    assert "| `uplink.retry_max` | the longest pause |" in table
    assert "| `spool.max_bytes` | how much is kept | 1 KiB to 1 TiB" in table
    assert "| `sources[].interface` | what is listened to | a network interface | required |" in table
    text = help_text(TABLE)
    assert all(key in text for key, _ in TABLE.rows())


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=8,
)
KNOWN_KEYS = st.sampled_from(["name", "channel", "uplink", "spool", "sources", "retry_min", "interface"])


@given(st.dictionaries(KNOWN_KEYS | st.text(max_size=8), YAML_VALUES, max_size=6))
def test_any_document_gives_a_config_or_problems_and_nothing_else(document: dict[object, object]) -> None:
    found: list[Problem] = []
    config = TABLE.read(document, "", found)
    assert (config is None) == bool(found)
