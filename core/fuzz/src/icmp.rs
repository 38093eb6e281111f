//! ICMP and ICMPv6 errors that quote a query.
//!
//! The first octet chooses the family and whether the resolver's address is cleared; the rest is an ICMP message,
//! which gets an IP header and a right checksum, since a wrong one ends everything.
//!
//! Permitted outcomes:
//!
//! * it is refused for one reason, or it quotes a packet to port 53 that its receiver has sent;
//! * what is kept of it is one IP datagram, the length its header says and no longer than headers, a name and its
//!   fields; read again it is the same error with the same question, and kept again the same octets;
//! * with the resolver's address cleared, that address and its port are nowhere in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use passive_dns::checksum;
use passive_dns::icmp::{IcmpError, PROTOCOL_ICMP, PROTOCOL_ICMPV6};

use crate::input::Input;

const IPV4: [[u8; 4]; 2] = [[203, 0, 113, 1], [192, 0, 2, 53]];
const IPV6: [[u8; 16]; 2] = [
    [0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53],
];

/// Two headers of IPv6, one of ICMPv6, one of TCP with its length, a DNS header, a name, its type and class.
const KEPT_OCTETS_MAX: usize = 2 * 40 + 8 + 22 + 12 + 255 + 4;

pub fn check(octets: &[u8]) {
    let mut input = Input::new(octets);
    let switches = input.octet();
    let ipv6 = switches & 1 != 0;
    let clear = switches & 2 != 0;
    let message = input.rest();
    let message = &message[..message.len().min(4096)];
    let datagram = if ipv6 { over_ipv6(message) } else { over_ipv4(message) };
    let Some(error) = parse(&datagram) else { return };
    assert_eq!((error.quote.source, error.quote.destination_port), (error.destination, 53));

    let mut kept = Vec::new();
    error.write(false, &mut kept);
    assert!(kept.len() <= KEPT_OCTETS_MAX, "{} octets", kept.len());
    let again = parse(&kept).expect("what is kept of an error is one");
    assert_eq!((again.kind, again.code), (error.kind, error.code));
    assert_eq!((again.quote.source, again.quote.destination), (error.quote.source, error.quote.destination));
    assert_eq!(again.quote.source_port, error.quote.source_port);
    assert_eq!(again.quote.question, error.quote.question);
    assert_eq!(again.quote.header.map(|header| header.id), error.quote.header.map(|header| header.id));
    let mut twice = Vec::new();
    again.write(false, &mut twice);
    assert_eq!(twice, kept);

    if clear {
        let mut cleared = Vec::new();
        error.write(true, &mut cleared);
        let again = parse(&cleared).expect("what is kept of an error is one");
        assert!(again.destination.is_unspecified() && again.quote.source.is_unspecified());
        assert_eq!(again.quote.source_port, 0);
        assert_eq!(cleared.len(), kept.len());
    }
}

/// Reads an IP datagram without options or extension headers.
fn parse(datagram: &[u8]) -> Option<IcmpError<'_>> {
    let (source, destination, transport) = match datagram[0] >> 4 {
        4 => {
            assert_eq!(usize::from(u16::from_be_bytes([datagram[2], datagram[3]])), datagram.len());
            let address = |at: usize| IpAddr::V4(Ipv4Addr::from(array::<4>(datagram, at)));
            (address(12), address(16), 20)
        }
        _ => {
            assert_eq!(usize::from(u16::from_be_bytes([datagram[4], datagram[5]])) + 40, datagram.len());
            let address = |at: usize| IpAddr::V6(Ipv6Addr::from(array::<16>(datagram, at)));
            (address(8), address(24), 40)
        }
    };
    IcmpError::parse(source, destination, datagram, transport).ok()
}

fn array<const N: usize>(octets: &[u8], at: usize) -> [u8; N] {
    octets[at..at + N].try_into().expect("so many octets")
}

fn over_ipv4(message: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, PROTOCOL_ICMP, 0, 0];
    datagram.extend(IPV4.concat());
    datagram.extend(message);
    let length = (datagram.len() as u16).to_be_bytes();
    datagram[2..4].copy_from_slice(&length);
    if message.len() >= 4 {
        datagram[22..24].fill(0);
        let sum = checksum::icmp(&datagram[20..]);
        datagram[22..24].copy_from_slice(&sum.to_be_bytes());
    }
    datagram
}

fn over_ipv6(message: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x60, 0, 0, 0];
    datagram.extend((message.len() as u16).to_be_bytes());
    datagram.extend([PROTOCOL_ICMPV6, 64]);
    datagram.extend(IPV6.concat());
    datagram.extend(message);
    if message.len() >= 4 {
        datagram[42..44].fill(0);
        let [source, destination] = IPV6.map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
        let sum = checksum::transport(&source, &destination, PROTOCOL_ICMPV6, &datagram[40..]);
        datagram[42..44].copy_from_slice(&sum.to_be_bytes());
    }
    datagram
}
