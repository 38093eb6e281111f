//! Containers: plain, zlib, zstd, concatenated, and the two messages that travel in them.
//!
//! The first octet says what the others are: containers as they stand, or the serialized `Nmsg` of one that is
//! to be packed in each of the three codecs first, so that mutation reaches behind compression.
//!
//! Permitted outcomes:
//!
//! * a `FormatError` and nothing else, or payloads: each inside what was given or inflated;
//! * memory: what may be inflated, the container given, and what a reader keeps for each payload;
//! * one `Nmsg` gives the same payloads in all three codecs, or the same error;
//! * the same octets twice over give the same payloads twice over;
//! * an intact dnsdedupe, read and written, is read again as the same; so is each of its fields;
//! * a dnsqr is refused or read; a record for the store is refused, or has names that are names.

use passive_dns::dns::name;
use passive_dns::error::FormatError;
use passive_dns::frame::Timestamp;
use passive_dns::nmsg::dnsdedupe::{self, DnsDedupe, Expiration};
use passive_dns::nmsg::dnsqr::{self, DnsQr};
use passive_dns::nmsg::{Archive, Codec, Encoder, Envelope, Payload, Schema, Writer};

use crate::input::Input;
use crate::memory::bounded;

/// What may be inflated: small, so that the limit is met by small inputs too.
const LIMIT: usize = 1 << 18;

/// A payload in 13 octets of container is kept in 72 of memory, and a growing list has both its copies at once,
/// the new one twice as long: 3 × 72 / 13 is below 17. Checksums, four octets for two, add 6.
const KEPT_FOR_EACH_OCTET: usize = 24;

/// Buffers of fixed size: a step of zstd's output, zlib's window and tables.
const FIXED: usize = 1 << 20;

const HEADER_OCTETS: usize = 10;

pub fn check(octets: &[u8]) {
    let mut input = Input::new(octets);
    match input.octet() % 2 {
        0 => check_containers(input.rest()),
        _ => check_body(input.rest()),
    }
}

fn check_containers(containers: &[u8]) {
    let bound = (containers.len() + LIMIT) * (KEPT_FOR_EACH_OCTET + 3) + FIXED;
    let Some(payloads) = bounded(bound, || count(containers, LIMIT)) else { return };
    let twice = [containers, containers].concat();
    assert_eq!(count(&twice, 2 * LIMIT), Some(2 * payloads), "payloads of the same octets twice over");
    let archive = Archive::open(containers, LIMIT).expect("it opened before");
    for payload in archive.payloads().expect("they were read before") {
        check_payload(&payload);
    }
}

fn count(containers: &[u8], limit: usize) -> Option<usize> {
    let archive = Archive::open(containers, limit).ok()?;
    Some(archive.payloads().ok()?.len())
}

fn check_body(body: &[u8]) {
    let packed = [Codec::None, Codec::Zlib, Codec::Zstd].map(|codec| {
        let mut plain = [&[0; HEADER_OCTETS][..], body].concat();
        Encoder::new(codec).encode(&mut plain)
    });
    let limit = body.len() + HEADER_OCTETS;
    let [none, zlib, zstd] = packed.each_ref().map(|container| seen(container, limit));
    assert_eq!(none, zlib, "plain and zlib");
    assert_eq!(none, zstd, "plain and zstd");
    check_containers(&packed[0]);
}

/// What can be compared of payloads.
type Seen = (Schema, i64, u32, [u32; 3], Vec<u8>, bool);

fn seen(container: &[u8], limit: usize) -> Result<Vec<Seen>, FormatError> {
    let archive = Archive::open(container, limit)?;
    let payloads = archive.payloads()?;
    Ok(payloads
        .iter()
        .map(|payload| {
            let Payload { schema, seconds, nanoseconds, source, operator, group, message, intact } = *payload;
            (schema, seconds, nanoseconds, [source, operator, group], message.to_vec(), intact)
        })
        .collect())
}

fn check_payload(payload: &Payload<'_>) {
    if payload.schema == dnsqr::SCHEMA {
        let _refused_or_read = DnsQr::read(payload.message);
    }
    if payload.schema != dnsdedupe::SCHEMA {
        return;
    }
    if let Ok(record) = Expiration::read(payload.message) {
        assert_eq!((name::validate(record.rrname), name::validate(record.bailiwick)), (Ok(()), Ok(())));
        assert!(record.count > 0 && !record.rdata.is_empty());
    }
    let Ok(read) = DnsDedupe::read(payload.message) else { return };
    let envelope = Envelope { source: payload.source, operator: payload.operator, group: payload.group };
    let mut writer = Writer::new(Codec::None, 1024, envelope);
    assert!(writer.push(Timestamp::new(1, payload.nanoseconds), &read).is_none());
    let container = writer.seal().expect("a container with one payload");
    let archive = Archive::open(&container.octets, 0).expect("what was written is read");
    let payloads = archive.payloads().expect("what was written is read");
    let [again] = &payloads[..] else { panic!("{} payloads where one was written", payloads.len()) };
    assert!(again.intact);
    assert_eq!(
        (again.source, again.operator, again.group),
        (payload.source, payload.operator, payload.group)
    );
    assert_eq!(DnsDedupe::read(again.message).as_ref(), Ok(&read));
}
