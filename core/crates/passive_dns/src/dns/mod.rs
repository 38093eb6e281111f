//! What the rest needs of the DNS message format (RFC 1035).

mod header;
pub mod message;
pub mod name;
pub mod rdata;
pub mod rrtype;

pub use header::{HEADER_OCTETS, Header, Rcode};
pub use message::{Malformed, Question, Record, Records, Section};
