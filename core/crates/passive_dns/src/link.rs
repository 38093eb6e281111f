//! From a frame to the IP packet in it.
//!
//! Link types: Ethernet (IEEE 802.3, up to two 802.1Q or 802.1ad tags), Linux cooked capture, bare IP. Where the
//! source says so, the packet is the innermost of up to [`TUNNELS_MAX`] [tunnels](crate::tunnel).

use crate::frame::{Frame, LinkType};
use crate::limits::{TUNNELS_MAX, VLAN_TAGS_MAX};
use crate::outcome::PacketOutcome;
use crate::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, Packet, family, u16_at};
use crate::tunnel::{self, Inside, PROTOCOL_GRE};

pub const ETHERNET_HEADER_OCTETS: usize = 14;
pub const VLAN_TAG_OCTETS: usize = 4;
/// 802.1Q, 802.1ad, and the number that equipment used for stacked tags before 802.1ad.
pub const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Where the sockaddr-like header of Linux cooked capture has its protocol, and where it ends.
const SLL_PROTOCOL_OFFSET: usize = 14;
const SLL_HEADER_OCTETS: usize = 16;

/// Finds the IP packet of a frame, or says what is to become of the frame.
///
/// Lengths are judged only if `wanted` approves of the protocol, so that other people's traffic is never
/// called malformed.
pub fn packet<'a>(frame: &Frame<'a>, wanted: impl Fn(u8) -> bool) -> Result<Packet<'a>, PacketOutcome> {
    if let LinkType::Other(_) = frame.link {
        return Err(PacketOutcome::RejectedLinktype);
    }
    if frame.octets.len() < frame.wire_length {
        return Err(PacketOutcome::RejectedTruncated);
    }
    let mut network = network_layer(frame)?;
    if frame.encapsulated {
        for _ in 0..TUNNELS_MAX {
            let outer = Packet::of_network(network, |protocol| protocol == PROTOCOL_GRE || wanted(protocol))?;
            network = match tunnel::inside(&outer)? {
                None => return Ok(outer),
                Some(Inside::Ethernet(octets)) => tagged(octets, ETHERNET_HEADER_OCTETS - 2)?,
                Some(Inside::Ipv4(octets)) => (Family::Ipv4, octets),
                Some(Inside::Ipv6(octets)) => (Family::Ipv6, octets),
            };
        }
    }
    Packet::of_network(network, wanted)
}

/// The octets from the IP header on, possibly with padding behind the datagram.
fn network_layer<'a>(frame: &Frame<'a>) -> Result<(Family, &'a [u8]), PacketOutcome> {
    let octets = frame.octets;
    match frame.link {
        LinkType::Ethernet => tagged(octets, ETHERNET_HEADER_OCTETS - 2),
        LinkType::LinuxSll => {
            debug_assert_eq!(SLL_PROTOCOL_OFFSET + 2, SLL_HEADER_OCTETS);
            tagged(octets, SLL_PROTOCOL_OFFSET)
        }
        LinkType::RawIpv4 => Ok((Family::Ipv4, octets)),
        LinkType::RawIpv6 => Ok((Family::Ipv6, octets)),
        LinkType::Raw => Ok((family(octets)?, octets)),
        LinkType::Other(_) => Err(PacketOutcome::RejectedLinktype),
    }
}

/// Skips VLAN tags, beginning with the type field at `offset`.
fn tagged(octets: &[u8], mut offset: usize) -> Result<(Family, &[u8]), PacketOutcome> {
    for _ in 0..=VLAN_TAGS_MAX {
        let ethertype = u16_at(octets, offset).ok_or(PacketOutcome::RejectedMalformed)?;
        match ethertype {
            ETHERTYPE_IPV4 => return Ok((Family::Ipv4, &octets[offset + 2..])),
            ETHERTYPE_IPV6 => return Ok((Family::Ipv6, &octets[offset + 2..])),
            tag if ETHERTYPES_VLAN.contains(&tag) => offset += VLAN_TAG_OCTETS,
            _ => return Err(PacketOutcome::FilteredProtocol),
        }
    }
    Err(PacketOutcome::FilteredProtocol)
}
