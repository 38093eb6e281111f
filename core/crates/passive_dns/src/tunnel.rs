//! What mirrors wrap packets in: GRE, ERSPAN type II, VXLAN.
//!
//! Tunnels are looked into only where a source says that mirrored traffic comes in them. Anybody can send a
//! resolver a packet with another in it, and what is inside would be taken for seen.
//!
//! Sources: RFC 2784 and RFC 2890 (GRE, with checksum, key and sequence number), RFC 7637 and RFC 1701 (Ethernet
//! in GRE, type 0x6558), draft-foschiano-erspan section 4.2 (ERSPAN type II), RFC 7348 section 5 (VXLAN).

use crate::dns::DNS_PORT;
use crate::outcome::PacketOutcome;
use crate::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_UDP, Packet, u16_at};
use crate::udp;

pub const PROTOCOL_GRE: u8 = 47;
pub const PORT_VXLAN: u16 = 4789;

/// GRE's flags: a checksum, a key and a sequence number add four octets each. Of routing (RFC 1701), and of a
/// version that is not 0, nothing is read.
pub const GRE_HEADER_OCTETS: usize = 4;
pub const GRE_OPTIONS: [u16; 3] = [0x8000, 0x2000, GRE_SEQUENCE];
pub const GRE_OPTION_OCTETS: usize = 4;
pub const GRE_SEQUENCE: u16 = 0x1000;
pub const GRE_UNREAD: u16 = 0x4007;
pub const ETHERTYPE_ETHERNET: u16 = 0x6558;

/// ERSPAN type II: its header stands behind a GRE header with a sequence number, and says version 1.
pub const ETHERTYPE_ERSPAN: u16 = 0x88be;
pub const ERSPAN_HEADER_OCTETS: usize = 8;
pub const ERSPAN_VERSION_MASK: u8 = 0xf0;
pub const ERSPAN_VERSION: u8 = 0x10;
/// In the header's third octet: the mirrored frame was cut short.
pub const ERSPAN_TRUNCATED: u8 = 0x04;

pub const VXLAN_HEADER_OCTETS: usize = 8;
/// In the header's first octet: there is a network identifier, as there must be.
pub const VXLAN_IDENTIFIED: u8 = 0x08;

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inside<'a> {
    Ethernet(&'a [u8]),
    Ipv4(&'a [u8]),
    Ipv6(&'a [u8]),
}

/// What the packet carries if it is a tunnel's, None if it is not.
pub fn inside<'a>(packet: &Packet<'a>) -> Result<Option<Inside<'a>>, PacketOutcome> {
    match packet.protocol {
        PROTOCOL_GRE if packet.fragment.is_some() => Err(PacketOutcome::RejectedFragment),
        PROTOCOL_GRE => gre(packet.payload()).map(Some),
        // A resolver may have asked from the port of VXLAN.
        PROTOCOL_UDP if packet.fragment.is_none() => Ok(vxlan(packet.payload())),
        _ => Ok(None),
    }
}

fn gre(octets: &[u8]) -> Result<Inside<'_>, PacketOutcome> {
    let (Some(flags), Some(ethertype)) = (u16_at(octets, 0), u16_at(octets, 2)) else {
        return Err(PacketOutcome::RejectedMalformed);
    };
    if flags & GRE_UNREAD != 0 {
        return Err(PacketOutcome::FilteredProtocol);
    }
    let options = GRE_OPTIONS.iter().filter(|option| flags & **option != 0).count();
    let payload = octets.get(GRE_HEADER_OCTETS + options * GRE_OPTION_OCTETS..);
    let payload = payload.ok_or(PacketOutcome::RejectedMalformed)?;
    match ethertype {
        ETHERTYPE_IPV4 => Ok(Inside::Ipv4(payload)),
        ETHERTYPE_IPV6 => Ok(Inside::Ipv6(payload)),
        ETHERTYPE_ETHERNET => Ok(Inside::Ethernet(payload)),
        ETHERTYPE_ERSPAN if flags & GRE_SEQUENCE != 0 => erspan(payload),
        _ => Err(PacketOutcome::FilteredProtocol),
    }
}

fn erspan(octets: &[u8]) -> Result<Inside<'_>, PacketOutcome> {
    let Some((header, frame)) = octets.split_first_chunk::<ERSPAN_HEADER_OCTETS>() else {
        return Err(PacketOutcome::RejectedMalformed);
    };
    if header[0] & ERSPAN_VERSION_MASK != ERSPAN_VERSION {
        return Err(PacketOutcome::FilteredProtocol);
    }
    if header[2] & ERSPAN_TRUNCATED != 0 {
        return Err(PacketOutcome::RejectedTruncated);
    }
    Ok(Inside::Ethernet(frame))
}

fn vxlan(udp: &[u8]) -> Option<Inside<'_>> {
    if u16_at(udp, 2)? != PORT_VXLAN || u16_at(udp, 0)? == DNS_PORT {
        return None;
    }
    let (header, frame) = udp.get(udp::HEADER_OCTETS..)?.split_first_chunk::<VXLAN_HEADER_OCTETS>()?;
    (header[0] & VXLAN_IDENTIFIED != 0).then_some(Inside::Ethernet(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_flags(flags: u16, ethertype: u16, options: usize, payload: &[u8]) -> Vec<u8> {
        let options = vec![0xee; options * GRE_OPTION_OCTETS];
        [&flags.to_be_bytes()[..], &ethertype.to_be_bytes(), &options, payload].concat()
    }

    #[test]
    fn gre_with_each_of_its_options() {
        for (flags, options) in
            [(0, 0), (0x8000, 1), (0x2000, 1), (0x1000, 1), (0xa000, 2), (0x3000, 2), (0xb000, 3)]
        {
            for (ethertype, inside) in [
                (ETHERTYPE_IPV4, Inside::Ipv4(b"inner")),
                (ETHERTYPE_IPV6, Inside::Ipv6(b"inner")),
                (ETHERTYPE_ETHERNET, Inside::Ethernet(b"inner")),
            ] {
                assert_eq!(gre(&with_flags(flags, ethertype, options, b"inner")), Ok(inside), "{flags:04x}");
            }
            let short = with_flags(flags, ETHERTYPE_IPV4, options, b"");
            let missing = gre(&short[..short.len() - 1]);
            assert_eq!(missing, Err(PacketOutcome::RejectedMalformed), "{flags:04x}");
        }
    }

    #[test]
    fn gre_that_is_not_read() {
        for (flags, ethertype) in [
            (0x4000, ETHERTYPE_IPV4),
            (0x0001, ETHERTYPE_IPV4),
            (0, 0x880b),
            (0x1000, 0x22eb),
            (0, ETHERTYPE_ERSPAN),
        ] {
            let octets = with_flags(flags, ethertype, 3, &[0x10; 40]);
            assert_eq!(gre(&octets), Err(PacketOutcome::FilteredProtocol), "{flags:04x} {ethertype:04x}");
        }
    }

    #[test]
    fn erspan_of_type_two() {
        let frame = |header: [u8; 8]| {
            with_flags(GRE_SEQUENCE, ETHERTYPE_ERSPAN, 1, &[&header[..], b"frame"].concat())
        };
        assert_eq!(gre(&frame([0x10, 7, 0xc1, 0, 0, 0, 0, 1])), Ok(Inside::Ethernet(b"frame")));
        assert_eq!(gre(&frame([0x10, 7, 0xc5, 0, 0, 0, 0, 1])), Err(PacketOutcome::RejectedTruncated));
        assert_eq!(gre(&frame([0x20, 7, 0xc1, 0, 0, 0, 0, 1])), Err(PacketOutcome::FilteredProtocol));
        let short = with_flags(GRE_SEQUENCE, ETHERTYPE_ERSPAN, 1, &[0x10, 0, 0]);
        assert_eq!(gre(&short), Err(PacketOutcome::RejectedMalformed));
    }

    #[test]
    fn vxlan_by_its_port_and_flag() {
        let datagram = |source: u16, destination: u16, flags: u8| {
            let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
            [&ports[..], &[0, 21, 0, 0], &[flags, 0, 0, 0, 0, 0, 7, 0], b"frame"].concat()
        };
        assert_eq!(vxlan(&datagram(50_000, 4789, 0x08)), Some(Inside::Ethernet(b"frame")));
        for (source, destination, flags) in [(53, 4789, 0x08), (50_000, 4788, 0x08), (50_000, 4789, 0)] {
            assert_eq!(vxlan(&datagram(source, destination, flags)), None);
        }
        assert_eq!(vxlan(&datagram(50_000, 4789, 0x08)[..15]), None);
    }
}
