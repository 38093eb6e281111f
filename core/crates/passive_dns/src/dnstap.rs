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

use crate::dns::name;
use crate::error::FormatError;
use crate::filter::DNS_PORT;
use crate::frame::Timestamp;
use crate::limits::{DNSTAP_TCP_MESSAGE_OCTETS_MAX, DNSTAP_UDP_MESSAGE_OCTETS_MAX};
use crate::nmsg::protobuf::Fields;

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

//------------ Outcome -----------------------------------------------------------------------------------------

/// What becomes of a dnstap frame; every frame has exactly one outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Its message goes on to be judged as a packet's is.
    Passed,
    /// An authoritative server's, asked or answering.
    FilteredAuth,
    /// Between a client and the resolver.
    FilteredClient,
    /// Between the resolver and one that recurses for it.
    FilteredForwarder,
    /// A stub resolver's.
    FilteredStub,
    /// A tool's.
    FilteredTool,
    /// A dynamic update.
    FilteredUpdate,
    /// Of a kind that dnstap did not have when this was written.
    FilteredOther,
    /// Over TLS, HTTPS, QUIC or DNSCrypt.
    FilteredEncrypted,
    /// The server's port is not 53.
    FilteredPort,
    /// Not a dnstap message.
    RejectedMalformed,
    /// Without the message that its kind speaks of, its time, its transport or the server's address.
    RejectedIncomplete,
    /// Its time is in the future, or more than a day ago.
    RejectedTime,
}

impl Outcome {
    /// The counters' names, in the order of the outcomes.
    pub const COUNTERS: [&str; 13] = [
        "dnstap_frames_passed",
        "dnstap_frames_filtered_auth",
        "dnstap_frames_filtered_client",
        "dnstap_frames_filtered_forwarder",
        "dnstap_frames_filtered_stub",
        "dnstap_frames_filtered_tool",
        "dnstap_frames_filtered_update",
        "dnstap_frames_filtered_other",
        "dnstap_frames_filtered_encrypted",
        "dnstap_frames_filtered_port",
        "dnstap_frames_rejected_malformed",
        "dnstap_frames_rejected_incomplete",
        "dnstap_frames_rejected_time",
    ];
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
    fn filtered(self) -> Option<Outcome> {
        match self {
            Kind::ResolverQuery | Kind::ResolverResponse => None,
            Kind::Auth => Some(Outcome::FilteredAuth),
            Kind::Client => Some(Outcome::FilteredClient),
            Kind::Forwarder => Some(Outcome::FilteredForwarder),
            Kind::Stub => Some(Outcome::FilteredStub),
            Kind::Tool => Some(Outcome::FilteredTool),
            Kind::Update => Some(Outcome::FilteredUpdate),
            Kind::Other => Some(Outcome::FilteredOther),
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

//------------ Exchange ----------------------------------------------------------------------------------------

/// The transport of a message that is taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    fn message_octets_max(self) -> usize {
        match self {
            Transport::Udp => DNSTAP_UDP_MESSAGE_OCTETS_MAX,
            Transport::Tcp => DNSTAP_TCP_MESSAGE_OCTETS_MAX,
        }
    }
}

/// One message of an exchange between a resolver and an authoritative server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Exchange<'a> {
    pub transport: Transport,
    /// The resolver's; unspecified, of the responder's family, if the sender does not tell it.
    pub initiator: IpAddr,
    pub responder: IpAddr,
    /// The resolver's; zero if the sender does not tell it.
    pub initiator_port: u16,
    pub responder_port: u16,
    /// When the query was sent; a response may carry that too.
    pub query_time: Option<Timestamp>,
    /// The zone for which the resolver asked this server, a name in wire format.
    pub zone: Option<&'a [u8]>,
    pub message: Message<'a>,
}

/// The DNS message itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Message<'a> {
    Query { time: Timestamp, octets: &'a [u8] },
    Response { time: Timestamp, octets: &'a [u8] },
}

impl<'a> Message<'a> {
    pub fn octets(&self) -> &'a [u8] {
        match self {
            Message::Query { octets, .. } | Message::Response { octets, .. } => octets,
        }
    }

    /// When it was sent or received.
    pub fn time(&self) -> Timestamp {
        match self {
            Message::Query { time, .. } | Message::Response { time, .. } => *time,
        }
    }
}

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
    zone: Option<&'a [u8]>,
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
                field::QUERY_ZONE => raw.zone = Some(value.as_octets()?),
                field::RESPONSE_TIME_SEC => raw.response_time.0 = Some(value.as_u64()?),
                field::RESPONSE_TIME_NSEC => raw.response_time.1 = value.as_fixed32()?,
                field::RESPONSE_MESSAGE => raw.response = Some(value.as_octets()?),
                _ => {}
            }
        }
        Ok(raw)
    }
}

impl<'a> Exchange<'a> {
    /// Reads a frame, or says what is to become of it.
    pub fn read(frame: &'a [u8]) -> Result<Self, Outcome> {
        let malformed = |_: FormatError| Outcome::RejectedMalformed;
        let (label, message) = open(frame).map_err(malformed)?;
        if let Some(outcome) = label.kind.filtered() {
            return Err(outcome);
        }
        let raw = Raw::read(message).map_err(malformed)?;
        let transport = match raw.protocol {
            Some(1) => Transport::Udp,
            Some(2) => Transport::Tcp,
            Some(3..=7) => return Err(Outcome::FilteredEncrypted),
            _ => return Err(Outcome::RejectedIncomplete),
        };
        let responder = address(raw.response_address).ok_or(Outcome::RejectedIncomplete)?;
        let responder_port = port(raw.response_port.unwrap_or(u32::from(DNS_PORT)))?;
        if responder_port != DNS_PORT {
            return Err(Outcome::FilteredPort);
        }
        let unspecified = match responder {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let initiator = address(raw.query_address).filter(|given| given.is_ipv4() == responder.is_ipv4());
        let query_time = time(raw.query_time)?;
        let zone = raw.zone.filter(|zone| !zone.is_empty());
        if zone.is_some_and(|zone| name::validate(zone).is_err()) {
            return Err(Outcome::RejectedMalformed);
        }
        let message = if label.kind == Kind::ResolverQuery {
            query_time.zip(raw.query).map(|(time, octets)| Message::Query { time, octets })
        } else {
            time(raw.response_time)?
                .zip(raw.response)
                .map(|(time, octets)| Message::Response { time, octets })
        };
        let message = message.ok_or(Outcome::RejectedIncomplete)?;
        if message.octets().len() > transport.message_octets_max() {
            return Err(Outcome::RejectedMalformed);
        }
        Ok(Exchange {
            transport,
            initiator: initiator.unwrap_or(unspecified),
            responder,
            initiator_port: port(raw.query_port)?,
            responder_port,
            query_time,
            zone,
            message,
        })
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => octets.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => octets.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

fn port(number: u32) -> Result<u16, Outcome> {
    u16::try_from(number).map_err(|_| Outcome::RejectedMalformed)
}

/// None without seconds.
fn time((seconds, nanoseconds): (Option<u64>, u32)) -> Result<Option<Timestamp>, Outcome> {
    let Some(seconds) = seconds else { return Ok(None) };
    let seconds = u32::try_from(seconds).map_err(|_| Outcome::RejectedTime)?;
    if nanoseconds >= NANOSECONDS {
        return Err(Outcome::RejectedMalformed);
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

    #[test]
    fn a_message_fits_what_its_transport_can_carry() {
        for (protocol, limit) in [(1, DNSTAP_UDP_MESSAGE_OCTETS_MAX), (2, DNSTAP_TCP_MESSAGE_OCTETS_MAX)] {
            for (octets, fits) in [(limit, true), (limit + 1, false)] {
                let mut message = response(4, &[field::SOCKET_PROTOCOL, field::RESPONSE_MESSAGE]);
                message.uint(field::SOCKET_PROTOCOL, protocol);
                message.octets(field::RESPONSE_MESSAGE, &vec![0; octets]);
                let frame = frame(&message);
                let read = Exchange::read(&frame);
                match fits {
                    true => assert_eq!(read.unwrap().message.octets().len(), octets),
                    false => assert_eq!(read, Err(Outcome::RejectedMalformed)),
                }
            }
        }
    }

    #[test]
    fn a_response_with_all_that_is_recommended() {
        let exchange = Exchange {
            transport: Transport::Udp,
            initiator: "192.0.2.1".parse().unwrap(),
            responder: "198.51.100.53".parse().unwrap(),
            initiator_port: 40_000,
            responder_port: 53,
            query_time: Some(QUERY_TIME),
            zone: Some(ZONE),
            message: Message::Response { time: RESPONSE_TIME, octets: b"response" },
        };
        assert_eq!(Exchange::read(&frame(&response(4, &[]))), Ok(exchange));
    }

    #[test]
    fn a_query_over_tcp_and_ipv6() {
        let mut message = Vec::new();
        message.uint(field::TYPE, 3);
        message.uint(field::SOCKET_PROTOCOL, 2);
        message.octets(field::RESPONSE_ADDRESS, &Ipv6Addr::LOCALHOST.octets());
        put_time(&mut message, [field::QUERY_TIME_SEC, field::QUERY_TIME_NSEC], QUERY_TIME);
        message.octets(field::QUERY_MESSAGE, b"query");
        let exchange = Exchange {
            transport: Transport::Tcp,
            initiator: Ipv6Addr::UNSPECIFIED.into(),
            responder: Ipv6Addr::LOCALHOST.into(),
            initiator_port: 0,
            responder_port: 53,
            query_time: Some(QUERY_TIME),
            zone: None,
            message: Message::Query { time: QUERY_TIME, octets: b"query" },
        };
        assert_eq!(Exchange::read(&frame(&message)), Ok(exchange));
    }

    #[test]
    fn what_the_sender_does_not_tell_of_the_resolver_is_unspecified() {
        let message = frame(&response(4, &[field::QUERY_ADDRESS, field::QUERY_PORT, field::QUERY_TIME_SEC]));
        let exchange = Exchange::read(&message).unwrap();
        assert_eq!(exchange.initiator, IpAddr::from(Ipv4Addr::UNSPECIFIED));
        assert_eq!((exchange.initiator_port, exchange.query_time), (0, None));
    }

    #[test]
    fn each_frame_has_its_outcome() {
        let ordinary = || response(4, &[]);
        let cases = [
            (response(1, &[]), Outcome::FilteredAuth),
            (response(2, &[]), Outcome::FilteredAuth),
            (response(5, &[]), Outcome::FilteredClient),
            (response(6, &[]), Outcome::FilteredClient),
            (response(7, &[]), Outcome::FilteredForwarder),
            (response(8, &[]), Outcome::FilteredForwarder),
            (response(9, &[]), Outcome::FilteredStub),
            (response(10, &[]), Outcome::FilteredStub),
            (response(11, &[]), Outcome::FilteredTool),
            (response(12, &[]), Outcome::FilteredTool),
            (response(13, &[]), Outcome::FilteredUpdate),
            (response(14, &[]), Outcome::FilteredUpdate),
            (response(99, &[]), Outcome::FilteredOther),
            (response(3, &[]), Outcome::RejectedIncomplete),
            (response(4, &[field::SOCKET_PROTOCOL]), Outcome::RejectedIncomplete),
            (response(4, &[field::RESPONSE_ADDRESS]), Outcome::RejectedIncomplete),
            (response(4, &[field::RESPONSE_TIME_SEC]), Outcome::RejectedIncomplete),
            (response(4, &[field::RESPONSE_MESSAGE]), Outcome::RejectedIncomplete),
            (with(ordinary(), field::SOCKET_PROTOCOL, 3), Outcome::FilteredEncrypted),
            (with(ordinary(), field::SOCKET_PROTOCOL, 7), Outcome::FilteredEncrypted),
            (with(ordinary(), field::SOCKET_PROTOCOL, 8), Outcome::RejectedIncomplete),
            (with(ordinary(), field::RESPONSE_PORT, 5353), Outcome::FilteredPort),
            (with(ordinary(), field::RESPONSE_PORT, 65_536), Outcome::RejectedMalformed),
            (with(ordinary(), field::RESPONSE_TIME_SEC, 1 << 32), Outcome::RejectedTime),
            (Vec::new(), Outcome::RejectedMalformed),
            (b"\xff".to_vec(), Outcome::RejectedMalformed),
        ];
        for (message, outcome) in cases {
            assert_eq!(Exchange::read(&frame(&message)), Err(outcome), "{message:02x?}");
        }
        let mut bad_zone = ordinary();
        bad_zone.octets(field::QUERY_ZONE, b"example");
        assert_eq!(Exchange::read(&frame(&bad_zone)), Err(Outcome::RejectedMalformed));
        assert_eq!(Exchange::read(b""), Err(Outcome::RejectedMalformed));
    }

    #[test]
    fn a_label_tells_kind_and_version() {
        let frame = frame(&response(5, &[]));
        assert_eq!(Label::read(&frame), Ok(Label { kind: Kind::Client, version: b"unbound 1.17.1" }));
    }

    proptest! {
        #[test]
        fn any_octets_are_an_exchange_or_an_outcome(
            message in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0_usize..200,
        ) {
            let _ = Exchange::read(&message);
            let _ = Exchange::read(&frame(&message));
            let whole = frame(&response(4, &[]));
            let outcome = Exchange::read(&whole[..whole.len().min(cut)]);
            prop_assert!(cut >= whole.len() || outcome == Err(Outcome::RejectedMalformed));
        }
    }
}
