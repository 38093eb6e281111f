//! UDP datagrams (RFC 768).

use crate::outcome::PacketOutcome;
use crate::packet::{Packet, u16_at};

pub const HEADER_OCTETS: usize = 8;

/// A UDP datagram within its IP packet.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    pub source_port: u16,
    pub destination_port: u16,
    length: u16,
    /// From the header to the end of the IP packet.
    octets: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Reads the ports; the length is judged by [`Udp::datagram`], so that other people's traffic is never called
    /// malformed.
    pub fn of_packet(packet: &Packet<'a>) -> Result<Self, PacketOutcome> {
        let octets = packet.payload();
        let (Some(source_port), Some(destination_port), Some(length)) =
            (u16_at(octets, 0), u16_at(octets, 2), u16_at(octets, 4))
        else {
            return Err(PacketOutcome::RejectedMalformed);
        };
        Ok(Udp { source_port, destination_port, length, octets })
    }

    /// The header and its payload, by UDP's own length.
    pub fn datagram(&self) -> Result<&'a [u8], PacketOutcome> {
        let length = usize::from(self.length);
        if length < HEADER_OCTETS {
            return Err(PacketOutcome::RejectedMalformed);
        }
        self.octets.get(..length).ok_or(PacketOutcome::RejectedMalformed)
    }
}
