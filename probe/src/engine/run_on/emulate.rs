//! One instruction after the other, as far as that needs nobody else.

use std::collections::HashMap;

use emu::registers::gpr;
use emu::{Outcome, UserMemory};

use crate::engine::run_on::regions::Before;
use crate::engine::run_on::{Regions, What};
use crate::executor::code::{CodeCache, Kind};
use crate::executor::general::GeneralRegisters;
use crate::executor::log::{Log, Recording};
use crate::executor::ptrace::kept::Fast;
use crate::executor::{RunOn, TextMemory};

/// Why it goes on otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// So many instructions were executed, or something has ended.
    Spent,
    /// There is a breakpoint.
    Site,
    /// The instruction is to be performed by itself.
    Slow,
    /// It cannot be emulated.
    Unknown,
    /// It is in a restartable sequence.
    Sequence,
    /// It needs extended registers, which are to be fetched.
    Extended,
}

/// Breakpoints that a thread comes by of which it is only to be known how often it did.
#[derive(Debug, Default)]
pub(crate) struct Passes {
    /// How often it came to each, and where that is in the cache.
    pub(crate) counts: HashMap<u64, (u64, u32), Fast>,
    /// How many it came to.
    pub(crate) number: u64,
    /// How many instructions were executed.
    pub(crate) executed: u64,
    /// That at which it has been counted, and whose instruction it has not executed.
    pub(crate) open: Option<u64>,
    /// How many instructions behind one are executed for the next, and how many in all.
    stride: u64,
    most: u64,
}

impl Passes {
    /// Begins anew.
    pub(crate) fn begin(&mut self, stride: u64, most: u64) {
        self.counts.clear();
        (self.number, self.executed, self.open) = (0, 0, None);
        (self.stride, self.most) = (stride, most);
    }

    /// The thread is at the breakpoint at `address`. Returns how many instructions are executed from there.
    fn pass(&mut self, address: u64, index: u32) -> u64 {
        self.counts.entry(address).or_insert((0, index)).0 += 1;
        self.number += 1;
        self.stride.min(self.most.saturating_sub(self.executed))
    }
}

/// Emulates instructions from where `thread` is, `most` of them at most.
pub(crate) fn run(
    thread: &mut impl RunOn,
    code: &mut CodeCache,
    regions: &mut Regions,
    log: &mut Log,
    most: u64,
) -> Pause {
    match regions.is_observed() {
        true => run_as::<true>(thread, code, regions, log, most, None),
        false => run_as::<false>(thread, code, regions, log, most, None),
    }
}

/// The same for a thread that comes by breakpoints which are only counted, as long as others are near.
pub(crate) fn pass(
    thread: &mut impl RunOn,
    code: &mut CodeCache,
    regions: &mut Regions,
    log: &mut Log,
    passes: &mut Passes,
) -> Pause {
    let most = passes.stride;
    run_as::<false>(thread, code, regions, log, most, Some(passes))
}

fn run_as<const OBSERVED: bool>(
    thread: &mut impl RunOn,
    code: &mut CodeCache,
    regions: &mut Regions,
    log: &mut Log,
    most: u64,
    mut passes: Option<&mut Passes>,
) -> Pause {
    let tid = thread.tid();
    let mut stop = Kind::SITE | Kind::SLOW | Kind::SEQUENCE;
    stop.set(Kind::EXTENDED, !thread.has_extended());
    let (everywhere, accesses, extended) =
        (regions.has_ranges(), regions.wants_accesses(), regions.wants_extended());
    let (registers, mut memory) = thread.parts();
    let mut left = most.min(regions.left());
    let mut begun = left;
    let mut before: Option<Before> = None;
    let mut extended_before = None;
    let Some(mut index) = code.find(registers.rip, &mut memory) else { return Pause::Unknown };
    let pause = loop {
        let Some(cached) = code.get(index) else { break Pause::Unknown };
        let mut passed = false;
        if cached.kind.intersects(stop) {
            match &mut passes {
                Some(passes)
                    if cached.kind.is_passed(stop) && passes.executed + (begun - left) < passes.most =>
                {
                    passes.executed += begun - left;
                    left = passes.pass(cached.displaced.ip(), index);
                    (begun, passed) = (left, true);
                }
                _ => break pause_of(cached.kind),
            }
        }
        if left == 0 {
            break Pause::Spent;
        }
        if OBSERVED && before.is_none() {
            log.clear();
            let registers = &*registers;
            let displaced = Some(cached.displaced);
            before = Some(Before {
                registers: GeneralRegisters { rip: cached.displaced.ip(), ..GeneralRegisters::of(registers) },
                displaced,
            });
            let touched = extended && cached.kind.contains(Kind::EXTENDED);
            extended_before = touched.then(|| Box::new(registers.extended.clone()));
        }
        let result = match OBSERVED && accesses {
            true => cached.displaced.execute(registers, &mut Recording { memory: &mut memory, log }),
            false => cached.displaced.execute(registers, &mut memory as &mut dyn UserMemory),
        };
        match result {
            Ok(Outcome::Next | Outcome::NextInhibited) => {}
            // Another part of the same.
            Ok(Outcome::Again) if passes.is_none() => continue,
            // From the state that it has left.
            _ => {
                if let Some(passes) = &mut passes {
                    passes.open = passed.then_some(cached.displaced.ip());
                }
                registers.rip = cached.displaced.ip();
                break Pause::Slow;
            }
        }
        left -= 1;
        let rip = registers.rip;
        let sequential = rip == cached.next && !cached.kind.contains(Kind::LAST);
        let written = cached.kind.contains(Kind::WRITES) && memory.take_code_written();
        if written_announces(&passes, cached.kind, &mut memory) {
            break Pause::Sequence;
        }
        let next = match sequential {
            true => Some(index + 1),
            false => code.follow(cached, rip),
        };
        if OBSERVED && let Some(before) = before.take() {
            let log = accesses.then_some(&*log);
            regions.tell(
                tid,
                What::Emulated,
                &before,
                registers,
                &mut memory,
                log,
                extended_before.as_deref(),
            );
            if regions.has_ended() {
                break Pause::Spent;
            }
        }
        if (!sequential || everywhere) && regions.is_over(rip, registers.gpr[gpr::RSP]) {
            break Pause::Spent;
        }
        if written {
            code.clear();
            memory.forget_text();
        }
        index = match next.filter(|_| !written) {
            Some(next) => next,
            None => match code.find(rip, &mut memory) {
                Some(next) => next,
                None => break Pause::Unknown,
            },
        };
    };
    match passes {
        Some(passes) => passes.executed += begun - left,
        None if !OBSERVED => regions.count(begun - left),
        None => {}
    }
    pause
}

/// Whether the instruction that was executed last has announced a restartable sequence.
#[inline]
fn written_announces(passes: &Option<&mut Passes>, kind: Kind, memory: &mut impl TextMemory) -> bool {
    passes.is_some() && kind.contains(Kind::WRITES) && memory.take_announced()
}

fn pause_of(kind: Kind) -> Pause {
    match () {
        () if kind.contains(Kind::SITE) => Pause::Site,
        () if kind.contains(Kind::SEQUENCE) => Pause::Sequence,
        () if kind.contains(Kind::SLOW) => Pause::Slow,
        () => Pause::Extended,
    }
}
