"""Packets, transactions, containers and observations, in Rust.

Every failure of this module is a ``NativeError`` or one of its sub-classes; nothing else is raised but
``TypeError`` and ``OverflowError`` for an argument of the wrong Python type or size.
Times are seconds since 1970-01-01 UTC; names called *wire* are uncompressed RFC 1035 section 3.1 octets.
Sources: docs/reference/packets-and-transactions.md and docs/reference/containers.md.
"""

from collections.abc import Sequence
from typing import Any, Final, final

__all__ = [
    "CaptureError",
    "Container",
    "DedupeWindow",
    "DnstapSource",
    "FormatError",
    "LiveSource",
    "NativeError",
    "PcapSource",
    "Recorder",
    "WindowFullError",
    "__version__",
    "decode",
    "dedupe_records",
    "explain",
    "name_from_text",
    "name_to_text",
    "reverse_name",
]

__version__: Final[str]

class NativeError(Exception):
    """The root of every failure here; raised itself for an argument that makes no sense."""

class FormatError(NativeError):
    """Octets that are not what they were given as: a container, a pcap file, a name."""

class CaptureError(NativeError):
    """An interface or a file cannot be read; the text names it and the remedy."""

class WindowFullError(NativeError):
    """``DedupeWindow.add`` on a window that already holds ``max_entries``: ``take`` it first."""

@final
class PcapSource:
    """Frames from a pcap or pcapng file, plain or compressed by gzip, zstd or xz, as its first octets say.

    pcap of either byte order, in microseconds or nanoseconds; pcapng of any number of sections and
    interfaces. Decompression streams: a file takes at most 128 MiB of window, whatever it inflates to.
    Raises CaptureError if the file cannot be opened or read, FormatError if it is none of these.
    """

    def __new__(cls, path: str, *, speed: float | None = None) -> PcapSource:
        """Open ``path``; "-" is standard input.

        With ``speed`` (0.001 to 1000000) packets come when they are due: as long after the first as their
        times say, that many times faster. Raises NativeError for another speed.
        """
    @property
    def warning(self) -> str | None:
        """Why reading ended before the end of the file, once it has: truncated, corrupt or damaged."""

@final
class LiveSource:
    """Frames from network interfaces (Linux AF_PACKET, TPACKET_V3), merged by the times of their arrival.

    ``interfaces`` are names, each with whether it is to be promiscuous; each gets a ring of ``ring_bytes``
    octets in the kernel. One that is not there, goes down, vanishes or comes back is picked up again by
    itself, while the others go on; ``status`` tells. The kernel filter built from ``resolvers`` (addresses or
    CIDR prefixes of both families) is attached before a socket is bound, so that nothing else is ever
    queued. Only packets of interfaces named in ``encapsulated`` are looked for inside GRE, ERSPAN type II and
    VXLAN, by the kernel's filter too: anybody can send a host a tunnel's packet. Of a loopback interface only
    what arrives is read, since the same has left by it. Needs CAP_NET_RAW. Raises NativeError for arguments
    that make no sense, CaptureError on another system than Linux, and nothing else.
    """

    def __new__(
        cls,
        interfaces: Sequence[tuple[str, bool]],
        resolvers: Sequence[str],
        *,
        ring_bytes: int = 16777216,
        encapsulated: Sequence[str] = ...,
    ) -> LiveSource: ...
    @staticmethod
    def check_system() -> None:
        """Raises CaptureError where no interface can be listened to: on another system than Linux."""
    def status(self) -> list[dict[str, Any]]:
        """How each interface is: ``interface``, ``up``, ``failures`` (how often it vanished or could not be
        opened), ``kernel_drops`` (packets that passed the filter and found the ring full) and ``last_error``
        (None while it is up). Never waits for a ``pump`` that runs elsewhere; while one does,
        ``kernel_drops`` is as of its begin.
        """
    def set_resolvers(self, resolvers: Sequence[str]) -> None:
        """Replace the kernel filters, from one packet to the next; what is queued stays queued.

        Waits for a ``pump`` in progress. Raises NativeError or CaptureError if a filter is too large; those
        before then stay.
        """
    def drain(self) -> None:
        """Take in nothing more. ``pump`` gives what was taken in, and then ``Recorder.at_end`` is true."""
    def close(self) -> None:
        """Give sockets and rings back. Waits for a ``pump`` in progress; a later ``pump`` raises
        CaptureError.
        """

@final
class DnstapSource:
    """The dnstap that resolvers bring: Frame Streams over UNIX sockets and TCP.

    Reads as fast as it is pumped; senders drop by themselves what is not read. Source:
    docs/reference/dnstap.md.
    """

    def __new__(cls) -> DnstapSource: ...
    def listen(
        self,
        endpoint: str,
        *,
        mode: int = 0o660,
        group: int | None = None,
        senders: Sequence[str] | None = None,
    ) -> int | None:
        """Listen on one more endpoint; the port, if it is TCP's.

        "unix:/PATH" makes a file of ``mode`` and, by number, ``group``, in the place of a stale one.
        "tcp:ADDRESS:PORT" takes connections from ``senders`` (addresses or CIDR prefixes); None admits
        whoever reaches a loopback address, and no other address is listened on without. Raises CaptureError,
        and NativeError for an endpoint that makes no sense.
        """
    def drain(self) -> None:
        """Take in no connection more. ``pump`` gives what was sent before, for a quarter of a second at most,
        and then ``Recorder.at_end`` is true.
        """
    def status(self) -> dict[str, Any]:
        """How it is, as of a moment ago; asking never waits for a ``pump`` in progress.

        ``connections``: for each open one endpoint, peer, version (as the sender says), frames and resolver
        (whether a resolver's message has come). ``last_refusal``: a sentence, or None.
        ``dnstap_connections_seen`` is the sum of all other ``dnstap_connections_*``.
        """
    def take_notices(self) -> list[tuple[bool, str]]:
        """What has happened since this was asked last, in sentences for the log, each with whether something
        is wrong; of more than 64 the latest.
        """
    def close(self) -> None:
        """Close every connection and remove the sockets. Waits for a ``pump`` in progress; a later ``pump``
        raises CaptureError.
        """

@final
class Container:
    """A sealed container of transactions."""

    @property
    def data(self) -> bytes:
        """The container, encoded with the recorder's codec."""
    @property
    def transactions(self) -> int:
        """How many transactions it holds."""
    @property
    def first_time(self) -> float:
        """The earliest time of its transactions."""
    @property
    def last_time(self) -> float:
        """The latest time of its transactions."""

@final
class Recorder:
    """Frames in, containers of base:dnsqr transactions out.

    ``codec``: "zstd" is one zstd frame around one plain NMSG container, "zlib" an NMSG container with
    flag 0x01, "none" a plain NMSG container. ``container_bytes`` bounds a container before compression
    (1024 to 1048576); a transaction that is larger by itself gets a container of its own.
    ``types`` are the transactions that are written: "query_response", "unanswered_query",
    "unsolicited_response", "icmp". ``clear_resolver_address`` clears the resolver's address and port in
    fields and packets. ``admit_recursion_desired`` lets RD=1 in, for files whose origin is known; live
    capture never does. A list of resolvers that covers every address of a family is refused unless
    ``admit_every_address`` is set; who is asked at port 53 is the server then. An empty list lets no packet
    in: it is for dnstap, where the resolver itself says what is its own.
    ``local_zones``, and special-use names and names of one label if ``suppress_special_use`` is set, are
    kept out with every message that holds one; so are questions whose name, in lower case and without the
    final dot, ``exclude_qname_regex`` matches (syntax: the Rust crate regex, ASCII). EDNS options are
    removed but for NSID and the code of an extended error; ``keep_edns_options`` leaves messages as they
    came, for files whose origin is known. ``admit_private_responders`` lets servers in whose addresses the
    public internet does not reach.
    Raises NativeError for settings out of range.
    """

    def __new__(
        cls,
        resolvers: Sequence[str],
        *,
        query_timeout: float = 60.0,
        table_max: int = 131072,
        types: Sequence[str] = ("query_response", "unanswered_query", "unsolicited_response", "icmp"),
        keep_query_packets: bool = False,
        clear_resolver_address: bool = False,
        source: int = 0,
        operator: int = 0,
        group: int = 0,
        container_bytes: int = 524288,
        flush_interval: float = 1.0,
        codec: str = "zstd",
        keep_edns_options: bool = False,
        local_zones: Sequence[str] = (),
        suppress_special_use: bool = True,
        exclude_qname_regex: str | None = None,
        admit_private_responders: bool = False,
        admit_recursion_desired: bool = False,
        admit_every_address: bool = False,
    ) -> Recorder: ...
    def reconfigure(
        self,
        resolvers: Sequence[str],
        *,
        query_timeout: float = 60.0,
        table_max: int = 131072,
        types: Sequence[str] = ("query_response", "unanswered_query", "unsolicited_response", "icmp"),
        keep_query_packets: bool = False,
        clear_resolver_address: bool = False,
        source: int = 0,
        operator: int = 0,
        group: int = 0,
        container_bytes: int = 524288,
        flush_interval: float = 1.0,
        codec: str = "zstd",
        keep_edns_options: bool = False,
        local_zones: Sequence[str] = (),
        suppress_special_use: bool = True,
        exclude_qname_regex: str | None = None,
        admit_private_responders: bool = False,
        admit_recursion_desired: bool = False,
        admit_every_address: bool = False,
    ) -> None:
        """Change every setting at once; what is not given is as by default.

        Waiting queries go on waiting, without their packets. The container in progress is sealed. Raises
        NativeError and changes nothing for settings out of range. Waits for a ``pump`` in progress.
        """
    def pump(self, source: PcapSource | LiveSource | DnstapSource, timeout: float) -> list[Container]:
        """Read until a container is sealed, ``timeout`` seconds have passed, or the file ends
        (``at_end``).

        A container is sealed when full, or ``flush_interval`` after its first transaction: by the wall
        clock for a live source, by the packets' clock for a file. Raises CaptureError; what was recorded
        before stays recorded.
        """
    @property
    def at_end(self) -> bool:
        """Whether the last ``pump`` reached the end of its source."""
    def finish(self) -> list[Container]:
        """Turn every waiting query into an unanswered one and seal what there is."""
    def counters(self) -> dict[str, int]:
        """What the last ``pump`` or ``finish`` left; asking never waits for one that runs elsewhere.

        Two sums hold at any moment. packets_seen = packets_passed + packets_waiting + packets_filtered_* +
        packets_rejected_* + packets_lost_*. messages_seen = messages_recorded + transactions_pending +
        messages_filtered_* + messages_rejected_*. packets_waiting and transactions_pending are what waits
        now; all others only rise. messages_recorded = two for each of transactions_query_response and
        transactions_filtered_query_response, one for each of transactions_[filtered_]unanswered_query,
        _unsolicited_response and _icmp; the filtered ones are those of a type that is switched off.
        """

def explain(recorder: Recorder, source: PcapSource, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Record up to ``limit`` packets of a file, telling what becomes of each; the containers are dropped.

    Returns one dict for each packet, and whether the file has ended. Keys: time, link (text), octets (on the
    wire), source, destination (text), source_port, destination_port, protocol (the number), fragment, dns
    (what a message in one datagram says: id, response, standard_query, recursion_desired, truncated, rcode,
    qname in presentation form, qtype), packet (the outcome by its counter's name) and messages: for each
    that was whole with this packet its outcome and the type of the transaction that it completed, or None.
    What cannot be read is None. Raises CaptureError, FormatError.
    """

def decode(data: bytes, *, limit: int = 16777216) -> list[dict[str, Any]]:
    """Every payload of concatenated containers of any codec, for tools and tests.

    Keys: vid, msgtype, time (float), time_nsec, source, operator, group (0 if unset) and message: a dict
    with the schema's field names (repeated fields are lists, absent ones are left out, octets are bytes,
    ``type`` is the enumeration's name) and ``<name>_text`` beside each domain name. A message of another
    schema is ``{"payload": bytes}``. Payloads whose CRC is wrong are left out. Inflates at most ``limit``
    octets in all. Raises FormatError.
    """

@final
class DedupeWindow:
    """Observations of RRsets, merged until they are taken."""

    def __new__(cls, *, max_entries: int = 1000000, probe_zone: bytes | None = None) -> DedupeWindow:
        """``probe_zone`` is a zone's name in wire form. Transactions that ask for a name of it are no
        observations, whatever they are otherwise. Raises NativeError for no name and for the root.
        """
    def add(self, container: bytes, *, limit: int = 16777216) -> dict[str, int]:
        """Take in every transaction of concatenated containers of any codec; what became of them.

        ``transactions`` = ``observed`` + ``probe`` + filtered_type, _rcode, _truncated, _class, _fragmented +
        rejected_crc, _schema, _malformed, _question + lost_room: the window may be full in the middle of a
        container. ``query_zones`` are the observed ones that say which zone was asked. ``records``
        (resource records of observed transactions) = ``records_observed`` + records_filtered_meta, _class +
        ``records_repeated``.
        ``observations`` counts RRsets seen, ``merged`` those of them that were in the window already.
        Every key is always there. Raises FormatError if the octets are unreadable as a whole,
        WindowFullError if there is no room: nothing is added in either case.
        """
    def take_probes(self) -> list[tuple[str, str, float | None, float | None]]:
        """The probes since this was asked last, 64 at most: nonce (32 hexadecimal digits), the
        transaction's type in the schema's words, and when query and response were seen, in seconds since
        1970.
        """
    def __len__(self) -> int: ...
    @property
    def octets(self) -> int:
        """About how many octets ``take`` would give before compression."""
    @property
    def full(self) -> bool:
        """Whether ``max_entries`` or 64 MiB are reached, so that ``take`` must come before ``add``."""
    def take(self) -> bytes:
        """Empty the window into concatenated zlib NMSG containers of SIE dnsdedupe EXPIRATION records.

        Sorted by key (rrname, rrtype, bailiwick, rdata), so that equal windows give equal octets. b"" if
        empty.
        """

def dedupe_records(data: bytes) -> list[tuple[bytes, int, int, bytes, list[bytes], int, int, int, int]]:
    """The records of ``DedupeWindow.take``: (rrname wire lower-case, rrtype, rrclass, bailiwick wire,
    rdata wire sorted by length and then octets, count, time_first, time_last, rrttl). Raises FormatError.
    """

def name_to_text(wire: bytes) -> str:
    """Presentation form (RFC 1035 section 5.1, RFC 4343 section 2.1), absolute. Raises FormatError."""

def name_from_text(text: str) -> bytes:
    """Wire form; a missing final dot is supplied, letter case is kept. Raises FormatError."""

def reverse_name(wire: bytes) -> bytes:
    """The labels in reverse order, each with its length octet, then 0x00. Raises FormatError."""
