//! One resolver that sends its dnstap, or something that only says so.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use passive_dns::dnstap::{Kind, Label};
use passive_dns::frame_streams::{Reader, Step, StreamError};

use crate::dnstap::listener::Stream;

/// Messages of clients after which a sender that has sent none of a resolver's is refused. With nine of ten
/// questions answered from the cache, a resolver that tells of both sends a tenth of this before its first.
const CLIENT_MESSAGES_MAX: u64 = 1000;

/// What Knot Resolver calls itself: its dnstap module has nothing else than clients' messages.
const CLIENTS_ONLY_VERSION: &[u8] = b"Knot Resolver";

/// How much of a sender's own words is repeated.
const VERSION_SHOWN: usize = 64;

//------------ End ---------------------------------------------------------------------------------------------

/// How a connection ended; every connection that is accepted ends in exactly one of these ways.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The sender said so.
    Finished,
    /// The sender went away without a word.
    Lost,
    /// The sender tells of clients only.
    RefusedClients,
    /// It sends something else than dnstap.
    RefusedContentType,
    /// There were too many connections, and it had not proven to be a resolver's.
    RefusedLimit,
    /// It came from an address that is not listed.
    RefusedSender,
    /// What it sends is no Frame Streams.
    RejectedMalformed,
    /// It did not go on with what it had begun, or did not take an answer of a few octets.
    RejectedSlow,
    /// The source was closed.
    Closed,
}

impl End {
    /// The counters' names, in the order of the ends.
    pub const COUNTERS: [&str; 9] = [
        "dnstap_connections_finished",
        "dnstap_connections_lost",
        "dnstap_connections_refused_clients",
        "dnstap_connections_refused_content_type",
        "dnstap_connections_refused_limit",
        "dnstap_connections_refused_sender",
        "dnstap_connections_rejected_malformed",
        "dnstap_connections_rejected_slow",
        "dnstap_connections_closed",
    ];
}

/// An end, and the sentence for people if it was not the sender's own.
#[derive(Debug)]
pub struct Ending {
    pub end: End,
    pub reason: Option<String>,
}

impl Ending {
    pub fn because(end: End, reason: impl Into<String>) -> Self {
        Ending { end, reason: Some(reason.into()) }
    }
}

impl From<StreamError> for Ending {
    fn from(error: StreamError) -> Self {
        let end = match error {
            StreamError::ContentType(_) | StreamError::NoContentType(_) => End::RefusedContentType,
            _ => End::RejectedMalformed,
        };
        Ending::because(end, error.to_string())
    }
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Ending::because(End::Lost, format!("its connection failed: {error}"))
    }
}

//------------ Connection --------------------------------------------------------------------------------------

/// What is known of a sender.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// It has sent so many messages of clients and none of a resolver's.
    Unproven { clients: u64 },
    /// It has sent a resolver's message.
    Proven,
    /// It has to go.
    Refused { clients: u64 },
}

pub struct Connection {
    stream: Stream,
    reader: Reader,
    /// What the sender calls itself, once a frame has come; fit to be shown.
    version: String,
    frames: u64,
    standing: Standing,
    /// Whether what was received may hold another frame.
    full: bool,
    /// Since when the sender owes octets.
    owed_since: Option<Instant>,
}

impl Connection {
    pub fn new(stream: Stream) -> Self {
        Connection {
            stream,
            reader: Reader::default(),
            version: String::new(),
            frames: 0,
            standing: Standing::Unproven { clients: 0 },
            full: false,
            owed_since: Some(Instant::now()),
        }
    }

    /// Whether [`Connection::take`] may have something.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// What the sender calls itself, fit to be shown; empty before its first frame.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Data frames so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Whether it is a resolver's upstream traffic that comes here.
    pub fn is_proven(&self) -> bool {
        self.standing == Standing::Proven
    }

    /// Reads what has come, once, as much as there is room for.
    pub fn receive(&mut self) -> Result<(), Ending> {
        match self.stream.read(self.reader.room()) {
            Ok(0) => return Err(Ending { end: End::Lost, reason: None }),
            Ok(octets) => self.reader.received(octets),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.into()),
        }
        self.full = true;
        Ok(())
    }

    /// The next data frame of what was received, to be seen by [`Connection::octets`]. Fails if the rest of one has been
    /// owed for longer than `patience`, however much of it goes on coming.
    pub fn take(&mut self, patience: Duration) -> Result<Option<Range<usize>>, Ending> {
        if let Standing::Refused { clients } = self.standing {
            return Err(Ending::because(End::RefusedClients, self.clients_only(clients)));
        }
        let step = self.reader.step();
        self.answer()?;
        match step? {
            Step::Data(frame) => {
                self.owed_since = None;
                self.frames += 1;
                self.judge(&frame);
                Ok(Some(frame))
            }
            Step::More => {
                self.full = false;
                self.owed_since = self.reader.is_owed().then(|| self.owed_since.unwrap_or_else(Instant::now));
                self.check(patience)?;
                Ok(None)
            }
            Step::Finished => Err(Ending { end: End::Finished, reason: None }),
        }
    }

    pub fn octets(&self, frame: Range<usize>) -> &[u8] {
        self.reader.octets(frame)
    }

    /// Fails if the sender has owed octets for too long; to be asked when all that has come is taken.
    pub fn check(&self, patience: Duration) -> Result<(), Ending> {
        match self.owed_since {
            Some(since) if since.elapsed() > patience => {
                let seconds = patience.as_secs_f64();
                let reason = format!("for {seconds} s it has not gone on with what it began");
                Err(Ending::because(End::RejectedSlow, reason))
            }
            _ => Ok(()),
        }
    }

    /// Sends what the handshake asks for: a few octets into an empty buffer of the kernel's.
    fn answer(&mut self) -> Result<(), Ending> {
        let owed = self.reader.to_send();
        if owed.is_empty() {
            return Ok(());
        }
        match self.stream.write(&owed) {
            Ok(written) if written == owed.len() => Ok(()),
            // A sender that says STOP and goes need not hear FINISH.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error.into()),
            _ => Err(Ending::because(End::RejectedSlow, "it does not take the answer to its handshake")),
        }
    }

    /// Learns from a frame what kind of sender this is, until that is known.
    fn judge(&mut self, frame: &Range<usize>) {
        let Standing::Unproven { clients } = self.standing else { return };
        // What is no dnstap is counted where frames are.
        let Ok(label) = Label::read(self.reader.octets(frame.clone())) else { return };
        if self.version.is_empty() {
            let shown = &label.version[..label.version.len().min(VERSION_SHOWN)];
            self.version = shown.escape_ascii().to_string();
        }
        self.standing = match label.kind {
            Kind::ResolverQuery | Kind::ResolverResponse => Standing::Proven,
            Kind::Client => {
                let clients = clients + 1;
                if clients >= CLIENT_MESSAGES_MAX || label.version.starts_with(CLIENTS_ONLY_VERSION) {
                    Standing::Refused { clients }
                } else {
                    Standing::Unproven { clients }
                }
            }
            _ => Standing::Unproven { clients },
        };
    }

    fn clients_only(&self, clients: u64) -> String {
        let Connection { version, .. } = self;
        if version.as_bytes().starts_with(CLIENTS_ONLY_VERSION) {
            format!(
                "the dnstap of {version} tells of clients only, whom a sensor never records; \
                 record what it asks on a network interface instead"
            )
        } else {
            format!(
                "it has sent {clients} messages of clients, whom a sensor never records, and none of what a \
                 resolver asks; have it send RESOLVER_QUERY and RESOLVER_RESPONSE"
            )
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
