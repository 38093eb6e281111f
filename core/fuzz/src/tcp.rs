//! Streams of TCP: from segments in any order to messages.
//!
//! The first octet says what follows: segments as somebody might send them, or messages and the way in which an
//! honest sender's segments were cut, repeated and put out of order.
//!
//! Permitted outcomes of any segments:
//!
//! * every packet has one fate, and after each segment the fates add up to the packets;
//! * a message is no longer than its length can say, and begun before it was completed;
//! * as many streams as are allowed, and as many octets, a stream's own size aside; none is left in the end, and
//!   nothing waits.
//!
//! Of an honest sender's segments, of which none is missing: its messages, each once and in order, whatever the
//! order of the segments behind SYN, and no other fate than passed, retransmitted or without data.

use std::net::{IpAddr, Ipv4Addr};

use passive_dns::frame::Timestamp;
use passive_dns::limits::STREAM_PIECES_MAX;
use passive_dns::tcp::{Fate, Segment, Streams};

use crate::input::Input;
use crate::memory::bounded;

const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

const STREAMS_MAX: usize = 4;
const OCTETS_MAX: usize = 1 << 16;

/// What waits is bounded, but one segment may come on top, cut into pieces, and be copied once more as a message
/// grows; a table of four streams takes a few KiB.
const MEMORY: usize = 4 * (OCTETS_MAX + (1 << 16)) + (1 << 16);

pub fn check(octets: &[u8]) {
    let mut input = Input::new(octets);
    match input.octet() % 2 {
        0 => bounded(MEMORY, || check_any(&mut input)),
        _ => check_honest(&mut input),
    }
}

fn check_any(input: &mut Input<'_>) {
    let mut streams = Streams::new(STREAMS_MAX, OCTETS_MAX);
    let mut seconds = 1_700_000_000;
    let mut packets = 0;
    while !input.is_empty() {
        let (flags, state) = (input.octet(), input.octet());
        seconds += u32::from(state & 0x0f);
        // Sixteen octets a step, so that a window is within reach, and the wrap-around is near.
        let sequence = (u32::MAX - 0x4000).wrapping_add(u32::from(input.number()) * 16);
        let from_server = state & 0x10 != 0;
        let (source, destination) = if from_server { (SERVER, RESOLVER) } else { (RESOLVER, SERVER) };
        let port = 50_000 + u16::from(state >> 5);
        let (source_port, destination_port) = if from_server { (53, port) } else { (port, 53) };
        let segment = Segment {
            source,
            destination,
            source_port,
            destination_port,
            sequence: sequence.wrapping_add(u32::from(flags >> 4)),
            syn: flags & 1 != 0,
            fin: flags & 2 != 0,
            rst: flags & 4 != 0,
            data: input.chunk(),
        };
        let came_in = 1 + u64::from(flags >> 3 & 1);
        packets += came_in;
        let time = Timestamp::new(seconds, 0);
        streams.take(&segment, time, came_in, |message| {
            assert!(message.octets.len() <= usize::from(u16::MAX));
            assert!(message.begun <= message.completed && message.completed <= time);
        });
        assert!(streams.len() <= STREAMS_MAX);
        assert_ledger(&streams, packets);
        if state == 0xff {
            streams.expire(time, |_| {});
            assert_ledger(&streams, packets);
        }
    }
    streams.finish(|_| {});
    assert_ledger(&streams, packets);
    assert!(streams.is_empty() && streams.waiting() == 0);
}

fn assert_ledger(streams: &Streams, packets: u64) {
    let settled: u64 = Fate::SETTLED.iter().map(|fate| streams.settled(*fate)).sum();
    assert_eq!(settled + streams.waiting(), packets);
}

fn check_honest(input: &mut Input<'_>) {
    let (messages, stream) = messages(input);
    let start = u32::from(input.number()).wrapping_sub(0x8000);
    let mut segments = cut(&stream, input);
    let whole = segments.len();
    // Each number puts a segment elsewhere, or repeats it there.
    while !input.is_empty() && segments.len() < 2 * whole {
        let (from, to) = (usize::from(input.octet()) % segments.len(), usize::from(input.octet()));
        let moved = if to & 0x80 != 0 { segments[from] } else { segments.remove(from) };
        segments.insert((to & 0x7f) % (segments.len() + 1), moved);
    }
    let time = Timestamp::new(1_700_000_000, 0);
    let segment = |sequence: u32, syn: bool, data| Segment {
        source: RESOLVER,
        destination: SERVER,
        source_port: 50_000,
        destination_port: 53,
        sequence,
        syn,
        fin: false,
        rst: false,
        data,
    };
    let mut streams = Streams::default();
    let mut delivered = Vec::new();
    streams.take(&segment(start.wrapping_sub(1), true, &[]), time, 1, |_| {});
    for (offset, data) in &segments {
        let segment = segment(start.wrapping_add(*offset as u32), false, data);
        streams.take(&segment, time, 1, |message| delivered.push(message.octets.to_vec()));
    }
    assert_eq!(delivered, messages);
    let fates = [Fate::Passed, Fate::FilteredNoData, Fate::FilteredRetransmitted];
    let taken: u64 = fates.iter().map(|fate| streams.settled(*fate)).sum();
    assert_eq!(taken, segments.len() as u64 + 1);
}

/// Up to 64 KiB of messages, and the stream that they make.
fn messages<'a>(input: &mut Input<'a>) -> (Vec<&'a [u8]>, Vec<u8>) {
    let mut messages = Vec::new();
    let mut stream = Vec::new();
    for _ in 0..input.octet() % 8 {
        let message = input.chunk();
        messages.push(message);
        stream.extend((message.len() as u16).to_be_bytes());
        stream.extend(message);
    }
    (messages, stream)
}

/// The stream in pieces whose lengths the input says, each with its offset; some reach into the next one.
fn cut<'a>(stream: &'a [u8], input: &mut Input<'_>) -> Vec<(usize, &'a [u8])> {
    let mut segments = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        // Repeated ones included, never more than may wait behind a gap.
        let length = match segments.len() + 1 {
            count if 2 * count >= STREAM_PIECES_MAX => stream.len() - at,
            _ => 1 + usize::from(input.number()) % 2048,
        };
        let end = stream.len().min(at + length);
        let overlap = usize::from(input.octet() & 7);
        segments.push((at, &stream[at..stream.len().min(end + overlap)]));
        at = end;
    }
    segments.push((stream.len(), &[]));
    segments
}
