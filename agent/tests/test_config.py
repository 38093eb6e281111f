"""The agent's configuration: what it takes, what it refuses and why."""

from pathlib import Path

import pytest

from sie_agent.config import TABLE, TRANSACTION_TYPES, AgentConfig, DnstapConfig, SourceConfig, load_config
from sie_core.settings import ConfigError, markdown_table

GOOD = """
participant: isp_a
sensor: ns1
exchange: lab.example
resolvers: [192.0.2.53, "2001:db8::53"]
sources: [{interface: eth1, promiscuous: false}]
uplink: {hubs: ["wss://198.51.100.10:8443"]}
"""


def read(tmp_path: Path, text: str) -> AgentConfig:
    file = tmp_path / "agent.yml"
    file.write_text(text)
    return load_config(file)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return [line.removeprefix(f"{tmp_path / 'agent.yml'}: ") for line in caught.value.problems]


def test_a_minimal_file(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD)
    assert config.resolvers == ("192.0.2.53/32", "2001:db8::53/128")
    assert [source.interface for source in config.interfaces] == ["eth1"]
    assert config.dnstap == ()
    assert config.transaction_types == TRANSACTION_TYPES
    assert (config.suppress_special_use, config.admit_every_address) == (True, False)
    assert config.spool_max_age == 7 * 86400
    assert config.channel == 202
    assert config.key == Path("/var/lib/sie-agent/identity/key.pem")
    assert config.metrics_listen.loopback


def test_every_default_is_allowed_by_its_own_kind() -> None:
    for key, setting in TABLE.rows():
        if not setting.required and setting.default is not None:
            assert setting.kind.convert(setting.default) is not None, key


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "0.0.0.0/1", "192.0.0.0/15", "::/0", "2001:db8::/31"])
def test_resolvers_that_would_admit_everything_are_refused(tmp_path: Path, prefix: str) -> None:
    text = GOOD.replace("192.0.2.53", f'"{prefix}"')
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(f"resolvers: {prefix} covers too much: ")
    assert problem.endswith("set privacy.admit_every_address")
    config = read(tmp_path, f"{text}privacy: {{admit_every_address: true}}")
    assert config.resolvers[0] == prefix


def test_an_interface_needs_resolvers_and_dnstap_does_not(tmp_path: Path) -> None:
    for none in ("resolvers: []", ""):
        text = GOOD.replace('resolvers: [192.0.2.53, "2001:db8::53"]', none)
        (problem,) = problems(tmp_path, text)
        assert problem.startswith("resolvers: none is listed, and only dnstap says by itself")
        assert "that interface eth1 sees" in problem
        dnstap = text.replace("{interface: eth1, promiscuous: false}", "{dnstap: unix:/run/sie-agent/dnstap}")
        assert read(tmp_path, dnstap).resolvers == ()


def test_the_resolvers_may_be_this_host(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD.replace("192.0.2.53", "host")).resolvers == ("host", "2001:db8::53/128")


def test_sources_are_interfaces_or_dnstap(tmp_path: Path) -> None:
    sources = (
        "sources: [{interface: span0, promiscuous: true, encapsulated: true}, "
        '{dnstap: "unix:/run/sie-agent/dnstap.sock", group: unbound, mode: "0666"}, '
        '{dnstap: "tcp:127.0.0.1:6000"}, '
        '{dnstap: "tcp:[2001:DB8::6]:6000", senders: [192.0.2.53, "2001:db8::/64"]}]'
    )
    config = read(tmp_path, GOOD.replace("sources: [{interface: eth1, promiscuous: false}]", sources))
    assert config.interfaces == (SourceConfig("span0", promiscuous=True, encapsulated=True),)
    assert config.dnstap == (
        DnstapConfig("unix:/run/sie-agent/dnstap.sock", group="unbound", mode=0o666),
        DnstapConfig("tcp:127.0.0.1:6000"),
        DnstapConfig("tcp:[2001:db8::6]:6000", senders=("192.0.2.53/32", "2001:db8::/64")),
    )


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{}", "sources[0].interface: missing: a source is either an interface or a dnstap endpoint"),
        (
            '{interface: eth1, dnstap: "unix:/run/x"}',
            "sources[0].interface: a source is either an interface or a dnstap endpoint: make it two items",
        ),
        ('{dnstap: "unix:/run/x", promiscuous: true}', "sources[0].promiscuous: only an interface can be"),
        ('{dnstap: "unix:/run/x", encapsulated: true}', "sources[0].encapsulated: only by an interface do"),
        ('{dnstap: "unix:run/x"}', 'sources[0].dnstap: "unix:run/x" names no absolute path of a socket'),
        (
            f'{{dnstap: "unix:/{"x" * 107}"}}',
            "sources[0].dnstap: its path has 108 octets, where a socket",
        ),
        ('{dnstap: "tcp:collector.example:6000"}', "sources[0].dnstap: "),
        ('{dnstap: "tcp:127.0.0.1:0"}', "sources[0].dnstap: "),
        ('{dnstap: "tcp:192.0.2.1:6000"}', "sources[0].dnstap: tcp:192.0.2.1:6000 can be reached from other"),
        ('{dnstap: "tcp:[::]:6000"}', "sources[0].dnstap: tcp:[::]:6000 can be reached from other hosts"),
        (
            '{dnstap: "tcp:127.0.0.1:6000", group: bind}',
            "sources[0].dnstap: group and mode are those of a file",
        ),
        ('{dnstap: "unix:/run/x", senders: [192.0.2.1]}', "sources[0].dnstap: senders are addresses: only a"),
        ('{interface: eth1, mode: "0660"}', "sources[0].dnstap: group and mode are those of a file"),
        (
            '{dnstap: "unix:/run/x", mode: 0660}',
            "sources[0].mode: 432 is none of them; allowed: 0600, 0660 or",
        ),
        ('{dnstap: "udp:127.0.0.1:6000"}', "sources[0].dnstap: "),
    ],
)
def test_a_source_that_is_none(tmp_path: Path, source: str, problem: str) -> None:
    (found,) = problems(tmp_path, GOOD.replace("{interface: eth1, promiscuous: false}", source))
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("transactions: {types: []}", "transactions.types: has 0 items; allowed: 1 to 4 of them"),
        (
            "transactions: {types: [tcp]}",
            'transactions.types[0]: "tcp" is none of them; allowed: query',
        ),
        ("transactions: {types: [icmp, icmp]}", "transactions.types: type icmp is listed twice"),
        ('privacy: {local_zones: ["."]}', 'privacy.local_zones[0]: "." is the root: it would keep out every'),
        ('privacy: {local_zones: ["*.corp"]}', 'privacy.local_zones[0]: "*.corp" is no domain name'),
        ('privacy: {exclude_qname_regex: ""}', "privacy.exclude_qname_regex: it has 0 characters"),
        ("spool: {max_age: 1}", "spool.max_age: 1 is too small; allowed: 60 to "),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: str, problem: str) -> None:
    (found,) = problems(tmp_path, f"{GOOD}{settings}")
    assert found.startswith(problem)


def test_local_zones_are_names_without_the_final_dot(tmp_path: Path) -> None:
    config = read(tmp_path, f'{GOOD}privacy: {{local_zones: [Corp.Example., "_x.dc--1.example"]}}')
    assert config.local_zones == ("corp.example", "_x.dc--1.example")


def test_metrics_stay_on_the_host(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, f'{GOOD}metrics: {{listen: "0.0.0.0:9153"}}')
    assert problem.startswith('metrics.listen: "0.0.0.0:9153" could be reached from other hosts')


def test_rules_over_several_settings(tmp_path: Path) -> None:
    text = GOOD.replace("}]", "}, {interface: eth1}]").replace(
        "hubs: [", 'retry_min: 1m, retry_max: 2, hubs: ["wss://198.51.100.10:8443", '
    )
    assert problems(tmp_path, text) == [
        "uplink.retry_min: 60 s is longer than uplink.retry_max, 2 s",
        "uplink.hubs: hub wss://198.51.100.10:8443 is listed twice",
        "sources: interface eth1 is listed twice",
    ]


def test_the_window_fits_the_spool(tmp_path: Path) -> None:
    config = read(tmp_path, f"{GOOD}spool: {{max_bytes: 8 MiB}}")
    assert config.window_bytes == 2 << 20


def test_the_reference_page_holds_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "agent.md"
    assert markdown_table(TABLE) in page.read_text()


@pytest.mark.parametrize(
    ("drop", "words"),
    [
        ("ssh://a@hub.example", "is not sftp://"),
        ("sftp://hub.example", "names no account"),
        ("sftp://Root@hub.example", "names no account"),
        ("sftp://a:secret@hub.example", "holds no password"),
        ("sftp://a@hub.example/up", "after the host and port"),
        ("sftp://a@:22", "is not sftp://"),
        ("sftp://a@hub.example:0", "is not sftp://"),
    ],
)
def test_what_is_no_drop_is_refused(tmp_path: Path, drop: str, words: str) -> None:
    text = GOOD.replace('hubs: ["wss://198.51.100.10:8443"]', f'drop: "{drop}"')
    assert any(problem.startswith("uplink.drop") and words in problem for problem in problems(tmp_path, text))


def test_the_uplink_goes_one_way(tmp_path: Path) -> None:
    drop = GOOD.replace('hubs: ["wss://198.51.100.10:8443"]', "drop: sftp://sie-00000007@hub.example")
    assert str(read(tmp_path, drop).drop) == "sftp://sie-00000007@hub.example:22"
    both = GOOD.replace("uplink: {", "uplink: {drop: sftp://sie-00000007@hub.example, ")
    assert "not both" in "\n".join(problems(tmp_path, both))
    neither = GOOD.replace('{hubs: ["wss://198.51.100.10:8443"]}', "{hubs: []}")
    assert "list the hub's addresses" in "\n".join(problems(tmp_path, neither))
