//! What the rest needs of the DNS message format (RFC 1035).

mod header;
pub mod message;
pub mod name;
pub mod rdata;
pub mod rrtype;

/// The port of servers (RFC 1035 section 4.2).
pub const DNS_PORT: u16 = 53;

pub use header::{HEADER_OCTETS, Header, Rcode};
pub use message::{Malformed, Question, Record, Records, Section};
