//! What becomes of a packet.

/// What becomes of a packet; every packet has exactly one outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It waits in the table, or is part of a transaction.
    Recorded,
    /// Neither the sender of a query nor the receiver of a response is a listed resolver.
    FilteredDirection,
    /// Both ends are listed.
    FilteredBothListed,
    /// Recursion is desired.
    FilteredRd,
    /// Another opcode than QUERY.
    FilteredOpcode,
    /// Not to port 53, for a query, or not from port 53, for a response.
    FilteredPort,
    /// Not UDP over IP.
    FilteredProtocol,
    /// The capture cut it short.
    RejectedTruncated,
    /// Its headers contradict its length or each other.
    RejectedMalformed,
    /// A piece of a fragmented datagram.
    RejectedFragment,
    /// Of a link type that is not read.
    RejectedLinktype,
}

impl Outcome {
    /// The counters' names, in the order of the outcomes.
    pub const COUNTERS: [&str; 11] = [
        "packets_recorded",
        "packets_filtered_direction",
        "packets_filtered_both_listed",
        "packets_filtered_rd",
        "packets_filtered_opcode",
        "packets_filtered_port",
        "packets_filtered_protocol",
        "packets_rejected_truncated",
        "packets_rejected_malformed",
        "packets_rejected_fragment",
        "packets_rejected_linktype",
    ];
}
