//! The sensor's books.

use crate::nmsg::dnsqr::Kind;
use crate::outcome::{DnstapOutcome, MessageOutcome, PacketOutcome};

/// What became of everything so far.
///
/// `packets_seen` is the sum of `packets`, `dnstap_frames_seen` and `messages_seen` likewise, and the recorded messages are those
/// of the transactions, recorded and filtered: two of a query with its response, one of any other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    pub packets_seen: u64,
    /// By outcome.
    pub packets: [u64; PacketOutcome::COUNTERS.len()],
    pub dnstap_frames_seen: u64,
    /// By outcome.
    pub dnstap_frames: [u64; DnstapOutcome::COUNTERS.len()],
    pub messages_seen: u64,
    /// By outcome.
    pub messages: [u64; MessageOutcome::COUNTERS.len()],
    /// Written, by kind.
    pub transactions: [u64; Kind::ALL.len()],
    /// Not written because their type is switched off, by kind.
    pub transactions_filtered: [u64; Kind::ALL.len()],
    /// Queries that left the table for want of room; unanswered ones, among those above.
    pub table_evicted: u64,
    pub containers_sealed: u64,
}

const TRANSACTIONS: [&str; Kind::ALL.len()] = [
    "transactions_query_response",
    "transactions_unanswered_query",
    "transactions_unsolicited_response",
    "transactions_icmp",
];

const TRANSACTIONS_FILTERED: [&str; Kind::ALL.len()] = [
    "transactions_filtered_query_response",
    "transactions_filtered_unanswered_query",
    "transactions_filtered_unsolicited_response",
    "transactions_filtered_icmp",
];

impl Counters {
    /// Every counter with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let rest = [
            ("packets_seen", self.packets_seen),
            ("dnstap_frames_seen", self.dnstap_frames_seen),
            ("messages_seen", self.messages_seen),
            ("table_evicted", self.table_evicted),
            ("containers_sealed", self.containers_sealed),
        ];
        let packets = PacketOutcome::COUNTERS.into_iter().zip(self.packets);
        let frames = DnstapOutcome::COUNTERS.into_iter().zip(self.dnstap_frames);
        let messages = MessageOutcome::COUNTERS.into_iter().zip(self.messages);
        let transactions = TRANSACTIONS.into_iter().zip(self.transactions);
        let filtered = TRANSACTIONS_FILTERED.into_iter().zip(self.transactions_filtered);
        packets.chain(frames).chain(messages).chain(transactions).chain(filtered).chain(rest)
    }

    pub fn packets(&self, outcome: PacketOutcome) -> u64 {
        self.packets[outcome as usize]
    }

    pub fn dnstap_frames(&self, outcome: DnstapOutcome) -> u64 {
        self.dnstap_frames[outcome as usize]
    }

    pub fn messages(&self, outcome: MessageOutcome) -> u64 {
        self.messages[outcome as usize]
    }

    pub fn transactions(&self, kind: Kind) -> u64 {
        self.transactions[kind.index()]
    }

    /// Queries that wait for their response.
    pub fn pending(&self) -> u64 {
        self.messages(MessageOutcome::Pending)
    }
}
