//! One interface: listened to while it is there, looked for while it is not.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use passive_dns::bpf::Instruction;
use passive_dns::frame::{LinkType, Timestamp};

use super::filters::{Filters, NOTHING};
use super::ring::{Next, Packet, Ring};
use super::socket::{self, Poll, Socket};
use crate::error::CaptureError;
use crate::interface::{InterfaceSettings, InterfaceStatus};
use crate::limits::{BLOCK_OCTETS, RECEIVED_PATIENCE, REOPEN_PAUSE_MAX, REOPEN_PAUSE_MIN};

//------------ Shared ------------------------------------------------------------------------------------------

/// A status, to be read while its interface is in use elsewhere.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<InterfaceStatus>>);

impl Shared {
    pub fn get(&self) -> InterfaceStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut InterfaceStatus)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

//------------ Interface ---------------------------------------------------------------------------------------

/// The next packet's time, if there is one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Head {
    Packet(Timestamp),
    /// None that is visible.
    Empty,
    /// None, and none that may become visible: it is not listened to.
    Down,
}

/// An interface that is listened to.
struct Listening {
    // The ring goes before the socket that it belongs to.
    ring: Ring,
    socket: Socket,
    link: LinkType,
    /// Why this is over, and until when what the kernel had received before is still given out: the block that the
    /// kernel was filling comes when its time is over.
    failure: Option<(CaptureError, Instant)>,
}

enum State {
    Up(Listening),
    /// Not to be tried again before the instant; the pause after the next failure.
    Down(Instant, Duration),
}

/// An interface, and what comes by it.
pub struct Interface {
    settings: InterfaceSettings,
    ring_octets: usize,
    state: State,
    status: Shared,
}

impl Interface {
    /// An interface that is not listened to yet.
    pub fn new(settings: &InterfaceSettings, ring_octets: usize, now: Instant) -> Self {
        let status = InterfaceStatus { interface: settings.name.clone(), ..InterfaceStatus::default() };
        Interface {
            settings: settings.clone(),
            ring_octets,
            state: State::Down(now, REOPEN_PAUSE_MIN),
            status: Shared(Arc::new(Mutex::new(status))),
        }
    }

    /// How it is, to be read from elsewhere.
    pub fn status(&self) -> Shared {
        self.status.clone()
    }

    /// Whether its packets may be in tunnels.
    pub fn encapsulated(&self) -> bool {
        self.settings.encapsulated
    }

    /// The next packet's time.
    #[inline]
    pub fn head(&mut self) -> Head {
        let State::Up(listening) = &mut self.state else {
            return Head::Down;
        };
        match listening.ring.head() {
            Next::Packet(time) => Head::Packet(time),
            Next::Empty => Head::Empty,
            Next::Broken => {
                let error = CaptureError::Ring { interface: self.settings.name.clone() };
                self.fail(error, Instant::now());
                Head::Down
            }
        }
    }

    /// The next packet and the link type of its frame, after [`Interface::head`] told that there is one.
    #[inline]
    pub fn next(&mut self) -> Option<(LinkType, Packet<'_>)> {
        let State::Up(listening) = &mut self.state else {
            return None;
        };
        match listening.ring.next() {
            Next::Packet(packet) => Some((listening.link, packet)),
            Next::Empty | Next::Broken => None,
        }
    }

    /// Where to wait for its packets: nowhere, if there are some, or will be none.
    pub fn poll(&mut self) -> Poll {
        let waits = self.head() == Head::Empty;
        Poll::of(match &self.state {
            State::Up(Listening { socket, failure: None, .. }) if waits => Some(socket),
            _ => None,
        })
    }

    /// Takes note of an error that waits on the socket.
    pub fn take_error(&mut self, now: Instant) {
        if let State::Up(listening) = &mut self.state
            && let Err(error) = listening.check(&self.settings.name)
        {
            listening.failure = Some((error, now + RECEIVED_PATIENCE));
        }
    }

    /// Closes it if it has failed and nothing is left of it, opens it if it is time to.
    pub fn attend(&mut self, filters: &Filters, now: Instant) {
        let empty = self.head() == Head::Empty;
        match &mut self.state {
            State::Up(listening) if empty => {
                if let Some((error, _)) = listening.failure.take_if(|(_, until)| *until <= now) {
                    self.fail(error, now);
                }
            }
            State::Down(due, _) if *due <= now => self.open(filters, now),
            State::Up(_) | State::Down(..) => {}
        }
    }

    /// When it must be attended to next, if there is such a time.
    pub fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Up(listening) => listening.failure.as_ref().map(|(_, until)| *until),
            State::Down(due, _) => Some(*due),
        }
    }

    /// Replaces its filter, from one packet to the next. Where the kernel has no memory for both, it lets nothing in for
    /// the moment between them. On failure it is to have [`Interface::restore_filters`].
    pub fn set_filters(&self, filters: &Filters) -> Result<(), CaptureError> {
        let State::Up(Listening { socket, link, .. }) = &self.state else {
            return Ok(());
        };
        let InterfaceSettings { name, encapsulated, .. } = &self.settings;
        let filter = filters.of(*link, *encapsulated);
        match attach(name, socket, filter) {
            Err(CaptureError::FilterMemory { .. }) => {
                attach(name, socket, &NOTHING)?;
                attach(name, socket, filter)
            }
            result => result,
        }
    }

    /// Goes back to the filter that it had.
    pub fn restore_filters(&mut self, filters: &Filters) {
        if let Err(error) = self.set_filters(filters) {
            self.fail(error, Instant::now());
        }
    }

    /// Receives nothing more; what was received is still given out.
    pub fn deafen(&mut self, now: Instant) {
        if let State::Up(listening) = &self.state
            && let Err(error) = attach(&self.settings.name, &listening.socket, &NOTHING)
        {
            self.fail(error, now);
        }
    }

    /// Asks the kernel for its drops.
    pub fn update_drops(&mut self) {
        let State::Up(listening) = &self.state else {
            return;
        };
        match listening.socket.take_drops() {
            Ok(0) => {}
            Ok(drops) => self.status.change(|status| status.kernel_drops += u64::from(drops)),
            Err(error) => {
                let error = system(&self.settings.name, "asking for its drops", error);
                self.down(error, Instant::now());
            }
        }
    }

    /// Closes it.
    pub fn close(&mut self, now: Instant) {
        self.update_drops();
        self.state = State::Down(now, REOPEN_PAUSE_MIN);
        self.status.change(|status| status.up = false);
    }

    /// Closes it for a reason, to be opened again after a pause.
    pub fn fail(&mut self, error: CaptureError, now: Instant) {
        self.update_drops();
        self.down(error, now);
    }

    fn down(&mut self, error: CaptureError, now: Instant) {
        let pause = match self.state {
            State::Up(_) => REOPEN_PAUSE_MIN,
            State::Down(_, pause) => pause,
        };
        self.state = State::Down(now + pause, (2 * pause).min(REOPEN_PAUSE_MAX));
        self.status.change(|status| {
            status.up = false;
            status.failures += 1;
            status.last_error = Some(error.to_string());
        });
    }

    fn open(&mut self, filters: &Filters, now: Instant) {
        match Listening::open(&self.settings, self.ring_octets, filters) {
            Ok(listening) => {
                self.state = State::Up(listening);
                self.status.change(|status| {
                    status.up = true;
                    status.last_error = None;
                });
            }
            Err(error) => self.fail(error, now),
        }
    }
}

//------------ Listening ---------------------------------------------------------------------------------------

impl Listening {
    /// Opens an interface. The filter is in place before the socket receives anything.
    fn open(
        settings: &InterfaceSettings,
        ring_octets: usize,
        filters: &Filters,
    ) -> Result<Self, CaptureError> {
        let InterfaceSettings { name: interface, promiscuous, encapsulated } = settings;
        let system = |action| move |error| system(interface, action, error);
        let index = socket::interface_index(interface)
            .ok_or_else(|| CaptureError::NoInterface { interface: interface.to_owned() })?;
        let socket = Socket::open().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                CaptureError::NotPermitted { interface: interface.to_owned() }
            }
            _ => system("opening a packet socket")(error),
        })?;
        // The ring is large: it is not asked for in vain every few seconds.
        if !socket.is_up(interface).map_err(system("asking whether it is up"))? {
            return Err(CaptureError::Down { interface: interface.to_owned() });
        }
        let hardware = socket.hardware_type(interface).map_err(system("asking for its hardware type"))?;
        let link = match hardware {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkType::Ethernet,
            libc::ARPHRD_NONE => LinkType::Raw,
            _ => return Err(CaptureError::Hardware { interface: interface.to_owned(), hardware }),
        };
        attach(interface, &socket, filters.of(link, *encapsulated))?;
        if hardware == libc::ARPHRD_LOOPBACK {
            // What leaves by a loopback interface arrives by it too: each packet would be there twice.
            socket.ignore_outgoing().map_err(system("leaving out what it sends"))?;
        }
        let ring = Ring::new(&socket, ring_octets / BLOCK_OCTETS).map_err(system("making the ring"))?;
        if *promiscuous {
            socket.make_promiscuous(index).map_err(system("making it promiscuous"))?;
        }
        socket.bind(index).map_err(system("binding the socket"))?;
        let listening = Listening { ring, socket, link, failure: None };
        listening.check(interface)?;
        Ok(listening)
    }

    /// Fails if an error waits on the socket: the interface went down.
    fn check(&self, interface: &str) -> Result<(), CaptureError> {
        match self.socket.take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(system(interface, "receiving", error)),
        }
    }
}

/// Attaches a filter, in the place of the one before if there is one.
fn attach(interface: &str, socket: &Socket, filter: &[Instruction]) -> Result<(), CaptureError> {
    socket.attach_filter(filter).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            CaptureError::FilterMemory { interface: interface.to_owned(), instructions: filter.len() }
        }
        _ => system(interface, "attaching the filter", error),
    })
}

fn system(interface: &str, action: &'static str, error: io::Error) -> CaptureError {
    match error.raw_os_error() {
        Some(libc::ENETDOWN | libc::ENODEV | libc::ENXIO) => {
            CaptureError::Down { interface: interface.to_owned() }
        }
        _ => CaptureError::System { interface: interface.to_owned(), action, error },
    }
}
