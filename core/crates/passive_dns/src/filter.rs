//! What enters: a listed resolver's own questions to authoritative servers, and their answers.
//!
//! A packet is judged by its addresses and ports, [`Filter::ends`]; [`crate::bpf`] asks the same of the kernel,
//! before anything is queued:
//!
//! * one end is a listed resolver; the other is not: traffic between two listed addresses is a client inside a
//!   resolver's prefix;
//! * the other end's port is 53; over TCP the resolver's is not, so that no client's connection to it is followed;
//! * an ICMP error goes to a listed resolver, and quotes a packet that would enter;
//! * a piece of a datagram goes to a listed resolver: what resolvers send in pieces are answers to clients.
//!
//! A message is judged by its contents, [`Filter::admit`]:
//!
//! * it is a query if the resolver sends it, a response if the resolver receives it;
//! * the opcode is QUERY, so that no update or notification enters;
//! * RD=0: who desires recursion is a client, or a forwarder standing in for clients;
//! * it asks for no zone transfer and no key, nor does it continue a transfer;
//! * the server is one of the public internet's.

use std::net::IpAddr;

use crate::dns::{DNS_PORT, Header, Question, Rcode, rrtype};
use crate::message::{Direction, Endpoint, Message, Transport};
use crate::outcome::{MessageOutcome, PacketOutcome};
use crate::resolvers::Resolvers;
use crate::responder::Scope;
use crate::settings::Settings;

/// Who is who in a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ends {
    pub resolver: Endpoint,
    pub server: Endpoint,
    pub direction: Direction,
}

/// What is known of a message that enters.
#[derive(Clone, Copy, Debug)]
pub struct Admitted<'a> {
    pub header: Header,
    /// None unless the message has exactly one question.
    pub question: Option<Question<'a>>,
}

/// Tells the ends by port 53 alone, which is the server's; if both have it, the receiver's.
pub fn by_ports(source: Endpoint, destination: Endpoint) -> Ends {
    if destination.port == DNS_PORT {
        Ends { resolver: source, server: destination, direction: Direction::ToServer }
    } else {
        Ends { resolver: destination, server: source, direction: Direction::FromServer }
    }
}

/// The rules above for one list of resolvers.
#[derive(Clone, Debug)]
pub struct Filter {
    resolvers: Resolvers,
    admit_recursion_desired: bool,
    admit_private_responders: bool,
}

impl Filter {
    pub fn new(resolvers: Resolvers, settings: &Settings) -> Self {
        Filter {
            resolvers,
            admit_recursion_desired: settings.admit_recursion_desired,
            admit_private_responders: settings.admit_private_responders,
        }
    }

    /// Tells the resolver from the server, or says why the packet does not enter.
    pub fn ends(
        &self,
        transport: Transport,
        source: Endpoint,
        destination: Endpoint,
    ) -> Result<Ends, PacketOutcome> {
        if source.port != DNS_PORT && destination.port != DNS_PORT {
            return Err(PacketOutcome::FilteredPort);
        }
        let ends = if self.resolvers.is_everybody(source.address.is_ipv4()) {
            by_ports(source, destination)
        } else {
            match self.direction(&source.address, &destination.address)? {
                Direction::ToServer => {
                    Ends { resolver: source, server: destination, direction: Direction::ToServer }
                }
                Direction::FromServer => {
                    Ends { resolver: destination, server: source, direction: Direction::FromServer }
                }
            }
        };
        let serves = transport == Transport::Tcp && ends.resolver.port == DNS_PORT;
        if ends.server.port != DNS_PORT || serves {
            return Err(PacketOutcome::FilteredDirection);
        }
        Ok(ends)
    }

    /// Whether a piece of a datagram may be held, of which its addresses alone are known.
    pub fn admit_piece(&self, source: &IpAddr, destination: &IpAddr) -> Result<(), PacketOutcome> {
        if self.resolvers.is_everybody(source.is_ipv4())
            || self.direction(source, destination)? == Direction::FromServer
        {
            Ok(())
        } else {
            Err(PacketOutcome::FilteredDirection)
        }
    }

    /// Where a packet goes, by the one end that is listed.
    fn direction(&self, source: &IpAddr, destination: &IpAddr) -> Result<Direction, PacketOutcome> {
        match (self.resolvers.contains(source), self.resolvers.contains(destination)) {
            (true, false) => Ok(Direction::ToServer),
            (false, true) => Ok(Direction::FromServer),
            (false, false) => Err(PacketOutcome::FilteredDirection),
            (true, true) => Err(PacketOutcome::FilteredBothListed),
        }
    }

    /// Whether a server is one of the listed resolvers, so that what it is asked is no upstream traffic.
    pub fn lists(&self, server: &Endpoint) -> bool {
        !self.resolvers.is_everybody(server.address.is_ipv4()) && self.resolvers.contains(&server.address)
    }

    /// What is known of the message if it enters, and its outcome if it does not.
    pub fn admit<'a>(&self, message: &Message<'a>) -> Result<Admitted<'a>, MessageOutcome> {
        let header = Header::parse(message.octets).ok_or(MessageOutcome::RejectedMalformed)?;
        self.judge_header(&header, message.direction)?;
        let question = match Question::of_message(&header, message.octets) {
            Ok(question) => question,
            Err(_) => return Err(MessageOutcome::RejectedMalformed),
        };
        judge_question(question.as_ref())?;
        // Of a transfer only the first message has to repeat the question (RFC 5936 section 2.2.1).
        let unasked = question.is_none() && header.is_response() && !Rcode::may_omit_question(header.rcode());
        if unasked && message.transport == Transport::Tcp {
            return Err(MessageOutcome::FilteredQtype);
        }
        self.judge_server(&message.server.address)?;
        Ok(Admitted { header, question })
    }

    /// What is known of the quoted query if its error enters, and the outcome if it does not. The header must be
    /// quoted, and the question if there is one.
    pub fn admit_quote<'a>(
        &self,
        server: &IpAddr,
        header: &Header,
        question: Option<Question<'a>>,
    ) -> Result<Admitted<'a>, MessageOutcome> {
        self.judge_header(header, Direction::ToServer)?;
        if header.counts[0] == 1 && question.is_none() {
            return Err(MessageOutcome::RejectedMalformed);
        }
        judge_question(question.as_ref())?;
        self.judge_server(server)?;
        Ok(Admitted { header: *header, question })
    }

    fn judge_header(&self, header: &Header, direction: Direction) -> Result<(), MessageOutcome> {
        if header.is_response() != (direction == Direction::FromServer) {
            return Err(MessageOutcome::FilteredDirection);
        }
        if !header.is_standard_query() {
            return Err(MessageOutcome::FilteredOpcode);
        }
        if header.recursion_desired() && !self.admit_recursion_desired {
            return Err(MessageOutcome::FilteredRd);
        }
        Ok(())
    }

    fn judge_server(&self, server: &IpAddr) -> Result<(), MessageOutcome> {
        if self.admit_private_responders || Scope::of(server).is_public() {
            Ok(())
        } else {
            Err(MessageOutcome::FilteredScope)
        }
    }
}

fn judge_question(question: Option<&Question<'_>>) -> Result<(), MessageOutcome> {
    match question {
        Some(question) if rrtype::KEYS_AND_TRANSFERS.contains(&question.rrtype) => {
            Err(MessageOutcome::FilteredQtype)
        }
        _ => Ok(()),
    }
}
