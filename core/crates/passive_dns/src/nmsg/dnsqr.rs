//! base:dnsqr, a DNS transaction as it went over the wire.

use std::net::IpAddr;

use crate::checksum::UdpChecksum;
use crate::dns::Question;
use crate::error::FormatError;
use crate::frame::Timestamp;
use crate::message::Endpoint;
use crate::nmsg::protobuf::{Fields, Sink};
use crate::nmsg::{Message, Schema};
use crate::stored;

/// Vendor base, type dnsqr.
pub const SCHEMA: Schema = (1, 9);

const MESSAGE: &str = "dnsqr";

/// Field numbers.
mod field {
    pub const TYPE: u32 = 1;
    pub const QUERY_IP: u32 = 2;
    pub const RESPONSE_IP: u32 = 3;
    pub const PROTO: u32 = 4;
    pub const QUERY_PORT: u32 = 5;
    pub const RESPONSE_PORT: u32 = 6;
    pub const ID: u32 = 7;
    pub const QNAME: u32 = 8;
    pub const QTYPE: u32 = 9;
    pub const QCLASS: u32 = 10;
    pub const RCODE: u32 = 11;
    pub const QUERY_PACKET: u32 = 12;
    pub const QUERY_TIME_SEC: u32 = 13;
    pub const QUERY_TIME_NSEC: u32 = 14;
    pub const RESPONSE_PACKET: u32 = 15;
    pub const RESPONSE_TIME_SEC: u32 = 16;
    pub const RESPONSE_TIME_NSEC: u32 = 17;
    pub const TCP: u32 = 18;
    pub const ICMP: u32 = 19;
    pub const TIMEOUT: u32 = 20;
    pub const UDP_CHECKSUM: u32 = 21;
    pub const RESOLVER_ADDRESS_ZEROED: u32 = 22;
    /// The first number of a range that base:dnsqr leaves to others; its readers skip what they do not know.
    pub const QUERY_ZONE: u32 = 1000;
}

//------------ Kind --------------------------------------------------------------------------------------------

/// DnsQRType, of which these are written here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    QueryResponse = 1,
    UnansweredQuery = 2,
    UnsolicitedResponse = 3,
    Icmp = 5,
}

impl Kind {
    pub const ALL: [Kind; 4] =
        [Kind::QueryResponse, Kind::UnansweredQuery, Kind::UnsolicitedResponse, Kind::Icmp];

    /// What settings and counters call them, in the order of [`Kind::ALL`].
    pub const NAMES: [&str; 4] = ["query_response", "unanswered_query", "unsolicited_response", "icmp"];

    /// The place in [`Kind::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Kind::QueryResponse => 0,
            Kind::UnansweredQuery => 1,
            Kind::UnsolicitedResponse => 2,
            Kind::Icmp => 3,
        }
    }

    pub fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// The names of DnsQRType, by number.
pub const KINDS: [&str; 8] = [
    "UDP_INVALID",
    "UDP_QUERY_RESPONSE",
    "UDP_UNANSWERED_QUERY",
    "UDP_UNSOLICITED_RESPONSE",
    "TCP",
    "ICMP",
    "UDP_QUERY_ONLY",
    "UDP_RESPONSE_ONLY",
];

/// The names of UdpChecksum, by number.
pub const UDP_CHECKSUMS: [&str; 4] = ["ERROR", "ABSENT", "INCORRECT", "CORRECT"];

//------------ Transaction -------------------------------------------------------------------------------------

/// One message of a transaction: when it came, and the packets that keep it, one behind the other, if any do.
#[derive(Clone, Copy, Debug)]
pub struct Capture<'a> {
    pub time: Timestamp,
    pub packets: &'a [u8],
}

/// A transaction, to be written.
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    pub kind: Kind,
    pub resolver: Endpoint,
    pub server: Endpoint,
    /// IP's number of it.
    pub protocol: u8,
    pub id: u16,
    pub question: Option<Question<'a>>,
    pub rcode: Option<u8>,
    pub query: Option<Capture<'a>>,
    pub response: Option<Capture<'a>>,
    /// The IP datagram of an ICMP error.
    pub icmp: Option<&'a [u8]>,
    /// Seconds that an unanswered query waited.
    pub timeout: Option<f64>,
    pub udp_checksum: Option<UdpChecksum>,
    pub resolver_address_zeroed: bool,
    /// The zone whose server was asked, as wire name.
    pub query_zone: Option<&'a [u8]>,
}

fn write_address(sink: &mut impl Sink, field: u32, address: &IpAddr) {
    match address {
        IpAddr::V4(address) => sink.octets(field, &address.octets()),
        IpAddr::V6(address) => sink.octets(field, &address.octets()),
    }
}

fn write_capture(sink: &mut impl Sink, [packet, seconds, nanoseconds]: [u32; 3], capture: &Capture<'_>) {
    let mut more = 0;
    let mut packets = stored::split(capture.packets);
    if let Some(octets) = packets.next() {
        sink.octets(packet, octets);
        for octets in packets {
            sink.octets(packet, octets);
            more += 1;
        }
    }
    // The times are parallel to the packets, and are there without packets too.
    sink.uint(seconds, capture.time.seconds());
    for _ in 0..more {
        sink.uint(seconds, capture.time.seconds());
    }
    sink.fixed32(nanoseconds, capture.time.nanoseconds());
    for _ in 0..more {
        sink.fixed32(nanoseconds, capture.time.nanoseconds());
    }
}

impl Message for Transaction<'_> {
    const SCHEMA: Schema = SCHEMA;

    fn write(&self, sink: &mut impl Sink) {
        sink.uint(field::TYPE, self.kind as u64);
        write_address(sink, field::QUERY_IP, &self.resolver.address);
        write_address(sink, field::RESPONSE_IP, &self.server.address);
        sink.uint(field::PROTO, u64::from(self.protocol));
        sink.uint(field::QUERY_PORT, u64::from(self.resolver.port));
        sink.uint(field::RESPONSE_PORT, u64::from(self.server.port));
        sink.uint(field::ID, u64::from(self.id));
        if let Some(question) = &self.question {
            sink.octets(field::QNAME, question.name);
            sink.uint(field::QTYPE, u64::from(question.rrtype));
            sink.uint(field::QCLASS, u64::from(question.class));
        }
        if let Some(rcode) = self.rcode {
            sink.uint(field::RCODE, u64::from(rcode));
        }
        if let Some(query) = &self.query {
            write_capture(sink, [field::QUERY_PACKET, field::QUERY_TIME_SEC, field::QUERY_TIME_NSEC], query);
        }
        if let Some(response) = &self.response {
            write_capture(
                sink,
                [field::RESPONSE_PACKET, field::RESPONSE_TIME_SEC, field::RESPONSE_TIME_NSEC],
                response,
            );
        }
        if let Some(icmp) = self.icmp {
            sink.octets(field::ICMP, icmp);
        }
        if let Some(timeout) = self.timeout {
            sink.double(field::TIMEOUT, timeout);
        }
        if let Some(checksum) = self.udp_checksum {
            sink.uint(field::UDP_CHECKSUM, checksum as u64);
        }
        if self.resolver_address_zeroed {
            sink.uint(field::RESOLVER_ADDRESS_ZEROED, 1);
        }
        if let Some(zone) = self.query_zone {
            sink.octets(field::QUERY_ZONE, zone);
        }
    }
}

//------------ DnsQr -------------------------------------------------------------------------------------------

/// A dnsqr message as somebody sent it: every field that it may have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DnsQr<'a> {
    pub kind: u32,
    pub query_ip: &'a [u8],
    pub response_ip: &'a [u8],
    pub proto: u32,
    pub query_port: u32,
    pub response_port: u32,
    pub id: u32,
    pub qname: Option<&'a [u8]>,
    pub qtype: Option<u32>,
    pub qclass: Option<u32>,
    pub rcode: Option<u32>,
    pub query_packet: Vec<&'a [u8]>,
    pub query_time_sec: Vec<i64>,
    pub query_time_nsec: Vec<u32>,
    pub response_packet: Vec<&'a [u8]>,
    pub response_time_sec: Vec<i64>,
    pub response_time_nsec: Vec<u32>,
    pub tcp: Option<&'a [u8]>,
    pub icmp: Option<&'a [u8]>,
    pub timeout: Option<f64>,
    pub udp_checksum: Option<u32>,
    pub resolver_address_zeroed: Option<bool>,
    pub query_zone: Option<&'a [u8]>,
}

impl<'a> DnsQr<'a> {
    pub fn read(message: &'a [u8]) -> Result<Self, FormatError> {
        const REQUIRED: [&str; 7] =
            ["type", "query_ip", "response_ip", "proto", "query_port", "response_port", "id"];
        let mut seen = [false; REQUIRED.len()];
        let mut dnsqr = DnsQr::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                field::TYPE => dnsqr.kind = value.as_u32()?,
                field::QUERY_IP => dnsqr.query_ip = value.as_octets()?,
                field::RESPONSE_IP => dnsqr.response_ip = value.as_octets()?,
                field::PROTO => dnsqr.proto = value.as_u32()?,
                field::QUERY_PORT => dnsqr.query_port = value.as_u32()?,
                field::RESPONSE_PORT => dnsqr.response_port = value.as_u32()?,
                field::ID => dnsqr.id = value.as_u32()?,
                field::QNAME => dnsqr.qname = Some(value.as_octets()?),
                field::QTYPE => dnsqr.qtype = Some(value.as_u32()?),
                field::QCLASS => dnsqr.qclass = Some(value.as_u32()?),
                field::RCODE => dnsqr.rcode = Some(value.as_u32()?),
                field::QUERY_PACKET => dnsqr.query_packet.push(value.as_octets()?),
                field::QUERY_TIME_SEC => dnsqr.query_time_sec.push(value.as_i64()?),
                field::QUERY_TIME_NSEC => dnsqr.query_time_nsec.push(value.as_fixed32()?),
                field::RESPONSE_PACKET => dnsqr.response_packet.push(value.as_octets()?),
                field::RESPONSE_TIME_SEC => dnsqr.response_time_sec.push(value.as_i64()?),
                field::RESPONSE_TIME_NSEC => dnsqr.response_time_nsec.push(value.as_fixed32()?),
                field::TCP => dnsqr.tcp = Some(value.as_octets()?),
                field::ICMP => dnsqr.icmp = Some(value.as_octets()?),
                field::TIMEOUT => dnsqr.timeout = Some(value.as_double()?),
                field::UDP_CHECKSUM => dnsqr.udp_checksum = Some(value.as_u32()?),
                field::RESOLVER_ADDRESS_ZEROED => dnsqr.resolver_address_zeroed = Some(value.as_bool()?),
                field::QUERY_ZONE => dnsqr.query_zone = Some(value.as_octets()?),
                _ => {}
            }
            // The required fields are the first seven.
            if let Some(seen) = seen.get_mut(number as usize - 1) {
                *seen = true;
            }
        }
        match seen.iter().position(|seen| !seen) {
            Some(index) => Err(FormatError::Missing { message: MESSAGE, field: REQUIRED[index] }),
            None => Ok(dnsqr),
        }
    }
}
