//! The recorder as a whole: every packet has one outcome, every recorded packet is in one transaction.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use passive_dns::counters::Counters;
use passive_dns::frame::{LinkType, Timestamp};
use passive_dns::nmsg::dnsqr::{DnsQr, Kind};
use passive_dns::nmsg::{Archive, Codec, Container, Payload};
use passive_dns::recorder::Recorder;
use passive_dns::resolvers::Resolvers;
use passive_dns::settings::{Kinds, Settings};
use proptest::prelude::*;

fn recorder(settings: &Settings) -> Recorder {
    Recorder::new(Resolvers::parse(&common::RESOLVERS).unwrap(), settings).unwrap()
}

fn assert_sums(counters: &Counters) -> Result<(), TestCaseError> {
    let named: HashMap<_, _> = counters.named().collect();
    let sum = |prefix: &str| -> u64 {
        let of_stage = |name: &str| name.starts_with(prefix) && !name.ends_with("_seen");
        named.iter().filter(|(name, _)| of_stage(name)).map(|(_, count)| count).sum()
    };
    prop_assert_eq!(named["packets_seen"], sum("packets_"));
    prop_assert_eq!(named["messages_seen"], sum("messages_") + named["transactions_pending"]);
    let messages: u64 =
        [("query_response", 2), ("unanswered_query", 1), ("unsolicited_response", 1), ("icmp", 1)]
            .iter()
            .map(|(kind, messages)| {
                let [written, filtered] =
                    ["", "filtered_"].map(|way| named[&*format!("transactions_{way}{kind}")]);
                messages * (written + filtered)
            })
            .sum();
    prop_assert_eq!(named["messages_recorded"], messages);
    Ok(())
}

fn payload_count(containers: &[Container]) -> u64 {
    containers.iter().map(|container| u64::from(container.payloads)).sum()
}

const LINKS: [LinkType; 4] = [LinkType::Ethernet, LinkType::Raw, LinkType::RawIpv6, LinkType::Other(147)];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_packet_has_one_outcome(
        frames in prop::collection::vec(
            (prop::sample::select(&LINKS[..]).prop_flat_map(|link| (Just(link), common::octets(link))), 0u32..40, 0usize..20),
            0..120,
        ),
        table_max in 1usize..20,
        keep_query_packets: bool,
        clear_resolver_address: bool,
        admit_recursion_desired: bool,
        kinds in prop::sample::subsequence(&Kind::NAMES[..], 1..=Kind::NAMES.len()),
    ) {
        let mut recorder = recorder(&Settings {
            table_max,
            keep_query_packets,
            clear_resolver_address,
            admit_recursion_desired,
            kinds: Kinds::parse(&kinds).unwrap(),
            container_octets: 1024,
            ..Settings::default()
        });
        let mut containers = Vec::new();
        let mut seconds = 0;
        for ((link, octets), pause, cut) in &frames {
            seconds += pause;
            let mut frame = common::frame(*link, octets, seconds);
            if *cut == 0 {
                frame.wire_length += 1;
            }
            recorder.record(&frame);
            assert_sums(&recorder.counters())?;
            prop_assert!(recorder.counters().pending() <= table_max as u64);
            containers.extend(recorder.take_sealed());
        }
        containers.extend(recorder.finish());
        let counters = recorder.counters();
        assert_sums(&counters)?;
        prop_assert_eq!(counters.packets_seen, frames.len() as u64);
        prop_assert_eq!(counters.pending(), 0);
        prop_assert_eq!(counters.containers_sealed, containers.len() as u64);
        let transactions: u64 = counters.transactions.iter().sum();
        prop_assert_eq!(payload_count(&containers), transactions);
        for container in &containers {
            let archive = Archive::open(&container.octets, 1 << 20).unwrap();
            let payloads = archive.payloads().unwrap();
            prop_assert_eq!(payloads.len(), container.payloads as usize);
            prop_assert!(payloads.iter().all(|payload| payload.intact && DnsQr::read(payload.message).is_ok()));
        }
    }

    #[test]
    fn no_listed_address_survives_clearing(parts in prop::collection::vec(common::parts(LinkType::Ethernet), 1..40)) {
        let mut recorder = recorder(&Settings {
            keep_query_packets: true,
            clear_resolver_address: true,
            codec: Codec::None,
            ..Settings::default()
        });
        for parts in &parts {
            recorder.record(&common::frame(LinkType::Ethernet, &parts.octets(), 0));
        }
        let octets: Vec<u8> = recorder.finish().into_iter().flat_map(|container| container.octets).collect();
        let listed = Resolvers::parse(&common::RESOLVERS).unwrap();
        for parts in &parts {
            for address in [parts.source_address(), parts.destination_address()] {
                let text = match address {
                    std::net::IpAddr::V4(address) => address.octets().to_vec(),
                    std::net::IpAddr::V6(address) => address.octets().to_vec(),
                };
                if listed.contains(&address) {
                    prop_assert!(!octets.windows(text.len()).any(|window| window == text), "{} is there", address);
                }
            }
        }
    }
}

//------------ By example --------------------------------------------------------------------------------------

/// A query from 192.0.2.53 to 203.0.113.1, or the response to it.
fn message(response: bool, id: u16) -> Vec<u8> {
    let mut parts = common::Parts {
        link: LinkType::Raw,
        tunnels: Vec::new(),
        quoting: common::Quoting { kind: 3, own: true, tcp: false, octets: usize::MAX, server: 5 },
        vlan_tags: Vec::new(),
        ipv6: false,
        source: 0,
        destination: 5,
        extras: Vec::new(),
        protocol: 17,
        fragment: 0,
        source_port: 50_000,
        destination_port: 53,
        id,
        flags: 0,
        name: b"\x03www\x07example\0".to_vec(),
        qtype: 1,
        padding: 0,
    };
    if response {
        std::mem::swap(&mut parts.source, &mut parts.destination);
        std::mem::swap(&mut parts.source_port, &mut parts.destination_port);
        parts.flags = 0x8000;
    }
    parts.octets()
}

fn record(recorder: &mut Recorder, response: bool, id: u16, seconds: u32) {
    recorder.record(&common::frame(LinkType::Raw, &message(response, id), seconds));
}

fn with_payloads<R>(containers: &[Container], with: impl FnOnce(&[Payload<'_>]) -> R) -> R {
    let octets: Vec<u8> = containers.iter().flat_map(|container| container.octets.clone()).collect();
    let archive = Archive::open(&octets, 1 << 20).unwrap();
    with(&archive.payloads().unwrap())
}

#[test]
fn query_times_are_kept_without_query_packets() {
    for (keep_query_packets, packets) in [(false, 0), (true, 1)] {
        let mut recorder = recorder(&Settings { keep_query_packets, ..Settings::default() });
        record(&mut recorder, false, 1, 100);
        record(&mut recorder, true, 1, 102);
        with_payloads(&recorder.finish(), |payloads| {
            assert_eq!((payloads.len(), payloads[0].seconds), (1, 100));
            let dnsqr = DnsQr::read(payloads[0].message).unwrap();
            assert_eq!((dnsqr.kind, dnsqr.query_packet.len(), dnsqr.response_packet.len()), (1, packets, 1));
            assert_eq!((dnsqr.query_time_sec, dnsqr.response_time_sec), (vec![100], vec![102]));
        });
    }
}

#[test]
fn unanswered_queries_say_how_long_they_waited() {
    let mut recorder = recorder(&Settings::default());
    record(&mut recorder, false, 1, 100);
    recorder.tick(Timestamp::new(160, 0));
    assert_eq!(recorder.counters().pending(), 1);
    recorder.tick(Timestamp::new(161, 500_000_000));
    assert_eq!(
        (recorder.counters().pending(), recorder.counters().transactions(Kind::UnansweredQuery)),
        (0, 1)
    );
    with_payloads(&recorder.finish(), |payloads| {
        let dnsqr = DnsQr::read(payloads[0].message).unwrap();
        assert_eq!((dnsqr.kind, dnsqr.timeout, dnsqr.rcode), (2, Some(61.5), None));
    });
}

#[test]
fn a_full_table_loses_nothing_but_patience() {
    let mut recorder = recorder(&Settings { table_max: 2, ..Settings::default() });
    for id in 0..5 {
        record(&mut recorder, false, id, 100);
    }
    let counters = recorder.counters();
    let unanswered = counters.transactions(Kind::UnansweredQuery);
    assert_eq!((counters.pending(), counters.table_evicted, unanswered), (2, 3, 3));
    record(&mut recorder, true, 0, 100);
    assert_eq!(recorder.counters().transactions(Kind::UnsolicitedResponse), 1);
}

#[test]
fn a_container_is_sealed_an_interval_after_its_first_transaction() {
    let mut recorder = recorder(&Settings { flush_interval: Duration::from_secs(5), ..Settings::default() });
    record(&mut recorder, true, 1, 100);
    record(&mut recorder, true, 2, 104);
    assert!(recorder.take_sealed().is_empty());
    recorder.tick(Timestamp::new(105, 0));
    assert_eq!(payload_count(&recorder.take_sealed()), 2);
}

#[test]
fn a_container_does_not_wait_for_a_clock_that_was_set_back() {
    let mut recorder = recorder(&Settings { flush_interval: Duration::from_secs(5), ..Settings::default() });
    record(&mut recorder, true, 1, 100_000);
    recorder.tick(Timestamp::new(50_000, 0));
    assert_eq!(payload_count(&recorder.take_sealed()), 1);
}

#[test]
fn containers_keep_to_their_size() {
    let mut recorder =
        recorder(&Settings { container_octets: 1024, codec: Codec::None, ..Settings::default() });
    for id in 0..100 {
        record(&mut recorder, true, id, 100);
    }
    let containers = recorder.finish();
    assert_eq!(payload_count(&containers), 100);
    for container in &containers[..containers.len() - 1] {
        assert!((800..=1024).contains(&container.octets.len()), "{}", container.octets.len());
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    for settings in [
        Settings { table_max: 0, ..Settings::default() },
        Settings { container_octets: 100, ..Settings::default() },
        Settings { container_octets: 2 << 20, ..Settings::default() },
    ] {
        let resolvers = Resolvers::parse(&common::RESOLVERS).unwrap();
        let error = Recorder::new(resolvers, &settings).err().expect("a refusal").to_string();
        assert!(error.contains("must be from"), "{error}");
    }
}

#[test]
fn types_that_are_switched_off_are_counted_and_not_written() {
    for (kinds, written) in [
        (&["query_response"][..], [1, 0, 0]),
        (&["unanswered_query", "icmp"], [0, 1, 0]),
        (&["unsolicited_response", "query_response"], [1, 0, 1]),
    ] {
        let mut recorder = recorder(&Settings { kinds: Kinds::parse(kinds).unwrap(), ..Settings::default() });
        record(&mut recorder, false, 1, 100);
        record(&mut recorder, true, 1, 100);
        record(&mut recorder, false, 2, 100);
        record(&mut recorder, true, 3, 100);
        assert_eq!(payload_count(&recorder.finish()), written.iter().sum());
        let counters = recorder.counters();
        assert_eq!(counters.transactions[..3], written);
        assert_eq!(counters.transactions_filtered[..3], written.map(|count| 1 - count));
        assert_sums(&counters).unwrap();
    }
    assert!(Kinds::parse(&["tcp"]).unwrap_err().to_string().contains("query_response, unanswered_query"));
    assert!(Kinds::parse::<&str>(&[]).is_err());
}

#[test]
fn reconfiguring_keeps_what_waits_and_forgets_kept_packets() {
    let mut recorder = recorder(&Settings { keep_query_packets: true, ..Settings::default() });
    record(&mut recorder, false, 1, 100);
    record(&mut recorder, true, 2, 100);
    let cleared = Settings {
        keep_query_packets: true,
        clear_resolver_address: true,
        codec: Codec::None,
        ..Settings::default()
    };
    recorder.reconfigure(Resolvers::parse(&["192.0.2.53"]).unwrap(), &cleared).unwrap();
    assert_eq!(payload_count(&recorder.take_sealed()), 1, "the container in progress was sealed");
    record(&mut recorder, true, 1, 102);
    with_payloads(&recorder.finish(), |payloads| {
        let dnsqr = DnsQr::read(payloads[0].message).unwrap();
        assert_eq!((dnsqr.kind, dnsqr.query_time_sec, dnsqr.query_packet), (1, vec![100], Vec::new()));
        assert_eq!((dnsqr.query_ip, dnsqr.query_port), (&[0; 4][..], 0));
    });
    let wrong = Settings { table_max: 0, ..Settings::default() };
    assert!(recorder.reconfigure(Resolvers::parse(&["192.0.2.53"]).unwrap(), &wrong).is_err());
}

#[test]
fn a_list_of_everybody_is_refused_unless_it_is_asked_for() {
    let everybody = || Resolvers::parse(&["0.0.0.0/0"]).unwrap();
    let error = Recorder::new(everybody(), &Settings::default()).err().expect("a refusal").to_string();
    assert!(error.contains("every IPv4 address") && error.contains("admit_every_address"), "{error}");
    let settings = Settings { admit_every_address: true, ..Settings::default() };
    let mut recorder = Recorder::new(everybody(), &settings).unwrap();
    record(&mut recorder, false, 1, 100);
    record(&mut recorder, true, 1, 100);
    assert_eq!(recorder.counters().transactions(Kind::QueryResponse), 1);
}
