"""Opens recorded TLS 1.3 connections (RFC 8446) with an NSS key log, the format of SSLKEYLOGFILE.

Only what the lab negotiates: the three mandatory cipher suites, no key update, no early data.
"""

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.utils import PcapReader

HANDSHAKE = 22
APPLICATION_DATA = 23
CLIENT_HELLO = 1
SERVER_HELLO = 2
RECORD_HEADER = 5
NONCE_OCTETS = 12

Cipher = type[AESGCM] | type[ChaCha20Poly1305]
CIPHERS: dict[int | None, tuple[Cipher, int, type[hashes.SHA256] | type[hashes.SHA384]]] = {
    0x1301: (AESGCM, 16, hashes.SHA256),
    0x1302: (AESGCM, 32, hashes.SHA384),
    0x1303: (ChaCha20Poly1305, 32, hashes.SHA256),
}

Endpoint = tuple[str, int]


class NotOpened(Exception):
    """A recorded connection could not be opened: its message says which one and why."""


@dataclass(frozen=True)
class Conversation:
    """The application data of one TLS connection, both ways."""

    client: Endpoint
    server: Endpoint
    sent: bytes
    received: bytes


def conversations(capture: Path, key_log: Path) -> Iterator[Conversation]:
    """Yields every TLS 1.3 connection of `capture` whose keys are in `key_log`.

    Raises NotOpened for a connection whose secrets are there but whose records do not open: a test that
    searches what was sent must not pass because it searched nothing.
    """
    secrets = _read_key_log(key_log)
    streams = _reassemble(capture)
    for (source, destination), octets in streams.items():
        records = list(_records(octets))
        random = _hello_random(records, CLIENT_HELLO)
        if random is None or ("CLIENT_TRAFFIC_SECRET_0", random) not in secrets:
            continue
        answers = list(_records(streams.get((destination, source), b"")))
        suite = _cipher_suite(answers)
        if suite not in CIPHERS:
            raise NotOpened(f"{source} -> {destination}: cipher suite {suite} is not one of {list(CIPHERS)}")
        sent = _open(records, secrets["CLIENT_TRAFFIC_SECRET_0", random], suite)
        received = _open(answers, secrets["SERVER_TRAFFIC_SECRET_0", random], suite)
        if not sent:
            raise NotOpened(
                f"{source} -> {destination}: none of {len(records)} records opened with the logged secret"
            )
        yield Conversation(source, destination, sent, received)


def _read_key_log(path: Path) -> dict[tuple[str, bytes], bytes]:
    secrets = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            label, random, secret = line.split()
            secrets[label, bytes.fromhex(random)] = bytes.fromhex(secret)
    return secrets


def _reassemble(capture: Path) -> dict[tuple[Endpoint, Endpoint], bytes]:
    """The octets of each direction of each TCP connection, in order, retransmissions once."""
    segments: dict[tuple[Endpoint, Endpoint], dict[int, bytes]] = defaultdict(dict)
    start: dict[tuple[Endpoint, Endpoint], int] = {}
    finished: list[tuple[tuple[Endpoint, Endpoint], int, dict[int, bytes]]] = []
    with PcapReader(str(capture)) as packets:
        for packet in packets:
            if TCP not in packet:
                continue
            network = packet[IP] if IP in packet else packet[IPv6]
            tcp = packet[TCP]
            key = ((network.src, tcp.sport), (network.dst, tcp.dport))
            if "S" in tcp.flags:
                if key in start and start[key] != (tcp.seq + 1) % 2**32:
                    finished.append((key, start[key], segments.pop(key)))
                start[key] = (tcp.seq + 1) % 2**32
            payload = bytes(tcp.payload)[: _payload_octets(network, tcp)]
            if payload:
                segments[key][tcp.seq] = payload
    joined = {key: _join(start.get(key, min(parts)), parts) for key, parts in segments.items() if parts}
    for number, (key, first, parts) in enumerate(finished):
        if parts:
            (host, port), other = key
            joined[(f"{host}#{number}", port), other] = _join(first, parts)
    return joined


def _payload_octets(network: IP | IPv6, tcp: TCP) -> int:
    """Octets of TCP payload, without the padding that short Ethernet frames carry."""
    length: int = (
        network.plen if isinstance(network, IPv6) else network.len - 4 * network.ihl
    ) - 4 * tcp.dataofs
    return length


def _join(first: int, parts: dict[int, bytes]) -> bytes:
    stream = bytearray()
    for sequence in sorted(parts, key=lambda s: (s - first) % 2**32):
        offset = (sequence - first) % 2**32
        if offset > len(stream):
            break
        stream[offset:] = parts[sequence] if len(parts[sequence]) + offset > len(stream) else stream[offset:]
    return bytes(stream)


def _records(octets: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """TLS records as (type, header, body); stops at the first that is not whole."""
    offset = 0
    while offset + RECORD_HEADER <= len(octets):
        header = octets[offset : offset + RECORD_HEADER]
        kind, _version, length = struct.unpack("!BHH", header)
        body = octets[offset + RECORD_HEADER : offset + RECORD_HEADER + length]
        if len(body) < length:
            return
        yield kind, header, body
        offset += RECORD_HEADER + length


def _hello_random(records: list[tuple[int, bytes, bytes]], message: int) -> bytes | None:
    for kind, _header, body in records:
        if kind == HANDSHAKE and body[0] == message:
            return body[6:38]
    return None


def _cipher_suite(records: list[tuple[int, bytes, bytes]]) -> int | None:
    for kind, _header, body in records:
        if kind == HANDSHAKE and body[0] == SERVER_HELLO:
            after_session_id = 39 + body[38]
            return int.from_bytes(body[after_session_id : after_session_id + 2], "big")
    return None


def _open(records: list[tuple[int, bytes, bytes]], secret: bytes, suite: int | None) -> bytes:
    """Joins one direction's application data; records under handshake keys come first and do not open."""
    cipher, key_octets, digest = CIPHERS[suite]
    aead = cipher(_expand_label(secret, b"key", key_octets, digest()))
    vector = int.from_bytes(_expand_label(secret, b"iv", NONCE_OCTETS, digest()), "big")
    plain = bytearray()
    number = 0
    for kind, header, body in records:
        if kind != APPLICATION_DATA:
            continue
        try:
            inner = aead.decrypt((vector ^ number).to_bytes(NONCE_OCTETS, "big"), body, header)
        except InvalidTag:
            if number:
                raise NotOpened(
                    f"record {number} of a direction that had opened until then does not open"
                ) from None
            continue
        number += 1
        content = inner.rstrip(b"\0")
        if content and content[-1] == APPLICATION_DATA:
            plain += content[:-1]
    return bytes(plain)


def _expand_label(secret: bytes, label: bytes, length: int, algorithm: hashes.HashAlgorithm) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446 section 7.1)."""
    name = b"tls13 " + label
    info = struct.pack("!HB", length, len(name)) + name + b"\0"
    return HKDFExpand(algorithm, length, info).derive(secret)
