//! One direction of one connection: from octets in any order to messages.
//!
//! A stream is described by sequence numbers alone. `base` is that of the first octet which no message has taken;
//! everything else is an offset from it, so that the wrap-around of sequence numbers has one place,
//! [`Stream::offset`].

use std::collections::VecDeque;
use std::ops::Range;

use crate::dns::{DNS_PORT, HEADER_OCTETS, Header, Question};
use crate::frame::Timestamp;
use crate::limits::{STREAM_GAP, STREAM_PIECES_MAX, STREAM_WINDOW_OCTETS};
use crate::tcp::{Fate, Tally};

/// The length in front of each message (RFC 1035 section 4.2.2).
pub const LENGTH_OCTETS: usize = 2;

/// An offset no further than this, ahead or behind, belongs to the stream.
const WINDOW: i64 = STREAM_WINDOW_OCTETS as i64;

/// IN, CH, HS, NONE and ANY: the classes that a question may have.
const CLASSES: [u16; 5] = [1, 3, 4, 254, 255];

//------------ Side --------------------------------------------------------------------------------------------

/// Whose messages a stream carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    Client,
    Server,
    /// Both ports are those of DNS.
    Either,
}

impl Side {
    pub(super) fn of(source_port: u16, destination_port: u16) -> Self {
        match (source_port == DNS_PORT, destination_port == DNS_PORT) {
            (true, true) => Side::Either,
            (true, false) => Side::Server,
            (false, _) => Side::Client,
        }
    }

    /// Whether a stream that nothing is known of may be taken to have a message begin here: a length, and a header
    /// and a question as this side sends them.
    pub(super) fn may_begin_with(self, octets: &[u8]) -> bool {
        let Some((length, rest)) = octets.split_first_chunk::<LENGTH_OCTETS>() else {
            return false;
        };
        let length = usize::from(u16::from_be_bytes(*length));
        let message = &rest[..rest.len().min(length)];
        let Some(header) = Header::parse(message) else {
            return false;
        };
        let side_fits = match self {
            Side::Client => !header.is_response() && header.counts[1] == 0,
            Side::Server => header.is_response(),
            Side::Either => true,
        };
        side_fits
            && message.len() > HEADER_OCTETS
            && matches!(Question::of_message(&header, message), Ok(Some(question)) if CLASSES.contains(&question.class))
    }
}

//------------ Chunk -------------------------------------------------------------------------------------------

/// Octets of a stream in the order of their sequence numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk<'a> {
    pub(super) sequence: u32,
    pub(super) octets: &'a [u8],
    pub(super) time: Timestamp,
    /// The packets whose outcome is known once the chunk's last octet is in a message.
    pub(super) packets: u64,
}

impl<'a> Chunk<'a> {
    /// Without its first octets.
    fn behind(&self, octets: usize) -> Chunk<'a> {
        Chunk { sequence: self.sequence.wrapping_add(octets as u32), octets: &self.octets[octets..], ..*self }
    }
}

/// A chunk that waits behind a gap.
#[derive(Debug)]
struct Piece {
    sequence: u32,
    octets: Box<[u8]>,
    time: Timestamp,
    packets: u64,
}

impl Piece {
    /// What it takes of the memory that is allowed.
    fn cost(&self) -> usize {
        self.octets.len() + size_of::<Piece>()
    }
}

/// When the octets of something came, the first and the last of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

impl Span {
    fn at(time: Timestamp) -> Self {
        Span { first: time, last: time }
    }

    fn with(self, time: Timestamp) -> Self {
        Span { first: self.first.min(time), last: self.last.max(time) }
    }
}

/// The beginning of a message, its length included.
#[derive(Debug, Default)]
struct Partial {
    octets: Vec<u8>,
    span: Span,
    packets: u64,
}

impl Partial {
    /// The octets that are missing, as far as can be told: of the length, or else of the message.
    fn missing(&self) -> usize {
        let whole = match self.octets.first_chunk::<LENGTH_OCTETS>() {
            Some(length) => LENGTH_OCTETS + usize::from(u16::from_be_bytes(*length)),
            None => LENGTH_OCTETS,
        };
        whole - self.octets.len()
    }
}

//------------ Stream ------------------------------------------------------------------------------------------

#[derive(Debug)]
pub(super) struct Stream {
    /// Where it began, or was picked up.
    pub(super) start: u32,
    pub(super) touched: Timestamp,
    side: Side,
    /// Whether a message is known to begin at `base`.
    in_step: bool,
    base: u32,
    /// The sequence number of FIN.
    end: Option<u32>,
    partial: Partial,
    /// In order, without overlaps; none begins where `partial` ends.
    ahead: VecDeque<Piece>,
    ahead_cost: usize,
    /// When the gap in front of `ahead` became known.
    gap_since: Timestamp,
}

impl Stream {
    /// A stream whose first message begins at `start`.
    pub(super) fn new(start: u32, side: Side) -> Self {
        Stream {
            start,
            touched: Timestamp::default(),
            side,
            in_step: true,
            base: start,
            end: None,
            partial: Partial::default(),
            ahead: VecDeque::new(),
            ahead_cost: 0,
            gap_since: Timestamp::default(),
        }
    }

    /// The memory that its waiting octets take.
    pub(super) fn cost(&self) -> usize {
        self.partial.octets.capacity() + self.ahead_cost
    }

    /// Takes in a segment's data and hands out the messages that are whole now.
    pub(super) fn take(
        &mut self,
        chunk: &Chunk<'_>,
        tally: &mut Tally,
        emit: &mut impl FnMut(&[u8], Span),
    ) -> Fate {
        let overdue = chunk.time.apart(self.gap_since) > STREAM_GAP;
        if !self.ahead.is_empty() && (overdue || self.ahead.len() >= STREAM_PIECES_MAX) {
            self.skip_gap(tally, emit);
            self.gap_since = chunk.time;
        }
        let begin = self.offset(chunk.sequence);
        let end = begin + chunk.octets.len() as i64;
        let within = begin >= -WINDOW && end <= WINDOW;
        if !within || (!self.in_step && end > 0) {
            if !self.side.may_begin_with(chunk.octets) {
                return tally.count(Fate::RejectedOutOfStep, chunk.packets);
            }
            self.close(Fate::LostGap, tally, emit);
            *self = Stream { touched: self.touched, ..Stream::new(chunk.sequence, self.side) };
        }
        let known = usize::try_from(-self.offset(chunk.sequence)).unwrap_or(0);
        if known >= chunk.octets.len() {
            return tally.count(Fate::FilteredRetransmitted, chunk.packets);
        }
        self.take_new(&chunk.behind(known), tally, emit)
    }

    /// Takes in a chunk that begins at `base` or behind it, within the window.
    fn take_new(&mut self, chunk: &Chunk<'_>, tally: &mut Tally, emit: &mut impl FnMut(&[u8], Span)) -> Fate {
        if !self.agrees_with(chunk) {
            return tally.count(Fate::RejectedOverlap, chunk.packets);
        }
        let fresh = self.fresh_of(chunk);
        let Some(last) = fresh.last() else {
            return tally.count(Fate::FilteredRetransmitted, chunk.packets);
        };
        let reached = chunk.sequence.wrapping_add(last.end as u32);
        tally.accept(chunk.packets);
        let (joined, had_gap) = (self.joined(), !self.ahead.is_empty());
        for (number, range) in fresh.iter().enumerate() {
            let packets = if number + 1 == fresh.len() { chunk.packets } else { 0 };
            let part = Chunk { octets: &chunk.octets[..range.end], packets, ..*chunk }.behind(range.start);
            if part.sequence == self.joined() {
                self.advance(&part, tally, emit);
                self.join(tally, emit);
            } else {
                self.hold(&part);
            }
        }
        if !had_gap || self.joined() != joined {
            self.gap_since = chunk.time;
        }
        if self.offset(reached) <= 0 { Fate::Passed } else { Fate::Waiting }
    }

    /// Notes where the stream ends, if that is told. True if it has ended: what still waited is lost.
    pub(super) fn has_ended(&mut self, end: Option<u32>, tally: &mut Tally) -> bool {
        self.end = end.filter(|end| (0..=WINDOW).contains(&self.offset(*end))).or(self.end);
        let ended = self.end == Some(self.joined());
        if ended {
            self.release(Fate::LostUnfinished, tally);
        }
        ended
    }

    /// Takes a reset: it counts at the place where the stream is, or while nothing waits.
    pub(super) fn reset_at(&mut self, sequence: u32, tally: &mut Tally) {
        if self.ahead.is_empty() && (self.partial.octets.is_empty() || self.joined() == sequence) {
            self.release(Fate::LostUnfinished, tally);
        }
    }

    /// Gives up on every gap, hands out what is whole behind them, and on the message in progress.
    pub(super) fn close(&mut self, fate: Fate, tally: &mut Tally, emit: &mut impl FnMut(&[u8], Span)) {
        while !self.ahead.is_empty() {
            self.skip_gap(tally, emit);
        }
        self.release(fate, tally);
    }

    /// Lets go of everything that waits.
    pub(super) fn release(&mut self, fate: Fate, tally: &mut Tally) {
        let waiting = self.partial.packets + self.ahead.iter().map(|piece| piece.packets).sum::<u64>();
        tally.settle(fate, waiting);
        self.base = self.joined();
        self.partial = Partial::default();
        self.ahead = VecDeque::new();
        self.ahead_cost = 0;
        self.end = None;
        self.in_step = false;
    }

    //--- Places

    /// How far a sequence number is from `base`.
    fn offset(&self, sequence: u32) -> i64 {
        i64::from(sequence.wrapping_sub(self.base) as i32)
    }

    /// The sequence number up to which nothing is missing.
    fn joined(&self) -> u32 {
        self.base.wrapping_add(self.partial.octets.len() as u32)
    }

    /// Where a piece lies, as seen from the beginning of a chunk; both are within the window.
    fn place(chunk: &Chunk<'_>, sequence: u32, octets: usize) -> Range<i64> {
        let begin = i64::from(sequence.wrapping_sub(chunk.sequence) as i32);
        begin..begin + octets as i64
    }

    /// What the chunk overlaps of octets that wait, and where in the chunk.
    fn held<'s>(&'s self, chunk: &Chunk<'_>) -> impl Iterator<Item = (Range<usize>, &'s [u8])> {
        let pieces = self.ahead.iter().map(|piece| (piece.sequence, &piece.octets[..]));
        let length = chunk.octets.len() as i64;
        let chunk = Chunk { octets: &[], ..*chunk };
        std::iter::once((self.base, &self.partial.octets[..])).chain(pieces).filter_map(
            move |(sequence, octets)| {
                let place = Self::place(&chunk, sequence, octets.len());
                let common = place.start.max(0)..place.end.min(length);
                if common.is_empty() {
                    return None;
                }
                let range = |from: i64| (common.start - from) as usize..(common.end - from) as usize;
                Some((range(0), &octets[range(place.start)]))
            },
        )
    }

    /// Whether the chunk repeats what is there already to the letter.
    fn agrees_with(&self, chunk: &Chunk<'_>) -> bool {
        self.held(chunk).all(|(range, octets)| chunk.octets[range] == *octets)
    }

    /// What the chunk brings that is not there yet, in order.
    fn fresh_of(&self, chunk: &Chunk<'_>) -> Fresh {
        let length = chunk.octets.len();
        if self.ahead.is_empty() {
            let known = usize::try_from(Self::place(chunk, self.joined(), 0).start).unwrap_or(0);
            return if known < length { Fresh::One(known..length) } else { Fresh::Many(Vec::new()) };
        }
        let mut fresh = Vec::new();
        let mut at = 0;
        for (range, _) in self.held(chunk) {
            if at < range.start {
                fresh.push(at..range.start);
            }
            at = range.end;
        }
        if at < length {
            fresh.push(at..length);
        }
        Fresh::Many(fresh)
    }

    //--- Octets

    /// Takes in the octets that come next.
    fn advance(&mut self, chunk: &Chunk<'_>, tally: &mut Tally, emit: &mut impl FnMut(&[u8], Span)) {
        let mut rest = chunk.octets;
        if !self.partial.octets.is_empty() {
            let partial = &mut self.partial;
            partial.span = partial.span.with(chunk.time);
            while partial.missing() > 0 && !rest.is_empty() {
                let taken = rest.split_off(..partial.missing().min(rest.len())).unwrap_or_default();
                partial.octets.extend_from_slice(taken);
            }
            if partial.missing() > 0 {
                partial.packets += chunk.packets;
                return;
            }
            self.base = self.base.wrapping_add(partial.octets.len() as u32);
            let whole = std::mem::take(partial);
            tally.settle(Fate::Passed, whole.packets);
            emit(&whole.octets[LENGTH_OCTETS..], whole.span);
        }
        let span = Span::at(chunk.time);
        while let Some((message, behind)) = split_message(rest) {
            self.base = self.base.wrapping_add((rest.len() - behind.len()) as u32);
            rest = behind;
            emit(message, span);
        }
        if rest.is_empty() {
            tally.settle(Fate::Passed, chunk.packets);
        } else {
            self.partial = Partial { octets: rest.to_vec(), span, packets: chunk.packets };
        }
    }

    /// Takes in the pieces that no gap is in front of any more.
    fn join(&mut self, tally: &mut Tally, emit: &mut impl FnMut(&[u8], Span)) {
        while self.ahead.front().is_some_and(|piece| piece.sequence == self.joined()) {
            if let Some(piece) = self.pop_piece() {
                self.advance(&piece.chunk(), tally, emit);
            }
        }
    }

    /// Lets a chunk wait behind a gap.
    fn hold(&mut self, chunk: &Chunk<'_>) {
        let offset = self.offset(chunk.sequence);
        let place = self.ahead.partition_point(|piece| self.offset(piece.sequence) < offset);
        let piece = Piece {
            sequence: chunk.sequence,
            octets: chunk.octets.into(),
            time: chunk.time,
            packets: chunk.packets,
        };
        self.ahead_cost += piece.cost();
        self.ahead.insert(place, piece);
    }

    fn pop_piece(&mut self) -> Option<Piece> {
        let piece = self.ahead.pop_front()?;
        self.ahead_cost -= piece.cost();
        Some(piece)
    }

    /// Gives up on the octets that are missing, and goes on with the first piece that begins like a message.
    fn skip_gap(&mut self, tally: &mut Tally, emit: &mut impl FnMut(&[u8], Span)) {
        let unfinished = std::mem::take(&mut self.partial);
        tally.settle(Fate::LostGap, unfinished.packets);
        self.in_step = false;
        while let Some(piece) = self.pop_piece() {
            self.base = piece.sequence;
            if self.side.may_begin_with(&piece.octets) {
                self.in_step = true;
                self.advance(&piece.chunk(), tally, emit);
                self.join(tally, emit);
                return;
            }
            self.base = self.base.wrapping_add(piece.octets.len() as u32);
            tally.settle(Fate::LostGap, piece.packets);
        }
    }
}

impl Piece {
    fn chunk(&self) -> Chunk<'_> {
        Chunk { sequence: self.sequence, octets: &self.octets, time: self.time, packets: self.packets }
    }
}

/// Ranges of a chunk; one of them, as a rule, and then without an allocation.
enum Fresh {
    One(Range<usize>),
    Many(Vec<Range<usize>>),
}

impl std::ops::Deref for Fresh {
    type Target = [Range<usize>];

    fn deref(&self) -> &[Range<usize>] {
        match self {
            Fresh::One(one) => std::slice::from_ref(one),
            Fresh::Many(many) => many,
        }
    }
}

/// The message that the octets begin with, if it is whole, and what is behind it.
fn split_message(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = octets.split_first_chunk::<LENGTH_OCTETS>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
