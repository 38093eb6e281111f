//! Putting fragmented IP datagrams together (RFC 791, RFC 8200 section 4.5).
//!
//! The pieces of a datagram are told by addresses, identification and, with IPv4, protocol. A datagram one of whose
//! pieces overlaps another is never put together (RFC 5722): what one receiver takes from the first of them, another
//! takes from the second. Only a piece that repeats another to the octet is passed over, as RFC 8200 allows: mirrors
//! double packets. The same becomes of a datagram whose first piece shows that it is
//! none that enters; its other pieces are then not held.
//!
//! Time and memory are bounded: a datagram waits [`FRAGMENT_PATIENCE`], and the one that was least recently added to
//! leaves first when there are [too many](crate::limits).

use std::net::IpAddr;

use crate::checksum;
use crate::frame::Timestamp;
use crate::limits::{FRAGMENT_OCTETS_MAX, FRAGMENT_PATIENCE, FRAGMENT_PIECES_MAX, FRAGMENT_SETS_MAX};
use crate::lru::Lru;
use crate::outcome::PacketOutcome;
use crate::packet::{Fragment, IPV4_HEADER_OCTETS_MIN, IPV6_HEADER_OCTETS, Packet};

/// The total length of IPv4, and the payload length of IPv6, are of 16 bits.
const LENGTH_MAX: usize = 65_535;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    /// Zero with IPv6, whose identification does without.
    protocol: u8,
}

struct Piece {
    start: usize,
    octets: Box<[u8]>,
}

impl Piece {
    fn end(&self) -> usize {
        self.start + self.octets.len()
    }
}

/// The pieces of one datagram.
struct Set {
    begun: Timestamp,
    /// Why the datagram is not put together, if it is not; nothing is held then.
    refused: Option<PacketOutcome>,
    /// By place; none overlaps another.
    pieces: Vec<Piece>,
    octets: usize,
    /// The base header of the first piece, and the protocol behind the fragment header.
    header: Vec<u8>,
    protocol: u8,
    /// Where the datagram ends, once its last piece is there.
    end: Option<usize>,
}

impl Set {
    fn new(begun: Timestamp) -> Self {
        Set {
            begun,
            refused: None,
            pieces: Vec::new(),
            octets: 0,
            header: Vec::new(),
            protocol: 0,
            end: None,
        }
    }

    /// Whether the piece is there already, to the octet.
    fn has(&self, place: Fragment, octets: &[u8]) -> bool {
        let last = !place.more;
        let same = |piece: &Piece| piece.start == place.offset && *piece.octets == *octets;
        self.pieces.iter().any(same) && last == (self.end == Some(place.offset + octets.len()))
    }

    /// Adds a piece, or says why the datagram has become impossible.
    fn add(&mut self, place: Fragment, octets: &[u8]) -> Result<(), PacketOutcome> {
        let end = place.offset + octets.len();
        let behind = self.pieces.partition_point(|piece| piece.start < place.offset);
        let over_last = self.pieces[..behind].last().is_some_and(|piece| piece.end() > place.offset);
        let over_next = self.pieces.get(behind).is_some_and(|piece| piece.start < end);
        let beyond = match (self.end, place.more) {
            (Some(known), true) => end > known,
            (Some(known), false) => end != known,
            (None, true) => false,
            (None, false) => self.pieces.last().is_some_and(|piece| piece.end() > end),
        };
        if over_last || over_next || beyond {
            return Err(PacketOutcome::RejectedOverlap);
        }
        if self.pieces.len() == FRAGMENT_PIECES_MAX {
            return Err(PacketOutcome::LostRoom);
        }
        if !place.more {
            self.end = Some(end);
        }
        self.octets += octets.len();
        self.pieces.insert(behind, Piece { start: place.offset, octets: octets.into() });
        Ok(())
    }

    /// Since no piece overlaps another, there is no gap if they have as many octets as the datagram.
    fn is_whole(&self) -> bool {
        self.end == Some(self.octets)
    }

    fn packets(&self) -> u64 {
        self.pieces.len() as u64
    }

    /// Writes the datagram, which is whole.
    fn write(&self, datagram: &mut Vec<u8>) {
        datagram.clear();
        datagram.extend_from_slice(&self.header);
        for piece in &self.pieces {
            datagram.extend_from_slice(&piece.octets);
        }
        if self.header.len() == IPV4_HEADER_OCTETS_MIN {
            let total = datagram.len() as u16;
            datagram[0] = 0x45;
            datagram[2..4].copy_from_slice(&total.to_be_bytes());
            datagram[6..8].fill(0);
            let checksum = checksum::ipv4_header(&datagram[..IPV4_HEADER_OCTETS_MIN]);
            datagram[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            datagram[4..6].copy_from_slice(&(self.octets as u16).to_be_bytes());
            datagram[6] = self.protocol;
        }
    }
}

/// A datagram that is whole again: with its base header, and without options and extension headers.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    pub octets: &'a [u8],
    /// How many packets it came in.
    pub packets: u64,
}

/// All datagrams that are being put together.
#[derive(Default)]
pub struct Fragments {
    sets: Lru<Key, Set>,
    octets: usize,
    waiting: u64,
    settled: [u64; PacketOutcome::COUNTERS.len()],
    datagram: Vec<u8>,
}

impl Fragments {
    /// Takes in a piece, and gives the datagram if it is whole now. Else the piece is counted here, and its outcome is
    /// told; [`PacketOutcome::Waiting`] may change later.
    ///
    /// The first piece, which has the transport header, is shown to `judge`.
    pub fn take(
        &mut self,
        packet: &Packet<'_>,
        place: Fragment,
        time: Timestamp,
        judge: impl FnOnce() -> Result<(), PacketOutcome>,
    ) -> Result<Whole<'_>, PacketOutcome> {
        let octets = packet.payload();
        let (header, key_protocol, most) = match packet.source {
            IpAddr::V4(_) => (IPV4_HEADER_OCTETS_MIN, packet.protocol, LENGTH_MAX - IPV4_HEADER_OCTETS_MIN),
            IpAddr::V6(_) => (IPV6_HEADER_OCTETS, 0, LENGTH_MAX),
        };
        // All pieces but the last are multiples of eight octets, since that is the unit of their places.
        let ragged = place.more && !octets.len().is_multiple_of(8);
        if octets.is_empty() || ragged || place.offset + octets.len() > most {
            return Err(self.count(PacketOutcome::RejectedMalformed, 1));
        }
        let key = Key {
            source: packet.source,
            destination: packet.destination,
            id: place.id,
            protocol: key_protocol,
        };
        let mut at = self.sets.find(&key);
        if at.is_some_and(|at| time.apart(self.sets.at(at).1.begun) > FRAGMENT_PATIENCE) {
            let late = self.sets.remove(&key);
            late.into_iter().for_each(|late| self.release(&late, PacketOutcome::LostTime));
            at = None;
        }
        let at = at.unwrap_or_else(|| self.sets.insert(key, Set::new(time)));
        let (_, set) = self.sets.at(at);
        if let Some(outcome) = set.refused {
            return Err(self.count(outcome, 1));
        }
        if set.has(place, octets) {
            return Err(self.count(PacketOutcome::FilteredRetransmitted, 1));
        }
        let mut added = Ok(());
        if place.offset == 0 {
            added = judge();
            set.header = packet.octets[..header].to_vec();
            set.protocol = packet.protocol;
        }
        if let Err(outcome) = added.and_then(|()| set.add(place, octets)) {
            let refused = Set { refused: Some(outcome), ..Set::new(set.begun) };
            let set = std::mem::replace(set, refused);
            self.release(&set, outcome);
            return Err(self.count(outcome, 1));
        }
        self.waiting += 1;
        self.octets += octets.len();
        if set.is_whole()
            && let Some(set) = self.sets.remove(&key)
        {
            self.waiting -= set.packets();
            self.octets -= set.octets;
            set.write(&mut self.datagram);
            return Ok(Whole { octets: &self.datagram, packets: set.packets() });
        }
        self.make_room();
        Err(PacketOutcome::Waiting)
    }

    /// Gives up on the datagrams that have waited too long at the time `now`.
    pub fn expire(&mut self, now: Timestamp) {
        while self.sets.oldest().is_some_and(|(_, set)| now.apart(set.begun) > FRAGMENT_PATIENCE) {
            self.release_oldest(PacketOutcome::LostTime);
        }
    }

    /// Gives up on all datagrams.
    pub fn finish(&mut self) {
        while !self.sets.is_empty() {
            self.release_oldest(PacketOutcome::LostTime);
        }
    }

    /// Pieces that are held.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Pieces that were counted here, by outcome.
    pub fn settled(&self) -> &[u64; PacketOutcome::COUNTERS.len()] {
        &self.settled
    }

    fn count(&mut self, outcome: PacketOutcome, packets: u64) -> PacketOutcome {
        self.settled[outcome as usize] += packets;
        outcome
    }

    /// Books what becomes of the pieces of a set that is gone.
    fn release(&mut self, set: &Set, outcome: PacketOutcome) {
        self.waiting -= set.packets();
        self.octets -= set.octets;
        self.count(outcome, set.packets());
    }

    fn release_oldest(&mut self, outcome: PacketOutcome) {
        if let Some((_, set)) = self.sets.pop_oldest() {
            self.release(&set, outcome);
        }
    }

    fn make_room(&mut self) {
        while self.sets.len() > FRAGMENT_SETS_MAX || self.octets > FRAGMENT_OCTETS_MAX {
            self.release_oldest(PacketOutcome::LostRoom);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A piece of a datagram of either family, whose octets are numbered by their places.
    fn piece(ipv6: bool, id: u16, offset: usize, octets: usize, more: bool) -> Vec<u8> {
        let contents: Vec<u8> = (offset..offset + octets).map(|at| at as u8).collect();
        piece_of(ipv6, id, offset, &contents, more)
    }

    fn piece_of(ipv6: bool, id: u16, offset: usize, contents: &[u8], more: bool) -> Vec<u8> {
        let units = (offset / 8) as u16;
        if ipv6 {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((contents.len() as u16 + 16).to_be_bytes());
            // A destination header comes before the fragment header.
            packet.extend([60, 64]);
            packet.extend([[0x20; 16], [0x21; 16]].concat());
            packet.extend([44, 0, 1, 4, 0, 0, 0, 0]);
            packet.extend([17, 0]);
            packet.extend((units << 3 | u16::from(more)).to_be_bytes());
            packet.extend(u32::from(id).to_be_bytes());
            packet.extend(contents);
            return packet;
        }
        let mut packet = vec![0x46, 0];
        packet.extend((contents.len() as u16 + 24).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend((units | u16::from(more) << 13).to_be_bytes());
        packet.extend([64, 17, 0, 0, 198, 51, 100, 1, 192, 0, 2, 53, 1, 1, 1, 1]);
        packet.extend(contents);
        packet
    }

    fn take(fragments: &mut Fragments, octets: &[u8], seconds: u32) -> Result<(Vec<u8>, u64), PacketOutcome> {
        let packet = Packet::of_octets(octets, |_| true).unwrap();
        let place = packet.fragment.expect("a fragment");
        let whole = fragments.take(&packet, place, Timestamp::new(seconds, 0), || Ok(()))?;
        Ok((whole.octets.to_vec(), whole.packets))
    }

    fn count(fragments: &Fragments, outcome: PacketOutcome) -> u64 {
        fragments.settled()[outcome as usize]
    }

    /// Every piece that was taken in is settled, waits, or is in a whole datagram.
    fn assert_sum(fragments: &Fragments, taken: u64, in_wholes: u64) {
        assert_eq!(fragments.settled().iter().sum::<u64>() + fragments.waiting() + in_wholes, taken);
        let held: usize = fragments.octets;
        assert_eq!(held == 0, fragments.waiting() == 0);
    }

    #[test]
    fn pieces_in_any_order_are_one_datagram() {
        for ipv6 in [false, true] {
            let pieces =
                [piece(ipv6, 7, 0, 16, true), piece(ipv6, 7, 16, 24, true), piece(ipv6, 7, 40, 5, false)];
            for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
                let mut fragments = Fragments::default();
                assert_eq!(take(&mut fragments, &pieces[order[0]], 1), Err(PacketOutcome::Waiting));
                assert_eq!(take(&mut fragments, &pieces[order[1]], 1), Err(PacketOutcome::Waiting));
                assert_eq!(fragments.waiting(), 2);
                let (datagram, packets) = take(&mut fragments, &pieces[order[2]], 2).unwrap();
                assert_eq!((packets, fragments.waiting()), (3, 0));
                let packet = Packet::of_octets(&datagram, |_| true).unwrap();
                assert_eq!((packet.protocol, packet.fragment), (17, None));
                assert_eq!(packet.octets.len(), datagram.len());
                assert_eq!(packet.payload(), (0..45).collect::<Vec<u8>>());
                assert_eq!(packet.transport, if ipv6 { 40 } else { 20 });
                if !ipv6 {
                    assert_eq!(datagram[10..12], checksum::ipv4_header(&datagram[..20]).to_be_bytes());
                }
                assert_sum(&fragments, 3, 3);
            }
        }
    }

    #[test]
    fn any_overlap_ends_a_datagram_for_good() {
        let (offset, octets, more) = (16, 16, true);
        for (start, length, more_behind) in [
            (offset, octets, false),
            (8, 16, true),
            (24, 16, true),
            (16, 8, true),
            (0, 48, true),
            (24, 4, false),
            (8, 8, false),
        ] {
            for ipv6 in [false, true] {
                let mut fragments = Fragments::default();
                let held = take(&mut fragments, &piece(ipv6, 7, offset, octets, more), 1);
                assert_eq!(held, Err(PacketOutcome::Waiting));
                let overlapping = take(&mut fragments, &piece(ipv6, 7, start, length, more_behind), 1);
                assert_eq!(overlapping, Err(PacketOutcome::RejectedOverlap), "{start} {length}");
                let later = take(&mut fragments, &piece(ipv6, 7, 64, 8, false), 2);
                assert_eq!(later, Err(PacketOutcome::RejectedOverlap));
                assert_eq!(count(&fragments, PacketOutcome::RejectedOverlap), 3);
                // Another datagram between the same ends is not concerned.
                assert_eq!(take(&mut fragments, &piece(ipv6, 8, 0, 8, true), 2), Err(PacketOutcome::Waiting));
                assert_sum(&fragments, 4, 0);
            }
        }
    }

    #[test]
    fn what_began_before_the_clock_was_set_back_keeps_nothing_waiting() {
        for ipv6 in [false, true] {
            let mut fragments = Fragments::default();
            assert_eq!(take(&mut fragments, &piece(ipv6, 7, 0, 8, true), 7200), Err(PacketOutcome::Waiting));
            assert_eq!(take(&mut fragments, &piece(ipv6, 8, 0, 8, true), 3600), Err(PacketOutcome::Waiting));
            fragments.expire(Timestamp::new(3600, 0));
            assert_eq!((count(&fragments, PacketOutcome::LostTime), fragments.waiting()), (1, 1));
            // The same identification stands for another datagram by now.
            assert_eq!(take(&mut fragments, &piece(ipv6, 8, 8, 8, false), 60), Err(PacketOutcome::Waiting));
            assert_eq!((count(&fragments, PacketOutcome::LostTime), fragments.waiting()), (2, 1));
            fragments.expire(Timestamp::new(91, 0));
            assert_eq!((count(&fragments, PacketOutcome::LostTime), fragments.waiting()), (3, 0));
            assert_sum(&fragments, 3, 0);
        }
    }

    #[test]
    fn what_is_repeated_to_the_octet_is_passed_over() {
        for ipv6 in [false, true] {
            let mut fragments = Fragments::default();
            let (first, last) = (piece(ipv6, 7, 0, 16, true), piece(ipv6, 7, 16, 8, false));
            for again in [&first, &last] {
                let mut fragments = Fragments::default();
                assert_eq!(take(&mut fragments, again, 1), Err(PacketOutcome::Waiting));
                assert_eq!(take(&mut fragments, again, 1), Err(PacketOutcome::FilteredRetransmitted));
            }
            assert_eq!(take(&mut fragments, &first, 1), Err(PacketOutcome::Waiting));
            let other = piece_of(ipv6, 7, 0, &[9; 16], true);
            assert_eq!(take(&mut fragments, &other, 1), Err(PacketOutcome::RejectedOverlap));
        }
    }

    #[test]
    fn two_ends_contradict_each_other() {
        for (offset, octets, more) in [(40, 8, false), (48, 8, true)] {
            let mut fragments = Fragments::default();
            assert_eq!(take(&mut fragments, &piece(false, 7, 24, 8, false), 1), Err(PacketOutcome::Waiting));
            let second = take(&mut fragments, &piece(false, 7, offset, octets, more), 1);
            assert_eq!(second, Err(PacketOutcome::RejectedOverlap));
        }
    }

    #[test]
    fn a_datagram_waits_half_a_minute() {
        let mut fragments = Fragments::default();
        assert_eq!(take(&mut fragments, &piece(false, 7, 0, 8, true), 100), Err(PacketOutcome::Waiting));
        assert!(take(&mut fragments, &piece(false, 7, 8, 8, false), 130).is_ok());

        assert_eq!(take(&mut fragments, &piece(false, 7, 0, 8, true), 100), Err(PacketOutcome::Waiting));
        assert_eq!(take(&mut fragments, &piece(false, 7, 8, 8, false), 131), Err(PacketOutcome::Waiting));
        assert_eq!(count(&fragments, PacketOutcome::LostTime), 1);

        fragments.expire(Timestamp::new(161, 0));
        assert_eq!((fragments.waiting(), count(&fragments, PacketOutcome::LostTime)), (1, 1));
        fragments.expire(Timestamp::new(162, 0));
        assert_eq!((fragments.waiting(), count(&fragments, PacketOutcome::LostTime)), (0, 2));
        assert_sum(&fragments, 4, 2);
    }

    #[test]
    fn pieces_that_cannot_be_are_malformed() {
        let mut fragments = Fragments::default();
        for octets in [
            piece(false, 7, 0, 7, true),
            piece(false, 7, 8, 0, false),
            piece(false, 7, 65_512, 8, false),
            piece(true, 7, 65_528, 8, false),
        ] {
            assert_eq!(take(&mut fragments, &octets, 1), Err(PacketOutcome::RejectedMalformed));
        }
        assert_sum(&fragments, 4, 0);
    }

    #[test]
    fn a_datagram_of_the_greatest_length() {
        for (ipv6, most) in [(false, 65_515), (true, 65_535)] {
            let mut fragments = Fragments::default();
            let first = piece(ipv6, 7, 0, 65_504, true);
            assert_eq!(take(&mut fragments, &first, 1), Err(PacketOutcome::Waiting));
            let (datagram, _) =
                take(&mut fragments, &piece(ipv6, 7, 65_504, most - 65_504, false), 1).unwrap();
            assert_eq!(Packet::of_octets(&datagram, |_| true).unwrap().payload().len(), most);
        }
    }

    #[test]
    fn a_refused_first_piece_takes_the_others_along() {
        let mut fragments = Fragments::default();
        let behind = piece(false, 7, 16, 8, false);
        assert_eq!(take(&mut fragments, &behind, 1), Err(PacketOutcome::Waiting));
        let first = piece(false, 7, 0, 8, true);
        let packet = Packet::of_octets(&first, |_| true).unwrap();
        let refuse = || Err(PacketOutcome::FilteredDirection);
        let taken = fragments.take(&packet, packet.fragment.unwrap(), Timestamp::new(1, 0), refuse);
        assert_eq!(taken.err(), Some(PacketOutcome::FilteredDirection));
        assert_eq!(fragments.octets, 0, "nothing of it is held any more");
        assert_eq!(
            take(&mut fragments, &piece(false, 7, 8, 8, true), 1),
            Err(PacketOutcome::FilteredDirection)
        );
        assert_eq!(count(&fragments, PacketOutcome::FilteredDirection), 3);
    }

    #[test]
    fn room_is_bounded_in_datagrams_pieces_and_octets() {
        let mut fragments = Fragments::default();
        let sets = FRAGMENT_SETS_MAX as u16;
        for id in 0..sets + 5 {
            let _waits = take(&mut fragments, &piece(false, id, 0, 8, true), 1);
        }
        assert_eq!(fragments.waiting(), u64::from(sets));
        assert_eq!(count(&fragments, PacketOutcome::LostRoom), 5);
        assert_sum(&fragments, u64::from(sets) + 5, 0);

        let mut fragments = Fragments::default();
        for number in 0..FRAGMENT_PIECES_MAX {
            let held = take(&mut fragments, &piece(false, 1, 16 * number, 8, true), 1);
            assert_eq!(held, Err(PacketOutcome::Waiting));
        }
        let one_more = piece(false, 1, 16 * FRAGMENT_PIECES_MAX, 8, true);
        assert_eq!(take(&mut fragments, &one_more, 1), Err(PacketOutcome::LostRoom));
        assert_eq!((fragments.waiting(), fragments.octets), (0, 0));

        let mut fragments = Fragments::default();
        for id in 0..100 {
            let _waits = take(&mut fragments, &piece(true, id, 0, 60_000, true), 1);
        }
        assert!(fragments.octets <= FRAGMENT_OCTETS_MAX);
        assert_sum(&fragments, 100, 0);
    }

    proptest! {
        /// Any pieces at all: the sums hold, and a datagram is put together only of pieces that fit.
        #[test]
        fn any_pieces(
            pieces in prop::collection::vec((0u16..3, 0usize..6, 1usize..4, any::<bool>(), any::<bool>(), 0u32..20), 1..60)
        ) {
            let mut fragments = Fragments::default();
            let (mut seconds, mut in_wholes) = (0, 0);
            for (taken, (id, offset, units, more, ipv6, pause)) in pieces.into_iter().enumerate() {
                seconds += pause;
                let octets = piece(ipv6, id, 8 * offset, 8 * units, more);
                if more || offset > 0 {
                    if let Ok((datagram, packets)) = take(&mut fragments, &octets, seconds) {
                        in_wholes += packets;
                        let payload = Packet::of_octets(&datagram, |_| true).unwrap().payload().to_vec();
                        prop_assert!(payload.iter().enumerate().all(|(at, octet)| *octet == at as u8));
                    }
                } else {
                    // A first and last piece is no fragment.
                    in_wholes += 1;
                }
                assert_sum(&fragments, taken as u64 + 1, in_wholes);
            }
            fragments.finish();
            prop_assert_eq!((fragments.waiting(), fragments.octets), (0, 0));
        }
    }
}
