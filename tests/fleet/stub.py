"""Stub clients of every kind, asking the participants' resolvers from the lab's stub host."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rdatatype
from sie_lab.hosts import on
from sie_lab.topology import Lab

# Runs on the stub's host: sends each question from its own address and port, and prints which were answered.
ASK = """
import json, socket, struct, sys
TIMEOUT, TRIES = 3.0, 3
answered = []
for number, question in enumerate(json.load(sys.stdin)):
    family = socket.AF_INET6 if ":" in question["client"] else socket.AF_INET
    message = bytes.fromhex(question["message"])
    kind = socket.SOCK_STREAM if question["tcp"] else socket.SOCK_DGRAM
    for attempt in range(TRIES):
        with socket.socket(family, kind) as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # A closed connection is forgotten at once, so that the next may have the same two ports 53.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.settimeout(TIMEOUT)
            end.bind((question["client"], question["port"]))
            try:
                end.connect((question["resolver"], 53))
                end.sendall(struct.pack("!H", len(message)) + message if question["tcp"] else message)
                answer = end.recv(4096)
            except OSError as error:
                print(f"question {number}: {error}", file=sys.stderr)
                continue
        answered.append(number)
        break
json.dump(answered, sys.stdout)
"""


@dataclass(frozen=True)
class Question:
    """One query as a stub client sends it; `port` 0 is one of the system's choice."""

    client: str
    port: int
    resolver: str
    tcp: bool
    message: str

    def __str__(self) -> str:
        flags = dns.message.from_wire(bytes.fromhex(self.message)).flags
        desired = int(bool(flags & dns.flags.RD))
        return (
            f"{self.client} port {self.port} {'TCP' if self.tcp else 'UDP'} RD={desired} to {self.resolver}"
        )


def question(client: str, port: int, resolver: str, name: str, *, recursion: bool, tcp: bool) -> Question:
    """A query for an A record."""
    query = dns.message.make_query(name, dns.rdatatype.A, flags=dns.flags.RD if recursion else 0)
    return Question(client, port, resolver, tcp, query.to_wire().hex())


def of_every_kind(clients: Iterable[str], resolvers: Iterable[str], zone: str) -> list[Question]:
    """For each client and resolver of one family: port 53 and another, RD=0 and RD=1, UDP and TCP.

    Each asks for names of its own below `zone`; a name is asked with RD=0 after it was asked with RD=1.
    """
    questions = []
    number = 0
    for client in clients:
        for resolver in resolvers:
            if ip_address(client).version != ip_address(resolver).version:
                continue
            for tcp in (False, True):
                for port in (0, 53):
                    for recursion in (True, False):
                        name = f"s{number}.{zone}"
                        questions.append(question(client, port, resolver, name, recursion=recursion, tcp=tcp))
                    number += 1
    return questions


def ask(lab: Lab, questions: list[Question]) -> list[Question]:
    """Sends the questions one after another; those that were answered."""
    said = on(
        lab.host("stub"),
        *("python3", "-c", ASK),
        stdin=json.dumps([asdict(question) for question in questions]),
    )
    return [questions[number] for number in json.loads(said)]
