"""The name servers' log: one line for each dnstap message, whatever a name holds."""

import socket
import struct
import threading
from pathlib import Path

import dns.message
import pytest
from sie_lab import query_logger
from sie_lab.querylog import parse


def field(number: int, value: int | bytes) -> bytes:
    """A protobuf field: a varint, or octets."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def frame(name: str, qtype: str = "A", address: str = "192.0.2.53") -> bytes:
    """A dnstap AUTH_QUERY as NSD sends it."""
    query = dns.message.make_query(name, qtype, id=4711).to_wire()
    message = (
        field(query_logger.TYPE, query_logger.AUTH_QUERY)
        + field(query_logger.TRANSPORT, 1)
        + field(query_logger.QUERY_ADDRESS, socket.inet_aton(address))
        + field(query_logger.QUERY_PORT, 53000)
        + field(query_logger.QUERY_SECONDS, 1_700_000_000)
        + _varint(query_logger.QUERY_NANOSECONDS << 3 | 5)
        + struct.pack("<I", 500_000_000)
        + field(query_logger.QUERY_MESSAGE, query)
    )
    return field(query_logger.IDENTITY, b"root") + field(query_logger.MESSAGE, message)


def test_a_query_is_read_back_as_it_was() -> None:
    line = query_logger.line(frame("Www.Alpha.example.", "AAAA"))
    assert line is not None
    entry = parse(line.rstrip("\n"))
    assert (entry.time, entry.kind, entry.server, entry.transport) == (1_700_000_000.5, "Q", "root", "udp")
    assert (entry.resolver, entry.port, entry.id) == ("192.0.2.53", 53000, 4711)
    assert (entry.qname, entry.qtype) == ("Www.Alpha.example.", "AAAA")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (".", "."),
        ("a\\.b.example.", "a\\046b.example."),
        ("tab\\009new\\010line.example.", "tab\\009new\\010line.example."),
    ],
)
def test_a_name_never_breaks_a_line(name: str, written: str) -> None:
    line = query_logger.line(frame(name))
    assert line is not None
    assert line.count("\n") == 1
    assert parse(line.rstrip("\n")).qname == written


def test_other_messages_are_no_lines() -> None:
    client_query = field(query_logger.MESSAGE, field(query_logger.TYPE, 5))
    assert query_logger.line(client_query) is None


def test_frame_streams_are_accepted_and_finished(tmp_path: Path) -> None:
    path, log = tmp_path / "socket", tmp_path / "log"
    with log.open("a") as file, query_logger.QueryLog(str(path), file) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(query_logger.control(query_logger.READY))
            assert client.recv(1024) == query_logger.control(query_logger.ACCEPT)
            client.sendall(query_logger.control(query_logger.START))
            for number in range(100):
                data = frame(f"n{number}.wild.example.")
                client.sendall(struct.pack(">I", len(data)) + data)
            client.sendall(query_logger.control(query_logger.STOP))
            assert client.recv(1024) == query_logger.control(query_logger.FINISH)
        server.shutdown()
        thread.join()
    assert [parse(line).qname for line in log.read_text().splitlines()] == [
        f"n{number}.wild.example." for number in range(100)
    ]
