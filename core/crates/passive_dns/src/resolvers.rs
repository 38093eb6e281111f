//! The resolvers whose upstream traffic is recorded, as addresses and prefixes of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::SettingError;

/// A CIDR prefix; an address is one of full length.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Parses `192.0.2.53`, `192.0.2.0/24`, `2001:db8::53` or `2001:db8::/32`.
    pub fn parse(text: &str) -> Result<Self, SettingError> {
        let wrong = || SettingError::Resolver(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => widest,
            Some(digits) if digits.bytes().all(|octet| octet.is_ascii_digit()) => {
                digits.parse().ok().filter(|length| *length <= widest).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        let prefix = Prefix { address, length };
        let (first, _) = prefix.bounds();
        if first != prefix.address_bits() {
            let meant = match address {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(first as u32)),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(first)),
            };
            return Err(SettingError::HostBits {
                given: text.to_owned(),
                meant: format!("{meant}/{length}"),
            });
        }
        Ok(prefix)
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn length(&self) -> u8 {
        self.length
    }

    fn address_bits(&self) -> u128 {
        bits(&self.address)
    }

    /// The first and the last address, as numbers.
    fn bounds(&self) -> (u128, u128) {
        let host_bits = if self.address.is_ipv4() { 32 } else { 128 } - u32::from(self.length);
        let hosts = 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
        (self.address_bits() & !hosts, self.address_bits() | hosts)
    }
}

fn bits(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Whether a number lies in one of sorted, disjoint ranges.
fn within<T: Copy + Ord>(ranges: &[(T, T)], wanted: T) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= wanted);
    behind > 0 && wanted <= ranges[behind - 1].1
}

/// A set of prefixes, none inside another, sorted.
#[derive(Clone, Debug)]
pub struct Resolvers {
    prefixes: Vec<Prefix>,
    ipv4: Vec<(u32, u32)>,
    ipv6: Vec<(u128, u128)>,
    /// Whether every address of a family, IPv4 or IPv6, is listed.
    everybody: [bool; 2],
}

impl Resolvers {
    /// Parses a list of addresses and prefixes; an empty one is refused.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, SettingError> {
        let mut prefixes =
            texts.iter().map(|text| Prefix::parse(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if prefixes.is_empty() {
            return Err(SettingError::NoResolver);
        }
        // Sorted by address and then length, a prefix comes right before everything inside it.
        prefixes.sort();
        prefixes.dedup_by(|next, kept| {
            let (first, last) = kept.bounds();
            kept.address.is_ipv4() == next.address.is_ipv4() && (first..=last).contains(&next.address_bits())
        });
        let ranges = |ipv4: bool| {
            prefixes.iter().filter(|prefix| prefix.address.is_ipv4() == ipv4).map(Prefix::bounds).collect()
        };
        let (ipv4, ipv6): (Vec<_>, Vec<_>) = (ranges(true), ranges(false));
        let everybody = [covers(&ipv4, u128::from(u32::MAX)), covers(&ipv6, u128::MAX)];
        let ipv4 = ipv4.into_iter().map(|(first, last)| (first as u32, last as u32)).collect();
        Ok(Resolvers { ipv4, ipv6, prefixes, everybody })
    }

    /// No resolver at all: no packet enters, and of dnstap everything does that is a resolver's.
    pub fn none() -> Self {
        Resolvers { prefixes: Vec::new(), ipv4: Vec::new(), ipv6: Vec::new(), everybody: [false; 2] }
    }

    /// Whether every address of a family is listed, so that the list tells nobody from anybody.
    pub fn is_everybody(&self, ipv4: bool) -> bool {
        self.everybody[usize::from(!ipv4)]
    }

    /// Refuses a list that tells nobody from anybody in one of the families.
    pub fn refuse_everybody(&self) -> Result<(), SettingError> {
        match self.everybody {
            [false, false] => Ok(()),
            [true, _] => Err(SettingError::Everybody { family: "IPv4" }),
            [false, true] => Err(SettingError::Everybody { family: "IPv6" }),
        }
    }

    pub fn contains(&self, address: &IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => within(&self.ipv4, address.to_bits()),
            IpAddr::V6(address) => within(&self.ipv6, address.to_bits()),
        }
    }

    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }
}

/// Whether sorted, disjoint ranges leave no gap up to `last`.
fn covers(ranges: &[(u128, u128)], last: u128) -> bool {
    let mut next = Some(0);
    for (from, to) in ranges {
        if next != Some(*from) {
            return false;
        }
        next = to.checked_add(1);
    }
    ranges.last().is_some_and(|(_, to)| *to == last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(resolvers: &Resolvers, address: &str) -> bool {
        resolvers.contains(&address.parse().unwrap())
    }

    #[test]
    fn addresses_and_prefixes_of_both_families() {
        let resolvers =
            Resolvers::parse(&["192.0.2.53", "198.51.100.64/26", "2001:db8::53", "2001:db8:1::/48"]).unwrap();
        for inside in ["192.0.2.53", "198.51.100.64", "198.51.100.127", "2001:db8::53", "2001:db8:1:ffff::1"]
        {
            assert!(contains(&resolvers, inside), "{inside}");
        }
        for outside in [
            "192.0.2.52",
            "192.0.2.54",
            "198.51.100.63",
            "198.51.100.128",
            "::192.0.2.53",
            "2001:db8::54",
            "2001:db8:2::",
        ] {
            assert!(!contains(&resolvers, outside), "{outside}");
        }
    }

    #[test]
    fn everybody_in_one_prefix_or_in_several() {
        for (prefixes, family) in [
            (&["0.0.0.0/0"][..], Some("IPv4")),
            (&["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2", "2001:db8::53"], Some("IPv4")),
            (&["::/0", "192.0.2.53"], Some("IPv6")),
            (&["8000::/1", "::/1"], Some("IPv6")),
            (&["0.0.0.0/1", "128.0.0.0/2", "2001:db8::53"], None),
            (&["128.0.0.0/1", "8000::/1"], None),
        ] {
            let resolvers = Resolvers::parse(prefixes).unwrap();
            let refused = resolvers.refuse_everybody().err();
            assert_eq!(refused, family.map(|family| SettingError::Everybody { family }), "{prefixes:?}");
            let (ipv4, ipv6) = (resolvers.is_everybody(true), resolvers.is_everybody(false));
            assert_eq!((ipv4, ipv6), (family == Some("IPv4"), family == Some("IPv6")), "{prefixes:?}");
        }
        let everybody = Resolvers::parse(&["0.0.0.0/0", "::/0"]).unwrap();
        assert!(contains(&everybody, "255.255.255.255") && contains(&everybody, "ffff::"));
    }

    #[test]
    fn prefixes_inside_others_go() {
        let resolvers =
            Resolvers::parse(&["192.0.2.53", "192.0.2.0/24", "192.0.2.0/25", "2001:db8::", "192.0.2.53"])
                .unwrap();
        assert_eq!(resolvers.prefixes().len(), 2);
        assert!(contains(&resolvers, "192.0.2.255") && contains(&resolvers, "2001:db8::"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(Resolvers::parse::<&str>(&[]).unwrap_err(), SettingError::NoResolver);
        for text in [
            "",
            "resolver.example",
            "192.0.2.0/33",
            "192.0.2.0/",
            "192.0.2.0/+8",
            "2001:db8::/129",
            "192.0.2.053",
        ] {
            assert_eq!(Resolvers::parse(&[text]).unwrap_err(), SettingError::Resolver(text.to_owned()));
        }
        let meant = match Resolvers::parse(&["192.0.2.53/24"]).unwrap_err() {
            SettingError::HostBits { meant, .. } => meant,
            other => panic!("{other}"),
        };
        assert_eq!(meant, "192.0.2.0/24");
    }
}
