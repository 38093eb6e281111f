//! Putting fragmented datagrams together.
//!
//! The first octet says what follows: pieces as somebody might send them, or one datagram and the way in which its
//! pieces were cut and put out of order.
//!
//! Permitted outcomes of any pieces:
//!
//! * each waits, is settled with one outcome, or is in a datagram that is whole; the sum holds after each;
//! * a whole datagram is one IP datagram as long as its header says, not fragmented, without options and extension
//!   headers, between the addresses of its pieces;
//! * after the end nothing waits, and memory is bounded by the pieces held and what a table is bounded to.
//!
//! Of the pieces of one datagram, none missing and none twice: the datagram, once, with the last of them.

use passive_dns::fragments::Fragments;
use passive_dns::frame::Timestamp;
use passive_dns::limits::FRAGMENT_PIECES_MAX;
use passive_dns::outcome::PacketOutcome;
use passive_dns::packet::Packet;

use crate::input::Input;
use crate::memory::bounded;

/// A piece of eight octets is held with 24 of its own, in lists and tables that double as they grow, and a set takes
/// some 300; the datagram being written comes on top.
const KEPT_FOR_EACH_OCTET: usize = 32;
const FIXED: usize = 1 << 18;

pub fn check(octets: &[u8]) {
    let mut input = Input::new(octets);
    match input.octet() % 2 {
        0 => bounded(octets.len() * KEPT_FOR_EACH_OCTET + FIXED, || check_any(&mut input)),
        _ => check_honest(&mut input),
    }
}

fn check_any(input: &mut Input<'_>) {
    let mut fragments = Fragments::default();
    let (mut taken, mut in_wholes) = (0, 0);
    let mut seconds = 1_700_000_000;
    while !input.is_empty() {
        let (state, id) = (input.octet(), input.octet());
        seconds += u32::from(state >> 4);
        let units = input.number() & 0x1fff;
        let piece = piece(state & 1 != 0, id & 3, units, state & 2 != 0, input.chunk());
        let Ok(packet) = Packet::of_octets(&piece, |_| true) else { continue };
        let Some(place) = packet.fragment else { continue };
        taken += 1;
        let verdict = if state & 4 != 0 { Err(PacketOutcome::FilteredPort) } else { Ok(()) };
        let time = Timestamp::new(seconds, 0);
        match fragments.take(&packet, place, time, || verdict) {
            Ok(whole) => {
                in_wholes += whole.packets;
                let datagram = Packet::of_octets(whole.octets, |_| true).expect("a whole datagram");
                assert_eq!((datagram.octets, datagram.fragment), (whole.octets, None));
                assert_eq!((datagram.source, datagram.destination), (packet.source, packet.destination));
            }
            Err(outcome) => assert_ne!(outcome, PacketOutcome::Passed),
        }
        if id & 0xf0 == 0xf0 {
            fragments.expire(time);
        }
        let settled: u64 = fragments.settled().iter().sum();
        assert_eq!(settled + fragments.waiting() + in_wholes, taken);
    }
    fragments.finish();
    assert_eq!(fragments.waiting(), 0);
    assert_eq!(fragments.settled().iter().sum::<u64>() + in_wholes, taken);
}

fn check_honest(input: &mut Input<'_>) {
    let ipv6 = input.octet() & 1 != 0;
    let contents = input.chunk();
    let contents = &contents[..contents.len().min(65_535 - 40)];
    let mut places = Vec::new();
    let mut at = 0;
    while at < contents.len() && places.len() + 1 < FRAGMENT_PIECES_MAX {
        let octets = 8 * (1 + usize::from(input.octet()));
        places.push((at, contents.len().min(at + octets)));
        at += octets;
    }
    if let Some(last) = places.last_mut() {
        last.1 = contents.len();
    }
    if places.len() < 2 {
        return;
    }
    for index in 0..places.len() {
        let other = usize::from(input.octet()) % places.len();
        places.swap(index, other);
    }
    let mut fragments = Fragments::default();
    for (index, (start, end)) in places.iter().enumerate() {
        let more = *end < contents.len();
        let piece = piece(ipv6, 7, (start / 8) as u16, more, &contents[*start..*end]);
        let packet = Packet::of_octets(&piece, |_| true).expect("a packet");
        let place = packet.fragment.expect("a piece");
        match fragments.take(&packet, place, Timestamp::new(1, 0), || Ok(())) {
            Ok(whole) => {
                assert_eq!((index + 1, whole.packets), (places.len(), places.len() as u64));
                let datagram = Packet::of_octets(whole.octets, |_| true).expect("a whole datagram");
                assert_eq!(datagram.payload(), contents);
            }
            Err(outcome) => {
                assert_eq!((outcome, index + 1 < places.len()), (PacketOutcome::Waiting, true));
            }
        }
    }
    assert_eq!(fragments.waiting(), 0);
}

/// A packet with a piece of a datagram of UDP.
fn piece(ipv6: bool, id: u8, units: u16, more: bool, contents: &[u8]) -> Vec<u8> {
    let contents = &contents[..contents.len().min(65_535 - 40)];
    if ipv6 {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((8 + contents.len() as u16).to_be_bytes());
        packet.extend([44, 64]);
        packet.extend([[0x20; 16], [0x21; 16]].concat());
        packet.extend([17, 0]);
        packet.extend((units << 3 | u16::from(more)).to_be_bytes());
        packet.extend([0, 0, 0, id]);
        packet.extend(contents);
        return packet;
    }
    let mut packet = vec![0x45, 0];
    packet.extend((20 + contents.len() as u16).to_be_bytes());
    packet.extend([0, id]);
    packet.extend((units | u16::from(more) << 13).to_be_bytes());
    packet.extend([64, 17, 0, 0, 203, 0, 113, 1, 192, 0, 2, 53]);
    packet.extend(contents);
    packet
}
