"""The sandboxes, asserted from inside the running units: what a unit's file asks for proves nothing.

In a container without CAP_SYS_ADMIN, for one, systemd starts units whose file says ProtectSystem=strict with
/etc writable and says not a word. So each unit's main process is looked at through its own namespaces and its
own entry in /proc, and the same look at a unit without a sandbox must find every fault.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sie_lab.hosts import on, process_id
from sie_lab.machine import run
from sie_lab.topology import Host, Lab

NO_CAPABILITY = 0
CAP_NET_RAW = 1 << 13  # capability.h

HUB_UNITS = ("sie-hub-enrol", "sie-hub-ingest", "sie-hub-refine", "sie-hub-serve", "nats-server")
SENSOR_UNITS = {"isp_a": "sie-agent", "uni_b": "sie-agent"}
NAKED = "sie-naked"  # a unit of the tests, without any sandbox

# Runs among the host's processes with this machine's privileges, because root in a container may not look
# into others' processes: enters the process's mount namespace, tries what its sandbox forbids, and reports.
LOOK = """
import ctypes, errno, json, os, sys
pid, state = sys.argv[1:]
def status(of):
    lines = open(f"/proc/{of}/status").read().splitlines()
    return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
statuses = {"unit": status(pid), "init": status("1")}
namespace, root = (os.open(f"/proc/{pid}/{name}", os.O_RDONLY) for name in ("ns/mnt", "root"))
CLONE_NEWNS = 0x00020000  # unshare(2)
if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNS):
    sys.exit(os.strerror(ctypes.get_errno()))
os.fchdir(root)
os.chroot(".")
def writable(folder):
    path = os.path.join(folder, ".look")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.unlink(path)
        return True
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.ENOENT):
            raise
        return False
def listed(folder):
    try:
        return os.listdir(folder)
    except OSError:
        return []
print(json.dumps({
    **statuses,
    "system": [f for f in ("/etc", "/usr", "/var", "/opt", "/root", "/home", "/var/lib") if writable(f)],
    "state": writable(state),
    "homes": listed("/root") + listed("/home"),
    "proc": [name for name in listed("/proc") if not name.isdecimal()],
}))
"""


@dataclass(frozen=True)
class Expected:
    """What a unit may do: its capabilities, and the folder it keeps its state in."""

    capabilities: int
    state: str


def main_pid(host: Host, unit: str) -> str:
    pid = on(host, "systemctl", "show", "--property=MainPID", "--value", f"{unit}.service").strip()
    assert pid != "0", f"{unit} does not run on {host.name}"
    return pid


def faults(host: Host, unit: str, expected: Expected) -> list[str]:
    """What the unit's main process could do that it should not, and the reverse."""
    enter = ["nsenter", f"--target={process_id(host)}", "--mount", "--pid", "--"]
    look = [*enter, "/usr/bin/python3", "-c", LOOK, main_pid(host, unit), expected.state]
    seen = json.loads(run(look))
    process = seen["unit"]
    wrong = {
        "runs as root": "0" in process["Uid"],
        "has root's group": "0" in process["Gid"] + process["Groups"],
        "has other capabilities": int(process["CapEff"][0], 16) != expected.capabilities,
        "can gain capabilities": int(process["CapBnd"][0], 16) != expected.capabilities,
        "can gain privileges by running a program": process["NoNewPrivs"] != ["1"],
        "has no filter of system calls": int(process["Seccomp_filters"][0])
        <= int(seen["init"]["Seccomp_filters"][0]),  # the container's own are every process's
        "can write to the system": seen["system"] != [],
        "cannot write its state": not seen["state"],
        "sees people's homes": seen["homes"] != [],
        "sees more in /proc than processes": {"meminfo", "sys"} & set(seen["proc"]) != set(),
    }
    return [fault for fault, found in wrong.items() if found]


OURS = "/etc/systemd/system/sie-*"


def unread(host: Host, files: str) -> list[str]:
    """What systemd objects to in unit files: a line that it cannot read is a protection that is not there."""
    units = [unit for unit in on(host, "sh", "-c", f"ls {files}").split() if "@" not in unit]
    said = on(host, "sh", "-c", f"systemd-analyze verify --man=no {' '.join(units)} 2>&1 || true")
    return [line for line in said.splitlines() if any(unit in line for unit in units)]


@pytest.mark.parametrize("who", ["hub", "isp_a", "uni_b"])
def test_systemd_reads_every_line_of_our_units(lab: Lab, who: str) -> None:
    host = lab.hub if who == "hub" else lab.participant(who).sensor
    assert unread(host, OURS) == []


def test_a_line_that_systemd_cannot_read_is_found(lab: Lab) -> None:
    path = f"/run/systemd/system/{NAKED}-unread.service"
    on(lab.hub, "tee", path, stdin="[Service]\nExecStart=/bin/true\nLimitCORE=0# no core\n")
    try:
        assert len(unread(lab.hub, path)) == 1
    finally:
        on(lab.hub, "rm", path)


@pytest.mark.parametrize("unit", HUB_UNITS)
def test_a_program_of_the_hub_is_confined(lab: Lab, unit: str) -> None:
    state = "/var/lib/nats" if unit == "nats-server" else f"/var/lib/{unit}"
    assert faults(lab.hub, unit, Expected(NO_CAPABILITY, state)) == []


@pytest.mark.parametrize("participant", SENSOR_UNITS)
def test_the_agent_is_confined_and_may_only_capture(lab: Lab, participant: str) -> None:
    sensor = lab.participant(participant).sensor
    expected = Expected(CAP_NET_RAW, "/var/lib/private/sie-agent")
    assert faults(sensor, SENSOR_UNITS[participant], expected) == []


@pytest.mark.parametrize("participant", SENSOR_UNITS)
def test_the_agent_yields_to_the_resolver_and_leaves_no_core(lab: Lab, participant: str) -> None:
    """Priority and limit are the process's own; the weight of its group is what systemd knows of it."""
    sensor, unit = lab.participant(participant).sensor, SENSOR_UNITS[participant]
    pid = main_pid(sensor, unit)
    assert on(sensor, "ps", "-o", "ni=", "-p", pid).strip() == "10"
    assert on(sensor, "systemctl", "show", "--property=CPUWeight", "--value", unit).strip() == "20"
    limits = on(sensor, "cat", f"/proc/{pid}/limits").splitlines()
    (core,) = [line for line in limits if "core file" in line]
    assert core.split()[-3:] == ["0", "0", "bytes"]


@pytest.fixture(params=["hub", "sensor"])
def naked(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Host]:
    """A host with a unit that has no sandbox."""
    host = lab.hub if request.param == "hub" else lab.participant("isp_a").sensor
    on(host, "mkdir", "-p", "/root/looked-for")
    on(host, "systemd-run", "--quiet", f"--unit={NAKED}", "sleep", "60")
    yield host
    on(host, "systemctl", "stop", f"{NAKED}.service")
    on(host, "rmdir", "/root/looked-for")


def test_a_unit_without_a_sandbox_is_found_out(naked: Host) -> None:
    assert faults(naked, NAKED, Expected(NO_CAPABILITY, "/nonexistent")) == [
        "runs as root",
        "has root's group",
        "has other capabilities",
        "can gain capabilities",
        "can gain privileges by running a program",
        "has no filter of system calls",
        "can write to the system",
        "cannot write its state",
        "sees people's homes",
        "sees more in /proc than processes",
    ]


# ---- who may read what -----------------------------------------------------------------------------------


def read_as(host: Host, unit: str, pattern: str) -> str:
    """What the unit's user could read, in its namespaces, of the files that fit a shell pattern."""
    pid = main_pid(host, unit)
    status = on(host, "cat", f"/proc/{pid}/status").splitlines()
    ids = {line.split()[0]: line.split()[1:] for line in status if line.startswith(("Uid", "Gid", "Groups"))}
    enter = ["nsenter", f"--target={process_id(host)}", "--mount", "--pid", "--"]
    enter += ["nsenter", f"--target={pid}", "--mount", "--", "setpriv", "--bounding-set=-all"]
    enter += [f"--reuid={ids['Uid:'][0]}", f"--regid={ids['Gid:'][0]}", "--inh-caps=-all"]
    enter += [f"--groups={','.join(ids['Groups:'])}" if ids["Groups:"] else "--clear-groups"]
    return run([*enter, "sh", "-c", f"cat {pattern} 2>/dev/null || true"])


CA_KEY = "/etc/sie-hub/ca/ca.key"


def test_enrol_alone_reads_the_authoritys_key(lab: Lab) -> None:
    key = on(lab.hub, "cat", CA_KEY)
    assert "PRIVATE KEY" in key
    everywhere = f"{CA_KEY} /run/credentials/*/*"
    readers = [unit for unit in HUB_UNITS if key in read_as(lab.hub, unit, everywhere)]
    assert readers == ["sie-hub-enrol"]


@pytest.mark.parametrize("unit", ["ingest", "refine", "serve"])
def test_a_program_reads_no_password_but_its_own(lab: Lab, unit: str) -> None:
    everywhere = "/etc/sie-hub/nats/* /run/credentials/*/nats_password /run/credentials/*/nats-server.conf"
    assert read_as(lab.hub, f"sie-hub-{unit}", everywhere) == on(lab.hub, "cat", f"/etc/sie-hub/nats/{unit}")


@pytest.mark.parametrize("participant", SENSOR_UNITS)
def test_a_sensors_key_is_its_own(lab: Lab, participant: str) -> None:
    sensor = lab.participant(participant).sensor
    place = "/var/lib/sie-agent/identity/key.pem"
    assert "PRIVATE KEY" in read_as(sensor, "sie-agent", place)
    seen = on(sensor, "runuser", "-u", "nobody", "--", "sh", "-c", f"cat {place} || echo refused")
    assert seen == "refused\n"
