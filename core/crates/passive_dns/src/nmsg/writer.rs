//! Filling containers.

use crate::frame::Timestamp;
use crate::nmsg::codec::{Codec, Encoder};
use crate::nmsg::protobuf::Sink;
use crate::nmsg::{HEADER_OCTETS, Schema, container, payload, payload_crc};

/// A CRC and its key: one octet, and five for 32 bits in sevens.
const CRC_OCTETS_MAX: usize = 6;

/// The key and the length in front of a payload: one octet, and five for 32 bits in sevens.
const PAYLOAD_HEAD_OCTETS_MAX: usize = 6;

/// A message that a container can carry.
pub trait Message {
    const SCHEMA: Schema;

    /// Writes the message, in ascending order of fields.
    fn write(&self, sink: &mut impl Sink);
}

/// What every payload of a writer says about its origin; zero numbers are left out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Envelope {
    pub source: u32,
    pub operator: u32,
    pub group: u32,
}

/// A sealed container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Container {
    /// The container in its codec.
    pub octets: Vec<u8>,
    /// Payloads inside.
    pub payloads: u32,
    /// The earliest and the latest time of its payloads.
    pub first: Timestamp,
    pub last: Timestamp,
}

/// A payload in the container in progress: where it begins, with its key and length, and the CRC of its message.
struct Written {
    start: usize,
    crc: u32,
}

/// Collects messages until they fill a container.
pub struct Writer {
    limit: usize,
    encoder: Encoder,
    by_length: bool,
    /// Room for the header, and the payloads so far.
    plain: Vec<u8>,
    payloads: Vec<Written>,
    /// The message that is added, and what stands in front of it and behind it in its payload: the length of each
    /// precedes it.
    message: Vec<u8>,
    before: Vec<u8>,
    behind: Vec<u8>,
    /// The container as it is sealed, if its payloads change places.
    ordered: Vec<u8>,
    first: Timestamp,
    last: Timestamp,
}

impl Writer {
    /// `limit` bounds a container before compression; a message that is larger by itself gets its own container.
    pub fn new(codec: Codec, limit: usize, envelope: Envelope) -> Self {
        let mut plain = Vec::with_capacity(limit);
        plain.resize(HEADER_OCTETS, 0);
        Writer {
            limit,
            encoder: Encoder::new(codec),
            by_length: false,
            plain,
            payloads: Vec::new(),
            message: Vec::new(),
            before: Vec::new(),
            behind: envelope_octets(&envelope),
            ordered: Vec::new(),
            first: Timestamp::default(),
            last: Timestamp::default(),
        }
    }

    /// Has compressed containers hold their payloads by length, and those of one length in the order in which
    /// they came. Payloads of one length have the same lengths in their headers and the same fields at the same
    /// distances, so that a compressor finds far more to repeat. Plain containers keep the order.
    pub fn by_length(mut self) -> Self {
        self.by_length = self.encoder.compresses();
        self
    }

    /// How many payloads wait to be sealed.
    pub fn payloads(&self) -> usize {
        self.payloads.len()
    }

    /// Adds a message; gives the container before it if that has no room for it.
    pub fn push<M: Message>(&mut self, time: Timestamp, message: &M) -> Option<Container> {
        self.message.clear();
        message.write(&mut self.message);
        let (vid, msgtype) = M::SCHEMA;
        self.before.clear();
        self.before.uint(payload::VID, u64::from(vid));
        self.before.uint(payload::MSGTYPE, u64::from(msgtype));
        self.before.uint(payload::TIME_SEC, time.seconds());
        self.before.fixed32(payload::TIME_NSEC, time.nanoseconds());
        self.before.length(payload::PAYLOAD, self.message.len());
        let payload_octets = self.before.len() + self.message.len() + self.behind.len();

        let crcs = CRC_OCTETS_MAX * (self.payloads.len() + 1);
        let full = self.plain.len() + PAYLOAD_HEAD_OCTETS_MAX + payload_octets + crcs > self.limit;
        let sealed = if full { self.seal() } else { None };

        if self.payloads.is_empty() {
            (self.first, self.last) = (time, time);
        }
        self.first = self.first.min(time);
        self.last = self.last.max(time);
        self.payloads.push(Written { start: self.plain.len(), crc: payload_crc(&self.message) });
        self.plain.length(container::PAYLOADS, payload_octets);
        for part in [&self.before, &self.message, &self.behind] {
            self.plain.put(part);
        }
        sealed
    }

    /// Seals what there is; None if there is nothing.
    pub fn seal(&mut self) -> Option<Container> {
        let payloads =
            u32::try_from(self.payloads.len()).expect("payloads are bounded by the container's limit");
        if payloads == 0 {
            return None;
        }
        if self.by_length {
            self.order();
        }
        for payload in self.payloads.drain(..) {
            self.plain.uint(container::PAYLOAD_CRCS, u64::from(payload.crc));
        }
        let octets = self.encoder.encode(&mut self.plain);
        self.plain.clear();
        self.plain.resize(HEADER_OCTETS, 0);
        Some(Container { octets, payloads, first: self.first, last: self.last })
    }

    /// Puts the payloads into the order of their lengths.
    fn order(&mut self) {
        let ends = self.payloads.iter().skip(1).map(|next| next.start).chain([self.plain.len()]);
        let mut places: Vec<(usize, usize, u32)> = self
            .payloads
            .iter()
            .zip(ends)
            .map(|(payload, end)| (end - payload.start, payload.start, payload.crc))
            .collect();
        places.sort_unstable();
        self.ordered.clear();
        self.ordered.extend_from_slice(&self.plain[..HEADER_OCTETS]);
        self.payloads.clear();
        for (octets, start, crc) in places {
            self.payloads.push(Written { start: self.ordered.len(), crc });
            self.ordered.extend_from_slice(&self.plain[start..start + octets]);
        }
        std::mem::swap(&mut self.plain, &mut self.ordered);
    }
}

/// The fields of a payload that say whence it comes.
fn envelope_octets(envelope: &Envelope) -> Vec<u8> {
    let Envelope { source, operator, group } = *envelope;
    let mut octets = Vec::new();
    for (field, number) in [(payload::SOURCE, source), (payload::OPERATOR, operator), (payload::GROUP, group)]
    {
        if number != 0 {
            octets.uint(field, u64::from(number));
        }
    }
    octets
}
