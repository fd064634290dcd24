//! One instruction after the other, as far as that needs nobody else.

use emu::registers::gpr;
use emu::{Outcome, Registers, UserMemory};

use crate::engine::run_on::passes::Passes;
use crate::engine::run_on::regions::Before;
use crate::engine::run_on::{Regions, What};
use crate::executor::code::{Cached, CodeCache, Kind};
use crate::executor::general::GeneralRegisters;
use crate::executor::log::{Log, Recording};
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
    let most = passes.stride();
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
    // Observers see memory behind each instruction, and what is counted is not undone.
    let buffers = !OBSERVED && passes.is_none() && memory.may_buffer();
    stop.set(Kind::ORDERS, buffers);
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
                _ if cached.kind & stop == Kind::ORDERS => {
                    if !memory.drain() {
                        break Pause::Slow;
                    }
                }
                Some(passes) if cached.kind.is_passed(stop) && passes.may_go_on(begun - left) => {
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
        if buffers && cached.kind.intersects(Kind::WRITES | Kind::EXTENDED) {
            prepare(&mut memory, registers, cached, left);
        }
        let result = match OBSERVED && accesses {
            true => cached.displaced.execute(registers, &mut Recording { memory: &mut memory, log }),
            false => cached.displaced.execute(registers, &mut memory as &mut dyn UserMemory),
        };
        if buffers && memory.stores().is_undone() {
            break Pause::Slow;
        }
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
    let pause = if buffers { make_stores(registers, &mut memory, &mut left).unwrap_or(pause) } else { pause };
    match passes {
        Some(passes) => passes.executed += begun - left,
        None if !OBSERVED => regions.count(begun - left),
        None => {}
    }
    pause
}

/// Before an instruction of which a store may wait, or that may change extended registers.
#[inline]
fn prepare(memory: &mut impl TextMemory, registers: &Registers, cached: &Cached, left: u64) {
    let stores = memory.stores();
    if cached.kind.contains(Kind::EXTENDED) {
        stores.keep_extended(&registers.extended);
    }
    if cached.kind.contains(Kind::WRITES) {
        stores.expect(registers, cached.displaced.ip(), left);
    }
}

/// Makes the stores that wait. Where one cannot be made, the thread is before its instruction, which is to be performed by
/// itself then.
fn make_stores(registers: &mut Registers, memory: &mut impl TextMemory, left: &mut u64) -> Option<Pause> {
    let stores = memory.stores();
    stores.expect_none();
    if !stores.is_undone() && memory.drain() {
        return None;
    }
    *left = memory.stores().undo(registers)?;
    Some(Pause::Slow)
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
