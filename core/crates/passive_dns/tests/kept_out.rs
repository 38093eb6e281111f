//! What the recorder keeps out of what it writes: names, servers' addresses, options; with the query what its
//! response shows.

use std::collections::BTreeMap;
use std::time::Duration;

use passive_dns::dns::name;
use passive_dns::frame::{Frame, LinkType, Timestamp};
use passive_dns::nmsg::dnsqr::DnsQr;
use passive_dns::nmsg::{Archive, Codec};
use passive_dns::recorder::Recorder;
use passive_dns::resolvers::Resolvers;
use passive_dns::settings::Settings;

const RESOLVER: [u8; 4] = [192, 0, 2, 53];
const SERVER: [u8; 4] = [198, 51, 100, 1];
const PRIVATE_SERVER: [u8; 4] = [10, 0, 0, 53];

const QUERY: u16 = 0;
const RESPONSE: u16 = 0x8000;
const REFUSED: u16 = 0x8005;

const A: u16 = 1;
const CNAME: u16 = 5;
const OPT: u16 = 41;
const COOKIE: &[u8] = b"\0\x0a\0\x08COOKIE!!";

fn settings() -> Settings {
    Settings { codec: Codec::None, local_zones: vec!["corp.example".to_owned()], ..Settings::default() }
}

fn message(flags: u16, question: Option<&str>, records: &[(&str, u16, &[u8])]) -> Vec<u8> {
    let mut octets = vec![0x12, 0x34];
    for word in [flags, u16::from(question.is_some()), records.len() as u16, 0, 0] {
        octets.extend(word.to_be_bytes());
    }
    if let Some(question) = question {
        octets.extend(name::from_text(question).unwrap());
        octets.extend([0, 1, 0, 1]);
    }
    for (owner, rrtype, rdata) in records {
        octets.extend(name::from_text(owner).unwrap());
        octets.extend(rrtype.to_be_bytes());
        octets.extend([0, 1, 0, 0, 0, 0]);
        octets.extend((rdata.len() as u16).to_be_bytes());
        octets.extend(*rdata);
    }
    octets
}

/// An IP datagram without checksums, from the resolver if it holds a query, to the resolver if a response.
fn packet(server: [u8; 4], message: &[u8]) -> Vec<u8> {
    let resolver = (RESOLVER, [0xc3, 0x50]);
    let server = (server, [0, 53]);
    let (source, destination) = if message[2] & 0x80 == 0 { (resolver, server) } else { (server, resolver) };
    let udp_octets = 8 + message.len() as u16;
    let mut octets = vec![0x45, 0];
    octets.extend((20 + udp_octets).to_be_bytes());
    octets.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    octets.extend([source.0, destination.0].concat());
    octets.extend([source.1, destination.1].concat());
    octets.extend(udp_octets.to_be_bytes());
    octets.extend([0, 0]);
    octets.extend(message);
    octets
}

/// What is written of these messages, as one string of octets, and the counters of messages that are not zero.
fn recorded(
    settings: &Settings,
    server: [u8; 4],
    messages: &[Vec<u8>],
) -> (Vec<u8>, BTreeMap<&'static str, u64>) {
    let resolvers = Resolvers::parse(&["192.0.2.53"]).unwrap();
    let mut recorder = Recorder::new(resolvers, settings).unwrap();
    for message in messages {
        let octets = packet(server, message);
        recorder.record(&Frame {
            link: LinkType::Raw,
            time: Timestamp::new(1, 0),
            wire_length: octets.len(),
            octets: &octets,
            checksum_ready: true,
            encapsulated: true,
        });
    }
    let containers = recorder.finish();
    let named = recorder.counters().named().collect::<BTreeMap<_, _>>();
    assert_eq!(named["messages_seen"], messages.len() as u64);
    let counted = named
        .into_iter()
        .filter(|(name, count)| name.starts_with("messages_") && !name.ends_with("_seen") && *count > 0)
        .collect();
    (containers.into_iter().flat_map(|container| container.octets).collect(), counted)
}

#[track_caller]
fn assert_outcomes(messages: &[Vec<u8>], outcomes: &[(&'static str, u64)]) {
    let (_, counted) = recorded(&settings(), SERVER, messages);
    assert_eq!(counted, outcomes.iter().copied().collect());
}

#[test]
fn a_name_in_the_question_keeps_both_out() {
    let messages = ["a.CORP.example", "printer.local"]
        .map(|name| [message(QUERY, Some(name), &[]), message(RESPONSE, Some(name), &[])]);
    assert_outcomes(&messages.concat(), &[("messages_filtered_local_zone", 4)]);
}

#[test]
fn a_name_in_the_response_takes_the_query_along() {
    let local = name::from_text("a.corp.example").unwrap();
    let answer = message(RESPONSE, Some("www.example"), &[("www.example", CNAME, &local)]);
    let exchange = [message(QUERY, Some("www.example"), &[]), answer.clone()];
    assert_outcomes(&exchange, &[("messages_filtered_local_zone", 2)]);
    assert_outcomes(&[answer], &[("messages_filtered_local_zone", 1)]);
}

#[test]
fn a_query_of_one_label_waits_for_what_its_response_shows() {
    let query = message(QUERY, Some("intranet"), &[]);
    let servers = name::from_text("ns.nic.example").unwrap();
    let referral = message(RESPONSE, Some("intranet"), &[("intranet", 2, &servers)]);
    let denial = message(RESPONSE | 3, Some("intranet"), &[]);
    assert_outcomes(&[query.clone(), referral], &[("messages_recorded", 2)]);
    assert_outcomes(&[query.clone(), denial], &[("messages_filtered_local_zone", 2)]);
    assert_outcomes(std::slice::from_ref(&query), &[("messages_filtered_local_zone", 1)]);
    // A refusal may leave out the question; what is shown then is the query's.
    assert_outcomes(&[query, message(REFUSED, None, &[])], &[("messages_filtered_local_zone", 2)]);
}

#[test]
fn an_excluded_question_keeps_both_out() {
    let settings = Settings { exclude_qname_regex: Some(r"^pc-\d+\.".to_owned()), ..settings() };
    let messages = [QUERY, RESPONSE].map(|flags| message(flags, Some("PC-1.example"), &[]));
    let (octets, counted) = recorded(&settings, SERVER, &messages);
    assert_eq!(counted, BTreeMap::from([("messages_filtered_qname_regex", 2)]));
    assert!(octets.is_empty());
}

#[test]
fn servers_of_ones_own_are_kept_out() {
    let messages = [QUERY, RESPONSE].map(|flags| message(flags, Some("www.example"), &[]));
    let (octets, counted) = recorded(&settings(), PRIVATE_SERVER, &messages);
    assert_eq!(counted, BTreeMap::from([("messages_filtered_scope", 2)]));
    assert!(octets.is_empty());
    let admitting = Settings { admit_private_responders: true, ..settings() };
    assert_eq!(recorded(&admitting, PRIVATE_SERVER, &messages).1, BTreeMap::from([("messages_recorded", 2)]));
}

#[test]
fn options_go_from_queries_and_responses() {
    let messages = [
        message(QUERY, Some("www.example"), &[(".", OPT, COOKIE)]),
        message(RESPONSE, Some("www.example"), &[(".", OPT, COOKIE), ("www.example", A, &[192, 0, 2, 1])]),
    ];
    let keeping = Settings { keep_query_packets: true, ..settings() };
    let (octets, counted) = recorded(&keeping, SERVER, &messages);
    assert_eq!(counted, BTreeMap::from([("messages_recorded", 2)]));
    assert!(!octets.windows(6).any(|octets| octets == b"COOKIE"));
    let archive = Archive::open(&octets, 1 << 20).unwrap();
    let payload = archive.payloads().unwrap()[0];
    let dnsqr = DnsQr::read(payload.message).unwrap();
    let clean =
        message(RESPONSE, Some("www.example"), &[(".", OPT, b""), ("www.example", A, &[192, 0, 2, 1])]);
    assert_eq!(dnsqr.response_packet[0][28..], clean);
    assert_eq!(dnsqr.response_packet[0].len(), 28 + clean.len());

    let as_it_came = Settings { keep_edns_options: true, ..keeping };
    let (octets, _) = recorded(&as_it_came, SERVER, &messages);
    assert_eq!(octets.windows(6).filter(|octets| *octets == b"COOKIE").count(), 2);
}

#[test]
fn what_cannot_be_walked_is_malformed() {
    let query = message(QUERY, Some("www.example"), &[]);
    let mut response = message(RESPONSE, Some("www.example"), &[("www.example", A, &[192, 0, 2, 1])]);
    response.truncate(response.len() - 1);
    assert_outcomes(&[query, response], &[("messages_recorded", 1), ("messages_rejected_malformed", 1)]);
}

#[test]
fn new_settings_judge_what_waits() {
    let resolvers = || Resolvers::parse(&["192.0.2.53"]).unwrap();
    let open = Settings { local_zones: vec![], query_timeout: Duration::from_secs(60), ..settings() };
    let mut recorder = Recorder::new(resolvers(), &open).unwrap();
    let octets = packet(SERVER, &message(QUERY, Some("a.corp.example"), &[]));
    recorder.record(&Frame {
        link: LinkType::Raw,
        time: Timestamp::new(1, 0),
        wire_length: octets.len(),
        octets: &octets,
        checksum_ready: true,
        encapsulated: true,
    });
    let wrong = Settings { local_zones: vec!["..".to_owned()], ..settings() };
    assert!(recorder.reconfigure(resolvers(), &wrong).is_err());
    recorder.reconfigure(resolvers(), &settings()).unwrap();
    assert!(recorder.finish().is_empty());
    let counters: BTreeMap<_, _> = recorder.counters().named().collect();
    assert_eq!(counters["messages_filtered_local_zone"], 1);
}
