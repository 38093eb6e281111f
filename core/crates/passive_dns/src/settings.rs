//! What an operator may choose of the sensor's pipeline.

use std::time::Duration;

use crate::error::SettingError;
use crate::limits::{CONTAINER_OCTETS_MAX, CONTAINER_OCTETS_MIN, TABLE_ENTRIES_MAX};
use crate::nmsg::dnsqr::Kind;
use crate::nmsg::{Codec, Envelope};
use crate::resolvers::Resolvers;

/// The types of transactions that are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kinds([bool; Kind::ALL.len()]);

impl Kinds {
    pub const ALL: Kinds = Kinds([true; Kind::ALL.len()]);

    /// Parses names such as `query_response`; none at all are refused.
    pub fn parse<T: AsRef<str>>(names: &[T]) -> Result<Self, SettingError> {
        let mut kinds = [false; Kind::ALL.len()];
        for name in names {
            let place = Kind::NAMES.iter().position(|known| *known == name.as_ref());
            let place = place.ok_or_else(|| SettingError::TransactionType {
                given: name.as_ref().to_owned(),
                known: Kind::NAMES.join(", "),
            })?;
            kinds[place] = true;
        }
        if names.is_empty() { Err(SettingError::NoTransactionType) } else { Ok(Kinds(kinds)) }
    }

    pub fn contains(&self, kind: Kind) -> bool {
        self.0[kind.index()]
    }
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub query_timeout: Duration,
    pub table_max: usize,
    pub kinds: Kinds,
    pub keep_query_packets: bool,
    pub clear_resolver_address: bool,
    /// Leaves the messages as they came, options and all: for files whose origin is known.
    pub keep_edns_options: bool,
    /// Zones that are kept out, as text.
    pub local_zones: Vec<String>,
    pub suppress_special_use: bool,
    /// A regular expression for names that are kept out.
    pub exclude_qname_regex: Option<String>,
    pub admit_private_responders: bool,
    pub admit_recursion_desired: bool,
    /// Accepts a list of resolvers that covers everybody.
    pub admit_every_address: bool,
    pub envelope: Envelope,
    /// The size of a container before compression.
    pub container_octets: usize,
    /// How long a transaction waits for its container to fill.
    pub flush_interval: Duration,
    pub codec: Codec,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            query_timeout: Duration::from_secs(60),
            table_max: 131_072,
            kinds: Kinds::ALL,
            keep_query_packets: false,
            clear_resolver_address: false,
            keep_edns_options: false,
            local_zones: Vec::new(),
            suppress_special_use: true,
            exclude_qname_regex: None,
            admit_private_responders: false,
            admit_recursion_desired: false,
            admit_every_address: false,
            envelope: Envelope::default(),
            container_octets: 512 * 1024,
            flush_interval: Duration::from_secs(1),
            codec: Codec::Zstd,
        }
    }
}

impl Settings {
    /// Refuses what is out of range, and a list of resolvers that would admit everybody.
    pub fn check(&self, resolvers: &Resolvers) -> Result<(), SettingError> {
        let within = |name, given: usize, least: usize, most: usize| {
            if (least..=most).contains(&given) {
                return Ok(());
            }
            Err(SettingError::Range {
                name,
                given: given.to_string(),
                least: least.to_string(),
                most: most.to_string(),
            })
        };
        within("table_max", self.table_max, 1, TABLE_ENTRIES_MAX)?;
        within("container_bytes", self.container_octets, CONTAINER_OCTETS_MIN, CONTAINER_OCTETS_MAX)?;
        if self.admit_every_address { Ok(()) } else { resolvers.refuse_everybody() }
    }
}
