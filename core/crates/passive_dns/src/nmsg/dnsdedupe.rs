//! SIE:dnsdedupe, sightings of one RRset within a span of time.

use crate::error::FormatError;
use crate::nmsg::protobuf::{Fields, Sink};
use crate::nmsg::{Message, Schema};

/// Vendor SIE, type dnsdedupe.
pub const SCHEMA: Schema = (2, 1);

const MESSAGE: &str = "dnsdedupe";

/// Field numbers.
mod field {
    pub const RRNAME: u32 = 1;
    pub const RRTYPE: u32 = 2;
    pub const RRCLASS: u32 = 3;
    pub const RRTTL: u32 = 4;
    pub const RDATA: u32 = 5;
    pub const COUNT: u32 = 10;
    pub const TIME_FIRST: u32 = 11;
    pub const TIME_LAST: u32 = 12;
    pub const TYPE: u32 = 13;
    pub const RESPONSE_IP: u32 = 14;
    pub const RESPONSE: u32 = 15;
    pub const BAILIWICK: u32 = 16;
    pub const ZONE_TIME_FIRST: u32 = 17;
    pub const ZONE_TIME_LAST: u32 = 18;
}

/// The names of DnsDedupeType, by number.
pub const KINDS: [&str; 7] = [
    "INSERTION",
    "EXPIRATION",
    "CHAFF",
    "AUTHORITATIVE",
    "MERGED",
    "MERGED_AUTHORITATIVE",
    "MERGED_INSERTION",
];

/// The window closed: `count` is the number of sightings in it.
pub const EXPIRATION: u32 = 1;

/// A dnsdedupe message; every field may be absent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DnsDedupe<'a> {
    pub rrname: Option<&'a [u8]>,
    pub rrtype: Option<u32>,
    pub rrclass: Option<u32>,
    pub rrttl: Option<u32>,
    pub rdata: Vec<&'a [u8]>,
    pub count: Option<u32>,
    pub time_first: Option<u32>,
    pub time_last: Option<u32>,
    pub kind: Option<u32>,
    pub response_ip: Option<&'a [u8]>,
    pub response: Option<&'a [u8]>,
    pub bailiwick: Option<&'a [u8]>,
    pub zone_time_first: Option<u32>,
    pub zone_time_last: Option<u32>,
}

impl Message for DnsDedupe<'_> {
    const SCHEMA: Schema = SCHEMA;

    fn write(&self, sink: &mut impl Sink) {
        fn octets(sink: &mut impl Sink, field: u32, octets: Option<&[u8]>) {
            if let Some(octets) = octets {
                sink.octets(field, octets);
            }
        }
        fn uint(sink: &mut impl Sink, field: u32, value: Option<u32>) {
            if let Some(value) = value {
                sink.uint(field, u64::from(value));
            }
        }
        octets(sink, field::RRNAME, self.rrname);
        uint(sink, field::RRTYPE, self.rrtype);
        uint(sink, field::RRCLASS, self.rrclass);
        uint(sink, field::RRTTL, self.rrttl);
        for rdata in &self.rdata {
            sink.octets(field::RDATA, rdata);
        }
        uint(sink, field::COUNT, self.count);
        uint(sink, field::TIME_FIRST, self.time_first);
        uint(sink, field::TIME_LAST, self.time_last);
        uint(sink, field::TYPE, self.kind);
        octets(sink, field::RESPONSE_IP, self.response_ip);
        octets(sink, field::RESPONSE, self.response);
        octets(sink, field::BAILIWICK, self.bailiwick);
        uint(sink, field::ZONE_TIME_FIRST, self.zone_time_first);
        uint(sink, field::ZONE_TIME_LAST, self.zone_time_last);
    }
}

impl<'a> DnsDedupe<'a> {
    pub fn read(message: &'a [u8]) -> Result<Self, FormatError> {
        let mut dedupe = DnsDedupe::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                field::RRNAME => dedupe.rrname = Some(value.as_octets()?),
                field::RRTYPE => dedupe.rrtype = Some(value.as_u32()?),
                field::RRCLASS => dedupe.rrclass = Some(value.as_u32()?),
                field::RRTTL => dedupe.rrttl = Some(value.as_u32()?),
                field::RDATA => dedupe.rdata.push(value.as_octets()?),
                field::COUNT => dedupe.count = Some(value.as_u32()?),
                field::TIME_FIRST => dedupe.time_first = Some(value.as_u32()?),
                field::TIME_LAST => dedupe.time_last = Some(value.as_u32()?),
                field::TYPE => dedupe.kind = Some(value.as_u32()?),
                field::RESPONSE_IP => dedupe.response_ip = Some(value.as_octets()?),
                field::RESPONSE => dedupe.response = Some(value.as_octets()?),
                field::BAILIWICK => dedupe.bailiwick = Some(value.as_octets()?),
                field::ZONE_TIME_FIRST => dedupe.zone_time_first = Some(value.as_u32()?),
                field::ZONE_TIME_LAST => dedupe.zone_time_last = Some(value.as_u32()?),
                _ => {}
            }
        }
        Ok(dedupe)
    }
}

//------------ Expiration --------------------------------------------------------------------------------------

/// What the store needs of a record: one RRset under one bailiwick, and its sightings in a closed window.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expiration<'a> {
    pub rrname: &'a [u8],
    pub rrtype: u16,
    pub rrclass: u16,
    pub bailiwick: &'a [u8],
    pub rdata: Vec<&'a [u8]>,
    pub count: u32,
    pub time_first: u32,
    pub time_last: u32,
    pub rrttl: u32,
}

impl<'a> Expiration<'a> {
    /// Refuses a message that is of another type or lacks anything: such a record cannot be counted.
    pub fn read(message: &'a [u8]) -> Result<Self, FormatError> {
        let dedupe = DnsDedupe::read(message)?;
        let missing = |field| FormatError::Missing { message: MESSAGE, field };
        let content = |reason| FormatError::Content { message: MESSAGE, reason };
        if dedupe.kind != Some(EXPIRATION) {
            return Err(content("only records of type EXPIRATION count sightings of a closed window"));
        }
        let number = |value: Option<u32>, field| value.ok_or(missing(field));
        let short = |value: Option<u32>, field| {
            u16::try_from(number(value, field)?).map_err(|_| content("rrtype and rrclass have 16 bits"))
        };
        let name = |value: Option<&'a [u8]>, field| {
            let name = value.ok_or(missing(field))?;
            crate::dns::name::validate(name)?;
            Ok::<_, FormatError>(name)
        };
        if dedupe.rdata.is_empty() {
            return Err(missing("rdata"));
        }
        Ok(Expiration {
            rrname: name(dedupe.rrname, "rrname")?,
            rrtype: short(dedupe.rrtype, "rrtype")?,
            rrclass: short(dedupe.rrclass, "rrclass")?,
            bailiwick: name(dedupe.bailiwick, "bailiwick")?,
            count: match number(dedupe.count, "count")? {
                0 => return Err(content("count is zero")),
                count => count,
            },
            time_first: number(dedupe.time_first, "time_first")?,
            time_last: number(dedupe.time_last, "time_last")?,
            rrttl: number(dedupe.rrttl, "rrttl")?,
            rdata: dedupe.rdata,
        })
    }
}
