//! Captured frames, and where they come from.

use std::time::Duration;

const NANOSECONDS: u64 = 1_000_000_000;

//------------ Timestamp ---------------------------------------------------------------------------------------

/// Nanoseconds since 1970-01-01 UTC; good until the year 2554.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn new(seconds: u32, nanoseconds: u32) -> Self {
        Timestamp(seconds as u64 * NANOSECONDS + nanoseconds as u64)
    }

    pub const fn from_nanoseconds(since_epoch: u64) -> Self {
        Timestamp(since_epoch)
    }

    /// Times before 1970 become 1970, times after 2554 become 2554.
    pub fn from_unix(since_epoch: Duration) -> Self {
        Timestamp(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    pub const fn seconds(self) -> u64 {
        self.0 / NANOSECONDS
    }

    /// The nanoseconds within the second.
    pub const fn nanoseconds(self) -> u32 {
        (self.0 % NANOSECONDS) as u32
    }

    pub fn as_f64(self) -> f64 {
        self.seconds() as f64 + f64::from(self.nanoseconds()) / NANOSECONDS as f64
    }

    /// Zero if `earlier` is in truth the later one.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How far apart the two are. What is far in the future is from before the clock was set back, and waits for
    /// nothing any more than what is far in the past.
    pub const fn apart(self, other: Timestamp) -> Duration {
        Duration::from_nanos(self.0.abs_diff(other.0))
    }
}

//------------ LinkType ----------------------------------------------------------------------------------------

/// What a frame begins with (the LINKTYPE_ registry of pcap).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkType {
    Ethernet,
    /// Linux cooked capture, version 1.
    LinuxSll,
    /// An IP header of either version.
    Raw,
    RawIpv4,
    RawIpv6,
    /// A type that nothing here reads.
    Other(u32),
}

impl LinkType {
    pub const fn from_pcap(number: u32) -> Self {
        match number {
            1 => LinkType::Ethernet,
            // 101 is LINKTYPE_RAW; 12 is what some systems' DLT_RAW was written as.
            12 | 101 => LinkType::Raw,
            113 => LinkType::LinuxSll,
            228 => LinkType::RawIpv4,
            229 => LinkType::RawIpv6,
            other => LinkType::Other(other),
        }
    }
}

//------------ Frame -------------------------------------------------------------------------------------------

/// One captured frame; its octets stay where the source has them.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub link: LinkType,
    pub time: Timestamp,
    /// The octets there were on the wire; more than `octets` holds if the capture cut them short.
    pub wire_length: usize,
    pub octets: &'a [u8],
    /// False for a frame that its own host is sending and whose checksum the network card is still to fill in.
    pub checksum_ready: bool,
    /// Whether the frame may be a mirrored one inside a tunnel ([`crate::tunnel`]).
    pub encapsulated: bool,
}

//------------ FrameSource -------------------------------------------------------------------------------------

/// What a source has next.
#[derive(Debug)]
pub enum Event<'a> {
    Frame(Frame<'a>),
    /// A message of [`crate::dnstap`].
    Dnstap(&'a [u8]),
    /// Nothing came within the time given.
    Idle,
    /// A signal arrived: the caller should give its handler a chance to run.
    Interrupted,
    /// Nothing will come any more.
    End,
}

/// A source of frames, of a file or of an interface.
pub trait FrameSource {
    type Error;

    /// The next frame; waits for one no longer than `patience`.
    fn next(&mut self, patience: Duration) -> Result<Event<'_>, Self::Error>;

    /// The time of day where it is the source's clock too; None for a file, whose clock is its packets.
    fn wall_clock(&self) -> Option<Timestamp>;
}
