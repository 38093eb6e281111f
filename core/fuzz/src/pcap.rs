//! Capture files: pcap and pcapng, plain or compressed.
//!
//! The first octet says in what pieces the rest, a file, is read.
//!
//! Permitted outcomes:
//!
//! * what is no capture file is refused; of one that is, the packets come up to its end, or up to where it is
//!   damaged, and then a warning says so;
//! * packets are no larger than a block; of a file that is not compressed there are no more than it has room for,
//!   and behind the end there are no others;
//! * the same file gives the same packets and the same warning in whatever pieces it is read, unless it is
//!   compressed and damaged: a decompressor may give more or less of what was in front of the damage;
//! * memory does not depend on what the file says, but for the dictionary of xz.

use std::io::{self, Read};
use std::time::Duration;

use passive_dns::frame::{Event, FrameSource, Timestamp};
use passive_dns_capture::PcapSource;

use crate::input::Input;
use crate::memory::bounded;

/// The buffer of a file, that of a decompressor with its tables, the file itself and the list of what is seen.
const MEMORY: usize = 8 << 20;
/// What the limit of an xz file's dictionary leaves.
const XZ_MEMORY: usize = (128 << 20) + MEMORY;

const BLOCK_OCTETS_MAX: usize = 1 << 19;
/// The least that a packet takes: the header of a record of pcap, or a block of pcapng.
const RECORD_OCTETS_MIN: usize = 16;

/// Bombs inflate a thousandfold; the rest of their packets is more of the same.
const PACKETS_MAX: usize = 10_000;

pub fn check(octets: &[u8]) {
    let mut input = Input::new(octets);
    let piece = 1 + usize::from(input.octet());
    let file = input.rest();
    let memory = if file.starts_with(b"\xfd7zXZ\0") { XZ_MEMORY } else { MEMORY };
    let whole = bounded(memory + 4 * file.len(), || read(file, usize::MAX));
    let pieces = read(file, piece);
    let compressed =
        matches!(file, [0x1f, 0x8b, ..] | [0x28, 0xb5, ..] | [0x50..=0x5f, 0x2a, ..] | [0xfd, ..]);
    let undamaged = |seen: &Option<Seen>| seen.as_ref().is_some_and(|seen| seen.warning.is_none());
    if !compressed || (undamaged(&whole) && undamaged(&pieces)) {
        assert_eq!(pieces, whole, "in pieces of {piece} octets");
    }
    if let (Some(seen), false) = (whole, compressed) {
        assert!(seen.packets <= file.len() / RECORD_OCTETS_MIN, "{} packets", seen.packets);
        assert!(seen.octets <= file.len());
    }
}

/// What came out of a file.
#[derive(Debug, PartialEq)]
struct Seen {
    packets: usize,
    octets: usize,
    /// A sum over all that is said of packets, in their order.
    digest: u64,
    warning: Option<String>,
}

/// None if it is no capture file.
fn read(file: &[u8], piece: usize) -> Option<Seen> {
    let mut source = PcapSource::new("fuzz", Pieces { octets: file.to_vec(), at: 0, piece }).ok()?;
    let mut seen = Seen { packets: 0, octets: 0, digest: 0, warning: None };
    while seen.packets < PACKETS_MAX {
        match source.next(Duration::ZERO).expect("memory can always be read") {
            Event::Frame(frame) => {
                assert!(frame.octets.len() <= BLOCK_OCTETS_MAX);
                seen.packets += 1;
                seen.octets += frame.octets.len();
                for octet in frame.octets {
                    seen.add(u64::from(*octet));
                }
                seen.add(frame.wire_length as u64);
                seen.add(frame.time.since(Timestamp::default()).as_nanos() as u64);
            }
            Event::End => {
                assert!(matches!(source.next(Duration::ZERO), Ok(Event::End)));
                seen.warning = source.warning().map(str::to_owned);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    Some(seen)
}

impl Seen {
    fn add(&mut self, number: u64) {
        self.digest = (self.digest ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    }
}

/// A reader that gives so many octets at once.
struct Pieces {
    octets: Vec<u8>,
    at: usize,
    piece: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.octets[self.at..];
        let taken = rest.len().min(self.piece).min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        self.at += taken;
        Ok(taken)
    }
}
