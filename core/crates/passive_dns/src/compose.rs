//! DNS messages for property tests, written with every name compressed as far as names before it allow.

use proptest::prelude::*;

use crate::dns::rrtype;

/// A name, as indexes into [`LABELS`]; the last is the top level's.
pub type Labels = Vec<u8>;

/// Few labels, so that names meet; among them those of special-use names, in more than one spelling.
pub const LABELS: [&[u8]; 8] = [b"a", b"B", b"corp", b"CoRp", b"example", b"local", b"arpa", b"hOme"];

/// A record to be written.
#[derive(Clone, Debug)]
pub enum Part {
    /// An OPT record with these options.
    Options(Vec<(u16, Vec<u8>)>),
    /// An OPT record with this rdata.
    Broken(Vec<u8>),
    Address(Labels),
    Mail(Labels, Labels),
    Start(Labels, Labels),
    /// A record of a type that nobody knows, with this rdata.
    Unknown(Labels, Vec<u8>),
}

pub fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::vec(0..LABELS.len() as u8, 0..4)
}

pub fn part() -> impl Strategy<Value = Part> {
    let octets = || prop::collection::vec(any::<u8>(), 0..12);
    let code = prop_oneof![Just(3u16), Just(8), Just(10), Just(15), any::<u16>()];
    prop_oneof![
        3 => prop::collection::vec((code, octets()), 0..4).prop_map(Part::Options),
        1 => octets().prop_map(Part::Broken),
        2 => labels().prop_map(Part::Address),
        2 => (labels(), labels()).prop_map(|(owner, host)| Part::Mail(owner, host)),
        2 => (labels(), labels()).prop_map(|(owner, host)| Part::Start(owner, host)),
        1 => (labels(), octets()).prop_map(|(owner, rdata)| Part::Unknown(owner, rdata)),
    ]
}

/// A message with one question of type A, and all records in its additional section.
pub fn compose(response: bool, question: &[u8], parts: &[Part]) -> Vec<u8> {
    let mut message = Message::default();
    message.octets.extend([0x12, 0x34, if response { 0x84 } else { 0 }, 0, 0, 1, 0, 0, 0, 0]);
    message.octets.extend((parts.len() as u16).to_be_bytes());
    message.name(question);
    message.octets.extend([0, 1, 0, 1]);
    for part in parts {
        message.part(part);
    }
    message.octets
}

#[derive(Default)]
struct Message {
    octets: Vec<u8>,
    names: Vec<(Labels, usize)>,
}

impl Message {
    fn name(&mut self, labels: &[u8]) {
        for index in 0..labels.len() {
            if let Some((_, at)) = self.names.iter().find(|(known, _)| *known == labels[index..]) {
                self.octets.extend((0xc000 | *at as u16).to_be_bytes());
                return;
            }
            self.names.push((labels[index..].to_vec(), self.octets.len()));
            let label = LABELS[usize::from(labels[index])];
            self.octets.push(label.len() as u8);
            self.octets.extend(label);
        }
        self.octets.push(0);
    }

    fn record(&mut self, owner: &[u8], rrtype: u16, rdata: impl FnOnce(&mut Self)) {
        self.name(owner);
        self.octets.extend(rrtype.to_be_bytes());
        self.octets.extend(b"\0\x01\0\0\x0e\x10\0\0");
        let start = self.octets.len();
        rdata(self);
        let length = (self.octets.len() - start) as u16;
        self.octets[start - 2..start].copy_from_slice(&length.to_be_bytes());
    }

    fn part(&mut self, part: &Part) {
        match part {
            Part::Options(options) => self.record(&[], rrtype::OPT, |message| {
                for (code, data) in options {
                    message.octets.extend(code.to_be_bytes());
                    message.octets.extend((data.len() as u16).to_be_bytes());
                    message.octets.extend(data);
                }
            }),
            Part::Broken(rdata) => self.record(&[], rrtype::OPT, |message| message.octets.extend(rdata)),
            Part::Address(owner) => {
                self.record(owner, rrtype::A, |message| message.octets.extend([192, 0, 2, 1]))
            }
            Part::Mail(owner, host) => self.record(owner, rrtype::MX, |message| {
                message.octets.extend([0, 10]);
                message.name(host);
            }),
            Part::Start(owner, host) => self.record(owner, rrtype::SOA, |message| {
                message.name(host);
                message.name(owner);
                message.octets.extend([0; 20]);
            }),
            Part::Unknown(owner, rdata) => self.record(owner, 65280, |message| message.octets.extend(rdata)),
        }
    }
}
