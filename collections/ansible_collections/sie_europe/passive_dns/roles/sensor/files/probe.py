"""Look up a name that nobody has asked for before, so that the resolver must ask an authoritative server.

Usage: probe.py ZONE RESOLVER. Prints the name once an answer has come; exits 1 if none comes.
"""

import os
import socket
import struct
import sys

TRIES = 3
SECONDS_PER_TRY = 2.0


def query(name, identifier):
    """A DNS query (RFC 1035, section 4) for the address of `name`, recursion desired."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return struct.pack("!6H", identifier, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def main(zone, resolver):
    name = "probe-%s.%s" % (os.urandom(8).hex(), zone)
    identifier = int.from_bytes(os.urandom(2), "big")
    family, kind, protocol, _canonical, address = socket.getaddrinfo(resolver, 53, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as client:
        client.settimeout(SECONDS_PER_TRY)
        client.connect(address)
        for _try in range(TRIES):
            client.send(query(name, identifier))
            try:
                answer = client.recv(65535)
            except OSError:
                continue
            if answer[:2] == struct.pack("!H", identifier):
                print(name)
                return 0
    print("no answer from the resolver %s to a look-up of %s" % (resolver, name), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
