"""Look up one name, so that a resolver that has never heard of it must ask an authoritative server.

Usage: probe.py NAME RESOLVER... Asks them in turn. Prints the name once one has answered it; exits 1 if none answers, and 2
if one does with a response code other than NOERROR.
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


def ask(name, resolver):
    """The response code to one query, or None if no answer comes."""
    identifier = int.from_bytes(os.urandom(2), "big")
    try:
        family, kind, protocol, _canonical, address = socket.getaddrinfo(
            resolver, 53, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as client:
            client.settimeout(SECONDS_PER_TRY)
            client.connect(address)
            client.send(query(name, identifier))
            answer = client.recv(65535)
    except OSError:
        return None
    if len(answer) < 4 or answer[:2] != struct.pack("!H", identifier):
        return None
    return answer[3] & 0x0F


def main(name, *resolvers):
    codes = {}
    for _try in range(TRIES):
        for resolver in resolvers:
            code = ask(name, resolver)
            if code == NOERROR:
                print(name)
                return 0
            if code is not None:
                codes[resolver] = code
    said = ["the response code %d from %s" % (code, resolver) for resolver, code in codes.items()]
    said = said or ["no answer from %s" % ", ".join(resolvers)]
    print("%s to a look-up of %s" % (", ".join(said), name), file=sys.stderr)
    return 2 if codes else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
