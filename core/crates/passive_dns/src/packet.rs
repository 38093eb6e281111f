//! IP packets: IPv4 (RFC 791), IPv6 (RFC 8200) with its hop-by-hop, routing, destination and fragment headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::EXTENSION_HEADERS_MAX;
use crate::outcome::PacketOutcome;

pub const IPV4_HEADER_OCTETS_MIN: usize = 20;
pub const IPV6_HEADER_OCTETS: usize = 40;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;
/// Hop-by-hop options, routing, destination options: the IPv6 extension headers of one common form.
pub const PROTOCOLS_EXTENSION: [u8; 3] = [0, 43, 60];
pub const PROTOCOL_FRAGMENT: u8 = 44;

/// The fragment field of IPv4: don't fragment, more fragments, and the offset in units of eight octets.
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fragment header of IPv6 (RFC 8200 section 4.5): the offset, which is a multiple of eight as it stands, and
/// more fragments.
const FRAGMENT_HEADER_OCTETS: usize = 8;
const IPV6_FRAGMENT_OFFSET: u16 = 0xfff8;
const IPV6_MORE_FRAGMENTS: u16 = 0x0001;

//------------ Packet ------------------------------------------------------------------------------------------

/// The place of a fragment in its datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fragment {
    pub id: u32,
    /// Where the fragment's octets belong.
    pub offset: usize,
    /// Whether others follow behind it.
    pub more: bool,
}

/// An IP packet: from its header to the last octet that its header accounts for.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// What is behind the IP headers that are read here.
    pub protocol: u8,
    /// Without what the link layer put behind it.
    pub octets: &'a [u8],
    /// Where in it the protocol's own header begins; of a fragment, where the fragment's octets begin.
    pub transport: usize,
    /// None of a whole datagram.
    pub fragment: Option<Fragment>,
}

impl<'a> Packet<'a> {
    /// Reads octets that begin with an IP header of either version.
    pub fn of_octets(octets: &'a [u8], wanted: impl Fn(u8) -> bool) -> Result<Self, PacketOutcome> {
        Self::of_network((family(octets)?, octets), wanted)
    }

    /// Reads octets that begin with the header of a family, possibly with padding behind the datagram.
    ///
    /// Lengths are judged only if `wanted` approves of the protocol, so that other people's traffic is never
    /// called malformed.
    pub(crate) fn of_network(
        (family, octets): (Family, &'a [u8]),
        wanted: impl Fn(u8) -> bool,
    ) -> Result<Self, PacketOutcome> {
        match family {
            Family::Ipv4 => Self::ipv4(octets, wanted),
            Family::Ipv6 => Self::ipv6(octets, wanted),
        }
    }

    /// What is behind the IP headers.
    pub fn payload(&self) -> &'a [u8] {
        &self.octets[self.transport..]
    }

    fn ipv4(octets: &'a [u8], wanted: impl Fn(u8) -> bool) -> Result<Self, PacketOutcome> {
        let Some(header) = octets.first_chunk::<IPV4_HEADER_OCTETS_MIN>() else {
            return Err(PacketOutcome::RejectedMalformed);
        };
        let header_octets = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_octets < IPV4_HEADER_OCTETS_MIN {
            return Err(PacketOutcome::RejectedMalformed);
        }
        let protocol = header[9];
        if !wanted(protocol) {
            return Err(PacketOutcome::FilteredProtocol);
        }
        if total < header_octets || total > octets.len() {
            return Err(PacketOutcome::RejectedMalformed);
        }
        let flags = u16::from_be_bytes([header[6], header[7]]);
        let place = Fragment {
            id: u32::from(u16::from_be_bytes([header[4], header[5]])),
            offset: usize::from(flags & IPV4_FRAGMENT_OFFSET) * 8,
            more: flags & IPV4_MORE_FRAGMENTS != 0,
        };
        let address = |offset: usize| {
            IpAddr::V4(Ipv4Addr::new(
                header[offset],
                header[offset + 1],
                header[offset + 2],
                header[offset + 3],
            ))
        };
        Ok(Packet {
            source: address(12),
            destination: address(16),
            protocol,
            octets: &octets[..total],
            transport: header_octets,
            fragment: (place.more || place.offset > 0).then_some(place),
        })
    }

    fn ipv6(octets: &'a [u8], wanted: impl Fn(u8) -> bool) -> Result<Self, PacketOutcome> {
        let Some(header) = octets.first_chunk::<IPV6_HEADER_OCTETS>() else {
            return Err(PacketOutcome::RejectedMalformed);
        };
        if header[0] >> 4 != 6 {
            return Err(PacketOutcome::RejectedMalformed);
        }
        let total = IPV6_HEADER_OCTETS + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut protocol = header[6];
        let mut transport = IPV6_HEADER_OCTETS;
        let mut fragment = None;
        for _ in 0..EXTENSION_HEADERS_MAX {
            let fragmented = protocol == PROTOCOL_FRAGMENT;
            if !fragmented && !PROTOCOLS_EXTENSION.contains(&protocol) {
                break;
            }
            let Some(extension) = octets[transport..].first_chunk::<FRAGMENT_HEADER_OCTETS>() else {
                return Err(PacketOutcome::RejectedMalformed);
            };
            protocol = extension[0];
            transport += if fragmented { 8 } else { (usize::from(extension[1]) + 1) * 8 };
            if transport > octets.len() {
                return Err(PacketOutcome::RejectedMalformed);
            }
            if fragmented {
                let place = u16::from_be_bytes([extension[2], extension[3]]);
                let place = Fragment {
                    id: u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]),
                    offset: usize::from(place & IPV6_FRAGMENT_OFFSET),
                    more: place & IPV6_MORE_FRAGMENTS != 0,
                };
                // A header that says "the first and the last" is no fragment (RFC 6946).
                if place.more || place.offset > 0 {
                    fragment = Some(place);
                    break;
                }
            }
        }
        if !wanted(protocol) {
            return Err(PacketOutcome::FilteredProtocol);
        }
        if transport > total || total > octets.len() {
            return Err(PacketOutcome::RejectedMalformed);
        }
        let address = |offset: usize| {
            let mut address = [0; 16];
            address.copy_from_slice(&header[offset..offset + 16]);
            IpAddr::V6(Ipv6Addr::from(address))
        };
        Ok(Packet {
            source: address(8),
            destination: address(24),
            protocol,
            octets: &octets[..total],
            transport,
            fragment,
        })
    }
}

pub(crate) fn u16_at(octets: &[u8], offset: usize) -> Option<u16> {
    let pair = octets.get(offset..offset + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// The version of IP that a link says to carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

/// By the version that a header claims.
pub(crate) fn family(octets: &[u8]) -> Result<Family, PacketOutcome> {
    match octets.first().map(|first| first >> 4) {
        Some(4) => Ok(Family::Ipv4),
        Some(6) => Ok(Family::Ipv6),
        _ => Err(PacketOutcome::RejectedMalformed),
    }
}
