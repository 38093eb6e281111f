//! Pairing responses with the queries that wait for them.
//!
//! The rules are those of NMSG base:dnsqr. Queries wait in a table keyed by addresses, ports, protocol and id. A response
//! takes the oldest of its key whose question it repeats: type, class and every octet of the name, letter case
//! included, which makes resolvers that vary the case (0x20) hard to fool. A message without a question pairs on
//! the key alone, but only if the response says FORMERR, SERVFAIL, NOTIMP or REFUSED. A query that is sent again
//! waits a second time. The table is bounded by entries and by octets: the oldest query leaves first.

use std::hash::BuildHasher;
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::dns::{Question, Rcode};
use crate::frame::Timestamp;
use crate::limits::{PAIRING_WALK_MAX, PENDING_OCTETS_MAX};
use crate::message::{Endpoint, Transport};

//------------ Key ---------------------------------------------------------------------------------------------

/// What a query and its response have in common before their question is looked at.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    pub resolver: Endpoint,
    pub server: Endpoint,
    pub transport: Transport,
    pub id: u16,
}

//------------ Pending -----------------------------------------------------------------------------------------

/// A waiting query.
#[derive(Clone, Copy, Debug)]
pub struct Pending<'a> {
    pub key: Key,
    pub question: Option<Question<'a>>,
    /// The query's packets, one behind the other ([`crate::stored`]); empty if they are not kept.
    pub packets: &'a [u8],
    pub time: Timestamp,
}

//------------ Table -------------------------------------------------------------------------------------------

/// The index of no slot.
const NONE: u32 = u32::MAX;

/// A slot's buffer is given back if it grew beyond what a name and an ordinary query packet take.
const BUFFER_KEPT_MAX: usize = 1024;

/// One entry, or a free place. Two chains run through the slots: one by age, one among entries of equal keys,
/// the oldest first; free slots use the latter's link.
struct Slot {
    key: Key,
    hash: u64,
    time: Timestamp,
    since: Timestamp,
    older: u32,
    newer: u32,
    /// The next younger entry with this key.
    next_equal: u32,
    /// The youngest entry with this key; kept true in the oldest one alone.
    last_equal: u32,
    /// Type and class, if there is a question.
    question: Option<(u16, u16)>,
    name_octets: u8,
    /// The name, then the packets.
    octets: Vec<u8>,
}

impl Slot {
    fn pending(&self) -> Pending<'_> {
        let (name, packets) = self.octets.split_at(usize::from(self.name_octets));
        let question = self.question.map(|(rrtype, class)| Question { name, rrtype, class });
        Pending { key: self.key, question, packets, time: self.time }
    }
}

/// The waiting queries.
pub struct Table {
    entries_max: usize,
    octets_max: usize,
    timeout: Duration,
    slots: Vec<Slot>,
    free: u32,
    oldest: u32,
    newest: u32,
    octets: usize,
    length: usize,
    /// For each key its oldest entry.
    heads: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Table {
    /// A query waits `timeout`, counted in whole seconds of the clock as the reference does.
    pub fn new(entries_max: usize, timeout: Duration) -> Self {
        Table {
            entries_max,
            octets_max: PENDING_OCTETS_MAX,
            timeout,
            slots: Vec::new(),
            free: NONE,
            oldest: NONE,
            newest: NONE,
            octets: 0,
            length: 0,
            heads: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Changes the bounds; what waits stays, until they make it go.
    pub fn set_bounds(&mut self, entries_max: usize, timeout: Duration) {
        self.entries_max = entries_max;
        self.timeout = timeout;
    }

    /// Forgets the packets of all queries; the queries stay.
    pub fn forget_packets(&mut self) {
        for slot in &mut self.slots {
            // A free slot keeps the length of a name that has left it.
            let name_octets = usize::from(slot.name_octets).min(slot.octets.len());
            self.octets -= slot.octets.len() - name_octets;
            slot.octets.truncate(name_octets);
        }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Lets a query wait, and counts the time from `since`: it may have become known later than it was sent.
    pub fn insert(&mut self, query: &Pending<'_>, since: Timestamp) {
        let hash = self.hasher.hash_one(query.key);
        let index = self.allocate(query, since, hash);
        self.octets += self.slots[index as usize].octets.len();
        self.length += 1;
        self.append_by_age(index);
        self.append_to_equals(index, hash);
    }

    /// Takes out the query that the response answers, if there is one, and shows it to `with`.
    pub fn pair<R>(
        &mut self,
        key: &Key,
        question: Option<&Question<'_>>,
        rcode: u8,
        with: impl FnOnce(&Pending<'_>) -> R,
    ) -> Option<R> {
        let hash = self.hasher.hash_one(key);
        let mut previous = NONE;
        let mut index = *self.heads.find(hash, |head| self.slots[*head as usize].key == *key)?;
        for _ in 0..PAIRING_WALK_MAX {
            if answers(&self.slots[index as usize].pending(), question, rcode) {
                self.unlink(index, previous);
                let result = with(&self.slots[index as usize].pending());
                self.release(index);
                return Some(result);
            }
            previous = index;
            index = self.slots[index as usize].next_equal;
            if index == NONE {
                break;
            }
        }
        None
    }

    /// Takes out the oldest query if it has waited too long at the time `now`.
    ///
    /// One that came later than `now` by as much is from before the clock was set back: nothing behind it would
    /// ever expire until the clock is there again.
    pub fn expire<R>(&mut self, now: Timestamp, with: impl FnOnce(&Pending<'_>) -> R) -> Option<R> {
        let oldest = self.slots.get(self.oldest as usize)?;
        let waited = now.seconds().abs_diff(oldest.since.seconds());
        if Duration::from_secs(waited) > self.timeout { self.evict(with) } else { None }
    }

    /// Takes out the oldest query if there is no room for it.
    pub fn shrink<R>(&mut self, with: impl FnOnce(&Pending<'_>) -> R) -> Option<R> {
        let fits = self.length <= self.entries_max && self.octets <= self.octets_max;
        if fits { None } else { self.evict(with) }
    }

    /// Takes out the oldest query.
    pub fn evict<R>(&mut self, with: impl FnOnce(&Pending<'_>) -> R) -> Option<R> {
        let index = self.oldest;
        if index == NONE {
            return None;
        }
        // The oldest of all is the oldest of its key.
        self.unlink(index, NONE);
        let result = with(&self.slots[index as usize].pending());
        self.release(index);
        Some(result)
    }

    //--- Slots

    fn allocate(&mut self, query: &Pending<'_>, since: Timestamp, hash: u64) -> u32 {
        let index = match self.free {
            NONE => {
                let index =
                    u32::try_from(self.slots.len()).expect("the table has far fewer than 2^32 entries");
                self.slots.push(Slot {
                    key: query.key,
                    hash,
                    time: query.time,
                    since,
                    older: NONE,
                    newer: NONE,
                    next_equal: NONE,
                    last_equal: NONE,
                    question: None,
                    name_octets: 0,
                    octets: Vec::new(),
                });
                index
            }
            free => {
                self.free = self.slots[free as usize].next_equal;
                free
            }
        };
        let slot = &mut self.slots[index as usize];
        let name = query.question.map_or(&[][..], |question| question.name);
        slot.key = query.key;
        slot.hash = hash;
        slot.time = query.time;
        slot.since = since;
        slot.next_equal = NONE;
        slot.last_equal = index;
        slot.question = query.question.map(|question| (question.rrtype, question.class));
        slot.name_octets = u8::try_from(name.len()).expect("a name has 255 octets at most");
        slot.octets.extend_from_slice(name);
        slot.octets.extend_from_slice(query.packets);
        index
    }

    /// Puts an unlinked slot among the free ones.
    fn release(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        self.octets -= slot.octets.len();
        self.length -= 1;
        slot.octets.clear();
        if slot.octets.capacity() > BUFFER_KEPT_MAX {
            slot.octets = Vec::new();
        }
        slot.next_equal = self.free;
        self.free = index;
    }

    //--- Chains

    fn append_by_age(&mut self, index: u32) {
        let newest = self.newest;
        let slot = &mut self.slots[index as usize];
        slot.older = newest;
        slot.newer = NONE;
        match self.slots.get_mut(newest as usize) {
            Some(newest) => newest.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
    }

    fn append_to_equals(&mut self, index: u32, hash: u64) {
        let key = self.slots[index as usize].key;
        let slots = &mut self.slots;
        match self.heads.find(hash, |head| slots[*head as usize].key == key) {
            Some(&head) => {
                let last = std::mem::replace(&mut slots[head as usize].last_equal, index);
                slots[last as usize].next_equal = index;
            }
            None => {
                self.heads.insert_unique(hash, index, |head| slots[*head as usize].hash);
            }
        }
    }

    /// Takes a slot out of both chains; `previous` is the entry before it among those of its key.
    fn unlink(&mut self, index: u32, previous: u32) {
        let Slot { key, hash, older, newer, next_equal, last_equal, .. } = self.slots[index as usize];
        match self.slots.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        let slots = &mut self.slots;
        let head = self.heads.find_entry(hash, |head| slots[*head as usize].key == key);
        let mut head = head.expect("the oldest of every key is in the index");
        if previous != NONE {
            slots[previous as usize].next_equal = next_equal;
            if next_equal == NONE {
                slots[*head.get() as usize].last_equal = previous;
            }
        } else if next_equal != NONE {
            *head.get_mut() = next_equal;
            slots[next_equal as usize].last_equal = last_equal;
        } else {
            head.remove();
        }
    }
}

/// Whether a response with this question and code answers the query.
fn answers(query: &Pending<'_>, question: Option<&Question<'_>>, rcode: u8) -> bool {
    match (&query.question, question) {
        (Some(asked), Some(answered)) => asked == answered,
        _ => Rcode::may_omit_question(rcode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn key(id: u16) -> Key {
        Key {
            resolver: Endpoint { address: "192.0.2.53".parse().unwrap(), port: 50_000 },
            server: Endpoint { address: "198.51.100.1".parse().unwrap(), port: 53 },
            transport: Transport::Udp,
            id,
        }
    }

    fn question(name: &[u8]) -> Question<'_> {
        Question { name, rrtype: 1, class: 1 }
    }

    fn query(id: u16, name: Option<&'static [u8]>, seconds: u32) -> Pending<'static> {
        Pending {
            key: key(id),
            question: name.map(question),
            packets: b"packet",
            time: Timestamp::new(seconds, 999_999_999),
        }
    }

    fn insert(table: &mut Table, query: Pending<'_>) {
        table.insert(&query, query.time);
    }

    fn seconds(query: &Pending<'_>) -> u64 {
        query.time.seconds()
    }

    #[test]
    fn the_question_must_be_repeated_to_the_letter() {
        let mut table = Table::new(10, TIMEOUT);
        insert(&mut table, query(1, Some(b"\x07eXample\0"), 5));
        assert_eq!(table.pair(&key(1), Some(&question(b"\x07example\0")), 0, seconds), None);
        assert_eq!(
            table.pair(&key(1), Some(&Question { rrtype: 2, ..question(b"\x07eXample\0") }), 0, seconds),
            None
        );
        assert_eq!(
            table.pair(&key(1), Some(&Question { class: 3, ..question(b"\x07eXample\0") }), 0, seconds),
            None
        );
        assert_eq!(table.pair(&key(2), Some(&question(b"\x07eXample\0")), 0, seconds), None);
        assert_eq!(table.pair(&key(1), Some(&question(b"\x07eXample\0")), 0, seconds), Some(5));
        assert!(table.is_empty());
    }

    #[test]
    fn without_a_question_only_failures_pair() {
        for (rcode, pairs) in (0..16).map(|rcode| (rcode, [1, 2, 4, 5].contains(&rcode))) {
            let mut table = Table::new(10, TIMEOUT);
            insert(&mut table, query(1, Some(b"\x07example\0"), 5));
            assert_eq!(table.pair(&key(1), None, rcode, seconds).is_some(), pairs, "rcode {rcode}");
            let mut table = Table::new(10, TIMEOUT);
            insert(&mut table, query(1, None, 5));
            let answered = table.pair(&key(1), Some(&question(b"\0")), rcode, seconds).is_some();
            assert_eq!(answered, pairs, "rcode {rcode}");
        }
    }

    #[test]
    fn a_repeated_query_waits_twice_and_the_older_is_answered() {
        let mut table = Table::new(10, TIMEOUT);
        insert(&mut table, query(1, Some(b"\0"), 5));
        insert(&mut table, query(1, Some(b"\0"), 6));
        assert_eq!(table.pair(&key(1), Some(&question(b"\0")), 0, seconds), Some(5));
        assert_eq!(table.len(), 1);
        assert_eq!(table.pair(&key(1), Some(&question(b"\0")), 0, seconds), Some(6));
        assert_eq!(table.pair(&key(1), Some(&question(b"\0")), 0, seconds), None);
    }

    #[test]
    fn the_timeout_counts_whole_seconds_strictly() {
        let mut table = Table::new(10, TIMEOUT);
        insert(&mut table, query(1, None, 100));
        assert_eq!(table.expire(Timestamp::new(160, 999_999_999), seconds), None);
        assert_eq!(table.expire(Timestamp::new(161, 0), seconds), Some(100));
        assert_eq!(table.expire(Timestamp::new(161, 0), seconds), None);
    }

    #[test]
    fn a_query_that_became_known_late_waits_from_then_on() {
        let mut table = Table::new(10, TIMEOUT);
        table.insert(&query(1, None, 100), Timestamp::new(3700, 0));
        assert_eq!(table.expire(Timestamp::new(3760, 0), seconds), None);
        assert_eq!(table.expire(Timestamp::new(3761, 0), seconds), Some(100));
    }

    #[test]
    fn a_clock_that_steps_back_expires_only_what_is_further_ahead_than_the_timeout() {
        let mut table = Table::new(10, TIMEOUT);
        insert(&mut table, query(1, None, 1000));
        assert_eq!(table.expire(Timestamp::new(940, 0), seconds), None);
        assert_eq!(table.expire(Timestamp::new(10, 0), seconds), Some(1000));
    }

    #[test]
    fn the_oldest_leaves_a_full_table() {
        let mut table = Table::new(2, TIMEOUT);
        for (id, time) in [(1, 1), (2, 2), (3, 3)] {
            insert(&mut table, query(id, Some(b"\0"), time));
        }
        assert_eq!(table.shrink(seconds), Some(1));
        assert_eq!(table.shrink(seconds), None);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn octets_are_bounded_too() {
        let mut table = Table::new(100, TIMEOUT);
        table.octets_max = 14;
        insert(&mut table, query(1, Some(b"\0"), 1));
        insert(&mut table, query(2, Some(b"\0"), 2));
        assert_eq!(table.shrink(seconds), None);
        insert(&mut table, query(3, Some(b"\0"), 3));
        assert_eq!(table.shrink(seconds), Some(1));
        assert_eq!(table.shrink(seconds), None);
    }

    /// What the table does, said in the simplest way.
    #[derive(Default)]
    struct Model(Vec<(u16, usize, u64)>);

    const NAMES: [Option<&[u8]>; 3] = [None, Some(b"\x01a\0"), Some(b"\x01A\0")];

    impl Model {
        fn pair(&mut self, id: u16, name: usize, rcode: u8) -> Option<u64> {
            let answers = |(query_id, query_name, _): &(u16, usize, u64)| {
                *query_id == id
                    && if *query_name == 0 || name == 0 {
                        [1, 2, 4, 5].contains(&rcode)
                    } else {
                        *query_name == name
                    }
            };
            let index = self.0.iter().position(answers)?;
            Some(self.0.remove(index).2)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, usize),
        Pair(u16, usize, u8),
        Evict,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u16..4, 0..NAMES.len()).prop_map(|(id, name)| Step::Insert(id, name)),
            4 => (0u16..4, 0..NAMES.len(), 0u8..6).prop_map(|(id, name, rcode)| Step::Pair(id, name, rcode)),
            1 => Just(Step::Evict),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_list_of_queries(steps in prop::collection::vec(step(), 0..200)) {
            let mut table = Table::new(1000, TIMEOUT);
            let mut model = Model::default();
            for (time, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(id, name) => {
                        insert(&mut table, query(id, NAMES[name], time as u32));
                        model.0.push((id, name, time as u64));
                    }
                    Step::Pair(id, name, rcode) => {
                        let asked = NAMES[name].map(question);
                        prop_assert_eq!(table.pair(&key(id), asked.as_ref(), rcode, seconds), model.pair(id, name, rcode));
                    }
                    Step::Evict => {
                        let expected = if model.0.is_empty() { None } else { Some(model.0.remove(0).2) };
                        prop_assert_eq!(table.evict(seconds), expected);
                    }
                }
                prop_assert_eq!(table.len(), model.0.len());
            }
            while let Some(time) = table.evict(seconds) {
                prop_assert_eq!(time, model.0.remove(0).2);
            }
            prop_assert!(model.0.is_empty() && table.heads.is_empty() && table.octets == 0);
        }
    }
}
