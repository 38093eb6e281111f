//! What the formats have in common: each looks at the octets at hand and says what they are. None of them reads.

use std::ops::Range;

use passive_dns::frame::{LinkType, Timestamp};

use super::classic::Classic;
use super::pcapng::Pcapng;

/// Octets of a word, in the order in which the file's writer had them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    Little,
    Big,
}

impl Order {
    /// The 16 bits at `offset`, which must lie within the octets.
    #[inline]
    pub fn u16(self, octets: &[u8], offset: usize) -> u16 {
        let word = [octets[offset], octets[offset + 1]];
        match self {
            Order::Little => u16::from_le_bytes(word),
            Order::Big => u16::from_be_bytes(word),
        }
    }

    /// The 32 bits at `offset`, which must lie within the octets.
    #[inline]
    pub fn u32(self, octets: &[u8], offset: usize) -> u32 {
        let word = [octets[offset], octets[offset + 1], octets[offset + 2], octets[offset + 3]];
        match self {
            Order::Little => u32::from_le_bytes(word),
            Order::Big => u32::from_be_bytes(word),
        }
    }
}

/// A packet in its record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packet {
    pub link: LinkType,
    pub time: Timestamp,
    pub wire_length: usize,
    /// How long the record is, and where in it the packet is.
    pub record: usize,
    pub data: Range<usize>,
}

/// What the octets at hand are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Too few, before there are this many.
    Need(usize),
    /// So many that hold no packet, of which not all have to be at hand.
    Skip(usize),
    Packet(Packet),
    /// Nothing that the format allows, for the reason given.
    Corrupt(String),
}

/// A format with what its file said so far.
#[derive(Debug)]
pub enum Format {
    Classic(Classic),
    Pcapng(Pcapng),
}

/// What the first octets of a file say.
#[derive(Debug)]
pub enum Recognised {
    /// Nothing before there are so many.
    Need(usize),
    Format(Format),
    /// That it is no packet capture, for the reason given.
    Not(String),
}

impl Format {
    /// Octets of a magic number.
    const MAGIC: usize = 4;

    /// Recognises the format of a file by its first octets.
    pub fn recognise(octets: &[u8]) -> Recognised {
        if octets.len() < Format::MAGIC {
            return Recognised::Need(Format::MAGIC);
        }
        match Classic::recognise(octets) {
            Recognised::Not(_) => Pcapng::recognise(octets),
            recognised => recognised,
        }
    }

    /// What the octets at hand are; they are to be used before the next call as the answer says.
    #[inline]
    pub fn step(&mut self, octets: &[u8]) -> Step {
        match self {
            Format::Classic(format) => format.step(octets),
            Format::Pcapng(format) => format.step(octets),
        }
    }

    /// What a record is called in this format.
    pub fn record(&self) -> &'static str {
        match self {
            Format::Classic(_) => "packet",
            Format::Pcapng(_) => "block",
        }
    }
}
