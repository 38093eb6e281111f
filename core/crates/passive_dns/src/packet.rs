//! From a frame to the UDP datagram in it.
//!
//! Link types: Ethernet (IEEE 802.3, up to two 802.1Q or 802.1ad tags), Linux cooked capture, bare IP.
//! IPv4 (RFC 791), IPv6 (RFC 8200) with its hop-by-hop, routing and destination headers, UDP (RFC 768).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{Frame, LinkType};
use crate::limits::{EXTENSION_HEADERS_MAX, VLAN_TAGS_MAX};
use crate::outcome::Outcome;

pub const ETHERNET_HEADER_OCTETS: usize = 14;
pub const VLAN_TAG_OCTETS: usize = 4;
pub const IPV6_HEADER_OCTETS: usize = 40;
pub const UDP_HEADER_OCTETS: usize = 8;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and the number that equipment used for stacked tags before 802.1ad.
pub const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

pub const PROTOCOL_UDP: u8 = 17;
/// Hop-by-hop options, routing, destination options: the IPv6 extension headers of one common form.
pub const PROTOCOLS_EXTENSION: [u8; 3] = [0, 43, 60];
const PROTOCOL_FRAGMENT: u8 = 44;

/// Where the sockaddr-like header of Linux cooked capture has its protocol, and where it ends.
const SLL_PROTOCOL_OFFSET: usize = 14;
const SLL_HEADER_OCTETS: usize = 16;
const IPV4_HEADER_OCTETS_MIN: usize = 20;
const IPV4_FRAGMENT_OFFSET_AND_MORE: u16 = 0x3fff;

//------------ Datagram ----------------------------------------------------------------------------------------

/// A UDP datagram, whole: from its IP header to the last octet that its headers account for.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    /// The IP datagram.
    pub octets: &'a [u8],
    /// Where in it UDP begins.
    pub transport: usize,
    /// Where in it UDP ends, by UDP's own length.
    end: usize,
}

impl<'a> Datagram<'a> {
    /// The UDP header and its payload.
    pub fn udp(&self) -> &'a [u8] {
        &self.octets[self.transport..self.end]
    }

    pub fn payload(&self) -> &'a [u8] {
        &self.octets[self.transport + UDP_HEADER_OCTETS..self.end]
    }

    /// Finds the UDP datagram of a frame, or says what is to become of the frame.
    ///
    /// Ports are not judged here, but the length in the UDP header is judged only if `wanted` approves of the
    /// ports, so that other people's traffic is never called malformed.
    pub fn parse(frame: &Frame<'a>, wanted: impl Fn(u16, u16) -> bool) -> Result<Self, Outcome> {
        if let LinkType::Other(_) = frame.link {
            return Err(Outcome::RejectedLinktype);
        }
        if frame.octets.len() < frame.wire_length {
            return Err(Outcome::RejectedTruncated);
        }
        let network = Network::parse(network_layer(frame)?)?;
        let transport = network.transport;
        let udp = &network.octets[transport..];
        let (Some(source_port), Some(destination_port), Some(length)) =
            (u16_at(udp, 0), u16_at(udp, 2), u16_at(udp, 4))
        else {
            return Err(Outcome::RejectedMalformed);
        };
        if !wanted(source_port, destination_port) {
            return Err(Outcome::FilteredPort);
        }
        let length = usize::from(length);
        if length < UDP_HEADER_OCTETS || length > udp.len() {
            return Err(Outcome::RejectedMalformed);
        }
        Ok(Datagram {
            source: network.source,
            destination: network.destination,
            source_port,
            destination_port,
            octets: network.octets,
            transport,
            end: transport + length,
        })
    }
}

fn u16_at(octets: &[u8], offset: usize) -> Option<u16> {
    let pair = octets.get(offset..offset + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

//------------ Link layer --------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    Ipv4,
    Ipv6,
}

/// The octets from the IP header on, possibly with padding behind the datagram.
fn network_layer<'a>(frame: &Frame<'a>) -> Result<(Family, &'a [u8]), Outcome> {
    let octets = frame.octets;
    match frame.link {
        LinkType::Ethernet => tagged(octets, ETHERNET_HEADER_OCTETS - 2),
        LinkType::LinuxSll => {
            debug_assert_eq!(SLL_PROTOCOL_OFFSET + 2, SLL_HEADER_OCTETS);
            tagged(octets, SLL_PROTOCOL_OFFSET)
        }
        LinkType::RawIpv4 => Ok((Family::Ipv4, octets)),
        LinkType::RawIpv6 => Ok((Family::Ipv6, octets)),
        LinkType::Raw => match octets.first().ok_or(Outcome::RejectedMalformed)? >> 4 {
            4 => Ok((Family::Ipv4, octets)),
            6 => Ok((Family::Ipv6, octets)),
            _ => Err(Outcome::RejectedMalformed),
        },
        LinkType::Other(_) => Err(Outcome::RejectedLinktype),
    }
}

/// Skips VLAN tags, beginning with the type field at `offset`.
fn tagged(octets: &[u8], mut offset: usize) -> Result<(Family, &[u8]), Outcome> {
    for _ in 0..=VLAN_TAGS_MAX {
        let ethertype = u16_at(octets, offset).ok_or(Outcome::RejectedMalformed)?;
        match ethertype {
            ETHERTYPE_IPV4 => return Ok((Family::Ipv4, &octets[offset + 2..])),
            ETHERTYPE_IPV6 => return Ok((Family::Ipv6, &octets[offset + 2..])),
            tag if ETHERTYPES_VLAN.contains(&tag) => offset += VLAN_TAG_OCTETS,
            _ => return Err(Outcome::FilteredProtocol),
        }
    }
    Err(Outcome::FilteredProtocol)
}

//------------ Network layer -----------------------------------------------------------------------------------

struct Network<'a> {
    source: IpAddr,
    destination: IpAddr,
    /// Without the link layer's padding.
    octets: &'a [u8],
    transport: usize,
}

impl<'a> Network<'a> {
    fn parse((family, octets): (Family, &'a [u8])) -> Result<Self, Outcome> {
        match family {
            Family::Ipv4 => Self::ipv4(octets),
            Family::Ipv6 => Self::ipv6(octets),
        }
    }

    fn ipv4(octets: &'a [u8]) -> Result<Self, Outcome> {
        let Some(header) = octets.first_chunk::<IPV4_HEADER_OCTETS_MIN>() else {
            return Err(Outcome::RejectedMalformed);
        };
        let header_octets = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_octets < IPV4_HEADER_OCTETS_MIN {
            return Err(Outcome::RejectedMalformed);
        }
        if header[9] != PROTOCOL_UDP {
            return Err(Outcome::FilteredProtocol);
        }
        if u16::from_be_bytes([header[6], header[7]]) & IPV4_FRAGMENT_OFFSET_AND_MORE != 0 {
            return Err(Outcome::RejectedFragment);
        }
        if total < header_octets || total > octets.len() {
            return Err(Outcome::RejectedMalformed);
        }
        let address = |offset: usize| {
            IpAddr::V4(Ipv4Addr::new(
                header[offset],
                header[offset + 1],
                header[offset + 2],
                header[offset + 3],
            ))
        };
        Ok(Network {
            source: address(12),
            destination: address(16),
            octets: &octets[..total],
            transport: header_octets,
        })
    }

    fn ipv6(octets: &'a [u8]) -> Result<Self, Outcome> {
        let Some(header) = octets.first_chunk::<IPV6_HEADER_OCTETS>() else {
            return Err(Outcome::RejectedMalformed);
        };
        if header[0] >> 4 != 6 {
            return Err(Outcome::RejectedMalformed);
        }
        let total = IPV6_HEADER_OCTETS + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut next = header[6];
        let mut transport = IPV6_HEADER_OCTETS;
        for _ in 0..EXTENSION_HEADERS_MAX {
            if !PROTOCOLS_EXTENSION.contains(&next) {
                break;
            }
            let Some(&[following, units]) = octets.get(transport..transport + 2) else {
                return Err(Outcome::RejectedMalformed);
            };
            next = following;
            transport += (usize::from(units) + 1) * 8;
        }
        match next {
            PROTOCOL_UDP => {}
            PROTOCOL_FRAGMENT => return Err(Outcome::RejectedFragment),
            _ => return Err(Outcome::FilteredProtocol),
        }
        if transport > total || total > octets.len() {
            return Err(Outcome::RejectedMalformed);
        }
        let address = |offset: usize| {
            let mut address = [0; 16];
            address.copy_from_slice(&header[offset..offset + 16]);
            IpAddr::V6(Ipv6Addr::from(address))
        };
        Ok(Network { source: address(8), destination: address(24), octets: &octets[..total], transport })
    }
}
