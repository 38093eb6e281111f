//! The message header (RFC 1035 section 4.1.1).

pub const HEADER_OCTETS: usize = 12;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RCODE: u16 = 0x000f;

/// The four bits of the header's response code.
pub struct Rcode;

impl Rcode {
    pub const NOERROR: u8 = 0;
    pub const FORMERR: u8 = 1;
    pub const SERVFAIL: u8 = 2;
    pub const NOTIMP: u8 = 4;
    pub const REFUSED: u8 = 5;

    /// Whether a server that answers with this code may leave the question out, since it made nothing of the query.
    pub const fn may_omit_question(code: u8) -> bool {
        matches!(code, Self::FORMERR | Self::SERVFAIL | Self::NOTIMP | Self::REFUSED)
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    pub id: u16,
    flags: u16,
    /// Questions, answers, authority and additional records, as announced.
    pub counts: [u16; 4],
}

impl Header {
    /// None if the message is shorter than a header.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let octets = message.first_chunk::<HEADER_OCTETS>()?;
        let word = |index: usize| u16::from_be_bytes([octets[2 * index], octets[2 * index + 1]]);
        Some(Header { id: word(0), flags: word(1), counts: [word(2), word(3), word(4), word(5)] })
    }

    pub fn is_response(&self) -> bool {
        self.flags & RESPONSE != 0
    }

    /// Opcode 0, QUERY; said of queries and of responses.
    pub fn is_standard_query(&self) -> bool {
        self.flags & OPCODE == 0
    }

    pub fn is_authoritative(&self) -> bool {
        self.flags & AUTHORITATIVE != 0
    }

    pub fn is_truncated(&self) -> bool {
        self.flags & TRUNCATED != 0
    }

    pub fn recursion_desired(&self) -> bool {
        self.flags & RECURSION_DESIRED != 0
    }

    /// The header's four bits; an extended code (RFC 6891) has more of them in its OPT record.
    pub fn rcode(&self) -> u8 {
        (self.flags & RCODE) as u8
    }
}
