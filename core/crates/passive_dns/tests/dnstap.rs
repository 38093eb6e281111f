//! What a resolver tells by dnstap comes to the same as what a sensor sees of it on the wire.

mod common;

use std::collections::HashMap;
use std::net::IpAddr;

use common::Parts;
use passive_dns::counters::Counters;
use passive_dns::frame::{LinkType, Timestamp};
use passive_dns::nmsg::Archive;
use passive_dns::nmsg::Codec;
use passive_dns::nmsg::dnsqr::{DnsQr, Kind};
use passive_dns::outcome::{DnstapOutcome, MessageOutcome};
use passive_dns::recorder::Recorder;
use passive_dns::resolvers::Resolvers;
use passive_dns::settings::Settings;
use proptest::prelude::*;

const START: u32 = 1_700_000_000;

//------------ Frames ------------------------------------------------------------------------------------------

/// A dnstap frame to be written.
#[derive(Clone, Debug)]
struct Tap {
    kind: u64,
    protocol: u64,
    resolver: Vec<u8>,
    server: Vec<u8>,
    resolver_port: u16,
    server_port: u16,
    asked: Option<u32>,
    answered: Option<u32>,
    message: Vec<u8>,
    zone: Vec<u8>,
}

fn varint(to: &mut Vec<u8>, field: u64, mut value: u64) {
    to.push((field << 3) as u8);
    while value > 0x7f {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn octets(to: &mut Vec<u8>, field: u64, octets: &[u8]) {
    let mut length = Vec::new();
    varint(&mut length, field, octets.len() as u64);
    length[0] |= 2;
    to.extend(length);
    to.extend(octets);
}

fn nanoseconds(to: &mut Vec<u8>, field: u64) {
    to.push((field << 3 | 5) as u8);
    to.extend(0u32.to_le_bytes());
}

impl Tap {
    fn write(&self) -> Vec<u8> {
        let mut message = Vec::new();
        varint(&mut message, 1, self.kind);
        varint(&mut message, 3, self.protocol);
        octets(&mut message, 4, &self.resolver);
        octets(&mut message, 5, &self.server);
        varint(&mut message, 6, self.resolver_port.into());
        varint(&mut message, 7, self.server_port.into());
        for (seconds, [first, second]) in [(self.asked, [8, 9]), (self.answered, [12, 13])] {
            if let Some(seconds) = seconds {
                varint(&mut message, first, seconds.into());
                nanoseconds(&mut message, second);
            }
        }
        octets(&mut message, if self.kind == 3 { 10 } else { 14 }, &self.message);
        octets(&mut message, 11, &self.zone);
        let mut frame = Vec::new();
        octets(&mut frame, 14, &message);
        varint(&mut frame, 15, 1);
        frame
    }
}

fn address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A whole UDP packet without anything special, as its resolver tells of it.
fn tap(parts: &Parts, seconds: u32) -> Tap {
    let packet = parts.octets();
    let response = parts.flags & 0x8000 != 0;
    let (source, destination) = (address(parts.source_address()), address(parts.destination_address()));
    let ports = (parts.source_port, parts.destination_port);
    let ((resolver, server), (resolver_port, server_port)) = match response {
        false => ((source, destination), ports),
        true => ((destination, source), (ports.1, ports.0)),
    };
    Tap {
        kind: if response { 4 } else { 3 },
        protocol: 1,
        resolver,
        server,
        resolver_port,
        server_port,
        asked: (!response).then_some(seconds),
        answered: response.then_some(seconds),
        message: packet[if parts.ipv6 { 48 } else { 28 }..].to_vec(),
        zone: b"\x07example\0".to_vec(),
    }
}

/// A query from 192.0.2.53 to 203.0.113.1, or the response to it.
fn plain(response: bool, id: u16) -> Parts {
    let (mut ends, mut ports) = ((0, 5), (50_000, 53));
    if response {
        ends = (ends.1, ends.0);
        ports = (ports.1, ports.0);
    }
    Parts {
        link: LinkType::Raw,
        tunnels: Vec::new(),
        quoting: common::Quoting { kind: 3, own: true, tcp: false, octets: usize::MAX, server: 5 },
        vlan_tags: Vec::new(),
        ipv6: false,
        source: ends.0,
        destination: ends.1,
        extras: Vec::new(),
        protocol: 17,
        fragment: 0,
        source_port: ports.0,
        destination_port: ports.1,
        id,
        flags: if response { 0x8000 } else { 0 },
        name: b"\x03www\x07example\0".to_vec(),
        qtype: 1,
        padding: 0,
    }
}

//------------ Recorders ---------------------------------------------------------------------------------------

fn recorder(settings: &Settings) -> Recorder {
    let mut recorder = Recorder::new(Resolvers::none(), settings).unwrap();
    recorder.tick(Timestamp::new(START, 0));
    recorder
}

fn settings() -> Settings {
    Settings { keep_query_packets: true, codec: Codec::None, ..Settings::default() }
}

fn assert_sums(counters: &Counters) -> Result<(), TestCaseError> {
    let named: HashMap<_, _> = counters.named().collect();
    let sum = |prefix: &str| -> u64 {
        let of_stage = |name: &str| name.starts_with(prefix) && !name.ends_with("_seen");
        named.iter().filter(|(name, _)| of_stage(name)).map(|(_, count)| count).sum()
    };
    prop_assert_eq!(named["dnstap_frames_seen"], sum("dnstap_frames_"));
    prop_assert_eq!(named["messages_seen"], sum("messages_") + named["transactions_pending"]);
    prop_assert_eq!(
        named["messages_recorded"],
        2 * named["transactions_query_response"]
            + named["transactions_unanswered_query"]
            + named["transactions_unsolicited_response"]
    );
    Ok(())
}

fn finish<R>(mut recorder: Recorder, with: impl Fn(&DnsQr<'_>) -> R) -> Vec<R> {
    let octets: Vec<u8> = recorder.finish().into_iter().flat_map(|container| container.octets).collect();
    let archive = Archive::open(&octets, 1 << 24).unwrap();
    archive.payloads().unwrap().iter().map(|payload| with(&DnsQr::read(payload.message).unwrap())).collect()
}

//------------ By property -------------------------------------------------------------------------------------

/// All of a transaction that does not depend on where it was seen; packets from their UDP payload on.
fn essence(dnsqr: &DnsQr<'_>) -> String {
    let payload = |packet: &&[u8]| packet[if packet[0] >> 4 == 4 { 28 } else { 48 }..].to_vec();
    let mut essence = dnsqr.clone();
    let (queries, responses) = (
        essence.query_packet.iter().map(payload).collect::<Vec<_>>(),
        essence.response_packet.iter().map(payload).collect::<Vec<_>>(),
    );
    essence.query_packet.clear();
    essence.response_packet.clear();
    essence.udp_checksum = None;
    essence.query_zone = None;
    format!("{essence:?} {queries:?} {responses:?}")
}

fn ordinary() -> impl Strategy<Value = Parts> {
    (
        any::<bool>(),
        any::<bool>(),
        0u16..4,
        prop_oneof![4 => Just(0u16), 1 => Just(0x0100), 1 => Just(0x2000)],
    )
        .prop_map(|(response, ipv6, id, more)| {
            let mut parts = plain(response, id);
            parts.ipv6 = ipv6;
            parts.flags |= more;
            parts
        })
}

proptest! {
    #[test]
    fn the_same_transactions_as_on_the_wire(messages in prop::collection::vec((ordinary(), 0u32..3), 0..60)) {
        let mut seen = Recorder::new(Resolvers::parse(&common::RESOLVERS).unwrap(), &settings()).unwrap();
        let mut told = recorder(&settings());
        let mut seconds = START;
        for (parts, pause) in &messages {
            seconds += pause;
            // Both are told the time first: what has waited too long goes before what is recorded now, in both.
            seen.tick(Timestamp::new(seconds, 0));
            told.tick(Timestamp::new(seconds, 0));
            seen.record(&common::frame(LinkType::Raw, &parts.octets(), seconds));
            prop_assert_eq!(told.record_dnstap(&tap(parts, seconds).write()), DnstapOutcome::Passed);
            assert_sums(&told.counters())?;
        }
        prop_assert_eq!(seen.counters().messages, told.counters().messages);
        prop_assert_eq!(finish(seen, essence), finish(told, essence));
    }

    #[test]
    fn every_frame_has_one_outcome(
        frames in prop::collection::vec(
            (ordinary(), 0u64..17, 0u64..9, prop_oneof![3 => Just(53u16), 1 => any::<u16>()], 0u32..200, 0usize..300),
            0..60,
        ),
    ) {
        let mut recorder = recorder(&settings());
        for (parts, kind, protocol, server_port, seconds, cut) in &frames {
            let tap = Tap { kind: *kind, protocol: *protocol, server_port: *server_port, ..tap(parts, START + seconds) };
            let frame = tap.write();
            recorder.record_dnstap(&frame[..frame.len().min(*cut)]);
            assert_sums(&recorder.counters())?;
        }
        prop_assert_eq!(recorder.counters().dnstap_frames_seen, frames.len() as u64);
    }
}

//------------ By example --------------------------------------------------------------------------------------

#[test]
fn a_response_that_carries_its_query_is_both() {
    let mut recorder = recorder(&settings());
    let response = Tap { asked: Some(START), ..tap(&plain(true, 1), START + 2) };
    recorder.record_dnstap(&response.write());
    let counters = recorder.counters();
    assert_eq!((counters.messages_seen, counters.messages(MessageOutcome::Recorded)), (2, 2));
    assert_eq!((counters.transactions(Kind::QueryResponse), counters.pending()), (1, 0));
    assert_sums(&counters).unwrap();
    let told = finish(recorder, |dnsqr| {
        assert_eq!(dnsqr.query_zone, Some(&b"\x07example\0"[..]));
        assert_eq!(dnsqr.qname, Some(&b"\x03www\x07example\0"[..]));
        assert_eq!(dnsqr.udp_checksum, None);
        (dnsqr.kind, dnsqr.query_time_sec.clone(), dnsqr.response_time_sec.clone())
    });
    assert_eq!(told, [(1, vec![i64::from(START)], vec![i64::from(START + 2)])]);
}

#[test]
fn a_response_without_any_query_is_unsolicited() {
    let mut recorder = recorder(&settings());
    recorder.record_dnstap(&tap(&plain(true, 1), START).write());
    assert_eq!(recorder.counters().transactions(Kind::UnsolicitedResponse), 1);
}

#[test]
fn a_query_that_was_told_is_paired_and_not_made_twice() {
    let mut recorder = recorder(&settings());
    recorder.record_dnstap(&tap(&plain(false, 1), START).write());
    recorder.record_dnstap(&Tap { asked: Some(START), ..tap(&plain(true, 1), START + 1) }.write());
    let counters = recorder.counters();
    assert_eq!((counters.messages_seen, counters.transactions(Kind::QueryResponse)), (2, 1));
    assert_eq!(counters.pending(), 0);
}

#[test]
fn what_was_kept_back_waits_from_when_it_came() {
    let mut recorder = recorder(&settings());
    recorder.tick(Timestamp::new(START + 3600, 0));
    recorder.record_dnstap(&tap(&plain(false, 1), START).write());
    recorder.record_dnstap(&tap(&plain(false, 2), START).write());
    recorder.tick(Timestamp::new(START + 3660, 0));
    recorder.record_dnstap(&Tap { asked: Some(START), ..tap(&plain(true, 1), START + 1) }.write());
    recorder.tick(Timestamp::new(START + 3661, 0));
    let counters = recorder.counters();
    assert_eq!((counters.messages_seen, counters.transactions(Kind::QueryResponse)), (3, 1));
    assert_eq!((counters.transactions(Kind::UnansweredQuery), counters.pending()), (1, 0));
}

#[test]
fn tcp_is_tcp() {
    let mut recorder = recorder(&settings());
    recorder.record_dnstap(&Tap { protocol: 2, asked: Some(START), ..tap(&plain(true, 1), START) }.write());
    let told = finish(recorder, |dnsqr| (dnsqr.kind, dnsqr.proto, dnsqr.response_packet[0].to_vec()));
    assert_eq!(told.iter().map(|(kind, proto, _)| (*kind, *proto)).collect::<Vec<_>>(), [(1, 6)]);
    assert_eq!(told[0].2[9], 6, "a packet over TCP is kept");
}

#[test]
fn times_that_cannot_be_are_rejected() {
    const DAY: u32 = 86_400;
    let now = START + 10 * DAY;
    let mut recorder = recorder(&settings());
    recorder.tick(Timestamp::new(now, 0));
    for (asked, answered, outcome) in [
        (None, 0, DnstapOutcome::RejectedTime),
        (None, now - DAY - 1, DnstapOutcome::RejectedTime),
        (None, now - DAY, DnstapOutcome::Passed),
        (None, now + 60, DnstapOutcome::Passed),
        (None, now + 61, DnstapOutcome::RejectedTime),
        (Some(0), now, DnstapOutcome::RejectedTime),
        (Some(now), now, DnstapOutcome::Passed),
    ] {
        let tap = Tap { asked, ..tap(&plain(true, 1), answered) };
        assert_eq!(recorder.record_dnstap(&tap.write()), outcome, "{asked:?} {answered}");
    }
}

#[test]
fn servers_that_are_listed_are_no_servers() {
    let mut recorder = Recorder::new(Resolvers::parse(&["203.0.113.0/24"]).unwrap(), &settings()).unwrap();
    recorder.tick(Timestamp::new(START, 0));
    let outcome = recorder.record_dnstap(&tap(&plain(false, 1), START).write());
    assert_eq!(outcome, DnstapOutcome::FilteredBothListed);
    // The resolver itself need not be listed: it is the one that tells.
    let mut recorder = Recorder::new(Resolvers::parse(&["198.51.100.1"]).unwrap(), &settings()).unwrap();
    recorder.tick(Timestamp::new(START, 0));
    assert_eq!(recorder.record_dnstap(&tap(&plain(false, 1), START).write()), DnstapOutcome::Passed);
}

#[test]
fn what_messages_say_is_judged_as_on_the_wire() {
    for (flags, outcome) in [
        (0x0100, MessageOutcome::FilteredRd),
        (0x2000, MessageOutcome::FilteredOpcode),
        (0x8000, MessageOutcome::FilteredDirection),
    ] {
        let mut recorder = recorder(&settings());
        let mut query = tap(&plain(false, 1), START);
        query.message[2..4].copy_from_slice(&u16::to_be_bytes(flags));
        assert_eq!(recorder.record_dnstap(&query.write()), DnstapOutcome::Passed);
        assert_eq!(recorder.counters().messages(outcome), 1, "{flags:04x}");
    }
}

#[test]
fn nothing_of_a_cleared_resolver_is_left() {
    let mut recorder = recorder(&Settings { clear_resolver_address: true, ..settings() });
    recorder.record_dnstap(&tap(&plain(false, 1), START).write());
    recorder.record_dnstap(&tap(&plain(true, 1), START).write());
    recorder.record_dnstap(&Tap { protocol: 2, asked: Some(START), ..tap(&plain(true, 2), START) }.write());
    recorder.record_dnstap(&tap(&plain(false, 3), START).write());
    let octets: Vec<u8> = recorder.finish().into_iter().flat_map(|container| container.octets).collect();
    assert!(!octets.is_empty());
    for betraying in [&[192, 0, 2, 53][..], &50_000u16.to_be_bytes()] {
        assert!(!octets.windows(betraying.len()).any(|window| window == betraying), "{betraying:?}");
    }
}
