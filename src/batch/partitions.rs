//! The windows of all partitions, bounded in number. PURE.
//!
//! A partition is made by what a caller sends (its credentials, say), so
//! callers can make any number of them, and each costs memory and a look at
//! every turn of the worker. Past the bound an entry of a new partition
//! stands in a line in which everyone leaves alone: it is served, in its turn
//! and by itself, and nobody who has a window loses it.

use std::{collections::HashMap, hash::Hash};

use super::window::{Window, WindowSettings};

/// Empty windows kept for partitions that may come back; past it they are
/// collected, since partitions come and go with their callers.
const IDLE_WINDOWS: usize = 256;

/// What bounds the number of partitions that wait at once.
#[derive(Clone, Debug)]
pub struct Crowd<K> {
    /// Partitions of one kind are counted together.
    pub kind: usize,
    /// Most of this kind.
    pub most: usize,
    /// The partition in whose stead entries past the bound wait; its window
    /// has to take one entry a batch.
    pub beyond: K,
}

/// Windows by partition.
#[derive(Debug)]
pub(super) struct Partitions<K, T> {
    /// A list, since every turn of the worker looks at all of them.
    windows: Vec<(K, Window<T>)>,
    /// Where each stands in the list.
    places: HashMap<K, usize>,
    /// The place of the one that was last asked for.
    recent: usize,
    /// How many windows each kind has, those that are empty included.
    kinds: HashMap<usize, usize>,
    /// Some window may have become empty since they were last collected.
    emptied: bool,
}

impl<K, T> Default for Partitions<K, T> {
    fn default() -> Self {
        Self {
            windows: Vec::new(),
            places: HashMap::new(),
            recent: 0,
            kinds: HashMap::new(),
            emptied: false,
        }
    }
}

impl<K: Clone + Eq + Hash, T> Partitions<K, T> {
    /// The window of `partition`, which has one.
    pub(super) fn window_mut(&mut self, partition: &K) -> Option<&mut Window<T>> {
        // Mostly that of the entry before, and to compare is cheaper than to
        // hash with a hash that no caller can foresee.
        let recent = self.windows.get(self.recent);
        if recent.is_none_or(|(owner, _)| owner != partition) {
            self.recent = *self.places.get(partition)?;
        }
        let window = self.windows.get_mut(self.recent);
        window.map(|(_, window)| window)
    }

    /// All of them, to be looked at and taken from.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut Window<T>)> {
        let windows = self.windows.iter_mut();
        windows.map(|(owner, window)| (&*owner, window))
    }

    /// Something was taken from a window.
    pub(super) fn taken(&mut self) {
        self.emptied = true;
    }

    /// Makes a window for a new `partition`, or finds the one beyond the
    /// bound; the answer is whose it is, and whether that is another's.
    pub(super) fn open(
        &mut self,
        partition: K,
        crowd: impl Fn(&K) -> Option<Crowd<K>>,
        settings: impl Fn(&K) -> WindowSettings,
    ) -> (K, bool) {
        let bound = crowd(&partition);
        let is_full = |kinds: &HashMap<usize, usize>| {
            let bound = bound.as_ref();
            bound.is_some_and(|bound| kinds.get(&bound.kind).is_some_and(|n| *n >= bound.most))
        };
        // Only where something was taken since: else a flood of new
        // partitions would pay for a look at all windows each.
        if self.emptied && (self.windows.len() >= IDLE_WINDOWS || is_full(&self.kinds)) {
            self.collect(&crowd);
        }
        let is_beyond = is_full(&self.kinds);
        let owner = match bound {
            Some(bound) if is_beyond => bound.beyond,
            Some(bound) => {
                *self.kinds.entry(bound.kind).or_default() += 1;
                partition
            }
            None => partition,
        };
        if !self.places.contains_key(&owner) {
            let window = Window::new(settings(&owner));
            self.places.insert(owner.clone(), self.windows.len());
            self.windows.push((owner.clone(), window));
        }
        (owner, is_beyond)
    }

    /// Lets go of the windows that are empty.
    fn collect(&mut self, crowd: impl Fn(&K) -> Option<Crowd<K>>) {
        self.windows.retain(|(_, window)| !window.is_empty());
        let owners = self.windows.iter().map(|(owner, _)| owner.clone());
        self.places = owners.zip(0..).collect();
        self.emptied = false;
        self.kinds.clear();
        for (partition, _) in &self.windows {
            if let Some(crowd) = crowd(partition).filter(|crowd| crowd.beyond != *partition) {
                *self.kinds.entry(crowd.kind).or_default() += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::batch::{Caller, Held, Weight};

    const BEYOND: u32 = u32::MAX;

    fn two_at_most(_: &u32) -> Option<Crowd<u32>> {
        Some(Crowd {
            kind: 0,
            most: 2,
            beyond: BEYOND,
        })
    }

    fn open(partitions: &mut Partitions<u32, u32>, partition: u32) -> u32 {
        let (owner, is_beyond) =
            partitions.open(partition, two_at_most, |_| WindowSettings::default());
        assert_eq!(is_beyond, owner == BEYOND);
        let window = partitions.window_mut(&owner).expect("it was opened");
        let now = Instant::now();
        window.push(Held {
            entry: partition,
            weight: Weight {
                entries: 1,
                overhead: 0,
                bytes: 1,
            },
            arrived: now,
            deadline: None,
        });
        owner
    }

    #[test]
    fn partitions_are_bounded_in_number_and_idle_ones_make_room() {
        let mut partitions = Partitions::default();
        assert_eq!(open(&mut partitions, 1), 1);
        assert_eq!(open(&mut partitions, 2), 2);
        for stranger in 3..1_000 {
            assert_eq!(open(&mut partitions, stranger), BEYOND);
        }
        assert_eq!(partitions.windows.len(), 3);
        let window = partitions.window_mut(&1).expect("it has one");
        window.seal(Instant::now(), |_| Caller::Waiting);
        partitions.taken();
        assert_eq!(open(&mut partitions, 3), 3, "1 has left");
        assert_eq!(open(&mut partitions, 1), BEYOND);
    }
}
