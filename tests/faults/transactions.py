"""Transactions as things to compare, whoever speaks of them: the traffic's maker, or a container."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from sie_core._native import decode
from tests.traffic.generator import Exchange

_IPV6_AND_UDP = 40 + 8
_IPV4_AND_UDP = 20 + 8
_HEADER = 12
_TYPE_AND_CLASS = 4


class Transaction(NamedTuple):
    """Who asked whom, from which port, under which id and what; and what the answer was, octet by octet."""

    resolver: bytes
    port: int
    server: bytes
    id: int
    name: bytes
    rrtype: int
    response: bytes | None


def sent(exchanges: Iterable[Exchange]) -> Counter[Transaction]:
    """What the traffic's maker put on the wire."""
    return Counter(map(_of_exchange, exchanges))


def contained(containers: Iterable[bytes]) -> Counter[Transaction]:
    """What is in containers."""
    return Counter(_of_message(payload["message"]) for data in containers for payload in decode(data))


def answered(transactions: Counter[Transaction]) -> Counter[Transaction]:
    """Those with an answer."""
    return Counter({one: count for one, count in transactions.items() if one.response is not None})


def _of_exchange(exchange: Exchange) -> Transaction:
    question = exchange.query[_HEADER:]
    end = question.index(0) + 1
    return Transaction(
        exchange.resolver.packed,
        exchange.port,
        exchange.server.packed,
        int.from_bytes(exchange.query[:2]),
        question[:end],
        int.from_bytes(question[end : end + _TYPE_AND_CLASS // 2]),
        exchange.response,
    )


def _of_message(message: dict[str, Any]) -> Transaction:
    (packet,) = message["response_packet"] or (None,)
    if packet is not None:
        packet = packet[_IPV6_AND_UDP if packet[0] >> 4 == 6 else _IPV4_AND_UDP :]
    return Transaction(
        message["query_ip"],
        message["query_port"],
        message["response_ip"],
        message["id"],
        message["qname"],
        message["qtype"],
        packet,
    )
