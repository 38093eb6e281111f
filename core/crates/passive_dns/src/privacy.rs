//! Clearing the resolver's address out of a packet that is to be stored.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::packet::Datagram;

/// Which end of a packet the resolver is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    Source,
    Destination,
}

/// Where a family's header has its source address, and where what may follow the fixed header begins.
const IPV4_SOURCE: usize = 12;
const IPV4_OPTIONS: usize = 20;
const IPV4_CHECKSUM: usize = 10;
const IPV6_SOURCE: usize = 8;
const IPV6_EXTENSIONS: usize = 40;

/// The unspecified address of the same family.
pub fn cleared(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Writes the IP datagram to `copy` without the address of one end.
///
/// Options and extension headers that repeat the address (record route, routing) lose it too. Checksums are
/// computed anew: an old one, together with the rest of the packet, tells 16 bits of the address.
pub fn clear_address(datagram: &Datagram<'_>, end: End, copy: &mut Vec<u8>) {
    copy.clear();
    copy.extend_from_slice(datagram.octets);
    let (source, destination, address) = match end {
        End::Source => (cleared(datagram.source), datagram.destination, datagram.source),
        End::Destination => (datagram.source, cleared(datagram.destination), datagram.destination),
    };
    let transport = datagram.transport;
    match address {
        IpAddr::V4(address) => {
            clear(copy, IPV4_SOURCE, IPV4_OPTIONS..transport, end, &address.octets());
            let checksum = checksum::ipv4_header(&copy[..transport]);
            copy[IPV4_CHECKSUM..IPV4_CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        IpAddr::V6(address) => clear(copy, IPV6_SOURCE, IPV6_EXTENSIONS..transport, end, &address.octets()),
    }
    checksum::renew_udp(&source, &destination, &mut copy[transport..transport + datagram.udp().len()]);
}

/// Clears the address in its place in the fixed header, and wherever `extras` repeat it.
fn clear(packet: &mut [u8], source: usize, extras: std::ops::Range<usize>, end: End, address: &[u8]) {
    let place = match end {
        End::Source => source,
        End::Destination => source + address.len(),
    };
    packet[place..place + address.len()].fill(0);
    let extras = &mut packet[extras];
    let mut at = 0;
    while at + address.len() <= extras.len() {
        let candidate = &mut extras[at..at + address.len()];
        if *candidate == *address {
            candidate.fill(0);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{UdpChecksum, verify_udp};
    use crate::frame::{Frame, LinkType, Timestamp};

    fn parse(octets: &[u8]) -> Datagram<'_> {
        let frame = Frame {
            link: LinkType::Raw,
            time: Timestamp::default(),
            wire_length: octets.len(),
            octets,
            checksum_ready: true,
        };
        Datagram::parse(&frame, |_, _| true).expect("a datagram")
    }

    /// A response from 198.51.100.1 to 192.0.2.53, with a record-route option that holds the latter.
    fn ipv4() -> Vec<u8> {
        let mut packet = vec![0x47, 0, 0, 42, 0, 1, 0, 0, 64, 17, 0, 0, 198, 51, 100, 1, 192, 0, 2, 53];
        packet.extend([7, 7, 8, 192, 0, 2, 53, 0]);
        packet.extend([0, 53, 0x30, 0x39, 0, 14, 0xff, 0xff]);
        packet.extend(b"answer");
        packet
    }

    fn ipv6() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 14, 17, 64];
        packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53]);
        packet.extend([0, 53, 0x30, 0x39, 0, 14, 0xff, 0xff]);
        packet.extend(b"answer");
        packet
    }

    #[test]
    fn nothing_of_the_address_is_left_and_checksums_are_right() {
        let resolver_v4 = [192, 0, 2, 53];
        let resolver_v6 = [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];
        for (packet, address) in [(ipv4(), &resolver_v4[..]), (ipv6(), &resolver_v6[..])] {
            let mut copy = Vec::new();
            clear_address(&parse(&packet), End::Destination, &mut copy);
            assert!(!copy.windows(address.len()).any(|window| window == address));
            let datagram = parse(&copy);
            assert!(datagram.destination.is_unspecified() && !datagram.source.is_unspecified());
            assert_eq!(verify_udp(&datagram), UdpChecksum::Correct);
            assert_eq!(datagram.payload(), b"answer");
            if datagram.source.is_ipv4() {
                let header = &copy[..datagram.transport];
                assert_eq!(header[10..12], checksum::ipv4_header(header).to_be_bytes());
            }
        }
    }

    #[test]
    fn the_other_end_stays() {
        let packet = ipv6();
        let mut copy = Vec::new();
        clear_address(&parse(&packet), End::Source, &mut copy);
        let datagram = parse(&copy);
        assert!(datagram.source.is_unspecified());
        assert_eq!(datagram.destination, parse(&packet).destination);
    }

    #[test]
    fn an_absent_checksum_stays_absent() {
        let mut packet = ipv4();
        packet[34..36].fill(0);
        let mut copy = Vec::new();
        clear_address(&parse(&packet), End::Destination, &mut copy);
        assert_eq!(verify_udp(&parse(&copy)), UdpChecksum::Absent);
    }
}
