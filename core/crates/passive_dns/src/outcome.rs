//! What becomes of packets and dnstap frames, and of the messages that they carry.
//!
//! Two ledgers, one behind the other. A packet or a frame is judged by what can be seen before a DNS message is there: link
//! type, addresses, protocol, ports, headers. A message, whatever it came by, is judged by its contents. Each unit
//! has exactly one outcome; two of the outcomes are places to wait in, and their counts fall again.

use crate::dns::Malformed;

/// Declares an enumeration of outcomes, with the counter and the reason of each.
macro_rules! outcomes {
    ($(#[$meta:meta])* $name:ident { $($outcome:ident => $counter:literal, $reason:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $name {
            $(#[doc = $reason] $outcome,)*
        }

        impl $name {
            pub const ALL: [$name; [$($counter),*].len()] = [$($name::$outcome),*];

            /// The counters' names, in the order of the outcomes.
            pub const COUNTERS: [&'static str; Self::ALL.len()] = [$($counter),*];

            pub fn counter(self) -> &'static str {
                Self::COUNTERS[self as usize]
            }

            /// Why, for people: what is true of such a unit.
            pub fn reason(self) -> &'static str {
                match self {
                    $($name::$outcome => $reason,)*
                }
            }
        }
    };
}

outcomes! {
    /// What becomes of a packet.
    PacketOutcome {
        Passed => "packets_passed", "It carried a message, or helped to.";
        Waiting => "packets_waiting", "It is held until the rest of its datagram or message is there.";
        FilteredDirection => "packets_filtered_direction",
            "It goes neither from a listed resolver to a server nor back.";
        FilteredBothListed => "packets_filtered_both_listed", "Both ends are listed resolvers.";
        FilteredPort => "packets_filtered_port", "Neither port is 53.";
        FilteredProtocol => "packets_filtered_protocol",
            "It is no UDP, no TCP, and no ICMP error over IP.";
        FilteredNoData => "packets_filtered_no_data",
            "It is of a connection to a server but has no data, or is an error that quotes no DNS header.";
        FilteredRetransmitted => "packets_filtered_retransmitted", "All of its data had come before, or it repeats a piece of its datagram.";
        RejectedTruncated => "packets_rejected_truncated", "The capture cut it short.";
        RejectedMalformed => "packets_rejected_malformed",
            "Its headers contradict its length or each other.";
        RejectedFragment => "packets_rejected_fragment", "It is a piece of a fragmented tunnel packet.";
        RejectedLinktype => "packets_rejected_linktype", "Its link type is not read.";
        RejectedOverlap => "packets_rejected_overlap",
            "It is of a datagram whose pieces overlap, or contradicts data of its connection.";
        RejectedOutOfStep => "packets_rejected_out_of_step",
            "It belongs to no known place of a connection, and no message begins with it.";
        LostGap => "packets_lost_gap", "Data in front of it never came.";
        LostUnfinished => "packets_lost_unfinished",
            "Its connection ended, or was silent too long, in the middle of a message.";
        LostTime => "packets_lost_time", "The rest of its datagram did not come in time.";
        LostRoom => "packets_lost_room", "What it waited with had to leave to make room.";
    }
}

outcomes! {
    /// What becomes of a message.
    MessageOutcome {
        Recorded => "messages_recorded", "It is part of a transaction.";
        Pending => "transactions_pending", "It is a query that waits for its response.";
        FilteredDirection => "messages_filtered_direction",
            "It is a query sent to the resolver, or a response sent by it.";
        FilteredOpcode => "messages_filtered_opcode", "Its opcode is not QUERY.";
        FilteredRd => "messages_filtered_rd", "Recursion is desired: a client asks, or a forwarder for clients.";
        FilteredQtype => "messages_filtered_qtype", "It is about AXFR, IXFR or TKEY: whole zones and keys.";
        FilteredScope => "messages_filtered_scope", "The server's address is none of the public internet's.";
        FilteredLocalZone => "messages_filtered_local_zone",
            "A name in it, or in the response that it belongs to, lies in a local zone.";
        FilteredQnameRegex => "messages_filtered_qname_regex", "The name asked for is excluded by the pattern.";
        RejectedMalformed => "messages_rejected_malformed", "It is no whole DNS message.";
    }
}

impl From<Malformed> for MessageOutcome {
    fn from(_: Malformed) -> Self {
        MessageOutcome::RejectedMalformed
    }
}

outcomes! {
    /// What becomes of a dnstap frame.
    DnstapOutcome {
        Passed => "dnstap_frames_passed", "It carried a message.";
        FilteredAuth => "dnstap_frames_filtered_auth", "It tells of an authoritative server's clients.";
        FilteredClient => "dnstap_frames_filtered_client", "It tells of the resolver's clients.";
        FilteredForwarder => "dnstap_frames_filtered_forwarder", "It tells of another resolver, which is asked instead.";
        FilteredStub => "dnstap_frames_filtered_stub", "It tells of a stub resolver.";
        FilteredTool => "dnstap_frames_filtered_tool", "It tells of a tool.";
        FilteredUpdate => "dnstap_frames_filtered_update", "It tells of a dynamic update.";
        FilteredOther => "dnstap_frames_filtered_other", "It tells of something that has no name here yet.";
        FilteredEncrypted => "dnstap_frames_filtered_encrypted",
            "It tells of TLS, HTTPS, QUIC or DNSCrypt, of which no sensor on the wire sees anything.";
        FilteredPort => "dnstap_frames_filtered_port", "The server's port is not 53.";
        FilteredBothListed => "dnstap_frames_filtered_both_listed", "The server is a listed resolver.";
        RejectedMalformed => "dnstap_frames_rejected_malformed", "It is no dnstap message.";
        RejectedIncomplete => "dnstap_frames_rejected_incomplete",
            "The message, its time, its transport or the server's address is missing.";
        RejectedTime => "dnstap_frames_rejected_time", "Its time is in the future, or more than a day ago.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_counter() {
        for outcome in PacketOutcome::ALL {
            assert!(outcome.counter().starts_with("packets_"), "{outcome:?}");
        }
        for outcome in DnstapOutcome::ALL {
            assert!(outcome.counter().starts_with("dnstap_frames_"), "{outcome:?}");
        }
        for outcome in MessageOutcome::ALL {
            let waits = outcome == MessageOutcome::Pending;
            assert_eq!(!outcome.counter().starts_with("messages_"), waits, "{outcome:?}");
        }
    }
}
