"""Look-ups without pause for as long as a test lasts, and what must have come of them."""

import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from sie_lab import querylog
from sie_lab.topology import Lab, Participant

from tests.fleet.holdings import status
from tests.fleet.reader import Reader, await_true

SEED = 20261121
PATIENCE = 60.0  # seconds for a unit to come back, or for everything to arrive
ANSWERED_WITHIN = 10.0  # seconds from a look-up to its answer
PAUSE = 0.01  # seconds between two look-ups, so that the name server can log every one
WINDOWS_LATER = 12.0  # seconds, two refine windows and more: what was to be counted twice would be by then

Differences = Callable[[], dict[str, tuple[int, int]]]

# Runs on the stub's host until its input ends: each name is asked for a number of times that it rolls for it.
ASK_ON = """
import random, select, socket, struct, sys, time
resolvers, zone, seed, pause = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
dice = random.Random(seed)
def query(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    header = struct.pack("!HHHHHH", dice.randrange(65536), 0x0100, 1, 0, 0, 0)
    return header + labels + b"\\0" + struct.pack("!HH", 1, 1)
number = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    resolver = resolvers[number % len(resolvers)]
    name = f"k{number}.{zone}"
    for _ in range(dice.choice((1, 1, 2, 3, 5))):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.settimeout(2)
            end.sendto(query(name), (resolver, 53))
            try:
                end.recv(4096)
            except TimeoutError:
                pass
        time.sleep(pause)
    number += 1
print(number)
"""


class Traffic:
    """Look-ups without pause below a zone of their own, through some participants' resolvers."""

    def __init__(self, lab: Lab, participants: list[Participant]) -> None:
        self.lab = lab
        self.zone = f"{secrets.token_hex(4)}.wild.example"
        self.since = querylog.mark(lab)
        resolvers = ",".join(str(p.resolver_address.v4) for p in participants)
        command = ["podman", "exec", "--interactive", lab.host("stub").container, "python3", "-c", ASK_ON]
        self._asking = subprocess.Popen(
            [*command, resolvers, self.zone, str(SEED), str(PAUSE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._names = 0

    def stop(self) -> None:
        """Ends the look-ups, once; AssertionError if there were none."""
        if self._asking.returncode is None:
            said, _ = self._asking.communicate("\n", timeout=PATIENCE)
            self._names = int(said)
        assert self._names > 0

    def asked(self) -> Counter[str]:
        """How often the server that holds each name was asked for it."""
        return asked_below(self.lab, self.zone, self.since)


def asked_below(lab: Lab, zone: str, since: int) -> Counter[str]:
    """How often the server that holds each name below a zone was asked for it, since a mark of its log's."""
    total: Counter[str] = Counter()
    for (name, qtype, _resolver), count in querylog.asked_of_holder(lab, since).items():
        if name.rstrip(".").endswith(zone) and qtype == "A":
            total[name.rstrip(".")] += count
    return total


def _acknowledged(participant: Participant) -> bool:
    pending: int = status(participant.sensor)["pending"]
    return pending == 0


def differences(reader: Reader, zone: str, expected: Counter[str]) -> dict[str, tuple[int, int]]:
    """What readers are told of names below a zone that is not as expected: (expected, counted) by name."""
    counted = reader.counts(zone)
    return {
        n: (expected[n], counted[n]) for n in expected.keys() | counted.keys() if expected[n] != counted[n]
    }


def await_counts(reader: Reader, zone: str, expected: Counter[str]) -> Differences:
    """Once readers are told what is expected: how to see later whether they still are."""
    differing = partial(differences, reader, zone, expected)
    try:
        await_true(lambda: not differing(), PATIENCE, "the name server's counts")
    except AssertionError as error:
        raise AssertionError(f"(asked, counted) differ for {differing()}") from error
    return differing


def arrived(reader: Reader, traffic_: Traffic, participants: list[Participant]) -> Differences:
    """Once everything asked is answered with the name server's own counts: as `await_counts`."""
    expected = traffic_.asked()
    assert max(expected.values()) > 1
    for participant in participants:
        await_true(partial(_acknowledged, participant), PATIENCE, f"{participant.sensor.name} acknowledged")
    return await_counts(reader, traffic_.zone, expected)


def settled(reader: Reader, traffic_: Traffic, participants: list[Participant]) -> None:
    """Everything asked is answered with the name server's own counts, and stays so."""
    differing = arrived(reader, traffic_, participants)
    time.sleep(WINDOWS_LATER)
    assert differing() == {}
