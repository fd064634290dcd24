//! Which breakpoints a thread comes by, and whether it pays to go on from one in the hope of the next.

use std::collections::HashMap;

use crate::engine::run_on::emulate::Pause;
use crate::executor::ptrace::kept::Fast;

/// Whether it has paid to go on emulating in the hope that another breakpoint is near.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chance {
    /// How often it has been in vain, less often where it has not.
    in_vain: u8,
    /// How often it has not been tried since.
    skipped: u8,
}

impl Chance {
    /// It is tried once in 2 to the power of that at least.
    const MOST: u8 = 6;

    pub(crate) fn is_taken(&mut self) -> bool {
        self.skipped = self.skipped.wrapping_add(1);
        self.skipped.is_multiple_of(1 << self.in_vain)
    }

    pub(crate) fn note(&mut self, was_worth_it: bool) {
        self.in_vain = if was_worth_it { self.in_vain / 2 } else { (self.in_vain + 1).min(Self::MOST) };
    }
}

/// A breakpoint that a thread comes by.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) address: u64,
    /// How often it does, and where that is in the cache.
    pub(crate) times: u64,
    pub(crate) index: u32,
    /// Whether another was near so far.
    chance: Chance,
}

/// Breakpoints that a thread comes by of which it is only to be known how often it did.
#[derive(Debug, Default)]
pub(crate) struct Passes {
    /// Those that are known by their addresses, in whichever address space: that decides how far to go on, and nothing else.
    known: HashMap<u64, Passed, Fast>,
    /// Those that it came to, each once.
    met: Vec<u64>,
    /// How many it came to.
    pub(crate) number: u64,
    /// How many instructions were executed.
    pub(crate) executed: u64,
    /// That at which it has been counted, and whose instruction it has not executed.
    pub(crate) open: Option<u64>,
    /// That from which it has gone on for the next one, and whether there was none before.
    hope: Option<(u64, bool)>,
    /// Whether they stay, so that it is worth while to remember where no other is near.
    stay: bool,
    /// How many instructions behind one are executed for the next, and how many in all.
    stride: u64,
    most: u64,
}

impl Passes {
    /// So many are known at most.
    const MOST: usize = 1 << 16;

    /// Whether it is worth while to go on from the breakpoint at `address`. Whoever asks does so then.
    pub(crate) fn is_worth(&mut self, address: u64) -> bool {
        self.known.get_mut(&address).is_none_or(|known| known.chance.is_taken())
    }

    /// How many instructions behind one are executed for the next.
    pub(super) fn stride(&self) -> u64 {
        self.stride
    }

    /// Whether a thread may go on that has executed so many more instructions.
    pub(super) fn may_go_on(&self, executed: u64) -> bool {
        self.executed + executed < self.most
    }

    /// Begins anew, with breakpoints that stay or go.
    pub(crate) fn begin(&mut self, stride: u64, most: u64, stay: bool) {
        if !stay || self.known.len() >= Self::MOST {
            self.known.clear();
        }
        for address in self.met.drain(..) {
            if let Some(known) = self.known.get_mut(&address) {
                known.times = 0;
            }
        }
        (self.number, self.executed, self.open, self.hope) = (0, 0, None, None);
        (self.stride, self.most, self.stay) = (stride, most, stay);
    }

    /// The thread is at the breakpoint at `address`. Returns how many instructions are executed from there.
    pub(super) fn pass(&mut self, address: u64, index: u32) -> u64 {
        if let Some((from, true)) = self.hope
            && let Some(known) = self.known.get_mut(&from)
        {
            known.chance.note(true);
        }
        let known = self.known.entry(address).or_default();
        if known.times == 0 {
            self.met.push(address);
        }
        (known.address, known.index) = (address, index);
        known.times += 1;
        let goes_on = !self.stay || self.number == 0 || known.chance.is_taken();
        self.hope = (self.stay && goes_on).then_some((address, known.chance.in_vain > 0));
        self.number += 1;
        let wanted = if goes_on { self.stride } else { 1 };
        wanted.min(self.most.saturating_sub(self.executed))
    }

    /// The thread has come no further, as `pause` says why.
    pub(crate) fn end(&mut self, pause: Pause) {
        if let Some((from, _)) = self.hope.take()
            && let Some(known) = self.known.get_mut(&from)
        {
            known.chance.note(pause == Pause::Site);
        }
    }

    /// Those that it came to.
    pub(crate) fn met(&self) -> impl Iterator<Item = &Passed> {
        self.met.iter().filter_map(|address| self.known.get(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far one goes on from a breakpoint when it is passed for the first time in a turn, and for the second.
    fn turn(passes: &mut Passes, stay: bool, end: Pause) -> Option<[u64; 2]> {
        if stay && !passes.is_worth(1) {
            return None;
        }
        passes.begin(64, 1000, stay);
        let strides = [passes.pass(1, 0), passes.pass(2, 0)];
        passes.end(end);
        let met: Vec<_> = passes.met().map(|known| (known.address, known.times)).collect();
        assert_eq!(met, [(1, 1), (2, 1)]);
        Some(strides)
    }

    #[test]
    fn where_no_other_is_near_one_goes_on_less_and_less_often() {
        let mut passes = Passes::default();
        let far: Vec<bool> =
            (0..200).map(|_| turn(&mut passes, true, Pause::Spent).unwrap()[1] == 64).collect();
        let tried: Vec<usize> = far.iter().enumerate().filter(|(_, far)| **far).map(|(at, _)| at).collect();
        // From the first there is one, always.
        assert!(tried.starts_with(&[0, 1]) && (6..10).contains(&tried.len()), "{tried:?}");
        assert!(tried.last().is_some_and(|&last| last >= 127), "{tried:?}");
        // What stops the thread is another breakpoint from then on.
        let again = (0..200).filter(|_| turn(&mut passes, true, Pause::Site).unwrap()[1] == 64).count();
        assert!(again > 100, "{again}");
        // Nothing is known of those that go.
        assert!((0..200).all(|_| turn(&mut passes, false, Pause::Spent) == Some([64, 64])));
    }

    #[test]
    fn one_that_stands_alone_is_passed_by_itself() {
        let mut passes = Passes::default();
        let alone = |passes: &mut Passes| {
            let worth = passes.is_worth(7);
            if worth {
                passes.begin(64, 1000, true);
                assert_eq!(passes.pass(7, 0), 64);
                passes.end(Pause::Spent);
            }
            worth
        };
        let tried = (0..1000).filter(|_| alone(&mut passes)).count();
        assert!((10..30).contains(&tried), "{tried}");
        // It finds the next one.
        while !passes.is_worth(7) {}
        for _ in 0..4 {
            passes.begin(64, 1000, true);
            passes.pass(7, 0);
            passes.pass(8, 0);
            passes.end(Pause::Site);
        }
        assert!((0..10).all(|_| passes.is_worth(7)));
    }
}
