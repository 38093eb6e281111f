use std::net::IpAddr;

use proptest::prelude::*;

use super::codec::inflate_zstd;
use super::dnsqr::{Capture, DnsQr, Kind, Transaction};
use super::protobuf::Sink;
use super::*;
use crate::checksum::UdpChecksum;
use crate::dns::Question;
use crate::error::FormatError;
use crate::frame::Timestamp;
use crate::message::Endpoint;

const LIMIT: usize = 1 << 20;

/// Any octets as a message of vendor 2, type 1.
struct Raw(Vec<u8>);

impl Message for Raw {
    const SCHEMA: Schema = (2, 1);

    fn write(&self, sink: &mut impl Sink) {
        sink.put(&self.0);
    }
}

fn sealed(codec: Codec, messages: &[&[u8]]) -> Vec<u8> {
    let mut writer = Writer::new(codec, LIMIT, Envelope { source: 0xa1ba_02cf, ..Envelope::default() });
    for message in messages {
        let full = writer.push(Timestamp::new(1_700_000_000, 500_000_000), &Raw(message.to_vec()));
        assert_eq!(full, None);
    }
    writer.seal().expect("a container").octets
}

fn messages(data: &[u8]) -> Result<Vec<(Vec<u8>, bool)>, FormatError> {
    let archive = Archive::open(data, LIMIT)?;
    Ok(archive.payloads()?.iter().map(|payload| (payload.message.to_vec(), payload.intact)).collect())
}

fn plain(body: &[u8]) -> Vec<u8> {
    let mut container = b"NMSG\x00\x02".to_vec();
    container.extend((body.len() as u32).to_be_bytes());
    container.extend(body);
    container
}

/// A payload of vendor 2, type 1, holding `digits`, and its CRC.
const PAYLOAD: &[u8] =
    b"\x0a\x20\x08\x02\x10\x01\x18\x80\xe2\xcf\xaa\x06\x25\x00\x65\xcd\x1d\x2a\x09123456789\x38\xcf\x85\xe8\x8d\x0a";
const CRC: &[u8] = b"\x10\xe3\x8d\xc8\x9c\x08";

#[test]
fn the_format_to_the_octet() {
    let expected = plain(&[PAYLOAD, CRC].concat());
    assert_eq!(expected.len(), 50);
    assert_eq!(sealed(Codec::None, &[b"123456789"]), expected);
    let zlib = sealed(Codec::Zlib, &[b"123456789"]);
    assert_eq!((&zlib[..6], &zlib[10..15]), (&b"NMSG\x01\x02"[..], &b"\x00\x00\x00\x28\x78"[..]));
    let zstd = sealed(Codec::Zstd, &[b"123456789"]);
    assert_eq!(inflate_zstd(&zstd, LIMIT), Ok((expected, zstd.len())));
}

#[test]
fn containers_of_all_codecs_in_one_file() {
    let file: Vec<u8> = [Codec::None, Codec::Zlib, Codec::Zstd, Codec::Zstd, Codec::None]
        .into_iter()
        .flat_map(|codec| sealed(codec, &[b"one", b"two"]))
        .collect();
    let contents: Vec<Vec<u8>> = messages(&file).unwrap().into_iter().map(|(message, _)| message).collect();
    assert_eq!(contents, [&b"one"[..], b"two"].repeat(5));
    assert_eq!(messages(b""), Ok(Vec::new()));
}

#[test]
fn compressed_containers_hold_their_payloads_by_length() {
    let arrived: [&[u8]; 6] = [b"three", b"of", b"seven", b"is", b"a", b"one"];
    for (codec, expected) in [
        (Codec::None, arrived),
        (Codec::Zlib, [b"a", b"of", b"is", b"one", b"three", b"seven"]),
        (Codec::Zstd, [b"a", b"of", b"is", b"one", b"three", b"seven"]),
    ] {
        let mut writer = Writer::new(codec, LIMIT, Envelope::default()).by_length();
        // A writer that has sealed a container before has forgotten it.
        for _ in 0..2 {
            for (second, message) in (5..).zip(arrived) {
                assert_eq!(writer.push(Timestamp::new(second, 0), &Raw(message.to_vec())), None);
            }
            let container = writer.seal().unwrap();
            assert_eq!((container.first, container.last), (Timestamp::new(5, 0), Timestamp::new(10, 0)));
            assert_eq!(container.payloads, 6);
            let intact: Vec<(Vec<u8>, bool)> =
                expected.iter().map(|message| (message.to_vec(), true)).collect();
            assert_eq!(messages(&container.octets), Ok(intact), "{codec:?}");
        }
    }
}

#[test]
fn a_frame_around_a_whole_file() {
    let file = [sealed(Codec::Zlib, &[b"one"]), sealed(Codec::None, &[b"two"])].concat();
    let frame = zstd::bulk::compress(&file, 1).unwrap();
    assert_eq!(messages(&frame), Ok(vec![(b"one".to_vec(), true), (b"two".to_vec(), true)]));
    let nested = zstd::bulk::compress(&frame, 1).unwrap();
    assert_eq!(messages(&nested), Err(FormatError::Magic { offset: 0 }));
}

#[test]
fn fields_come_in_any_order_and_checksums_packed() {
    let packed = b"\x12\x05\xe3\x8d\xc8\x9c\x08";
    let sequence = b"\x18\x00\x20\xef\x9b\xaf\xcd\xf8\xac\xd1\x91\x01";
    let expected = Ok(vec![(b"123456789".to_vec(), true)]);
    assert_eq!(messages(&plain(&[PAYLOAD, CRC, sequence].concat())), expected);
    assert_eq!(messages(&plain(&[&sequence[..], packed, PAYLOAD].concat())), expected);
    assert_eq!(messages(&plain(&[CRC, PAYLOAD].concat())), expected);
}

#[test]
fn a_wrong_checksum_taints_its_payload_alone() {
    let body = [PAYLOAD, PAYLOAD, PAYLOAD, b"\x10\x00", CRC].concat();
    let intact: Vec<bool> = messages(&plain(&body)).unwrap().into_iter().map(|(_, intact)| intact).collect();
    assert_eq!(intact, [false, true, true]);
}

#[test]
fn what_cannot_be_read_is_refused_with_its_reason() {
    let container = plain(&[PAYLOAD, CRC].concat());
    let changed = |index: usize, octet: u8| {
        let mut container = container.clone();
        container[index] = octet;
        container
    };
    let missing = |body: &[u8], field| (plain(body), FormatError::Missing { message: "NmsgPayload", field });
    for (data, error) in [
        (b"garbage".to_vec(), FormatError::Magic { offset: 0 }),
        ([&container[..], b"x"].concat(), FormatError::Magic { offset: 50 }),
        (changed(5, 1), FormatError::Version(1)),
        (changed(4, 0x02), FormatError::Fragmented),
        (changed(4, 0x03), FormatError::Fragmented),
        (changed(4, 0x84), FormatError::Flags(0x84)),
        (
            container[..49].to_vec(),
            FormatError::Truncated { what: "an NMSG container", needed: 50, available: 49 },
        ),
        (
            container[..7].to_vec(),
            FormatError::Truncated { what: "an NMSG container", needed: 10, available: 7 },
        ),
        (plain(b"\x0a\x05"), FormatError::Truncated { what: "a protobuf field", needed: 5, available: 0 }),
        missing(b"\x0a\x00", "vid"),
        missing(b"\x0a\x02\x08\x01", "msgtype"),
        missing(b"\x0a\x04\x08\x01\x10\x01", "time_sec"),
        missing(b"\x0a\x06\x08\x01\x10\x01\x18\x01", "time_nsec"),
    ] {
        assert_eq!(messages(&data), Err(error));
    }
}

#[test]
fn inflation_is_bounded() {
    let zeros = vec![0; LIMIT];
    for codec in [Codec::Zlib, Codec::Zstd] {
        let bomb = sealed_large(codec, &zeros);
        assert!(bomb.len() < LIMIT / 100);
        assert_eq!(messages(&bomb), Err(FormatError::TooLarge { limit: LIMIT }), "{codec:?}");
        assert!(Archive::open(&bomb, 2 * LIMIT).is_ok());
        // The limit is for all of a file's containers together.
        assert_eq!(
            Archive::open(&bomb.repeat(2), 2 * LIMIT).unwrap_err(),
            FormatError::TooLarge { limit: 2 * LIMIT }
        );
    }
}

fn sealed_large(codec: Codec, message: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(codec, LIMIT, Envelope::default());
    assert_eq!(writer.push(Timestamp::default(), &Raw(message.to_vec())), None);
    writer.seal().unwrap().octets
}

#[test]
fn zlib_declares_what_it_inflates_to() {
    let container = sealed(Codec::Zlib, &[b"123456789"]);
    let declare = |octets: u32| {
        let mut container = container.clone();
        container[10..14].copy_from_slice(&octets.to_be_bytes());
        messages(&container)
    };
    assert_eq!(declare(41), Err(FormatError::InflatedLength { declared: 41, actual: 40 }));
    assert!(matches!(declare(39), Err(FormatError::Inflate { codec: "zlib", .. })));
    let mut longer = [&container[..], b"x"].concat();
    let body = longer.len() as u32 - 10;
    longer[6..10].copy_from_slice(&body.to_be_bytes());
    assert!(matches!(messages(&longer), Err(FormatError::Inflate { codec: "zlib", .. })));
}

#[test]
fn a_truncated_frame_is_refused() {
    let frame = sealed(Codec::Zstd, &[b"123456789"]);
    for length in 4..frame.len() {
        assert!(messages(&frame[..length]).is_err(), "{length} octets");
    }
}

#[test]
fn a_large_frame_of_unknown_size() {
    let file = sealed_large(Codec::None, &vec![7; 500_000]);
    let mut frame = Vec::new();
    zstd::stream::copy_encode(&file[..], &mut frame, 1).unwrap();
    assert_eq!(messages(&frame).unwrap().len(), 1);
}

//------------ dnsqr -------------------------------------------------------------------------------------------

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (address(), any::<u16>()).prop_map(|(address, port)| Endpoint { address, port })
}

/// Any octets, in an IPv4 datagram.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(|contents| {
        let total = (20 + contents.len() as u16).to_be_bytes();
        [&[0x45, 0][..], &total, &[0; 16], &contents].concat()
    })
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<u32>(), 0u32..1_000_000_000)
        .prop_map(|(seconds, nanoseconds)| Timestamp::new(seconds, nanoseconds))
}

fn octets_of(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

proptest! {
    #[test]
    fn transactions_are_read_as_they_were_written(
        resolver in endpoint(),
        server in endpoint(),
        (protocol, id) in any::<(u8, u16)>(),
        question in prop::option::of((prop::collection::vec(any::<u8>(), 0..20), any::<u16>(), any::<u16>())),
        rcode in prop::option::of(0u8..16),
        query in prop::option::of((time(), prop::collection::vec(packet(), 0..3))),
        response in prop::option::of((time(), prop::collection::vec(packet(), 1..3))),
        icmp in prop::option::of(prop::collection::vec(any::<u8>(), 1..100)),
        query_zone in prop::option::of(prop::collection::vec(any::<u8>(), 1..20)),
        timeout in prop::option::of(0.0f64..1e9),
        resolver_address_zeroed: bool,
    ) {
        let [query_packets, response_packets] = [&query, &response]
            .map(|capture| capture.as_ref().map_or(Vec::new(), |(_, packets)| packets.concat()));
        let transaction = Transaction {
            kind: Kind::UnsolicitedResponse,
            resolver,
            server,
            protocol,
            id,
            question: question.as_ref().map(|(name, rrtype, class)| Question { name, rrtype: *rrtype, class: *class }),
            rcode,
            query: query.as_ref().map(|(time, _)| Capture { time: *time, packets: &query_packets }),
            response: response.as_ref().map(|(time, _)| Capture { time: *time, packets: &response_packets }),
            icmp: icmp.as_deref(),
            timeout,
            udp_checksum: Some(UdpChecksum::Incorrect),
            resolver_address_zeroed,
            query_zone: query_zone.as_deref(),
        };
        let mut octets = Vec::new();
        transaction.write(&mut octets);
        let dnsqr = DnsQr::read(&octets).unwrap();
        let packets = |capture: &Option<(Timestamp, Vec<Vec<u8>>)>| {
            capture.as_ref().map_or(Vec::new(), |(_, packets)| packets.clone())
        };
        // Every packet has its time, and a message without packets has one.
        let times = |capture: &Option<(Timestamp, Vec<Vec<u8>>)>| {
            capture.iter().flat_map(|(time, packets)| vec![*time; packets.len().max(1)]).collect::<Vec<_>>()
        };
        prop_assert_eq!(dnsqr.kind, 3);
        prop_assert_eq!(dnsqr.query_ip, octets_of(&resolver.address));
        prop_assert_eq!(dnsqr.response_ip, octets_of(&server.address));
        prop_assert_eq!(dnsqr.proto, u32::from(protocol));
        prop_assert_eq!(
            (dnsqr.query_port, dnsqr.response_port, dnsqr.id),
            (u32::from(resolver.port), u32::from(server.port), u32::from(id))
        );
        prop_assert_eq!(dnsqr.qname.map(<[u8]>::to_vec), question.as_ref().map(|(name, ..)| name.clone()));
        prop_assert_eq!(dnsqr.qtype, question.as_ref().map(|(_, rrtype, _)| u32::from(*rrtype)));
        prop_assert_eq!(dnsqr.qclass, question.as_ref().map(|(.., class)| u32::from(*class)));
        prop_assert_eq!(dnsqr.rcode, rcode.map(u32::from));
        prop_assert_eq!(dnsqr.query_packet, packets(&query));
        prop_assert_eq!(dnsqr.query_time_sec, times(&query).iter().map(|time| time.seconds() as i64).collect::<Vec<_>>());
        prop_assert_eq!(dnsqr.query_time_nsec, times(&query).iter().map(|time| time.nanoseconds()).collect::<Vec<_>>());
        prop_assert_eq!(dnsqr.response_packet, packets(&response));
        prop_assert_eq!(dnsqr.response_time_sec, times(&response).iter().map(|time| time.seconds() as i64).collect::<Vec<_>>());
        prop_assert_eq!(dnsqr.icmp, icmp.as_deref());
        prop_assert_eq!(dnsqr.query_zone, query_zone.as_deref());
        prop_assert_eq!(dnsqr.timeout, timeout);
        prop_assert_eq!(dnsqr.udp_checksum, Some(2));
        prop_assert_eq!(dnsqr.resolver_address_zeroed, resolver_address_zeroed.then_some(true));
    }

    #[test]
    fn any_octets_are_messages_or_an_error(octets in prop::collection::vec(any::<u8>(), 0..300)) {
        for container in [octets.clone(), plain(&octets)] {
            if let Ok(archive) = Archive::open(&container, LIMIT) && let Ok(payloads) = archive.payloads() {
                prop_assert!(payloads.len() <= container.len());
            }
        }
        if let Ok(dnsqr) = DnsQr::read(&octets) {
            prop_assert!(dnsqr.query_ip.len() <= octets.len());
        }
    }

    #[test]
    fn a_damaged_container_is_read_or_refused(
        codec in prop::sample::select(&[Codec::None, Codec::Zlib, Codec::Zstd][..]),
        index: prop::sample::Index,
        octet: u8,
    ) {
        let mut container = sealed(codec, &[b"123456789", b"and more of it, and more of it"]);
        let index = index.index(container.len());
        container[index] = octet;
        if let Ok(messages) = messages(&container) {
            prop_assert!(messages.len() <= 2);
        }
    }
}

#[test]
fn a_dnsqr_without_its_required_fields_is_refused() {
    assert_eq!(DnsQr::read(b""), Err(FormatError::Missing { message: "dnsqr", field: "type" }));
    let without_id = b"\x08\x01\x12\x00\x1a\x00\x20\x11\x28\x35\x30\x35";
    assert_eq!(DnsQr::read(without_id), Err(FormatError::Missing { message: "dnsqr", field: "id" }));
    assert!(DnsQr::read(b"\x0a\x01\x01").is_err());
}
