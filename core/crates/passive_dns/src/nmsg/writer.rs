//! Filling containers.

use crate::frame::Timestamp;
use crate::nmsg::codec::{Codec, Encoder};
use crate::nmsg::protobuf::{Length, Sink};
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
    envelope: Envelope,
    encoder: Encoder,
    by_length: bool,
    /// Room for the header, and the payloads so far.
    plain: Vec<u8>,
    payloads: Vec<Written>,
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
            envelope,
            encoder: Encoder::new(codec),
            by_length: false,
            plain,
            payloads: Vec::new(),
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
        let head = Head {
            schema: M::SCHEMA,
            time,
            envelope: self.envelope,
            message_octets: length(|sink| message.write(sink)),
        };
        let payload_octets =
            length(|sink| head.before(sink)) + head.message_octets + length(|sink| head.behind(sink));

        let crcs = CRC_OCTETS_MAX * (self.payloads.len() + 1);
        let full = self.plain.len() + PAYLOAD_HEAD_OCTETS_MAX + payload_octets + crcs > self.limit;
        let sealed = if full { self.seal() } else { None };

        if self.payloads.is_empty() {
            (self.first, self.last) = (time, time);
        }
        self.first = self.first.min(time);
        self.last = self.last.max(time);
        let start = self.plain.len();
        self.plain.length(container::PAYLOADS, payload_octets);
        head.before(&mut self.plain);
        let begin = self.plain.len();
        message.write(&mut self.plain);
        self.payloads.push(Written { start, crc: payload_crc(&self.plain[begin..]) });
        head.behind(&mut self.plain);
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

fn length(write: impl FnOnce(&mut Length)) -> usize {
    let mut length = Length::default();
    write(&mut length);
    length.0
}

/// What surrounds a message in its payload.
struct Head {
    schema: Schema,
    time: Timestamp,
    envelope: Envelope,
    message_octets: usize,
}

impl Head {
    fn before(&self, sink: &mut impl Sink) {
        let (vid, msgtype) = self.schema;
        sink.uint(payload::VID, u64::from(vid));
        sink.uint(payload::MSGTYPE, u64::from(msgtype));
        sink.uint(payload::TIME_SEC, self.time.seconds());
        sink.fixed32(payload::TIME_NSEC, self.time.nanoseconds());
        sink.length(payload::PAYLOAD, self.message_octets);
    }

    fn behind(&self, sink: &mut impl Sink) {
        let Envelope { source, operator, group } = self.envelope;
        for (field, number) in
            [(payload::SOURCE, source), (payload::OPERATOR, operator), (payload::GROUP, group)]
        {
            if number != 0 {
                sink.uint(field, u64::from(number));
            }
        }
    }
}
