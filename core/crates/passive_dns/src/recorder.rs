//! The sensor's pipeline: frames in, containers of transactions out.

use std::time::{Duration, Instant};

use crate::checksum::verify_udp;
use crate::counters::Counters;
use crate::error::SettingError;
use crate::exchange::{Exchange, MessageFate};
use crate::filter::{Ends, Filter};
use crate::frame::{Event, Frame, FrameSource, Timestamp};
use crate::message::{Datagram, Direction, Endpoint, Message, Transport};
use crate::nmsg::Container;
use crate::outcome::PacketOutcome;
use crate::packet::{PROTOCOL_UDP, Packet};
use crate::resolvers::Resolvers;
use crate::settings::Settings;
use crate::udp::{self, Udp};

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
    filter: Filter,
    exchange: Exchange,
    packets_seen: u64,
    packets: [u64; PacketOutcome::COUNTERS.len()],
    /// The time of the latest packet or, of a live source, the time of day.
    clock: Timestamp,
}

impl Recorder {
    pub fn new(resolvers: Resolvers, settings: &Settings) -> Result<Self, SettingError> {
        settings.check(&resolvers)?;
        Ok(Recorder {
            filter: Filter::new(resolvers, settings),
            exchange: Exchange::new(settings)?,
            packets_seen: 0,
            packets: [0; PacketOutcome::COUNTERS.len()],
            clock: Timestamp::default(),
        })
    }

    /// Changes the settings; what waits goes on waiting, and the container in progress is sealed.
    pub fn reconfigure(&mut self, resolvers: Resolvers, settings: &Settings) -> Result<(), SettingError> {
        settings.check(&resolvers)?;
        self.exchange.reconfigure(settings)?;
        self.filter = Filter::new(resolvers, settings);
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
                if self.exchange.has_sealed() {
                    return Ok(Pause::Sealed);
                }
                match source.next(patience)? {
                    Event::Frame(frame) => {
                        self.record(&frame);
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
        self.exchange.begin();
        let packet = self.take(frame).unwrap_or_else(|outcome| outcome);
        self.packets_seen += 1;
        self.packets[packet as usize] += 1;
        self.exchange.settle(self.clock);
        Fate { packet, messages: self.exchange.fates() }
    }

    /// Says what time it is, so that queries expire and containers are sealed while no packet comes.
    pub fn tick(&mut self, now: Timestamp) {
        self.clock = now;
        self.exchange.settle(now);
    }

    /// The containers sealed since this was asked last.
    pub fn take_sealed(&mut self) -> Vec<Container> {
        self.exchange.take_sealed()
    }

    /// Gives up on every waiting query and seals what there is.
    pub fn finish(&mut self) -> Vec<Container> {
        self.exchange.finish(self.clock);
        self.take_sealed()
    }

    pub fn counters(&self) -> Counters {
        let mut counters =
            Counters { packets_seen: self.packets_seen, packets: self.packets, ..Counters::default() };
        self.exchange.count(&mut counters);
        counters
    }

    fn take(&mut self, frame: &Frame<'_>) -> Result<PacketOutcome, PacketOutcome> {
        let packet = Packet::of_frame(frame, |protocol| protocol == PROTOCOL_UDP)?;
        if packet.fragment.is_some() {
            return Err(PacketOutcome::RejectedFragment);
        }
        self.take_udp(&packet, frame)
    }

    fn take_udp(&mut self, packet: &Packet<'_>, frame: &Frame<'_>) -> Result<PacketOutcome, PacketOutcome> {
        let udp = Udp::of_packet(packet)?;
        let Ends { resolver, server, direction } = self.filter.ends(
            Endpoint { address: packet.source, port: udp.source_port },
            Endpoint { address: packet.destination, port: udp.destination_port },
        )?;
        let datagram = udp.datagram()?;
        // A query's checksum is not looked at: its own host often has not filled it in.
        let judged = direction == Direction::FromServer && frame.checksum_ready;
        let message = Message {
            time: frame.time,
            resolver,
            server,
            direction,
            transport: Transport::Udp,
            octets: &datagram[udp::HEADER_OCTETS..],
            checksum: judged.then(|| verify_udp(&packet.source, &packet.destination, datagram)),
            datagram: Some(Datagram { octets: packet.octets, transport: packet.transport }),
            query_zone: None,
        };
        self.exchange.take(&self.filter, &message);
        Ok(PacketOutcome::Passed)
    }
}
