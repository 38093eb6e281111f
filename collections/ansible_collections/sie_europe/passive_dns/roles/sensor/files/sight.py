"""See whether interfaces show both directions of DNS over UDP between resolvers and servers.

Usage: sight.py INTERFACES SECONDS PREFIXES [COMMAND...] INTERFACES and PREFIXES are words with blanks between them. Listens
until both directions have been seen, SECONDS at most, and once more as long after the first packet, since a question may be
answered late. COMMAND runs meanwhile, and is ended with it. Prints how many packets came from the resolvers' prefixes to port 53
and from port 53 to them, as two numbers, and a third for COMMAND: its exit code, `-` if it had not ended. Needs root.
"""

import contextlib
import ipaddress
import selectors
import socket
import struct
import subprocess
import sys
import time

ETH_P_ALL = 0x0003
PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 1, 1
SOL_PACKET = 263
UDP = 17
DNS = 53
VLAN_TAGS = (0x8100, 0x88A8)


def ends(frame):
    """(source, source port, target, target port) of a datagram, or None. Tunnels and extension headers are not looked into."""
    kind, start = int.from_bytes(frame[12:14], "big"), 14
    while kind in VLAN_TAGS:
        kind, start = int.from_bytes(frame[start + 2 : start + 4], "big"), start + 4
    packet = frame[start:]
    if kind == 0x0800 and len(packet) >= 28 and packet[9] == UDP:
        source, target, rest = packet[12:16], packet[16:20], packet[4 * (packet[0] & 0x0F) :]
    elif kind == 0x86DD and len(packet) >= 48 and packet[6] == UDP:
        source, target, rest = packet[8:24], packet[24:40], packet[40:]
    else:
        return None
    if len(rest) < 4:
        return None
    return (
        ipaddress.ip_address(source),
        *struct.unpack("!H", rest[:2]),
        ipaddress.ip_address(target),
        *struct.unpack("!H", rest[2:4]),
    )


def opened(interface):
    """A socket that receives whatever passes the interface."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    tap.bind((interface, ETH_P_ALL))
    promiscuous = struct.pack("=iHH8s", socket.if_nametoindex(interface), PACKET_MR_PROMISC, 0, b"")
    tap.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous)
    return tap


def watched(taps, seconds, listed):
    """How many packets came from listed addresses to port 53, and from there to listed ones."""
    questions = answers = 0
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as arrivals:
        for tap in taps:
            arrivals.register(tap, selectors.EVENT_READ)
        while not (questions and answers) and time.monotonic() < deadline:
            for ready, _events in arrivals.select(max(0.0, deadline - time.monotonic())):
                seen = ends(ready.fileobj.recv(65535))
                if seen is None:
                    continue
                source, source_port, target, target_port = seen
                none_yet = not (questions or answers)
                questions += target_port == DNS and listed(source) and not listed(target)
                answers += source_port == DNS and listed(target) and not listed(source)
                if none_yet and (questions or answers):
                    deadline = time.monotonic() + seconds
    return questions, answers


def main(interfaces, seconds, prefixes, *command):
    resolvers = [ipaddress.ip_network(prefix) for prefix in prefixes.split()]

    def listed(address):
        return any(address in network for network in resolvers if network.version == address.version)

    asking = None
    try:
        with contextlib.ExitStack() as stack:
            taps = [stack.enter_context(opened(interface)) for interface in interfaces.split()]
            asking = subprocess.Popen(command, stdout=subprocess.DEVNULL) if command else None
            numbers = watched(taps, float(seconds), listed)
    except OSError as error:
        print("%s: %s" % (interfaces, error.strerror), file=sys.stderr)
        return 1
    finally:
        code = asking.poll() if asking else None
        if asking and code is None:
            asking.kill()
            asking.wait()
    print(*numbers, *(["-" if code is None else code] if asking else []))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
