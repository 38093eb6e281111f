//! From messages to transactions, and on into containers.
//!
//! Between the two stands what may be kept of a message: names are judged before anything waits or is written, and
//! nothing is written but scrubbed. A response that is kept out takes its query along.

use std::time::Duration;

use crate::counters::Counters;
use crate::dns::Malformed;
use crate::error::SettingError;
use crate::filter::{Admitted, Ends, Filter};
use crate::frame::Timestamp;
use crate::icmp::{IcmpError, PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use crate::local_zones::{Extent, Judgement, NamePolicy, Verdict};
use crate::message::{Direction, Endpoint, Message};
use crate::nmsg::dnsqr::{Capture, Kind, Transaction};
use crate::nmsg::{Container, Writer};
use crate::outcome::MessageOutcome;
use crate::scrub::{Scrubbed, Scrubber};
use crate::settings::{Kinds, Settings};
use crate::stored;
use crate::transaction::{Key, Pending, Table};

/// What became of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessageFate {
    pub outcome: MessageOutcome,
    /// The transaction that the message completed.
    pub kind: Option<Kind>,
}

/// Pairs messages, and writes what comes of them.
pub struct Exchange {
    table: Table,
    output: Output,
    names: NamePolicy,
    scrubber: Scrubber,
    keep_edns_options: bool,
    messages_seen: u64,
    messages: [u64; MessageOutcome::COUNTERS.len()],
    table_evicted: u64,
    keep_query_packets: bool,
    /// A query's packets on their way into the table.
    packets: Vec<u8>,
    /// What became of the messages since [`Exchange::begin`].
    fates: Vec<MessageFate>,
}

impl Exchange {
    pub fn new(settings: &Settings) -> Result<Self, SettingError> {
        Ok(Exchange {
            table: Table::new(settings.table_max, settings.query_timeout),
            output: Output::new(settings),
            names: names(settings)?,
            scrubber: Scrubber::default(),
            keep_edns_options: settings.keep_edns_options,
            messages_seen: 0,
            messages: [0; MessageOutcome::COUNTERS.len()],
            table_evicted: 0,
            keep_query_packets: settings.keep_query_packets,
            packets: Vec::new(),
            fates: Vec::new(),
        })
    }

    /// Changes the settings. Packets that were kept under others are forgotten, since they may show more than they
    /// may now.
    pub fn reconfigure(&mut self, settings: &Settings) -> Result<(), SettingError> {
        self.names = names(settings)?;
        self.keep_edns_options = settings.keep_edns_options;
        self.table.set_bounds(settings.table_max, settings.query_timeout);
        self.table.forget_packets();
        self.keep_query_packets = settings.keep_query_packets;
        self.output.reconfigure(settings);
        Ok(())
    }

    /// Forgets the fates of earlier messages.
    pub fn begin(&mut self) {
        self.fates.clear();
    }

    pub fn fates(&self) -> &[MessageFate] {
        &self.fates
    }

    /// Takes in a message that became known at the time `now`.
    pub fn take(&mut self, filter: &Filter, message: &Message<'_>, now: Timestamp) {
        self.messages_seen += 1;
        let taken = filter.admit(message).and_then(|admitted| match message.direction {
            Direction::ToServer => self.take_query(message, &admitted, now),
            Direction::FromServer => self.take_response(message, &admitted),
        });
        self.fates.push(taken.unwrap_or_else(|outcome| {
            self.messages[outcome as usize] += 1;
            MessageFate { outcome, kind: None }
        }));
    }

    /// Takes in an error that quotes a query; the query goes on waiting, since a response may come all the same.
    pub fn take_icmp(
        &mut self,
        quoted: Result<Admitted<'_>, MessageOutcome>,
        error: &IcmpError<'_>,
        ends: &Ends,
        time: Timestamp,
    ) {
        self.messages_seen += 1;
        let taken = quoted.and_then(|admitted| {
            let name = admitted.question.map(|question| self.names.judge_name(question.name)).transpose()?;
            name.map_or(Ok(()), admit)?;
            self.output.icmp(&admitted, error, ends, time);
            Ok(())
        });
        let outcome = taken.err().unwrap_or(MessageOutcome::Recorded);
        self.messages[outcome as usize] += 1;
        self.fates.push(MessageFate { outcome, kind: taken.is_ok().then_some(Kind::Icmp) });
    }

    /// Judges the names of a message, and that of the zone to which it belongs.
    fn judge(&mut self, message: &Message<'_>) -> Result<Judgement, Malformed> {
        let zone = message.query_zone.map(|zone| self.names.judge_name(zone)).transpose()?;
        match zone {
            Some(Verdict::LocalZone) => Ok(Verdict::LocalZone.into()),
            _ => self.names.judge(message.octets),
        }
    }

    fn take_query(
        &mut self,
        message: &Message<'_>,
        admitted: &Admitted<'_>,
        now: Timestamp,
    ) -> Result<MessageFate, MessageOutcome> {
        let Judgement { verdict, extent } = self.judge(message)?;
        match verdict {
            // The response decides.
            Verdict::SingleLabel if admitted.question.is_some() => {}
            verdict => admit(verdict)?,
        }
        let scrubbed = scrub(&mut self.scrubber, self.keep_edns_options, message.octets, extent)?;
        let packets = match self.keep_query_packets {
            true => stored::packets(message, scrubbed, self.output.clear_resolver_address, &mut self.packets),
            false => &[],
        };
        let key = key_of(message, admitted);
        let query = Pending { key, question: admitted.question, packets, time: message.time };
        self.table.insert(&query, now);
        Ok(MessageFate { outcome: MessageOutcome::Pending, kind: None })
    }

    fn take_response(
        &mut self,
        message: &Message<'_>,
        admitted: &Admitted<'_>,
    ) -> Result<MessageFate, MessageOutcome> {
        let Judgement { verdict, extent } = self.judge(message)?;
        let Exchange { table, output, names, scrubber, messages_seen, .. } = self;
        let scrubbed = scrub(scrubber, self.keep_edns_options, message.octets, extent)?;
        let key = key_of(message, admitted);
        let answered = table.pair(&key, admitted.question.as_ref(), admitted.header.rcode(), |query| {
            admit(verdict)?;
            if admitted.question.is_none() {
                // Then the query's is shown.
                admit_question(names, query)?;
            }
            output.response(message, scrubbed, admitted, &key, Some(query));
            Ok(())
        });
        let answered = answered.or_else(|| {
            // The resolver did not report its query apart, or so long before that it has been given up.
            let time = message.asked?;
            *messages_seen += 1;
            let query = Pending { key, question: admitted.question, packets: &[], time };
            Some(admit(verdict).map(|()| output.response(message, scrubbed, admitted, &key, Some(&query))))
        });
        let kind = match answered {
            Some(Ok(())) => Kind::QueryResponse,
            Some(Err(outcome)) => {
                self.messages[outcome as usize] += 1;
                return Err(outcome);
            }
            None => {
                admit(verdict)?;
                output.response(message, scrubbed, admitted, &key, None);
                Kind::UnsolicitedResponse
            }
        };
        self.messages[MessageOutcome::Recorded as usize] += 1 + u64::from(answered.is_some());
        Ok(MessageFate { outcome: MessageOutcome::Recorded, kind: Some(kind) })
    }

    /// Lets go of what has no room or has waited too long.
    pub fn settle(&mut self, now: Timestamp) {
        let Exchange { table, output, names, messages, table_evicted, .. } = self;
        while let Some(outcome) = table.shrink(|query| give_up(names, output, query, now)) {
            *table_evicted += 1;
            messages[outcome as usize] += 1;
        }
        while let Some(outcome) = table.expire(now, |query| give_up(names, output, query, now)) {
            messages[outcome as usize] += 1;
        }
        output.flush(now);
    }

    /// Gives up on every waiting query and seals what there is.
    pub fn finish(&mut self, now: Timestamp) {
        let Exchange { table, output, names, messages, .. } = self;
        while let Some(outcome) = table.evict(|query| give_up(names, output, query, now)) {
            messages[outcome as usize] += 1;
        }
        output.seal();
    }

    pub fn has_sealed(&self) -> bool {
        !self.output.sealed.is_empty()
    }

    pub fn take_sealed(&mut self) -> Vec<Container> {
        std::mem::take(&mut self.output.sealed)
    }

    /// Writes this part's counts into those of the whole.
    pub fn count(&self, counters: &mut Counters) {
        counters.messages_seen = self.messages_seen;
        counters.messages = self.messages;
        counters.messages[MessageOutcome::Pending as usize] = self.table.len() as u64;
        counters.transactions = self.output.written;
        counters.transactions_filtered = self.output.filtered;
        counters.table_evicted = self.table_evicted;
        counters.containers_sealed = self.output.containers_sealed;
    }
}

fn key_of(message: &Message<'_>, admitted: &Admitted<'_>) -> Key {
    Key {
        resolver: message.resolver,
        server: message.server,
        transport: message.transport,
        id: admitted.header.id,
    }
}

//------------ What may be kept --------------------------------------------------------------------------------

fn names(settings: &Settings) -> Result<NamePolicy, SettingError> {
    let exclude = settings.exclude_qname_regex.as_deref();
    NamePolicy::new(&settings.local_zones, settings.suppress_special_use, exclude)
}

fn admit(verdict: Verdict) -> Result<(), MessageOutcome> {
    match verdict {
        Verdict::Admitted => Ok(()),
        Verdict::LocalZone | Verdict::SingleLabel => Err(MessageOutcome::FilteredLocalZone),
        Verdict::NameRegex => Err(MessageOutcome::FilteredQnameRegex),
    }
}

/// Judges a query by its question alone.
fn admit_question(names: &mut NamePolicy, query: &Pending<'_>) -> Result<(), MessageOutcome> {
    query.question.map_or(Ok(()), |question| admit(names.judge_name(question.name)?))
}

/// Writes a query that has no response, if it may be shown.
fn give_up(
    names: &mut NamePolicy,
    output: &mut Output,
    query: &Pending<'_>,
    now: Timestamp,
) -> MessageOutcome {
    match admit_question(names, query) {
        Ok(()) => {
            output.unanswered(query, now);
            MessageOutcome::Recorded
        }
        Err(outcome) => outcome,
    }
}

/// What takes the place of a message, if it cannot stay as it is.
fn scrub<'a>(
    scrubber: &'a mut Scrubber,
    keep_edns_options: bool,
    message: &'a [u8],
    extent: Option<Extent>,
) -> Result<Option<&'a [u8]>, Malformed> {
    if keep_edns_options {
        return Ok(None);
    }
    let scrubbed = match extent {
        // Whoever judged the names has seen that there is nothing to scrub but what follows the last record.
        Some(Extent { end, has_options: false }) => Scrubbed::up_to(message, end),
        _ => scrubber.scrub(message)?,
    };
    Ok(match scrubbed {
        Scrubbed::Unchanged => None,
        Scrubbed::Rewritten(rewritten) => Some(rewritten),
    })
}

//------------ Output ------------------------------------------------------------------------------------------

/// Transactions on their way into containers.
struct Output {
    writer: Writer,
    kinds: Kinds,
    flush_interval: Duration,
    clear_resolver_address: bool,
    /// When the first transaction of the container in progress came.
    opened: Timestamp,
    sealed: Vec<Container>,
    /// A response's packets, if they cannot be written as they came.
    packets: Vec<u8>,
    /// Transactions by kind.
    written: [u64; Kind::ALL.len()],
    filtered: [u64; Kind::ALL.len()],
    containers_sealed: u64,
}

impl Output {
    fn new(settings: &Settings) -> Self {
        Output {
            writer: writer(settings),
            kinds: settings.kinds,
            flush_interval: settings.flush_interval,
            clear_resolver_address: settings.clear_resolver_address,
            opened: Timestamp::default(),
            sealed: Vec::new(),
            packets: Vec::new(),
            written: [0; Kind::ALL.len()],
            filtered: [0; Kind::ALL.len()],
            containers_sealed: 0,
        }
    }

    fn reconfigure(&mut self, settings: &Settings) {
        self.seal();
        self.writer = writer(settings);
        self.kinds = settings.kinds;
        self.flush_interval = settings.flush_interval;
        self.clear_resolver_address = settings.clear_resolver_address;
    }

    fn unanswered(&mut self, query: &Pending<'_>, now: Timestamp) {
        if !self.takes(Kind::UnansweredQuery) {
            return;
        }
        let key = query.key;
        let transaction = Transaction {
            kind: Kind::UnansweredQuery,
            resolver: self.shown(key.resolver),
            server: key.server,
            protocol: key.transport.protocol(),
            id: key.id,
            question: query.question,
            rcode: None,
            query: Some(capture_of(query)),
            response: None,
            icmp: None,
            timeout: Some(now.since(query.time).as_secs_f64()),
            udp_checksum: None,
            resolver_address_zeroed: self.clear_resolver_address,
            query_zone: None,
        };
        let sealed = self.writer.push(query.time, &transaction);
        self.keep(now, sealed);
    }

    fn response(
        &mut self,
        message: &Message<'_>,
        scrubbed: Option<&[u8]>,
        admitted: &Admitted<'_>,
        key: &Key,
        query: Option<&Pending<'_>>,
    ) {
        let kind = if query.is_some() { Kind::QueryResponse } else { Kind::UnsolicitedResponse };
        if !self.takes(kind) {
            return;
        }
        let resolver = self.shown(key.resolver);
        let packets = stored::packets(message, scrubbed, self.clear_resolver_address, &mut self.packets);
        let transaction = Transaction {
            kind,
            resolver,
            server: key.server,
            protocol: key.transport.protocol(),
            id: key.id,
            question: admitted.question.or(query.and_then(|query| query.question)),
            rcode: Some(admitted.header.rcode()),
            query: query.map(capture_of),
            response: Some(Capture { time: message.time, packets }),
            icmp: None,
            timeout: None,
            udp_checksum: message.checksum,
            resolver_address_zeroed: self.clear_resolver_address,
            query_zone: message.query_zone,
        };
        let sealed = self.writer.push(query.map_or(message.time, |query| query.time), &transaction);
        self.keep(message.time, sealed);
    }

    fn icmp(&mut self, admitted: &Admitted<'_>, error: &IcmpError<'_>, ends: &Ends, time: Timestamp) {
        if !self.takes(Kind::Icmp) {
            return;
        }
        let resolver = self.shown(ends.resolver);
        error.write(self.clear_resolver_address, &mut self.packets);
        let transaction = Transaction {
            kind: Kind::Icmp,
            resolver,
            server: ends.server,
            protocol: if error.source.is_ipv4() { PROTOCOL_ICMP } else { PROTOCOL_ICMPV6 },
            id: admitted.header.id,
            question: admitted.question,
            rcode: None,
            query: None,
            response: None,
            icmp: Some(&self.packets),
            timeout: None,
            udp_checksum: None,
            resolver_address_zeroed: self.clear_resolver_address,
            query_zone: None,
        };
        let sealed = self.writer.push(time, &transaction);
        self.keep(time, sealed);
    }

    /// The resolver's end as it may be shown.
    fn shown(&self, resolver: Endpoint) -> Endpoint {
        if self.clear_resolver_address { stored::cleared(resolver) } else { resolver }
    }

    /// Books a transaction; false if its type is switched off.
    fn takes(&mut self, kind: Kind) -> bool {
        let taken = self.kinds.contains(kind);
        let counts = if taken { &mut self.written } else { &mut self.filtered };
        counts[kind.index()] += 1;
        taken
    }

    /// Notes when a container's first transaction was written, and keeps the container that was sealed to make
    /// room for it.
    fn keep(&mut self, now: Timestamp, sealed: Option<Container>) {
        if self.writer.payloads() == 1 {
            self.opened = now;
        }
        self.keep_sealed(sealed);
    }

    /// Seals the container in progress if it has waited long enough, or if the clock was set back behind it.
    fn flush(&mut self, now: Timestamp) {
        if now.apart(self.opened) >= self.flush_interval {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let sealed = self.writer.seal();
        self.keep_sealed(sealed);
    }

    fn keep_sealed(&mut self, sealed: Option<Container>) {
        self.containers_sealed += u64::from(sealed.is_some());
        self.sealed.extend(sealed);
    }
}

fn writer(settings: &Settings) -> Writer {
    Writer::new(settings.codec, settings.container_octets, settings.envelope).by_length()
}

fn capture_of<'a>(query: &Pending<'a>) -> Capture<'a> {
    Capture { time: query.time, packets: query.packets }
}
