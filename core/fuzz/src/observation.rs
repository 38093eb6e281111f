//! The hub's half: from containers to merged records.
//!
//! The first octet says what follows: containers as they stand, or DNS messages (each behind its length) that
//! are wrapped into the answered transactions that a sensor would make of them.
//!
//! Permitted outcomes:
//!
//! * containers that cannot be read leave the window as it was; a full window takes nothing;
//! * of the others every transaction is observed or refused for one reason, every record of the observed ones is
//!   observed, filtered or repeated, and every sighting of an RRset is a new entry of the window or merged;
//! * what is taken out has one record for each entry, in ascending order of owners, with names in lower case,
//!   a bailiwick at or above the owner, rdata without repetition, times in order, and counts that add up to the
//!   sightings;
//! * the same containers twice over merge entirely, and count double;
//! * memory is bounded by what names can inflate to.

use passive_dns::dedupe::{Added, Window};
use passive_dns::dns::{Header, Question, name};
use passive_dns::nmsg::dnsdedupe::{Expiration, SCHEMA};
use passive_dns::nmsg::{Archive, Codec, Encoder};

use crate::input::Input;
use crate::memory::bounded;
use crate::protobuf::Wrapper;

const LIMIT: usize = 1 << 18;

/// A record of twelve octets and two pointers for rdata stands, at worst, for an owner and two names of 255
/// octets, each once in the message's canonical form and once in the window, with a bailiwick, in lists that
/// double as they grow: 2 × 4 × 255 / 16 is below 128, and the records' own structures and the list's other copy
/// take as much again.
const KEPT_FOR_EACH_OCTET: usize = 384;
const FIXED: usize = 1 << 20;

pub fn check(octets: &[u8]) {
    let mut input = Input::new(octets);
    match input.octet() % 2 {
        0 => check_window(input.rest()),
        _ => check_window(&transactions(&mut input)),
    }
}

fn transactions(input: &mut Input<'_>) -> Vec<u8> {
    let mut nmsg = Wrapper(vec![0; 10]);
    let mut seconds = 1_700_000_000;
    while !input.is_empty() {
        let message = input.chunk();
        let state = input.octet();
        seconds += u64::from(state % 4);
        let dnsqr = dnsqr(message, seconds, state & 4 != 0);
        let payload =
            Wrapper::default().uint(1, 1).uint(2, 9).uint(3, seconds).fixed32(4, 0).octets(5, &dnsqr);
        nmsg = nmsg.octets(1, &payload.0);
    }
    Encoder::new(Codec::None).encode(&mut nmsg.0)
}

/// An answered transaction with this response, over UDP in a datagram of IPv4, as long as one can hold it, or over
/// TCP in one or two segments.
fn dnsqr(message: &[u8], seconds: u64, over_tcp: bool) -> Vec<u8> {
    let most = if over_tcp { 65_535 } else { 65_535 - 28 };
    let message = &message[..message.len().min(most)];
    let header = Header::parse(message);
    let question = header.and_then(|header| Question::of_message(&header, message).ok().flatten());
    let mut dnsqr = Wrapper::default()
        .uint(1, 1)
        .octets(2, &[192, 0, 2, 53])
        .octets(3, &[203, 0, 113, 1])
        .uint(4, if over_tcp { 6 } else { 17 })
        .uint(5, 50_000)
        .uint(6, 53)
        .uint(7, u64::from(header.map_or(0, |header| header.id)));
    if let Some(question) = question {
        dnsqr = dnsqr
            .octets(8, question.name)
            .uint(9, u64::from(question.rrtype))
            .uint(10, u64::from(question.class));
    }
    for packet in if over_tcp { segments(message) } else { vec![datagram(message)] } {
        dnsqr = dnsqr.octets(15, &packet);
    }
    dnsqr.uint(16, seconds).0
}

fn datagram(message: &[u8]) -> Vec<u8> {
    let length = (8 + message.len()) as u16;
    let mut packet = ipv4(17, usize::from(length));
    packet.extend([0, 53, 0xc3, 0x50]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(message);
    packet
}

fn segments(message: &[u8]) -> Vec<Vec<u8>> {
    let stream = [&(message.len() as u16).to_be_bytes()[..], message].concat();
    let mut sequence = 1_u32;
    let mut segments = Vec::new();
    for data in stream.chunks(65_535 - 40) {
        let mut packet = ipv4(6, 20 + data.len());
        packet.extend([0, 53, 0xc3, 0x50]);
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        packet.extend(data);
        sequence += data.len() as u32;
        segments.push(packet);
    }
    segments
}

fn ipv4(protocol: u8, payload_octets: usize) -> Vec<u8> {
    let total = (20 + payload_octets) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0, 203, 0, 113, 1, 192, 0, 2, 53]);
    packet
}

fn check_window(containers: &[u8]) {
    let mut window = Window::new(1 << 20, None).expect("a window with room");
    let bound = (containers.len() + LIMIT) * KEPT_FOR_EACH_OCTET + FIXED;
    let Ok(added) = bounded(bound, || window.add(containers, LIMIT)) else {
        assert!(window.is_empty() && window.octets() == 0);
        return;
    };
    assert_sums(&added);
    assert_eq!(added.observations, window.len() as u64 + added.merged);
    let entries = window.len();
    let octets = window.octets();

    let again = window.add(containers, LIMIT).expect("it was added before");
    assert_eq!(again, Added { merged: again.observations, ..added.clone() });
    assert_eq!((window.len(), window.octets()), (entries, octets));

    check_records(&window.take(), entries, 2 * added.observations);
    assert!(window.is_empty() && window.octets() == 0);
}

fn assert_sums(added: &Added) {
    assert_eq!(added.transactions, added.observed + added.probe + added.refused.iter().sum::<u64>());
    let records = &added.records;
    let fates = records.observed + records.filtered_meta + records.filtered_class + records.repeated;
    assert_eq!(records.records, fates);
    assert!(added.observations <= records.observed);
}

fn check_records(taken: &[u8], entries: usize, sightings: u64) {
    let archive = Archive::open(taken, 1 << 30).expect("what a window gives is read");
    let payloads = archive.payloads().expect("what a window gives is read");
    assert_eq!(payloads.len(), entries);
    let mut counted = 0;
    let mut previous: &[u8] = &[];
    for payload in &payloads {
        assert!(payload.intact && payload.schema == SCHEMA);
        assert_eq!((payload.source, payload.operator, payload.group), (0, 0, 0));
        let record = Expiration::read(payload.message).expect("a record for the store");
        assert!(!record.rrname.iter().chain(record.bailiwick).any(u8::is_ascii_uppercase));
        assert!(name::is_at_or_below(record.rrname, record.bailiwick));
        assert!(record.rrname >= previous, "owners in order");
        assert!(record.rdata.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(record.time_first <= record.time_last);
        counted += u64::from(record.count);
        previous = record.rrname;
    }
    assert_eq!(counted, sightings);
}
