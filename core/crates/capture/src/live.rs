//! Frames from a network interface.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use passive_dns::bpf;
use passive_dns::frame::{Event, Frame, FrameSource, LinkType, Timestamp};
use passive_dns::resolvers::Resolvers;

use crate::error::CaptureError;
use crate::ring::{BLOCK_OCTETS, BLOCK_PATIENCE, Next, Ring};
use crate::socket::{self, Socket, Wait};

/// Two blocks, so that the kernel fills one while the other is read; and as much as a machine can spare.
const RING_OCTETS_MIN: usize = 2 * BLOCK_OCTETS;
const RING_OCTETS_MAX: usize = 1 << 30;

/// How long a source whose interface failed still gives what the kernel had received before: the block that the
/// kernel was filling comes when its time is over.
const FAILURE_GRACE: Duration = BLOCK_PATIENCE.saturating_mul(3);

/// The drops of a source, to be read while it is in use elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Drops(Arc<AtomicU64>);

impl Drops {
    /// Packets that passed the filter and found the ring full, as last asked of the kernel.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An interface, its filter in the kernel.
pub struct LiveSource {
    // The ring goes before the socket that it belongs to.
    ring: Ring,
    socket: Socket,
    interface: String,
    link: LinkType,
    drops: Drops,
    /// The failure that is to be reported once the ring is empty, and when that is taken to be so.
    failure: Option<(CaptureError, Instant)>,
}

impl LiveSource {
    /// Opens an interface. The filter is in place before the socket receives anything.
    pub fn open(
        interface: &str,
        resolvers: &Resolvers,
        promiscuous: bool,
        ring_octets: usize,
    ) -> Result<Self, CaptureError> {
        if !(RING_OCTETS_MIN..=RING_OCTETS_MAX).contains(&ring_octets) {
            return Err(CaptureError::RingSize {
                given: ring_octets,
                least: RING_OCTETS_MIN,
                most: RING_OCTETS_MAX,
            });
        }
        let system =
            |action| move |error| CaptureError::System { interface: interface.to_owned(), action, error };
        let index = socket::interface_index(interface)
            .ok_or_else(|| CaptureError::NoInterface { interface: interface.to_owned() })?;
        let socket = Socket::open().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                CaptureError::NotPermitted { interface: interface.to_owned() }
            }
            _ => system("opening a packet socket")(error),
        })?;
        let hardware = socket.hardware_type(interface).map_err(system("asking for its hardware type"))?;
        let link = match hardware {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkType::Ethernet,
            libc::ARPHRD_NONE => LinkType::Raw,
            _ => return Err(CaptureError::Hardware { interface: interface.to_owned(), hardware }),
        };
        let program = bpf::compile(resolvers, link)?;
        socket.attach_filter(&program).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOMEM) => {
                CaptureError::FilterMemory { interface: interface.to_owned(), instructions: program.len() }
            }
            _ => system("attaching the filter")(error),
        })?;
        let ring = Ring::new(&socket, ring_octets / BLOCK_OCTETS).map_err(system("making the ring"))?;
        if promiscuous {
            socket.make_promiscuous(index).map_err(system("making it promiscuous"))?;
        }
        socket.bind(index).map_err(system("binding the socket"))?;
        let source = LiveSource {
            ring,
            socket,
            interface: interface.to_owned(),
            link,
            drops: Drops::default(),
            failure: None,
        };
        source.check()?;
        Ok(source)
    }

    /// The source's drops, to be read from elsewhere.
    pub fn drops(&self) -> Drops {
        self.drops.clone()
    }

    /// Asks the kernel for its drops.
    pub fn update_drops(&self) -> Result<(), CaptureError> {
        let drops = self.socket.take_drops().map_err(|error| self.system("asking for its drops", error))?;
        self.drops.0.fetch_add(u64::from(drops), Ordering::Relaxed);
        Ok(())
    }

    fn system(&self, action: &'static str, error: io::Error) -> CaptureError {
        match error.raw_os_error() {
            Some(libc::ENETDOWN | libc::ENODEV | libc::ENXIO) => {
                CaptureError::Down { interface: self.interface.clone() }
            }
            _ => CaptureError::System { interface: self.interface.clone(), action, error },
        }
    }

    /// Fails if an error waits on the socket: the interface went down.
    fn check(&self) -> Result<(), CaptureError> {
        match self.socket.take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(self.system("receiving", error)),
        }
    }
}

impl FrameSource for LiveSource {
    type Error = CaptureError;

    fn next(&mut self, patience: Duration) -> Result<Event<'_>, CaptureError> {
        if !self.ring.is_ready() {
            self.update_drops()?;
            if let Some((error, _)) = self.failure.take_if(|(_, until)| *until <= Instant::now()) {
                return Err(error);
            }
            let patience = if self.failure.is_some() { patience.min(FAILURE_GRACE) } else { patience };
            match self.socket.wait(patience).map_err(|error| self.system("waiting", error))? {
                Wait::Readable => {}
                Wait::Elapsed => return Ok(Event::Idle),
                Wait::Interrupted => return Ok(Event::Interrupted),
                Wait::Failed => {
                    let until = Instant::now() + FAILURE_GRACE;
                    self.failure = self.check().err().map(|error| (error, until));
                    return Ok(Event::Idle);
                }
            }
        }
        match self.ring.next() {
            Next::Packet(packet) => Ok(Event::Frame(Frame {
                link: self.link,
                time: Timestamp::new(packet.seconds, packet.nanoseconds),
                wire_length: packet.wire_length,
                octets: packet.octets,
                checksum_ready: packet.checksum_ready,
            })),
            Next::Empty => Ok(Event::Idle),
            Next::Broken => Err(CaptureError::Ring { interface: self.interface.clone() }),
        }
    }

    fn wall_clock(&self) -> Option<Timestamp> {
        // A clock that says a time before 1970 says nothing of use; queries then wait until it is right.
        SystemTime::now().duration_since(UNIX_EPOCH).ok().map(Timestamp::from_unix)
    }
}
