//! DNS over TCP (RFC 7766): from segments in any order to messages.
//!
//! ```text
//! let mut streams = Streams::default();
//! let segment = Segment::parse(source, destination, &datagram[transport..])?;
//! let fate = streams.take(&segment, time, 1, |message| ...);     // for each segment
//! streams.expire(now, |message| ...);                            // now and then
//! streams.finish(|message| ...);                                 // in the end
//! ```
//!
//! Each direction of a connection is a stream of its own, so that a mirror which shows only one is good enough.
//! What a receiver would make of the segments is what is made of them here:
//!
//! * A stream begins behind SYN (data in it, RFC 7413, is data like any), or is picked up at a segment that begins
//!   with a length, a header and a question; any other segment of an unknown stream is out of step.
//! * Octets that are there already are not taken again. A segment that contradicts them is rejected whole: the
//!   first data wins, and nobody can have two readings of one stream.
//! * Octets behind a gap wait for it. If it is not filled within [`STREAM_GAP`](crate::limits::STREAM_GAP), or too much waits, the stream is
//!   picked up behind it, like an unknown one.
//! * FIN ends the stream once everything in front of it is there, RST where the stream is. It is remembered for
//!   [`STREAM_IDLE`] all the same, so that what is sent again is not read again. SYN with another number begins
//!   anew.
//!
//! A message is handed out as soon as it is whole, with the time of its first and its last segment; if it came whole
//! in one segment, it is that segment's octets, and nothing is allocated. Its length may be anything up to 65,535,
//! less than a header's too. Messages that were held back by a gap may be older than the segment at hand.
//!
//! [`Streams::take`] is told how many captured packets a segment came in (fragments), and the sums are of those:
//! packets taken = Σ [`Streams::settled`] + [`Streams::waiting`]. A packet waits until its last octet is in a
//! message.
//!
//! Memory is bounded by [`STREAMS_MAX`] and [`STREAMS_OCTETS_MAX`]: the stream unused the longest leaves first.

mod segment;
mod stream;

use std::net::IpAddr;

use crate::frame::Timestamp;
use crate::limits::{STREAM_IDLE, STREAMS_MAX, STREAMS_OCTETS_MAX};
use crate::lru::Lru;
use stream::{Chunk, Side, Span, Stream};

pub use segment::{HEADER_OCTETS_MIN, Segment};
pub use stream::LENGTH_OCTETS;

//------------ Fate --------------------------------------------------------------------------------------------

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// All its octets are in messages.
    Passed,
    /// It has no data: SYN, FIN, RST, or an acknowledgement.
    FilteredNoData,
    /// All its octets were there before.
    FilteredRetransmitted,
    /// It contradicts octets that were there before.
    RejectedOverlap,
    /// It belongs to no known place of a stream, and no message begins with it.
    RejectedOutOfStep,
    /// Octets in front of it never came.
    LostGap,
    /// Its stream ended, or was silent too long, in the middle of a message.
    LostUnfinished,
    /// Its stream had to leave to make room.
    LostNoRoom,
    /// Some of its octets are in no message yet; the only fate that changes.
    Waiting,
}

impl Fate {
    /// Every fate but [`Fate::Waiting`].
    pub const SETTLED: [Fate; 8] = [
        Fate::Passed,
        Fate::FilteredNoData,
        Fate::FilteredRetransmitted,
        Fate::RejectedOverlap,
        Fate::RejectedOutOfStep,
        Fate::LostGap,
        Fate::LostUnfinished,
        Fate::LostNoRoom,
    ];
}

/// Packets by fate.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    settled: [u64; Fate::SETTLED.len()],
    waiting: u64,
}

impl Tally {
    /// Counts packets whose fate is known at once.
    fn count(&mut self, fate: Fate, packets: u64) -> Fate {
        self.settled[fate as usize] += packets;
        fate
    }

    /// Counts packets whose fate is not known yet.
    fn accept(&mut self, packets: u64) {
        self.waiting += packets;
    }

    /// Says what became of packets that waited.
    fn settle(&mut self, fate: Fate, packets: u64) {
        self.waiting -= packets;
        self.settled[fate as usize] += packets;
    }
}

//------------ Message -----------------------------------------------------------------------------------------

/// A DNS message, without the length in front of it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    pub octets: &'a [u8],
    /// When the earliest of the segments came that brought its octets.
    pub begun: Timestamp,
    /// When the latest of them came.
    pub completed: Timestamp,
}

//------------ Streams -----------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    destination_port: u16,
}

impl Key {
    fn message<'a>(&self, octets: &'a [u8], span: Span) -> Message<'a> {
        Message {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            octets,
            begun: span.first,
            completed: span.last,
        }
    }
}

/// All streams that are followed.
pub struct Streams {
    table: Lru<Key, Stream>,
    streams_max: usize,
    octets_max: usize,
    /// What waits in all streams takes so many octets.
    octets: usize,
    tally: Tally,
    evicted: u64,
}

impl Default for Streams {
    fn default() -> Self {
        Streams::new(STREAMS_MAX, STREAMS_OCTETS_MAX)
    }
}

impl Streams {
    /// Follows up to `streams_max` streams, with up to `octets_max` octets waiting in all of them.
    pub fn new(streams_max: usize, octets_max: usize) -> Self {
        Streams {
            table: Lru::default(),
            streams_max,
            octets_max,
            octets: 0,
            tally: Tally::default(),
            evicted: 0,
        }
    }

    /// Takes in a segment that was captured at `time` in so many packets, and hands out the messages that are
    /// whole now.
    ///
    /// The fate may change later if it is [`Fate::Waiting`]; the fates of earlier segments may have changed now.
    pub fn take(
        &mut self,
        segment: &Segment<'_>,
        time: Timestamp,
        packets: u64,
        mut deliver: impl FnMut(&Message<'_>),
    ) -> Fate {
        let key = Key {
            source: segment.source,
            destination: segment.destination,
            source_port: segment.source_port,
            destination_port: segment.destination_port,
        };
        let sequence = segment.data_sequence();
        let place = match self.table.find(&key) {
            Some(place) => place,
            None => {
                let side = Side::of(key.source_port, key.destination_port);
                if !segment.syn {
                    if segment.data.is_empty() || segment.rst {
                        return self.tally.count(Fate::FilteredNoData, packets);
                    }
                    if !side.may_begin_with(segment.data) {
                        return self.tally.count(Fate::RejectedOutOfStep, packets);
                    }
                }
                self.table.insert(key, Stream::new(sequence, side))
            }
        };
        let Streams { table, tally, octets, .. } = self;
        let (key, stream) = table.at(place);
        let before = stream.cost();
        let emit = &mut |octets: &[u8], span: Span| deliver(&key.message(octets, span));
        stream.touched = time;
        if segment.syn && stream.start != sequence {
            stream.close(Fate::LostUnfinished, tally, emit);
            *stream = Stream::new(sequence, Side::of(key.source_port, key.destination_port));
            stream.touched = time;
        }
        let fate = if segment.rst {
            stream.reset_at(segment.sequence, tally);
            tally.count(Fate::FilteredNoData, packets)
        } else if segment.data.is_empty() {
            tally.count(Fate::FilteredNoData, packets)
        } else {
            stream.take(&Chunk { sequence, octets: segment.data, time, packets }, tally, emit)
        };
        let end = segment.fin.then(|| sequence.wrapping_add(segment.data.len() as u32));
        let fate = match stream.has_ended(end, tally) {
            true if fate == Fate::Waiting => Fate::LostUnfinished,
            _ => fate,
        };
        *octets = *octets + stream.cost() - before;
        self.make_room();
        fate
    }

    /// Forgets the streams that have been silent too long at the time `now`, and hands out the whole messages that
    /// waited behind gaps in them.
    pub fn expire(&mut self, now: Timestamp, mut deliver: impl FnMut(&Message<'_>)) {
        while self.table.oldest().is_some_and(|(_, stream)| now.apart(stream.touched) > STREAM_IDLE) {
            self.close_oldest(&mut deliver);
        }
    }

    /// Forgets all streams, and hands out the whole messages that waited behind gaps in them.
    pub fn finish(&mut self, mut deliver: impl FnMut(&Message<'_>)) {
        while !self.table.is_empty() {
            self.close_oldest(&mut deliver);
        }
    }

    /// Packets of that fate so far.
    pub fn settled(&self, fate: Fate) -> u64 {
        match fate {
            Fate::Waiting => self.tally.waiting,
            fate => self.tally.settled[fate as usize],
        }
    }

    /// Packets some of whose octets are in no message yet.
    pub fn waiting(&self) -> u64 {
        self.tally.waiting
    }

    /// Streams that had to leave to make room; what waited in them counts as [`Fate::LostNoRoom`].
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Streams that are followed now.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn close_oldest(&mut self, deliver: &mut impl FnMut(&Message<'_>)) {
        if let Some((key, mut stream)) = self.table.pop_oldest() {
            self.octets -= stream.cost();
            let emit = &mut |octets: &[u8], span: Span| deliver(&key.message(octets, span));
            stream.close(Fate::LostUnfinished, &mut self.tally, emit);
        }
    }

    fn make_room(&mut self) {
        while self.table.len() > self.streams_max || self.octets > self.octets_max {
            let Some((_, mut stream)) = self.table.pop_oldest() else { return };
            self.octets -= stream.cost();
            stream.release(Fate::LostNoRoom, &mut self.tally);
            self.evicted += 1;
        }
    }
}

#[cfg(test)]
mod tests;
