//! A DNS message between a resolver and a server, whatever it came by.

use std::net::IpAddr;

use crate::checksum::UdpChecksum;
use crate::frame::Timestamp;
use crate::packet::{PROTOCOL_TCP, PROTOCOL_UDP};

/// An end of an exchange.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the resolver: a query, if all is well.
    ToServer,
    /// From the server: a response, if all is well.
    FromServer,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// The protocol's number.
    pub const fn protocol(self) -> u8 {
        match self {
            Transport::Udp => PROTOCOL_UDP,
            Transport::Tcp => PROTOCOL_TCP,
        }
    }
}

/// A UDP datagram that a message came in.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// From its IP header to the end of the IP datagram.
    pub octets: &'a [u8],
    /// Where in it UDP begins.
    pub transport: usize,
}

/// A message by a datagram, a reassembled one, a connection, or a resolver's own account.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// When its last octet came.
    pub time: Timestamp,
    pub resolver: Endpoint,
    pub server: Endpoint,
    pub direction: Direction,
    pub transport: Transport,
    /// The message, from its header (RFC 1035 section 4.1.1).
    pub octets: &'a [u8],
    /// What the check of its UDP checksum found; None where there is none to check.
    pub checksum: Option<UdpChecksum>,
    /// What it came in, if that was one datagram.
    pub datagram: Option<Datagram<'a>>,
    /// When the query went that this response answers, if the resolver told.
    pub asked: Option<Timestamp>,
    /// The zone whose server was asked, as wire name, if the resolver told.
    pub query_zone: Option<&'a [u8]>,
}
