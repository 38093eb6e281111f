//! The sensor's pipeline: frames in, containers of transactions out.

use std::time::{Duration, Instant};

use crate::checksum::verify_udp;
use crate::counters::Counters;
use crate::dnstap;
use crate::error::SettingError;
use crate::exchange::{Exchange, MessageFate};
use crate::filter::{self, Ends, Filter};
use crate::fragments::Fragments;
use crate::frame::{Event, Frame, FrameSource, Timestamp};
use crate::icmp::{IcmpError, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Refusal};
use crate::limits::{DNSTAP_AGE_MAX, DNSTAP_AHEAD_MAX};
use crate::link;
use crate::message::{Datagram, Direction, Endpoint, Message, Transport};
use crate::nmsg::Container;
use crate::outcome::{DnstapOutcome, PacketOutcome};
use crate::packet::{PROTOCOL_TCP, PROTOCOL_UDP, Packet, u16_at};
use crate::resolvers::Resolvers;
use crate::settings::Settings;
use crate::tcp::{self, Segment, Streams};
use crate::udp;

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

/// What became of a packet, and of the messages that were whole with it.
#[derive(Clone, Copy, Debug)]
pub struct Fate<'a> {
    pub packet: PacketOutcome,
    pub messages: &'a [MessageFate],
}

pub struct Recorder {
    fragments: Fragments,
    transports: Transports,
    packets_seen: u64,
    dnstap_frames_seen: u64,
    dnstap_frames: [u64; DnstapOutcome::COUNTERS.len()],
    /// The time of the latest packet or, of a live source, the time of day.
    clock: Timestamp,
}

impl Recorder {
    pub fn new(resolvers: Resolvers, settings: &Settings) -> Result<Self, SettingError> {
        settings.check(&resolvers)?;
        Ok(Recorder {
            fragments: Fragments::default(),
            transports: Transports {
                filter: Filter::new(resolvers, settings),
                streams: Streams::default(),
                exchange: Exchange::new(settings)?,
                packets: [0; PacketOutcome::COUNTERS.len()],
            },
            packets_seen: 0,
            dnstap_frames_seen: 0,
            dnstap_frames: [0; DnstapOutcome::COUNTERS.len()],
            clock: Timestamp::default(),
        })
    }

    /// Changes the settings; what waits goes on waiting, and the container in progress is sealed.
    pub fn reconfigure(&mut self, resolvers: Resolvers, settings: &Settings) -> Result<(), SettingError> {
        settings.check(&resolvers)?;
        self.transports.exchange.reconfigure(settings)?;
        self.transports.filter = Filter::new(resolvers, settings);
        Ok(())
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
                if self.transports.exchange.has_sealed() {
                    return Ok(Pause::Sealed);
                }
                match source.next(patience)? {
                    Event::Frame(frame) => {
                        self.record(&frame);
                    }
                    Event::Dnstap(frame) => {
                        self.record_dnstap(frame);
                    }
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

    /// Takes in one frame, and tells what became of it.
    pub fn record(&mut self, frame: &Frame<'_>) -> Fate<'_> {
        self.clock = frame.time;
        self.packets_seen += 1;
        self.transports.exchange.begin();
        let packet = self.take(frame);
        self.settle();
        Fate { packet, messages: self.transports.exchange.fates() }
    }

    /// Takes in one dnstap frame, and tells what became of it. The clock is not the frame's: senders keep frames back.
    pub fn record_dnstap(&mut self, frame: &[u8]) -> DnstapOutcome {
        self.transports.exchange.begin();
        let outcome = self.take_dnstap(frame).err().unwrap_or(DnstapOutcome::Passed);
        self.dnstap_frames_seen += 1;
        self.dnstap_frames[outcome as usize] += 1;
        self.settle();
        outcome
    }

    /// Says what time it is, so that queries expire and containers are sealed while no packet comes.
    pub fn tick(&mut self, now: Timestamp) {
        self.clock = now;
        self.transports.exchange.begin();
        self.settle();
    }

    /// The containers sealed since this was asked last.
    pub fn take_sealed(&mut self) -> Vec<Container> {
        self.transports.exchange.take_sealed()
    }

    /// Gives up on everything that waits and seals what there is.
    pub fn finish(&mut self) -> Vec<Container> {
        self.fragments.finish();
        self.transports.finish(self.clock);
        self.take_sealed()
    }

    pub fn counters(&self) -> Counters {
        let mut counters = Counters {
            packets_seen: self.packets_seen,
            dnstap_frames_seen: self.dnstap_frames_seen,
            dnstap_frames: self.dnstap_frames,
            ..Counters::default()
        };
        let Transports { packets, streams, exchange, .. } = &self.transports;
        for (place, outcome) in PacketOutcome::ALL.into_iter().enumerate() {
            let of_streams: u64 = streams_fates(outcome).map(|fate| streams.settled(fate)).sum();
            counters.packets[place] = packets[place] + self.fragments.settled()[place] + of_streams;
        }
        counters.packets[PacketOutcome::Waiting as usize] = self.fragments.waiting() + streams.waiting();
        exchange.count(&mut counters);
        counters
    }

    fn take_dnstap(&mut self, frame: &[u8]) -> Result<(), DnstapOutcome> {
        let message = dnstap::read(frame)?;
        if self.transports.filter.lists(&message.server) {
            return Err(DnstapOutcome::FilteredBothListed);
        }
        // A query of the future would hold up those behind it in the table, and what is stored keeps its times.
        let believable = |time: Timestamp| {
            time.since(self.clock) <= DNSTAP_AHEAD_MAX && self.clock.since(time) <= DNSTAP_AGE_MAX
        };
        if !believable(message.time) || !message.asked.is_none_or(believable) {
            return Err(DnstapOutcome::RejectedTime);
        }
        let Transports { filter, exchange, .. } = &mut self.transports;
        // Senders keep frames back: whoever is behind would else have waited too long already.
        exchange.take(filter, &message, self.clock);
        Ok(())
    }

    fn take(&mut self, frame: &Frame<'_>) -> PacketOutcome {
        let Recorder { fragments, transports, .. } = self;
        let arrival = Arrival { time: frame.time, packets: 1, checksum_ready: frame.checksum_ready };
        let packet = match link::packet(frame, is_read) {
            Ok(packet) => packet,
            Err(outcome) => return transports.count(outcome, 1),
        };
        let Some(place) = packet.fragment else {
            return transports.take(&packet, &arrival);
        };
        if !matches!(packet.protocol, PROTOCOL_UDP | PROTOCOL_TCP) {
            return transports.count(PacketOutcome::FilteredProtocol, 1);
        }
        let filter = &transports.filter;
        if let Err(outcome) = filter.admit_piece(&packet.source, &packet.destination) {
            return transports.count(outcome, 1);
        }
        match fragments.take(&packet, place, frame.time, || judge_first_piece(filter, &packet)) {
            Ok(whole) => {
                let arrival = Arrival { packets: whole.packets, ..arrival };
                match Packet::of_octets(whole.octets, is_read) {
                    Ok(packet) => transports.take(&packet, &arrival),
                    Err(outcome) => transports.count(outcome, whole.packets),
                }
            }
            Err(outcome) => outcome,
        }
    }

    /// Lets go of what has no room or has waited too long.
    fn settle(&mut self) {
        self.fragments.expire(self.clock);
        self.transports.settle(self.clock);
    }
}

fn is_read(protocol: u8) -> bool {
    matches!(protocol, PROTOCOL_UDP | PROTOCOL_TCP | PROTOCOL_ICMP | PROTOCOL_ICMPV6)
}

/// The ports of UDP and of TCP stand in the same place.
fn ports(packet: &Packet<'_>) -> Result<(Endpoint, Endpoint), PacketOutcome> {
    let octets = packet.payload();
    let (Some(source), Some(destination)) = (u16_at(octets, 0), u16_at(octets, 2)) else {
        return Err(PacketOutcome::RejectedMalformed);
    };
    let source = Endpoint { address: packet.source, port: source };
    Ok((source, Endpoint { address: packet.destination, port: destination }))
}

/// Whether the datagram that begins with this piece may be put together: an answer from a server.
fn judge_first_piece(filter: &Filter, packet: &Packet<'_>) -> Result<(), PacketOutcome> {
    let transport = if packet.protocol == PROTOCOL_TCP { Transport::Tcp } else { Transport::Udp };
    let (source, destination) = ports(packet)?;
    match filter.ends(transport, source, destination)?.direction {
        Direction::FromServer => Ok(()),
        Direction::ToServer => Err(PacketOutcome::FilteredDirection),
    }
}

//------------ Transports --------------------------------------------------------------------------------------

/// What is said of a packet beside its octets: when it was whole, and of how many captured ones.
struct Arrival {
    time: Timestamp,
    packets: u64,
    checksum_ready: bool,
}

/// From whole IP packets to messages.
struct Transports {
    filter: Filter,
    streams: Streams,
    exchange: Exchange,
    /// Counted here, by outcome; others are counted where packets wait.
    packets: [u64; PacketOutcome::COUNTERS.len()],
}

impl Transports {
    fn count(&mut self, outcome: PacketOutcome, packets: u64) -> PacketOutcome {
        self.packets[outcome as usize] += packets;
        outcome
    }

    fn take(&mut self, packet: &Packet<'_>, arrival: &Arrival) -> PacketOutcome {
        let taken = match packet.protocol {
            PROTOCOL_UDP => self.take_udp(packet, arrival),
            // The streams count what they take.
            PROTOCOL_TCP => match self.take_tcp(packet, arrival) {
                Ok(fate) => return outcome_of(fate),
                Err(outcome) => Err(outcome),
            },
            PROTOCOL_ICMP if packet.source.is_ipv4() => self.take_icmp(packet, arrival),
            PROTOCOL_ICMPV6 if packet.source.is_ipv6() => self.take_icmp(packet, arrival),
            _ => Err(PacketOutcome::FilteredProtocol),
        };
        let outcome = taken.err().unwrap_or(PacketOutcome::Passed);
        self.count(outcome, arrival.packets)
    }

    fn take_udp(&mut self, packet: &Packet<'_>, arrival: &Arrival) -> Result<(), PacketOutcome> {
        let (source, destination) = ports(packet)?;
        let Ends { resolver, server, direction } = self.filter.ends(Transport::Udp, source, destination)?;
        let datagram = udp::datagram(packet)?;
        // A query's checksum is not looked at: its own host often has not filled it in.
        let judged = direction == Direction::FromServer && arrival.checksum_ready;
        let message = Message {
            time: arrival.time,
            resolver,
            server,
            direction,
            transport: Transport::Udp,
            octets: &datagram[udp::HEADER_OCTETS..],
            checksum: judged.then(|| verify_udp(&packet.source, &packet.destination, datagram)),
            datagram: Some(Datagram { octets: packet.octets, transport: packet.transport }),
            asked: None,
            query_zone: None,
        };
        self.exchange.take(&self.filter, &message, message.time);
        Ok(())
    }

    fn take_tcp(&mut self, packet: &Packet<'_>, arrival: &Arrival) -> Result<tcp::Fate, PacketOutcome> {
        let (source, destination) = ports(packet)?;
        self.filter.ends(Transport::Tcp, source, destination)?;
        let segment = Segment::parse(packet.source, packet.destination, packet.payload())
            .map_err(|_| PacketOutcome::RejectedMalformed)?;
        let Transports { filter, streams, exchange, .. } = self;
        Ok(streams.take(&segment, arrival.time, arrival.packets, |message| {
            exchange.take(filter, &message_of_stream(message), message.completed);
        }))
    }

    fn take_icmp(&mut self, packet: &Packet<'_>, arrival: &Arrival) -> Result<(), PacketOutcome> {
        let error = IcmpError::parse(packet.source, packet.destination, packet.octets, packet.transport)
            .map_err(|refusal| match refusal {
                Refusal::Protocol => PacketOutcome::FilteredProtocol,
                Refusal::Port => PacketOutcome::FilteredPort,
                Refusal::Malformed => PacketOutcome::RejectedMalformed,
            })?;
        let quote = &error.quote;
        let transport = if quote.protocol == PROTOCOL_TCP { Transport::Tcp } else { Transport::Udp };
        let ends = self.filter.ends(
            transport,
            Endpoint { address: quote.source, port: quote.source_port },
            Endpoint { address: quote.destination, port: quote.destination_port },
        )?;
        if ends.direction != Direction::ToServer {
            return Err(PacketOutcome::FilteredDirection);
        }
        let header = quote.header.ok_or(PacketOutcome::FilteredNoData)?;
        let quoted = self.filter.admit_quote(&quote.destination, &header, quote.question);
        self.exchange.take_icmp(quoted, &error, &ends, arrival.time);
        Ok(())
    }

    fn settle(&mut self, now: Timestamp) {
        let Transports { filter, streams, exchange, .. } = self;
        streams.expire(now, |message| exchange.take(filter, &message_of_stream(message), message.completed));
        exchange.settle(now);
    }

    fn finish(&mut self, now: Timestamp) {
        let Transports { filter, streams, exchange, .. } = self;
        streams.finish(|message| exchange.take(filter, &message_of_stream(message), message.completed));
        exchange.finish(now);
    }
}

fn message_of_stream<'a>(message: &tcp::Message<'a>) -> Message<'a> {
    // Of a connection that is followed one port alone is 53.
    let Ends { resolver, server, direction } = filter::by_ports(
        Endpoint { address: message.source, port: message.source_port },
        Endpoint { address: message.destination, port: message.destination_port },
    );
    Message {
        time: message.completed,
        resolver,
        server,
        direction,
        transport: Transport::Tcp,
        octets: message.octets,
        checksum: None,
        datagram: None,
        asked: None,
        query_zone: None,
    }
}

fn outcome_of(fate: tcp::Fate) -> PacketOutcome {
    match fate {
        tcp::Fate::Passed => PacketOutcome::Passed,
        tcp::Fate::FilteredNoData => PacketOutcome::FilteredNoData,
        tcp::Fate::FilteredRetransmitted => PacketOutcome::FilteredRetransmitted,
        tcp::Fate::RejectedOverlap => PacketOutcome::RejectedOverlap,
        tcp::Fate::RejectedOutOfStep => PacketOutcome::RejectedOutOfStep,
        tcp::Fate::LostGap => PacketOutcome::LostGap,
        tcp::Fate::LostUnfinished => PacketOutcome::LostUnfinished,
        tcp::Fate::LostNoRoom => PacketOutcome::LostRoom,
        tcp::Fate::Waiting => PacketOutcome::Waiting,
    }
}

/// The settled fates of segments that count under an outcome.
fn streams_fates(outcome: PacketOutcome) -> impl Iterator<Item = tcp::Fate> {
    tcp::Fate::SETTLED.into_iter().filter(move |fate| outcome_of(*fate) == outcome)
}
