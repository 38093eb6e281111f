//! What enters: a listed resolver's own questions to authoritative servers, and their answers.
//!
//! A packet is judged by its addresses and ports, [`Filter::ends`]; [`crate::bpf`] asks the same of the kernel,
//! before anything is queued:
//!
//! * one end is a listed resolver; the other is not: traffic between two listed addresses is a client inside a
//!   resolver's prefix;
//! * the other end's port is 53.
//!
//! A message is judged by its contents, [`Filter::admit`]:
//!
//! * it is a query if the resolver sends it, a response if the resolver receives it;
//! * the opcode is QUERY, so that no update or notification enters;
//! * RD=0: who desires recursion is a client, or a forwarder standing in for clients;
//! * it asks for no zone transfer and no key;
//! * the server is one of the public internet's.

use crate::dns::{Header, Question, rrtype};
use crate::message::{Direction, Endpoint, Message};
use crate::outcome::{MessageOutcome, PacketOutcome};
use crate::resolvers::Resolvers;
use crate::responder::Scope;
use crate::settings::Settings;

/// The port of the authoritative servers' side.
pub const DNS_PORT: u16 = 53;

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

/// Where everybody is listed, who is asked at port 53 is the server; if that is both, the receiver.
fn by_ports(source: Endpoint, destination: Endpoint) -> Ends {
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
    pub fn ends(&self, source: Endpoint, destination: Endpoint) -> Result<Ends, PacketOutcome> {
        if source.port != DNS_PORT && destination.port != DNS_PORT {
            return Err(PacketOutcome::FilteredPort);
        }
        if self.resolvers.is_everybody(&source.address) {
            return Ok(by_ports(source, destination));
        }
        let listed = |end: Endpoint| self.resolvers.contains(&end.address);
        let ends = match (listed(source), listed(destination)) {
            (true, false) => Ends { resolver: source, server: destination, direction: Direction::ToServer },
            (false, true) => Ends { resolver: destination, server: source, direction: Direction::FromServer },
            (false, false) => return Err(PacketOutcome::FilteredDirection),
            (true, true) => return Err(PacketOutcome::FilteredBothListed),
        };
        if ends.server.port != DNS_PORT {
            return Err(PacketOutcome::FilteredDirection);
        }
        Ok(ends)
    }

    /// What is known of the message if it enters, and its outcome if it does not.
    pub fn admit<'a>(&self, message: &Message<'a>) -> Result<Admitted<'a>, MessageOutcome> {
        let header = Header::parse(message.octets).ok_or(MessageOutcome::RejectedMalformed)?;
        if header.is_response() != (message.direction == Direction::FromServer) {
            return Err(MessageOutcome::FilteredDirection);
        }
        if !header.is_standard_query() {
            return Err(MessageOutcome::FilteredOpcode);
        }
        if header.recursion_desired() && !self.admit_recursion_desired {
            return Err(MessageOutcome::FilteredRd);
        }
        let question = match Question::of_message(&header, message.octets) {
            Ok(question) => question,
            Err(_) => return Err(MessageOutcome::RejectedMalformed),
        };
        let unwanted = |question: Question<'_>| rrtype::KEYS_AND_TRANSFERS.contains(&question.rrtype);
        if question.is_some_and(unwanted) {
            return Err(MessageOutcome::FilteredQtype);
        }
        if !self.admit_private_responders && !Scope::of(&message.server.address).is_public() {
            return Err(MessageOutcome::FilteredScope);
        }
        Ok(Admitted { header, question })
    }
}
