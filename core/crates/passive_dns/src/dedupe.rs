//! Merging observations: one record for all sightings of an RRset under a bailiwick within a window.

use hashbrown::HashMap;
use thiserror::Error;

use crate::dns::rrtype::CLASS_IN;
use crate::error::{FormatError, SettingError};
use crate::frame::Timestamp;
use crate::limits::{CONTAINER_OCTETS_MAX, PROBES_MAX, WINDOW_OCTETS_MAX};
use crate::nmsg::dnsdedupe::{DnsDedupe, EXPIRATION};
use crate::nmsg::{Archive, Codec, Envelope, Writer};
use crate::observation::{self, Answer, Decomposer, RRset, RecordCounts, Refusal};
use crate::probe::{Probe, Sighting, Zone};

/// Nothing was added to a window.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum AddError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(
        "the window is full: {entries} entries of {entries_max}, {octets} octets of {octets_max}; take it first"
    )]
    Full { entries: usize, entries_max: usize, octets: usize, octets_max: usize },
}

//------------ Added -------------------------------------------------------------------------------------------

/// What became of the transactions of one addition.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Added {
    /// The sum of `observed`, `probe` and all refusals.
    pub transactions: u64,
    pub observed: u64,
    /// Those that ask for names of the probe zone.
    pub probe: u64,
    /// Those of the observed ones that say which zone's server was asked.
    pub query_zones: u64,
    /// By refusal.
    pub refused: [u64; Refusal::COUNTERS.len()],
    pub records: RecordCounts,
    /// Sightings of RRsets.
    pub observations: u64,
    /// Those of an RRset that the window had already.
    pub merged: u64,
}

impl Added {
    /// Every counter with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let rest = [
            ("transactions", self.transactions),
            ("observed", self.observed),
            ("probe", self.probe),
            ("query_zones", self.query_zones),
            ("observations", self.observations),
            ("merged", self.merged),
            ("records", self.records.records),
            ("records_observed", self.records.observed),
            ("records_filtered_meta", self.records.filtered_meta),
            ("records_filtered_class", self.records.filtered_class),
            ("records_repeated", self.records.repeated),
        ];
        Refusal::COUNTERS.into_iter().zip(self.refused).chain(rest)
    }

    fn add_records(&mut self, counts: &RecordCounts) {
        self.records.records += counts.records;
        self.records.observed += counts.observed;
        self.records.filtered_meta += counts.filtered_meta;
        self.records.filtered_class += counts.filtered_class;
        self.records.repeated += counts.repeated;
    }
}

//------------ Window ------------------------------------------------------------------------------------------

/// The sightings of one RRset.
#[derive(Clone, Copy, Debug)]
struct Sightings {
    count: u32,
    first: u32,
    last: u32,
    ttl: u32,
}

/// Octets that a record costs beside its key: numbers, their field keys, payload head and CRC.
const RECORD_OVERHEAD_OCTETS: usize = 64;

/// The RRsets seen since the window was last taken.
///
/// A key is owner, type, bailiwick and each rdata behind its length. Names end themselves, so that octets in order
/// are records in order.
pub struct Window {
    entries_max: usize,
    entries: HashMap<Box<[u8]>, Sightings>,
    octets: usize,
    decomposer: Decomposer,
    key: Vec<u8>,
    probe_zone: Option<Zone>,
    probes: Vec<Probe>,
}

impl Window {
    /// A window for so many records; names of the probe zone make none.
    pub fn new(entries_max: usize, probe_zone: Option<Zone>) -> Result<Self, SettingError> {
        if entries_max == 0 {
            return Err(SettingError::Range {
                name: "max_entries",
                given: "0".to_owned(),
                least: "1".to_owned(),
                most: usize::MAX.to_string(),
            });
        }
        Ok(Window {
            entries_max,
            entries: HashMap::new(),
            octets: 0,
            decomposer: Decomposer::default(),
            key: Vec::new(),
            probe_zone,
            probes: Vec::new(),
        })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// About how many octets the records take before compression.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// Whether there is room for nothing more. One addition may lead beyond the number of entries, by what one
    /// container holds; the next is then refused.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.entries_max || self.has_no_room()
    }

    /// Whether the octets are used up. One transaction may lead beyond them, by what its records take; the next is
    /// then lost.
    fn has_no_room(&self) -> bool {
        self.octets >= WINDOW_OCTETS_MAX
    }

    /// Observes every transaction of the containers that there is room for, or nothing if they cannot be read.
    pub fn add(&mut self, containers: &[u8], limit: usize) -> Result<Added, AddError> {
        if self.is_full() {
            return Err(AddError::Full {
                entries: self.entries.len(),
                entries_max: self.entries_max,
                octets: self.octets,
                octets_max: WINDOW_OCTETS_MAX,
            });
        }
        let archive = Archive::open(containers, limit)?;
        let payloads = archive.payloads()?;
        let mut added = Added { transactions: payloads.len() as u64, ..Added::default() };
        for payload in &payloads {
            let observed = observation::transaction(payload).and_then(|transaction| {
                match self.probe_zone.as_ref().map(|zone| zone.sighting(&transaction)) {
                    Some(Sighting::Nonce(probe)) => {
                        added.probe += 1;
                        self.note(probe);
                        Ok(())
                    }
                    Some(Sighting::Unnamed) => {
                        added.probe += 1;
                        Ok(())
                    }
                    Some(Sighting::Foreign) | None => self.observe(&Answer::of(&transaction)?, &mut added),
                }
            });
            if let Err(refusal) = observed {
                added.refused[refusal as usize] += 1;
            }
        }
        Ok(added)
    }

    /// The probes that were noted since this was asked last, [`PROBES_MAX`] at most.
    pub fn take_probes(&mut self) -> Vec<Probe> {
        std::mem::take(&mut self.probes)
    }

    fn note(&mut self, probe: Probe) {
        if self.probes.len() < PROBES_MAX {
            self.probes.push(probe);
        }
    }

    fn observe(&mut self, answer: &Answer<'_>, added: &mut Added) -> Result<(), Refusal> {
        if self.has_no_room() {
            return Err(Refusal::LostRoom);
        }
        let Window { entries, octets, decomposer, key, .. } = self;
        let counts = decomposer.decompose(answer, |rrset| {
            write_key(rrset, key);
            added.observations += 1;
            if let Some(sightings) = entries.get_mut(&key[..]) {
                added.merged += 1;
                // A window of seconds does not see an RRset four billion times.
                sightings.count = sightings.count.saturating_add(1);
                sightings.first = sightings.first.min(answer.seconds);
                sightings.last = sightings.last.max(answer.seconds);
                sightings.ttl = sightings.ttl.max(rrset.ttl);
            } else {
                *octets += key.len() + RECORD_OVERHEAD_OCTETS;
                let sightings =
                    Sightings { count: 1, first: answer.seconds, last: answer.seconds, ttl: rrset.ttl };
                entries.insert(key.as_slice().into(), sightings);
            }
        })?;
        added.add_records(&counts);
        added.observed += 1;
        added.query_zones += u64::from(answer.query_zone.is_some());
        Ok(())
    }

    /// Empties the window into concatenated zlib containers of dnsdedupe records, in order of their keys.
    ///
    /// A payload's time is its record's last sighting; it names no source, operator or group.
    pub fn take(&mut self) -> Vec<u8> {
        let mut records: Vec<_> = std::mem::take(&mut self.entries).into_iter().collect();
        self.octets = 0;
        records.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut writer = Writer::new(Codec::Zlib, CONTAINER_OCTETS_MAX, Envelope::default());
        let mut containers = Vec::new();
        for (key, sightings) in &records {
            let sealed = writer.push(Timestamp::new(sightings.last, 0), &record(key, sightings));
            containers.extend(sealed.into_iter().flat_map(|container| container.octets));
        }
        containers.extend(writer.seal().into_iter().flat_map(|container| container.octets));
        containers
    }
}

//------------ Keys --------------------------------------------------------------------------------------------

const RDATA_FITS: &str =
    "rdata of a message of 65,535 octets, its two names decompressed, is shorter than 2^32";

fn write_key(rrset: &RRset<'_>, key: &mut Vec<u8>) {
    key.clear();
    key.extend_from_slice(rrset.owner);
    key.extend(rrset.rrtype.to_be_bytes());
    key.extend_from_slice(rrset.bailiwick);
    for rdata in rrset.rdata() {
        key.extend(u32::try_from(rdata.len()).expect(RDATA_FITS).to_be_bytes());
        key.extend_from_slice(rdata);
    }
}

/// The record of a key that [`write_key`] wrote.
fn record<'a>(key: &'a [u8], sightings: &Sightings) -> DnsDedupe<'a> {
    let (rrname, rest) = split_name(key);
    let (rrtype, rest) = rest.split_at(2);
    let (bailiwick, mut rest) = split_name(rest);
    let mut rdata = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (octets, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        rdata.push(octets);
        rest = behind;
    }
    DnsDedupe {
        rrname: Some(rrname),
        rrtype: Some(u32::from(u16::from_be_bytes([rrtype[0], rrtype[1]]))),
        rrclass: Some(u32::from(CLASS_IN)),
        rrttl: Some(sightings.ttl),
        rdata,
        count: Some(sightings.count),
        time_first: Some(sightings.first),
        time_last: Some(sightings.last),
        kind: Some(EXPIRATION),
        bailiwick: Some(bailiwick),
        ..DnsDedupe::default()
    }
}

fn split_name(key: &[u8]) -> (&[u8], &[u8]) {
    let mut end = 0;
    while key[end] != 0 {
        end += 1 + usize::from(key[end]);
    }
    key.split_at(end + 1)
}
