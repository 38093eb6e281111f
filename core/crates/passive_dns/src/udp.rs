//! UDP datagrams (RFC 768).

use crate::outcome::PacketOutcome;
use crate::packet::{Packet, u16_at};

pub const HEADER_OCTETS: usize = 8;

/// The UDP datagram in an IP packet: its header and its payload, by its own length.
pub fn datagram<'a>(packet: &Packet<'a>) -> Result<&'a [u8], PacketOutcome> {
    let octets = packet.payload();
    let length = u16_at(octets, 4).map_or(0, usize::from);
    if length < HEADER_OCTETS {
        return Err(PacketOutcome::RejectedMalformed);
    }
    octets.get(..length).ok_or(PacketOutcome::RejectedMalformed)
}
