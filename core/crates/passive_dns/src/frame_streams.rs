//! Frame Streams, the framing in which dnstap travels: the reading end of one connection.
//!
//! Every number is 32 bits, big-endian. A data frame is its length and its octets. A length of zero begins a control
//! frame: its own length, its type, and fields of type, length and octets, of which one type, the content's, exists.
//!
//! ```text
//! bidirectional (sockets)   writer READY → reader ACCEPT → writer START, data …, STOP → reader FINISH
//! unidirectional (files)    writer START, data …, STOP
//! ```
//!
//! Source: the framing's description in `fstrm/control.h` of https://github.com/farsightsec/fstrm.

use std::ops::Range;

use thiserror::Error;

use crate::limits::{CONTENT_TYPE_OCTETS_MAX, CONTROL_FRAME_OCTETS_MAX, DATA_FRAME_OCTETS_MAX};

/// What this reader takes.
pub const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";

const ESCAPE: u32 = 0;
const NUMBER_OCTETS: usize = 4;
const FIELD_CONTENT_TYPE: u32 = 1;

/// What a connection's buffer begins with, and what the reader asks of a socket at once: dozens of frames of 200 to
/// 500 octets.
const BUFFER_OCTETS: usize = 16 << 10;

/// Control frame types.
mod control {
    pub const ACCEPT: u32 = 1;
    pub const START: u32 = 2;
    pub const STOP: u32 = 3;
    pub const READY: u32 = 4;
    pub const FINISH: u32 = 5;
}

//------------ StreamError -------------------------------------------------------------------------------------

/// Why a connection cannot be read on. There is no way to find the next frame: it has to be closed.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum StreamError {
    #[error("it sends the content type \"{0}\", and only \"protobuf:dnstap.Dnstap\" is taken here")]
    ContentType(String),
    #[error("its {0} frame names no content type, which must be \"protobuf:dnstap.Dnstap\"")]
    NoContentType(&'static str),
    #[error("it does not speak Frame Streams: its first octets are {0:02x?}")]
    NotFrameStreams([u8; NUMBER_OCTETS]),
    #[error("it announces a frame of {given} octets, and the limit is {limit}")]
    FrameLength { given: usize, limit: usize },
    #[error("it announces a control frame of {given} octets; a control frame has 4 to {limit}")]
    ControlLength { given: usize, limit: usize },
    #[error("its control frame of type {0} has fields that cannot be read")]
    ControlFields(u32),
    #[error("it sends data before START")]
    EarlyData,
    #[error("it sends a control frame of type {given} where {expected} has to come")]
    Unexpected { given: u32, expected: &'static str },
}

//------------ Reader ------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Nothing has come.
    Opening,
    /// ACCEPT has been given.
    Accepted,
    /// START has come; `true` if the writer waits for a FINISH in the end.
    Streaming(bool),
    /// STOP has come.
    Finished,
}

/// What the octets received so far hold next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// A data frame, to be seen by [`Reader::octets`] until the next call of [`Reader::room`].
    Data(Range<usize>),
    /// Nothing whole: more octets are needed.
    More,
    /// The writer has said that nothing follows.
    Finished,
}

/// The reading end of one connection, without the connection: octets go in by [`Reader::room`] and
/// [`Reader::received`], frames come out by [`Reader::step`], and [`Reader::to_send`] is what the writer is owed.
#[derive(Debug)]
pub struct Reader {
    state: State,
    buffer: Vec<u8>,
    /// The octets of the buffer that hold something not yet taken.
    held: Range<usize>,
    to_send: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Reader { state: State::Opening, buffer: vec![0; BUFFER_OCTETS], held: 0..0, to_send: Vec::new() }
    }
}

impl Reader {
    /// Where the next octets received are to be put: never empty after [`Step::More`]. Frames seen before are gone.
    pub fn room(&mut self) -> &mut [u8] {
        if self.held.start > 0 {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        &mut self.buffer[self.held.end..]
    }

    /// Says how many octets have been put into [`Reader::room`].
    pub fn received(&mut self, octets: usize) {
        self.held.end = self.held.end.saturating_add(octets).min(self.buffer.len());
    }

    /// Takes the next frame. An error is final.
    pub fn step(&mut self) -> Result<Step, StreamError> {
        loop {
            if self.state == State::Finished {
                return Ok(Step::Finished);
            }
            let Some(length) = self.number(0) else { return Ok(Step::More) };
            if length != ESCAPE {
                return self.data(length as usize);
            }
            let Some(length) = self.number(NUMBER_OCTETS) else { return Ok(Step::More) };
            let length = length as usize;
            if !(NUMBER_OCTETS..=CONTROL_FRAME_OCTETS_MAX).contains(&length) {
                return Err(StreamError::ControlLength { given: length, limit: CONTROL_FRAME_OCTETS_MAX });
            }
            let Some(frame) = self.take(2 * NUMBER_OCTETS, length) else { return Ok(Step::More) };
            self.control(frame)?;
        }
    }

    /// A data frame's octets.
    pub fn octets(&self, frame: Range<usize>) -> &[u8] {
        self.buffer.get(frame).unwrap_or_default()
    }

    /// What has to be sent to the writer; asking takes it away.
    pub fn to_send(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_send)
    }

    /// Whether the writer owes octets: it has not said START, or has sent a part of a frame.
    pub fn is_owed(&self) -> bool {
        !matches!(self.state, State::Streaming(_)) || !self.held.is_empty()
    }

    /// The number at an offset of what is held.
    fn number(&self, offset: usize) -> Option<u32> {
        number(self.buffer.get(self.held.clone())?, offset)
    }

    /// The range of a frame of `length` octets behind a head of `head`, if it is there whole; else makes sure that
    /// there is room for it.
    fn take(&mut self, head: usize, length: usize) -> Option<Range<usize>> {
        let whole = head + length;
        if self.held.len() < whole {
            if self.buffer.len() < whole {
                self.buffer.resize(whole, 0);
            }
            return None;
        }
        let frame = self.held.start + head..self.held.start + whole;
        self.held.start = frame.end;
        Some(frame)
    }

    fn data(&mut self, length: usize) -> Result<Step, StreamError> {
        match self.state {
            State::Streaming(_) => {}
            State::Opening => {
                let first = u32::try_from(length).unwrap_or(u32::MAX);
                return Err(StreamError::NotFrameStreams(first.to_be_bytes()));
            }
            State::Accepted | State::Finished => return Err(StreamError::EarlyData),
        }
        if length > DATA_FRAME_OCTETS_MAX {
            return Err(StreamError::FrameLength { given: length, limit: DATA_FRAME_OCTETS_MAX });
        }
        Ok(self.take(NUMBER_OCTETS, length).map_or(Step::More, Step::Data))
    }

    fn control(&mut self, frame: Range<usize>) -> Result<(), StreamError> {
        let frame = self.octets(frame);
        let (Some(kind), Some(fields)) = (number(frame, 0), frame.get(NUMBER_OCTETS..)) else {
            return Err(StreamError::ControlLength { given: frame.len(), limit: CONTROL_FRAME_OCTETS_MAX });
        };
        match (self.state, kind) {
            (State::Opening, control::READY) => {
                check_content_type("READY", kind, fields)?;
                self.send(control::ACCEPT, true);
                self.state = State::Accepted;
            }
            (State::Opening | State::Accepted, control::START) => {
                check_content_type("START", kind, fields)?;
                self.state = State::Streaming(self.state == State::Accepted);
            }
            (State::Streaming(answered), control::STOP) => {
                if answered {
                    self.send(control::FINISH, false);
                }
                self.state = State::Finished;
            }
            (state, given) => {
                let expected = match state {
                    State::Opening => "READY or START",
                    State::Accepted => "START",
                    State::Streaming(_) | State::Finished => "data or STOP",
                };
                return Err(StreamError::Unexpected { given, expected });
            }
        }
        Ok(())
    }

    fn send(&mut self, kind: u32, with_content_type: bool) {
        let mut frame = kind.to_be_bytes().to_vec();
        if with_content_type {
            frame.extend_from_slice(&FIELD_CONTENT_TYPE.to_be_bytes());
            frame.extend_from_slice(&(CONTENT_TYPE.len() as u32).to_be_bytes());
            frame.extend_from_slice(CONTENT_TYPE);
        }
        self.to_send.extend_from_slice(&ESCAPE.to_be_bytes());
        self.to_send.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        self.to_send.extend_from_slice(&frame);
    }
}

fn number(octets: &[u8], offset: usize) -> Option<u32> {
    octets.get(offset..)?.first_chunk().map(|number| u32::from_be_bytes(*number))
}

/// Whether dnstap is among the content types that a control frame names.
fn check_content_type(name: &'static str, kind: u32, mut fields: &[u8]) -> Result<(), StreamError> {
    let mut other = None;
    while !fields.is_empty() {
        let malformed = StreamError::ControlFields(kind);
        let (Some(FIELD_CONTENT_TYPE), Some(length)) = (number(fields, 0), number(fields, NUMBER_OCTETS))
        else {
            return Err(malformed);
        };
        let length = length as usize;
        if length > CONTENT_TYPE_OCTETS_MAX {
            return Err(malformed);
        }
        let end = 2 * NUMBER_OCTETS + length;
        let content_type = fields.get(2 * NUMBER_OCTETS..end).ok_or(malformed)?;
        if content_type == CONTENT_TYPE {
            return Ok(());
        }
        other = Some(content_type);
        fields = &fields[end..];
    }
    match other {
        Some(given) => Err(StreamError::ContentType(given.escape_ascii().to_string())),
        None => Err(StreamError::NoContentType(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u32, content_types: &[&[u8]]) -> Vec<u8> {
        let mut body = kind.to_be_bytes().to_vec();
        for content_type in content_types {
            body.extend_from_slice(&FIELD_CONTENT_TYPE.to_be_bytes());
            body.extend_from_slice(&(content_type.len() as u32).to_be_bytes());
            body.extend_from_slice(content_type);
        }
        [&ESCAPE.to_be_bytes(), &(body.len() as u32).to_be_bytes()[..], &body].concat()
    }

    fn data(octets: &[u8]) -> Vec<u8> {
        [&(octets.len() as u32).to_be_bytes()[..], octets].concat()
    }

    /// Feeds a reader pieces of the sizes given, in turn; the data frames and how it ended.
    fn read(
        reader: &mut Reader,
        mut octets: &[u8],
        sizes: &[usize],
    ) -> (Vec<Vec<u8>>, Result<Step, StreamError>) {
        let mut frames = Vec::new();
        let mut sizes = sizes.iter().cycle();
        loop {
            match reader.step() {
                Ok(Step::Data(frame)) => frames.push(reader.octets(frame).to_vec()),
                Ok(Step::More) if !octets.is_empty() => {
                    let room = reader.room();
                    assert!(!room.is_empty());
                    let size = room.len().min(octets.len()).min(*sizes.next().expect("endless"));
                    room[..size].copy_from_slice(&octets[..size]);
                    reader.received(size);
                    octets = &octets[size..];
                }
                end => return (frames, end),
            }
        }
    }

    fn refused(octets: &[u8]) -> String {
        let (_, end) = read(&mut Reader::default(), octets, &[7]);
        end.expect_err("refused").to_string()
    }

    #[test]
    fn the_bidirectional_handshake() {
        let mut reader = Reader::default();
        assert!(reader.is_owed());
        let (_, end) = read(&mut reader, &frame(control::READY, &[b"x", CONTENT_TYPE]), &[1]);
        assert_eq!(end, Ok(Step::More));
        assert_eq!(reader.to_send(), frame(control::ACCEPT, &[CONTENT_TYPE]));
        assert!(reader.is_owed());
        let start = frame(control::START, &[CONTENT_TYPE]);
        let (frames, end) = read(&mut reader, &[start, data(b"one"), data(b"two")].concat(), &[5]);
        assert_eq!((frames, end), (vec![b"one".to_vec(), b"two".to_vec()], Ok(Step::More)));
        assert_eq!(reader.to_send(), b"");
        assert!(!reader.is_owed());
        assert_eq!(read(&mut reader, &frame(control::STOP, &[]), &[3]).1, Ok(Step::Finished));
        assert_eq!(reader.to_send(), frame(control::FINISH, &[]));
    }

    #[test]
    fn the_unidirectional_one_is_answered_by_nothing() {
        let mut reader = Reader::default();
        let stream =
            [frame(control::START, &[CONTENT_TYPE]), data(b"one"), frame(control::STOP, &[])].concat();
        assert_eq!(read(&mut reader, &stream, &[9]), (vec![b"one".to_vec()], Ok(Step::Finished)));
        assert_eq!(reader.to_send(), b"");
    }

    #[test]
    fn a_part_of_a_frame_is_owed() {
        let mut reader = Reader::default();
        let stream = [frame(control::START, &[CONTENT_TYPE]), data(b"one")].concat();
        assert_eq!(read(&mut reader, &stream[..stream.len() - 1], &[100]), (Vec::new(), Ok(Step::More)));
        assert!(reader.is_owed());
        assert_eq!(read(&mut reader, b"e", &[1]).0, [b"one"]);
        assert!(!reader.is_owed());
    }

    #[test]
    fn what_is_refused_is_refused_in_a_sentence() {
        let cases = [
            (
                frame(control::READY, &[b"protobuf:other\n"]),
                "it sends the content type \"protobuf:other\\n\", and only \"protobuf:dnstap.Dnstap\" is taken here",
            ),
            (
                frame(control::READY, &[]),
                "its READY frame names no content type, which must be \"protobuf:dnstap.Dnstap\"",
            ),
            (
                frame(control::START, &[b""]),
                "it sends the content type \"\", and only \"protobuf:dnstap.Dnstap\" is taken here",
            ),
            (
                b"GET / HTTP/1.1".to_vec(),
                "it does not speak Frame Streams: its first octets are [47, 45, 54, 20]",
            ),
            (
                [frame(control::START, &[CONTENT_TYPE]), 147_457_u32.to_be_bytes().to_vec()].concat(),
                "it announces a frame of 147457 octets, and the limit is 147456",
            ),
            (
                [ESCAPE.to_be_bytes(), 513_u32.to_be_bytes()].concat(),
                "it announces a control frame of 513 octets; a control frame has 4 to 512",
            ),
            (
                [ESCAPE.to_be_bytes(), 3_u32.to_be_bytes()].concat(),
                "it announces a control frame of 3 octets; a control frame has 4 to 512",
            ),
            (
                frame(control::FINISH, &[]),
                "it sends a control frame of type 5 where READY or START has to come",
            ),
            ([frame(control::READY, &[CONTENT_TYPE]), data(b"early")].concat(), "it sends data before START"),
            (
                [frame(control::START, &[CONTENT_TYPE]), frame(control::START, &[CONTENT_TYPE])].concat(),
                "it sends a control frame of type 2 where data or STOP has to come",
            ),
            (
                frame(control::READY, &[&[b'x'; 257]]),
                "its control frame of type 4 has fields that cannot be read",
            ),
        ];
        for (octets, sentence) in cases {
            assert_eq!(refused(&octets), sentence);
        }
    }

    #[test]
    fn the_largest_frame_is_read_and_bounds_the_buffer() {
        let largest = vec![7; DATA_FRAME_OCTETS_MAX];
        let stream = [frame(control::START, &[CONTENT_TYPE]), data(&largest), data(b"next")].concat();
        let mut reader = Reader::default();
        let (frames, end) = read(&mut reader, &stream, &[usize::MAX]);
        assert_eq!((frames, end), (vec![largest, b"next".to_vec()], Ok(Step::More)));
        assert_eq!(reader.buffer.len(), DATA_FRAME_OCTETS_MAX + NUMBER_OCTETS);
    }

    proptest! {
        #[test]
        fn frames_do_not_depend_on_how_they_arrive(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..50),
            sizes in prop::collection::vec(1_usize..5000, 1..10),
        ) {
            let mut stream = [frame(control::READY, &[CONTENT_TYPE]), frame(control::START, &[CONTENT_TYPE])].concat();
            for octets in &frames {
                stream.extend(data(octets));
            }
            stream.extend(frame(control::STOP, &[]));
            prop_assert_eq!(read(&mut Reader::default(), &stream, &sizes), (frames, Ok(Step::Finished)));
        }

        #[test]
        fn any_octets_are_frames_or_an_error(
            started: bool,
            octets in prop::collection::vec(any::<u8>(), 0..2000),
            sizes in prop::collection::vec(1_usize..500, 1..5),
        ) {
            let mut stream = if started { frame(control::START, &[CONTENT_TYPE]) } else { Vec::new() };
            stream.extend(octets);
            let mut reader = Reader::default();
            let (frames, _) = read(&mut reader, &stream, &sizes);
            prop_assert!(frames.iter().map(|frame| frame.len() + NUMBER_OCTETS).sum::<usize>() <= stream.len());
            prop_assert!(reader.buffer.len() <= DATA_FRAME_OCTETS_MAX + NUMBER_OCTETS);
        }
    }
}
