//! How a tracer waits for what is reported next.
//!
//! A thread that reaches one breakpoint after the other stops within microseconds of being continued. A tracer that sleeps
//! meanwhile has to be woken, and lets its processor idle, from which another wakes it later still: in a virtual machine that
//! takes several times as long as the rest of a hit. So as long as reports come soon it stays awake: it leaves the processor
//! to whoever is ready, such as the thread itself, and looks.
//!
//! Where somebody else is ready who computes, that takes milliseconds. A tracer that sleeps is preferred when it is woken, so
//! then it sleeps; and it does where reports are seldom. Both are tried anew, ever more seldom.

use std::thread;
use std::time::{Duration, Instant};

use nix::Result;

use crate::executor::ptrace::sys::{self, Status};

/// Whether a tracer sleeps while it waits.
#[derive(Debug)]
pub(super) struct Awake {
    /// How many waits it is still to sleep through, and how many there were of these the last time.
    asleep: u32,
    night: u32,
    /// How many reports have come soon since.
    day: u32,
    /// How many reports there are still to be until it looks at the clock, how many there are in all between two looks, and
    /// when the first of these was.
    left: u32,
    round: u32,
    since: Option<Instant>,
}

impl Awake {
    /// How long it stays awake for one report.
    const PATIENCE: Duration = Duration::from_micros(40);
    /// How long reports take that come soon, with what is done about them.
    const SOON: Duration = Duration::from_micros(60);
    /// Longer than that a single look takes only where others have the processor.
    const LATE: Duration = Duration::from_millis(1);
    const LONGEST_ROUND: u32 = 16;
    /// How many waits it sleeps through, at least and at most, where reports are seldom: that has cost no more than
    /// patience. And where others have the processor: that has cost what is gained by thousands of waits.
    const SELDOM: (u32, u32) = (8, 256);
    const OTHERS: (u32, u32) = (2 * 1024, 64 * 1024);

    pub(super) fn new() -> Awake {
        Awake { asleep: 0, night: 0, day: 0, left: 1, round: 1, since: None }
    }

    /// Waits for any child or tracee of the calling thread.
    ///
    /// # Errors
    /// Those of wait4(2); EINTR only where it sleeps.
    pub(super) fn wait(&mut self) -> Result<Option<(i32, Status)>> {
        if self.asleep > 0 {
            self.asleep -= 1;
            return sys::wait(-1, true);
        }
        self.since.get_or_insert_with(Instant::now);
        let mut start = None;
        loop {
            thread::yield_now();
            let found = sys::wait(-1, false);
            if !matches!(found, Ok(None)) {
                self.book(Instant::now);
                return found;
            }
            // Mostly it is there, and the clock need not be looked at.
            let waited = start.get_or_insert_with(Instant::now).elapsed();
            if waited >= Self::PATIENCE {
                self.sleep(waited >= Self::LATE);
                return sys::wait(-1, true);
            }
        }
    }

    /// There has been a report.
    fn book(&mut self, now: impl FnOnce() -> Instant) {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return;
        }
        let now = now();
        let took = self.since.replace(now).map_or(Duration::ZERO, |since| now - since);
        if took > Self::SOON * self.round {
            // Of several that is also what was done about them.
            return self.sleep(self.round == 1 && took >= Self::LATE);
        }
        self.day += self.round;
        if self.day >= self.night {
            (self.day, self.night) = (0, self.night / 2);
        }
        self.round = (self.round * 2).min(Self::LONGEST_ROUND);
        self.left = self.round;
    }

    /// Has it sleep from now on, for twice as long as the last time.
    fn sleep(&mut self, others: bool) {
        let (fewest, most) = if others { Self::OTHERS } else { Self::SELDOM };
        self.night = (self.night * 2).clamp(fewest, most);
        self.asleep = self.night;
        (self.day, self.left, self.round, self.since) = (0, 1, 1, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has it be told of so many reports, each of which has taken so long, or until it sleeps.
    fn report(awake: &mut Awake, number: u32, took: Duration) {
        let mut now = Instant::now();
        awake.asleep = 0;
        for _ in 0..number {
            if awake.asleep > 0 {
                break;
            }
            awake.since.get_or_insert(now);
            now += took;
            awake.book(|| now);
        }
    }

    #[test]
    fn it_stays_awake_while_reports_come_soon() {
        let mut awake = Awake::new();
        report(&mut awake, 1000, Awake::SOON);
        assert_eq!((awake.asleep, awake.round), (0, Awake::LONGEST_ROUND));
        report(&mut awake, 2 * Awake::LONGEST_ROUND, 2 * Awake::SOON);
        assert_ne!(awake.asleep, 0);
    }

    #[test]
    fn it_sleeps_ever_longer_and_less_again() {
        let (fewest, most) = Awake::OTHERS;
        let mut awake = Awake::new();
        report(&mut awake, 1, Awake::LATE);
        assert_eq!(awake.asleep, fewest);
        (0..10).for_each(|_| report(&mut awake, 1, Awake::LATE));
        assert_eq!(awake.asleep, most);
        // It has been late once, and then is seldom.
        report(&mut awake, 1, 2 * Awake::SOON);
        assert_eq!(awake.asleep, Awake::SELDOM.1);
        report(&mut awake, 1024, Awake::SOON);
        report(&mut awake, 2 * Awake::LONGEST_ROUND, Awake::LATE);
        assert_eq!(awake.asleep, Awake::SELDOM.0);
    }
}
