//! Which of the hits that come one after the other are meant: the third, each tenth, or by chance.

use std::collections::HashMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::target::lock;

/// Which hits are meant, of those that come one after the other.
///
/// Hits are counted from 1, of all threads and all sites of a probe together, or of each thread by itself.
///
/// ```
/// use probe::arguments::Pick;
///
/// // The third hit of each thread, and each second one from there on: the third, the fifth, the seventh.
/// let pick = Pick::new().nth(3).every(2).per_thread();
/// assert!(!pick.is_all());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pick {
    nth: Option<u64>,
    every: Option<u64>,
    chance: Option<Chance>,
    per_thread: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Chance {
    /// What a draw of 64 bits is at most if the hit is meant.
    most: u64,
    seed: u64,
}

impl Pick {
    /// All of them.
    #[must_use]
    pub fn new() -> Pick {
        Pick::default()
    }

    /// Only that one, from 1; with [`Pick::every`], the first of them.
    #[must_use]
    pub fn nth(self, number: u64) -> Pick {
        Pick { nth: Some(number), ..self }
    }

    /// One of so many: of three, the third, the sixth and so on, or the first one and the third behind it and so on where
    /// [`Pick::nth`] says which is the first.
    #[must_use]
    pub fn every(self, hits: u64) -> Pick {
        Pick { every: Some(hits.max(1)), ..self }
    }

    /// Of those that are meant otherwise, as many as this probability says, from 0 to 1: which, the seed and the numbers of
    /// the hits decide, so that it is the same in each run with the same hits.
    #[must_use]
    pub fn probability(self, probability: f64, seed: u64) -> Pick {
        // 2 to the power of 64: a conversion cuts what is more.
        const DRAWS: f64 = 18_446_744_073_709_551_616.0;
        let draws = (probability.clamp(0.0, 1.0) * DRAWS) as u64;
        let chance = draws.checked_sub(u64::from(draws != u64::MAX)).map(|most| Chance { most, seed });
        match chance {
            Some(_) => Pick { chance, ..self },
            // None at all: there is no hit with this number.
            None => Pick { nth: Some(0), every: None, ..self },
        }
    }

    /// Each thread is counted by itself, and has draws of its own, by the order in which threads have had their first hits.
    #[must_use]
    pub fn per_thread(self) -> Pick {
        Pick { per_thread: true, ..self }
    }

    /// Whether it is all hits.
    #[must_use]
    pub fn is_all(self) -> bool {
        self.nth.is_none() && self.every.is_none() && self.chance.is_none()
    }

    /// Whether the hit with that number is meant, of the thread that was the `thread`th to have one.
    fn takes(self, number: u64, thread: u64) -> bool {
        let in_order = match (self.nth, self.every) {
            (None, None) => true,
            (Some(nth), None) => number == nth,
            (None, Some(every)) => number.is_multiple_of(every.max(1)),
            (Some(nth), Some(every)) => {
                number.checked_sub(nth).is_some_and(|behind| behind.is_multiple_of(every.max(1)))
            }
        };
        in_order
            && self.chance.is_none_or(|Chance { most, seed }| {
                let thread = if self.per_thread { thread } else { 0 };
                mixed(mixed(mixed(seed) ^ thread) ^ number) <= most
            })
    }
}

/// SplitMix64's output function (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Counts hits.
#[derive(Debug, Default)]
pub(crate) struct Picker(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: u64,
    /// By thread: the how manyth it was, and its hits.
    threads: HashMap<u64, (u64, u64)>,
}

impl Picker {
    /// Counts a hit of a thread, which is told apart from all others by `serial`. Returns its number, if it is meant.
    pub(crate) fn take(&self, pick: Pick, serial: u64) -> Option<u64> {
        let counts = &mut *lock(&self.0);
        let (number, thread) = if pick.per_thread {
            let others = counts.threads.len() as u64;
            let (thread, hits) = counts.threads.entry(serial).or_insert((others, 0));
            *hits += 1;
            (*hits, *thread)
        } else {
            counts.all += 1;
            (counts.all, 0)
        };
        pick.takes(number, thread).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pick: Pick, hits: u64) -> Vec<u64> {
        let picker = Picker::default();
        (0..hits).filter_map(|_| picker.take(pick, 7)).collect()
    }

    #[test]
    fn numbers_are_counted_from_one() {
        assert_eq!(taken(Pick::new(), 3), [1, 2, 3]);
        assert_eq!(taken(Pick::new().nth(2), 5), [2]);
        assert_eq!(taken(Pick::new().nth(0), 5), [0; 0]);
        assert_eq!(taken(Pick::new().every(3), 10), [3, 6, 9]);
        assert_eq!(taken(Pick::new().nth(3).every(2), 8), [3, 5, 7]);
    }

    #[test]
    fn threads_are_counted_by_themselves() {
        let (picker, pick) = (Picker::default(), Pick::new().nth(2).per_thread());
        let hits = [1, 2, 1, 1, 2, 3].map(|serial| picker.take(pick, serial));
        assert_eq!(hits, [None, None, Some(2), None, Some(2), None]);
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed_and_as_often_as_it_says() {
        let pick = |seed| Pick::new().probability(0.25, seed);
        assert_eq!(taken(pick(1), 1000), taken(pick(1), 1000));
        assert_ne!(taken(pick(1), 1000), taken(pick(2), 1000));
        let count = taken(pick(1), 100_000).len();
        assert!((24_000..26_000).contains(&count), "{count}");
        assert_eq!(taken(Pick::new().probability(1.0, 5), 100).len(), 100);
        assert_eq!(taken(Pick::new().probability(0.0, 5), 100).len(), 0);
        let even = Pick::new().every(2).probability(0.5, 1);
        assert!(taken(even, 1000).iter().all(|number| number % 2 == 0));
    }

    #[test]
    fn threads_have_draws_of_their_own() {
        let (picker, pick) = (Picker::default(), Pick::new().probability(0.5, 9).per_thread());
        let of = |serial| (0..200).map(|_| picker.take(pick, serial).is_some()).collect::<Vec<_>>();
        assert_ne!(of(1), of(2));
    }
}
