//! Frames made for tests: well-formed ones, and such with one thing wrong.

use std::net::IpAddr;

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

/// What a frame is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    pub link: LinkType,
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

    fn ipv4(&self) -> Vec<u8> {
        let udp = self.udp();
        let options = (self.extras.len() % 4) * 4;
        let mut packet = vec![0x45 + (options / 4) as u8, 0];
        packet.extend(((20 + options + udp.len()) as u16).to_be_bytes());
        packet.extend([0, 1]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        for end in [self.source_address(), self.destination_address()] {
            let IpAddr::V4(end) = end else { unreachable!("the family was chosen before") };
            packet.extend(end.octets());
        }
        packet.extend(vec![1; options]);
        packet.extend(udp);
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
            let units = extra / 4 % 3;
            payload.extend([next.unwrap_or(self.protocol), units]);
            payload.extend(vec![0; 6 + 8 * usize::from(units)]);
            current = next;
        }
        assert_eq!(current, None);
        payload.extend(self.udp());
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
        let mut frame = Vec::new();
        if self.link == LinkType::Ethernet {
            frame.extend([2; 12]);
            for (number, tag) in self.vlan_tags.iter().enumerate() {
                frame.extend(tag.to_be_bytes());
                frame.extend([0, number as u8]);
            }
            frame.extend(if self.ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        }
        frame.extend(if self.ipv6 { self.ipv6() } else { self.ipv4() });
        frame.extend(vec![0; self.padding]);
        frame
    }
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
        prop_oneof![9 => Just(17u8), 1 => any::<u8>()],
        prop_oneof![9 => Just(0u16), 1 => any::<u16>(), 1 => Just(0x4000u16)],
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
        let (vlan_tags, ipv6, source, destination, extras, protocol, fragment) = outer;
        let (source_port, destination_port, id, flags, name, qtype, padding) = inner;
        Parts {
            link,
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
    let damage = prop_oneof![
        6 => Just(None),
        1 => any::<prop::sample::Index>().prop_map(|index| Some((index, None))),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(index, octet)| Some((index, Some(octet)))),
    ];
    (parts(link), damage).prop_map(|(parts, damage)| {
        let mut octets = parts.octets();
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
    Frame { link, time: Timestamp::new(seconds, 0), wire_length: octets.len(), octets, checksum_ready: true }
}
