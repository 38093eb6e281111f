"""Where resolvers ask, told from their configurations; what preflight says of a forwarder, and of a proxy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.sie_europe.passive_dns.plugins.module_utils import _upstream

from tests.unit.ansible_module import run_module
from tests.unit.test_sensor_settings import ROLE, holds, rendered

AS_CLIENTS = "and asks there with recursion desired (RD=1), as clients do"
FORWARDS = f"forwards everything to 192.0.2.1 {AS_CLIENTS}"
TLS = f"forwards everything to 192.0.2.1@853 over TLS {AS_CLIENTS}"
DOT = "asks authoritative servers over TLS (DoT) alone, which nobody reads on the way"
Read = Callable[[str], list[str]]


def nothing(_pattern: str) -> list[str]:
    """No file is included."""
    return []


@pytest.mark.parametrize(
    ("text", "unseen"),
    [
        ("server:\n  interface: 127.0.0.1\n", None),
        ('forward-zone:\n  name: "."\n  forward-addr: 192.0.2.1\n', FORWARDS),
        ("forward-zone: name: . forward-addr: 192.0.2.1 # all on one line", FORWARDS),
        (
            'forward-zone:\n name: "."\n forward-tls-upstream: yes\n forward-addr: 192.0.2.1@853#a.example\n',
            TLS,
        ),
        ("server:\n  tls-upstream: yes\n", DOT),
        ('forward-zone:\n  name: "corp.example"\n  forward-addr: 192.0.2.1\n', None),
        ('# forward-zone:\n#  name: "."\n#  forward-addr: 192.0.2.1\n', None),
        ('stub-zone:\n  name: "."\n  stub-addr: 192.0.2.1\n', None),
        ('forward-zone:\n  name: "."\n', None),
    ],
)
def test_unbound(text: str, unseen: str | None) -> None:
    assert _upstream.unbound(text, nothing).unseen() == unseen


def test_unbound_includes_files_and_does_not_go_round_for_ever() -> None:
    files = {"/etc/unbound/unbound.conf.d/*.conf": ["server:\n", "include: more.conf"]}
    files["more.conf"] = ["forward-zone:\n  name: '.'\n  forward-addr: 192.0.2.1\n"]
    main = 'include-toplevel: "/etc/unbound/unbound.conf.d/*.conf"\n'
    assert _upstream.unbound(main, lambda pattern: files[pattern]).unseen() == FORWARDS
    with pytest.raises(ValueError, match="more than 200 files"):
        _upstream.unbound(main, lambda _pattern: [main])


@pytest.mark.parametrize(
    ("text", "unseen"),
    [
        ('options {\n\trecursion yes;\n};\nzone "." {\n\ttype hint;\n};', None),
        ("options {\n\tforward only;\n\tforwarders  {\n\t\t192.0.2.1;\n\t};\n};", FORWARDS),
        ("options { forwarders { }; };", None),
        ("options { recursion no; forwarders { 192.0.2.1; }; };", None),
        ('zone "." { type forward; forwarders { 192.0.2.1; }; };', FORWARDS),
        ('zone "corp.example" { type forward; forwarders { 192.0.2.1; }; };', None),
        ('options { forwarders { 192.0.2.1; }; };\nview "in" { match-clients { any; }; };', FORWARDS),
        ('options { forwarders { 192.0.2.1; }; };\nview "in" { forwarders { }; };', None),
        ('view "in" { forwarders { 192.0.2.1; }; };\nview "out" { recursion yes; };', None),
        ('view "in" { forwarders { 192.0.2.1; }; };\nview "out" { recursion no; };', FORWARDS),
    ],
)
def test_bind(text: str, unseen: str | None) -> None:
    assert _upstream.bind(text).unseen() == unseen


def test_bind_over_tls() -> None:
    said = _upstream.bind('options { forwarders port 853 tls "dot" { 192.0.2.1; 192.0.2.2 port 8853; }; };')
    assert said.forwards == (_upstream.Forward(".", ("192.0.2.1", "192.0.2.2"), True),)


@pytest.mark.parametrize(
    ("text", "unseen"),
    [
        ("local-address=127.0.0.1\n", None),
        ("forward-zones-recurse=.=192.0.2.1\n", FORWARDS),
        ("forward-zones-recurse=corp.example=192.0.2.9\nforward-zones-recurse+=.=192.0.2.1", FORWARDS),
        ("#forward-zones-recurse=.=192.0.2.1\n", None),
        ("forward-zones=.=192.0.2.1\n", None),  # without recursion desired, as to an authoritative server
        ("forward-zones-recurse=corp.example=192.0.2.1;192.0.2.2\n", None),
        ("dot-to-auth-names=.\n", DOT),
        ("dot-to-auth-names=example.net\n", None),
    ],
)
def test_recursor(text: str, unseen: str | None) -> None:
    assert _upstream.recursor(text, nothing).unseen() == unseen


def test_recursor_reads_more_files() -> None:
    files = {
        "/etc/powerdns/recursor.d/*.conf": ["forward-zones-file=/etc/powerdns/forwards"],
        "/etc/powerdns/forwards": ["# all\ncorp.example=192.0.2.9\n+.=192.0.2.1\n"],
    }
    assert _upstream.recursor("include-dir=/etc/powerdns/recursor.d/", files.__getitem__).unseen() == FORWARDS


@pytest.mark.parametrize(
    ("recursor", "unseen"),
    [
        ({}, None),
        ({"forward_zones_recurse": [{"zone": ".", "forwarders": ["192.0.2.1"]}]}, FORWARDS),
        ({"forward_zones": [{"zone": ".", "forwarders": ["192.0.2.1"], "recurse": True}]}, FORWARDS),
        ({"forward_zones": [{"zone": ".", "forwarders": ["192.0.2.1"]}]}, None),
    ],
)
def test_recursor_of_version_5(recursor: dict[str, Any], unseen: str | None) -> None:
    assert _upstream.recursor_document({"recursor": recursor}).unseen() == unseen


def program(folder: Path, name: str, script: str) -> None:
    """A program of others, as it answers on a host."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with Unbound and BIND, of which Unbound runs and forwards everything."""
    config = tmp_path / "unbound.conf"
    config.write_text('forward-zone:\n  name: "."\n  forward-addr: 192.0.2.1\n')
    program(tmp_path, "unbound-checkconf", f"echo 'unbound-checkconf: no errors in {config}'")
    program(tmp_path, "named-checkconf", "echo '/etc/bind/named.conf:3: unknown option' >&2; exit 1")
    program(tmp_path, "systemctl", '[ "$3" = unbound.service ]')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_the_resolvers_of_a_host(host: Path) -> None:
    unbound, bind = run_module("resolver_info", {})["resolvers"]
    assert (unbound["name"], unbound["running"], unbound["unseen"]) == ("unbound", True, FORWARDS)
    assert unbound["config"] == str(host / "unbound.conf")
    assert unbound["forwards"] == [{"zone": ".", "servers": ["192.0.2.1"], "tls": False}]
    assert (bind["name"], bind["running"], bind["unseen"]) == ("bind", False, None)
    assert bind["problem"].endswith("/etc/bind/named.conf:3: unknown option")


RUNNING = {"running": True, "config": "/etc/unbound/unbound.conf"}
FORWARDER = {**RUNNING, "name": "unbound", "unseen": FORWARDS}
RESOLVER = {**RUNNING, "name": "bind", "unseen": None}


@pytest.mark.parametrize(
    ("resolvers", "refused"),
    [
        ([], False),
        ([RESOLVER], False),
        ([FORWARDER], True),
        ([FORWARDER, RESOLVER], False),
        ([FORWARDER, {**RESOLVER, "running": False}], True),
        ([{**FORWARDER, "running": False}], False),
    ],
)
def test_preflight_says_why_a_forwarder_would_send_nothing(
    resolvers: list[dict[str, Any]], refused: bool
) -> None:
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    (check,) = [
        task for task in tasks if task["name"] == "Refuse a host whose resolvers a sensor sees nothing of"
    ]
    variables = {"inventory_hostname": "ns1", "sensor_host_resolvers": {"resolvers": resolvers}}
    passes = rendered("{{ " + check["ansible.builtin.assert"]["that"] + " }}", **variables)
    assert rendered("{{ " + check["when"] + " }}", **variables) is any(
        one["unseen"] and one["running"] for one in resolvers
    )
    assert passes is not refused
    if refused:
        said = rendered(check["ansible.builtin.assert"]["fail_msg"], **variables)
        assert said.startswith(
            f"Nothing would be recorded on ns1: unbound (/etc/unbound/unbound.conf) {FORWARDS}. "
        )


@pytest.mark.parametrize(
    ("chosen", "passes"),
    [
        ({}, True),
        ({"sensor_uplink_proxy": "http://proxy.example:3128"}, True),
        ({"sensor_uplink_proxy": "https://proxy.example:3128"}, False),
        ({"sensor_uplink_proxy": "http://user:secret@proxy.example:3128"}, False),
        ({"sensor_uplink_proxy": "http://[2001:db8::1]:3128"}, True),
        ({"sensor_uplink_proxy": "http://2001:db8::1:3128"}, False),
        ({"sensor_uplink_proxy": "proxy.example"}, False),
        ({"sensor_uplink_proxy": "http://proxy.example:3128", "sensor_uplink": "sftp"}, False),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused(chosen: dict[str, str], passes: bool) -> None:
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    (check,) = [task for task in tasks if task["name"].startswith("Refuse a proxy that could not be used")]
    told = check["ansible.builtin.assert"]
    assert holds(told["that"], **chosen) is passes
    assert "secret" not in rendered(told["fail_msg"], inventory_hostname="ns1", **chosen)


@pytest.mark.parametrize("unit", ["sie-agent.service", "sie-agent-enrol.service"])
def test_a_proxy_is_used_where_one_is_named(unit: str) -> None:
    template = (ROLE / f"templates/{unit}.j2").read_text().replace("{% include 'sandbox.j2' %}", "")
    proxy = "http://proxy.example:3128"
    line = f"Environment=https_proxy={proxy}\n"
    assert line in rendered(template, sensor_uplink_proxy=proxy)
    assert "https_proxy" not in rendered(template)
    assert rendered("{{ sensor_ways_out }}", sensor_uplink_proxy=proxy) == [proxy]
    assert len(rendered("{{ sensor_ways_out }}")) == 2
