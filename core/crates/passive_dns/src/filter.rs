//! What enters: a listed resolver's own questions to authoritative servers, and their answers.
//!
//! A message enters if all of this holds; [`crate::bpf`] asks the same of the kernel, before anything is queued:
//!
//! * UDP, unfragmented, to port 53 for a query (QR=0), from port 53 for a response (QR=1);
//! * the sender of a query, or the receiver of a response, is a listed resolver;
//! * the other end is not: traffic between two listed addresses is a client inside a resolver's prefix;
//! * the opcode is QUERY, so that no update or notification enters;
//! * RD=0: who desires recursion is a client, or a forwarder standing in for clients.

use crate::dns::{Header, Question};
use crate::frame::Frame;
use crate::outcome::Outcome;
use crate::packet::Datagram;
use crate::resolvers::Resolvers;

/// The port of the authoritative servers' side.
pub const DNS_PORT: u16 = 53;

/// A message that enters.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub datagram: Datagram<'a>,
    pub header: Header,
    /// None unless the message has exactly one question.
    pub question: Option<Question<'a>>,
}

/// The rules above for one list of resolvers.
#[derive(Clone, Debug)]
pub struct Filter {
    resolvers: Resolvers,
    admit_recursion_desired: bool,
}

impl Filter {
    pub fn new(resolvers: Resolvers, admit_recursion_desired: bool) -> Self {
        Filter { resolvers, admit_recursion_desired }
    }

    /// The frame's message if it enters, and the frame's outcome if it does not.
    pub fn admit<'a>(&self, frame: &Frame<'a>) -> Result<Message<'a>, Outcome> {
        let datagram =
            Datagram::parse(frame, |source, destination| source == DNS_PORT || destination == DNS_PORT)?;
        let payload = datagram.payload();
        let header = Header::parse(payload).ok_or(Outcome::RejectedMalformed)?;
        let (server_port, resolver, server) = if header.is_response() {
            (datagram.source_port, datagram.destination, datagram.source)
        } else {
            (datagram.destination_port, datagram.source, datagram.destination)
        };
        if server_port != DNS_PORT {
            return Err(Outcome::FilteredPort);
        }
        if !self.resolvers.contains(&resolver) {
            return Err(Outcome::FilteredDirection);
        }
        if self.resolvers.contains(&server) {
            return Err(Outcome::FilteredBothListed);
        }
        if !header.is_standard_query() {
            return Err(Outcome::FilteredOpcode);
        }
        if header.recursion_desired() && !self.admit_recursion_desired {
            return Err(Outcome::FilteredRd);
        }
        let question = Question::of_message(&header, payload).map_err(|_| Outcome::RejectedMalformed)?;
        Ok(Message { datagram, header, question })
    }
}
