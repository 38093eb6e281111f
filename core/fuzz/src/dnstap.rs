//! dnstap: Frame Streams, and the messages in them.
//!
//! The first octet says what follows: what a connection brings, or one frame as it stands.
//!
//! Permitted outcomes:
//!
//! * a connection is refused for one reason, ends, or wants more; its frames and its end are the same however its
//!   octets are cut, and what its writer is owed is ACCEPT, FINISH or nothing;
//! * there is always room for more while more is wanted, and the memory of one connection is bounded by the largest
//!   frame;
//! * a frame has one outcome; it is malformed if it says nothing of itself, and taken only if it is of the resolver's
//!   two kinds, with a server's port 53, two addresses of one family, a message, and a zone that is a name.

use passive_dns::dns::name;
use passive_dns::dnstap::{self, Kind, Label};
use passive_dns::frame_streams::{Reader, Step, StreamError};
use passive_dns::limits::{DATA_FRAME_OCTETS_MAX, DNSTAP_TCP_MESSAGE_OCTETS_MAX};
use passive_dns::message::Direction;
use passive_dns::outcome::DnstapOutcome;

use crate::input::Input;
use crate::memory::bounded;

/// The buffer while it grows, and a few control frames.
const MEMORY: usize = 2 * (DATA_FRAME_OCTETS_MAX + (64 << 10)) + (64 << 10);

pub fn check(octets: &[u8]) {
    let mut input = Input::new(octets);
    match input.octet() % 2 {
        0 => {
            let piece = usize::from(input.octet());
            check_connection(input.rest(), piece);
        }
        _ => check_frame(input.rest()),
    }
}

/// What came of a connection.
#[derive(Debug, PartialEq)]
struct Seen {
    frames: usize,
    octets: usize,
    end: Result<Step, StreamError>,
    sent: Vec<u8>,
}

fn check_connection(octets: &[u8], piece: usize) {
    let whole = bounded(MEMORY, || read(octets, usize::MAX));
    assert_eq!(read(octets, 1 + piece), whole);
    assert!([0, 42, 54].contains(&whole.sent.len()), "{:02x?}", whole.sent);
}

fn read(mut octets: &[u8], piece: usize) -> Seen {
    let mut reader = Reader::default();
    let mut seen = Seen { frames: 0, octets: 0, end: Ok(Step::More), sent: Vec::new() };
    loop {
        seen.end = reader.step();
        seen.sent.extend(reader.to_send());
        match &seen.end {
            Ok(Step::Data(frame)) => {
                let frame = reader.octets(frame.clone());
                assert!(frame.len() <= DATA_FRAME_OCTETS_MAX);
                seen.frames += 1;
                seen.octets += frame.len();
                check_frame(frame);
            }
            Ok(Step::More) => {
                let room = reader.room();
                assert!(!room.is_empty());
                let taken = octets.len().min(piece).min(room.len());
                if taken == 0 {
                    return seen;
                }
                room[..taken].copy_from_slice(&octets[..taken]);
                octets = &octets[taken..];
                reader.received(taken);
            }
            Ok(Step::Finished) => {
                assert_eq!(reader.step(), Ok(Step::Finished));
                return seen;
            }
            Err(_) => return seen,
        }
    }
}

fn check_frame(frame: &[u8]) {
    let label = Label::read(frame);
    let message = match dnstap::read(frame) {
        Ok(message) => message,
        Err(outcome) => {
            assert_ne!(outcome, DnstapOutcome::Passed);
            assert!(label.is_ok() || outcome == DnstapOutcome::RejectedMalformed);
            return;
        }
    };
    let kind = label.expect("what is taken says what it is").kind;
    match message.direction {
        Direction::ToServer => assert_eq!((kind, message.asked), (Kind::ResolverQuery, None)),
        Direction::FromServer => {
            assert_eq!(kind, Kind::ResolverResponse);
            assert!(message.asked.is_none_or(|asked| asked <= message.time));
        }
    }
    assert!(message.octets.len() < frame.len());
    assert!(message.octets.len() <= DNSTAP_TCP_MESSAGE_OCTETS_MAX);
    assert_eq!(message.server.port, 53);
    assert_eq!(message.resolver.address.is_ipv4(), message.server.address.is_ipv4());
    assert!(message.query_zone.is_none_or(|zone| name::validate(zone).is_ok()));
}
