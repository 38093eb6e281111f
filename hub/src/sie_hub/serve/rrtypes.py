"""Resource record types as the store and the API see them: their names, which are DNSSEC's, which carry a
name."""

import functools
from typing import Final

import dns.exception
import dns.rdatatype

A: Final = 1
AAAA: Final = 28
ANY: Final = 255

DNSSEC: Final[frozenset[int]] = frozenset(
    {
        43,  # DS
        46,  # RRSIG
        47,  # NSEC
        48,  # DNSKEY
        50,  # NSEC3
        51,  # NSEC3PARAM
        59,  # CDS
        60,  # CDNSKEY
        32768,  # TA
        32769,  # DLV
    }
)
"""What `ANY` leaves out and `ANY-DNSSEC` means: the set of the DNSDB API documentation."""

NAME_OFFSET: Final[dict[int, int]] = {
    2: 0,  # NS
    5: 0,  # CNAME
    6: 0,  # SOA: the primary server
    12: 0,  # PTR
    15: 2,  # MX: after the preference
    17: 0,  # RP: the mailbox
    30: 0,  # NXT
    33: 6,  # SRV: after priority, weight and port
    39: 0,  # DNAME
    47: 0,  # NSEC
    64: 2,  # SVCB: after the priority
    65: 2,  # HTTPS
}
"""The types that `lookup/rdata/name` finds, and how many octets stand before the name in their rdata."""


BARE_NAME: Final[frozenset[int]] = frozenset({2, 5, 12, 39})
"""The types whose rdata is one name and nothing else: NS, CNAME, PTR, DNAME."""


@functools.cache
def type_text(rrtype: int) -> str:
    """The mnemonic, or `TYPE65534` for a type without one (RFC 3597 section 5)."""
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rrtype))


def type_number(text: str) -> int:
    """The number of a mnemonic or of `TYPEn`, in any letter case. Raises ValueError for anything else."""
    try:
        return int(dns.rdatatype.from_text(text))
    except (dns.exception.DNSException, ValueError):
        raise ValueError(f"unknown RRTYPE {text!r}") from None
