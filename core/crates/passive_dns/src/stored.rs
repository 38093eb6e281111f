//! The packets of a transaction as they are kept: whole, well-formed IP datagrams.
//!
//! What came as one UDP datagram is kept as it came, but ends where UDP ends, and has neither IPv4 options nor
//! IPv6 extension headers, which may hold addresses of strangers (record route, routing). What came otherwise, by
//! a connection or from a resolver's own account, gets the least headers that carry it.
//!
//! If the resolver's address is not to be shown, its end is cleared in the headers: address and port. Checksums
//! are then computed anew: an old one, together with the rest of the packet, tells 16 bits of the address.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::message::{Datagram, Direction, Endpoint, Message, Transport};
use crate::outcome::PacketOutcome;
use crate::packet::{IPV4_HEADER_OCTETS_MIN, IPV6_HEADER_OCTETS, PROTOCOL_TCP, PROTOCOL_UDP, Packet};
use crate::udp;

/// The total length of IPv4, and the payload length of IPv6, are of 16 bits.
const LENGTH_MAX: usize = 65_535;

const TCP_HEADER_OCTETS: usize = 20;
/// The length in front of a message over TCP (RFC 1035 section 4.2.2).
const TCP_LENGTH_OCTETS: usize = 2;

const HOP_LIMIT: u8 = 64;
const TCP_PUSH_ACKNOWLEDGE: u8 = 0x18;

//------------ Ends --------------------------------------------------------------------------------------------

/// An end as it is shown once it is cleared: the unspecified address of its family, and no port.
pub fn cleared(end: Endpoint) -> Endpoint {
    let address = match end.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Endpoint { address, port: 0 }
}

//------------ Writing -----------------------------------------------------------------------------------------

/// The packets that keep `message`, one behind the other: it has the `scrubbed` octets instead of its own, if there
/// are any, and does not show its resolver if that is to be `clear`ed. They stand in `buffer` unless they can stay
/// where they are.
pub fn packets<'a>(
    message: &Message<'a>,
    scrubbed: Option<&[u8]>,
    clear: bool,
    buffer: &'a mut Vec<u8>,
) -> &'a [u8] {
    let changed = clear || scrubbed.is_some();
    let contents = scrubbed.unwrap_or(message.octets);
    if let Some(datagram) = message.datagram
        && !changed
        && is_bare(&datagram, contents.len())
    {
        return datagram.octets;
    }
    buffer.clear();
    let resolver = if clear { cleared(message.resolver) } else { message.resolver };
    let (source, destination) = match message.direction {
        Direction::ToServer => (resolver, message.server),
        Direction::FromServer => (message.server, resolver),
    };
    let ends = Ends { source, destination };
    match (message.datagram, message.transport) {
        (Some(datagram), _) => ends.write_copy(&datagram, contents, changed, buffer),
        (None, Transport::Udp) => ends.write_udp(contents, buffer),
        (None, Transport::Tcp) => ends.write_tcp(contents, buffer),
    }
    buffer
}

/// Whether there is nothing in the datagram but base header, UDP header and message.
fn is_bare(datagram: &Datagram<'_>, message_octets: usize) -> bool {
    let base = if datagram.octets[0] >> 4 == 4 { IPV4_HEADER_OCTETS_MIN } else { IPV6_HEADER_OCTETS };
    datagram.transport == base && datagram.octets.len() == base + udp::HEADER_OCTETS + message_octets
}

/// Between whom a packet is to go.
struct Ends {
    source: Endpoint,
    destination: Endpoint,
}

impl Ends {
    /// Copies what there is to keep of a datagram: its base header and its UDP header.
    fn write_copy(&self, datagram: &Datagram<'_>, contents: &[u8], changed: bool, buffer: &mut Vec<u8>) {
        let (headers, udp) = datagram.octets.split_at(datagram.transport);
        let udp_octets = udp::HEADER_OCTETS + contents.len();
        match self.source.address {
            IpAddr::V4(_) => {
                buffer.extend_from_slice(&headers[..IPV4_HEADER_OCTETS_MIN]);
                buffer[0] = 0x45;
                // Of the fragment field "don't fragment" stays.
                buffer[6] &= 0x40;
                buffer[7] = 0;
            }
            IpAddr::V6(_) => buffer.extend_from_slice(&headers[..IPV6_HEADER_OCTETS]),
        }
        self.finish_ip(PROTOCOL_UDP, udp_octets, buffer);
        let start = buffer.len();
        buffer.extend_from_slice(&udp[..udp::HEADER_OCTETS]);
        buffer.extend_from_slice(contents);
        if changed {
            self.finish_udp(udp_octets, &mut buffer[start..]);
            // The sender's choice to send no checksum is kept.
            if udp[6..8] != [0, 0] {
                self.finish_checksum(PROTOCOL_UDP, 6, &mut buffer[start..]);
            }
        }
    }

    fn write_udp(&self, contents: &[u8], buffer: &mut Vec<u8>) {
        let udp_octets = udp::HEADER_OCTETS + contents.len();
        self.write_ip(PROTOCOL_UDP, udp_octets, buffer);
        let start = buffer.len();
        buffer.extend([0; udp::HEADER_OCTETS]);
        buffer.extend_from_slice(contents);
        self.finish_udp(udp_octets, &mut buffer[start..]);
        self.finish_checksum(PROTOCOL_UDP, 6, &mut buffer[start..]);
    }

    /// Writes as many segments as the message needs: one, unless it is nearly of the greatest length.
    fn write_tcp(&self, contents: &[u8], buffer: &mut Vec<u8>) {
        let length = (contents.len() as u16).to_be_bytes();
        let headers = match self.source.address {
            IpAddr::V4(_) => IPV4_HEADER_OCTETS_MIN + TCP_HEADER_OCTETS,
            IpAddr::V6(_) => TCP_HEADER_OCTETS,
        };
        let first = contents.len().min(LENGTH_MAX - headers - TCP_LENGTH_OCTETS);
        let (first, second) = contents.split_at(first);
        self.write_segment(1, &length, first, buffer);
        if !second.is_empty() {
            let sequence = 1 + (TCP_LENGTH_OCTETS + first.len()) as u32;
            self.write_segment(sequence, &[], second, buffer);
        }
    }

    fn write_segment(&self, sequence: u32, length: &[u8], contents: &[u8], buffer: &mut Vec<u8>) {
        let tcp_octets = TCP_HEADER_OCTETS + length.len() + contents.len();
        self.write_ip(PROTOCOL_TCP, tcp_octets, buffer);
        let start = buffer.len();
        buffer.extend(self.source.port.to_be_bytes());
        buffer.extend(self.destination.port.to_be_bytes());
        buffer.extend(sequence.to_be_bytes());
        buffer.extend(1u32.to_be_bytes());
        buffer.extend([(TCP_HEADER_OCTETS as u8 / 4) << 4, TCP_PUSH_ACKNOWLEDGE, 0xff, 0xff, 0, 0, 0, 0]);
        buffer.extend_from_slice(length);
        buffer.extend_from_slice(contents);
        self.finish_checksum(PROTOCOL_TCP, 16, &mut buffer[start..]);
    }

    fn write_ip(&self, protocol: u8, payload_octets: usize, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        match self.source.address {
            IpAddr::V4(_) => {
                buffer.extend([0x45, 0, 0, 0, 0, 0, 0x40, 0, HOP_LIMIT, 0]);
                buffer.extend([0; 10]);
            }
            IpAddr::V6(_) => {
                buffer.extend([0x60, 0, 0, 0, 0, 0, 0, HOP_LIMIT]);
                buffer.extend([0; 32]);
            }
        }
        self.finish_ip_at(start, protocol, payload_octets, buffer);
    }

    fn finish_ip(&self, protocol: u8, payload_octets: usize, buffer: &mut [u8]) {
        self.finish_ip_at(0, protocol, payload_octets, buffer);
    }

    /// Fills in what a base header at `start` says of its datagram.
    fn finish_ip_at(&self, start: usize, protocol: u8, payload_octets: usize, buffer: &mut [u8]) {
        let header = &mut buffer[start..];
        match (self.source.address, self.destination.address) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total = (IPV4_HEADER_OCTETS_MIN + payload_octets) as u16;
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[9] = protocol;
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&destination.octets());
                let checksum = checksum::ipv4_header(header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header[4..6].copy_from_slice(&(payload_octets as u16).to_be_bytes());
                header[6] = protocol;
                header[8..24].copy_from_slice(&source.octets());
                header[24..40].copy_from_slice(&destination.octets());
            }
            // No message has ends of two families: each of its sources takes them from one header.
            _ => debug_assert!(false, "ends of two families"),
        }
    }

    fn finish_udp(&self, udp_octets: usize, udp: &mut [u8]) {
        udp[0..2].copy_from_slice(&self.source.port.to_be_bytes());
        udp[2..4].copy_from_slice(&self.destination.port.to_be_bytes());
        udp[4..6].copy_from_slice(&(udp_octets as u16).to_be_bytes());
    }

    /// Computes the checksum that stands at `field` of a transport header.
    fn finish_checksum(&self, protocol: u8, field: usize, segment: &mut [u8]) {
        segment[field..field + 2].fill(0);
        let checksum =
            checksum::transport(&self.source.address, &self.destination.address, protocol, segment);
        segment[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

//------------ Reading -----------------------------------------------------------------------------------------

/// The IP datagrams that stand one behind the other in `octets`, by their own lengths.
pub fn split(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let length = match rest.first()? >> 4 {
            4 => crate::packet::u16_at(rest, 2).map_or(rest.len(), usize::from),
            _ => crate::packet::u16_at(rest, 4)
                .map_or(rest.len(), |payload| IPV6_HEADER_OCTETS + usize::from(payload)),
        };
        let datagram = rest.split_off(..length.clamp(1, rest.len()))?;
        Some(datagram)
    })
}

/// Why the packets of a transaction give no message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unreadable {
    /// They are the fragments of a datagram.
    Fragmented,
    Malformed,
}

/// The DNS message in the packets of a transaction over UDP (17) or TCP (6), whoever wrote it.
pub fn message<'a>(proto: u32, packets: &[&'a [u8]]) -> Result<Cow<'a, [u8]>, Unreadable> {
    match (proto, packets) {
        (17, [packet]) => udp_message(packet).map(Cow::Borrowed),
        (17, [_, _, ..]) => Err(Unreadable::Fragmented),
        (6, _) => tcp_message(packets),
        _ => Err(Unreadable::Malformed),
    }
}

fn whole(packet: &[u8], protocol: u8) -> Result<Packet<'_>, Unreadable> {
    match Packet::of_octets(packet, |found| found == protocol) {
        Ok(packet) if packet.fragment.is_some() => Err(Unreadable::Fragmented),
        Ok(packet) => Ok(packet),
        Err(_) => Err(Unreadable::Malformed),
    }
}

fn udp_message(packet: &[u8]) -> Result<&[u8], Unreadable> {
    let malformed = |_: PacketOutcome| Unreadable::Malformed;
    let packet = whole(packet, PROTOCOL_UDP)?;
    let datagram = udp::datagram(&packet).map_err(malformed)?;
    Ok(&datagram[udp::HEADER_OCTETS..])
}

/// The data of consecutive segments is one message behind its length.
fn tcp_message<'a>(packets: &[&'a [u8]]) -> Result<Cow<'a, [u8]>, Unreadable> {
    let mut data: Cow<'a, [u8]> = Cow::Borrowed(&[]);
    let mut next = None;
    for packet in packets {
        let (sequence, octets) = tcp_data(packet)?;
        if next.is_some_and(|next| next != sequence) {
            return Err(Unreadable::Malformed);
        }
        next = Some(sequence.wrapping_add(octets.len() as u32));
        if data.is_empty() {
            data = Cow::Borrowed(octets);
        } else {
            data.to_mut().extend_from_slice(octets);
        }
    }
    let announced = data.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)));
    if announced.is_none_or(|announced| announced != data.len() - TCP_LENGTH_OCTETS) {
        return Err(Unreadable::Malformed);
    }
    Ok(match data {
        Cow::Borrowed(data) => Cow::Borrowed(&data[TCP_LENGTH_OCTETS..]),
        Cow::Owned(mut data) => {
            data.drain(..TCP_LENGTH_OCTETS);
            Cow::Owned(data)
        }
    })
}

/// The sequence number of a segment and its data.
fn tcp_data(packet: &[u8]) -> Result<(u32, &[u8]), Unreadable> {
    let tcp = whole(packet, PROTOCOL_TCP)?.payload();
    let header = tcp.first_chunk::<TCP_HEADER_OCTETS>().ok_or(Unreadable::Malformed)?;
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let data = tcp.get(usize::from(header[12] >> 4) * 4..).ok_or(Unreadable::Malformed)?;
    Ok((sequence, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{UdpChecksum, verify_udp};
    use crate::frame::Timestamp;

    const SERVER_V4: &str = "198.51.100.1";
    const RESOLVER_V4: &str = "192.0.2.53";
    const SERVER_V6: &str = "2001:db8::1";
    const RESOLVER_V6: &str = "2001:db8:1::53";

    fn end(address: &str, port: u16) -> Endpoint {
        Endpoint { address: address.parse().unwrap(), port }
    }

    /// A response from the server to the resolver.
    fn response<'a>(ipv6: bool, transport: Transport, octets: &'a [u8]) -> Message<'a> {
        let (server, resolver) = if ipv6 { (SERVER_V6, RESOLVER_V6) } else { (SERVER_V4, RESOLVER_V4) };
        Message {
            time: Timestamp::default(),
            resolver: end(resolver, 12_345),
            server: end(server, 53),
            direction: Direction::FromServer,
            transport,
            octets,
            checksum: None,
            datagram: None,
            asked: None,
            query_zone: None,
        }
    }

    /// An IPv4 response with a record-route option that holds the resolver's address, a wrong checksum, and two
    /// octets behind UDP.
    fn ipv4_with_option() -> Vec<u8> {
        let mut packet = vec![0x47, 0, 0, 44, 0, 1, 0, 0, 64, 17, 0, 0, 198, 51, 100, 1, 192, 0, 2, 53];
        packet.extend([7, 7, 8, 192, 0, 2, 53, 0]);
        packet.extend([0, 53, 0x30, 0x39, 0, 14, 0xff, 0xff]);
        packet.extend(b"answer..");
        packet
    }

    fn ipv6_with_extension() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 22, 60, 64];
        packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53]);
        packet.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend([0, 53, 0x30, 0x39, 0, 14, 0xff, 0xff]);
        packet.extend(b"answer");
        packet
    }

    /// Reads a kept packet, whose headers must be right in every respect.
    fn checked(octets: &[u8]) -> (Packet<'_>, (u16, u16), &[u8]) {
        let packet = Packet::of_octets(octets, |_| true).unwrap();
        assert_eq!(packet.octets.len(), octets.len());
        assert_eq!(packet.transport, if packet.source.is_ipv4() { 20 } else { 40 });
        if packet.source.is_ipv4() {
            assert_eq!(octets[10..12], checksum::ipv4_header(&octets[..20]).to_be_bytes());
        }
        let datagram = udp::datagram(&packet).unwrap();
        assert_eq!(datagram.len(), packet.payload().len());
        let port = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
        (packet, (port(0), port(2)), datagram)
    }

    #[test]
    fn options_and_trailing_octets_go_and_the_checksum_stays() {
        for (octets, transport) in [(ipv4_with_option(), 28), (ipv6_with_extension(), 48)] {
            let mut message = response(transport == 48, Transport::Udp, b"answer");
            message.datagram = Some(Datagram { octets: &octets, transport });
            let mut buffer = Vec::new();
            let kept = packets(&message, None, false, &mut buffer);
            let (packet, ports, datagram) = checked(kept);
            assert_eq!(
                (packet.source, packet.destination),
                (message.server.address, message.resolver.address)
            );
            assert_eq!(ports, (53, 12_345));
            assert_eq!(datagram[6..8], [0xff, 0xff]);
            assert_eq!(&datagram[8..], b"answer");
        }
    }

    #[test]
    fn a_bare_datagram_stays_where_it_is() {
        let octets = [&ipv4_with_option()[..20], &ipv4_with_option()[28..42]].concat();
        let mut message = response(false, Transport::Udp, b"answer");
        message.datagram = Some(Datagram { octets: &octets, transport: 20 });
        let mut buffer = Vec::new();
        let kept = packets(&message, None, false, &mut buffer);
        assert_eq!(kept.as_ptr(), octets.as_ptr());
    }

    #[test]
    fn nothing_of_a_cleared_resolver_is_left_and_checksums_are_right() {
        let resolver_v4 = &[192, 0, 2, 53][..];
        let resolver_v6 = &[0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53][..];
        for (octets, transport, address) in
            [(ipv4_with_option(), 28, resolver_v4), (ipv6_with_extension(), 48, resolver_v6)]
        {
            for datagram in [Some(Datagram { octets: &octets, transport }), None] {
                let mut message = response(transport == 48, Transport::Udp, b"answer");
                message.datagram = datagram;
                let mut buffer = Vec::new();
                let kept = packets(&message, None, true, &mut buffer);
                assert!(!kept.windows(address.len()).any(|window| window == address));
                assert!(!kept.windows(2).any(|window| window == 12_345u16.to_be_bytes()));
                let (packet, ports, datagram) = checked(kept);
                assert!(packet.destination.is_unspecified() && !packet.source.is_unspecified());
                assert_eq!(ports, (53, 0));
                let verdict = verify_udp(&packet.source, &packet.destination, datagram);
                assert_eq!((verdict, &datagram[8..]), (UdpChecksum::Correct, &b"answer"[..]));
            }
        }
    }

    #[test]
    fn an_absent_checksum_stays_absent() {
        let mut octets = ipv4_with_option();
        octets[34..36].fill(0);
        let mut message = response(false, Transport::Udp, b"answer");
        message.datagram = Some(Datagram { octets: &octets, transport: 28 });
        let mut buffer = Vec::new();
        let kept = packets(&message, None, true, &mut buffer);
        let (packet, _, datagram) = checked(kept);
        assert_eq!(verify_udp(&packet.source, &packet.destination, datagram), UdpChecksum::Absent);
    }

    #[test]
    fn other_contents_get_lengths_and_checksums_of_their_own() {
        let octets = ipv4_with_option();
        let mut message = response(false, Transport::Udp, b"answer");
        message.datagram = Some(Datagram { octets: &octets, transport: 28 });
        let mut buffer = Vec::new();
        let kept = packets(&message, Some(b"less"), false, &mut buffer);
        let (packet, _, datagram) = checked(kept);
        let verdict = verify_udp(&packet.source, &packet.destination, datagram);
        assert_eq!((verdict, &datagram[8..]), (UdpChecksum::Correct, &b"less"[..]));
    }

    #[test]
    fn a_message_over_tcp_is_read_as_it_was_written() {
        for ipv6 in [false, true] {
            let most = if ipv6 { 65_515 } else { 65_495 };
            for (octets, segments) in [(0, 1), (12, 1), (most - 2, 1), (most - 1, 2), (65_535, 2)] {
                let contents: Vec<u8> = (0..octets).map(|at| at as u8).collect();
                let mut buffer = Vec::new();
                let kept = packets(&response(ipv6, Transport::Tcp, &contents), None, false, &mut buffer);
                let segmented: Vec<&[u8]> = split(kept).collect();
                assert_eq!(segmented.len(), segments, "{octets} octets");
                for segment in &segmented {
                    let packet = Packet::of_octets(segment, |_| true).unwrap();
                    assert_eq!(packet.octets.len(), segment.len());
                    let sum = checksum::transport(&packet.source, &packet.destination, 6, packet.payload());
                    assert_eq!(sum, 0, "{octets} octets");
                }
                assert_eq!(message(6, &segmented).unwrap(), contents);
            }
        }
    }

    #[test]
    fn packets_that_hold_no_message() {
        let mut buffer = Vec::new();
        let contents = vec![0; 65_535];
        let long = response(false, Transport::Tcp, &contents);
        let kept = packets(&long, None, false, &mut buffer);
        let segments: Vec<&[u8]> = split(kept).collect();
        for (packets, unreadable) in [
            (&[][..], Unreadable::Malformed),
            (&segments[..1], Unreadable::Malformed),
            (&[segments[1], segments[0]], Unreadable::Malformed),
            (&[&segments[0][..30]], Unreadable::Malformed),
        ] {
            assert_eq!(message(6, packets), Err(unreadable));
        }
        assert_eq!(message(17, &segments), Err(Unreadable::Fragmented));
        assert_eq!(message(17, &segments[..1]), Err(Unreadable::Malformed));
        assert_eq!(message(1, &segments[..1]), Err(Unreadable::Malformed));
        let mut fragment = ipv4_with_option();
        fragment[6] = 0x20;
        assert_eq!(message(17, &[&fragment]), Err(Unreadable::Fragmented));
    }
}
