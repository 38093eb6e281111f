//! pcapng files (draft-ietf-opsawg-pcapng): sections of either byte order, each with interfaces of their own link
//! types and clocks.

use passive_dns::frame::{LinkType, Timestamp};

use super::format::{Format, Order, Packet, Recognised, Step};
use crate::limits::{BLOCK_SKIPPED_OCTETS_MAX, BLOCK_WHOLE_OCTETS_MAX, INTERFACES_MAX};

/// Type and length; and the length again at a block's end.
const BLOCK_HEADER_OCTETS: usize = 8;
const BLOCK_TRAILER_OCTETS: usize = 4;
const BLOCK_OCTETS_MIN: usize = BLOCK_HEADER_OCTETS + BLOCK_TRAILER_OCTETS;

/// The same in either byte order.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
/// Obsolete, but files last.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Up to the byte-order magic; and all that a section header has before its options.
const SECTION_MAGIC_OCTETS: usize = 12;
const SECTION_OCTETS_MIN: usize = 28;
const VERSION_MAJOR: u16 = 1;

const OPTION_END: u16 = 0;
const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;

const NANOSECONDS: i128 = 1_000_000_000;

//------------ Clock -------------------------------------------------------------------------------------------

/// What one unit of an interface's time stamps is, and where they count from.
#[derive(Clone, Copy, Debug)]
enum Clock {
    /// So many nanoseconds a unit, from 1970 on: what nearly all files have.
    Whole(u64),
    /// So many units a second, from so many seconds after 1970 on.
    Other { units: u128, offset: i64 },
}

impl Clock {
    /// `resolution` is the octet of if_tsresol: a negative power of 10, or of 2 if the highest bit is set.
    fn new(resolution: u8, offset: i64) -> Self {
        let exponent = u32::from(resolution & 0x7f);
        if resolution & 0x80 != 0 {
            return Clock::Other { units: 1 << exponent, offset };
        }
        match 9_u32.checked_sub(exponent) {
            Some(zeros) if offset == 0 => Clock::Whole(10_u64.pow(zeros)),
            // 10^38 is the most that has a number; of units as small, no time stamp has a whole nanosecond.
            _ => Clock::Other { units: 10_u128.saturating_pow(exponent), offset },
        }
    }

    #[inline]
    fn time(self, units: u64) -> Timestamp {
        match self {
            Clock::Whole(nanoseconds) => Timestamp::from_nanoseconds(units.saturating_mul(nanoseconds)),
            Clock::Other { units: per_second, offset } => {
                // Below 2^94, and an offset below 2^93: no sum overflows.
                let within = (u128::from(units) * NANOSECONDS as u128 / per_second) as i128;
                let since_epoch = (within + i128::from(offset) * NANOSECONDS).max(0);
                Timestamp::from_nanoseconds(u64::try_from(since_epoch).unwrap_or(u64::MAX))
            }
        }
    }
}

/// Microseconds, unless a file says otherwise.
const RESOLUTION_DEFAULT: u8 = 6;

//------------ Interface ---------------------------------------------------------------------------------------

/// An interface as its section describes it.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    clock: Clock,
    /// How much of a packet was kept; 0 says all of it.
    snap_length: u32,
}

//------------ Pcapng ------------------------------------------------------------------------------------------

/// What the file said so far.
#[derive(Debug)]
pub struct Pcapng {
    order: Order,
    /// Those of the section, by number.
    interfaces: Vec<Interface>,
    /// The time of the packet before: simple packets have none of their own.
    latest: Timestamp,
}

impl Pcapng {
    /// Recognises the format by its first block; at least four octets must be there.
    pub fn recognise(octets: &[u8]) -> Recognised {
        if Order::Little.u32(octets, 0) != SECTION_HEADER {
            return Recognised::Not(format!("it begins with {:02x?}", &octets[..4]));
        }
        let mut format =
            Pcapng { order: Order::Little, interfaces: Vec::new(), latest: Timestamp::default() };
        match format.step(octets) {
            Step::Need(octets) => Recognised::Need(octets),
            Step::Corrupt(reason) => Recognised::Not(reason),
            _ => Recognised::Format(Format::Pcapng(format)),
        }
    }

    #[inline]
    pub fn step(&mut self, octets: &[u8]) -> Step {
        if octets.len() < BLOCK_OCTETS_MIN {
            return Step::Need(BLOCK_OCTETS_MIN);
        }
        let kind = self.order.u32(octets, 0);
        if kind == SECTION_HEADER {
            let magic = octets[SECTION_MAGIC_OCTETS - 4..].first_chunk().copied();
            self.order = match magic.map(u32::from_le_bytes) {
                Some(BYTE_ORDER_MAGIC) => Order::Little,
                Some(magic) if magic.swap_bytes() == BYTE_ORDER_MAGIC => Order::Big,
                _ => return Step::Corrupt("a section's byte order is neither of the two".to_owned()),
            };
        }
        let length = self.order.u32(octets, 4) as usize;
        let (least, most): (usize, usize) = match kind {
            SECTION_HEADER => (SECTION_OCTETS_MIN, BLOCK_WHOLE_OCTETS_MAX),
            INTERFACE_DESCRIPTION => (20, BLOCK_WHOLE_OCTETS_MAX),
            PACKET | ENHANCED_PACKET => (32, BLOCK_WHOLE_OCTETS_MAX),
            SIMPLE_PACKET => (16, BLOCK_WHOLE_OCTETS_MAX),
            _ => (BLOCK_OCTETS_MIN, BLOCK_SKIPPED_OCTETS_MAX),
        };
        if !(least..=most).contains(&length) || !length.is_multiple_of(4) {
            return Step::Corrupt(format!(
                "a block of type {kind:#x} claims {length} octets: it must be from {least} to {most}, in fours"
            ));
        }
        if most == BLOCK_SKIPPED_OCTETS_MAX {
            return Step::Skip(length);
        }
        let Some(block) = octets.get(..length) else {
            return Step::Need(length);
        };
        let again = self.order.u32(block, length - BLOCK_TRAILER_OCTETS) as usize;
        if again != length {
            return Step::Corrupt(format!("a block of {length} octets claims {again} at its end"));
        }
        let result = match kind {
            ENHANCED_PACKET => self.enhanced_packet(block),
            SIMPLE_PACKET => self.simple_packet(block),
            PACKET => self.packet(block),
            INTERFACE_DESCRIPTION => self.interface_description(block),
            _ => self.section_header(block),
        };
        result.unwrap_or_else(Step::Corrupt)
    }

    fn section_header(&mut self, block: &[u8]) -> Result<Step, String> {
        let major = self.order.u16(block, 12);
        if major != VERSION_MAJOR {
            return Err(format!("a section is of version {major} of pcapng; {VERSION_MAJOR} is known"));
        }
        self.interfaces.clear();
        Ok(Step::Skip(block.len()))
    }

    fn interface_description(&mut self, block: &[u8]) -> Result<Step, String> {
        if self.interfaces.len() >= INTERFACES_MAX {
            return Err(format!("a section describes more than {INTERFACES_MAX} interfaces"));
        }
        let (mut resolution, mut offset) = (RESOLUTION_DEFAULT, 0);
        let mut options = &block[16..block.len() - BLOCK_TRAILER_OCTETS];
        while options.len() >= 4 {
            let (code, length) = (self.order.u16(options, 0), usize::from(self.order.u16(options, 2)));
            if code == OPTION_END {
                break;
            }
            let Some(value) = options.get(4..4 + length) else {
                return Err(format!("an option of {length} octets reaches beyond its block"));
            };
            match (code, value) {
                (OPTION_TIME_RESOLUTION, [octet]) => resolution = *octet,
                (OPTION_TIME_OFFSET, value) => {
                    let Ok(octets) = value.try_into() else {
                        return Err(format!("an interface's if_tsoffset has {length} octets, not 8"));
                    };
                    offset = match self.order {
                        Order::Little => i64::from_le_bytes(octets),
                        Order::Big => i64::from_be_bytes(octets),
                    };
                }
                (OPTION_TIME_RESOLUTION, _) => {
                    return Err(format!("an interface's if_tsresol has {length} octets, not 1"));
                }
                _ => {}
            }
            options = options.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
        }
        self.interfaces.push(Interface {
            link: LinkType::from_pcap(u32::from(self.order.u16(block, 8))),
            clock: Clock::new(resolution, offset),
            snap_length: self.order.u32(block, 12),
        });
        Ok(Step::Skip(block.len()))
    }

    fn enhanced_packet(&mut self, block: &[u8]) -> Result<Step, String> {
        let interface = self.order.u32(block, 8);
        self.timed_packet(block, interface)
    }

    fn packet(&mut self, block: &[u8]) -> Result<Step, String> {
        let interface = self.order.u16(block, 8);
        self.timed_packet(block, u32::from(interface))
    }

    /// The rest of either block with a time stamp.
    fn timed_packet(&mut self, block: &[u8], interface: u32) -> Result<Step, String> {
        const DATA: usize = 28;
        let Interface { link, clock, .. } = self.interface(interface)?;
        let (high, low) = (self.order.u32(block, 12), self.order.u32(block, 16));
        let captured = self.order.u32(block, 20) as usize;
        let room = block.len() - BLOCK_TRAILER_OCTETS - DATA;
        if captured > room {
            return Err(format!("a packet of {captured} octets is in a block with room for {room}"));
        }
        let time = clock.time(u64::from(high) << 32 | u64::from(low));
        self.latest = time;
        Ok(Step::Packet(Packet {
            link,
            time,
            wire_length: self.order.u32(block, 24) as usize,
            record: block.len(),
            data: DATA..DATA + captured,
        }))
    }

    fn simple_packet(&mut self, block: &[u8]) -> Result<Step, String> {
        const DATA: usize = 12;
        let Interface { link, snap_length, .. } = self.interface(0)?;
        let wire_length = self.order.u32(block, 8);
        let kept = if snap_length == 0 { wire_length } else { wire_length.min(snap_length) };
        let room = block.len() - BLOCK_TRAILER_OCTETS - DATA;
        let captured = room.min(kept as usize);
        Ok(Step::Packet(Packet {
            link,
            time: self.latest,
            wire_length: wire_length as usize,
            record: block.len(),
            data: DATA..DATA + captured,
        }))
    }

    #[inline]
    fn interface(&self, number: u32) -> Result<Interface, String> {
        self.interfaces.get(number as usize).copied().ok_or_else(|| {
            format!("a packet is of interface {number}, and {} are described", self.interfaces.len())
        })
    }
}
