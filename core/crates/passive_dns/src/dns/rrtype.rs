//! Resource record types by number (the IANA registry "Resource Record (RR) TYPEs").

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const MD: u16 = 3;
pub const MF: u16 = 4;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const MB: u16 = 7;
pub const MG: u16 = 8;
pub const MR: u16 = 9;
pub const PTR: u16 = 12;
pub const HINFO: u16 = 13;
pub const MINFO: u16 = 14;
pub const MX: u16 = 15;
pub const TXT: u16 = 16;
pub const RP: u16 = 17;
pub const AFSDB: u16 = 18;
pub const RT: u16 = 21;
pub const NSAP_PTR: u16 = 23;
pub const SIG: u16 = 24;
pub const PX: u16 = 26;
pub const AAAA: u16 = 28;
pub const NXT: u16 = 30;
pub const SRV: u16 = 33;
pub const NAPTR: u16 = 35;
pub const KX: u16 = 36;
pub const A6: u16 = 38;
pub const DNAME: u16 = 39;
pub const OPT: u16 = 41;
pub const IPSECKEY: u16 = 45;
pub const RRSIG: u16 = 46;
pub const NSEC: u16 = 47;
pub const HIP: u16 = 55;
pub const TALINK: u16 = 58;
pub const SVCB: u16 = 64;
pub const HTTPS: u16 = 65;
pub const DSYNC: u16 = 66;
pub const SPF: u16 = 99;
pub const LP: u16 = 107;
pub const AMTRELAY: u16 = 260;

/// The class of the Internet.
pub const CLASS_IN: u16 = 1;

/// Whether records of a type say something about a message or ask for something, rather than hold zone data:
/// OPT, type 0, and 128 to 255, the range of meta and question types (RFC 6895 section 3.1), TSIG among them.
pub const fn is_meta(rrtype: u16) -> bool {
    matches!(rrtype, 0 | OPT | 128..=255)
}

/// TKEY (RFC 2930), IXFR (RFC 1995) and AXFR (RFC 5936): questions whose answers are keys or whole zones.
pub const KEYS_AND_TRANSFERS: [u16; 3] = [249, 251, 252];
