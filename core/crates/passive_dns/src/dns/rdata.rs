//! Canonical rdata: names decompressed and in lower case, everything else as it is.
//!
//! Names in rdata are of one case so that an RRset is one RRset however a server spells it (RFC 4034 section 6.2),
//! NSEC and SVCB included. Pointers are accepted wherever a name is, as RFC 3597 section 4 asks of receivers for
//! the older types. Types without an entry are opaque (RFC 3597).

use crate::dns::message::{Malformed, end_of_name};
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

//------------ Canonical form ----------------------------------------------------------------------------------

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

//------------ Names -------------------------------------------------------------------------------------------

/// Where in a message the names of one rdata begin.
///
/// Besides the types of [`canonicalise`], those whose names stand behind fields of other lengths or are there at
/// times only: A6 (RFC 2874), IPSECKEY (RFC 4025), HIP (RFC 8005), AMTRELAY (RFC 8777); and NSAP-PTR (RFC 1706),
/// TALINK, LP (RFC 6742) and DSYNC (RFC 9859).
#[derive(Clone, Debug)]
pub struct Names<'a> {
    /// The message up to the end of the rdata.
    message: &'a [u8],
    at: usize,
    fields: &'static [Field],
    /// Whether names follow each other to the end of the rdata.
    repeated: bool,
}

impl<'a> Names<'a> {
    pub fn of(message: &'a [u8], start: usize, end: usize, rrtype: u16) -> Result<Self, Malformed> {
        let message = message.get(..end).ok_or(Malformed)?;
        let octet = |index: usize| message.get(start + index).copied().map(usize::from).ok_or(Malformed);
        let (at, fields): (usize, &'static [Field]) = match rrtype {
            rrtype::NSAP_PTR => (start, &[Name]),
            rrtype::TALINK => (start, &[Name, Name]),
            rrtype::LP => (start + 2, &[Name]),
            rrtype::DSYNC => (start + 5, &[Name]),
            // A prefix length, so many bits of suffix as it leaves, and the name of the prefix unless that is empty.
            rrtype::A6 => match octet(0)? {
                0 => (start, &[]),
                prefix => (start + 1 + 128usize.saturating_sub(prefix).div_ceil(8), &[Name]),
            },
            // Precedence, type of gateway, algorithm, gateway; precedence, type of relay, relay.
            rrtype::IPSECKEY if octet(1)? == GATEWAY_NAME => (start + 3, &[Name]),
            rrtype::AMTRELAY if octet(1)? & 0x7f == GATEWAY_NAME => (start + 2, &[Name]),
            // Lengths of tag and key, tag, key, rendezvous servers.
            rrtype::HIP => {
                let servers = start + 4 + octet(0)? + (octet(2)? << 8 | octet(3)?);
                (servers, if servers == end { &[] } else { &[Name] })
            }
            _ => (start, schema(rrtype)),
        };
        Ok(Names { message, at, fields, repeated: rrtype == rrtype::HIP })
    }

    fn read(&mut self) -> Result<Option<usize>, Malformed> {
        while let [field, rest @ ..] = self.fields {
            self.fields = rest;
            match field {
                Fixed(octets) => self.at += octets,
                Text => self.at = end_of_text(self.message, self.at)?,
                Texts | Rest => return Ok(None),
                Name => {
                    let start = self.at;
                    self.at = end_of_name(self.message, start)?;
                    if self.at > self.message.len() {
                        return Err(Malformed);
                    }
                    if self.repeated && self.at < self.message.len() {
                        self.fields = &[Name];
                    }
                    return Ok(Some(start));
                }
            }
        }
        Ok(None)
    }
}

/// The type of a gateway or relay that is given by its name (RFC 4025 section 2.3, RFC 8777 section 4.2.3).
const GATEWAY_NAME: usize = 3;

impl Iterator for Names<'_> {
    type Item = Result<usize, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.read();
        if name.is_err() {
            self.fields = &[];
        }
        name.transpose()
    }
}

//------------ Parts -------------------------------------------------------------------------------------------

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

    /// Where names begin in `rdata`, behind the name `Example.`
    fn names(rrtype: u16, rdata: &[u8]) -> Result<Vec<usize>, Malformed> {
        let message = [&b"\x07Example\0"[..], rdata, b"\x01x\0"].concat();
        let names = Names::of(&message, 9, 9 + rdata.len(), rrtype)?;
        names.map(|start| Ok(start? - 9)).collect()
    }

    #[test]
    fn names_are_found_in_every_type_that_holds_some() {
        let ten = [0; 10];
        for (rrtype, rdata, expected) in [
            (rrtype::A, b"\xc0\0\x02\x01".to_vec(), vec![]),
            (rrtype::TXT, b"\x02\x01a".to_vec(), vec![]),
            (65280, b"\x01a\0".to_vec(), vec![]),
            (rrtype::CNAME, b"\xc0\0".to_vec(), vec![0]),
            (rrtype::DNAME, b"\x01a\0".to_vec(), vec![0]),
            (rrtype::SOA, [&b"\x01a\xc0\0\xc0\0"[..], &ten, &ten].concat(), vec![0, 4]),
            (rrtype::MX, b"\0\x05\xc0\0".to_vec(), vec![2]),
            (rrtype::SRV, b"\0\0\0\0\0\0\xc0\0".to_vec(), vec![6]),
            (rrtype::NAPTR, b"\0\0\0\0\x01S\x01a\0\xc0\0".to_vec(), vec![9]),
            (rrtype::RRSIG, [&ten[..], &ten[..8], b"\xc0\0signature"].concat(), vec![18]),
            (rrtype::NSEC, b"\xc0\0\0\x01\x40".to_vec(), vec![0]),
            (rrtype::SVCB, b"\0\x01\xc0\0parameters".to_vec(), vec![2]),
            (rrtype::NSAP_PTR, b"\xc0\0".to_vec(), vec![0]),
            (rrtype::TALINK, b"\xc0\0\xc0\0".to_vec(), vec![0, 2]),
            (rrtype::LP, b"\0\x0a\xc0\0".to_vec(), vec![2]),
            (rrtype::DSYNC, b"\0\x3b\x01\0\x35\xc0\0".to_vec(), vec![5]),
            (rrtype::A6, [&b"\0"[..], &ten, &[0; 6]].concat(), vec![]),
            (rrtype::A6, [&b"\x40"[..], &[0; 8], b"\xc0\0"].concat(), vec![9]),
            (rrtype::A6, b"\x80\xc0\0".to_vec(), vec![1]),
            (rrtype::IPSECKEY, b"\x0a\x01\x02\xc0\0\x02\x01key".to_vec(), vec![]),
            (rrtype::IPSECKEY, b"\x0a\x03\x02\x01a\0key".to_vec(), vec![3]),
            (rrtype::AMTRELAY, b"\x0a\x83\x01a\0".to_vec(), vec![2]),
            (rrtype::AMTRELAY, b"\x0a\x00".to_vec(), vec![]),
            (rrtype::HIP, b"\x02\x02\0\x03htkey".to_vec(), vec![]),
            (rrtype::HIP, b"\x02\x02\0\x03htkey\x01a\0\x01b\0".to_vec(), vec![9, 12]),
        ] {
            assert_eq!(names(rrtype, &rdata), Ok(expected), "type {rrtype} {rdata:02x?}");
        }
    }

    #[test]
    fn names_that_are_not_whole_are_malformed() {
        for (rrtype, rdata) in [
            (rrtype::NS, &b""[..]),
            (rrtype::NS, b"\xc0"),
            (rrtype::NS, b"\x01a"),
            (rrtype::MX, b"\0"),
            (rrtype::NAPTR, b"\0\0\0\0\x09S"),
            (rrtype::SOA, b"\xc0\0"),
            (rrtype::A6, b"\x40\xc0\0"),
            (rrtype::A6, b""),
            (rrtype::IPSECKEY, b"\x0a"),
            (rrtype::HIP, b"\x02\x02\0\x03htke"),
            (rrtype::HIP, b"\x02\x02\0\x03htkey\x01a\0\x01"),
        ] {
            assert_eq!(names(rrtype, rdata), Err(Malformed), "type {rrtype} {rdata:02x?}");
        }
    }

    #[test]
    fn a_name_does_not_reach_beyond_its_rdata() {
        let message = b"\x01a\0";
        assert_eq!(canonicalise(message, 0, 2, rrtype::NS, &mut Vec::new()), Err(Malformed));
    }
}
