"""`sie-agent probe`: prove that what this sensor captures is received.

A name that nobody has looked up before is looked up through the resolver. Its question to the exchange's
name server, and the answer, are captured like any other, and go the way of all transactions; then the hub is
asked, over this sensor's own certificate, whether it has them. No reader's key is needed, and the name
reaches no channel.
"""

import argparse
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sie_agent.cli import EXIT_BROKEN, EXIT_FAILURE, EXIT_OK, add_config_argument
from sie_agent.config import EXCHANGE, AgentConfig, load_config
from sie_agent.config_kinds import HOST
from sie_agent.errors import AgentError, UsageError
from sie_agent.hub_door import Answer, DoorClosed, ask
from sie_agent.lookup import look_up
from sie_agent.status import current

NONCE: Final = re.compile(r"[0-9a-f]{32}")
"""128 random bits, so that no two probes are ever alike and no other sensor can guess one."""

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds to wait: a container is sealed after one, the hub refines every five, and a resolver that gets no
answer takes ten."""

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 3.0
"""Seconds between two questions to the hub, doubling: it lets a sensor ask twice a second."""

STAGES: Final = ("looked_up", "captured", "acknowledged", "received")
"""The way of a probe, in its order."""

RECEIVED, NOT_RECEIVED, UNPROVABLE = "received", "not_received", "unprovable"
_EXIT_OF: Final = {RECEIVED: EXIT_OK, NOT_RECEIVED: EXIT_BROKEN, UNPROVABLE: EXIT_FAILURE}


class Unprovable(AgentError):
    """Nothing can be proven here; the sentence says why and what to do."""


@dataclass
class Proof:
    """What came of a probe. `stages` has for each that was reached its time, in seconds since the begin, and
    what is to say of it; `received` is the hub's answer. `outcome` is received, not_received or unprovable.
    """

    participant: str
    sensor: str
    zone: str | None
    nonce: str
    began: float
    outcome: str = NOT_RECEIVED
    sentence: str = ""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    received: Mapping[str, Any] | None = None

    def reached(self, stage: str, text: str) -> None:
        """A stage was reached now, unless it had been before."""
        self.stages.setdefault(stage, {"seconds": round(time.time() - self.began, 3), "text": text})

    def as_document(self) -> dict[str, Any]:
        """For --json and for reports."""
        return dict(vars(self))


def prove(
    config: AgentConfig,
    *,
    zone: str | None = None,
    resolver: str | None = None,
    nonce: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    sleep: Callable[[float], None] = time.sleep,
) -> Proof:
    """Make a probe, or wait for one whose name another host has looked up (`nonce`); how far it has come.

    Raises nothing that the result cannot say.
    """
    proof = Proof(config.participant, config.sensor, zone, nonce or secrets.token_hex(16), time.time())
    try:
        hub = _hub_of(config)
        proof.zone = _zone(config, hub, zone)
        before = current(config)
        if nonce is None:
            _look_up(proof, resolver or resolver_of(config))
        _await(config, hub, proof, before, timeout, sleep)
    except Unprovable as error:
        proof.outcome, proof.sentence = UNPROVABLE, str(error)
    except AgentError as error:
        proof.sentence = str(error)
    return proof


def resolver_of(config: AgentConfig) -> str:
    """Where the resolver may be asked, as far as the configuration tells: at the first address listed."""
    listed = (item for item in config.resolvers if item != HOST and "/" not in item)
    return next(listed, "127.0.0.1")


def _hub_of(config: AgentConfig) -> str:
    if not config.hubs:
        raise Unprovable(
            "this sensor puts files into a drop over SSH and shows the hub no certificate, so it cannot ask "
            "for its probe: what is acknowledged proves the way to the hub, `sie-hub ledger` there the rest"
        )
    return config.hubs[0]


def _zone(config: AgentConfig, hub: str, wanted: str | None) -> str:
    """The hub's probe zone. Raises Unprovable."""
    answer = _ask(config, hub, "/probe")
    if answer.status == 200:
        said = document_of(answer).get("zone")
        if not isinstance(said, str) or re.fullmatch(EXCHANGE, said) is None:
            raise Unprovable(
                f"{hub}: says no probe zone that could be one: is this the hub of {config.exchange}?"
            )
        if wanted is not None and wanted.rstrip(".").lower() != said:
            raise Unprovable(f"{hub}: its probe zone is {said}, not {wanted}: take the name from the hub")
        return said
    if answer.status == 404:
        raise Unprovable(
            f"{hub}: has no probe zone, so only acknowledgements tell what is received; its operator can set "
            "one"
        )
    raise AgentError(f"{hub}: refuses this sensor: HTTP {answer.status}: {_said(answer)}")


def _look_up(proof: Proof, resolver: str) -> None:
    looked = look_up(f"{proof.nonce}.{proof.zone}", resolver)
    if looked.rcode != "NOERROR":
        raise AgentError(
            f"the resolver {resolver} answers {looked.rcode} for a name of {proof.zone}, in which every name "
            "exists: it must be able to ask that zone's name server, which is the hub's"
        )
    proof.reached("looked_up", f"through {resolver}, answered in {looked.seconds * 1000:.0f} ms")


def _await(
    config: AgentConfig,
    hub: str,
    proof: Proof,
    before: Mapping[str, Any],
    timeout: float,
    sleep: Callable[[float], None],
) -> None:
    """Ask until the hub has it or the time is over, and note the stages on the way."""
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        now = current(config)
        for stage, number in (("captured", "captured"), ("acknowledged", "acknowledged")):
            more = now[number] - before[number]
            if more > 0:
                proof.reached(stage, f"{more} transactions more than before")
        answer = _ask(config, hub, f"/probe/{proof.nonce}")
        if answer.status == 200:
            proof.received = document_of(answer)
            proof.outcome = RECEIVED
            proof.reached("received", _what(proof.received))
            proof.sentence = _verdict(proof.received)
            return
        if answer.status not in (404, 429, 503):
            raise AgentError(f"{hub}: refuses this sensor: HTTP {answer.status}: {_said(answer)}")
        if time.monotonic() >= deadline:
            proof.sentence = _missing(proof, now, timeout)
            return
        sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, LONGEST_PAUSE)


def _ask(config: AgentConfig, hub: str, path: str) -> Answer:
    try:
        return ask(config, hub, path)
    except DoorClosed as closed:
        raise AgentError(f"{hub}: cannot be asked for the probe: {closed}") from None


def document_of(answer: Answer) -> dict[str, Any]:
    """The JSON object of an answer, an empty one if it is none."""
    try:
        document = json.loads(answer.text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _said(answer: Answer) -> str:
    said = document_of(answer).get("error")
    return said if isinstance(said, str) else answer.sentence


def _what(received: Mapping[str, Any]) -> str:
    asked, answered, stored = (received.get(name) for name in ("asked", "answered", "stored"))
    words = [str(received.get("transaction", "")).lower().replace("_", " ")]
    if isinstance(asked, (int, float)) and isinstance(answered, (int, float)):
        words.append(f"answered {(answered - asked) * 1000:.0f} ms after it was asked")
    if isinstance(stored, (int, float)):
        words.append(f"on the hub's disk at {time.strftime('%H:%M:%S', time.gmtime(stored))} UTC")
    return ", ".join(word for word in words if word)


def _verdict(received: Mapping[str, Any]) -> str:
    if received.get("asked") is not None and received.get("answered") is not None:
        return "the hub has received what this sensor captured of the look-up, question and answer"
    seen, unseen = ("question", "answer") if received.get("asked") is not None else ("answer", "question")
    return (
        f"the hub has received the {seen} of the look-up, but the sensor never saw its {unseen}: the mirror "
        "or tap shows one direction alone; have it show both"
    )


def _missing(proof: Proof, now: Mapping[str, Any], timeout: float) -> str:
    last = next((stage for stage in reversed(STAGES) if stage in proof.stages), None)
    state = now["uplink"]["state"].replace("_", " ")
    nothing = "and nothing was captured meanwhile: look at the interface and the resolvers' addresses"
    where = {
        None: nothing,
        "looked_up": nothing,
        "captured": f"and of what was captured nothing was acknowledged: the uplink is {state}",
        "acknowledged": "although transactions were acknowledged: the look-up was not among what this sensor "
        "captured (another resolver's address, a local zone), or the hub refines late",
    }
    return f"the hub has not received the probe within {timeout:g} s, {where[last]}"


def text(proof: Proof) -> str:
    """The proof for people: a line for each stage."""
    lines = [
        f"sensor        {proof.participant}/{proof.sensor}",
        f"probe         {proof.nonce}" + (f".{proof.zone}" if proof.zone else ""),
    ]
    for stage in STAGES:
        reached = proof.stages.get(stage)
        name = stage.replace("_", " ")
        lines.append(
            f"{name:<13} " + ("-" if reached is None else f"{reached['seconds']:6.1f} s  {reached['text']}")
        )
    lines.append(f"{proof.outcome.replace('_', ' ')}: {proof.sentence}")
    return "\n".join(lines)


def configure(_command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `probe`."""
    add_config_argument(parser)
    parser.add_argument("--zone", metavar="ZONE", help="the probe zone (default: what the hub says)")
    parser.add_argument(
        "--resolver", metavar="ADDRESS", help="the resolver to ask (default: the first that is configured)"
    )
    parser.add_argument(
        "--nonce",
        metavar="DIGITS",
        help="look up nothing, but wait for this nonce of 32 hexadecimal digits, which another host has "
        "looked up",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help=f"how long to wait (default: {DEFAULT_TIMEOUT:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.nonce is not None and NONCE.fullmatch(arguments.nonce) is None:
        raise UsageError(f"--nonce {arguments.nonce}: 32 hexadecimal digits in lower case are expected")
    proof = prove(
        load_config(arguments.config),
        zone=arguments.zone,
        resolver=arguments.resolver,
        nonce=arguments.nonce,
        timeout=arguments.timeout,
    )
    print(json.dumps(proof.as_document()) if arguments.json else text(proof))
    return _EXIT_OF[proof.outcome]
