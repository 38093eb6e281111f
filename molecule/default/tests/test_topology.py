"""The lab itself: what the other tests rest on. Looked at from inside each host, by podman and by ssh."""

import itertools
import json
import subprocess

import pytest
import testinfra
from sie_lab import console, deploy, dns, domains, hosts, querylog, span, topology, traffic
from sie_lab.cli import INVENTORIES
from sie_lab.hosts import on
from sie_lab.machine import CommandError, containers_environment, podman
from sie_lab.topology import Host, Lab, Participant
from testinfra.host import Host as Inside

HOSTS = tuple(topology.load(INVENTORIES["molecule"]).hosts)
PARTICIPANTS = tuple(topology.load(INVENTORIES["molecule"]).everyone)
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=3")


def inside(host: Host) -> Inside:
    """testinfra's view of a host, over podman."""
    return testinfra.get_host(f"podman://{host.container}")


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, lab: Lab) -> Host:
    return lab.host(request.param)


@pytest.fixture(params=PARTICIPANTS)
def participant(request: pytest.FixtureRequest, lab: Lab) -> Participant:
    return lab.participant(request.param)


def mirrored(lab: Lab, names: list[str]) -> list[str]:
    """What passes the mirror's port while the names are looked up: a line of tcpdump's for each frame."""
    participant = next(p for p in lab.participants.values() if p.resolver is lab.span.of)
    traffic.look_up(lab, participant, "primer.wild.example", "A")  # from here on the delegation is known
    sniffer = subprocess.Popen(
        [
            "podman",
            "exec",
            lab.span.to.container,
            "tcpdump",
            "--immediate-mode",
            "-lnnvv",
            "-i",
            lab.span.port,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert sniffer.stderr is not None
        while "listening on" not in (line := sniffer.stderr.readline()):
            assert line, "tcpdump ended before it listened"
        traffic.look_up_many(lab, participant, names)
        querylog.settle(lab)
    finally:
        on(lab.span.to, "pkill", "-INT", "-x", "tcpdump", check=False)
        said, _ = sniffer.communicate(timeout=10)
    # A frame's second line is indented.
    return said.replace("\n    ", " ").strip().splitlines()


# ---- hosts, addresses, routes -------------------------------------------------------------------------


def test_both_houses_are_the_same_but_for_names_and_addresses() -> None:
    lab, molecule = (topology.load(INVENTORIES[name]) for name in ("lab", "molecule"))
    assert [h.name for h in lab.hosts.values()] == [h.name for h in molecule.hosts.values()]
    assert lab.networks.keys() == molecule.networks.keys()
    for name, network in lab.networks.items():
        assert (network.v6 is None) == (molecule.networks[name].v6 is None)


def test_no_two_houses_share_a_container_or_a_network() -> None:
    for one, other in itertools.combinations([topology.load(path) for path in INVENTORIES.values()], 2):
        assert not {h.container for h in one.hosts.values()} & {h.container for h in other.hosts.values()}
        pairs = itertools.product(one.networks.values(), other.networks.values())
        assert not [(here.v4, there.v4) for here, there in pairs if here.v4.overlaps(there.v4)]


def test_host_runs_systemd(host: Host) -> None:
    assert inside(host).check_output("cat /proc/1/comm") == "systemd"


def test_addresses_are_as_documented(host: Host) -> None:
    for interface in host.interfaces:
        addresses = inside(host).interface(interface.name).addresses
        for address in interface.address:
            assert address in addresses


def test_no_way_out(host: Host) -> None:
    for family in ("-4", "-6"):
        routes = json.loads(on(host, "ip", "-json", family, "route"))
        assert not [route for route in routes if route["dst"] == "default"]


def test_the_only_route_beyond_an_estate_is_to_the_hub(lab: Lab, participant: Participant) -> None:
    for host in lab.domain_hosts(participant.name):
        routes = json.loads(on(host, "ip", "-json", "-4", "route"))
        assert [route["dst"] for route in routes if "gateway" in route] == [lab.hub.management]


def test_no_trace_of_the_mirror_that_packages_came_from(host: Host) -> None:
    said = on(
        host, "/bin/sh", "-c", "cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null", check=False
    )
    assert said == ""
    assert on(host, "find", "/var/lib/apt/lists", "-type", "f", "-name", "*Release*") == ""


def test_identities_are_each_hosts_own(lab: Lab) -> None:
    machine_ids = {on(host, "cat", "/etc/machine-id") for host in lab.hosts.values()}
    keys = {on(host, "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()[1] for host in lab.hosts.values()}
    assert len(machine_ids) == len(keys) == len(lab.hosts)


def test_it_is_known_what_a_house_is_deployed_with(lab: Lab) -> None:
    assert deploy.is_deployed(lab)
    inventory = domains.state(lab) / "operator" / "inventory.yml"
    given = inventory.read_text()
    inventory.write_text(given.replace("hub_release", "hub_release_of_another_tree"))
    try:
        assert not deploy.is_deployed(lab)
    finally:
        inventory.write_text(given)


# ---- consoles -----------------------------------------------------------------------------------------


def test_a_console_gives_what_podman_exec_does(lab: Lab) -> None:
    host = lab.host("stub")
    script = "cat; echo said; echo wrong >&2; exit 3"
    one = subprocess.run(
        ["podman", "exec", "--interactive", host.container, "sh", "-c", script],
        input="given\r\n\u00fc\n",
        capture_output=True,
        text=True,
        env=containers_environment(),
        check=False,
    )
    other = console.run_on(host.container, ("sh", "-c", script), "given\r\n\u00fc\n")
    assert (other.code, other.output, other.errors) == (one.returncode, one.stdout, one.stderr) != (0, "", "")
    variables = [on(host, "env"), podman("exec", host.container, "env")]
    assert sorted(variables[0].split()) == sorted(variables[1].split())
    with pytest.raises(CommandError, match="exit 127: no-such-program: No such file"):
        on(host, "no-such-program")
    assert console.run_on(host.container, ("sh", "-c", "kill -KILL $$")).code == 137


def test_programs_run_at_the_same_time_and_hear_their_own(lab: Lab) -> None:
    host = lab.host("stub")
    meet = (
        "mkdir -p /run/met && touch /run/met/$0 && until [ $(ls /run/met | wc -l) = 4 ]; do :; done; echo $0"
    )
    names = [f"program-{number}" for number in range(4)]
    try:
        said = hosts.in_parallel(
            lambda name: on(host, "timeout", "20", "sh", "-c", meet, name).strip(), names
        )
    finally:
        on(host, "rm", "--recursive", "--force", "/run/met")
    assert said == names


def test_a_program_that_leaves_another_behind_has_ended(lab: Lab) -> None:
    number = on(lab.host("stub"), "sh", "-c", "sleep 300 & echo $!").strip()
    on(lab.host("stub"), "kill", number)


# ---- control domains ----------------------------------------------------------------------------------


def test_a_participants_key_opens_its_own_hosts_and_no_other(lab: Lab, participant: Participant) -> None:
    opened = set()
    with domains.empty_folder(participant) as folder:
        for host in lab.hosts.values():
            if host.management is None:
                continue
            careless = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
            words = [*SSH, *careless, f"root@{host.management}", "true"]
            if domains.as_participant(lab, participant, words, cwd=folder, log=folder / "log") == 0:
                opened.add(host.name)
    assert opened == {host.name for host in lab.domain_hosts(participant.name)}


def test_the_operators_key_opens_the_hub_and_no_other(lab: Lab) -> None:
    keys = domains.operator_keys(lab)
    opened = set()
    for host in lab.hosts.values():
        if host.management is None:
            continue
        careless = (
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "IdentitiesOnly=yes",
        )
        words = [*SSH, *careless, "-i", str(keys.private), f"root@{host.management}", "true"]
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            opened.add(host.name)
    assert opened == {lab.hub.name}


def test_a_participant_sees_nothing_of_ours(lab: Lab, participant: Participant) -> None:
    with domains.empty_folder(participant) as folder:
        log = folder / "log"
        script = "env | cut -d= -f1 | sort | tr '\\n' ' '; ls -A; ls /root 2>&1 || true"
        assert domains.as_participant(lab, participant, ["/bin/sh", "-c", script], cwd=folder, log=log) == 0
        said = log.read_text()
    assert said.startswith("HOME LANG LOGNAME PATH PWD USER ")
    assert "Permission denied" in said


def test_one_participant_cannot_read_anothers_home(lab: Lab) -> None:
    first, second = lab.participants.values()
    with domains.empty_folder(first) as folder:
        words = ["ls", str(second.home)]
        assert domains.as_participant(lab, first, words, cwd=folder, log=folder / "log") != 0


# ---- name service -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "qtype", "expected"), traffic.QUESTIONS)
def test_resolvers_answer_what_is_served(
    lab: Lab, participant: Participant, name: str, qtype: str, expected: str
) -> None:
    assert expected in traffic.look_up(lab, participant, name, qtype)


def test_resolvers_are_referred_from_root_to_domain(lab: Lab, participant: Participant) -> None:
    flush = {"unbound": ("unbound-control", "reload"), "bind": ("rndc", "flush")}
    before = querylog.mark(lab)
    on(participant.resolver, *flush[participant.resolver.service or ""])
    traffic.look_up(lab, participant, "www.alpha.example", "A")
    asked = [e for e in querylog.entries(lab, before) if e.kind == "Q" and e.qname == "www.alpha.example."]
    assert {entry.server for entry in asked} == {"root", "tld", "domains"}


def test_each_look_up_of_a_new_name_is_one_question_over_either_family(
    lab: Lab, participant: Participant
) -> None:
    traffic.look_up(lab, participant, "primer.wild.example", "A")  # from here on the delegation is known
    names = [f"once-{number}.{participant.name.replace('_', '-')}.wild.example" for number in range(20)]
    before = querylog.mark(lab)
    traffic.look_up_many(lab, participant, names + names)
    counted = querylog.counts(lab, before)
    per_name = {
        name: sum(n for (q, t, _), n in counted.items() if (q, t) == (f"{name}.", "A")) for name in names
    }
    assert set(per_name.values()) == {2}
    assert {source for _, _, source in counted} <= set(participant.resolver_address)


def test_upstream_traffic_is_of_both_families(lab: Lab, participant: Participant) -> None:
    before = querylog.mark(lab)
    traffic.look_up(lab, participant, "www.gamma.example", "A")
    traffic.look_up(lab, participant, "www.delta.example", "A")
    sources = {source for _, _, source in querylog.counts(lab, before)}
    assert sources == set(participant.resolver_address)


# ---- the mirror port ----------------------------------------------------------------------------------


def test_the_mirrors_port_is_no_one(lab: Lab) -> None:
    port = inside(lab.span.to).interface(lab.span.port)
    assert port.exists
    assert port.addresses == []
    management = lab.span.to.interfaces[0].name
    assert management != lab.span.port


def test_the_mirror_shows_both_directions_with_whole_checksums(lab: Lab) -> None:
    span.switch(lab, on_=True)
    names = [f"mirrored-{number}.wild.example" for number in range(10)]
    frames = [line for line in mirrored(lab, names) if any(name in line for name in names)]
    # The stub's question, the resolver's, and the answer to each.
    answers = [frame for frame in frames if "A 203.0.113.200" in frame]
    assert len(frames) - len(answers) == len(answers) == 2 * len(names)
    assert not [frame for frame in frames if "udp sum ok" not in frame]


def test_without_the_mirror_the_port_is_silent(lab: Lab) -> None:
    span.switch(lab, on_=False)
    try:
        assert not span.is_on(lab)
        assert mirrored(lab, [f"unseen-{number}.wild.example" for number in range(10)]) == []
    finally:
        span.switch(lab, on_=True)
    assert span.is_on(lab)


def test_the_mirror_is_there_again_after_a_restart_of_the_host_it_is_of(lab: Lab) -> None:
    hosts.restart(lab, lab.span.of)
    assert not span.is_on(lab)
    assert span.ensure(lab) == 1
    dns.await_answer(lab, lab.span.of)
    assert mirrored(lab, ["back.wild.example"])
