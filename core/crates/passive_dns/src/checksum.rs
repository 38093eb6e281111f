//! The Internet checksum (RFC 1071) over IPv4 headers, UDP datagrams and TCP segments.

use std::net::IpAddr;
use std::ops::Range;

use crate::packet::PROTOCOL_UDP;

/// What the check of a datagram's UDP checksum found; the numbers are those of base:dnsqr.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UdpChecksum {
    /// It cannot be checked.
    Error = 0,
    /// The sender sent none (the field is zero).
    Absent = 1,
    Incorrect = 2,
    Correct = 3,
}

/// Where the checksum stands in the UDP header.
const UDP_CHECKSUM: Range<usize> = 6..8;

/// The one's-complement sum of `octets` as 16-bit words, an odd one padded with zero, on top of `sum`.
///
/// The sum of words of eight octets, its carries taken around, is congruent to that of words of two octets modulo
/// 2^16 - 1.
fn add(sum: u64, octets: &[u8]) -> u64 {
    let (words, rest) = octets.as_chunks();
    let total = words.iter().fold(sum, |total, word| add_word(total, u64::from_be_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    add_word(total, u64::from_be_bytes(last))
}

#[inline]
fn add_word(sum: u64, word: u64) -> u64 {
    let (total, carried) = sum.overflowing_add(word);
    // A sum that was carried from has room for one more.
    total.wrapping_add(u64::from(carried))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The header checksum of an IPv4 header, whatever its checksum field holds now.
pub fn ipv4_header(header: &[u8]) -> u16 {
    let field = u64::from(u16::from_be_bytes([header[10], header[11]]));
    // Taking a word from a one's-complement sum is adding its complement.
    !fold(add(!field & 0xffff, header))
}

/// The sum of the pseudo-header (RFC 768; RFC 8200 section 8.1) and what is behind the IP headers.
fn transport_sum(source: &IpAddr, destination: &IpAddr, protocol: u8, segment: &[u8]) -> u64 {
    let mut sum = u64::from(protocol) + segment.len() as u64;
    for address in [source, destination] {
        sum = match address {
            IpAddr::V4(address) => add(sum, &address.octets()),
            IpAddr::V6(address) => add(sum, &address.octets()),
        };
    }
    add(sum, segment)
}

/// The checksum of a UDP datagram, a TCP segment or an ICMPv6 message whose checksum field is zero; of one that has
/// its checksum, 0, or with UDP its other form.
pub fn transport(source: &IpAddr, destination: &IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    match !fold(transport_sum(source, destination, protocol, segment)) {
        // Zero would say that there is no checksum (RFC 768).
        0 if protocol == PROTOCOL_UDP => 0xffff,
        other => other,
    }
}

/// The checksum of an ICMP message (RFC 792) whose checksum field is zero; of one that has its checksum, 0.
pub fn icmp(message: &[u8]) -> u16 {
    !fold(add(0, message))
}

/// Checks the checksum of a UDP datagram, header included.
pub fn verify_udp(source: &IpAddr, destination: &IpAddr, datagram: &[u8]) -> UdpChecksum {
    if datagram[UDP_CHECKSUM] == [0, 0] {
        return UdpChecksum::Absent;
    }
    match fold(transport_sum(source, destination, PROTOCOL_UDP, datagram)) {
        0xffff => UdpChecksum::Correct,
        _ => UdpChecksum::Incorrect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1071_example() {
        // Section 3: the words 0001 f203 f4f5 f6f7 add up to ddf2.
        assert_eq!(fold(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn odd_octets_are_padded_on_the_right() {
        for length in 0..9 {
            let octets: Vec<u8> = (1..=length).collect();
            let words = octets
                .chunks(2)
                .map(|word| u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])));
            assert_eq!(fold(add(0, &octets)), fold(words.sum()), "{length} octets");
        }
    }

    #[test]
    fn ipv4_header_checksum_ignores_the_field() {
        let mut header: [u8; 20] =
            [0x45, 0, 0, 0x3c, 0x1c, 0x46, 0x40, 0, 0x40, 17, 0, 0, 192, 0, 2, 53, 198, 51, 100, 1];
        let checksum = ipv4_header(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(fold(add(0, &header)), 0xffff);
        assert_eq!(ipv4_header(&header), checksum);
    }
}
