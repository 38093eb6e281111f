//! Look-ups by which a sensor proves that what it captures arrives: names of one zone, the exchange's probe zone.
//!
//! Such a name says nothing about the internet, so a transaction that asked for one is no observation. Its nonce is kept
//! for the one who asks whether it has arrived.

use crate::dns::name::{self, ROOT};
use crate::error::SettingError;
use crate::limits::PROBE_NONCE_OCTETS;
use crate::nmsg::dnsqr::{DnsQr, KINDS};

/// A transaction of the probe zone whose name is a nonce directly below the zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// [`PROBE_NONCE_OCTETS`] hexadecimal digits, in lower case.
    pub nonce: String,
    /// What the transaction is, in the schema's words.
    pub kind: &'static str,
    /// When the query was seen, in seconds since 1970, if it was.
    pub asked: Option<f64>,
    /// When the response was seen, if it was.
    pub answered: Option<f64>,
}

/// What a transaction is to the probe zone.
#[derive(Clone, Debug, PartialEq)]
pub enum Sighting {
    /// A name of another zone, or none.
    Foreign,
    /// A name of the zone that is no nonce: the zone's own, or one that nobody waits for.
    Unnamed,
    Nonce(Probe),
}

/// The probe zone.
#[derive(Clone, Debug)]
pub struct Zone(Box<[u8]>);

impl Zone {
    /// The zone by its wire name. The root is refused: every name is below it.
    pub fn new(wire: &[u8]) -> Result<Self, SettingError> {
        let refused = |reason| SettingError::ProbeZone { given: wire.escape_ascii().to_string(), reason };
        name::validate(wire).map_err(|_| refused("it is no name in wire form"))?;
        if wire == ROOT {
            return Err(refused("every name is below the root"));
        }
        Ok(Zone(wire.to_ascii_lowercase().into()))
    }

    /// What a transaction is to this zone, by the name that its sensor says was asked for.
    pub fn sighting(&self, transaction: &DnsQr<'_>) -> Sighting {
        let Some(qname) = transaction.qname.filter(|qname| self.may_hold(qname)) else {
            return Sighting::Foreign;
        };
        let qname = qname.to_ascii_lowercase();
        if name::validate(&qname).is_err() || !name::is_at_or_below(&qname, &self.0) {
            return Sighting::Foreign;
        }
        let below = &qname[..qname.len() - self.0.len()];
        let Some((&length, label)) = below.split_first() else { return Sighting::Unnamed };
        let is_nonce = usize::from(length) == PROBE_NONCE_OCTETS
            && label.len() == PROBE_NONCE_OCTETS
            && label.iter().all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'f'));
        if !is_nonce {
            return Sighting::Unnamed;
        }
        Sighting::Nonce(Probe {
            nonce: label.iter().map(|&octet| char::from(octet)).collect(),
            kind: KINDS.get(transaction.kind as usize).copied().unwrap_or(KINDS[0]),
            asked: earliest(&transaction.query_time_sec, &transaction.query_time_nsec),
            answered: earliest(&transaction.response_time_sec, &transaction.response_time_nsec),
        })
    }

    /// Whether a name ends as the zone's does: all but a few names are told apart here, without being copied.
    fn may_hold(&self, qname: &[u8]) -> bool {
        qname
            .len()
            .checked_sub(self.0.len())
            .is_some_and(|start| qname[start..].eq_ignore_ascii_case(&self.0))
    }
}

fn earliest(seconds: &[i64], nanoseconds: &[u32]) -> Option<f64> {
    let (seconds, nanoseconds) = (seconds.first()?, nanoseconds.first().copied().unwrap_or(0));
    Some(*seconds as f64 + f64::from(nanoseconds) / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    fn wire(text: &str) -> Vec<u8> {
        name::from_text(text).unwrap()
    }

    fn of(qname: &[u8]) -> Sighting {
        let zone = Zone::new(&wire("Probe.Example")).unwrap();
        let transaction = DnsQr {
            kind: 1,
            qname: Some(qname),
            query_time_sec: vec![1_790_000_000],
            query_time_nsec: vec![500_000_000],
            ..DnsQr::default()
        };
        zone.sighting(&transaction)
    }

    #[test]
    fn a_nonce_is_told_in_any_letter_case() {
        let expected = Probe {
            nonce: NONCE.to_owned(),
            kind: "UDP_QUERY_RESPONSE",
            asked: Some(1_790_000_000.5),
            answered: None,
        };
        let mixed = format!("{}.pRoBe.EXAMPLE", NONCE.to_ascii_uppercase());
        assert_eq!(of(&wire(&mixed)), Sighting::Nonce(expected));
    }

    #[test]
    fn other_names_of_the_zone_are_no_nonces() {
        let too_long = format!("{NONCE}0.probe.example");
        let below = format!("{NONCE}.{NONCE}.probe.example");
        for text in ["probe.example", "www.probe.example", "_.probe.example", &too_long, &below] {
            assert_eq!(of(&wire(text)), Sighting::Unnamed, "{text}");
        }
    }

    #[test]
    fn names_of_other_zones_are_foreign() {
        for text in ["example", "xprobe.example", "probe.example.com", "."] {
            assert_eq!(of(&wire(text)), Sighting::Foreign, "{text}");
        }
        // The same octets at the end, but inside of a label.
        assert_eq!(of(b"\x0fx\x05probe\x07example\x00"), Sighting::Foreign);
        assert_eq!(of(b""), Sighting::Foreign);
        assert_eq!(Zone::new(&wire("probe.example")).unwrap().sighting(&DnsQr::default()), Sighting::Foreign);
    }

    #[test]
    fn a_zone_is_a_name_below_the_root() {
        assert!(Zone::new(ROOT).is_err());
        assert!(Zone::new(b"\x05probe").is_err());
    }
}
