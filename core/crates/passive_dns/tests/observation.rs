//! From transactions to merged records.

use std::net::{IpAddr, Ipv4Addr};

use passive_dns::dedupe::{AddError, Added, Window};
use passive_dns::dns::{Question, rrtype};
use passive_dns::error::FormatError;
use passive_dns::frame::Timestamp;
use passive_dns::limits::{PROBES_MAX, WINDOW_OCTETS_MAX};
use passive_dns::message::{Direction, Endpoint, Message, Transport};
use passive_dns::nmsg::dnsdedupe::Expiration;
use passive_dns::nmsg::dnsqr::{Capture, Kind, Transaction};
use passive_dns::nmsg::{Archive, Codec, Envelope, Writer};
use passive_dns::packet::{PROTOCOL_TCP, PROTOCOL_UDP};
use passive_dns::probe::Zone;
use passive_dns::stored;
use proptest::prelude::*;

const LIMIT: usize = 1 << 24;

/// Flags of an authoritative answer, of a referral.
const AUTHORITATIVE: u16 = 0x8400;
const REFERRAL: u16 = 0x8000;

//------------ Making transactions -----------------------------------------------------------------------------

/// A resource record of class IN.
fn record(owner: &[u8], rrtype: u16, ttl: u32, rdata: &[u8]) -> Vec<u8> {
    record_of_class(owner, rrtype, 1, ttl, rdata)
}

fn record_of_class(owner: &[u8], rrtype: u16, class: u16, ttl: u32, rdata: &[u8]) -> Vec<u8> {
    let mut octets = owner.to_vec();
    octets.extend(rrtype.to_be_bytes());
    octets.extend(class.to_be_bytes());
    octets.extend(ttl.to_be_bytes());
    octets.extend((rdata.len() as u16).to_be_bytes());
    octets.extend(rdata);
    octets
}

const QNAME: &[u8] = b"\x03wWw\x07eXample\0";
/// Pointers to www.example and to example in the question.
const AT_WWW: &[u8] = b"\xc0\x0c";
const AT_EXAMPLE: &[u8] = b"\xc0\x10";

struct Response {
    flags: u16,
    class: u16,
    sections: [Vec<Vec<u8>>; 3],
}

impl Response {
    fn new(flags: u16, answer: &[Vec<u8>], authority: &[Vec<u8>], additional: &[Vec<u8>]) -> Self {
        Response { flags, class: 1, sections: [answer.to_vec(), authority.to_vec(), additional.to_vec()] }
    }

    fn message(&self) -> Vec<u8> {
        let mut message = vec![0x12, 0x34];
        let counts = self.sections.iter().map(|section| section.len() as u16);
        for word in [self.flags, 1].into_iter().chain(counts) {
            message.extend(word.to_be_bytes());
        }
        message.extend(QNAME);
        message.extend([0, 1]);
        message.extend(self.class.to_be_bytes());
        message.extend(self.sections.iter().flatten().flatten());
        message
    }

    fn packet(&self) -> Vec<u8> {
        packet(&self.message())
    }
}

fn packet(message: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((message.len() as u16 + 28).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0, 203, 0, 113, 1, 192, 0, 2, 53, 0, 53, 0xc3, 0x50]);
    packet.extend((message.len() as u16 + 8).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(message);
    packet
}

fn transaction(packet: &[u8], seconds: u32) -> Transaction<'_> {
    let time = Timestamp::new(seconds, 0);
    Transaction {
        kind: Kind::QueryResponse,
        resolver: Endpoint { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)), port: 50_000 },
        server: Endpoint { address: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), port: 53 },
        protocol: PROTOCOL_UDP,
        id: 0x1234,
        question: Some(Question { name: QNAME, rrtype: rrtype::A, class: 1 }),
        rcode: Some(0),
        query: Some(Capture { time, packets: &[] }),
        response: Some(Capture { time, packets: packet }),
        icmp: None,
        timeout: None,
        udp_checksum: None,
        resolver_address_zeroed: false,
        query_zone: None,
    }
}

fn container(transactions: &[Transaction<'_>]) -> Vec<u8> {
    let mut writer = Writer::new(Codec::Zstd, 1 << 20, Envelope::default());
    for transaction in transactions {
        assert_eq!(writer.push(Timestamp::new(1000, 0), transaction), None);
    }
    writer.seal().unwrap().octets
}

fn window() -> Window {
    Window::new(1_000_000, None).unwrap()
}

fn add(window: &mut Window, responses: &[(Response, u32)]) -> Added {
    let packets: Vec<(Vec<u8>, u32)> =
        responses.iter().map(|(response, seconds)| (response.packet(), *seconds)).collect();
    let transactions: Vec<_> =
        packets.iter().map(|(packet, seconds)| transaction(packet, *seconds)).collect();
    window.add(&container(&transactions), LIMIT).unwrap()
}

/// Owner, type, bailiwick, rdata, count, first, last, TTL.
type Row = (Vec<u8>, u16, Vec<u8>, Vec<Vec<u8>>, u32, u32, u32, u32);

fn rows(window: &mut Window) -> Vec<Row> {
    let containers = window.take();
    let archive = Archive::open(&containers, LIMIT).unwrap();
    let payloads = archive.payloads().unwrap();
    let row = |record: Expiration<'_>| {
        let rdata = record.rdata.iter().map(|rdata| rdata.to_vec()).collect();
        let (owner, bailiwick) = (record.rrname.to_vec(), record.bailiwick.to_vec());
        (
            owner,
            record.rrtype,
            bailiwick,
            rdata,
            record.count,
            record.time_first,
            record.time_last,
            record.rrttl,
        )
    };
    payloads.iter().map(|payload| row(Expiration::read(payload.message).unwrap())).collect()
}

fn counter(added: &Added, name: &str) -> u64 {
    added.named().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no counter {name}")).1
}

fn assert_sums(added: &Added) {
    let refused: u64 = added
        .named()
        .filter(|(name, _)| ["filtered_", "rejected_", "lost_"].iter().any(|what| name.starts_with(what)))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(added.transactions, added.observed + refused);
    let records = added.records;
    assert_eq!(
        records.records,
        records.observed + records.filtered_meta + records.filtered_class + records.repeated
    );
    assert!(added.merged <= added.observations);
}

//------------ Decomposition -----------------------------------------------------------------------------------

#[test]
fn rrsets_of_all_sections_are_canonical() {
    let response = Response::new(
        AUTHORITATIVE,
        &[record(AT_WWW, rrtype::A, 60, &[192, 0, 2, 9]), record(AT_WWW, rrtype::A, 30, &[192, 0, 2, 1])],
        &[record(AT_EXAMPLE, rrtype::NS, 90, b"\x02Ns\xc0\x10")],
        &[record(b"\x02nS\xc0\x10", rrtype::A, 90, &[192, 0, 2, 2]), record(b"\0", rrtype::OPT, 0, b"")],
    );
    let mut window = window();
    let added = add(&mut window, &[(response, 1000)]);
    assert_sums(&added);
    assert_eq!((added.observed, added.observations, added.merged), (1, 3, 0));
    assert_eq!((added.records.records, added.records.observed, added.records.filtered_meta), (5, 4, 1));
    let zone = b"\x07example\0".to_vec();
    let ns = b"\x02ns\x07example\0".to_vec();
    let www = b"\x03www\x07example\0".to_vec();
    let row = |owner: &[u8], rrtype, rdata: &[Vec<u8>], ttl| {
        (owner.to_vec(), rrtype, zone.clone(), rdata.to_vec(), 1, 1000, 1000, ttl)
    };
    let expected = [
        row(&ns, rrtype::A, &[vec![192, 0, 2, 2]], 90),
        row(&www, rrtype::A, &[vec![192, 0, 2, 1], vec![192, 0, 2, 9]], 60),
        row(&zone, rrtype::NS, std::slice::from_ref(&ns), 90),
    ];
    assert_eq!(rows(&mut window), expected);
    assert!(window.is_empty() && window.octets() == 0 && window.take().is_empty());
}

#[test]
fn rdata_is_sorted_by_length_and_then_octets() {
    let texts = [&b"\x02bb"[..], b"\x01z", b"\x02aa", b"\x01z"];
    let answer: Vec<_> = texts.iter().map(|text| record(AT_WWW, rrtype::TXT, 1, text)).collect();
    let mut window = window();
    let added = add(&mut window, &[(Response::new(AUTHORITATIVE, &answer, &[], &[]), 1000)]);
    assert_eq!((added.records.observed, added.records.repeated), (3, 1));
    assert_eq!(rows(&mut window)[0].3, [&b"\x01z"[..], b"\x02aa", b"\x02bb"]);
}

#[test]
fn an_rrset_in_two_sections_counts_once_as_the_first_has_it() {
    let in_answer = record(AT_WWW, rrtype::A, 60, &[192, 0, 2, 1]);
    let elsewhere =
        [record(AT_WWW, rrtype::A, 99, &[192, 0, 2, 1]), record(AT_WWW, rrtype::A, 99, &[192, 0, 2, 2])];
    let mut window = window();
    let added = add(&mut window, &[(Response::new(AUTHORITATIVE, &[in_answer], &[], &elsewhere), 1000)]);
    assert_sums(&added);
    assert_eq!((added.observations, added.records.repeated), (1, 2));
    let rows = rows(&mut window);
    assert_eq!((&rows[0].3[..], rows[0].4, rows[0].7), (&[vec![192, 0, 2, 1]][..], 1, 60));
}

#[test]
fn signatures_are_one_rrset_per_covered_type() {
    let signature = |covered: u16, octet: u8| {
        let mut rdata = covered.to_be_bytes().to_vec();
        rdata.extend([8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 4]);
        rdata.extend(b"\x07eXample\0");
        rdata.push(octet);
        record(AT_WWW, rrtype::RRSIG, 1, &rdata)
    };
    let answer = [signature(1, 1), signature(1, 2), signature(28, 3)];
    let sig_zero = record(b"\0", rrtype::SIG, 0, &[0; 20]);
    let mut window = window();
    let added = add(&mut window, &[(Response::new(AUTHORITATIVE, &answer, &[], &[sig_zero]), 1000)]);
    assert_eq!((added.observations, added.records.filtered_meta), (2, 1));
    let rdata_counts: Vec<_> = rows(&mut window).iter().map(|row| row.3.len()).collect();
    assert_eq!(rdata_counts, [2, 1]);
}

#[test]
fn the_bailiwick_is_the_deepest_zone_of_an_authoritative_answer() {
    let answer = [record(AT_WWW, rrtype::A, 1, &[192, 0, 2, 1])];
    let authority = [
        record(AT_EXAMPLE, rrtype::NS, 1, b"\x02ns\xc0\x10"),
        record(AT_WWW, rrtype::SOA, 1, &[b"\0\0".to_vec(), vec![0; 20]].concat()),
        record(b"\x05other\0", rrtype::NS, 1, b"\0"),
    ];
    let additional = [record(b"\x04none\0", rrtype::A, 1, &[192, 0, 2, 2])];
    for (flags, expected) in [
        (AUTHORITATIVE, [&b"\0"[..], b"\x05other\0", b"\x03www\x07example\0"]),
        (REFERRAL, [&b"\0"[..], b"\0", b"\0"]),
    ] {
        let mut window = window();
        add(&mut window, &[(Response::new(flags, &answer, &authority, &additional), 1000)]);
        let rows = rows(&mut window);
        let bailiwick = |owner: &[u8]| rows.iter().find(|row| row.0 == owner).unwrap().2.clone();
        let found = [bailiwick(b"\x04none\0"), bailiwick(b"\x05other\0"), bailiwick(b"\x03www\x07example\0")];
        assert_eq!(found, expected);
    }
}

#[test]
fn records_of_other_classes_are_left_out() {
    let answer =
        [record_of_class(AT_WWW, rrtype::A, 3, 1, b"\0\x01"), record(AT_WWW, rrtype::A, 1, &[192, 0, 2, 1])];
    let added = add(&mut window(), &[(Response::new(AUTHORITATIVE, &answer, &[], &[]), 1000)]);
    assert_sums(&added);
    assert_eq!((added.observations, added.records.filtered_class), (1, 1));
}

//------------ Refusals ----------------------------------------------------------------------------------------

#[test]
fn refused_transactions_are_counted_by_their_reason() {
    let good = Response::new(AUTHORITATIVE, &[record(AT_WWW, rrtype::A, 1, &[192, 0, 2, 1])], &[], &[]);
    let good_packet = good.packet();
    let with_flags = |flags| Response::new(flags, &[], &[], &[]).packet();
    let chaos = Response { class: 3, ..Response::new(AUTHORITATIVE, &[], &[], &[]) }.packet();
    let broken =
        Response::new(AUTHORITATIVE, &[record(AT_WWW, rrtype::A, 1, &[192, 0, 2])], &[], &[]).packet();
    let missing = {
        let mut message = good.message();
        message[7] = 2;
        packet(&message)
    };
    let fragment = {
        let mut packet = good_packet.clone();
        packet[6] = 0x20;
        packet
    };
    let whole = transaction(&good_packet, 1000);
    let with_packet = |packet| Transaction {
        response: Some(Capture { time: Timestamp::new(1, 0), packets: packet }),
        ..whole
    };
    let other_question =
        |name, rrtype| Transaction { question: Some(Question { name, rrtype, class: 1 }), ..whole };
    for (refused, name) in [
        (Transaction { kind: Kind::UnsolicitedResponse, ..whole }, "filtered_type"),
        (with_packet(&with_flags(0x8003)), "filtered_rcode"),
        (with_packet(&with_flags(0x8200)), "filtered_truncated"),
        (
            Transaction {
                question: Some(Question { name: QNAME, rrtype: 1, class: 3 }),
                ..with_packet(&chaos)
            },
            "filtered_class",
        ),
        (with_packet(&broken), "rejected_malformed"),
        (with_packet(&missing), "rejected_malformed"),
        (with_packet(&good_packet[..40]), "rejected_malformed"),
        (Transaction { response: None, ..whole }, "rejected_malformed"),
        (with_packet(&fragment), "filtered_fragmented"),
        (with_packet(&with_flags(0x0000)), "rejected_question"),
        (with_packet(&with_flags(0xa800)), "rejected_question"),
        (other_question(b"\x03www\x07example\0", rrtype::A), "rejected_question"),
        (other_question(QNAME, rrtype::AAAA), "rejected_question"),
        (Transaction { question: None, ..whole }, "rejected_question"),
        (Transaction { id: 0x4321, ..whole }, "rejected_question"),
    ] {
        let mut window = window();
        let added = window.add(&container(&[refused, whole]), LIMIT).unwrap();
        assert_sums(&added);
        assert_eq!((added.transactions, added.observed, counter(&added, name)), (2, 1, 1), "{name}");
        assert_eq!(window.len(), 1, "{name}");
    }
}

#[test]
fn damaged_and_foreign_payloads_are_counted() {
    let packet =
        Response::new(AUTHORITATIVE, &[record(AT_WWW, rrtype::A, 1, &[192, 0, 2, 1])], &[], &[]).packet();
    let mut writer = Writer::new(Codec::None, 1 << 20, Envelope::default());
    writer.push(Timestamp::default(), &transaction(&packet, 5));
    let mut octets = writer.seal().unwrap().octets;
    let last = octets.len() - 1;
    octets[last] ^= 1;
    let mut window = window();
    let added = window.add(&octets, LIMIT).unwrap();
    assert_eq!(counter(&added, "rejected_crc"), 1);
    add(
        &mut window,
        &[(Response::new(AUTHORITATIVE, &[record(AT_WWW, rrtype::A, 1, &[192, 0, 2, 1])], &[], &[]), 5)],
    );
    let taken = window.take();
    let added = window.add(&taken, LIMIT).unwrap();
    assert_sums(&added);
    assert_eq!((added.transactions, counter(&added, "rejected_schema")), (1, 1));
}

//------------ Windows -----------------------------------------------------------------------------------------

fn address_answer(last: u8, ttl: u32) -> Response {
    Response::new(AUTHORITATIVE, &[record(AT_WWW, rrtype::A, ttl, &[192, 0, 2, last])], &[], &[])
}

/// A response of about so many octets, as it is kept if it came over TCP.
fn kept_of_tcp(texts: usize) -> (Vec<u8>, usize) {
    let text = [&[250u8][..], &[b'x'; 250]].concat();
    let records = (0..texts).map(|_| record(AT_WWW, rrtype::TXT, 300, &text)).collect::<Vec<_>>();
    let response = Response::new(AUTHORITATIVE, &records, &[], &[]).message();
    let message = Message {
        time: Timestamp::new(1000, 0),
        resolver: Endpoint { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)), port: 50_000 },
        server: Endpoint { address: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), port: 53 },
        direction: Direction::FromServer,
        transport: Transport::Tcp,
        octets: &response,
        checksum: None,
        datagram: None,
        asked: None,
        query_zone: None,
    };
    let mut buffer = Vec::new();
    let packets = stored::packets(&message, None, false, &mut buffer).to_vec();
    let segments = stored::split(&packets).count();
    (packets, segments)
}

#[test]
fn responses_over_tcp_are_observed_whole() {
    for (texts, segments) in [(1, 1), (100, 1), (248, 1), (249, 2)] {
        let (packets, found) = kept_of_tcp(texts);
        assert_eq!(found, segments, "{texts} texts");
        let over_tcp = Transaction { protocol: PROTOCOL_TCP, ..transaction(&packets, 1000) };
        let mut window = window();
        let added = window.add(&container(&[over_tcp]), LIMIT).unwrap();
        assert_sums(&added);
        assert_eq!((added.observed, added.records.records), (1, texts as u64));
        let of_udp = Transaction { protocol: PROTOCOL_UDP, ..over_tcp };
        let refused = window.add(&container(&[of_udp]), LIMIT).unwrap();
        assert_eq!(refused.observed, 0);
    }
}

#[test]
fn sightings_are_merged() {
    let mut window = window();
    let added = add(
        &mut window,
        &[(address_answer(1, 60), 1005), (address_answer(1, 90), 1000), (address_answer(2, 1), 1001)],
    );
    assert_eq!((added.observations, added.merged, window.len()), (3, 1, 2));
    let added = add(&mut window, &[(address_answer(1, 30), 1009)]);
    assert_eq!((added.observations, added.merged), (1, 1));
    let sightings: Vec<_> = rows(&mut window).iter().map(|row| (row.4, row.5, row.6, row.7)).collect();
    assert_eq!(sightings, [(3, 1000, 1009, 90), (1, 1001, 1001, 1)]);
}

#[test]
fn a_full_window_takes_nothing_more() {
    let mut window = Window::new(2, None).unwrap();
    add(&mut window, &[(address_answer(1, 1), 1), (address_answer(2, 1), 1), (address_answer(3, 1), 1)]);
    assert!(window.is_full() && window.len() == 3);
    let packet = address_answer(1, 1).packet();
    let error = window.add(&container(&[transaction(&packet, 1)]), LIMIT).unwrap_err();
    assert!(matches!(error, AddError::Full { entries: 3, entries_max: 2, .. }));
    assert_eq!(rows(&mut window).len(), 3);
    assert!(!window.is_full());
    assert!(Window::new(0, None).is_err());
}

#[test]
fn an_unreadable_container_adds_nothing() {
    let packet = address_answer(1, 1).packet();
    let good = container(&[transaction(&packet, 1)]);
    let mut window = window();
    let error = window.add(&[&good[..], b"garbage"].concat(), LIMIT).unwrap_err();
    assert_eq!(error, AddError::Format(FormatError::Magic { offset: good.len() }));
    assert!(window.is_empty());
}

/// A name of 235 octets.
fn long_name() -> Vec<u8> {
    let mut long_name = Vec::new();
    for _ in 0..3 {
        long_name.push(63);
        long_name.extend([b'a'; 63]);
    }
    long_name.extend([40]);
    long_name.extend([b'b'; 40]);
    long_name.push(0);
    long_name
}

/// A message of nearly 64 KiB, of 3,500 records each of which has three long names but for one pointer each: owner,
/// bailiwick, name server.
fn inflating(number: u8) -> Vec<u8> {
    let name_at = 12 + QNAME.len() + 4;
    let pointer = [0xc0 | (name_at >> 8) as u8, name_at as u8];
    let soa = [&pointer[..], &pointer[..], &[0; 20]].concat();
    let mut authority = vec![record(&long_name(), rrtype::SOA, 1, &soa)];
    authority.extend((0..3500u16).map(|label| {
        let [high, low] = label.to_be_bytes();
        let owner = [3, number, high, low, pointer[0], pointer[1]];
        record(&owner, rrtype::NS, 1, &pointer)
    }));
    Response::new(AUTHORITATIVE, &[], &authority, &[]).packet()
}

#[test]
fn a_container_that_inflates_its_names_is_lost_in_part_and_not_the_memory() {
    let packets: Vec<_> = (0..60).map(inflating).collect();
    let mut writer = Writer::new(Codec::Zstd, 1 << 20, Envelope::default());
    let mut octets = Vec::new();
    for packet in &packets {
        let sealed = writer.push(Timestamp::new(1000, 0), &transaction(packet, 1000));
        octets.extend(sealed.into_iter().flat_map(|container| container.octets));
    }
    octets.extend(writer.seal().unwrap().octets);
    let mut window = window();
    let added = window.add(&octets, LIMIT).unwrap();
    assert_sums(&added);
    let lost = counter(&added, "lost_room");
    assert!(lost > 0 && added.observed > 0, "{added:?}");
    assert_eq!(added.transactions, 60);
    // One transaction may go beyond.
    let most = WINDOW_OCTETS_MAX + window.octets() / added.observed as usize;
    assert!((WINDOW_OCTETS_MAX..most).contains(&window.octets()), "{}", window.octets());
    assert!(window.is_full());
    // What it has is as good as ever, and it has room again.
    assert_eq!(window.len() as u64, added.observations - added.merged);
    assert!(!window.take().is_empty() && !window.is_full());
    let packet = address_answer(1, 1).packet();
    assert_eq!(window.add(&container(&[transaction(&packet, 1)]), LIMIT).unwrap().observed, 1);
}

#[test]
fn an_answer_may_say_which_zone_was_asked() {
    let packet = address_answer(1, 1).packet();
    let plain = transaction(&packet, 1);
    let told = Transaction { query_zone: Some(b"\x07example\0"), ..plain };
    let unasked = Transaction { kind: Kind::UnsolicitedResponse, ..told };
    let added = window().add(&container(&[plain, told, unasked]), LIMIT).unwrap();
    assert_eq!((added.observed, added.query_zones), (2, 1));
    assert_sums(&added);
}

#[test]
fn an_rrset_larger_than_any_message_is_refused() {
    // Pointers to one name of 235 octets, thousands of times.
    let long_name = long_name();
    let long_name_at = 12 + QNAME.len() + 4 + 2 + 10 + 2;
    let pointer = [0xc0 | (long_name_at >> 8) as u8, long_name_at as u8];
    let mut answer = vec![record(AT_WWW, rrtype::MX, 1, &[&[0, 0][..], &long_name].concat())];
    answer.extend((1..2000u16).map(|number| {
        let preference = number.to_be_bytes();
        record(AT_WWW, rrtype::MX, 1, &[preference[0], preference[1], pointer[0], pointer[1]])
    }));
    let mut window = window();
    let added = add(&mut window, &[(Response::new(AUTHORITATIVE, &answer, &[], &[]), 1)]);
    assert_eq!(counter(&added, "rejected_malformed"), 1);
    assert!(window.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn equal_windows_give_equal_octets(lasts in prop::collection::vec((0u8..20, 0u32..100), 1..50)) {
        let mut forwards = window();
        let mut backwards = window();
        for (last, seconds) in &lasts {
            add(&mut forwards, &[(address_answer(*last, 1), *seconds)]);
        }
        for (last, seconds) in lasts.iter().rev() {
            add(&mut backwards, &[(address_answer(*last, 1), *seconds)]);
        }
        prop_assert_eq!(forwards.take(), backwards.take());
    }

    #[test]
    fn any_message_is_observed_or_refused(
        body in prop::collection::vec(any::<u8>(), 0..200),
        counts in prop::array::uniform3(0u16..4),
        index: prop::sample::Index,
    ) {
        let mut message = Response::new(AUTHORITATIVE, &[], &[], &[]).message();
        for (place, count) in counts.iter().enumerate() {
            message[6 + 2 * place..8 + 2 * place].copy_from_slice(&count.to_be_bytes());
        }
        message.extend(&body);
        let packet = packet(&message);
        let mut damaged = packet.clone();
        let index = index.index(damaged.len());
        damaged[index] ^= 0x55;
        let mut window = window();
        let added = window.add(&container(&[transaction(&packet, 1), transaction(&damaged, 1)]), LIMIT).unwrap();
        assert_sums(&added);
        prop_assert_eq!(added.transactions, 2);
        prop_assert_eq!(rows(&mut window).len() as u64, added.observations - added.merged);
    }

    #[test]
    fn records_survive_the_journey(
        owners in prop::collection::vec(prop::sample::select(&[AT_WWW, AT_EXAMPLE, b"\0", b"\x01A\xc0\x10"][..]), 1..12),
        rdata in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..12),
    ) {
        let answer: Vec<_> = owners.iter().zip(&rdata).map(|(owner, rdata)| record(owner, 65_280, 1, rdata)).collect();
        let mut window = window();
        let added = add(&mut window, &[(Response::new(AUTHORITATIVE, &answer, &[], &[]), 7)]);
        prop_assert_eq!(added.observed, 1);
        let mut found: Vec<(Vec<u8>, Vec<u8>)> = rows(&mut window)
            .into_iter()
            .flat_map(|(owner, .., rdata, _, _, _, _)| rdata.into_iter().map(move |rdata| (owner.clone(), rdata)))
            .collect();
        let name = |owner: &[u8]| match owner {
            b"\xc0\x0c" => b"\x03www\x07example\0".to_vec(),
            b"\xc0\x10" => b"\x07example\0".to_vec(),
            b"\0" => b"\0".to_vec(),
            _ => b"\x01a\x07example\0".to_vec(),
        };
        let mut expected: Vec<_> = owners.iter().map(|owner| name(owner)).zip(rdata).collect();
        expected.sort();
        expected.dedup();
        found.sort();
        prop_assert_eq!(found, expected);
    }
}

//------------ Probes ------------------------------------------------------------------------------------------

#[test]
fn names_of_the_probe_zone_are_probes_and_no_observations() {
    const NONCE: &[u8] = b"\x200123456789abcdef0123456789ABCDEF\x03www\x07example\0";
    let zone = || Some(Zone::new(b"\x03WWW\x07example\0").unwrap());
    let packet = Response::new(AUTHORITATIVE, &[], &[], &[]).packet();
    let whole = transaction(&packet, 1000);
    let probe = Transaction { question: Some(Question { name: NONCE, rrtype: 1, class: 1 }), ..whole };
    let unanswered = Transaction { kind: Kind::UnansweredQuery, response: None, ..probe };
    let apex = Transaction { question: Some(Question { name: &NONCE[33..], rrtype: 6, class: 1 }), ..whole };
    let mut window = Window::new(10, zone()).unwrap();
    let added = window.add(&container(&[probe, unanswered, apex]), LIMIT).unwrap();
    assert_eq!((added.transactions, added.probe, added.observed), (3, 3, 0));
    assert!(window.is_empty() && window.take().is_empty());
    let kinds: Vec<_> = window.take_probes().into_iter().map(|probe| (probe.nonce, probe.kind)).collect();
    let nonce = || "0123456789abcdef0123456789abcdef".to_owned();
    assert_eq!(kinds, [(nonce(), "UDP_QUERY_RESPONSE"), (nonce(), "UDP_UNANSWERED_QUERY")]);
    assert!(window.take_probes().is_empty());

    let flood = vec![probe; PROBES_MAX + 1];
    let added = window.add(&container(&flood), LIMIT).unwrap();
    assert_eq!(added.probe as usize, PROBES_MAX + 1);
    assert_eq!(window.take_probes().len(), PROBES_MAX);
}
