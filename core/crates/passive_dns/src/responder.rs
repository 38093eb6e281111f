//! Whose address a responder's is: a server of the public name space, or one of somebody's own.
//!
//! Exchanges with servers that the public internet does not reach are about names that are nobody else's business,
//! and the server's address is not either. Addresses for documentation (RFC 5737, RFC 3849) count as public: nobody
//! has servers there, and laboratories stand there for the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    Public,
    /// RFC 1918; fc00::/7 (RFC 4193); fec0::/10, which it replaced (RFC 3879).
    Private,
    /// 100.64.0.0/10, between a provider and its customers (RFC 6598).
    Shared,
    /// 169.254.0.0/16 (RFC 3927); fe80::/10 (RFC 4291 section 2.5.6).
    LinkLocal,
    /// 127.0.0.0/8 (RFC 1122 section 3.2.1.3); ::1 (RFC 4291 section 2.5.3).
    Loopback,
    /// 0.0.0.0/8 (RFC 1122 section 3.2.1.3); :: (RFC 4291 section 2.5.2).
    Unspecified,
    /// 224.0.0.0/4 (RFC 5771); ff00::/8 (RFC 4291 section 2.7).
    Multicast,
    /// 240.0.0.0/4, broadcast included (RFC 1112 section 4, RFC 919).
    Reserved,
}

impl Scope {
    pub fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_ipv4(*address),
            IpAddr::V6(address) => of_ipv6(*address),
        }
    }

    pub fn is_public(self) -> bool {
        self == Scope::Public
    }

    /// What such an address is called, for sentences like "the responder's address is private".
    pub fn adjective(self) -> &'static str {
        match self {
            Scope::Public => "public",
            Scope::Private => "private",
            Scope::Shared => "shared between a provider and its customers",
            Scope::LinkLocal => "link-local",
            Scope::Loopback => "a loopback address",
            Scope::Unspecified => "unspecified",
            Scope::Multicast => "a multicast address",
            Scope::Reserved => "reserved",
        }
    }
}

fn of_ipv4(address: Ipv4Addr) -> Scope {
    match address.octets() {
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Scope::Private,
        [100, 64..=127, ..] => Scope::Shared,
        [169, 254, ..] => Scope::LinkLocal,
        [127, ..] => Scope::Loopback,
        [0, ..] => Scope::Unspecified,
        [224..=239, ..] => Scope::Multicast,
        [240..=255, ..] => Scope::Reserved,
        _ => Scope::Public,
    }
}

/// NAT64's well-known prefix, 64:ff9b::/96 (RFC 6052 section 2.1), and that of IPv4-mapped addresses, ::ffff:0:0/96
/// (RFC 4291 section 2.5.5.2), as segments. Both hold an IPv4 address, whose scope is theirs.
const PREFIXES_OF_IPV4: [[u16; 6]; 2] = [[0x64, 0xff9b, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0xffff]];

fn of_ipv6(address: Ipv6Addr) -> Scope {
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Scope::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Scope::Loopback,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Scope::Private,
        [0xfe80..=0xfebf, ..] => Scope::LinkLocal,
        [0xff00..=0xffff, ..] => Scope::Multicast,
        [a, b, c, d, e, f, _, _] if PREFIXES_OF_IPV4.contains(&[a, b, c, d, e, f]) => {
            let [.., w, x, y, z] = address.octets();
            of_ipv4(Ipv4Addr::new(w, x, y, z))
        }
        _ => Scope::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_and_last_addresses_of_each_scope() {
        for (scope, addresses) in [
            (Scope::Private, &["10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255"][..]),
            (Scope::Private, &["192.168.0.0", "192.168.255.255", "::ffff:10.0.0.1", "64:ff9b::192.168.0.1"]),
            (Scope::Private, &["fc00::", "fdff:ffff::1", "fec0::", "feff:ffff::1"]),
            (Scope::Shared, &["100.64.0.0", "100.127.255.255"]),
            (Scope::LinkLocal, &["169.254.0.0", "169.254.255.255", "fe80::", "febf:ffff::1"]),
            (Scope::Loopback, &["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1"]),
            (Scope::Unspecified, &["0.0.0.0", "0.255.255.255", "::"]),
            (Scope::Multicast, &["224.0.0.0", "239.255.255.255", "ff00::", "ff02::fb"]),
            (Scope::Reserved, &["240.0.0.0", "255.255.255.255"]),
        ] {
            for address in addresses {
                assert_eq!(Scope::of(&address.parse().unwrap()), scope, "{address}");
            }
        }
    }

    #[test]
    fn their_neighbours_are_public() {
        for address in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "223.255.255.255",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "::2",
            "::1:0:0:0",
            "64:ff9b::198.51.100.1",
            "::ffff:198.51.100.1",
            "64:ff9b:0:1::10.0.0.1",
            "2001:db8::1",
            "fbff:ffff::1",
            "fe00::",
            "fe7f:ffff::1",
        ] {
            assert_eq!(Scope::of(&address.parse().unwrap()), Scope::Public, "{address}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library_on_ipv4(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            let scope = of_ipv4(address);
            prop_assert_eq!(scope == Scope::Private, address.is_private());
            prop_assert_eq!(scope == Scope::LinkLocal, address.is_link_local());
            prop_assert_eq!(scope == Scope::Loopback, address.is_loopback());
            prop_assert_eq!(scope == Scope::Multicast, address.is_multicast());
        }
    }
}
