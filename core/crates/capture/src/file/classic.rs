//! Classic pcap files, of either byte order, in microseconds or nanoseconds (draft-ietf-opsawg-pcap).

use passive_dns::frame::{LinkType, Timestamp};

use super::format::{Format, Order, Packet, Recognised, Step};
use crate::limits::PACKET_OCTETS_MAX;

pub const FILE_HEADER_OCTETS: usize = 24;
const RECORD_HEADER_OCTETS: usize = 16;

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;

/// The part of the link-type field that is the link type; the rest says how long the frame check sequence is.
const LINK_TYPE_MASK: u32 = 0x0000_ffff;

/// What the file header says.
#[derive(Debug)]
pub struct Classic {
    order: Order,
    nanoseconds: bool,
    link: LinkType,
    /// Whether the file header was passed over.
    begun: bool,
}

impl Classic {
    /// Recognises the format by its magic number, whose four octets must be there.
    pub fn recognise(octets: &[u8]) -> Recognised {
        let magic = Order::Little.u32(octets, 0);
        let (order, nanoseconds) = match (magic, magic.swap_bytes()) {
            (MAGIC_MICROSECONDS, _) => (Order::Little, false),
            (_, MAGIC_MICROSECONDS) => (Order::Big, false),
            (MAGIC_NANOSECONDS, _) => (Order::Little, true),
            (_, MAGIC_NANOSECONDS) => (Order::Big, true),
            _ => return Recognised::Not(format!("it begins with {:02x?}", &octets[..4])),
        };
        if octets.len() < FILE_HEADER_OCTETS {
            return Recognised::Need(FILE_HEADER_OCTETS);
        }
        let link = LinkType::from_pcap(order.u32(octets, 20) & LINK_TYPE_MASK);
        Recognised::Format(Format::Classic(Classic { order, nanoseconds, link, begun: false }))
    }

    #[inline]
    pub fn step(&mut self, octets: &[u8]) -> Step {
        if !self.begun {
            self.begun = true;
            return Step::Skip(FILE_HEADER_OCTETS);
        }
        if octets.len() < RECORD_HEADER_OCTETS {
            return Step::Need(RECORD_HEADER_OCTETS);
        }
        let captured = self.order.u32(octets, 8) as usize;
        if captured > PACKET_OCTETS_MAX {
            return Step::Corrupt(format!(
                "a packet claims {captured} octets, more than {PACKET_OCTETS_MAX}"
            ));
        }
        let record = RECORD_HEADER_OCTETS + captured;
        if octets.len() < record {
            return Step::Need(record);
        }
        let fraction = self.order.u32(octets, 4);
        let nanoseconds = if self.nanoseconds { fraction } else { fraction.min(999_999) * 1000 };
        Step::Packet(Packet {
            link: self.link,
            time: Timestamp::new(self.order.u32(octets, 0), nanoseconds),
            wire_length: self.order.u32(octets, 12) as usize,
            record,
            data: RECORD_HEADER_OCTETS..record,
        })
    }
}
