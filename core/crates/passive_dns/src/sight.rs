//! What a frame looks like, for people: as much of it as can be read, whether the sensor takes it or not.

use std::net::IpAddr;

use crate::dns::Header;
use crate::dns::message::Question;
use crate::dns::name;
use crate::frame::{Frame, LinkType};
use crate::link;
use crate::packet::{PROTOCOL_TCP, PROTOCOL_UDP, u16_at};
use crate::udp;

/// The port of DNS.
const PORT: u16 = 53;

/// What can be read of a frame. What is no IP packet has no addresses; what has no ports has none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sight {
    pub addresses: Option<(IpAddr, IpAddr)>,
    pub protocol: Option<u8>,
    pub ports: Option<(u16, u16)>,
    /// Whether it is a piece of a datagram.
    pub fragment: bool,
    pub dns: Option<DnsSight>,
}

/// What can be read of a DNS message that came in one datagram.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsSight {
    pub id: u16,
    pub response: bool,
    pub standard_query: bool,
    pub recursion_desired: bool,
    pub truncated: bool,
    pub rcode: u8,
    /// Name, type and class of the question, if there is exactly one and it is whole.
    pub question: Option<(String, u16, u16)>,
}

impl Sight {
    pub fn of_frame(frame: &Frame<'_>) -> Self {
        let Ok(packet) = link::packet(frame, |_| true) else {
            return Sight::default();
        };
        let mut sight = Sight {
            addresses: Some((packet.source, packet.destination)),
            protocol: Some(packet.protocol),
            fragment: packet.fragment.is_some(),
            ..Sight::default()
        };
        let begins = packet.fragment.is_none_or(|fragment| fragment.offset == 0);
        if begins && matches!(packet.protocol, PROTOCOL_UDP | PROTOCOL_TCP) {
            let octets = packet.payload();
            sight.ports = u16_at(octets, 0).zip(u16_at(octets, 2));
        }
        let at_port_53 =
            sight.ports.is_some_and(|(source, destination)| source == PORT || destination == PORT);
        if packet.protocol == PROTOCOL_UDP && at_port_53 {
            sight.dns = packet.payload().get(udp::HEADER_OCTETS..).and_then(DnsSight::of_message);
        }
        sight
    }
}

impl DnsSight {
    /// None if there is no whole header.
    pub fn of_message(message: &[u8]) -> Option<Self> {
        let header = Header::parse(message)?;
        let question = Question::of_message(&header, message).ok().flatten();
        Some(DnsSight {
            id: header.id,
            response: header.is_response(),
            standard_query: header.is_standard_query(),
            recursion_desired: header.recursion_desired(),
            truncated: header.is_truncated(),
            rcode: header.rcode(),
            question: question.and_then(|question| {
                Some((name::to_text(question.name).ok()?, question.rrtype, question.class))
            }),
        })
    }
}

/// What people call a link type.
pub fn link_name(link: LinkType) -> String {
    match link {
        LinkType::Ethernet => "Ethernet".to_owned(),
        LinkType::LinuxSll => "Linux cooked".to_owned(),
        LinkType::Raw | LinkType::RawIpv4 | LinkType::RawIpv6 => "bare IP".to_owned(),
        LinkType::Other(number) => format!("link type {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Timestamp;

    fn frame<'a>(link: LinkType, octets: &'a [u8]) -> Frame<'a> {
        Frame {
            link,
            time: Timestamp::new(1, 0),
            wire_length: octets.len(),
            octets,
            checksum_ready: true,
            encapsulated: true,
        }
    }

    /// A query for a.example./A by UDP, whose IP header is not checked here.
    const QUERY: &[u8] = &[
        0x45, 0, 0, 55, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 53, 198, 51, 100, 7, // IPv4
        0x10, 0, 0, 53, 0, 35, 0, 0, // UDP
        0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, // a header with RD
        1, b'a', 7, b'e', b'x', b'a', b'm', b'p', b'l', b'e', 0, 0, 1, 0, 1,
    ];

    #[test]
    fn a_query_is_seen_whole() {
        let sight = Sight::of_frame(&frame(LinkType::Raw, QUERY));
        assert_eq!(sight.ports, Some((4096, 53)));
        assert_eq!(sight.protocol, Some(17));
        let dns = sight.dns.unwrap();
        assert_eq!((dns.id, dns.response, dns.recursion_desired), (0xabcd, false, true));
        assert_eq!(dns.question, Some(("a.example.".to_owned(), 1, 1)));
    }

    #[test]
    fn what_is_cut_short_anywhere_is_no_panic() {
        for end in 0..QUERY.len() {
            let mut octets = QUERY[..end].to_vec();
            if end > 4 {
                octets[3] = end as u8;
            }
            let sight = Sight::of_frame(&frame(LinkType::Raw, &octets));
            assert!(sight.dns.is_none_or(|dns| dns.question.is_none()), "{end}");
        }
    }

    #[test]
    fn what_is_no_ip_has_nothing() {
        assert_eq!(Sight::of_frame(&frame(LinkType::Ethernet, &[0; 60])), Sight::default());
        assert_eq!(Sight::of_frame(&frame(LinkType::Other(9), QUERY)), Sight::default());
        assert_eq!(link_name(LinkType::Other(9)), "link type 9");
    }
}
