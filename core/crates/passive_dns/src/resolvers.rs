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

/// A set of prefixes, none inside another, sorted.
#[derive(Clone, Debug)]
pub struct Resolvers {
    prefixes: Vec<Prefix>,
    ipv4: Vec<(u128, u128)>,
    ipv6: Vec<(u128, u128)>,
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
        Ok(Resolvers { ipv4: ranges(true), ipv6: ranges(false), prefixes })
    }

    pub fn contains(&self, address: &IpAddr) -> bool {
        let ranges = if address.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let wanted = bits(address);
        let behind = ranges.partition_point(|(first, _)| *first <= wanted);
        behind > 0 && wanted <= ranges[behind - 1].1
    }

    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }
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
    fn everything_is_a_prefix_too() {
        let resolvers = Resolvers::parse(&["0.0.0.0/0", "::/0"]).unwrap();
        assert!(contains(&resolvers, "255.255.255.255") && contains(&resolvers, "ffff::"));
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
