//! Canonical rdata: names decompressed and in lower case, everything else as it is.
//!
//! Names in rdata are of one case so that an RRset is one RRset however a server spells it (RFC 4034 section 6.2),
//! NSEC and SVCB included. Pointers are accepted wherever a name is, as RFC 3597 section 4 asks of receivers for
//! the older types. Types without an entry are opaque (RFC 3597).

use crate::dns::message::Malformed;
use crate::dns::{name, rrtype};

/// A part of rdata.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// So many octets.
    Fixed(usize),
    Name,
    /// A character-string: a length octet and so many octets.
    Text,
    /// Character-strings to the end, one at least.
    Texts,
    /// Whatever is left.
    Rest,
}

use Field::{Fixed, Name, Rest, Text, Texts};

/// What the rdata of a type is made of. RFC 1035 section 3.3 unless said otherwise.
const fn schema(rrtype: u16) -> &'static [Field] {
    match rrtype {
        rrtype::A => &[Fixed(4)],
        rrtype::AAAA => &[Fixed(16)], // RFC 3596
        rrtype::NS
        | rrtype::MD
        | rrtype::MF
        | rrtype::CNAME
        | rrtype::MB
        | rrtype::MG
        | rrtype::MR
        | rrtype::PTR => &[Name],
        rrtype::DNAME => &[Name], // RFC 6672
        rrtype::SOA => &[Name, Name, Fixed(20)],
        rrtype::MINFO | rrtype::RP => &[Name, Name], // RP: RFC 1183
        rrtype::HINFO => &[Text, Text],
        rrtype::TXT | rrtype::SPF => &[Texts], // SPF: RFC 7208
        // Preference (or subtype) and host; AFSDB, RT: RFC 1183; KX: RFC 2230.
        rrtype::MX | rrtype::AFSDB | rrtype::RT | rrtype::KX => &[Fixed(2), Name],
        rrtype::PX => &[Fixed(2), Name, Name],                // RFC 2163
        rrtype::SRV => &[Fixed(6), Name],                     // RFC 2782
        rrtype::NAPTR => &[Fixed(4), Text, Text, Text, Name], // RFC 3403
        rrtype::SIG | rrtype::RRSIG => &[Fixed(18), Name, Rest], // RFC 2535, RFC 4034
        rrtype::NXT | rrtype::NSEC => &[Name, Rest],          // RFC 2535, RFC 4034
        rrtype::SVCB | rrtype::HTTPS => &[Fixed(2), Name, Rest], // RFC 9460
        _ => &[Rest],
    }
}

/// Appends the canonical form of the rdata at `start..end` of `message`, of class IN, to `canonical`.
pub fn canonicalise(
    message: &[u8],
    start: usize,
    end: usize,
    rrtype: u16,
    canonical: &mut Vec<u8>,
) -> Result<(), Malformed> {
    // Names must end where the rdata ends, but their pointers lead anywhere before.
    let message = message.get(..end).ok_or(Malformed)?;
    let mut at = start;
    for field in schema(rrtype) {
        let next = match field {
            Fixed(octets) => at + octets,
            Name => {
                let first = canonical.len();
                at = name::decompress(message, at, canonical)?;
                canonical[first..].make_ascii_lowercase();
                continue;
            }
            Text => end_of_text(message, at)?,
            Texts => {
                let mut next = end_of_text(message, at)?;
                while next < end {
                    next = end_of_text(message, next)?;
                }
                next
            }
            Rest => end,
        };
        canonical.extend_from_slice(message.get(at..next).ok_or(Malformed)?);
        at = next;
    }
    if at == end { Ok(()) } else { Err(Malformed) }
}

fn end_of_text(message: &[u8], start: usize) -> Result<usize, Malformed> {
    let length = *message.get(start).ok_or(Malformed)?;
    match start + 1 + usize::from(length) {
        end if end <= message.len() => Ok(end),
        _ => Err(Malformed),
    }
}

/// The type that an RRSIG or SIG covers (RFC 4034 section 3.1.1); zero for rdata too short to say.
pub fn covered_type(rdata: &[u8]) -> u16 {
    rdata.first_chunk().map_or(0, |octets| u16::from_be_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The canonical form of `rdata` behind the name `Example.`, to which c000 points.
    fn canonical(rrtype: u16, rdata: &[u8]) -> Result<Vec<u8>, Malformed> {
        let message = [&b"\x07Example\0"[..], rdata].concat();
        let mut canonical = Vec::new();
        canonicalise(&message, 9, message.len(), rrtype, &mut canonical)?;
        Ok(canonical)
    }

    #[test]
    fn names_are_decompressed_and_lower_cased() {
        let example = b"\x07example\0";
        for (rrtype, rdata, expected) in [
            (rrtype::NS, &b"\x02NS\xc0\x00"[..], [&b"\x02ns"[..], example].concat()),
            (rrtype::MX, b"\0\x0a\xc0\0", [&b"\0\x0a"[..], example].concat()),
            (
                rrtype::SOA,
                b"\xc0\0\x01H\xc0\0ABCDEFGHIJKLMNOPQRST",
                [&example[..], b"\x01h", example, b"ABCDEFGHIJKLMNOPQRST"].concat(),
            ),
            (rrtype::SRV, b"AAAAAA\x01A\0", b"AAAAAA\x01a\0".to_vec()),
            (rrtype::NAPTR, b"AAAA\x01S\x03SIP\0\xc0\0", [&b"AAAA\x01S\x03SIP\0"[..], example].concat()),
            (
                rrtype::RRSIG,
                b"0123456789ABCDEFGH\xc0\0SIGNATURE",
                [&b"0123456789ABCDEFGH"[..], example, b"SIGNATURE"].concat(),
            ),
            (rrtype::HTTPS, b"\0\x01\x01A\0PARAMS", b"\0\x01\x01a\0PARAMS".to_vec()),
        ] {
            assert_eq!(canonical(rrtype, rdata), Ok(expected), "type {rrtype}");
        }
    }

    #[test]
    fn other_octets_stay() {
        for (rrtype, rdata) in [
            (rrtype::TXT, &b"\x05Hello\0\x01A"[..]),
            (rrtype::HINFO, b"\x01A\x01B"),
            (65280, b"\xc0\0ABC"),
            (65280, b""),
        ] {
            assert_eq!(canonical(rrtype, rdata).as_deref(), Ok(rdata), "type {rrtype}");
        }
    }

    #[test]
    fn rdata_ends_where_its_length_says() {
        for (rrtype, rdata) in [
            (rrtype::A, &b"\xc0\0\x02"[..]),
            (rrtype::A, b"\xc0\0\x02\x01\x01"),
            (rrtype::AAAA, b"\xc0\0\x02\x01"),
            (rrtype::NS, b""),
            (rrtype::NS, b"\xc0\0\0"),
            (rrtype::MX, b"\0\x0a"),
            (rrtype::TXT, b""),
            (rrtype::TXT, b"\x05Hell"),
            (rrtype::SOA, b"\xc0\0\xc0\0ABCDEFGHIJKLMNOPQRS"),
        ] {
            assert_eq!(canonical(rrtype, rdata), Err(Malformed), "type {rrtype} {rdata:02x?}");
        }
    }

    #[test]
    fn a_name_does_not_reach_beyond_its_rdata() {
        let message = b"\x01a\0";
        assert_eq!(canonicalise(message, 0, 2, rrtype::NS, &mut Vec::new()), Err(Malformed));
    }
}
