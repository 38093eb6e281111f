//! Frames from network interfaces where there is no AF_PACKET: none.
//!
//! The same interface as `live` has on Linux, whose first call says that there is nothing behind it.

use std::convert::Infallible;
use std::env::consts::OS;
use std::time::Duration;

use passive_dns::frame::{Event, FrameSource, Timestamp};
use passive_dns::resolvers::Resolvers;

use crate::error::CaptureError;
use crate::interface::{InterfaceSettings, InterfaceStatus};

/// How the interfaces of a source are; here there is no such source.
#[derive(Clone, Debug)]
pub struct Statuses(Infallible);

impl Statuses {
    pub fn get(&self) -> Vec<InterfaceStatus> {
        match self.0 {}
    }
}

/// Interfaces that are listened to; here there is no such value.
pub struct LiveSource(Infallible);

impl LiveSource {
    /// Fails: on this system no interface can be listened to.
    pub fn check_system() -> Result<(), CaptureError> {
        Err(CaptureError::NotLinux { system: OS })
    }

    /// Fails, whatever is asked for.
    pub fn open(
        _interfaces: &[InterfaceSettings],
        _resolvers: &Resolvers,
        _ring_octets: usize,
    ) -> Result<Self, CaptureError> {
        Err(CaptureError::NotLinux { system: OS })
    }

    pub fn statuses(&self) -> Statuses {
        match self.0 {}
    }

    pub fn update_drops(&mut self) {
        match self.0 {}
    }

    pub fn set_resolvers(&mut self, _resolvers: &Resolvers) -> Result<(), CaptureError> {
        match self.0 {}
    }

    pub fn drain(&mut self) {
        match self.0 {}
    }

    pub fn close(self) {
        match self.0 {}
    }
}

impl FrameSource for LiveSource {
    type Error = CaptureError;

    fn next(&mut self, _patience: Duration) -> Result<Event<'_>, CaptureError> {
        match self.0 {}
    }

    fn wall_clock(&self) -> Option<Timestamp> {
        match self.0 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_refused_with_system_and_remedy() {
        let resolvers = Resolvers::parse(&["192.0.2.53"]).expect("an address");
        let sentence = format!(
            "on {OS} no interface can be listened to, since that takes Linux's AF_PACKET: have the resolver bring its \
             dnstap, or run a sensor on a Linux host at a SPAN port"
        );
        for refused in [LiveSource::check_system().err(), LiveSource::open(&[], &resolvers, 0).err()] {
            assert_eq!(refused.map(|error| error.to_string()), Some(sentence.clone()));
        }
    }
}
