//! A map that knows which of its entries was used least recently.
//!
//! What a bounded table of connections or datagrams needs: looking up and using an entry, adding one, and taking
//! out the oldest, all in constant time and, once the table has grown to its size, without allocating.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

/// The index of no slot.
const NONE: u32 = u32::MAX;

/// One entry, or a free place.
struct Slot<K, V> {
    /// None in a free place.
    entry: Option<(K, V)>,
    hash: u64,
    older: u32,
    /// In a free place the next one.
    newer: u32,
}

/// A handle to an entry, good until an entry is taken out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place(u32);

pub struct Lru<K, V> {
    slots: Vec<Slot<K, V>>,
    free: u32,
    oldest: u32,
    newest: u32,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl<K: Eq + Hash, V> Default for Lru<K, V> {
    fn default() -> Self {
        Lru {
            slots: Vec::new(),
            free: NONE,
            oldest: NONE,
            newest: NONE,
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl<K: Eq + Hash, V> Lru<K, V> {
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Finds an entry and makes it the most recently used.
    pub fn find(&mut self, key: &K) -> Option<Place> {
        let slots = &self.slots;
        let hash = self.hasher.hash_one(key);
        let index = *self.index.find(hash, |&index| slots[index as usize].holds(key))?;
        if index != self.newest {
            self.unchain(index);
            self.chain(index);
        }
        Some(Place(index))
    }

    /// Adds an entry, the most recently used; its key must not be there yet.
    pub fn insert(&mut self, key: K, value: V) -> Place {
        let hash = self.hasher.hash_one(&key);
        let slot = Slot { entry: Some((key, value)), hash, older: NONE, newer: NONE };
        let index = match self.free {
            NONE => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("a table has far fewer than 2^32 entries")
            }
            free => {
                let place = &mut self.slots[free as usize];
                self.free = place.newer;
                *place = slot;
                free
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(hash, index, |&index| slots[index as usize].hash);
        self.chain(index);
        Place(index)
    }

    /// The entry at a place.
    pub fn at(&mut self, place: Place) -> (&K, &mut V) {
        let entry = self.slots[place.0 as usize].entry.as_mut();
        let (key, value) = entry.expect("a place is good until an entry is taken out");
        (key, value)
    }

    /// The least recently used entry.
    pub fn oldest(&self) -> Option<(&K, &V)> {
        let slot = self.slots.get(self.oldest as usize)?;
        slot.entry.as_ref().map(|(key, value)| (key, value))
    }

    /// Takes out the least recently used entry.
    pub fn pop_oldest(&mut self) -> Option<(K, V)> {
        let index = self.oldest;
        if index == NONE {
            return None;
        }
        Some(self.take(index))
    }

    /// Takes out the entry of a key.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let slots = &self.slots;
        let hash = self.hasher.hash_one(key);
        let index = *self.index.find(hash, |&index| slots[index as usize].holds(key))?;
        Some(self.take(index).1)
    }

    fn take(&mut self, index: u32) -> (K, V) {
        self.unchain(index);
        let slot = &mut self.slots[index as usize];
        let entry = slot.entry.take().expect("a chained slot holds an entry");
        let hash = slot.hash;
        slot.newer = self.free;
        self.free = index;
        match self.index.find_entry(hash, |&candidate| candidate == index) {
            Ok(found) => found.remove(),
            Err(_) => unreachable!("a chained slot is in the index"),
        };
        entry
    }

    //--- The chain by age

    fn chain(&mut self, index: u32) {
        let newest = std::mem::replace(&mut self.newest, index);
        let slot = &mut self.slots[index as usize];
        slot.older = newest;
        slot.newer = NONE;
        match self.slots.get_mut(newest as usize) {
            Some(newest) => newest.newer = index,
            None => self.oldest = index,
        }
    }

    fn unchain(&mut self, index: u32) {
        let Slot { older, newer, .. } = self.slots[index as usize];
        match self.slots.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }
}

impl<K: Eq, V> Slot<K, V> {
    fn holds(&self, key: &K) -> bool {
        self.entry.as_ref().is_some_and(|(held, _)| held == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Use(u8),
        PopOldest,
        Remove(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12_u8).prop_map(Step::Use),
            1 => Just(Step::PopOldest),
            1 => (0..12_u8).prop_map(Step::Remove),
        ]
    }

    proptest! {
        /// The model is a list, the least recently used entry first.
        #[test]
        fn it_does_what_a_list_does(steps in prop::collection::vec(step(), 0..200)) {
            let mut table = Lru::default();
            let mut model: Vec<(u8, usize)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Use(key) => {
                        let known = model.iter().position(|(held, _)| *held == key);
                        let place = table.find(&key);
                        prop_assert_eq!(place.is_some(), known.is_some());
                        let entry = known.map_or((key, number), |at| model.remove(at));
                        model.push(entry);
                        let place = place.unwrap_or_else(|| table.insert(key, number));
                        prop_assert_eq!((*table.at(place).0, *table.at(place).1), entry);
                    }
                    Step::PopOldest => {
                        let oldest = if model.is_empty() { None } else { Some(model.remove(0)) };
                        prop_assert_eq!(table.pop_oldest(), oldest);
                    }
                    Step::Remove(key) => {
                        let known = model.iter().position(|(held, _)| *held == key);
                        prop_assert_eq!(table.remove(&key), known.map(|at| model.remove(at).1));
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.is_empty(), model.is_empty());
                prop_assert_eq!(table.oldest().map(|(key, value)| (*key, *value)), model.first().copied());
            }
        }
    }
}
