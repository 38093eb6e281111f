//! The sensor's pipeline: from frames of any link type to containers.
//!
//! Two octets choose the settings; then come frames: one octet for the link type, one for the rest that a source
//! says of a frame, and the octets behind their length.
//!
//! Permitted outcomes:
//!
//! * every frame is counted once, under one outcome, and the sums of the ledger hold after each;
//! * every transaction that is counted stands in a container, is intact, of the kind counted, and of the origin
//!   in the settings; the times of a container are those of its payloads;
//! * what is stored of a packet is one whole IP datagram; with the resolver's address cleared, that address is
//!   nowhere in its headers and its checksum is right or absent;
//! * no query waits when all is finished; memory is bounded by the frames and the containers.

use std::collections::HashMap;
use std::net::IpAddr;

use passive_dns::counters::Counters;
use passive_dns::dns::Header;
use passive_dns::frame::{Frame, LinkType, Timestamp};
use passive_dns::nmsg::dnsqr::{DnsQr, Kind};
use passive_dns::nmsg::{Archive, Codec, Container, Envelope};
use passive_dns::packet::Packet;
use passive_dns::recorder::Recorder;
use passive_dns::resolvers::Resolvers;
use passive_dns::settings::Settings;
use passive_dns::stored;

use crate::input::Input;
use crate::memory::bounded;

const RESOLVERS: [&str; 4] = ["192.0.2.53", "198.51.100.0/28", "2001:db8::53", "2001:db8:53::/48"];

const LINK_TYPES: [LinkType; 6] = [
    LinkType::Ethernet,
    LinkType::Raw,
    LinkType::LinuxSll,
    LinkType::RawIpv4,
    LinkType::RawIpv6,
    LinkType::Other(147),
];

const ORIGIN: Envelope = Envelope { source: 0x1972_1976, operator: 1, group: 2 };

/// A recorder of these settings at rest, zlib's state among it.
const FIXED: usize = 2 << 20;

/// A frame is kept in the table or in the container being filled, and in the containers sealed; those are copied
/// once more when they are compressed, and lists double as they grow.
const KEPT_FOR_EACH_OCTET: usize = 8;

/// What a transaction takes beside its packets; the shortest frame is a header and 28 octets.
const KEPT_FOR_EACH_FRAME: usize = 2048;

pub fn check(octets: &[u8]) {
    let mut input = Input::new(octets);
    let settings = settings(&mut input);
    let frames = octets.len() / 4 + 1;
    let bound = octets.len() * KEPT_FOR_EACH_OCTET + frames.min(4096) * KEPT_FOR_EACH_FRAME + FIXED;
    let (counters, containers) = bounded(bound, || record(&mut input, &settings));
    check_containers(&counters, &containers, &settings);
}

fn settings(input: &mut Input<'_>) -> Settings {
    let switches = input.octet();
    Settings {
        table_max: 1 + usize::from(input.octet()) / 8,
        keep_query_packets: switches & 1 != 0,
        clear_resolver_address: switches & 2 != 0,
        admit_recursion_desired: switches & 4 != 0,
        codec: [Codec::None, Codec::Zlib, Codec::Zstd, Codec::None][usize::from(switches >> 3 & 3)],
        container_octets: if switches & 32 != 0 { 1024 } else { 16 * 1024 },
        envelope: ORIGIN,
        ..Settings::default()
    }
}

fn record(input: &mut Input<'_>, settings: &Settings) -> (Counters, Vec<Container>) {
    let resolvers = Resolvers::parse(&RESOLVERS).expect("prefixes");
    let mut recorder = Recorder::new(resolvers, settings).expect("settings in their ranges");
    let mut containers = Vec::new();
    let mut seconds = 1_700_000_000;
    let mut frames = 0;
    while !input.is_empty() {
        let link = LINK_TYPES[usize::from(input.octet()) % LINK_TYPES.len()];
        let state = input.octet();
        seconds += u32::from(state & 0x3f);
        let octets = input.chunk();
        frames += 1;
        recorder.record(&Frame {
            link,
            time: Timestamp::new(seconds, u32::from(state) << 20),
            wire_length: octets.len() + usize::from(state == 0xff),
            octets,
            checksum_ready: state & 0x40 == 0,
            encapsulated: state & 0x20 == 0,
        });
        assert_ledger(&recorder.counters(), frames);
        containers.extend(recorder.take_sealed());
    }
    recorder.tick(Timestamp::new(seconds + 3600, 0));
    assert_ledger(&recorder.counters(), frames);
    containers.extend(recorder.finish());
    let counters = recorder.counters();
    assert_ledger(&counters, frames);
    assert_eq!(counters.pending(), 0);
    (counters, containers)
}

fn assert_ledger(counters: &Counters, frames: u64) {
    let named: HashMap<_, _> = counters.named().collect();
    let sum = |prefix: &str| -> u64 {
        let of_stage = |name: &str| name.starts_with(prefix) && !name.ends_with("_seen");
        named.iter().filter(|(name, _)| of_stage(name)).map(|(_, value)| value).sum()
    };
    assert_eq!(named["packets_seen"], frames);
    assert_eq!(named["packets_seen"], sum("packets_"));
    assert_eq!(named["messages_seen"], sum("messages_") + counters.pending());
    let of_kinds =
        |counts: [u64; Kind::ALL.len()]| counts.iter().sum::<u64>() + counts[Kind::QueryResponse.index()];
    let messages = of_kinds(counters.transactions) + of_kinds(counters.transactions_filtered);
    assert_eq!(named["messages_recorded"], messages);
}

fn check_containers(counters: &Counters, containers: &[Container], settings: &Settings) {
    assert_eq!(counters.containers_sealed, containers.len() as u64);
    let mut kinds = [0; Kind::ALL.len()];
    for container in containers {
        let archive = Archive::open(&container.octets, 1 << 20).expect("what is written is read");
        let payloads = archive.payloads().expect("what is written is read");
        assert_eq!(payloads.len(), container.payloads as usize);
        for payload in &payloads {
            assert!(payload.intact);
            assert_eq!((payload.source, payload.operator, payload.group), (ORIGIN.source, 1, 2));
            let time = payload.seconds as u64;
            assert!((container.first.seconds()..=container.last.seconds()).contains(&time));
            let dnsqr = DnsQr::read(payload.message).expect("what is written is read");
            let kind = Kind::ALL.into_iter().find(|kind| *kind as u32 == dnsqr.kind).expect("a known kind");
            kinds[kind.index()] += 1;
            check_transaction(&dnsqr, settings);
        }
    }
    assert_eq!(kinds, counters.transactions);
}

fn check_transaction(dnsqr: &DnsQr<'_>, settings: &Settings) {
    assert!(settings.keep_query_packets || dnsqr.query_packet.is_empty());
    assert_eq!(dnsqr.resolver_address_zeroed.unwrap_or(false), settings.clear_resolver_address);
    let is_clear = |address: &[u8]| address.iter().all(|octet| *octet == 0);
    assert!(!settings.clear_resolver_address || is_clear(dnsqr.query_ip));
    for packet in dnsqr.query_packet.iter().chain(&dnsqr.response_packet) {
        let kept = Packet::of_octets(packet, |_| true).expect("a stored packet is a datagram");
        assert_eq!((kept.octets, kept.fragment), (*packet, None));
        let ends = [kept.source, kept.destination];
        assert!(!settings.clear_resolver_address || ends.iter().any(IpAddr::is_unspecified));
    }
    for packets in [&dnsqr.query_packet, &dnsqr.response_packet] {
        if !packets.is_empty() {
            let message = stored::message(dnsqr.proto, packets).expect("stored packets hold a message");
            let header = Header::parse(&message).expect("a header");
            assert_eq!(u32::from(header.id), dnsqr.id);
        }
    }
}
