"""The agent's configuration: what it takes, what it refuses and why."""

from pathlib import Path

import pytest

from sie_agent.config import TABLE, AgentConfig, load_config
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
    assert [source.interface for source in config.sources] == ["eth1"]
    assert config.channel == 202
    assert config.key == Path("/var/lib/sie-agent/identity/key.pem")
    assert config.metrics_listen.loopback


def test_every_default_is_allowed_by_its_own_kind() -> None:
    for key, setting in TABLE.rows():
        if not setting.required and setting.default is not None:
            assert setting.kind.convert(setting.default) is not None, key


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "0.0.0.0/1", "192.0.0.0/15", "::/0", "2001:db8::/31"])
def test_resolvers_that_would_admit_everything_are_refused(tmp_path: Path, prefix: str) -> None:
    (problem,) = problems(tmp_path, GOOD.replace("192.0.2.53", f'"{prefix}"'))
    assert problem.startswith("resolvers[0]: ")
    assert "covers too much" in problem


def test_at_least_one_resolver_is_named(tmp_path: Path) -> None:
    text = GOOD.replace('[192.0.2.53, "2001:db8::53"]', "[]")
    assert problems(tmp_path, text) == ["resolvers: has 0 items; allowed: 1 to 64 of them"]


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
