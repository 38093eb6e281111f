//! dnstap, a resolver's own account of the messages that it sent and received.
//!
//! Of the many kinds of message only two are taken: what the resolver asked authoritative servers, and what they
//! answered. Of all others nothing but the kind is looked at. An exchange enters only if a sensor beside the
//! resolver would have seen it too: over UDP or TCP, unencrypted, with the server's port 53.
//!
//! Senders fill in different fields. The responder's address, the message and its time are asked for; an address or
//! port of the resolver that is missing is written as unspecified and zero.
//!
//! Source: dnstap.proto of https://github.com/dnstap/dnstap.pb, field numbers and types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dns::{DNS_PORT, name};
use crate::error::FormatError;
use crate::frame::Timestamp;
use crate::limits::{DNSTAP_TCP_MESSAGE_OCTETS_MAX, DNSTAP_UDP_MESSAGE_OCTETS_MAX};
use crate::message::{Direction, Endpoint, Message, Transport};
use crate::nmsg::protobuf::Fields;
use crate::outcome::DnstapOutcome;

const NANOSECONDS: u32 = 1_000_000_000;

/// Field numbers and values of `Dnstap`.
mod envelope {
    pub const VERSION: u32 = 2;
    pub const MESSAGE: u32 = 14;
    pub const TYPE: u32 = 15;
    pub const TYPE_MESSAGE: u32 = 1;
}

/// Field numbers of `Message`.
mod field {
    pub const TYPE: u32 = 1;
    pub const SOCKET_PROTOCOL: u32 = 3;
    pub const QUERY_ADDRESS: u32 = 4;
    pub const RESPONSE_ADDRESS: u32 = 5;
    pub const QUERY_PORT: u32 = 6;
    pub const RESPONSE_PORT: u32 = 7;
    pub const QUERY_TIME_SEC: u32 = 8;
    pub const QUERY_TIME_NSEC: u32 = 9;
    pub const QUERY_MESSAGE: u32 = 10;
    pub const QUERY_ZONE: u32 = 11;
    pub const RESPONSE_TIME_SEC: u32 = 12;
    pub const RESPONSE_TIME_NSEC: u32 = 13;
    pub const RESPONSE_MESSAGE: u32 = 14;
}

//------------ Kind --------------------------------------------------------------------------------------------

/// The kinds of message that are told apart: `Message.Type`, in families but for the resolver's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    ResolverQuery,
    ResolverResponse,
    Auth,
    Client,
    Forwarder,
    Stub,
    Tool,
    Update,
    Other,
}

impl Kind {
    fn from_number(number: u32) -> Self {
        match number {
            1 | 2 => Kind::Auth,
            3 => Kind::ResolverQuery,
            4 => Kind::ResolverResponse,
            5 | 6 => Kind::Client,
            7 | 8 => Kind::Forwarder,
            9 | 10 => Kind::Stub,
            11 | 12 => Kind::Tool,
            13 | 14 => Kind::Update,
            _ => Kind::Other,
        }
    }

    /// The outcome of a message of this kind, unless it is the resolver's.
    fn filtered(self) -> Option<DnstapOutcome> {
        match self {
            Kind::ResolverQuery | Kind::ResolverResponse => None,
            Kind::Auth => Some(DnstapOutcome::FilteredAuth),
            Kind::Client => Some(DnstapOutcome::FilteredClient),
            Kind::Forwarder => Some(DnstapOutcome::FilteredForwarder),
            Kind::Stub => Some(DnstapOutcome::FilteredStub),
            Kind::Tool => Some(DnstapOutcome::FilteredTool),
            Kind::Update => Some(DnstapOutcome::FilteredUpdate),
            Kind::Other => Some(DnstapOutcome::FilteredOther),
        }
    }
}

//------------ Label -------------------------------------------------------------------------------------------

/// What a frame says about itself, without a look into its message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Label<'a> {
    pub kind: Kind,
    /// The sender's name and version in its own words; empty if it does not tell.
    pub version: &'a [u8],
}

impl<'a> Label<'a> {
    pub fn read(frame: &'a [u8]) -> Result<Self, FormatError> {
        let (label, _) = open(frame)?;
        Ok(label)
    }
}

/// The label of a frame, and its message.
fn open(frame: &[u8]) -> Result<(Label<'_>, &[u8]), FormatError> {
    let (mut version, mut kind, mut message) = (&[][..], None, None);
    let mut fields = Fields::new(frame);
    while let Some((number, value)) = fields.next()? {
        match number {
            envelope::VERSION => version = value.as_octets()?,
            envelope::TYPE => kind = Some(value.as_u32()?),
            envelope::MESSAGE => message = Some(value.as_octets()?),
            _ => {}
        }
    }
    if kind != Some(envelope::TYPE_MESSAGE) {
        return Err(FormatError::Missing { message: "dnstap", field: "type" });
    }
    let message = message.ok_or(FormatError::Missing { message: "dnstap", field: "message" })?;
    // Senders write fields in ascending order, so that the type is the first to be seen.
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        if number == field::TYPE {
            return Ok((Label { kind: Kind::from_number(value.as_u32()?), version }, message));
        }
    }
    Err(FormatError::Missing { message: "dnstap message", field: "type" })
}

//------------ Message -----------------------------------------------------------------------------------------

/// The fields of `Message` that are made use of.
#[derive(Default)]
struct Raw<'a> {
    protocol: Option<u32>,
    query_address: &'a [u8],
    response_address: &'a [u8],
    query_port: u32,
    response_port: Option<u32>,
    query_time: (Option<u64>, u32),
    response_time: (Option<u64>, u32),
    query: Option<&'a [u8]>,
    response: Option<&'a [u8]>,
    query_zone: Option<&'a [u8]>,
}

impl<'a> Raw<'a> {
    fn read(message: &'a [u8]) -> Result<Self, FormatError> {
        let mut raw = Raw::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                field::SOCKET_PROTOCOL => raw.protocol = Some(value.as_u32()?),
                field::QUERY_ADDRESS => raw.query_address = value.as_octets()?,
                field::RESPONSE_ADDRESS => raw.response_address = value.as_octets()?,
                field::QUERY_PORT => raw.query_port = value.as_u32()?,
                field::RESPONSE_PORT => raw.response_port = Some(value.as_u32()?),
                field::QUERY_TIME_SEC => raw.query_time.0 = Some(value.as_u64()?),
                field::QUERY_TIME_NSEC => raw.query_time.1 = value.as_fixed32()?,
                field::QUERY_MESSAGE => raw.query = Some(value.as_octets()?),
                field::QUERY_ZONE => raw.query_zone = Some(value.as_octets()?),
                field::RESPONSE_TIME_SEC => raw.response_time.0 = Some(value.as_u64()?),
                field::RESPONSE_TIME_NSEC => raw.response_time.1 = value.as_fixed32()?,
                field::RESPONSE_MESSAGE => raw.response = Some(value.as_octets()?),
                _ => {}
            }
        }
        Ok(raw)
    }
}

/// Reads the message of a frame, or says what is to become of the frame.
pub fn read(frame: &[u8]) -> Result<Message<'_>, DnstapOutcome> {
    let malformed = |_: FormatError| DnstapOutcome::RejectedMalformed;
    let (label, message) = open(frame).map_err(malformed)?;
    if let Some(outcome) = label.kind.filtered() {
        return Err(outcome);
    }
    let raw = Raw::read(message).map_err(malformed)?;
    let transport = match raw.protocol {
        Some(1) => Transport::Udp,
        Some(2) => Transport::Tcp,
        Some(3..=7) => return Err(DnstapOutcome::FilteredEncrypted),
        _ => return Err(DnstapOutcome::RejectedIncomplete),
    };
    let server = Endpoint {
        address: address(raw.response_address).ok_or(DnstapOutcome::RejectedIncomplete)?,
        port: port(raw.response_port.unwrap_or(u32::from(DNS_PORT)))?,
    };
    if server.port != DNS_PORT {
        return Err(DnstapOutcome::FilteredPort);
    }
    let query_zone = raw.query_zone.filter(|zone| !zone.is_empty());
    if query_zone.is_some_and(|zone| name::validate(zone).is_err()) {
        return Err(DnstapOutcome::RejectedMalformed);
    }
    let asked = time(raw.query_time)?;
    let (direction, told) = if label.kind == Kind::ResolverQuery {
        (Direction::ToServer, asked.zip(raw.query))
    } else {
        (Direction::FromServer, time(raw.response_time)?.zip(raw.response))
    };
    let (time, octets) = told.ok_or(DnstapOutcome::RejectedIncomplete)?;
    if octets.len() > message_octets_max(transport) {
        return Err(DnstapOutcome::RejectedMalformed);
    }
    Ok(Message {
        time,
        resolver: resolver(&raw, &server)?,
        server,
        direction,
        transport,
        octets,
        checksum: None,
        datagram: None,
        // A clock that was set back in between must not make the answer older than the question.
        asked: asked.filter(|_| direction == Direction::FromServer).map(|asked| asked.min(time)),
        query_zone,
    })
}

/// The longest message that the transport can carry, and that can be stored as if it had come by it.
fn message_octets_max(transport: Transport) -> usize {
    match transport {
        Transport::Udp => DNSTAP_UDP_MESSAGE_OCTETS_MAX,
        Transport::Tcp => DNSTAP_TCP_MESSAGE_OCTETS_MAX,
    }
}

/// The resolver's end; unspecified, of the server's family, and zero where the sender does not tell it.
fn resolver(raw: &Raw<'_>, server: &Endpoint) -> Result<Endpoint, DnstapOutcome> {
    let unspecified = match server.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let told = address(raw.query_address).filter(|told| told.is_ipv4() == server.address.is_ipv4());
    // Unbound writes 53 where it does not know its port; no resolver has asked from there since RFC 5452.
    let port = port(raw.query_port)?;
    Ok(Endpoint { address: told.unwrap_or(unspecified), port: if port == DNS_PORT { 0 } else { port } })
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => octets.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => octets.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

fn port(number: u32) -> Result<u16, DnstapOutcome> {
    u16::try_from(number).map_err(|_| DnstapOutcome::RejectedMalformed)
}

/// None without seconds.
fn time((seconds, nanoseconds): (Option<u64>, u32)) -> Result<Option<Timestamp>, DnstapOutcome> {
    let Some(seconds) = seconds else { return Ok(None) };
    let seconds = u32::try_from(seconds).map_err(|_| DnstapOutcome::RejectedTime)?;
    if nanoseconds >= NANOSECONDS {
        return Err(DnstapOutcome::RejectedMalformed);
    }
    Ok(Some(Timestamp::new(seconds, nanoseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nmsg::protobuf::Sink;
    use proptest::prelude::*;

    const ZONE: &[u8] = b"\x07example\x00";
    const QUERY_TIME: Timestamp = Timestamp::new(1_700_000_000, 250);
    const RESPONSE_TIME: Timestamp = Timestamp::new(1_700_000_001, 0);

    fn frame(message: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.octets(1, b"ns1");
        frame.octets(envelope::VERSION, b"unbound 1.17.1");
        frame.octets(envelope::MESSAGE, message);
        frame.uint(envelope::TYPE, 1);
        frame
    }

    fn put_time(message: &mut Vec<u8>, [seconds, nanoseconds]: [u32; 2], time: Timestamp) {
        message.uint(seconds, time.seconds());
        message.fixed32(nanoseconds, time.nanoseconds());
    }

    /// A response with every field that is recommended, but for those left out.
    fn response(kind: u64, without: &[u32]) -> Vec<u8> {
        let mut message = Vec::new();
        message.uint(field::TYPE, kind);
        message.uint(2, 1);
        let mut put = |number: u32, put: &dyn Fn(&mut Vec<u8>)| {
            if !without.contains(&number) {
                put(&mut message);
            }
        };
        put(field::SOCKET_PROTOCOL, &|to| to.uint(field::SOCKET_PROTOCOL, 1));
        put(field::QUERY_ADDRESS, &|to| to.octets(field::QUERY_ADDRESS, &[192, 0, 2, 1]));
        put(field::RESPONSE_ADDRESS, &|to| to.octets(field::RESPONSE_ADDRESS, &[198, 51, 100, 53]));
        put(field::QUERY_PORT, &|to| to.uint(field::QUERY_PORT, 40_000));
        put(field::RESPONSE_PORT, &|to| to.uint(field::RESPONSE_PORT, 53));
        put(field::QUERY_TIME_SEC, &|to| {
            put_time(to, [field::QUERY_TIME_SEC, field::QUERY_TIME_NSEC], QUERY_TIME)
        });
        put(field::QUERY_ZONE, &|to| to.octets(field::QUERY_ZONE, ZONE));
        put(field::RESPONSE_TIME_SEC, &|to| {
            put_time(to, [field::RESPONSE_TIME_SEC, field::RESPONSE_TIME_NSEC], RESPONSE_TIME);
        });
        put(field::RESPONSE_MESSAGE, &|to| to.octets(field::RESPONSE_MESSAGE, b"response"));
        message
    }

    fn with(mut message: Vec<u8>, number: u32, value: u64) -> Vec<u8> {
        message.uint(number, value);
        message
    }

    fn end(address: &str, port: u16) -> Endpoint {
        Endpoint { address: address.parse().unwrap(), port }
    }

    #[test]
    fn a_response_with_all_that_is_recommended() {
        let frame = frame(&response(4, &[]));
        let message = read(&frame).unwrap();
        assert_eq!(message.resolver, end("192.0.2.1", 40_000));
        assert_eq!(message.server, end("198.51.100.53", 53));
        assert_eq!((message.direction, message.transport), (Direction::FromServer, Transport::Udp));
        assert_eq!((message.time, message.asked), (RESPONSE_TIME, Some(QUERY_TIME)));
        assert_eq!((message.octets, message.query_zone), (&b"response"[..], Some(ZONE)));
        assert!(message.checksum.is_none() && message.datagram.is_none());
    }

    #[test]
    fn a_query_over_tcp_and_ipv6() {
        let mut query = Vec::new();
        query.uint(field::TYPE, 3);
        query.uint(field::SOCKET_PROTOCOL, 2);
        query.octets(field::RESPONSE_ADDRESS, &Ipv6Addr::LOCALHOST.octets());
        put_time(&mut query, [field::QUERY_TIME_SEC, field::QUERY_TIME_NSEC], QUERY_TIME);
        query.octets(field::QUERY_MESSAGE, b"query");
        let frame = frame(&query);
        let message = read(&frame).unwrap();
        assert_eq!((message.resolver, message.server), (end("::", 0), end("::1", 53)));
        assert_eq!((message.direction, message.transport), (Direction::ToServer, Transport::Tcp));
        assert_eq!((message.time, message.asked), (QUERY_TIME, None));
        assert_eq!((message.octets, message.query_zone), (&b"query"[..], None));
    }

    #[test]
    fn what_the_sender_does_not_tell_of_the_resolver_is_unspecified() {
        let untold = response(4, &[field::QUERY_ADDRESS, field::QUERY_PORT, field::QUERY_TIME_SEC]);
        let mut of_unbound = untold.clone();
        of_unbound.octets(field::QUERY_ADDRESS, &[0; 4]);
        of_unbound.uint(field::QUERY_PORT, 53);
        let mut other_family = untold.clone();
        other_family.octets(field::QUERY_ADDRESS, &[1; 16]);
        for message in [untold, of_unbound.clone(), other_family] {
            let frame = frame(&message);
            let message = read(&frame).unwrap();
            assert_eq!((message.resolver, message.asked), (end("0.0.0.0", 0), None));
        }
        // The port alone is worth keeping: a response finds its query by it.
        let frame = frame(&with(of_unbound, field::QUERY_PORT, 40_000));
        assert_eq!(read(&frame).unwrap().resolver, end("0.0.0.0", 40_000));
    }

    #[test]
    fn no_answer_is_older_than_its_question() {
        let frame = frame(&with(response(4, &[]), field::QUERY_TIME_SEC, RESPONSE_TIME.seconds() + 1));
        assert_eq!(read(&frame).unwrap().asked, Some(RESPONSE_TIME));
    }

    #[test]
    fn each_frame_has_its_outcome() {
        let ordinary = || response(4, &[]);
        let cases = [
            (response(1, &[]), DnstapOutcome::FilteredAuth),
            (response(2, &[]), DnstapOutcome::FilteredAuth),
            (response(5, &[]), DnstapOutcome::FilteredClient),
            (response(6, &[]), DnstapOutcome::FilteredClient),
            (response(7, &[]), DnstapOutcome::FilteredForwarder),
            (response(8, &[]), DnstapOutcome::FilteredForwarder),
            (response(9, &[]), DnstapOutcome::FilteredStub),
            (response(10, &[]), DnstapOutcome::FilteredStub),
            (response(11, &[]), DnstapOutcome::FilteredTool),
            (response(12, &[]), DnstapOutcome::FilteredTool),
            (response(13, &[]), DnstapOutcome::FilteredUpdate),
            (response(14, &[]), DnstapOutcome::FilteredUpdate),
            (response(99, &[]), DnstapOutcome::FilteredOther),
            (response(3, &[]), DnstapOutcome::RejectedIncomplete),
            (response(4, &[field::SOCKET_PROTOCOL]), DnstapOutcome::RejectedIncomplete),
            (response(4, &[field::RESPONSE_ADDRESS]), DnstapOutcome::RejectedIncomplete),
            (response(4, &[field::RESPONSE_TIME_SEC]), DnstapOutcome::RejectedIncomplete),
            (response(4, &[field::RESPONSE_MESSAGE]), DnstapOutcome::RejectedIncomplete),
            (with(ordinary(), field::SOCKET_PROTOCOL, 3), DnstapOutcome::FilteredEncrypted),
            (with(ordinary(), field::SOCKET_PROTOCOL, 7), DnstapOutcome::FilteredEncrypted),
            (with(ordinary(), field::SOCKET_PROTOCOL, 8), DnstapOutcome::RejectedIncomplete),
            (with(ordinary(), field::RESPONSE_PORT, 5353), DnstapOutcome::FilteredPort),
            (with(ordinary(), field::RESPONSE_PORT, 65_536), DnstapOutcome::RejectedMalformed),
            (with(ordinary(), field::RESPONSE_TIME_SEC, 1 << 32), DnstapOutcome::RejectedTime),
            (Vec::new(), DnstapOutcome::RejectedMalformed),
            (b"\xff".to_vec(), DnstapOutcome::RejectedMalformed),
        ];
        for (message, outcome) in cases {
            assert_eq!(read(&frame(&message)).err(), Some(outcome), "{message:02x?}");
        }
        let mut bad_zone = ordinary();
        bad_zone.octets(field::QUERY_ZONE, b"example");
        assert_eq!(read(&frame(&bad_zone)).err(), Some(DnstapOutcome::RejectedMalformed));
        assert_eq!(read(b"").err(), Some(DnstapOutcome::RejectedMalformed));
    }

    #[test]
    fn a_message_fits_what_its_transport_can_carry() {
        for (protocol, limit) in [(1, DNSTAP_UDP_MESSAGE_OCTETS_MAX), (2, DNSTAP_TCP_MESSAGE_OCTETS_MAX)] {
            for (octets, fits) in [(limit, true), (limit + 1, false)] {
                let mut message = response(4, &[field::SOCKET_PROTOCOL, field::RESPONSE_MESSAGE]);
                message.uint(field::SOCKET_PROTOCOL, protocol);
                message.octets(field::RESPONSE_MESSAGE, &vec![0; octets]);
                let frame = frame(&message);
                match read(&frame) {
                    Ok(message) => assert!(fits && message.octets.len() == octets),
                    Err(outcome) => assert!(!fits && outcome == DnstapOutcome::RejectedMalformed),
                }
            }
        }
    }

    #[test]
    fn a_label_tells_kind_and_version() {
        let frame = frame(&response(5, &[]));
        assert_eq!(Label::read(&frame), Ok(Label { kind: Kind::Client, version: b"unbound 1.17.1" }));
    }

    proptest! {
        #[test]
        fn any_octets_are_a_message_or_an_outcome(
            message in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0_usize..200,
        ) {
            let _ = read(&message);
            let _ = read(&frame(&message));
            let whole = frame(&response(4, &[]));
            let outcome = read(&whole[..whole.len().min(cut)]).err();
            prop_assert!(cut >= whole.len() || outcome == Some(DnstapOutcome::RejectedMalformed));
        }
    }
}
