//! Frames made for tests: well-formed ones, and such with one thing wrong.

// Each test uses its part of it.
#![allow(dead_code)]

use std::net::IpAddr;

use passive_dns::checksum;
use passive_dns::frame::{Frame, LinkType, Timestamp};
use proptest::prelude::*;

pub const RESOLVERS: [&str; 4] = ["192.0.2.53", "198.51.100.64/26", "2001:db8::53", "2001:db8:5::/48"];

/// Listed addresses, and others near them.
const IPV4: [&str; 6] =
    ["192.0.2.53", "198.51.100.64", "198.51.100.127", "192.0.2.52", "198.51.100.128", "203.0.113.1"];
const IPV6: [&str; 6] = [
    "2001:db8::53",
    "2001:db8:5::",
    "2001:db8:5:ffff::9",
    "2001:db8::52",
    "2001:db8:6::",
    "2001:db8:ffff::1",
];

/// What a mirror wraps a packet in.
#[derive(Clone, Debug)]
pub struct Tunnel {
    pub kind: TunnelKind,
    pub ipv6: bool,
    /// GRE's; the first octet of ERSPAN's and of VXLAN's header is below.
    pub flags: u16,
    pub version: u8,
    /// VXLAN's source port.
    pub port: u16,
    pub fragment: u16,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TunnelKind {
    Gre,
    GreEthernet,
    Erspan,
    Vxlan,
}

/// What an ICMP error says of the packet that it quotes.
#[derive(Clone, Debug)]
pub struct Quoting {
    pub kind: u8,
    /// Whether it quotes a packet of its receiver.
    pub own: bool,
    pub tcp: bool,
    pub octets: usize,
    pub server: usize,
}

/// What a frame is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    pub link: LinkType,
    pub tunnels: Vec<Tunnel>,
    pub quoting: Quoting,
    pub vlan_tags: Vec<u16>,
    pub ipv6: bool,
    pub source: usize,
    pub destination: usize,
    /// Octets of IPv4 options, in fours; or IPv6 extension headers.
    pub extras: Vec<u8>,
    pub protocol: u8,
    pub fragment: u16,
    pub source_port: u16,
    pub destination_port: u16,
    pub id: u16,
    pub flags: u16,
    pub name: Vec<u8>,
    pub qtype: u16,
    pub padding: usize,
}

impl Parts {
    pub fn source_address(&self) -> IpAddr {
        address(self.ipv6, self.source)
    }

    pub fn destination_address(&self) -> IpAddr {
        address(self.ipv6, self.destination)
    }

    fn dns(&self) -> Vec<u8> {
        let mut message = Vec::new();
        for word in [self.id, self.flags, 1, 0, 0, 0] {
            message.extend(word.to_be_bytes());
        }
        message.extend(&self.name);
        message.extend(self.qtype.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    fn udp(&self) -> Vec<u8> {
        let message = self.dns();
        let mut datagram = Vec::new();
        for word in [self.source_port, self.destination_port, message.len() as u16 + 8, 0] {
            datagram.extend(word.to_be_bytes());
        }
        datagram.extend(message);
        datagram
    }

    fn tcp(&self) -> Vec<u8> {
        let message = self.dns();
        let mut segment = Vec::new();
        segment.extend(self.source_port.to_be_bytes());
        segment.extend(self.destination_port.to_be_bytes());
        segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend((message.len() as u16).to_be_bytes());
        segment.extend(message);
        segment
    }

    /// An error about a packet that the receiver, or somebody else, has sent.
    fn icmp(&self) -> Vec<u8> {
        let quoted = Parts {
            source: if self.quoting.own { self.destination } else { self.source },
            destination: self.quoting.server,
            protocol: if self.quoting.tcp { 6 } else { 17 },
            fragment: 0,
            tunnels: Vec::new(),
            ..self.clone()
        };
        let mut quote = quoted.packet();
        quote.truncate(self.quoting.octets);
        let mut message = vec![self.quoting.kind, 3, 0, 0, 0, 0, 0, 0];
        message.extend(quote);
        let checksum = if self.ipv6 {
            checksum::transport(&self.source_address(), &self.destination_address(), 58, &message)
        } else {
            checksum::icmp(&message)
        };
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        message
    }

    /// What is behind the IP headers.
    fn body(&self) -> Vec<u8> {
        match self.protocol {
            6 => self.tcp(),
            1 | 58 => self.icmp(),
            _ => self.udp(),
        }
    }

    fn packet(&self) -> Vec<u8> {
        if self.ipv6 { self.ipv6() } else { self.ipv4() }
    }

    fn ipv4(&self) -> Vec<u8> {
        let body = self.body();
        let options = (self.extras.len() % 4) * 4;
        let mut packet = vec![0x45 + (options / 4) as u8, 0];
        packet.extend(((20 + options + body.len()) as u16).to_be_bytes());
        packet.extend([0, 1]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        for end in [self.source_address(), self.destination_address()] {
            let IpAddr::V4(end) = end else { unreachable!("the family was chosen before") };
            packet.extend(end.octets());
        }
        packet.extend(vec![1; options]);
        packet.extend(body);
        packet
    }

    fn ipv6(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut types = self.extras.iter().map(|extra| match extra % 4 {
            3 => 44,
            other => passive_dns::packet::PROTOCOLS_EXTENSION[usize::from(other)],
        });
        let first = types.next();
        let mut current = first;
        for extra in &self.extras {
            let next = types.next();
            if current == Some(44) {
                payload.extend([next.unwrap_or(self.protocol), 0]);
                payload.extend(self.fragment.to_be_bytes());
                payload.extend([0, 0, 0, 7]);
            } else {
                let units = extra / 4 % 3;
                payload.extend([next.unwrap_or(self.protocol), units]);
                payload.extend(vec![0; 6 + 8 * usize::from(units)]);
            }
            current = next;
        }
        assert_eq!(current, None);
        payload.extend(self.body());
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((payload.len() as u16).to_be_bytes());
        packet.extend([first.unwrap_or(self.protocol), 64]);
        for end in [self.source_address(), self.destination_address()] {
            let IpAddr::V6(end) = end else { unreachable!("the family was chosen before") };
            packet.extend(end.octets());
        }
        packet.extend(payload);
        packet
    }

    pub fn octets(&self) -> Vec<u8> {
        let (mut ipv6, mut packet) = (self.ipv6, self.packet());
        for tunnel in &self.tunnels {
            packet = tunnel.around(ipv6, &packet);
            ipv6 = tunnel.ipv6;
        }
        let mut frame = Vec::new();
        if self.link == LinkType::Ethernet {
            frame = ethernet(&self.vlan_tags, ipv6);
        }
        frame.extend(packet);
        frame.extend(vec![0; self.padding]);
        frame
    }
}

fn ethernet(vlan_tags: &[u16], ipv6: bool) -> Vec<u8> {
    let mut header = vec![2; 12];
    for (number, tag) in vlan_tags.iter().enumerate() {
        header.extend(tag.to_be_bytes());
        header.extend([0, number as u8]);
    }
    header.extend(if ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    header
}

impl Tunnel {
    fn around(&self, ipv6_inside: bool, packet: &[u8]) -> Vec<u8> {
        let frame =
            || [&ethernet(&[0x8100][..usize::from(self.version) % 2], ipv6_inside)[..], packet].concat();
        let gre = |ethertype: [u8; 2], inside: &[u8]| {
            let options = (self.flags & 0xb000).count_ones() as usize;
            [&self.flags.to_be_bytes()[..], &ethertype, &vec![0xee; 4 * options], inside].concat()
        };
        let (protocol, body) = match self.kind {
            TunnelKind::Gre => (47, gre(if ipv6_inside { [0x86, 0xdd] } else { [0x08, 0x00] }, packet)),
            TunnelKind::GreEthernet => (47, gre([0x65, 0x58], &frame())),
            TunnelKind::Erspan => {
                let header = [self.version, 1, self.version & 0x04, 1, 0, 0, 0, 1];
                (47, gre([0x88, 0xbe], &[&header[..], &frame()].concat()))
            }
            TunnelKind::Vxlan => {
                let frame = frame();
                let mut datagram = self.port.to_be_bytes().to_vec();
                datagram.extend([0x12, 0xb5]);
                datagram.extend((frame.len() as u16 + 16).to_be_bytes());
                datagram.extend([0, 0, self.version, 0, 0, 0, 0, 0, 7, 0]);
                datagram.extend(frame);
                (17, datagram)
            }
        };
        let mut packet = Vec::new();
        if self.ipv6 {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((body.len() as u16).to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend([[0xfd; 16], [0xfe; 16]].concat());
        } else {
            packet.extend([0x45, 0]);
            packet.extend((20 + body.len() as u16).to_be_bytes());
            packet.extend([0, 1]);
            packet.extend(self.fragment.to_be_bytes());
            packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        packet.extend(body);
        packet
    }
}

fn tunnel() -> impl Strategy<Value = Tunnel> {
    let kind = prop::sample::select(vec![
        TunnelKind::Gre,
        TunnelKind::GreEthernet,
        TunnelKind::Erspan,
        TunnelKind::Vxlan,
    ]);
    let flags = prop_oneof![
        6 => prop::sample::select(vec![0u16, 0x8000, 0x2000, 0x1000, 0xb000, 0x3000]),
        1 => any::<u16>()
    ];
    let version = prop_oneof![
        6 => prop::sample::select(vec![0x18u8, 0x19, 0x1c]),
        1 => any::<u8>(),
    ];
    let port = prop_oneof![6 => Just(50_000u16), 1 => Just(53)];
    let fragment = prop_oneof![12 => Just(0u16), 1 => Just(0x2000), 1 => Just(0x0003)];
    (kind, any::<bool>(), flags, version, port, fragment).prop_map(
        |(kind, ipv6, flags, version, port, fragment)| {
            let flags = if kind == TunnelKind::Erspan { flags | 0x1000 } else { flags };
            Tunnel { kind, ipv6, flags, version, port, fragment }
        },
    )
}

fn quoting() -> impl Strategy<Value = Quoting> {
    let kind = prop_oneof![4 => Just(3u8), 3 => Just(1), 1 => any::<u8>()];
    let octets = prop_oneof![6 => Just(usize::MAX), 1 => 0usize..120];
    (kind, prop::bool::weighted(0.8), any::<bool>(), octets, 0..IPV4.len())
        .prop_map(|(kind, own, tcp, octets, server)| Quoting { kind, own, tcp, octets, server })
}

fn address(ipv6: bool, index: usize) -> IpAddr {
    let texts = if ipv6 { &IPV6 } else { &IPV4 };
    texts[index].parse().expect("an address")
}

/// Mostly what resolvers and their clients send; everything else now and then.
pub fn parts(link: LinkType) -> impl Strategy<Value = Parts> {
    let tag = prop_oneof![Just(0x8100u16), Just(0x88a8), Just(0x9100), Just(0x1234)];
    let outer = (
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(tag, 1..4)],
        any::<bool>(),
        0..IPV4.len(),
        0..IPV4.len(),
        prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 1..6)],
        prop_oneof![8 => Just(17u8), 3 => Just(6), 3 => Just(1), 3 => Just(58), 1 => any::<u8>()],
        prop_oneof![9 => Just(0u16), 1 => any::<u16>(), 1 => Just(0x4000u16), 1 => Just(0x2000), 1 => Just(0x0001)],
        quoting(),
    );
    let port = || prop_oneof![4 => Just(53u16), 2 => Just(50_000), 1 => any::<u16>()];
    let label = prop_oneof![Just(&b"\0"[..]), Just(&b"\x07example\0"[..]), Just(&b"\x07eXample\0"[..])];
    let inner = (
        port(),
        port(),
        0u16..3,
        prop_oneof![
            4 => Just(0u16), 4 => Just(0x8000), 1 => Just(0x0100), 1 => Just(0x8100), 1 => Just(0x8002),
            1 => any::<u16>()
        ],
        label,
        prop_oneof![9 => Just(1u16), 1 => 248u16..254],
        0usize..5,
    );
    (outer, inner).prop_map(move |(outer, inner)| {
        let (vlan_tags, ipv6, source, destination, extras, protocol, fragment, quoting) = outer;
        let (source_port, destination_port, id, flags, name, qtype, padding) = inner;
        Parts {
            link,
            tunnels: Vec::new(),
            quoting,
            vlan_tags,
            ipv6,
            source,
            destination,
            extras,
            protocol,
            fragment,
            source_port,
            destination_port,
            id,
            flags,
            name: name.to_vec(),
            qtype,
            padding,
        }
    })
}

/// The octets of such a frame, sometimes cut short or with an octet changed.
pub fn octets(link: LinkType) -> impl Strategy<Value = Vec<u8>> {
    octets_in(link, Just(Vec::new()))
}

/// The octets of such a frame, in up to three tunnels.
pub fn encapsulated_octets(link: LinkType) -> impl Strategy<Value = Vec<u8>> {
    octets_in(link, prop_oneof![1 => Just(Vec::new()), 6 => prop::collection::vec(tunnel(), 1..4)])
}

fn octets_in(link: LinkType, tunnels: impl Strategy<Value = Vec<Tunnel>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = prop_oneof![
        6 => Just(None),
        1 => any::<prop::sample::Index>().prop_map(|index| Some((index, None))),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(index, octet)| Some((index, Some(octet)))),
    ];
    (parts(link), tunnels, damage).prop_map(|(parts, tunnels, damage)| {
        let mut octets = Parts { tunnels, ..parts }.octets();
        match damage {
            None => {}
            Some((index, None)) => octets.truncate(index.index(octets.len())),
            Some((index, Some(octet))) => {
                let index = index.index(octets.len());
                octets[index] = octet;
            }
        }
        octets
    })
}

pub fn frame(link: LinkType, octets: &[u8], seconds: u32) -> Frame<'_> {
    Frame {
        link,
        time: Timestamp::new(seconds, 0),
        wire_length: octets.len(),
        octets,
        checksum_ready: true,
        encapsulated: false,
    }
}
