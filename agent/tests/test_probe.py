"""`sie-agent probe` against a real resolver's port and a hub's door over real mutual TLS."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sie_agent import probe
from sie_agent.cli import EXIT_BROKEN, EXIT_FAILURE, EXIT_OK, EXIT_USAGE, main
from sie_agent.config import load_config
from sie_agent.lookup import NoAnswer, look_up

from .door import Door, Resolver, proxy
from .hub import Authority

NONCE = "0123456789abcdef0123456789abcdef"
ZONE = {"zone": "probe.example"}
RECEIVED = {
    **ZONE,
    "nonce": NONCE,
    "transaction": "UDP_QUERY_RESPONSE",
    "asked": 1_790_000_000.0,
    "answered": 1_790_000_000.25,
    "stored": 1_790_000_001.0,
}

ConfigFile = Callable[..., Path]


@pytest.fixture
def door(authority: Authority) -> Iterator[Door]:
    with Door({"/probe": (200, ZONE), f"/probe/{NONCE}": (200, RECEIVED)}).open(authority) as door:
        yield door


def run(capsys: pytest.CaptureFixture[str], file: Path, *more: str) -> tuple[int, dict[str, object]]:
    """`sie-agent probe --json`: the exit code and the document."""
    code = main(["probe", "--config", str(file), "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def test_a_new_name_is_looked_up_and_asked_for(
    config_file: ConfigFile, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Resolver().answering() as resolver:
        monkeypatch.setattr(probe, "look_up", lambda name, address: look_up(name, address, resolver.port))
        monkeypatch.setattr("sie_agent.probe.secrets.token_hex", lambda _octets: NONCE)
        proof = probe.prove(load_config(config_file(door.url)), resolver="127.0.0.1", timeout=5)
    assert (proof.outcome, proof.zone) == ("received", "probe.example")
    assert resolver.names == [f"{NONCE}.probe.example"]
    assert list(proof.stages) == ["looked_up", "received"]
    assert proof.received == RECEIVED
    assert door.paths == ["/probe", f"/probe/{NONCE}"]
    said = probe.text(proof)
    assert "captured      -" in said
    assert "answered 250 ms after it was asked" in said


def test_what_another_host_has_looked_up_is_waited_for(
    config_file: ConfigFile, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = run(capsys, config_file(door.url), "--nonce", NONCE)
    assert code == EXIT_OK
    assert document["sentence"] == (
        "the hub has received what this sensor captured of the look-up, question and answer"
    )
    assert set(document["stages"]) == {"received"}  # type: ignore[call-overload]


def test_a_mirror_of_one_direction_is_told(
    config_file: ConfigFile, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    door.answers[f"/probe/{NONCE}"] = (200, {**RECEIVED, "answered": None})
    code, document = run(capsys, config_file(door.url), "--nonce", NONCE)
    assert code == EXIT_OK
    assert "one direction alone" in str(document["sentence"])


def test_a_probe_that_does_not_come_says_how_far_it_came(
    config_file: ConfigFile, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    door.answers[f"/probe/{NONCE}"] = (404, {"error": "no probe of this sensor"})
    code, document = run(capsys, config_file(door.url), "--nonce", NONCE, "--timeout", "0.2")
    assert code == EXIT_BROKEN
    assert "within 0.2 s, and nothing was captured meanwhile" in str(document["sentence"])
    assert len(door.paths) >= 3


def test_a_resolver_that_cannot_ask_the_hub_is_named(
    config_file: ConfigFile, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Resolver(rcode=2).answering() as resolver:
        monkeypatch.setattr(probe, "look_up", lambda name, address: look_up(name, address, resolver.port))
        proof = probe.prove(load_config(config_file(door.url)), resolver="127.0.0.1", timeout=1)
    assert proof.outcome == "not_received"
    assert "the resolver 127.0.0.1 answers SERVFAIL for a name of probe.example" in proof.sentence


def test_a_silent_resolver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sie_agent.lookup.SECONDS_PER_TRY", 0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(NoAnswer, match=r"127\.0\.0\.1: no answer within"):
            look_up("a.probe.example", "127.0.0.1", silent.getsockname()[1])
    with pytest.raises(NoAnswer, match="connection refused"):
        look_up("a.probe.example", "127.0.0.1", silent_port())


def silent_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


@pytest.mark.parametrize(
    ("status", "document", "options", "outcome", "said"),
    [
        (404, {"error": "this hub has no probe zone"}, (), EXIT_FAILURE, "has no probe zone"),
        (200, {"zone": "Not A Zone"}, (), EXIT_FAILURE, "says no probe zone that could be one"),
        (200, "no JSON", (), EXIT_FAILURE, "says no probe zone that could be one"),
        (200, ZONE, ("--zone", "other.example"), EXIT_FAILURE, "its probe zone is probe.example, not other"),
        (403, "isp_a/ns1 has been revoked\n", (), EXIT_BROKEN, "HTTP 403: isp_a/ns1 has been revoked"),
    ],
)
def test_what_the_hub_says_instead(
    config_file: ConfigFile,
    door: Door,
    capsys: pytest.CaptureFixture[str],
    status: int,
    document: object,
    options: tuple[str, ...],
    outcome: int,
    said: str,
) -> None:
    door.answers["/probe"] = (status, document)
    code, result = run(capsys, config_file(door.url), "--nonce", NONCE, *options)
    assert code == outcome
    assert said in str(result["sentence"])


def test_a_hub_that_is_not_there_or_another_is_one_sentence(
    config_file: ConfigFile, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = run(capsys, config_file(), "--nonce", NONCE)
    assert (code, document["outcome"]) == (EXIT_BROKEN, "not_received")
    assert "nothing listens there" in str(document["sentence"])
    with Door().open(Authority(tmp_path / "other")) as stranger:
        code, document = run(capsys, config_file(stranger.url), "--nonce", NONCE)
    assert code == EXIT_BROKEN
    assert "the hub's certificate is not accepted" in str(document["sentence"])


def test_a_sensor_without_a_certificate_cannot_ask(
    config_file: ConfigFile, door: Door, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(door.url)
    load_config(file).certificate.unlink()
    code, document = run(capsys, file, "--nonce", NONCE)
    assert code == EXIT_BROKEN
    assert "certificate.pem cannot be used: no such file or directory" in str(document["sentence"])


def test_a_sensor_that_sends_files_says_what_cannot_be_proven(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file()
    text = file.read_text().replace('hubs: ["wss://127.0.0.1:1"]', 'drop: "sftp://sie-00000007@hub.example"')
    file.write_text(text)
    code, document = run(capsys, file)
    assert (code, document["outcome"]) == (EXIT_FAILURE, "unprovable")
    assert "puts files into a drop over SSH" in str(document["sentence"])


@pytest.mark.parametrize("at", ["127.0.0.1", "[::1]"])
def test_the_proxy_of_the_environment_is_used(
    config_file: ConfigFile,
    door: Door,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    at: str,
) -> None:
    seen: list[str] = []
    with proxy(seen, at.strip("[]")) as port:
        monkeypatch.setenv("https_proxy", f"http://somebody:secret@{at}:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        code, document = run(capsys, config_file(door.url), "--nonce", NONCE)
    assert (code, document["outcome"]) == (EXIT_OK, "received")
    assert seen == [f"127.0.0.1:{door.port}"] * 2
    monkeypatch.setenv("https_proxy", "socks5h://127.0.0.1:1")
    _, document = run(capsys, config_file(door.url), "--nonce", NONCE)
    assert "of the kind socks5h" in str(document["sentence"])


def test_a_nonce_is_checked(config_file: ConfigFile, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--config", str(config_file()), "--nonce", "www"]) == EXIT_USAGE
    assert "32 hexadecimal digits" in capsys.readouterr().err
