//! The order of packets that came by several interfaces.
//!
//! Each interface's packets come in order, but become visible late: the kernel hands them over by the block, and an
//! interface may have an earlier packet in a block that is not handed over yet. After [`RECEIVED_PATIENCE`] it would
//! be; no packet waits longer than that for another.

use std::time::Duration;

use passive_dns::frame::Timestamp;

use super::interface::Head;
use crate::limits::RECEIVED_PATIENCE;

/// What to do about the packets that are visible.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// The next packet is that of the interface of this number.
    Take(usize),
    /// An earlier packet than those may be on its way: look again after this time at the latest.
    Hold(Duration),
    /// There is none.
    Nothing,
}

/// Chooses between the interfaces' next packets; `hold` says how long one has to wait for what may have come before it
/// by an interface that shows none.
#[inline]
pub fn choose(heads: impl Iterator<Item = Head>, hold: impl FnOnce(Timestamp) -> Option<Duration>) -> Choice {
    let mut earliest: Option<(usize, Timestamp)> = None;
    let mut any_empty = false;
    for (index, head) in heads.enumerate() {
        match head {
            Head::Packet(time) if earliest.is_none_or(|(_, before)| time < before) => {
                earliest = Some((index, time));
            }
            Head::Packet(_) | Head::Down => {}
            Head::Empty => any_empty = true,
        }
    }
    match earliest {
        None => Choice::Nothing,
        Some((index, _)) if !any_empty => Choice::Take(index),
        Some((index, time)) => hold(time).map_or(Choice::Take(index), Choice::Hold),
    }
}

/// How long a packet has to wait, if it has to; `now` was the time of day before any interface was looked at.
pub fn hold(time: Timestamp, now: Timestamp) -> Option<Duration> {
    let age = now.since(time);
    // One from the future was received before the clock was set back: what came before it is long there.
    (time <= now && age < RECEIVED_PATIENCE).then(|| RECEIVED_PATIENCE - age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::from_nanoseconds(1_000_000_000_000 + milliseconds * 1_000_000)
    }

    fn chosen(heads: &[Head], now: u64) -> Choice {
        choose(heads.iter().copied(), |time| hold(time, at(now)))
    }

    fn packet(milliseconds: u64) -> Head {
        Head::Packet(at(milliseconds))
    }

    #[test]
    fn the_earliest_is_taken_where_all_show_one() {
        assert_eq!(chosen(&[packet(3), packet(2), packet(2)], 4), Choice::Take(1));
    }

    #[test]
    fn nobody_waits_for_an_interface_that_is_down() {
        assert_eq!(chosen(&[Head::Down, packet(2), Head::Down], 3), Choice::Take(1));
        assert_eq!(chosen(&[packet(2)], 3), Choice::Take(0));
        assert_eq!(chosen(&[Head::Down, Head::Empty], 3), Choice::Nothing);
    }

    #[test]
    fn a_packet_waits_for_an_idle_interface_so_long_and_no_longer() {
        let patience = RECEIVED_PATIENCE.as_millis() as u64;
        let heads = [Head::Empty, packet(5), packet(7)];
        assert_eq!(chosen(&heads, 5), Choice::Hold(RECEIVED_PATIENCE));
        assert_eq!(chosen(&heads, 5 + patience - 1), Choice::Hold(Duration::from_millis(1)));
        assert_eq!(chosen(&heads, 5 + patience), Choice::Take(1));
    }

    #[test]
    fn a_clock_that_was_set_back_holds_nothing_up() {
        assert_eq!(chosen(&[Head::Empty, packet(3_600_000)], 5), Choice::Take(1));
    }
}
