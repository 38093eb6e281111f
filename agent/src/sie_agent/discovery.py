"""The addresses of this host, as the kernel lists them: what `host` among the resolvers stands for.

The kernel is asked by rtnetlink(7), RTM_GETADDR, which answers for both families and needs neither a
privilege nor another program.
"""

import errno
import ipaddress
import platform
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from sie_agent.config_kinds import HOST
from sie_agent.errors import AgentError

_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST_DUMP: Final = 0x301
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2

_NLMSGHDR: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFADDRMSG: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface index
_RTATTR: Final = struct.Struct("=HH")  # length, type

_RECEIVE: Final = 1 << 16
"""Octets of one read: the kernel fills dumps in messages of at most 32 KiB."""

_PATIENCE: Final = 5.0
"""Seconds for an answer that the kernel gives at once."""


def resolver_addresses(listed: Sequence[str]) -> tuple[str, ...]:
    """The resolvers with `host` replaced by this host's addresses, each once, in order.

    Raises AgentError if this host has no address that could be a resolver's, or cannot list them.
    """
    if HOST not in listed:
        return tuple(listed)
    try:
        own = host_addresses()
    except OSError as wrong:
        raise AgentError(
            f"resolvers: the addresses of this host cannot be listed ({wrong.strerror or wrong}); list them "
            f"in the configuration in the place of {HOST}"
        ) from wrong
    if not own:
        raise AgentError(
            f"resolvers: {HOST} stands for the global addresses of this host, and it has none; list the "
            "resolver's addresses, or start the agent when the network is there"
        )
    expanded = [address for item in listed for address in (own if item == HOST else (item,))]
    return tuple(dict.fromkeys(expanded))


def host_addresses() -> tuple[str, ...]:
    """Every address of this host's interfaces that others can reach, sorted: IPv4 before IPv6.

    Left out are loopback, link-local, multicast and unspecified ones, on whatever interface they are; a
    global address on the loopback interface, as anycast services have, is in. Raises OSError, too
    where there is no rtnetlink.
    """
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError(errno.EAFNOSUPPORT, f"{platform.system()} has no rtnetlink")
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as asked:
        asked.settimeout(_PATIENCE)
        request = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(request), _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0)
        asked.send(header + request)
        found = {ipaddress.ip_address(octets) for octets in _answers(asked)}
    usable = [
        address
        for address in found
        if not (
            address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
        )
    ]
    return tuple(str(address) for address in sorted(usable, key=lambda one: (one.version, int(one))))


def _answers(asked: socket.socket) -> Iterator[bytes]:
    """The addresses of a dump, as octets in network order."""
    while True:
        data = asked.recv(_RECEIVE)
        offset = 0
        while offset + _NLMSGHDR.size <= len(data):
            length, kind, _, _, _ = _NLMSGHDR.unpack_from(data, offset)
            body = data[offset + _NLMSGHDR.size : offset + length]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", body)[0]
                raise OSError(number, f"netlink error {number}")
            if kind == _RTM_NEWADDR and (address := _address(body)) is not None:
                yield address
            offset += _aligned(max(length, _NLMSGHDR.size))


def _address(message: bytes) -> bytes | None:
    """The host's own address in one RTM_NEWADDR: IFA_LOCAL, since IFA_ADDRESS of a point-to-point link is the
    peer's; IPv6 knows IFA_ADDRESS alone.
    """
    family = message[0]
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attributes: dict[int, bytes] = {}
    offset = _IFADDRMSG.size
    while offset + _RTATTR.size <= len(message):
        length, kind = _RTATTR.unpack_from(message, offset)
        attributes[kind] = message[offset + _RTATTR.size : offset + length]
        offset += _aligned(max(length, _RTATTR.size))
    return attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)


def _aligned(length: int) -> int:
    """NLMSG_ALIGN and RTA_ALIGN: parts begin at multiples of four octets."""
    return (length + 3) & ~3
