//! Frames from files: pcap and pcapng, plain or compressed.
//!
//! [`input`] reads and decompresses, by [`pipe`] what may have to be waited for; [`buffer`] holds what was read, and
//! the formats say what it is.

mod buffer;
mod classic;
mod format;
mod input;
mod pcapng;
mod pipe;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::time::Duration;

use passive_dns::frame::{Event, Frame, FrameSource, Timestamp};

use self::buffer::{Buffer, Filled};
use self::classic::FILE_HEADER_OCTETS;
use self::format::{Format, Recognised, Step};
use self::input::{Decompressed, Input};
use crate::error::CaptureError;
use crate::limits::PIPE_PATIENCE;

/// Packets out of a file of either format.
pub struct PcapSource {
    path: String,
    buffer: Buffer,
    format: Format,
    /// Octets that are still to be passed over.
    skip: usize,
    packets: u64,
    warning: Option<String>,
}

impl PcapSource {
    /// Opens a file; "-" is standard input. While a pipe says nothing it goes on to wait as long as it `may`, which
    /// it asks every [`PIPE_PATIENCE`].
    pub fn open(path: &str, may: impl FnMut() -> bool) -> Result<Self, CaptureError> {
        let name = if path == "-" { "standard input" } else { path };
        PcapSource::from_input(name, Input::open(path), may)
    }

    /// Reads what lets nobody wait; `name` stands for the path in failures.
    pub fn new(name: &str, reader: impl Read + Send + 'static) -> Result<Self, CaptureError> {
        PcapSource::from_input(name, Decompressed::new(reader).map(Input::File), || true)
    }

    fn from_input(
        name: &str,
        input: io::Result<Input>,
        mut may: impl FnMut() -> bool,
    ) -> Result<Self, CaptureError> {
        let path = name.to_owned();
        let failed = |error| CaptureError::File { path: path.clone(), error };
        let mut buffer = Buffer::new(input.map_err(failed)?);
        loop {
            match Format::recognise(buffer.at_hand()) {
                Recognised::Format(format) => {
                    return Ok(PcapSource { path, buffer, format, skip: 0, packets: 0, warning: None });
                }
                Recognised::Not(reason) => return Err(CaptureError::NotPcap { path, reason }),
                Recognised::Need(octets) => match buffer.fill(octets, PIPE_PATIENCE).map_err(failed)? {
                    Filled::Enough => {}
                    Filled::NotYet if may() => {}
                    Filled::NotYet => return Err(CaptureError::Abandoned { path }),
                    Filled::Ended => {
                        let reason = match buffer.damage() {
                            Some((compression, reason)) => format!("its {compression} data: {reason}"),
                            None => format!(
                                "{} octets are too few for a file header of {FILE_HEADER_OCTETS}",
                                buffer.at_hand().len()
                            ),
                        };
                        return Err(CaptureError::NotPcap { path, reason });
                    }
                },
            }
        }
    }

    /// Why reading ended before the file did.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Ends the source for a reason that its user should know.
    fn give_up(&mut self, warning: String) -> Event<'static> {
        self.warning = Some(warning);
        self.skip = 0;
        self.buffer.abandon();
        Event::End
    }

    /// Ends the source with its input, which has fewer octets than the `needed` ones that would have gone on.
    fn end(&mut self, needed: usize) -> Event<'static> {
        let (packets, record) = (self.packets, self.format.record());
        if let Some((compression, reason)) = self.buffer.damage() {
            let warning = format!("damaged after {packets} packets: its {compression} data: {reason}");
            return self.give_up(warning);
        }
        let missing = if self.skip > 0 { self.skip } else { needed - self.buffer.at_hand().len() };
        if missing == needed && self.skip == 0 {
            return Event::End;
        }
        self.give_up(format!(
            "truncated after {packets} packets: {missing} octets of the last {record} missing"
        ))
    }
}

impl FrameSource for PcapSource {
    type Error = CaptureError;

    #[inline]
    fn next(&mut self, patience: Duration) -> Result<Event<'_>, CaptureError> {
        let packet = loop {
            self.skip -= self.buffer.consume(self.skip).len();
            let needed = if self.skip > 0 {
                1
            } else {
                match self.format.step(self.buffer.at_hand()) {
                    Step::Packet(packet) => break packet,
                    Step::Need(octets) => octets,
                    Step::Skip(octets) => {
                        self.skip = octets;
                        continue;
                    }
                    Step::Corrupt(reason) => {
                        let packets = self.packets;
                        return Ok(self.give_up(format!("corrupt after {packets} packets: {reason}")));
                    }
                }
            };
            let filled = self
                .buffer
                .fill(needed, patience)
                .map_err(|error| CaptureError::File { path: self.path.clone(), error })?;
            match filled {
                Filled::Enough => {}
                Filled::NotYet => return Ok(Event::Idle),
                Filled::Ended => return Ok(self.end(needed)),
            }
        };
        self.packets += 1;
        let place = self.buffer.consume(packet.record);
        Ok(Event::Frame(Frame {
            link: packet.link,
            time: packet.time,
            wire_length: packet.wire_length,
            octets: &self.buffer.used(place)[packet.data],
            checksum_ready: true,
            encapsulated: true,
        }))
    }

    fn wall_clock(&self) -> Option<Timestamp> {
        None
    }
}
