"""Look up one name, so that a resolver that has never heard of it must ask an authoritative server.

Usage: probe.py NAME RESOLVER. Prints the name once an answer has come; exits 1 if none comes.
"""

import os
import socket
import struct
import sys

TRIES = 3
SECONDS_PER_TRY = 2.0
NOERROR = 0


def query(name, identifier):
    """A DNS query (RFC 1035, section 4) for the address of `name`, recursion desired."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return struct.pack("!6H", identifier, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def main(name, resolver):
    identifier = int.from_bytes(os.urandom(2), "big")
    family, kind, protocol, _canonical, address = socket.getaddrinfo(resolver, 53, type=socket.SOCK_DGRAM)[0]
    refused = "no answer"
    with socket.socket(family, kind, protocol) as client:
        client.settimeout(SECONDS_PER_TRY)
        client.connect(address)
        for _try in range(TRIES):
            try:
                client.send(query(name, identifier))
                answer = client.recv(65535)
            except OSError:
                continue
            if len(answer) < 4 or answer[:2] != struct.pack("!H", identifier):
                continue
            rcode = answer[3] & 0x0F
            if rcode == NOERROR:
                print(name)
                return 0
            refused = "the response code %d" % rcode
    print("%s from %s to a look-up of %s" % (refused, resolver, name), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
