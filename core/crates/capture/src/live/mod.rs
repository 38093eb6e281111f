//! Frames from network interfaces, several at once, in the order in which they were received.

mod filters;
mod interface;
mod merge;
mod ring;
mod socket;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use passive_dns::frame::{Event, Frame, FrameSource, Timestamp};
use passive_dns::resolvers::Resolvers;

use self::filters::Filters;
use self::interface::{Interface, Shared};
use self::merge::{Choice, choose, hold};
use self::socket::{Poll, Wait};
use crate::error::CaptureError;
use crate::interface::{InterfaceSettings, InterfaceStatus};
use crate::limits::{
    BLOCK_PATIENCE, PACKETS_PER_ATTENTION, RECEIVED_PATIENCE, RING_OCTETS_MAX, RING_OCTETS_MIN,
};

/// How the interfaces of a source are, to be asked while it is in use elsewhere.
#[derive(Clone, Debug)]
pub struct Statuses(Vec<Shared>);

impl Statuses {
    pub fn get(&self) -> Vec<InterfaceStatus> {
        self.0.iter().map(Shared::get).collect()
    }
}

/// Interfaces, each with its filter in the kernel.
///
/// What is wrong with one of them holds up none of the others, and is no failure of the source: it is in the
/// interface's status, and the interface is opened again as soon as it can be.
pub struct LiveSource {
    interfaces: Vec<Interface>,
    filters: Filters,
    /// Every packet received up to this time of day is visible.
    horizon: Timestamp,
    /// Packets until the interfaces are attended to although there was no reason to wait.
    unattended: u32,
    polls: Vec<Poll>,
    /// When there will be nothing more.
    end: Option<Instant>,
}

impl LiveSource {
    /// Fails on a system where no interface can be listened to; this one is not such a system.
    pub fn check_system() -> Result<(), CaptureError> {
        Ok(())
    }

    /// Opens interfaces as far as they are there; the others as soon as they are. Each has a ring of its own of
    /// `ring_octets`.
    pub fn open(
        interfaces: &[InterfaceSettings],
        resolvers: &Resolvers,
        ring_octets: usize,
    ) -> Result<Self, CaptureError> {
        if !(RING_OCTETS_MIN..=RING_OCTETS_MAX).contains(&ring_octets) {
            return Err(CaptureError::RingSize {
                given: ring_octets,
                least: RING_OCTETS_MIN,
                most: RING_OCTETS_MAX,
            });
        }
        if interfaces.is_empty() {
            return Err(CaptureError::NoInterfaces);
        }
        for (index, InterfaceSettings { name, .. }) in interfaces.iter().enumerate() {
            if interfaces[..index].iter().any(|before| before.name == *name) {
                return Err(CaptureError::Repeated { interface: name.clone() });
            }
        }
        let filters = Filters::compile(resolvers, interfaces.iter().any(|interface| interface.encapsulated))?;
        let now = Instant::now();
        let mut source = LiveSource {
            interfaces: interfaces
                .iter()
                .map(|settings| Interface::new(settings, ring_octets, now))
                .collect(),
            filters,
            horizon: Timestamp::default(),
            unattended: PACKETS_PER_ATTENTION,
            polls: Vec::with_capacity(interfaces.len()),
            end: None,
        };
        source.attend();
        Ok(source)
    }

    /// How the interfaces are, to be asked from elsewhere.
    pub fn statuses(&self) -> Statuses {
        Statuses(self.interfaces.iter().map(Interface::status).collect())
    }

    /// Asks the kernel for its drops, which the statuses then tell.
    pub fn update_drops(&mut self) {
        for interface in &mut self.interfaces {
            interface.update_drops();
        }
    }

    /// Replaces the filters of all interfaces, from one packet to the next; what is queued stays. On failure, those
    /// before stay.
    pub fn set_resolvers(&mut self, resolvers: &Resolvers) -> Result<(), CaptureError> {
        let filters = Filters::compile(resolvers, self.interfaces.iter().any(Interface::encapsulated))?;
        if let Err(error) = self.interfaces.iter().try_for_each(|interface| interface.set_filters(&filters)) {
            for interface in &mut self.interfaces {
                interface.restore_filters(&self.filters);
            }
            return Err(error);
        }
        self.filters = filters;
        Ok(())
    }

    /// Receives nothing more. What was received is still given out, then the source ends.
    pub fn drain(&mut self) {
        let now = Instant::now();
        for interface in &mut self.interfaces {
            interface.deafen(now);
        }
        self.end.get_or_insert(now + RECEIVED_PATIENCE);
    }

    /// Gives sockets and rings back.
    pub fn close(mut self) {
        let now = Instant::now();
        for interface in &mut self.interfaces {
            interface.close(now);
        }
    }

    /// Closes what has failed, opens what is due.
    fn attend(&mut self) {
        self.unattended = PACKETS_PER_ATTENTION;
        if self.end.is_some() {
            return;
        }
        let now = Instant::now();
        for interface in &mut self.interfaces {
            interface.attend(&self.filters, now);
        }
    }

    #[inline]
    fn choose(&mut self) -> Choice {
        let horizon = self.horizon;
        let heads = self.interfaces.iter_mut().map(Interface::head);
        match choose(heads, |time| (time > horizon).then_some(Duration::ZERO)) {
            Choice::Hold(_) => {}
            decided => return decided,
        }
        // The time first: what was received before it, by more than the patience, is then seen.
        let now = time_of_day();
        self.horizon = before(now, RECEIVED_PATIENCE);
        choose(self.interfaces.iter_mut().map(Interface::head), |time| hold(time, now))
    }

    /// Waits for packets, or for anything else that there is to do.
    fn wait(&mut self, patience: Duration) -> Result<Wait, CaptureError> {
        let now = Instant::now();
        let due = self.end.or_else(|| self.interfaces.iter().filter_map(Interface::due).min());
        let patience = due.map_or(patience, |due| patience.min(due.saturating_duration_since(now)));
        self.polls.clear();
        self.polls.extend(self.interfaces.iter_mut().map(Interface::poll));
        let waited = socket::wait(&mut self.polls, patience).map_err(CaptureError::Wait)?;
        let now = Instant::now();
        for (interface, poll) in self.interfaces.iter_mut().zip(&self.polls) {
            if poll.failed() {
                interface.take_error(now);
            }
        }
        self.attend();
        // Set anew by each wait, so that it goes back with a clock that is set back.
        self.horizon = before(time_of_day(), RECEIVED_PATIENCE);
        Ok(waited)
    }
}

impl FrameSource for LiveSource {
    type Error = CaptureError;

    #[inline]
    fn next(&mut self, patience: Duration) -> Result<Event<'_>, CaptureError> {
        let mut choice = self.choose();
        if !matches!(choice, Choice::Take(_)) {
            if choice == Choice::Nothing && self.end.is_some_and(|end| end <= Instant::now()) {
                return Ok(Event::End);
            }
            let patience = match choice {
                // Packets go on coming while one is held: they are looked at by the block, not one by one.
                Choice::Hold(duration) => patience.min(duration.max(BLOCK_PATIENCE)),
                _ => patience,
            };
            if self.wait(patience)? == Wait::Interrupted {
                return Ok(Event::Interrupted);
            }
            choice = self.choose();
        }
        let Choice::Take(index) = choice else {
            return Ok(Event::Idle);
        };
        self.unattended -= 1;
        if self.unattended == 0 {
            self.attend();
        }
        let encapsulated = self.interfaces[index].encapsulated();
        Ok(self.interfaces[index].next().map_or(Event::Idle, |(link, packet)| {
            Event::Frame(Frame {
                link,
                time: packet.time,
                wire_length: packet.wire_length,
                octets: packet.octets,
                checksum_ready: packet.checksum_ready,
                encapsulated,
            })
        }))
    }

    /// The time of day as far as packets of it are given out: none will come that is earlier.
    fn wall_clock(&self) -> Option<Timestamp> {
        Some(before(time_of_day(), RECEIVED_PATIENCE))
    }
}

fn time_of_day() -> Timestamp {
    // A clock that says a time before 1970 says nothing of use; queries then wait until it is right.
    Timestamp::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn before(time: Timestamp, earlier_by: Duration) -> Timestamp {
    Timestamp::from_unix(time.since(Timestamp::default()).saturating_sub(earlier_by))
}
