//! ICMP and ICMPv6 errors that quote a packet to a DNS server: who could not be asked, and what.
//!
//! ```text
//! let error = IcmpError::parse(packet.source, packet.destination, packet.octets, packet.transport)?;
//! ... judge error.quote: addresses, ports, header, question ...
//! error.write(clear, &mut buffer);                               // what may be kept of it
//! ```
//!
//! Read are the errors that say that a packet did not arrive: destination unreachable and time exceeded
//! (RFC 792; a packet too big is code 4 of the former) and, of ICMPv6, destination unreachable, packet too big and
//! time exceeded (RFC 4443). Routers quote as much of the packet as they like, at least eight octets behind its IP
//! header, so that of its DNS message there may be all, a part, or nothing.
//!
//! Kept is not what came but a datagram written anew, which holds nothing that has not been looked at: IP without
//! options and extension headers, the error, and in it the quoted packet up to the end of its question, with lengths,
//! counts and checksums that say so. What a router may append to a quote (RFC 4884) is gone, and so is its address,
//! which tells whose router it is: only the server asked is shown as the sender.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::dns::{DNS_PORT, HEADER_OCTETS, Header, Question};
use crate::limits::EXTENSION_HEADERS_MAX;
use crate::packet::{IPV6_HEADER_OCTETS, PROTOCOL_FRAGMENT, PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOLS_EXTENSION};
use crate::tcp;
use crate::udp::HEADER_OCTETS as UDP_HEADER_OCTETS;

pub const PROTOCOL_ICMP: u8 = 1;
pub const PROTOCOL_ICMPV6: u8 = 58;

const ICMP_HEADER_OCTETS: usize = 8;
const ICMP_CHECKSUM: usize = 2;
/// Where the second word of the header begins; what it says depends on the type.
const ICMP_REST: usize = 4;

const IPV4_HEADER_OCTETS: usize = 20;
/// Where the header has its addresses, the last that it has.
const IPV4_ADDRESSES: usize = 12;
const IPV6_ADDRESSES: usize = 8;
/// Of the fragment field of IPv4: don't fragment, and the offset in units of eight octets.
const IPV4_DONT_FRAGMENT: u8 = 0x40;
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;
/// The fragment header of IPv6 (RFC 8200 section 4.5).
const FRAGMENT_HEADER_OCTETS: usize = 8;
const IPV6_FRAGMENT_OFFSET: u16 = 0xfff8;

/// What routers quote behind the IP header at the very least (RFC 792), which is UDP's whole header, and of TCP's
/// the ports and the sequence number.
const QUOTED_OCTETS_MIN: usize = 8;

const UDP_CHECKSUM: usize = 6;
const TCP_CHECKSUM: usize = 16;

//------------ Refusal -----------------------------------------------------------------------------------------

/// Why an ICMP message is not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// It is none of the errors that are read, or quotes neither UDP nor TCP.
    Protocol,
    /// The quoted packet did not go to port 53.
    Port,
    /// Its lengths or its checksum are wrong, it quotes a packet that its receiver did not send, or the inside of a
    /// fragmented one.
    Malformed,
}

//------------ Quote -------------------------------------------------------------------------------------------

/// The packet that did not arrive, as far as it is quoted.
#[derive(Clone, Copy, Debug)]
pub struct Quote<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    /// 17, UDP, or 6, TCP.
    pub protocol: u8,
    /// The DNS message's header, if all of it is quoted.
    pub header: Option<Header>,
    /// The DNS message's question, if it has exactly one and all of it is quoted.
    pub question: Option<Question<'a>>,
    /// The IP header, without options and extension headers.
    network: &'a [u8],
    /// From UDP's or TCP's header on.
    transport: &'a [u8],
    /// The DNS message as far as it is quoted.
    message: &'a [u8],
}

impl<'a> Quote<'a> {
    fn parse(octets: &'a [u8]) -> Result<Self, Refusal> {
        let Network { source, destination, protocol, header: network, transport } = Network::parse(octets)?;
        if ![PROTOCOL_UDP, PROTOCOL_TCP].contains(&protocol) {
            return Err(Refusal::Protocol);
        }
        let ports = transport.first_chunk::<QUOTED_OCTETS_MIN>().ok_or(Refusal::Malformed)?;
        let source_port = u16::from_be_bytes([ports[0], ports[1]]);
        let destination_port = u16::from_be_bytes([ports[2], ports[3]]);
        if destination_port != DNS_PORT {
            return Err(Refusal::Port);
        }
        let message = match protocol {
            PROTOCOL_UDP => {
                let length = usize::from(u16::from_be_bytes([ports[4], ports[5]]));
                &transport[UDP_HEADER_OCTETS..transport.len().min(length).max(UDP_HEADER_OCTETS)]
            }
            _ => tcp_message(source, destination, transport),
        };
        let header = Header::parse(message);
        let question = header.and_then(|header| Question::of_message(&header, message).ok().flatten());
        Ok(Quote {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            header,
            question,
            network,
            transport,
            message,
        })
    }

    /// Where the DNS message ends once everything behind its question is gone, and how many questions it has then.
    fn kept(&self) -> (usize, u16) {
        match (&self.header, &self.question) {
            (Some(_), Some(question)) => (HEADER_OCTETS + question.name.len() + 4, 1),
            (Some(_), None) => (HEADER_OCTETS, 0),
            (None, _) => (0, 0),
        }
    }

    /// Appends the quote as it may be kept.
    fn write(&self, clear: bool, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        let (kept, questions) = self.kept();
        let source = if clear { unspecified(&self.source) } else { self.source };
        write_ip(self.network, &source, &self.destination, buffer);
        let transport = buffer.len();
        if self.protocol == PROTOCOL_UDP {
            buffer.extend_from_slice(&self.transport[..UDP_HEADER_OCTETS]);
            set(buffer, transport + 4, UDP_HEADER_OCTETS + kept);
        } else {
            let quoted = self.transport.len().min(tcp::HEADER_OCTETS_MIN);
            buffer.extend_from_slice(&self.transport[..quoted]);
            // What a router did not quote is zero, and the options are gone.
            buffer.resize(transport + tcp::HEADER_OCTETS_MIN, 0);
            // In units of four octets, in the upper four bits.
            buffer[transport + 12] = (tcp::HEADER_OCTETS_MIN << 2) as u8;
            if kept > 0 {
                buffer.extend((kept as u16).to_be_bytes());
            }
        }
        let message = buffer.len();
        buffer.extend_from_slice(&self.message[..kept]);
        if kept > 0 {
            buffer[message + 4..message + HEADER_OCTETS].fill(0);
            set(buffer, message + 4, usize::from(questions));
        }
        if clear {
            set(buffer, transport, 0);
        }
        let place = match self.protocol {
            // A sender's choice to send no checksum is kept, as far as its family has it.
            PROTOCOL_UDP if source.is_ipv4() && self.transport[UDP_CHECKSUM..][..2] == [0, 0] => None,
            PROTOCOL_UDP => Some(transport + UDP_CHECKSUM),
            _ => Some(transport + TCP_CHECKSUM),
        };
        if let Some(place) = place {
            set(buffer, place, 0);
            let sum = checksum::transport(&source, &self.destination, self.protocol, &buffer[transport..]);
            set(buffer, place, usize::from(sum));
        }
        finish_ip(&source, self.protocol, &mut buffer[start..]);
    }
}

/// The message that a quoted segment of TCP begins with, if it does.
fn tcp_message(source: IpAddr, destination: IpAddr, transport: &[u8]) -> &[u8] {
    let segment = tcp::Segment::parse(source, destination, transport);
    segment.ok().and_then(|segment| segment.message_begun()).unwrap_or_default()
}

/// The IP layer of a packet that may be cut short anywhere behind its header.
struct Network<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// The fixed part of the header.
    header: &'a [u8],
    transport: &'a [u8],
}

impl<'a> Network<'a> {
    fn parse(octets: &'a [u8]) -> Result<Self, Refusal> {
        match octets.first().map(|octet| octet >> 4) {
            Some(4) => Self::ipv4(octets),
            Some(6) => Self::ipv6(octets),
            _ => Err(Refusal::Malformed),
        }
    }

    fn ipv4(octets: &'a [u8]) -> Result<Self, Refusal> {
        let header = octets.first_chunk::<IPV4_HEADER_OCTETS>().ok_or(Refusal::Malformed)?;
        let header_octets = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]])).min(octets.len());
        let inside = u16::from_be_bytes([header[6], header[7]]) & IPV4_FRAGMENT_OFFSET != 0;
        if header_octets < IPV4_HEADER_OCTETS || inside {
            return Err(Refusal::Malformed);
        }
        let address =
            |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
        Ok(Network {
            source: address(12),
            destination: address(16),
            protocol: header[9],
            header,
            transport: octets.get(header_octets..total).ok_or(Refusal::Malformed)?,
        })
    }

    fn ipv6(octets: &'a [u8]) -> Result<Self, Refusal> {
        let header = octets.first_chunk::<IPV6_HEADER_OCTETS>().ok_or(Refusal::Malformed)?;
        let total = IPV6_HEADER_OCTETS + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let octets = &octets[..octets.len().min(total)];
        let (mut protocol, mut at) = (header[6], IPV6_HEADER_OCTETS);
        // One more than of the others: the fragment header.
        for _ in 0..=EXTENSION_HEADERS_MAX {
            let Some(extension) = octets.get(at..).and_then(<[u8]>::first_chunk::<4>) else { break };
            match protocol {
                PROTOCOL_FRAGMENT => {
                    if u16::from_be_bytes([extension[2], extension[3]]) & IPV6_FRAGMENT_OFFSET != 0 {
                        return Err(Refusal::Malformed);
                    }
                    at += FRAGMENT_HEADER_OCTETS;
                }
                other if PROTOCOLS_EXTENSION.contains(&other) => at += (usize::from(extension[1]) + 1) * 8,
                _ => break,
            }
            protocol = extension[0];
        }
        let address = |at: usize| {
            let mut address = [0; 16];
            address.copy_from_slice(&header[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(address))
        };
        Ok(Network {
            source: address(8),
            destination: address(24),
            protocol,
            header,
            transport: octets.get(at..).ok_or(Refusal::Malformed)?,
        })
    }
}

//------------ IcmpError ---------------------------------------------------------------------------------------

/// An error that quotes a packet to port 53.
#[derive(Clone, Copy, Debug)]
pub struct IcmpError<'a> {
    /// Who reports it: the server, or a router.
    pub source: IpAddr,
    /// Who sent the packet.
    pub destination: IpAddr,
    pub kind: u8,
    pub code: u8,
    pub quote: Quote<'a>,
    network: &'a [u8],
    icmp: &'a [u8],
}

impl<'a> IcmpError<'a> {
    /// Reads the error in an IP datagram whose ICMP or ICMPv6 message begins at `transport`.
    pub fn parse(
        source: IpAddr,
        destination: IpAddr,
        datagram: &'a [u8],
        transport: usize,
    ) -> Result<Self, Refusal> {
        let icmp = datagram.get(transport..).ok_or(Refusal::Malformed)?;
        let header = icmp.first_chunk::<ICMP_HEADER_OCTETS>().ok_or(Refusal::Malformed)?;
        let (network_octets, sum) = match source {
            IpAddr::V4(_) if matches!(header[0], 3 | 11) => (IPV4_HEADER_OCTETS, checksum::icmp(icmp)),
            IpAddr::V6(_) if matches!(header[0], 1..=3) => {
                (IPV6_HEADER_OCTETS, checksum::transport(&source, &destination, PROTOCOL_ICMPV6, icmp))
            }
            _ => return Err(Refusal::Protocol),
        };
        let quote = Quote::parse(&icmp[ICMP_HEADER_OCTETS..])?;
        let one_family = source.is_ipv4() == destination.is_ipv4();
        if sum != 0 || !one_family || quote.source != destination {
            return Err(Refusal::Malformed);
        }
        let network = datagram.get(..network_octets).ok_or(Refusal::Malformed)?;
        Ok(IcmpError { source, destination, kind: header[0], code: header[1], quote, network, icmp })
    }

    /// Writes to `buffer` the IP datagram that may be kept of it; without the address and the port of the resolver, if
    /// they are to be `clear`ed.
    pub fn write(&self, clear: bool, buffer: &mut Vec<u8>) {
        buffer.clear();
        let source =
            if self.source == self.quote.destination { self.source } else { unspecified(&self.source) };
        let destination = if clear { unspecified(&self.destination) } else { self.destination };
        write_ip(self.network, &source, &destination, buffer);
        let icmp = buffer.len();
        buffer.extend([self.kind, self.code, 0, 0, 0, 0, 0, 0]);
        let rest = match (source, self.kind, self.code) {
            // The MTU, of 16 bits (RFC 1191) or 32; all else is unused, or lengths of what is gone.
            (IpAddr::V4(_), 3, 4) => 6..8,
            (IpAddr::V6(_), 2, _) => ICMP_REST..ICMP_HEADER_OCTETS,
            _ => 0..0,
        };
        buffer[icmp..][rest.clone()].copy_from_slice(&self.icmp[rest]);
        self.quote.write(clear, buffer);
        let (protocol, sum) = match source {
            IpAddr::V4(_) => (PROTOCOL_ICMP, checksum::icmp(&buffer[icmp..])),
            IpAddr::V6(_) => {
                let sum = checksum::transport(&source, &destination, PROTOCOL_ICMPV6, &buffer[icmp..]);
                (PROTOCOL_ICMPV6, sum)
            }
        };
        set(buffer, icmp + ICMP_CHECKSUM, usize::from(sum));
        finish_ip(&source, protocol, buffer);
    }
}

//------------ Headers -----------------------------------------------------------------------------------------

/// The unspecified address of the same family.
fn unspecified(address: &IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Writes a number into 16 bits of the buffer.
fn set(buffer: &mut [u8], place: usize, number: usize) {
    buffer[place..place + 2].copy_from_slice(&(number as u16).to_be_bytes());
}

/// Appends the fixed part of an IP header, with these addresses of its family.
fn write_ip(header: &[u8], source: &IpAddr, destination: &IpAddr, buffer: &mut Vec<u8>) {
    let addresses = if source.is_ipv4() { IPV4_ADDRESSES } else { IPV6_ADDRESSES };
    buffer.extend_from_slice(&header[..addresses]);
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => buffer.extend(address.octets()),
            IpAddr::V6(address) => buffer.extend(address.octets()),
        }
    }
}

/// Says in the IP header what the datagram is now: a whole one of that length, without options.
fn finish_ip(source: &IpAddr, protocol: u8, datagram: &mut [u8]) {
    match source {
        IpAddr::V4(_) => {
            datagram[0] = 0x45;
            set(datagram, 2, datagram.len());
            datagram[6] &= IPV4_DONT_FRAGMENT;
            datagram[7] = 0;
            datagram[9] = protocol;
            let sum = checksum::ipv4_header(&datagram[..IPV4_HEADER_OCTETS]);
            set(datagram, 10, usize::from(sum));
        }
        IpAddr::V6(_) => {
            set(datagram, 4, datagram.len() - IPV6_HEADER_OCTETS);
            datagram[6] = protocol;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RESOLVER: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53)),
    ];
    const SERVER: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
    ];
    const ROUTER: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 254)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0xfe)),
    ];
    const PORT: u16 = 50_123;
    const NAME: &[u8] = b"\x03www\x07eXample\0";

    /// A query with an OPT record that carries a client subnet.
    fn query() -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend(NAME);
        message.extend([0, 28, 0, 1]);
        message.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 203, 0, 113]);
        message
    }

    fn octets(address: &IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }

    /// A datagram with `extra` behind its fixed IP header: options, or an extension header that names `next`.
    fn ip(ends: [&IpAddr; 2], protocol: u8, extra: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut datagram = match ends[0] {
            IpAddr::V4(_) => vec![0x45 + (extra.len() / 4) as u8, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0],
            IpAddr::V6(_) => vec![0x60, 0, 0, 0, 0, 0, if extra.is_empty() { protocol } else { 60 }, 64],
        };
        datagram.extend(ends.into_iter().flat_map(octets));
        datagram.extend(extra);
        let header = datagram.len();
        datagram.extend(payload);
        let length = datagram.len();
        if ends[0].is_ipv4() {
            set(&mut datagram, 2, length);
            let sum = checksum::ipv4_header(&datagram[..header]);
            set(&mut datagram, 10, usize::from(sum));
        } else {
            set(&mut datagram, 4, length - IPV6_HEADER_OCTETS);
        }
        datagram
    }

    fn extra(family: usize, protocol: u8) -> Vec<u8> {
        match family {
            0 => vec![7, 7, 8, 203, 0, 113, 9, 0],
            _ => vec![protocol, 0, 1, 4, 0, 0, 0, 0],
        }
    }

    fn udp(family: usize, message: &[u8]) -> Vec<u8> {
        let mut udp = [PORT.to_be_bytes(), [0, 53], [0, 0], [0, 0]].concat();
        udp.extend(message);
        let length = udp.len();
        set(&mut udp, 4, length);
        let sum = checksum::transport(&RESOLVER[family], &SERVER[family], PROTOCOL_UDP, &udp);
        set(&mut udp, UDP_CHECKSUM, usize::from(sum));
        ip([&RESOLVER[family], &SERVER[family]], PROTOCOL_UDP, &extra(family, PROTOCOL_UDP), &udp)
    }

    fn tcp(family: usize, message: &[u8]) -> Vec<u8> {
        let mut tcp = [PORT.to_be_bytes(), [0, 53], [1, 2], [3, 4], [0, 0], [0, 0]].concat();
        tcp.extend([0x60, 0x18, 0xff, 0xff, 0xaa, 0xaa, 0, 0, 2, 4, 5, 0xb4]);
        tcp.extend((message.len() as u16).to_be_bytes());
        tcp.extend(message);
        ip([&RESOLVER[family], &SERVER[family]], PROTOCOL_TCP, &extra(family, PROTOCOL_TCP), &tcp)
    }

    fn error(family: usize, reporter: &IpAddr, header: [u8; 8], quote: &[u8]) -> Vec<u8> {
        let mut icmp = header.to_vec();
        icmp.extend(quote);
        let protocol = [PROTOCOL_ICMP, PROTOCOL_ICMPV6][family];
        let sum = match family {
            0 => checksum::icmp(&icmp),
            _ => checksum::transport(reporter, &RESOLVER[family], protocol, &icmp),
        };
        set(&mut icmp, ICMP_CHECKSUM, usize::from(sum));
        ip([reporter, &RESOLVER[family]], protocol, &extra(family, protocol), &icmp)
    }

    fn unreachable_header(family: usize) -> [u8; 8] {
        [[3, 3, 0, 0, 0, 32, 0, 0], [1, 4, 0, 0, 16, 0, 0, 0]][family]
    }

    /// Parses with the addresses that stand in the datagram's header.
    fn parse(datagram: &[u8]) -> Result<IcmpError<'_>, Refusal> {
        let outer = Network::parse(datagram).expect("an IP header");
        IcmpError::parse(outer.source, outer.destination, datagram, datagram.len() - outer.transport.len())
    }

    /// What is written of it, found to be well-formed: nothing would be changed, were it written again.
    fn written(datagram: &[u8], clear: bool) -> Vec<u8> {
        let mut buffer = vec![1, 2, 3];
        parse(datagram).expect("an error that is read").write(clear, &mut buffer);
        let again = parse(&buffer).expect("what is written can be read");
        let quote = Network::parse(&buffer[buffer.len() - again.icmp.len() + 8..]).unwrap();
        if again.quote.protocol == PROTOCOL_TCP || quote.transport[UDP_CHECKSUM..][..2] != [0, 0] {
            let sum = checksum::transport(&quote.source, &quote.destination, quote.protocol, quote.transport);
            assert!([0, 0xffff].contains(&sum));
        }
        let mut twice = Vec::new();
        again.write(clear, &mut twice);
        assert_eq!(buffer, twice);
        buffer
    }

    fn holds(datagram: &[u8], octets: &[u8]) -> bool {
        datagram.windows(octets.len()).any(|window| window == octets)
    }

    #[test]
    fn the_quote_tells_whom_could_not_be_asked_and_what() {
        for family in [0, 1] {
            for (quote, protocol) in
                [(udp(family, &query()), PROTOCOL_UDP), (tcp(family, &query()), PROTOCOL_TCP)]
            {
                let datagram = error(family, &ROUTER[family], unreachable_header(family), &quote);
                let error = parse(&datagram).unwrap();
                assert_eq!((error.source, error.destination), (ROUTER[family], RESOLVER[family]));
                let quote = error.quote;
                assert_eq!((quote.source, quote.destination), (RESOLVER[family], SERVER[family]));
                assert_eq!((quote.source_port, quote.destination_port), (PORT, 53));
                assert_eq!(quote.protocol, protocol);
                assert_eq!(quote.header.unwrap().id, 0x1234);
                assert_eq!(quote.question, Some(Question { name: NAME, rrtype: 28, class: 1 }));
            }
        }
    }

    #[test]
    fn what_is_kept_ends_behind_the_question() {
        for family in [0, 1] {
            for quote in [udp(family, &query()), tcp(family, &query())] {
                let datagram = error(family, &SERVER[family], unreachable_header(family), &quote);
                let kept = written(&datagram, false);
                assert!(kept.ends_with(&[NAME, &[0, 28, 0, 1]].concat()));
                assert!(holds(&kept, &[0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]));
                let error = parse(&kept).unwrap();
                assert_eq!((error.source, error.destination), (SERVER[family], RESOLVER[family]));
                assert_eq!(error.quote.source_port, PORT);
                assert_eq!(error.icmp[4..8], [0; 4]);
            }
        }
    }

    #[test]
    fn neither_resolver_nor_router_are_left_when_cleared() {
        for family in [0, 1] {
            for quote in [udp(family, &query()), tcp(family, &query())] {
                let datagram = error(family, &ROUTER[family], unreachable_header(family), &quote);
                let kept = written(&datagram, true);
                assert!(!holds(&kept, &octets(&RESOLVER[family])));
                assert!(!holds(&kept, &octets(&ROUTER[family])));
                assert!(!holds(&kept, &PORT.to_be_bytes()));
                let error = parse(&kept).unwrap();
                assert!(error.source.is_unspecified() && error.destination.is_unspecified());
                assert_eq!((error.quote.destination, error.quote.source_port), (SERVER[family], 0));
                assert_eq!(error.quote.question.unwrap().name, NAME);
                assert!(!holds(&written(&datagram, false), &octets(&ROUTER[family])));
            }
        }
    }

    #[test]
    fn a_quote_may_end_anywhere() {
        for family in [0, 1] {
            for quote in [udp(family, &query()), tcp(family, &query())] {
                let network = Network::parse(&quote).unwrap();
                let transport = quote.len() - network.transport.len();
                for length in 0..quote.len() {
                    let datagram =
                        error(family, &ROUTER[family], unreachable_header(family), &quote[..length]);
                    if length < transport + QUOTED_OCTETS_MIN {
                        assert!(parse(&datagram).is_err(), "{length} octets");
                        continue;
                    }
                    let error = parse(&datagram).unwrap();
                    let headers = if network.protocol == PROTOCOL_UDP { 8 } else { 26 };
                    let question = transport + headers + HEADER_OCTETS + NAME.len() + 4;
                    assert_eq!(error.quote.question.is_some(), length >= question, "{length} octets");
                    let kept = parse(&datagram).map(|_| written(&datagram, true)).unwrap();
                    assert!(!holds(&kept, &octets(&RESOLVER[family])));
                }
            }
        }
    }

    #[test]
    fn of_the_header_only_the_mtu_is_kept() {
        let cases = [
            (0, [3, 4, 0, 0, 9, 9, 5, 0xdc], [0, 0, 5, 0xdc]),
            (0, [11, 0, 0, 0, 9, 9, 9, 9], [0; 4]),
            (1, [2, 0, 0, 0, 0, 0, 5, 0], [0, 0, 5, 0]),
            (1, [3, 0, 0, 0, 9, 9, 9, 9], [0; 4]),
        ];
        for (family, header, rest) in cases {
            let datagram = error(family, &ROUTER[family], header, &udp(family, &query()));
            let kept = written(&datagram, false);
            let error = parse(&kept).unwrap();
            assert_eq!((error.kind, error.code), (header[0], header[1]));
            assert_eq!(error.icmp[4..8], rest);
        }
    }

    #[test]
    fn an_absent_checksum_stays_absent_in_the_quote() {
        let mut quote = udp(0, &query());
        set(&mut quote, 28 + UDP_CHECKSUM, 0);
        let kept = written(&error(0, &ROUTER[0], unreachable_header(0), &quote), true);
        assert_eq!(parse(&kept).unwrap().quote.transport[UDP_CHECKSUM..][..2], [0, 0]);
    }

    #[test]
    fn what_is_not_read() {
        let refusal = |datagram: &[u8]| parse(datagram).err();
        for family in [0, 1] {
            let (quote, router) = (udp(family, &query()), &ROUTER[family]);
            let good = error(family, router, unreachable_header(family), &quote);
            let echo =
                error(family, router, [[8, 0, 0, 0, 0, 0, 0, 0], [128, 0, 0, 0, 0, 0, 0, 0]][family], &quote);
            assert_eq!(refusal(&echo), Some(Refusal::Protocol));

            let mut damaged = good.clone();
            *damaged.last_mut().unwrap() ^= 1;
            assert_eq!(refusal(&damaged), Some(Refusal::Malformed));

            let mut elsewhere = quote.clone();
            let transport = quote.len() - Network::parse(&quote).unwrap().transport.len();
            set(&mut elsewhere, transport + 2, 123);
            let elsewhere = error(family, router, unreachable_header(family), &elsewhere);
            assert_eq!(refusal(&elsewhere), Some(Refusal::Port));

            let mut of_another = quote.clone();
            of_another[if family == 0 { 15 } else { 23 }] ^= 1;
            let of_another = error(family, router, unreachable_header(family), &of_another);
            assert_eq!(refusal(&of_another), Some(Refusal::Malformed));
        }
        let mut inside = udp(0, &query());
        inside[7] = 3;
        assert_eq!(refusal(&error(0, &ROUTER[0], unreachable_header(0), &inside)), Some(Refusal::Malformed));
        let other = ip([&RESOLVER[0], &SERVER[0]], 47, &[], &[0; 40]);
        assert_eq!(refusal(&error(0, &ROUTER[0], unreachable_header(0), &other)), Some(Refusal::Protocol));
    }

    #[test]
    fn a_first_fragment_is_quoted_as_a_whole_packet() {
        let mut quote = udp(0, &query());
        quote[6] = 0x20;
        let kept = written(&error(0, &ROUTER[0], unreachable_header(0), &quote), false);
        assert_eq!(parse(&kept).unwrap().quote.network[6..8], [0, 0]);

        let (resolver, server) = (&RESOLVER[1], &SERVER[1]);
        let whole = udp(1, &query());
        let fragment = [&[PROTOCOL_UDP, 0, 0, 1, 0, 0, 0, 7], &whole[IPV6_HEADER_OCTETS + 8..]].concat();
        let quote = ip([resolver, server], PROTOCOL_FRAGMENT, &[], &fragment);
        let kept = written(&error(1, &ROUTER[1], unreachable_header(1), &quote), false);
        assert_eq!(parse(&kept).unwrap().quote.network[6], PROTOCOL_UDP);
    }

    proptest! {
        /// Whatever octets of an error are changed: what can be read can be written, and then is well-formed.
        #[test]
        fn nothing_in_a_quote_is_too_odd(
            family in 0..2_usize,
            over_tcp in any::<bool>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            clear in any::<bool>(),
        ) {
            let mut quote = if over_tcp { tcp(family, &query()) } else { udp(family, &query()) };
            for (place, octet) in changes {
                let place = place.index(quote.len());
                quote[place] = octet;
            }
            quote.truncate(cut.index(quote.len() + 1));
            let datagram = error(family, &ROUTER[family], unreachable_header(family), &quote);
            if parse(&datagram).is_ok() {
                let kept = written(&datagram, clear);
                prop_assert!(kept.len() <= datagram.len() + 20);
            }
        }

        #[test]
        fn no_octets_are_too_odd(octets in prop::collection::vec(any::<u8>(), 0..120), transport in 0..60_usize) {
            for family in [0, 1] {
                let _ = IcmpError::parse(ROUTER[family], RESOLVER[family], &octets, transport);
            }
        }
    }
}
