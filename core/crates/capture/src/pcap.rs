//! Classic pcap files, of either byte order, in microseconds or nanoseconds
//! (draft-ietf-opsawg-pcap).

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use passive_dns::frame::{Event, Frame, FrameSource, LinkType, Timestamp};

use crate::error::CaptureError;

const FILE_HEADER_OCTETS: usize = 24;
const RECORD_HEADER_OCTETS: usize = 16;

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// The section header block of pcapng, the same in either byte order.
const MAGIC_PCAPNG: u32 = 0x0a0d_0d0a;

/// The largest packet that libpcap writes; a record that claims more is no record.
const PACKET_OCTETS_MAX: usize = 0x4_0000;

/// Room for the largest record, and for reading in large pieces beside it.
const BUFFER_OCTETS: usize = 2 * (RECORD_HEADER_OCTETS + PACKET_OCTETS_MAX);

/// The part of the link-type field that is the link type; the rest says how long the frame check sequence is.
const LINK_TYPE_MASK: u32 = 0x0000_ffff;

/// Packets out of a pcap file.
pub struct PcapSource {
    input: Box<dyn Read + Send>,
    path: String,
    buffer: Vec<u8>,
    /// What is in the buffer and was not given out.
    start: usize,
    end: usize,
    big_endian: bool,
    nanoseconds: bool,
    link: LinkType,
    packets: u64,
    ended: bool,
    warning: Option<String>,
}

impl PcapSource {
    /// Opens a file; "-" is standard input.
    pub fn open(path: &str) -> Result<Self, CaptureError> {
        let input: Box<dyn Read + Send> = if path == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).map_err(|error| CaptureError::File { path: path.to_owned(), error })?)
        };
        let name = if path == "-" { "standard input" } else { path };
        PcapSource::new(name, input)
    }

    fn new(path: &str, input: Box<dyn Read + Send>) -> Result<Self, CaptureError> {
        let mut source = PcapSource {
            input,
            path: path.to_owned(),
            buffer: vec![0; BUFFER_OCTETS],
            start: 0,
            end: 0,
            big_endian: false,
            nanoseconds: false,
            link: LinkType::Raw,
            packets: 0,
            ended: false,
            warning: None,
        };
        source.read_file_header()?;
        Ok(source)
    }

    /// Why reading ended before the file did.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    fn read_file_header(&mut self) -> Result<(), CaptureError> {
        let not_pcap =
            |source: &Self, reason: String| CaptureError::NotPcap { path: source.path.clone(), reason };
        while !self.fill(FILE_HEADER_OCTETS).map_err(|error| self.failed(error))? {
            if self.ended {
                let reason = format!(
                    "{} octets are too few for a file header of {FILE_HEADER_OCTETS}",
                    self.available()
                );
                return Err(not_pcap(self, reason));
            }
        }
        let magic = self.u32_at(0);
        (self.big_endian, self.nanoseconds) = match (magic, magic.swap_bytes()) {
            (MAGIC_MICROSECONDS, _) => (false, false),
            (_, MAGIC_MICROSECONDS) => (true, false),
            (MAGIC_NANOSECONDS, _) => (false, true),
            (_, MAGIC_NANOSECONDS) => (true, true),
            (MAGIC_PCAPNG, _) => {
                let reason = "it is pcapng; convert it (`editcap -F pcap IN OUT`)".to_owned();
                return Err(not_pcap(self, reason));
            }
            _ => return Err(not_pcap(self, format!("it begins with {:02x?}", &self.buffer[..4]))),
        };
        self.link = LinkType::from_pcap(self.u32_at(20) & LINK_TYPE_MASK);
        self.start = FILE_HEADER_OCTETS;
        Ok(())
    }

    fn failed(&self, error: io::Error) -> CaptureError {
        CaptureError::File { path: self.path.clone(), error }
    }

    fn available(&self) -> usize {
        self.end - self.start
    }

    fn u32_at(&self, offset: usize) -> u32 {
        let at = self.start + offset;
        let octets = [self.buffer[at], self.buffer[at + 1], self.buffer[at + 2], self.buffer[at + 3]];
        if self.big_endian { u32::from_be_bytes(octets) } else { u32::from_le_bytes(octets) }
    }

    /// Reads until `needed` octets are there; false if a signal arrived first, or the file ended (`ended`).
    fn fill(&mut self, needed: usize) -> io::Result<bool> {
        while self.available() < needed {
            if self.buffer.len() - self.start < needed {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(false);
                }
                Ok(octets) => self.end += octets,
                Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Ends the source before its file's end, with a warning.
    fn give_up(&mut self, warning: String) -> Event<'_> {
        self.ended = true;
        self.start = self.end;
        self.warning = Some(warning);
        Event::End
    }

    /// What to say when no whole record is there.
    fn unfilled(&mut self, needed: usize) -> Event<'_> {
        match (self.ended, self.available()) {
            (false, _) => Event::Interrupted,
            (true, 0) => Event::End,
            (true, available) => {
                let missing = needed - available;
                let packets = self.packets;
                self.give_up(format!(
                    "truncated: {missing} octets of the last packet missing after {packets} packets"
                ))
            }
        }
    }
}

impl FrameSource for PcapSource {
    type Error = CaptureError;

    fn next(&mut self, _patience: Duration) -> Result<Event<'_>, CaptureError> {
        if !self.fill(RECORD_HEADER_OCTETS).map_err(|error| self.failed(error))? {
            return Ok(self.unfilled(RECORD_HEADER_OCTETS));
        }
        let captured = self.u32_at(8) as usize;
        if captured > PACKET_OCTETS_MAX {
            let packets = self.packets;
            return Ok(self.give_up(format!(
                "corrupt: the record after {packets} packets claims {captured} octets, more than {PACKET_OCTETS_MAX}"
            )));
        }
        let record = RECORD_HEADER_OCTETS + captured;
        if !self.fill(record).map_err(|error| self.failed(error))? {
            return Ok(self.unfilled(record));
        }
        let (fraction, unit) =
            if self.nanoseconds { (self.u32_at(4), 1) } else { (self.u32_at(4).min(999_999), 1000) };
        let time = Timestamp::new(self.u32_at(0), fraction * unit);
        let wire_length = self.u32_at(12) as usize;
        let at = self.start + RECORD_HEADER_OCTETS;
        self.start += record;
        self.packets += 1;
        Ok(Event::Frame(Frame {
            link: self.link,
            time,
            wire_length,
            octets: &self.buffer[at..at + captured],
            checksum_ready: true,
        }))
    }

    fn wall_clock(&self) -> Option<Timestamp> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Order(fn(u32) -> [u8; 4]);

    const LITTLE: Order = Order(u32::to_le_bytes);
    const BIG: Order = Order(u32::to_be_bytes);

    fn file(order: &Order, magic: u32, link: u32, packets: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut octets = Vec::new();
        for word in [magic, 0, 0, 0, 65535, link] {
            octets.extend(order.0(word));
        }
        for (seconds, fraction, packet) in packets {
            for word in [*seconds, *fraction, packet.len() as u32, packet.len() as u32 + 1] {
                octets.extend(order.0(word));
            }
            octets.extend(*packet);
        }
        octets
    }

    /// Gives one octet at a time, as a pipe may.
    struct Trickle(io::Cursor<Vec<u8>>);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut buffer[..1])
        }
    }

    fn open(octets: Vec<u8>) -> Result<PcapSource, CaptureError> {
        PcapSource::new("test.pcap", Box::new(Trickle(io::Cursor::new(octets))))
    }

    fn frames(source: &mut PcapSource) -> Vec<(Timestamp, usize, Vec<u8>)> {
        let mut frames = Vec::new();
        loop {
            match source.next(Duration::ZERO).unwrap() {
                Event::Frame(frame) => frames.push((frame.time, frame.wire_length, frame.octets.to_vec())),
                Event::End => return frames,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn both_orders_and_both_resolutions() {
        for order in [LITTLE, BIG] {
            for (magic, nanoseconds) in [(MAGIC_MICROSECONDS, 7000), (MAGIC_NANOSECONDS, 7)] {
                let mut source = open(file(&order, magic, 1, &[(5, 7, b"one"), (6, 0, b"")])).unwrap();
                assert_eq!(source.link, LinkType::Ethernet);
                let expected = [
                    (Timestamp::new(5, nanoseconds), 4, b"one".to_vec()),
                    (Timestamp::new(6, 0), 1, Vec::new()),
                ];
                assert_eq!(frames(&mut source), expected);
                assert_eq!(source.warning(), None);
            }
        }
    }

    #[test]
    fn a_truncated_file_gives_the_packets_it_has() {
        let whole = file(&LITTLE, MAGIC_MICROSECONDS, 101, &[(5, 0, b"first"), (6, 0, b"second")]);
        let mut source = open(whole[..whole.len() - 2].to_vec()).unwrap();
        assert_eq!(frames(&mut source).len(), 1);
        assert_eq!(source.warning(), Some("truncated: 2 octets of the last packet missing after 1 packets"));
    }

    #[test]
    fn a_corrupt_record_ends_the_file() {
        let mut octets = file(&LITTLE, MAGIC_MICROSECONDS, 101, &[(5, 0, b"first")]);
        octets.extend([0xff; 40]);
        let mut source = open(octets).unwrap();
        assert_eq!(frames(&mut source).len(), 1);
        assert!(source.warning().unwrap().starts_with("corrupt: the record after 1 packets"));
        assert!(frames(&mut source).is_empty());
    }

    #[test]
    fn what_is_no_pcap_file_is_refused() {
        for octets in
            [&b""[..], b"NMSG", b"\x0a\x0d\x0d\x0a............................", b"garbage, and enough of it"]
        {
            assert!(matches!(open(octets.to_vec()), Err(CaptureError::NotPcap { .. })));
        }
    }

    #[test]
    fn an_impossible_fraction_is_the_end_of_its_second() {
        let mut source = open(file(&LITTLE, MAGIC_MICROSECONDS, 101, &[(5, u32::MAX, b"")])).unwrap();
        assert_eq!(frames(&mut source)[0].0, Timestamp::new(5, 999_999_000));
    }
}
