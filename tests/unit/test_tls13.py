"""The opener of recorded connections is itself shown to open them: other tests search what it yields."""

import contextlib
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from tests.wire.tls13 import NotOpened, conversations

CLIENT = ("198.51.100.3", 40000)
SERVER = ("198.51.100.2", 8443)
SEGMENT = 700
# Named, because scapy would ask the network for the hardware addresses of those that it is not told.
WIRE = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def _server_context(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pem)
    return context


def _converse(folder: Path, sent: bytes, received: bytes) -> list[tuple[bool, bytes]]:
    """Runs one connection in memory and returns its flights as (from client, octets)."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    client_context.keylog_filename = str(folder / "keys")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = _server_context(folder).wrap_bio(to_server, to_client, server_side=True)
    flights: list[tuple[bool, bytes]] = []

    def exchange(end: ssl.SSLObject, output: ssl.MemoryBIO, *, from_client: bool) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
        octets = output.read()
        if octets:
            flights.append((from_client, octets))
            output.write(octets)

    for _ in range(2):
        exchange(client, to_server, from_client=True)
        exchange(server, to_client, from_client=False)
    client.write(sent)
    flights.append((True, to_server.read()))
    to_client.read()  # session tickets, recorded in the flight before
    server.write(received)
    flights.append((False, to_client.read()))
    return flights


def _record(flights: list[tuple[bool, bytes]], capture: Path, *, repeat: bool) -> None:
    sequence = {True: 1000, False: 5000}
    packets = []
    for from_client in (True, False):
        (source, sport), (destination, dport) = (CLIENT, SERVER) if from_client else (SERVER, CLIENT)
        layers = WIRE / IP(src=source, dst=destination)
        packets.append(layers / TCP(sport=sport, dport=dport, flags="S", seq=sequence[from_client] - 1))
    for from_client, octets in flights:
        (source, sport), (destination, dport) = (CLIENT, SERVER) if from_client else (SERVER, CLIENT)
        for start in range(0, len(octets), SEGMENT):
            part = octets[start : start + SEGMENT]
            tcp = TCP(sport=sport, dport=dport, flags="PA", seq=sequence[from_client])
            packet = WIRE / IP(src=source, dst=destination) / tcp / part
            packets += [packet] * (2 if repeat else 1)
            sequence[from_client] += len(part)
    wrpcap(str(capture), packets)


@pytest.mark.parametrize("repeat", [False, True], ids=["once", "retransmitted"])
def test_opens_both_directions(tmp_path: Path, repeat: bool) -> None:
    sent, received = b"GET / HTTP/1.1\r\n\r\n" + b"\x00planted" * 500, b"answer" * 300
    _record(_converse(tmp_path, sent, received), tmp_path / "wire.pcap", repeat=repeat)

    (conversation,) = conversations(tmp_path / "wire.pcap", tmp_path / "keys")

    assert conversation.sent == sent
    assert conversation.received == received
    assert (conversation.client, conversation.server) == (CLIENT, SERVER)
    assert b"planted" not in (tmp_path / "wire.pcap").read_bytes()


def test_wrong_secret_is_an_error_not_an_empty_search(tmp_path: Path) -> None:
    _record(_converse(tmp_path, b"sent", b"received"), tmp_path / "wire.pcap", repeat=False)
    lines = (tmp_path / "keys").read_text().splitlines()
    wrong = [line if "TRAFFIC_SECRET_0" not in line else line[:-64] + "00" * 32 for line in lines]
    (tmp_path / "keys").write_text("\n".join(wrong))

    with pytest.raises(NotOpened):
        list(conversations(tmp_path / "wire.pcap", tmp_path / "keys"))
