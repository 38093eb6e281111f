//! NMSG containers and the two messages that travel in them here.
//!
//! A container is ten octets of header and a protobuf `Nmsg`: payloads, and a CRC-32C for each. This crate writes
//! it plain, with NMSG's own zlib, or plain inside a zstd frame; and reads all three, concatenated.

mod codec;
pub mod dnsdedupe;
pub mod dnsqr;
pub(crate) mod protobuf;
mod reader;
mod writer;

pub use codec::{Codec, Encoder};
pub use reader::{Archive, Payload};
pub use writer::{Container, Envelope, Message, Writer};

/// ASCII "NMSG".
const MAGIC: [u8; 4] = *b"NMSG";
const VERSION: u8 = 2;
const FLAG_ZLIB: u8 = 0x01;
const FLAG_FRAGMENT: u8 = 0x02;
const HEADER_OCTETS: usize = 10;

/// Field numbers of `Nmsg`.
mod container {
    pub const PAYLOADS: u32 = 1;
    pub const PAYLOAD_CRCS: u32 = 2;
    pub const SEQUENCE: u32 = 3;
    pub const SEQUENCE_ID: u32 = 4;
}

/// Field numbers of `NmsgPayload`.
mod payload {
    pub const VID: u32 = 1;
    pub const MSGTYPE: u32 = 2;
    pub const TIME_SEC: u32 = 3;
    pub const TIME_NSEC: u32 = 4;
    pub const PAYLOAD: u32 = 5;
    pub const SOURCE: u32 = 7;
    pub const OPERATOR: u32 = 8;
    pub const GROUP: u32 = 9;
}

/// Vendor and type of a message.
pub type Schema = (u32, u32);

/// CRC-32C as NMSG stores it: with its octets swapped.
fn payload_crc(message: &[u8]) -> u32 {
    crc32c::crc32c(message).swap_bytes()
}

#[cfg(test)]
mod tests;
