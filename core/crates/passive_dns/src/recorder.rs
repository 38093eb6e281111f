//! The sensor's pipeline: frames in, containers of transactions out.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::checksum::verify_udp;
use crate::error::SettingError;
use crate::filter::{Filter, Message};
use crate::frame::{Event, Frame, FrameSource, Timestamp};
use crate::limits::{CONTAINER_OCTETS_MAX, CONTAINER_OCTETS_MIN, TABLE_ENTRIES_MAX};
use crate::nmsg::dnsqr::{Capture, Kind, Transaction};
use crate::nmsg::{Codec, Container, Envelope, Writer};
use crate::outcome::Outcome;
use crate::privacy::{self, End};
use crate::resolvers::Resolvers;
use crate::transaction::{Key, Pending, Table};

//------------ Counters ----------------------------------------------------------------------------------------

/// What became of everything so far.
///
/// `packets_seen` is the sum of `packets`, and `packets_recorded` = 2 × `query_response` + `unanswered_query` +
/// `unsolicited_response` + `pending`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    pub packets_seen: u64,
    /// By outcome.
    pub packets: [u64; Outcome::COUNTERS.len()],
    pub query_response: u64,
    pub unanswered_query: u64,
    pub unsolicited_response: u64,
    /// Queries that left the table for want of room; unanswered ones, among those above.
    pub table_evicted: u64,
    /// Queries in the table now.
    pub pending: u64,
    pub containers_sealed: u64,
}

impl Counters {
    /// Every counter with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let rest = [
            ("packets_seen", self.packets_seen),
            ("transactions_query_response", self.query_response),
            ("transactions_unanswered_query", self.unanswered_query),
            ("transactions_unsolicited_response", self.unsolicited_response),
            ("transactions_pending", self.pending),
            ("table_evicted", self.table_evicted),
            ("containers_sealed", self.containers_sealed),
        ];
        Outcome::COUNTERS.into_iter().zip(self.packets).chain(rest)
    }
}

//------------ Settings ----------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
pub struct Settings {
    pub query_timeout: Duration,
    pub table_max: usize,
    pub keep_query_packets: bool,
    pub clear_resolver_address: bool,
    pub admit_recursion_desired: bool,
    pub envelope: Envelope,
    /// The size of a container before compression.
    pub container_octets: usize,
    /// How long a transaction waits for its container to fill.
    pub flush_interval: Duration,
    pub codec: Codec,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            query_timeout: Duration::from_secs(60),
            table_max: 131_072,
            keep_query_packets: false,
            clear_resolver_address: false,
            admit_recursion_desired: false,
            envelope: Envelope::default(),
            container_octets: 512 * 1024,
            flush_interval: Duration::from_secs(1),
            codec: Codec::Zstd,
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), SettingError> {
        let within = |name, given: usize, least: usize, most: usize| {
            if (least..=most).contains(&given) {
                return Ok(());
            }
            Err(SettingError::Range {
                name,
                given: given.to_string(),
                least: least.to_string(),
                most: most.to_string(),
            })
        };
        within("table_max", self.table_max, 1, TABLE_ENTRIES_MAX)?;
        within("container_bytes", self.container_octets, CONTAINER_OCTETS_MIN, CONTAINER_OCTETS_MAX)
    }
}

//------------ Recorder ----------------------------------------------------------------------------------------

/// Frames between two looks at the clock and the caller's deadline: some 50 µs of work, so that looking costs
/// nothing.
const FRAMES_PER_LOOK: u32 = 128;

/// How long the clock is not looked at while no packet comes.
const TICK: Duration = Duration::from_millis(100);

/// Why [`Recorder::pump`] returned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pause {
    /// There is a sealed container.
    Sealed,
    /// The time is over, or a signal arrived.
    Elapsed,
    /// The source has ended.
    End,
}

pub struct Recorder {
    filter: Filter,
    table: Table,
    output: Output,
    packets_seen: u64,
    packets: [u64; Outcome::COUNTERS.len()],
    table_evicted: u64,
    keep_query_packets: bool,
    /// A query's packet on its way into the table, if its address has to be cleared.
    cleared: Vec<u8>,
    /// The time of the latest packet or, of a live source, the time of day.
    clock: Timestamp,
}

impl Recorder {
    pub fn new(resolvers: Resolvers, settings: &Settings) -> Result<Self, SettingError> {
        settings.check()?;
        Ok(Recorder {
            filter: Filter::new(resolvers, settings.admit_recursion_desired),
            table: Table::new(settings.table_max, settings.query_timeout),
            output: Output {
                writer: Writer::new(settings.codec, settings.container_octets, settings.envelope).by_length(),
                flush_interval: settings.flush_interval,
                clear_resolver_address: settings.clear_resolver_address,
                opened: Timestamp::default(),
                sealed: Vec::new(),
                cleared: Vec::new(),
                transactions: [0; 3],
                containers_sealed: 0,
            },
            packets_seen: 0,
            packets: [0; Outcome::COUNTERS.len()],
            table_evicted: 0,
            keep_query_packets: settings.keep_query_packets,
            cleared: Vec::new(),
            clock: Timestamp::default(),
        })
    }

    /// Reads from the source until a container is sealed, the time is over, or the source ends.
    pub fn pump<S: FrameSource>(&mut self, source: &mut S, patience: Duration) -> Result<Pause, S::Error> {
        // A patience beyond what the clock can say is without end.
        let deadline = Instant::now().checked_add(patience);
        loop {
            if let Some(now) = source.wall_clock() {
                self.tick(now);
            }
            let left = deadline.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            let patience = left.min(TICK);
            for _ in 0..FRAMES_PER_LOOK {
                if !self.output.sealed.is_empty() {
                    return Ok(Pause::Sealed);
                }
                match source.next(patience)? {
                    Event::Frame(frame) => self.record(&frame),
                    Event::Idle => break,
                    Event::Interrupted => return Ok(Pause::Elapsed),
                    Event::End => return Ok(Pause::End),
                }
            }
            if left.is_zero() {
                return Ok(Pause::Elapsed);
            }
        }
    }

    /// Takes in one frame.
    pub fn record(&mut self, frame: &Frame<'_>) {
        self.clock = frame.time;
        let outcome = match self.filter.admit(frame) {
            Ok(message) if message.header.is_response() => self.record_response(frame, &message),
            Ok(message) => self.record_query(frame, &message),
            Err(outcome) => outcome,
        };
        self.packets_seen += 1;
        self.packets[outcome as usize] += 1;
        self.settle();
    }

    /// Says what time it is, so that queries expire and containers are sealed while no packet comes.
    pub fn tick(&mut self, now: Timestamp) {
        self.clock = now;
        self.settle();
    }

    /// The containers sealed since this was asked last.
    pub fn take_sealed(&mut self) -> Vec<Container> {
        std::mem::take(&mut self.output.sealed)
    }

    /// Gives up on every waiting query and seals what there is.
    pub fn finish(&mut self) -> Vec<Container> {
        let Recorder { table, output, clock, .. } = self;
        while table.evict(|query| output.unanswered(query, *clock)).is_some() {}
        output.seal();
        self.take_sealed()
    }

    pub fn counters(&self) -> Counters {
        let [query_response, unanswered_query, unsolicited_response] = self.output.transactions;
        Counters {
            packets_seen: self.packets_seen,
            packets: self.packets,
            query_response,
            unanswered_query,
            unsolicited_response,
            table_evicted: self.table_evicted,
            pending: self.table.len() as u64,
            containers_sealed: self.output.containers_sealed,
        }
    }

    fn record_query(&mut self, frame: &Frame<'_>, message: &Message<'_>) -> Outcome {
        let Message { datagram, header, question } = message;
        let packet = match (self.keep_query_packets, self.output.clear_resolver_address) {
            (false, _) => &[][..],
            (true, false) => datagram.octets,
            (true, true) => {
                privacy::clear_address(datagram, End::Source, &mut self.cleared);
                &self.cleared
            }
        };
        let key = Key {
            initiator: datagram.source,
            responder: datagram.destination,
            initiator_port: datagram.source_port,
            responder_port: datagram.destination_port,
            id: header.id,
        };
        self.table.insert(&Pending { key, question: *question, packet, time: frame.time });
        Outcome::Recorded
    }

    fn record_response(&mut self, frame: &Frame<'_>, message: &Message<'_>) -> Outcome {
        let Message { datagram, header, question } = message;
        let key = Key {
            initiator: datagram.destination,
            responder: datagram.source,
            initiator_port: datagram.destination_port,
            responder_port: datagram.source_port,
            id: header.id,
        };
        let Recorder { table, output, .. } = self;
        let answered = table.pair(&key, question.as_ref(), header.rcode(), |query| {
            output.response(frame, message, &key, Some(query))
        });
        if answered.is_none() {
            output.response(frame, message, &key, None);
        }
        Outcome::Recorded
    }

    /// Lets go of what has no room or has waited too long.
    fn settle(&mut self) {
        let Recorder { table, output, clock, table_evicted, .. } = self;
        while table.shrink(|query| output.unanswered(query, *clock)).is_some() {
            *table_evicted += 1;
        }
        while table.expire(*clock, |query| output.unanswered(query, *clock)).is_some() {}
        output.flush(*clock);
    }
}

//------------ Output ------------------------------------------------------------------------------------------

/// Transactions on their way into containers.
struct Output {
    writer: Writer,
    flush_interval: Duration,
    clear_resolver_address: bool,
    /// When the first transaction of the container in progress came.
    opened: Timestamp,
    sealed: Vec<Container>,
    /// A response's packet, if its address has to be cleared.
    cleared: Vec<u8>,
    /// By kind: query and response, unanswered query, unsolicited response.
    transactions: [u64; 3],
    containers_sealed: u64,
}

impl Output {
    fn unanswered(&mut self, query: &Pending<'_>, now: Timestamp) {
        let key = query.key;
        let transaction = Transaction {
            kind: Kind::UnansweredQuery,
            initiator: self.shown(key.initiator),
            responder: key.responder,
            initiator_port: key.initiator_port,
            responder_port: key.responder_port,
            id: key.id,
            question: query.question,
            rcode: None,
            query: Some(capture_of(query)),
            response: None,
            timeout: Some(now.since(query.time).as_secs_f64()),
            udp_checksum: None,
            resolver_address_zeroed: self.clear_resolver_address,
        };
        let sealed = self.writer.push(query.time, &transaction);
        self.count(transaction.kind, now, sealed);
    }

    fn response(&mut self, frame: &Frame<'_>, message: &Message<'_>, key: &Key, query: Option<&Pending<'_>>) {
        let datagram = &message.datagram;
        let packet = if self.clear_resolver_address {
            privacy::clear_address(datagram, End::Destination, &mut self.cleared);
            &self.cleared
        } else {
            datagram.octets
        };
        let transaction = Transaction {
            kind: if query.is_some() { Kind::QueryResponse } else { Kind::UnsolicitedResponse },
            initiator: self.shown(key.initiator),
            responder: key.responder,
            initiator_port: key.initiator_port,
            responder_port: key.responder_port,
            id: key.id,
            question: message.question.or(query.and_then(|query| query.question)),
            rcode: Some(message.header.rcode()),
            query: query.map(capture_of),
            response: Some(Capture { time: frame.time, packet: Some(packet) }),
            timeout: None,
            udp_checksum: frame.checksum_ready.then(|| verify_udp(datagram)),
            resolver_address_zeroed: self.clear_resolver_address,
        };
        let sealed = self.writer.push(query.map_or(frame.time, |query| query.time), &transaction);
        self.count(transaction.kind, frame.time, sealed);
    }

    /// The resolver's address as it may be shown.
    fn shown(&self, resolver: IpAddr) -> IpAddr {
        if self.clear_resolver_address { privacy::cleared(resolver) } else { resolver }
    }

    /// Books a transaction that was written, and the container that was sealed to make room for it.
    fn count(&mut self, kind: Kind, now: Timestamp, sealed: Option<Container>) {
        self.transactions[kind as usize - 1] += 1;
        if self.writer.payloads() == 1 {
            self.opened = now;
        }
        self.keep(sealed);
    }

    /// Seals the container in progress if it has waited long enough, or if the clock was set back behind it.
    fn flush(&mut self, now: Timestamp) {
        let waited = now.since(self.opened).max(self.opened.since(now));
        if waited >= self.flush_interval {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let sealed = self.writer.seal();
        self.keep(sealed);
    }

    fn keep(&mut self, sealed: Option<Container>) {
        self.containers_sealed += u64::from(sealed.is_some());
        self.sealed.extend(sealed);
    }
}

fn capture_of<'a>(query: &Pending<'a>) -> Capture<'a> {
    Capture { time: query.time, packet: Some(query.packet).filter(|packet| !packet.is_empty()) }
}
