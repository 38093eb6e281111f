//! Files made octet by octet, so that what is wrong with them is known.

use std::io::{self, Cursor, Read, Write};
use std::time::Duration;

use flate2::write::GzEncoder;
use passive_dns::frame::{Event, FrameSource, LinkType, Timestamp};

use super::PcapSource;
use crate::error::CaptureError;
use crate::limits::{BLOCK_SKIPPED_OCTETS_MAX, PACKET_OCTETS_MAX};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;

//------------ Files -------------------------------------------------------------------------------------------

/// A byte order.
#[derive(Clone, Copy)]
struct Order {
    big: bool,
}

const LITTLE: Order = Order { big: false };
const BIG: Order = Order { big: true };

impl Order {
    fn u16(self, value: u16) -> [u8; 2] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn u64(self, value: u64) -> [u8; 8] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn words(self, words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| self.u32(*word)).collect()
    }

    fn pcap(self, magic: u32, link: u32, packets: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut octets = self.words(&[magic, 0, 0, 0, 65535, link]);
        for (seconds, fraction, packet) in packets {
            let length = packet.len() as u32;
            octets.extend(self.words(&[*seconds, *fraction, length, length + 1]));
            octets.extend(*packet);
        }
        octets
    }

    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let length = (body.len().next_multiple_of(4) + 12) as u32;
        let mut octets = self.words(&[kind, length]);
        octets.extend(body);
        octets.resize(length as usize - 4, 0);
        octets.extend(self.u32(length));
        octets
    }

    fn section(self) -> Vec<u8> {
        let mut body = self.words(&[0x1a2b_3c4d]);
        body.extend([self.u16(1), self.u16(0)].concat());
        body.extend(self.u64(u64::MAX));
        self.block(0x0a0d_0d0a, &body)
    }

    fn interface(self, link: u16, snap_length: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = [self.u16(link), self.u16(0)].concat();
        body.extend(self.u32(snap_length));
        for (code, value) in options {
            body.extend([self.u16(*code), self.u16(value.len() as u16)].concat());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        self.block(1, &body)
    }

    fn enhanced(self, interface: u32, time: u64, packet: &[u8]) -> Vec<u8> {
        let length = packet.len() as u32;
        let mut body = self.words(&[interface, (time >> 32) as u32, time as u32, length, length + 1]);
        body.extend(packet);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend([self.u16(1), self.u16(4)].concat());
        body.extend(b"note");
        self.block(6, &body)
    }

    fn obsolete(self, interface: u16, time: u64, packet: &[u8]) -> Vec<u8> {
        let length = packet.len() as u32;
        let mut body = [self.u16(interface), self.u16(7)].concat();
        body.extend(self.words(&[(time >> 32) as u32, time as u32, length, length]));
        body.extend(packet);
        self.block(2, &body)
    }

    fn simple(self, wire_length: u32, packet: &[u8]) -> Vec<u8> {
        self.block(3, &[&self.u32(wire_length), packet].concat())
    }
}

/// Gives one octet at a time, as a pipe may.
struct Trickle(Cursor<Vec<u8>>);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}

fn open(octets: Vec<u8>) -> Result<PcapSource, CaptureError> {
    PcapSource::new("test.pcap", Trickle(Cursor::new(octets)))
}

type Seen = (LinkType, Timestamp, usize, Vec<u8>);

/// All frames, and the warning.
fn read(mut source: PcapSource) -> (Vec<Seen>, Option<String>) {
    let mut frames = Vec::new();
    loop {
        match source.next(Duration::ZERO).unwrap() {
            Event::Frame(frame) => {
                frames.push((frame.link, frame.time, frame.wire_length, frame.octets.to_vec()))
            }
            Event::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(source.next(Duration::ZERO), Ok(Event::End)), "the end is for good");
    let warning = source.warning().map(str::to_owned);
    (frames, warning)
}

fn read_octets(octets: &[u8]) -> (Vec<Seen>, Option<String>) {
    read(open(octets.to_vec()).unwrap())
}

fn refusal(octets: &[u8]) -> String {
    match open(octets.to_vec()) {
        Err(CaptureError::NotPcap { reason, .. }) => reason,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("taken"),
    }
}

//------------ pcap --------------------------------------------------------------------------------------------

#[test]
fn pcap_of_both_orders_and_both_resolutions() {
    for order in [LITTLE, BIG] {
        for (magic, nanoseconds) in [(MAGIC_MICROSECONDS, 7000), (MAGIC_NANOSECONDS, 7)] {
            let (frames, warning) = read_octets(&order.pcap(magic, 1, &[(5, 7, b"one"), (6, 0, b"")]));
            let expected = [
                (LinkType::Ethernet, Timestamp::new(5, nanoseconds), 4, b"one".to_vec()),
                (LinkType::Ethernet, Timestamp::new(6, 0), 1, Vec::new()),
            ];
            assert_eq!(frames, expected);
            assert_eq!(warning, None);
        }
    }
}

#[test]
fn a_truncated_pcap_gives_the_packets_it_has() {
    let whole = LITTLE.pcap(MAGIC_MICROSECONDS, 101, &[(5, 0, b"first"), (6, 0, b"second")]);
    for missing in 1..16 + 6 {
        let (frames, warning) = read_octets(&whole[..whole.len() - missing]);
        assert_eq!(frames.len(), 1);
        let missing = if missing > 6 { missing - 6 } else { missing };
        assert_eq!(
            warning.unwrap(),
            format!("truncated after 1 packets: {missing} octets of the last packet missing")
        );
    }
}

#[test]
fn a_corrupt_record_ends_the_pcap() {
    let mut octets = LITTLE.pcap(MAGIC_MICROSECONDS, 101, &[(5, 0, b"first")]);
    octets.extend([0xff; 40]);
    let (frames, warning) = read_octets(&octets);
    assert_eq!(frames.len(), 1);
    assert_eq!(
        warning.unwrap(),
        format!(
            "corrupt after 1 packets: a packet claims {} octets, more than {PACKET_OCTETS_MAX}",
            u32::MAX
        )
    );
}

#[test]
fn what_is_no_capture_is_refused() {
    assert_eq!(refusal(b""), "0 octets are too few for a file header of 24");
    assert_eq!(refusal(b"\xa1\xb2\xc3\xd4..."), "7 octets are too few for a file header of 24");
    assert_eq!(refusal(b"NMSG"), "it begins with [4e, 4d, 53, 47]");
    let order = b"\x0a\x0d\x0d\x0a............................";
    assert_eq!(refusal(order), "a section's byte order is neither of the two");
    assert_eq!(refusal(b"\x1f\x8bnothing of the kind"), "its gzip data: invalid gzip header");
}

#[test]
fn an_impossible_fraction_is_the_end_of_its_second() {
    let (frames, _) = read_octets(&LITTLE.pcap(MAGIC_MICROSECONDS, 101, &[(5, u32::MAX, b"")]));
    assert_eq!(frames[0].1, Timestamp::new(5, 999_999_000));
}

//------------ pcapng ------------------------------------------------------------------------------------------

#[test]
fn pcapng_of_several_sections_interfaces_and_orders() {
    let second = 1_700_000_000_u64;
    let mut octets = Vec::new();
    for order in [LITTLE, BIG] {
        octets.extend(order.section());
        octets.extend(order.interface(1, 0, &[]));
        octets.extend(order.block(0x0bad, b"of a kind that nobody knows"));
        octets.extend(order.interface(101, 3, &[(2, b"eth9"), (9, &[9])]));
        octets.extend(order.enhanced(0, second * 1_000_000 + 7, b"one"));
        octets.extend(order.enhanced(1, second * 1_000_000_000 + 8, b"two"));
        octets.extend(order.obsolete(1, second * 1_000_000_000 + 9, b"three"));
        octets.extend(order.simple(4, b"four"));
        octets.extend(order.simple(9, b"snap"));
    }
    let (frames, warning) = read_octets(&octets);
    let (ethernet, raw) = (LinkType::Ethernet, LinkType::Raw);
    let at = |nanoseconds| Timestamp::new(second as u32, nanoseconds);
    let section = [
        (ethernet, at(7000), 4, b"one".to_vec()),
        (raw, at(8), 4, b"two".to_vec()),
        (raw, at(9), 5, b"three".to_vec()),
        (ethernet, at(9), 4, b"four".to_vec()),
        (ethernet, at(9), 9, b"snap".to_vec()),
    ];
    assert_eq!(frames, [section.clone(), section].concat());
    assert_eq!(warning, None);
}

#[test]
fn a_simple_packet_is_as_long_as_its_interface_keeps() {
    let mut octets = LITTLE.section();
    octets.extend(LITTLE.interface(1, 3, &[]));
    octets.extend(LITTLE.simple(9, b"cut."));
    let (frames, _) = read_octets(&octets);
    assert_eq!(frames, [(LinkType::Ethernet, Timestamp::default(), 9, b"cut".to_vec())]);
}

#[test]
fn clocks_of_every_resolution() {
    let offset = (-2_i64).to_le_bytes();
    type Options<'a> = &'a [(u16, &'a [u8])];
    let cases: [(Options<'_>, u64, Timestamp); 9] = [
        (&[], 5_000_007, Timestamp::new(5, 7000)),
        (&[(9, &[0])], 5, Timestamp::new(5, 0)),
        (&[(9, &[3])], 5_007, Timestamp::new(5, 7_000_000)),
        (&[(9, &[12])], 5_000_000_007_900, Timestamp::new(5, 7)),
        (&[(9, &[0x80 | 10])], 5 * 1024 + 512, Timestamp::new(5, 500_000_000)),
        (&[(14, &offset)], 5_000_007, Timestamp::new(3, 7000)),
        (&[(14, &offset)], 7, Timestamp::default()),
        (&[(9, &[0x7f])], u64::MAX, Timestamp::default()),
        (&[(9, &[0])], u64::MAX, Timestamp::from_nanoseconds(u64::MAX)),
    ];
    for (options, units, expected) in cases {
        let mut octets = LITTLE.section();
        octets.extend(LITTLE.interface(1, 0, options));
        octets.extend(LITTLE.enhanced(0, units, b""));
        assert_eq!(read_octets(&octets).0[0].1, expected, "{options:?} {units}");
    }
    // The extremes of everything at once are a time as well, and no overflow.
    for (offset, units, expected) in [(i64::MIN, 0, 0), (i64::MAX, u64::MAX, u64::MAX)] {
        let mut octets = LITTLE.section();
        octets.extend(LITTLE.interface(1, 0, &[(9, &[0x80]), (14, &offset.to_le_bytes())]));
        octets.extend(LITTLE.enhanced(0, units, b""));
        assert_eq!(read_octets(&octets).0[0].1, Timestamp::from_nanoseconds(expected));
    }
}

#[test]
fn a_truncated_pcapng_gives_the_packets_it_has() {
    let mut octets = LITTLE.section();
    octets.extend(LITTLE.interface(1, 0, &[]));
    octets.extend(LITTLE.enhanced(0, 1, b"first"));
    let whole = octets.len();
    octets.extend(LITTLE.block(0x0bad, &[0; 1000]));
    assert_eq!(read_octets(&octets).1, None);
    let (frames, warning) = read_octets(&octets[..whole + 20]);
    assert_eq!(frames.len(), 1);
    assert_eq!(warning.unwrap(), "truncated after 1 packets: 992 octets of the last block missing");
}

#[test]
fn what_pcapng_does_not_allow_ends_the_file_with_its_reason() {
    let mut wrong_end = LITTLE.enhanced(0, 1, b"");
    *wrong_end.last_mut().unwrap() = 1;
    let mut too_long = LITTLE.enhanced(0, 1, b"");
    too_long[20] = 200;
    let mut beyond = LITTLE.block(0x0bad, b"");
    beyond[4..8].copy_from_slice(&(BLOCK_SKIPPED_OCTETS_MAX as u32 + 4).to_le_bytes());
    let mut future = LITTLE.section();
    future[12] = 2;
    let cases = [
        (wrong_end, "a block of 40 octets claims 16777256 at its end"),
        (too_long, "a packet of 200 octets is in a block with room for 8"),
        (beyond, "a block of type 0xbad claims 16777220 octets: it must be from 12 to 16777216, in fours"),
        (
            LITTLE.words(&[6, 33, 0]),
            "a block of type 0x6 claims 33 octets: it must be from 32 to 524288, in fours",
        ),
        (
            LITTLE.words(&[9, 0, 0]),
            "a block of type 0x9 claims 0 octets: it must be from 12 to 16777216, in fours",
        ),
        (LITTLE.enhanced(1, 0, b""), "a packet is of interface 1, and 1 are described"),
        (LITTLE.interface(1, 0, &[(9, b"ab")]), "an interface's if_tsresol has 2 octets, not 1"),
        (LITTLE.interface(1, 0, &[(14, b"ab")]), "an interface's if_tsoffset has 2 octets, not 8"),
        (
            LITTLE.block(1, b"\x01\0\0\0\0\0\0\0\x09\0\xff\0"),
            "an option of 255 octets reaches beyond its block",
        ),
        (future, "a section is of version 2 of pcapng; 1 is known"),
    ];
    for (block, reason) in cases {
        let mut octets = LITTLE.section();
        octets.extend(LITTLE.interface(1, 0, &[]));
        octets.extend(LITTLE.enhanced(0, 1, b"good"));
        octets.extend(block);
        octets.extend(LITTLE.enhanced(0, 1, b"lost"));
        let (frames, warning) = read_octets(&octets);
        assert_eq!(frames.len(), 1);
        assert_eq!(warning.unwrap(), format!("corrupt after 1 packets: {reason}"));
    }
}

#[test]
fn a_simple_packet_of_a_section_without_interfaces_is_corrupt() {
    let octets = [LITTLE.section(), LITTLE.simple(1, b"a")].concat();
    let (frames, warning) = read_octets(&octets);
    assert!(frames.is_empty());
    assert_eq!(warning.unwrap(), "corrupt after 0 packets: a packet is of interface 0, and 0 are described");
}

//------------ Compression -------------------------------------------------------------------------------------

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(octets).unwrap();
    encoder.finish().unwrap()
}

fn zstd(octets: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(octets).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_compressed_file_may_be_cut_off_or_damaged_anywhere() {
    // Octets that hardly compress, so that the packets lie one after the other in the compressed file too.
    let mut state = 1_u32;
    let mut packet = || -> Vec<u8> {
        let mut next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..60_000).map(&mut next).collect()
    };
    let packets = [packet(), packet(), packet()];
    let plain =
        LITTLE.pcap(MAGIC_MICROSECONDS, 1, &[(1, 0, &packets[0]), (2, 0, &packets[1]), (3, 0, &packets[2])]);
    for (name, whole) in [("gzip", gzip(&plain)), ("zstd", zstd(&plain))] {
        let (frames, warning) = read_octets(&whole);
        assert_eq!((frames.len(), warning), (3, None));
        let mut ends = [0; 3];
        for missing in (1..whole.len() - 1000).step_by(whole.len() / 50) {
            let cut = whole[..whole.len() - missing].to_vec();
            let Ok(source) = open(cut) else { continue };
            let (frames, warning) = read(source);
            let (count, warning) = (frames.len(), warning.unwrap());
            ends[count.min(2)] += 1;
            assert_eq!(warning, format!("damaged after {count} packets: its {name} data: it is cut off"));
        }
        assert!(ends.iter().all(|times| *times > 0), "{name}: {ends:?}");
        let mut damaged = whole.clone();
        let middle = damaged.len() - 6;
        damaged[middle..].fill(0x55);
        let warning = read_octets(&damaged).1.unwrap();
        assert!(warning.starts_with(&format!("damaged after 3 packets: its {name} data: ")), "{warning}");
    }
}

#[test]
fn a_window_beyond_the_bound_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&LITTLE.pcap(MAGIC_MICROSECONDS, 1, &[])).unwrap();
    encoder.flush().unwrap();
    encoder.write_all(&[0; 4]).unwrap();
    let reason = refusal(&encoder.finish().unwrap());
    assert!(reason.starts_with("its zstd data: Frame requires too much memory"), "{reason}");
}
