//! dnstap from resolvers that connect here, by UNIX sockets and TCP.
//!
//! Frames are read as fast as the recorder takes them, and no faster: a resolver whose frames are not read drops
//! them by itself and never waits. What one peer does touches no other: each has its own buffer, of one largest
//! frame at most, and each is read in its turn.

mod connection;
mod listener;
#[cfg_attr(not(target_os = "linux"), path = "peer_unnamed.rs")]
mod peer;
mod system;

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use passive_dns::frame::{Event, FrameSource, Timestamp};

pub use connection::End;
pub use listener::Access;

use crate::error::CaptureError;
use connection::{Connection, Ending};
use listener::{Accepted, Listener, Stream};

/// Connections at one time. Most resolvers have one; PowerDNS Recursor has one for each of its threads. Each holds
/// a frame of 144 KiB at most: 9 MiB in all.
pub const CONNECTIONS_MAX: usize = 64;

/// How long a peer may take for its handshake, or for the rest of a frame that it has begun: the largest frame
/// passes in this time at 10 kB/s. Between frames it may be silent for as long as it likes.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How long a source that takes in nothing more goes on reading what was sent before: more than what the kernel holds
/// for 64 senders, 200 KiB each, takes to be read.
const DRAIN_PATIENCE: Duration = Duration::from_millis(250);

/// How long no connection is accepted after the system had none to give (descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Sentences for people that wait to be fetched.
const NOTICES_MAX: usize = 64;

/// Something that people should know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// Whether something is wrong.
    pub trouble: bool,
    pub sentence: String,
}

//------------ Report ------------------------------------------------------------------------------------------

/// What is known of an open connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    pub endpoint: String,
    pub peer: String,
    /// What the sender calls itself; empty before its first frame.
    pub version: String,
    pub frames: u64,
    /// Whether a resolver's message has come.
    pub resolver: bool,
}

impl Peer {
    fn new(endpoint: String, peer: String) -> Self {
        Peer { endpoint, peer, version: String::new(), frames: 0, resolver: false }
    }
}

/// How the source is.
///
/// `seen` is the number of peers and the sum of `ended`.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The open connections.
    pub peers: Vec<Peer>,
    /// Connections since the source was opened.
    pub seen: u64,
    /// By [`End`].
    pub ended: [u64; End::COUNTERS.len()],
    /// The latest connection that was refused or rejected, in a sentence.
    pub last_refusal: Option<String>,
    notices: VecDeque<Notice>,
}

impl Report {
    /// Every counter with its name.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let open =
            [("dnstap_connections_seen", self.seen), ("dnstap_connections_open", self.peers.len() as u64)];
        open.into_iter().chain(End::COUNTERS.into_iter().zip(self.ended))
    }

    /// Books the end of a connection; tells people of it unless it was the sender's own will.
    fn end(&mut self, endpoint: &str, peer: &str, ending: &Ending) {
        self.ended[ending.end as usize] += 1;
        if let Some(reason) = &ending.reason {
            let sentence = format!("{endpoint}: {peer} is refused: {reason}");
            self.last_refusal = Some(sentence.clone());
            self.notice(true, sentence);
        }
    }

    fn notice(&mut self, trouble: bool, sentence: String) {
        if self.notices.len() == NOTICES_MAX {
            self.notices.pop_front();
        }
        self.notices.push_back(Notice { trouble, sentence });
    }
}

/// The report of a source, to be read while the source is in use elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<Mutex<Report>>);

impl Reports {
    /// As of a moment ago.
    pub fn latest(&self) -> Report {
        self.lock().clone()
    }

    /// What has happened since this was asked last, in sentences; of more than a few dozen the latest.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.lock().notices.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//------------ DnstapSource ------------------------------------------------------------------------------------

/// The frames of every resolver that connects.
pub struct DnstapSource {
    listeners: Vec<Listener>,
    /// In the order of the report's peers.
    connections: Vec<Connection>,
    patience: Duration,
    reports: Reports,
    /// The connection whose frames are being taken.
    turn: usize,
    /// When connections are accepted again.
    accept_from: Option<Instant>,
    /// When there will be nothing more.
    end: Option<Instant>,
}

/// What waiting came to.
enum Waited {
    /// Something has come.
    Something,
    Nothing,
    /// A signal arrived.
    Interrupted,
}

impl DnstapSource {
    /// Listens nowhere yet. A peer that owes octets has `patience` ([`PATIENCE`]) for them.
    pub fn new(patience: Duration) -> Self {
        DnstapSource {
            listeners: Vec::new(),
            connections: Vec::new(),
            patience,
            reports: Reports::default(),
            turn: 0,
            accept_from: None,
            end: None,
        }
    }

    /// Listens on one more endpoint; the port, if it is TCP's.
    pub fn listen(&mut self, endpoint: &str, access: Access) -> Result<Option<u16>, CaptureError> {
        let listener = Listener::open(endpoint.parse()?, access)?;
        let port = listener.port();
        self.listeners.push(listener);
        Ok(port)
    }

    /// Takes in no connection more. What has been sent is still read, then the source ends.
    pub fn drain(&mut self) {
        self.listeners.clear();
        self.end.get_or_insert(Instant::now() + DRAIN_PATIENCE);
    }

    /// The source's reports, to be read from elsewhere.
    pub fn reports(&self) -> Reports {
        self.reports.clone()
    }

    //--- Connections

    /// The next frame of what has been received, and whose it is.
    fn received(&mut self) -> Option<(usize, Range<usize>)> {
        // Each connection is emptied in its turn; when none is left, all are.
        let mut left = self.connections.len();
        while left > 0 {
            if self.turn >= self.connections.len() {
                self.turn = 0;
            }
            let connection = self.connections.get_mut(self.turn)?;
            if connection.is_full() {
                let proven = connection.is_proven();
                match connection.take(self.patience) {
                    Ok(Some(frame)) => {
                        if connection.is_proven() != proven {
                            self.welcome(self.turn);
                        }
                        return Some((self.turn, frame));
                    }
                    Ok(None) => self.turn += 1,
                    Err(ending) => self.end(self.turn, &ending),
                }
            } else {
                self.turn += 1;
            }
            left -= 1;
        }
        None
    }

    /// Waits for octets and connections, and takes in what has come.
    fn wait(&mut self, patience: Duration) -> Result<Waited, CaptureError> {
        let now = Instant::now();
        self.accept_from = self.accept_from.filter(|from| *from > now);
        let listeners = if self.accept_from.is_none() { &self.listeners[..] } else { &[] };
        let mut descriptors: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        descriptors.extend(self.connections.iter().map(AsFd::as_fd));
        let Some(readable) =
            system::readable(&descriptors, patience).map_err(|error| CaptureError::Poll { error })?
        else {
            return Ok(Waited::Interrupted);
        };
        let waited = if readable.contains(&true) { Waited::Something } else { Waited::Nothing };
        let (waiting, readable) = readable.split_at(listeners.len());
        // From the last to the first, so that one that ends does not shift those still to come.
        for (index, readable) in readable.iter().enumerate().rev() {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            if let Err(ending) =
                if *readable { connection.receive() } else { connection.check(self.patience) }
            {
                self.end(index, &ending);
            }
        }
        for (index, _) in waiting.iter().enumerate().filter(|(_, waiting)| **waiting) {
            self.accept(index);
        }
        Ok(waited)
    }

    /// Takes in every connection that waits at a listener.
    fn accept(&mut self, listener: usize) {
        for _ in 0..CONNECTIONS_MAX {
            let Some(listener) = self.listeners.get(listener) else { return };
            let endpoint = listener.endpoint().to_string();
            match listener.accept() {
                Ok(Accepted::Taken(stream, peer)) => self.admit(stream, &endpoint, peer),
                Ok(Accepted::Refused(peer)) => {
                    let reason = "its address is none of the senders listed";
                    let mut report = self.reports.lock();
                    report.seen += 1;
                    report.end(&endpoint, &peer, &Ending::because(End::RefusedSender, reason));
                }
                Ok(Accepted::Nobody) => return,
                Err(error) => {
                    let pause = ACCEPT_PAUSE.as_secs();
                    let sentence = format!(
                        "{endpoint}: no connection can be accepted: {error}; trying again in {pause} s"
                    );
                    self.reports.lock().notice(true, sentence);
                    self.accept_from = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Gives a connection a place: where there is none left, that of the oldest that has sent nothing of a resolver's,
    /// so that places cannot be held by keeping silent.
    fn admit(&mut self, stream: Stream, endpoint: &str, peer: String) {
        self.reports.lock().seen += 1;
        if self.connections.len() == CONNECTIONS_MAX {
            let reason = format!("{CONNECTIONS_MAX} connections are open already");
            let Some(idle) = self.connections.iter().position(|connection| !connection.is_proven()) else {
                let ending = Ending::because(End::RefusedLimit, reason);
                self.reports.lock().end(endpoint, &peer, &ending);
                return;
            };
            let reason = format!("it has sent nothing of a resolver's, and {reason}");
            self.end(idle, &Ending::because(End::RefusedLimit, reason));
        }
        self.connections.push(Connection::new(stream));
        self.reports.lock().peers.push(Peer::new(endpoint.to_owned(), peer));
    }

    /// Says that a connection has turned out to be a resolver's.
    fn welcome(&self, index: usize) {
        self.publish();
        let mut report = self.reports.lock();
        if let Some(Peer { endpoint, peer, version, .. }) = report.peers.get(index) {
            let version = if version.is_empty() { "which does not tell its version" } else { version };
            let sentence = format!("{endpoint}: {peer}, {version}, sends what a resolver asks");
            report.notice(false, sentence);
        }
    }

    fn end(&mut self, index: usize, ending: &Ending) {
        self.connections.remove(index);
        if index < self.turn {
            self.turn -= 1;
        }
        let mut report = self.reports.lock();
        let Peer { endpoint, peer, .. } = report.peers.remove(index);
        report.end(&endpoint, &peer, ending);
    }

    /// Brings the report up to date.
    fn publish(&self) {
        let mut report = self.reports.lock();
        for (peer, connection) in report.peers.iter_mut().zip(&self.connections) {
            peer.frames = connection.frames();
            peer.resolver = connection.is_proven();
            if peer.version.is_empty() {
                peer.version = connection.version().to_owned();
            }
        }
    }
}

impl FrameSource for DnstapSource {
    type Error = CaptureError;

    fn next(&mut self, patience: Duration) -> Result<Event<'_>, CaptureError> {
        let mut found = self.received();
        if found.is_none() {
            self.publish();
            let left = self.end.map(|end| end.saturating_duration_since(Instant::now()));
            let patience = if left.is_some() { Duration::ZERO } else { patience };
            match self.wait(patience)? {
                Waited::Interrupted => return Ok(Event::Interrupted),
                Waited::Nothing if left.is_some() => return Ok(Event::End),
                Waited::Something if left.is_some_and(|left| left.is_zero()) => return Ok(Event::End),
                Waited::Something | Waited::Nothing => {}
            }
            found = self.received();
        }
        let Some((index, frame)) = found else { return Ok(Event::Idle) };
        Ok(self
            .connections
            .get(index)
            .map_or(Event::Idle, |connection| Event::Dnstap(connection.octets(frame))))
    }

    fn wall_clock(&self) -> Option<Timestamp> {
        SystemTime::now().duration_since(UNIX_EPOCH).ok().map(Timestamp::from_unix)
    }
}

impl Drop for DnstapSource {
    fn drop(&mut self) {
        while !self.connections.is_empty() {
            self.end(0, &Ending { end: End::Closed, reason: None });
        }
    }
}
