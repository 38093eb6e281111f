//! A file's packets at the pace at which they came, or a multiple of it.

use std::thread;
use std::time::{Duration, Instant};

use passive_dns::frame::{Event, Frame, FrameSource, LinkType, Timestamp};

/// A source that may hold each packet back until it is due.
///
/// A packet is due as long after the first as the times of the two say, divided by the speed. Where times go
/// back, the pace begins anew: a clock that was set back is no reason to wait.
pub struct Paced<S> {
    source: S,
    pace: Option<Pace>,
}

struct Pace {
    speed: f64,
    /// A moment here, and what time it was then by the packets' clock.
    began: Option<(Instant, Timestamp)>,
    latest: Timestamp,
    held: Option<Held>,
    octets: Vec<u8>,
}

/// What of a packet that is not due yet is no octets.
#[derive(Clone, Copy)]
struct Held {
    link: LinkType,
    time: Timestamp,
    wire_length: usize,
    checksum_ready: bool,
    encapsulated: bool,
}

impl<S> Paced<S> {
    /// `speed` is how many seconds of the packets' clock pass in one; None is as fast as can be.
    ///
    /// It is a positive number.
    pub fn new(source: S, speed: Option<f64>) -> Self {
        let pace = speed.map(|speed| Pace {
            speed,
            began: None,
            latest: Timestamp::default(),
            held: None,
            octets: Vec::new(),
        });
        Paced { source, pace }
    }

    /// The source itself.
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl Pace {
    /// How long it is from now until a packet of this time is due.
    fn wait(&mut self, time: Timestamp) -> Duration {
        let now = Instant::now();
        if self.began.is_none() || time < self.latest {
            self.began = Some((now, time));
        }
        self.latest = time;
        let (began, first) = self.began.unwrap_or((now, time));
        // A time so far away that no clock can say it is never due.
        let due = Duration::try_from_secs_f64(time.since(first).as_secs_f64() / self.speed)
            .unwrap_or(Duration::MAX);
        due.saturating_sub(now.saturating_duration_since(began))
    }
}

impl<S: FrameSource> FrameSource for Paced<S> {
    type Error = S::Error;

    #[inline]
    fn next(&mut self, patience: Duration) -> Result<Event<'_>, S::Error> {
        let Some(pace) = &mut self.pace else {
            return self.source.next(patience);
        };
        let held = match pace.held {
            Some(held) => held,
            None => match self.source.next(patience)? {
                Event::Frame(frame) => {
                    pace.octets.clear();
                    pace.octets.extend_from_slice(frame.octets);
                    Held {
                        link: frame.link,
                        time: frame.time,
                        wire_length: frame.wire_length,
                        checksum_ready: frame.checksum_ready,
                        encapsulated: frame.encapsulated,
                    }
                }
                // Resolvers tell of what is, not of what was; there is nothing to hold back.
                Event::Dnstap(message) => return Ok(Event::Dnstap(message)),
                Event::Idle => return Ok(Event::Idle),
                Event::Interrupted => return Ok(Event::Interrupted),
                Event::End => return Ok(Event::End),
            },
        };
        let wait = pace.wait(held.time);
        thread::sleep(wait.min(patience));
        if wait > patience {
            pace.held = Some(held);
            return Ok(Event::Idle);
        }
        pace.held = None;
        Ok(Event::Frame(Frame {
            link: held.link,
            time: held.time,
            wire_length: held.wire_length,
            octets: &pace.octets,
            checksum_ready: held.checksum_ready,
            encapsulated: held.encapsulated,
        }))
    }

    /// What time it is by the packets' clock, once the first has come, so that queries expire and containers are
    /// sealed while none comes.
    fn wall_clock(&self) -> Option<Timestamp> {
        let pace = self.pace.as_ref()?;
        let (began, first) = pace.began?;
        let passed = Duration::try_from_secs_f64(began.elapsed().as_secs_f64() * pace.speed).ok()?;
        Some(Timestamp::from_unix(first.since(Timestamp::default()).saturating_add(passed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets at these times, in milliseconds, that hold their number.
    struct Packets {
        times: Vec<u32>,
        given: usize,
        octets: [u8; 1],
    }

    impl FrameSource for Packets {
        type Error = ();

        fn next(&mut self, _patience: Duration) -> Result<Event<'_>, ()> {
            let Some(time) = self.times.get(self.given) else {
                return Ok(Event::End);
            };
            self.octets[0] = self.given as u8;
            self.given += 1;
            Ok(Event::Frame(Frame {
                link: LinkType::Raw,
                time: Timestamp::new(1000 + time / 1000, time % 1000 * 1_000_000),
                wire_length: 1,
                octets: &self.octets,
                checksum_ready: true,
                encapsulated: false,
            }))
        }

        fn wall_clock(&self) -> Option<Timestamp> {
            None
        }
    }

    fn packets(times: &[u32]) -> Packets {
        Packets { times: times.to_vec(), given: 0, octets: [0] }
    }

    /// How many milliseconds after the beginning each packet comes, and how often nothing came in time.
    fn arrivals(times: &[u32], speed: Option<f64>, patience: Duration) -> (Vec<u128>, usize) {
        let mut source = Paced::new(packets(times), speed);
        let begin = Instant::now();
        let (mut arrived, mut idle) = (Vec::new(), 0);
        loop {
            match source.next(patience) {
                Ok(Event::Frame(frame)) => {
                    assert_eq!(usize::from(frame.octets[0]), arrived.len());
                    arrived.push(begin.elapsed().as_millis());
                }
                Ok(Event::Idle) => idle += 1,
                Ok(Event::End) => return (arrived, idle),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn packets_come_when_they_are_due() {
        let (arrived, idle) = arrivals(&[0, 400, 1000], Some(10.0), Duration::from_secs(1));
        assert!(arrived[1] >= 40, "{arrived:?}");
        assert!(arrived[2] >= 100, "{arrived:?}");
        assert_eq!(idle, 0);
    }

    #[test]
    fn nobody_waits_longer_than_his_patience() {
        let (arrived, idle) = arrivals(&[0, 500], Some(10.0), Duration::from_millis(5));
        assert!(arrived[1] >= 50, "{arrived:?}");
        assert!(idle >= 5, "{idle}");
    }

    #[test]
    fn without_a_speed_nothing_waits() {
        let (arrived, idle) = arrivals(&[0, 3_600_000], None, Duration::ZERO);
        assert!(arrived[1] < 1000);
        assert_eq!(idle, 0);
        assert_eq!(Paced::new(packets(&[]), None).wall_clock(), None);
    }

    #[test]
    fn a_clock_that_was_set_back_is_no_reason_to_wait() {
        let (arrived, _) = arrivals(&[500_000, 0, 100], Some(10.0), Duration::from_secs(1));
        assert!(arrived[1] < 1000, "{arrived:?}");
        assert!(arrived[2] >= arrived[1] + 9, "{arrived:?}");
    }

    #[test]
    fn the_packets_clock_goes_on_between_packets() {
        let mut source = Paced::new(packets(&[0, 3_600_000]), Some(1000.0));
        assert_eq!(source.wall_clock(), None);
        assert!(matches!(source.next(Duration::ZERO), Ok(Event::Frame(_))));
        assert!(matches!(source.next(Duration::from_millis(10)), Ok(Event::Idle)));
        let clock = source.wall_clock().expect("the first packet has come");
        assert!(clock >= Timestamp::new(1010, 0), "{clock:?}");
    }
}
