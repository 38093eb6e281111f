//! From a transaction to the RRsets that it shows.
//!
//! A transaction is observed if a query was answered, over UDP or TCP, with NOERROR, whole, in class IN, and the answer
//! repeats the question. All three sections count. Records of one owner and type are one RRset; signatures are
//! one RRset per type that they cover, so that a renewed signature of one type leaves the others alone. An RRset
//! that stands in several sections is taken from the first of them, which a server vouches for most (RFC 2181
//! section 5.4.1). OPT, TSIG, SIG(0) and other meta records, and records of other classes, are left out.
//!
//! The bailiwick is provisional: the deepest zone at or above the owner that the authority section of an
//! authoritative answer names by an NS or SOA record; the root where there is none.

use std::borrow::Cow;
use std::ops::Range;

use crate::dns::name::{self, ROOT};
use crate::dns::{Header, Malformed, Question, Rcode, Record, Records, Section, rdata, rrtype};
use crate::limits::RRSET_OCTETS_MAX;
use crate::nmsg::Payload;
use crate::nmsg::dnsqr::{self, DnsQr, Kind};
use crate::stored::{self, Unreadable};

//------------ Refusal -----------------------------------------------------------------------------------------

/// Why a transaction is not observed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// Not a query and its response.
    FilteredType,
    /// The response code is not NOERROR.
    FilteredRcode,
    /// TC=1: the rest was to come by TCP.
    FilteredTruncated,
    /// The question's class is not IN.
    FilteredClass,
    /// The response is in pieces.
    FilteredFragmented,
    /// The payload's CRC is wrong.
    RejectedCrc,
    /// The payload is not a base:dnsqr.
    RejectedSchema,
    /// The payload, the packet or the message in it contradicts itself.
    RejectedMalformed,
    /// The response does not repeat the transaction's question and id, or is none.
    RejectedQuestion,
    /// The window into which it was to go had no room left ([`crate::limits::WINDOW_OCTETS_MAX`]).
    LostRoom,
}

impl Refusal {
    /// The counters' names, in the order of the refusals.
    pub const COUNTERS: [&str; 10] = [
        "filtered_type",
        "filtered_rcode",
        "filtered_truncated",
        "filtered_class",
        "filtered_fragmented",
        "rejected_crc",
        "rejected_schema",
        "rejected_malformed",
        "rejected_question",
        "lost_room",
    ];
}

impl From<Malformed> for Refusal {
    fn from(_: Malformed) -> Self {
        Refusal::RejectedMalformed
    }
}

/// The transaction of a payload.
pub fn transaction<'a>(payload: &Payload<'a>) -> Result<DnsQr<'a>, Refusal> {
    if !payload.intact {
        return Err(Refusal::RejectedCrc);
    }
    if payload.schema != dnsqr::SCHEMA {
        return Err(Refusal::RejectedSchema);
    }
    DnsQr::read(payload.message).map_err(|_| Refusal::RejectedMalformed)
}

//------------ Answer ------------------------------------------------------------------------------------------

/// The response of an observable transaction.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// When it came, in seconds since 1970.
    pub seconds: u32,
    /// The zone whose server was asked, as wire name, if the sensor's resolver told.
    pub query_zone: Option<&'a [u8]>,
    header: Header,
    /// Where its question ends.
    question_end: usize,
    message: Cow<'a, [u8]>,
}

impl<'a> Answer<'a> {
    /// Judges a transaction.
    pub fn of(dnsqr: &DnsQr<'a>) -> Result<Self, Refusal> {
        if dnsqr.kind != Kind::QueryResponse as u32 {
            return Err(Refusal::FilteredType);
        }
        // Several packets have several times; a message is there when the last of them has come.
        let seconds = dnsqr.response_time_sec.iter().max().ok_or(Refusal::RejectedMalformed)?;
        let seconds = u32::try_from(*seconds).map_err(|_| Refusal::RejectedMalformed)?;
        let message = stored::message(dnsqr.proto, &dnsqr.response_packet)?;
        let header = Header::parse(&message).ok_or(Refusal::RejectedMalformed)?;
        let question = Question::of_message(&header, &message)?;
        if !header.is_response() || !header.is_standard_query() || u32::from(header.id) != dnsqr.id {
            return Err(Refusal::RejectedQuestion);
        }
        if header.rcode() != Rcode::NOERROR {
            return Err(Refusal::FilteredRcode);
        }
        if header.is_truncated() {
            return Err(Refusal::FilteredTruncated);
        }
        let question = question.filter(|question| {
            dnsqr.qname == Some(question.name)
                && dnsqr.qtype == Some(u32::from(question.rrtype))
                && dnsqr.qclass == Some(u32::from(question.class))
        });
        let question = question.ok_or(Refusal::RejectedQuestion)?;
        if question.class != rrtype::CLASS_IN {
            return Err(Refusal::FilteredClass);
        }
        Ok(Answer { seconds, query_zone: dnsqr.query_zone, header, question_end: question.end(), message })
    }
}

impl From<Unreadable> for Refusal {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Fragmented => Refusal::FilteredFragmented,
            Unreadable::Malformed => Refusal::RejectedMalformed,
        }
    }
}

//------------ RRset -------------------------------------------------------------------------------------------

/// One RRset of a response, canonical.
#[derive(Clone, Copy, Debug)]
pub struct RRset<'a> {
    pub owner: &'a [u8],
    pub rrtype: u16,
    pub bailiwick: &'a [u8],
    /// The largest of its records' TTLs.
    pub ttl: u32,
    records: &'a [Part],
    octets: &'a [u8],
}

impl<'a> RRset<'a> {
    /// The rdata of each record, none twice, sorted by length and then by octets.
    pub fn rdata(&self) -> impl Iterator<Item = &'a [u8]> {
        let octets = self.octets;
        self.records.iter().map(move |part| &octets[part.rdata.clone()])
    }
}

//------------ Decomposer --------------------------------------------------------------------------------------

/// What became of the resource records of observed transactions; the first number is the sum of the others.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RecordCounts {
    pub records: u64,
    pub observed: u64,
    pub filtered_meta: u64,
    pub filtered_class: u64,
    /// In another section, or in the same one with the same rdata, before.
    pub repeated: u64,
}

/// A record; its owner and its rdata stand, canonical, in the decomposer's octets.
#[derive(Clone, Debug)]
struct Part {
    section: Section,
    rrtype: u16,
    /// The type that a signature covers, else zero.
    covered: u16,
    ttl: u32,
    owner: Range<usize>,
    rdata: Range<usize>,
}

/// Takes responses apart; keeps its memory between them.
#[derive(Debug, Default)]
pub struct Decomposer {
    octets: Vec<u8>,
    parts: Vec<Part>,
    /// Owners of NS and SOA records in the authority section of an authoritative answer, sorted.
    zones: Vec<Range<usize>>,
}

impl Decomposer {
    /// Shows each RRset of the answer to `each`; none of them unless the whole message is well-formed.
    pub fn decompose(
        &mut self,
        answer: &Answer<'_>,
        mut each: impl FnMut(&RRset<'_>),
    ) -> Result<RecordCounts, Malformed> {
        let mut counts = self.read(answer)?;
        self.note_zones(&answer.header);
        let before = self.parts.len();
        self.unite();
        counts.observed = self.parts.len() as u64;
        counts.repeated = (before - self.parts.len()) as u64;

        let octets = &self.octets[..];
        let rrsets = || self.parts.chunk_by(|a, b| same_rrset(octets, a, b));
        if rrsets()
            .any(|records| records.iter().map(|part| part.rdata.len()).sum::<usize>() > RRSET_OCTETS_MAX)
        {
            return Err(Malformed);
        }
        for records in rrsets() {
            let owner = &octets[records[0].owner.clone()];
            each(&RRset {
                owner,
                rrtype: records[0].rrtype,
                bailiwick: self.bailiwick(owner),
                ttl: records.iter().map(|part| part.ttl).max().unwrap_or(0),
                records,
                octets,
            });
        }
        Ok(counts)
    }

    /// Reads all records, in canonical form.
    fn read(&mut self, answer: &Answer<'_>) -> Result<RecordCounts, Malformed> {
        self.octets.clear();
        self.parts.clear();
        let mut counts = RecordCounts::default();
        let mut previous: Option<Owner> = None;
        for record in Records::from(&answer.header, &answer.message, answer.question_end) {
            let record = record?;
            counts.records += 1;
            let rdata = &answer.message[record.rdata..record.rdata_end];
            let covered = match record.rrtype {
                rrtype::RRSIG | rrtype::SIG => rdata::covered_type(rdata),
                _ => 0,
            };
            if rrtype::is_meta(record.rrtype) || (record.rrtype == rrtype::SIG && covered == 0) {
                counts.filtered_meta += 1;
                continue;
            }
            if record.class != rrtype::CLASS_IN {
                counts.filtered_class += 1;
                continue;
            }
            let owner = self.owner(&answer.message, &record, &mut previous)?;
            let start = self.octets.len();
            rdata::canonicalise(
                &answer.message,
                record.rdata,
                record.rdata_end,
                record.rrtype,
                &mut self.octets,
            )?;
            self.parts.push(Part {
                section: record.section,
                rrtype: record.rrtype,
                covered,
                ttl: record.ttl,
                owner,
                rdata: start..self.octets.len(),
            });
        }
        Ok(counts)
    }

    /// The canonical owner of a record. Most owners are the pointer that the previous record's owner is.
    fn owner(
        &mut self,
        message: &[u8],
        record: &Record,
        previous: &mut Option<Owner>,
    ) -> Result<Range<usize>, Malformed> {
        let pointer = [message[record.owner], message[record.owner + 1]];
        if let Some(known) = previous.as_ref().filter(|known| known.pointer == pointer) {
            return Ok(known.octets.clone());
        }
        let start = self.octets.len();
        name::decompress(message, record.owner, &mut self.octets)?;
        self.octets[start..].make_ascii_lowercase();
        let octets = start..self.octets.len();
        if pointer[0] >= 0xc0 {
            *previous = Some(Owner { pointer, octets: octets.clone() });
        }
        Ok(octets)
    }

    fn note_zones(&mut self, header: &Header) {
        self.zones.clear();
        if !header.is_authoritative() {
            return;
        }
        let apexes = self.parts.iter().filter(|part| {
            part.section == Section::Authority && matches!(part.rrtype, rrtype::NS | rrtype::SOA)
        });
        self.zones.extend(apexes.map(|part| part.owner.clone()));
        let octets = &self.octets;
        self.zones.sort_unstable_by(|a, b| octets[a.clone()].cmp(&octets[b.clone()]));
        self.zones.dedup_by(|a, b| octets[a.clone()] == octets[b.clone()]);
    }

    /// The deepest noted zone at or above the owner, else the root.
    fn bailiwick<'a>(&self, owner: &'a [u8]) -> &'a [u8] {
        let mut zone = owner;
        while zone != ROOT {
            if self.zones.binary_search_by(|noted| self.octets[noted.clone()].cmp(zone)).is_ok() {
                return zone;
            }
            zone = &zone[1 + usize::from(zone[0])..];
        }
        zone
    }

    /// Sorts the records into RRsets and drops those that were there before.
    fn unite(&mut self) {
        let octets = &self.octets;
        let owner = |part: &Part| &octets[part.owner.clone()];
        let rdata = |part: &Part| &octets[part.rdata.clone()];
        self.parts.sort_unstable_by(|a, b| {
            owner(a)
                .cmp(owner(b))
                .then_with(|| (a.rrtype, a.covered, a.section).cmp(&(b.rrtype, b.covered, b.section)))
                .then_with(|| rdata(a).len().cmp(&rdata(b).len()))
                .then_with(|| rdata(a).cmp(rdata(b)))
        });
        self.parts.dedup_by(|next, kept| {
            if !same_rrset(octets, next, kept) {
                return false;
            }
            if next.section != kept.section {
                return true;
            }
            let same = rdata(next) == rdata(kept);
            if same {
                kept.ttl = kept.ttl.max(next.ttl);
            }
            same
        });
    }
}

/// An owner that is nothing but a pointer, and where its name stands.
struct Owner {
    pointer: [u8; 2],
    octets: Range<usize>,
}

fn same_rrset(octets: &[u8], a: &Part, b: &Part) -> bool {
    (a.rrtype, a.covered) == (b.rrtype, b.covered) && octets[a.owner.clone()] == octets[b.owner.clone()]
}
