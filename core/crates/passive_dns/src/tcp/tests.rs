use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limits::{STREAM_GAP, STREAM_PIECES_MAX, STREAM_WINDOW_OCTETS};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// A query with so many octets behind its question.
fn query(id: u16, tail: usize) -> Vec<u8> {
    let mut message = vec![0; 2];
    message[..2].copy_from_slice(&id.to_be_bytes());
    message.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(b"\x07example\0\0\x01\0\x01");
    message.extend((0..tail).map(|number| number as u8));
    message
}

/// With its length in front of it.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut octets = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    octets.extend(message);
    octets
}

fn segment(sequence: u32, data: &[u8]) -> Segment<'_> {
    Segment {
        source: CLIENT,
        destination: SERVER,
        source_port: 50_000,
        destination_port: 53,
        sequence,
        syn: false,
        fin: false,
        rst: false,
        data,
    }
}

fn syn(sequence: u32) -> Segment<'static> {
    Segment { syn: true, ..segment(sequence, b"") }
}

fn at(milliseconds: u64) -> Timestamp {
    Timestamp::from_unix(Duration::from_millis(1_700_000_000_000 + milliseconds))
}

/// Streams, the messages that came out of them, and their times.
#[derive(Default)]
struct Bench {
    streams: Streams,
    taken: u64,
    messages: Vec<Vec<u8>>,
    times: Vec<(Timestamp, Timestamp)>,
}

impl Bench {
    fn with(streams_max: usize, octets_max: usize) -> Self {
        Bench { streams: Streams::new(streams_max, octets_max), ..Bench::default() }
    }

    fn take(&mut self, time: Timestamp, segment: Segment<'_>) -> Fate {
        self.taken += 1;
        let Bench { streams, messages, times, .. } = self;
        let fate = streams.take(&segment, time, 1, |message| {
            messages.push(message.octets.to_vec());
            times.push((message.begun, message.completed));
        });
        self.check();
        fate
    }

    fn finish(&mut self) {
        let Bench { streams, messages, .. } = self;
        streams.finish(|message| messages.push(message.octets.to_vec()));
        self.check();
        assert_eq!((self.streams.waiting(), self.streams.octets), (0, 0));
    }

    /// Every packet has one fate, and the octets that wait are all counted.
    fn check(&mut self) {
        let settled: u64 = Fate::SETTLED.iter().map(|fate| self.streams.settled(*fate)).sum();
        assert_eq!(self.taken, settled + self.streams.waiting());
        assert!(self.streams.octets <= self.streams.octets_max);
        assert!(self.streams.len() <= self.streams.streams_max);
    }

    fn settled(&self, fate: Fate) -> u64 {
        self.streams.settled(fate)
    }
}

#[test]
fn a_message_in_one_segment_is_handed_out_where_it_is() {
    let mut streams = Streams::default();
    let data = framed(&query(1, 20));
    streams.take(&syn(9), at(0), 1, |_| panic!("no message yet"));
    let mut seen = None;
    let fate = streams.take(&segment(10, &data), at(5), 1, |message| {
        assert_eq!((message.source, message.destination), (CLIENT, SERVER));
        assert_eq!((message.source_port, message.destination_port), (50_000, 53));
        assert_eq!((message.begun, message.completed), (at(5), at(5)));
        seen = Some(message.octets.as_ptr_range());
    });
    assert_eq!((fate, seen), (Fate::Passed, Some(data[2..].as_ptr_range())));
    assert_eq!(streams.octets, 0);
}

#[test]
fn several_messages_in_one_segment_and_one_in_several() {
    let mut bench = Bench::default();
    let messages = [query(1, 0), query(2, 1000), query(3, 7)];
    let data: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
    bench.take(at(0), syn(0));
    assert_eq!(bench.take(at(1), segment(1, &data[..50])), Fate::Waiting);
    assert_eq!(bench.messages.len(), 1);
    assert_eq!(bench.take(at(2), segment(51, &data[50..600])), Fate::Waiting);
    assert_eq!(bench.take(at(3), segment(601, &data[600..])), Fate::Passed);
    assert_eq!(bench.messages, messages);
    assert_eq!(bench.times, [(at(1), at(1)), (at(1), at(3)), (at(3), at(3))]);
    assert_eq!((bench.settled(Fate::Passed), bench.streams.waiting()), (3, 0));
}

#[test]
fn the_largest_message_and_the_smallest() {
    let mut bench = Bench::default();
    let largest = query(1, 65_535 - query(1, 0).len());
    let mut data = framed(&largest);
    data.extend(framed(b""));
    data.extend(framed(b"x"));
    bench.take(at(0), syn(u32::MAX - 100));
    for (number, part) in data.chunks(1448).enumerate() {
        let sequence = (u32::MAX - 99).wrapping_add(1448 * number as u32);
        bench.take(at(1), segment(sequence, part));
    }
    assert_eq!(bench.messages, [largest, b"".to_vec(), b"x".to_vec()]);
}

#[test]
fn what_is_sent_again_is_not_read_again() {
    let mut bench = Bench::default();
    let data = framed(&query(1, 0));
    bench.take(at(0), syn(0));
    assert_eq!(bench.take(at(0), Segment { fin: true, ..segment(1, &data) }), Fate::Passed);
    assert_eq!(bench.take(at(300), Segment { fin: true, ..segment(1, &data) }), Fate::FilteredRetransmitted);
    assert_eq!(bench.take(at(400), syn(0)), Fate::FilteredNoData);
    assert_eq!(bench.take(at(500), segment(1, &data)), Fate::FilteredRetransmitted);
    assert_eq!(bench.messages.len(), 1);
}

#[test]
fn a_segment_behind_a_gap_waits_for_what_is_missing() {
    let mut bench = Bench::default();
    let data = [framed(&query(1, 0)), framed(&query(2, 0))].concat();
    bench.take(at(0), syn(0));
    assert_eq!(bench.take(at(1), segment(21, &data[20..])), Fate::Waiting);
    assert_eq!(bench.take(at(2), segment(21, &data[20..])), Fate::FilteredRetransmitted);
    assert_eq!(bench.take(at(3), segment(1, &data[..20])), Fate::Passed);
    assert_eq!(bench.messages, [query(1, 0), query(2, 0)]);
    assert_eq!(bench.times, [(at(1), at(3)), (at(1), at(1))]);
}

#[test]
fn a_segment_may_fill_several_gaps_at_once() {
    let mut bench = Bench::default();
    let data: Vec<u8> = (0..4).flat_map(|id| framed(&query(id, 0))).collect();
    bench.take(at(0), syn(0));
    for place in [10, 40, 70] {
        assert_eq!(bench.take(at(1), segment(1 + place, &data[place as usize..][..8])), Fate::Waiting);
    }
    assert_eq!(bench.take(at(2), segment(1, &data)), Fate::Passed);
    assert_eq!(bench.messages.len(), 4);
    assert_eq!(bench.settled(Fate::Passed), 4);
}

#[test]
fn the_first_data_wins() {
    let mut bench = Bench::default();
    let data = framed(&query(1, 30));
    let mut other = data.clone();
    other[35] ^= 0x20;
    bench.take(at(0), syn(0));
    bench.take(at(1), segment(1, &data[..40]));
    assert_eq!(bench.take(at(2), segment(1, &other)), Fate::RejectedOverlap);
    bench.take(at(3), segment(51, &data[50..55]));
    other[52] ^= 1;
    assert_eq!(bench.take(at(4), segment(46, &other[45..])), Fate::RejectedOverlap);
    assert_eq!(bench.take(at(5), segment(21, &data[20..])), Fate::Passed);
    assert_eq!(bench.messages, [query(1, 30)]);
}

#[test]
fn data_may_come_with_syn() {
    let mut bench = Bench::default();
    let data = framed(&query(1, 0));
    assert_eq!(bench.take(at(0), Segment { syn: true, ..segment(99, &data) }), Fate::Passed);
    // A server that does not take it has it sent again behind the handshake (RFC 7413 section 4.2).
    assert_eq!(bench.take(at(1), segment(100, &data)), Fate::FilteredRetransmitted);
    assert_eq!(bench.messages, [query(1, 0)]);
}

#[test]
fn an_unknown_stream_is_picked_up_where_a_message_begins() {
    let mut bench = Bench::default();
    let data = [framed(&query(1, 60)), framed(&query(2, 0))].concat();
    assert_eq!(bench.take(at(0), segment(1, b"")), Fate::FilteredNoData);
    assert_eq!(bench.take(at(1), segment(1, &data[10..])), Fate::RejectedOutOfStep);
    assert!(bench.streams.is_empty());
    assert_eq!(bench.take(at(2), segment(1, &data[..50])), Fate::Waiting);
    assert_eq!(bench.take(at(3), segment(51, &data[50..])), Fate::Passed);
    assert_eq!(bench.messages.len(), 2);
}

#[test]
fn a_stream_is_picked_up_only_with_messages_of_its_side() {
    let mut response = query(1, 0);
    response[2] = 0x80;
    let (asked, answered) = (framed(&query(1, 0)), framed(&response));
    for (ports, takes_query, takes_response) in
        [((50_000, 53), true, false), ((53, 50_000), false, true), ((53, 53), true, true)]
    {
        for (data, taken) in [(&asked, takes_query), (&answered, takes_response)] {
            let mut bench = Bench::default();
            let segment = Segment { source_port: ports.0, destination_port: ports.1, ..segment(1, data) };
            let fate = if taken { Fate::Passed } else { Fate::RejectedOutOfStep };
            assert_eq!(bench.take(at(0), segment), fate, "{ports:?}");
        }
    }
}

#[test]
fn an_old_gap_is_given_up() {
    let mut bench = Bench::default();
    let messages: Vec<Vec<u8>> = (0..6).map(|id| framed(&query(id, 0))).collect();
    let length = messages[0].len() as u32;
    bench.take(at(0), syn(u32::MAX));
    let patience = STREAM_GAP.as_millis() as u64;
    // The beginning of message 0 waits for the end of it; message 1 is split, 2 and 3 are whole.
    assert_eq!(bench.take(at(0), segment(0, &messages[0][..9])), Fate::Waiting);
    assert_eq!(bench.take(at(1), segment(length + 5, &messages[1][5..])), Fate::Waiting);
    assert_eq!(bench.take(at(2), segment(2 * length, &messages[2])), Fate::Waiting);
    assert_eq!(bench.take(at(patience + 1), segment(3 * length, &messages[3])), Fate::Waiting);
    assert!(bench.messages.is_empty());
    assert_eq!(bench.take(at(patience + 2), segment(4 * length, &messages[4])), Fate::Passed);
    assert_eq!(bench.messages, [query(2, 0), query(3, 0), query(4, 0)]);
    assert_eq!((bench.settled(Fate::LostGap), bench.settled(Fate::Passed)), (2, 3));
    assert_eq!(bench.take(at(patience + 3), segment(5 * length, &messages[5])), Fate::Passed);
}

#[test]
fn what_came_before_the_clock_was_set_back_keeps_nothing_waiting() {
    let hour = 3_600_000;
    let messages: Vec<Vec<u8>> = (0..3).map(|id| framed(&query(id, 0))).collect();
    let length = messages[0].len() as u32;
    let mut bench = Bench::default();
    bench.take(at(2 * hour), syn(0));
    assert_eq!(bench.take(at(2 * hour), segment(1 + length, &messages[1])), Fate::Waiting);
    // The gap is as old as it would be without the step, for all that is known: it is not waited for.
    assert_eq!(bench.take(at(hour), segment(1 + 2 * length, &messages[2])), Fate::Passed);
    assert_eq!(bench.messages, [query(1, 0), query(2, 0)]);
    assert_eq!(bench.take(at(hour), segment(1 + 3 * length, &messages[0][..5])), Fate::Waiting);
    bench.streams.expire(at(0), |_| panic!("no message is whole"));
    bench.check();
    assert!(bench.streams.is_empty());
    assert_eq!(bench.settled(Fate::LostUnfinished), 1);
}

#[test]
fn silence_ends_a_stream_and_frees_what_waits_behind_gaps() {
    let mut bench = Bench::default();
    let data = framed(&query(7, 0));
    bench.take(at(0), syn(0));
    bench.take(at(1), segment(1, &data[..5]));
    bench.take(at(2), segment(100, &data));
    bench.take(at(2), segment(100 + data.len() as u32, &data[..5]));
    let idle = STREAM_IDLE.as_millis() as u64;
    let Bench { streams, messages, .. } = &mut bench;
    streams.expire(at(2 + idle), |_| panic!("too early"));
    streams.expire(at(3 + idle), |message| messages.push(message.octets.to_vec()));
    bench.check();
    assert_eq!(bench.messages, [query(7, 0)]);
    assert!(bench.streams.is_empty());
    assert_eq!((bench.settled(Fate::LostGap), bench.settled(Fate::LostUnfinished)), (1, 1));
}

#[test]
fn fin_ends_a_stream_when_everything_before_it_is_there() {
    let mut bench = Bench::default();
    let data = framed(&query(1, 0));
    let length = data.len() as u32;
    bench.take(at(0), syn(0));
    assert_eq!(bench.take(at(1), Segment { fin: true, ..segment(1 + length, &data[..5]) }), Fate::Waiting);
    assert_eq!(bench.take(at(2), segment(1, &data)), Fate::Passed);
    assert_eq!(bench.messages, [query(1, 0)]);
    assert_eq!((bench.settled(Fate::LostUnfinished), bench.streams.waiting()), (1, 0));
    assert_eq!(
        bench.take(at(3), Segment { fin: true, ..segment(1 + length, &data[..5]) }),
        Fate::FilteredRetransmitted
    );
}

#[test]
fn fin_or_rst_inside_a_message() {
    let data = framed(&query(1, 0));
    let part = segment(1, &data[..9]);
    let mut bench = Bench::default();
    bench.take(at(0), syn(0));
    assert_eq!(bench.take(at(1), Segment { fin: true, ..part }), Fate::LostUnfinished);
    let mut bench = Bench::default();
    bench.take(at(0), syn(0));
    bench.take(at(1), part);
    // Not where the stream is: somebody who guesses.
    bench.take(at(2), Segment { rst: true, ..segment(5, b"") });
    assert_eq!(bench.streams.waiting(), 1);
    assert_eq!(bench.take(at(2), Segment { rst: true, ..segment(10, b"") }), Fate::FilteredNoData);
    assert_eq!(bench.settled(Fate::LostUnfinished), 1);
}

#[test]
fn another_syn_begins_another_connection() {
    let mut bench = Bench::default();
    let data = framed(&query(1, 0));
    bench.take(at(0), syn(0));
    bench.take(at(1), segment(1, &data[..9]));
    bench.take(at(2), syn(7_000));
    assert_eq!(bench.settled(Fate::LostUnfinished), 1);
    assert_eq!(bench.take(at(3), segment(7_001, &data)), Fate::Passed);
    assert_eq!(bench.messages, [query(1, 0)]);
}

#[test]
fn beyond_the_window_only_a_message_picks_the_stream_up() {
    let mut bench = Bench::default();
    let data = framed(&query(1, 0));
    bench.take(at(0), syn(0));
    bench.take(at(1), segment(1, &data[..9]));
    let far = 2 + STREAM_WINDOW_OCTETS as u32;
    assert_eq!(bench.take(at(2), segment(far, &data[3..])), Fate::RejectedOutOfStep);
    assert_eq!(bench.take(at(3), segment(far, &data)), Fate::Passed);
    assert_eq!(bench.settled(Fate::LostGap), 1);
    assert_eq!(bench.take(at(4), segment(far.wrapping_sub(200_000), &data)), Fate::Passed);
    assert_eq!(bench.messages.len(), 2);
}

#[test]
fn many_pieces_do_not_pile_up() {
    let mut bench = Bench::default();
    let data = framed(&query(1, 0));
    bench.take(at(0), syn(0));
    for number in 0..10 * STREAM_PIECES_MAX as u32 {
        bench.take(at(1), segment(100 + 3 * number, b"x"));
    }
    assert!(bench.streams.waiting() <= STREAM_PIECES_MAX as u64);
    let sequence = 100 + 30 * STREAM_PIECES_MAX as u32;
    bench.take(at(2), segment(sequence, &data));
    bench.finish();
    assert_eq!(bench.messages, [query(1, 0)]);
}

#[test]
fn the_stream_unused_the_longest_makes_room() {
    let data = framed(&query(1, 0));
    let client = |port: u16, segment| Segment { source_port: port, ..segment };
    let mut bench = Bench::with(2, 10_000);
    for port in [1, 2, 1, 3] {
        bench.take(at(0), client(port, syn(0)));
        bench.take(at(0), client(port, segment(1, &data[..9])));
    }
    assert_eq!((bench.streams.evicted(), bench.settled(Fate::LostNoRoom)), (1, 1));
    assert_eq!(bench.take(at(1), client(1, segment(10, &data[9..]))), Fate::Passed);
    assert_eq!(bench.take(at(1), client(2, segment(10, &data[9..]))), Fate::RejectedOutOfStep);
}

#[test]
fn octets_are_bounded_too() {
    let data = framed(&query(1, 900));
    let mut bench = Bench::with(100, 4_000);
    for port in 1..=10 {
        let client = |segment| Segment { source_port: port, ..segment };
        bench.take(at(0), client(syn(0)));
        bench.take(at(0), client(segment(1, &data[..800])));
    }
    assert_eq!(bench.streams.evicted(), bench.settled(Fate::LostNoRoom));
    assert_eq!(bench.streams.len(), 5);
}

/// A stream of messages, cut into segments with repetitions, in some order.
#[derive(Clone, Debug)]
struct Cut {
    start: u32,
    messages: Vec<Vec<u8>>,
    data: Vec<u8>,
    /// Where segments begin and end.
    ranges: Vec<(usize, usize)>,
}

fn cut() -> impl Strategy<Value = Cut> {
    let messages = prop::collection::vec((any::<u16>(), 0..300_usize), 1..6);
    let start = prop_oneof![any::<u32>(), (u32::MAX - 900)..=u32::MAX];
    (start, messages).prop_flat_map(|(start, messages)| {
        let messages: Vec<Vec<u8>> = messages.into_iter().map(|(id, tail)| query(id, tail)).collect();
        let data: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        let length = data.len();
        let cuts = prop::collection::btree_set(0..length, 0..20);
        let extra = prop::collection::vec((0..length, 1..400_usize), 0..6);
        (cuts, extra)
            .prop_flat_map(move |(cuts, extra)| {
                let edges: Vec<usize> = [0].into_iter().chain(cuts).chain([length]).collect();
                let mut ranges: Vec<(usize, usize)> =
                    edges.windows(2).map(|pair| (pair[0], pair[1])).filter(|(from, to)| from < to).collect();
                ranges.extend(extra.iter().map(|(from, octets)| (*from, length.min(from + octets))));
                Just(ranges).prop_shuffle()
            })
            .prop_map(move |ranges| Cut { start, messages: messages.clone(), data: data.clone(), ranges })
    })
}

#[derive(Clone, Debug)]
struct Wild {
    sequence: u32,
    data: Vec<u8>,
    flags: (bool, bool, bool),
    pause: u64,
    port: u16,
}

fn wild() -> impl Strategy<Value = Wild> {
    let message = (0..3_u16, 0..30_usize).prop_map(|(id, tail)| framed(&query(id, tail)));
    let octets = prop::collection::vec(0..3_u8, 0..60);
    let sequence = prop_oneof![
        8 => (0..300_u32).prop_map(|offset| offset.wrapping_sub(100)),
        1 => any::<u32>(),
    ];
    let rarely = || prop::bool::weighted(0.1);
    let pause = prop_oneof![9 => 0..50_u64, 1 => 0..40_000_u64];
    (sequence, prop_oneof![message, octets], (rarely(), rarely(), rarely()), pause, 50_000..50_004_u16)
        .prop_map(|(sequence, data, flags, pause, port)| Wild { sequence, data, flags, pause, port })
}

proptest! {
    /// However the octets are cut, repeated and shuffled: the messages are the same, and in their order.
    #[test]
    fn cuts_and_permutations_do_not_matter(cut in cut()) {
        let mut bench = Bench::default();
        bench.take(at(0), syn(cut.start.wrapping_sub(1)));
        for (number, (from, to)) in cut.ranges.iter().enumerate() {
            let sequence = cut.start.wrapping_add(*from as u32);
            let fate = bench.take(at(number as u64), segment(sequence, &cut.data[*from..*to]));
            prop_assert!(matches!(fate, Fate::Passed | Fate::Waiting | Fate::FilteredRetransmitted));
        }
        prop_assert_eq!(&bench.messages, &cut.messages);
        prop_assert_eq!(bench.streams.waiting(), 0);
        prop_assert!(bench.times.iter().all(|(begun, completed)| begun <= completed));
        bench.finish();
    }

    /// Whatever comes, in whatever order, with pauses of up to 40 s: sums are right and bounds hold.
    #[test]
    fn nothing_wild_upsets_the_sums(segments in prop::collection::vec(wild(), 0..200)) {
        let mut bench = Bench::with(3, 400);
        let mut now = 0;
        for one in segments {
            now += one.pause;
            let (syn, fin, rst) = one.flags;
            let wild = Segment { syn, fin, rst, source_port: one.port, ..segment(one.sequence, &one.data) };
            bench.take(at(now), wild);
            bench.streams.expire(at(now), |_| {});
            bench.check();
        }
        bench.finish();
    }
}
