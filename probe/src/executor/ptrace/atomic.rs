//! Read-modify-writes in one step, as LOCKed instructions and XCHG make them.
//!
//! Nothing outside the target can make one. Where somebody else may write the same memory, which are the other
//! threads of its process and, if the mapping is shared, any process that maps the same, there are these ways, the
//! first that can be had:
//!
//! 1. The thread borrows one instruction that does it all, wherever the text of the target has such a one: XADD for
//!    whatever adds, XCHG, CMPXCHG, or one that does the same with the same number. The result cannot be wrong
//!    however fast others write.
//! 2. The thread borrows CMPXCHG and tries again until nobody was faster, so often and no more.
//! 3. The thread executes the instruction where it stands, which is counted as [`Counters::native`]. Threads that
//!    share its memory are held for it, as they must not pass the breakpoint that is lifted. Where nobody else
//!    shares the mapping, they are held and the access is made from outside instead.
//!
//! That the tracer map the same object and make the access there is no way: whoever makes the file shorter would
//! kill it by SIGBUS.
//!
//! [`Counters::native`]: crate::Counters::native

use bitflags::bitflags;
use emu::{Access, Displaced, MemoryFault, Rflags, UserMemory};
use iced_x86::Mnemonic;

use crate::executor::ptrace::locked::{self, Done, Kind, Source, Values};
use crate::executor::ptrace::memory::Accessor;
use crate::target::lock;

bitflags! {
    /// The ways to make accesses that may be used; for tests, which show what is lost without them.
    #[doc(hidden)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Ways: u8 {
        /// A borrowed instruction that does it all.
        const WHOLE = 1 << 0;
        /// CMPXCHG again and again.
        const EXCHANGE = 1 << 1;
        /// In place, or with all others held. Without this and the others, by a read and a write.
        const ALONE = 1 << 2;
        /// A load or a store in one piece. Without it, in two.
        const UNDIVIDED = 1 << 3;
        /// Stores of a thread that runs on reach memory in the order in which it has made them. Without it, those that wait
        /// together, in the opposite one.
        const IN_ORDER = 1 << 4;
        /// A thread that runs on sees its own stores at once. Without it, when others do.
        const OWN_AT_ONCE = 1 << 5;
    }
}

/// What is known of the instruction that is emulated.
#[derive(Debug)]
pub(crate) struct Atomics {
    pub(crate) ways: Ways,
    mnemonic: Mnemonic,
    /// The status flags that the processor has computed for it.
    status: Option<Rflags>,
}

impl Atomics {
    pub(crate) fn new() -> Atomics {
        Atomics { ways: Ways::all(), mnemonic: Mnemonic::INVALID, status: None }
    }

    /// Before `displaced` is emulated.
    pub(crate) fn begin(&mut self, displaced: &Displaced) {
        self.mnemonic = displaced.instruction().mnemonic();
        self.status = None;
    }

    /// The flags after it, where emulation has come to `flags`.
    pub(crate) fn flags(&self, flags: Rflags) -> Rflags {
        self.status.map_or(flags, |status| flags.difference(Rflags::STATUS) | status)
    }
}

/// An instruction that does at once what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Whole {
    mnemonic: Mnemonic,
    source: Source,
    /// The number that it takes, if any.
    operand: u64,
    /// Whether it tells what it has found. Otherwise its flags are those of the instruction that is emulated, as
    /// it is the same.
    tells: bool,
}

/// The instructions that do at once what `update`, which is that of an instruction named `mnemonic`, does to `size`
/// bytes; the best first.
fn wholes(mnemonic: Mnemonic, size: usize, update: &mut dyn FnMut(u128) -> u128) -> Vec<Whole> {
    use Mnemonic::{
        Aadd, Adc, Add, And, Btc, Btr, Bts, Cmpxchg, Cmpxchg8b, Cmpxchg16b, Dec, Inc, Neg, Not, Or, Sbb, Sub,
        Xadd, Xchg, Xor,
    };
    let bits = u128::MAX.checked_shr(128 - size as u32 * 8).unwrap_or(0);
    // What comes of zeros and of ones tells the other operand.
    let (zeros, ones) = (update(0) & bits, update(bits) & bits);
    let telling = |mnemonic, source| Whole { mnemonic, source, operand: zeros as u64, tells: true };
    let same = |source, operand: u128| Whole { mnemonic, source, operand: operand as u64, tells: false };
    let either =
        |operand: u128| [same(Source::Register, operand), same(Source::Immediate(operand as u64), operand)];
    let mut wholes = Vec::with_capacity(3);
    match mnemonic {
        Xchg => wholes.push(telling(Xchg, Source::Register)),
        Cmpxchg => wholes.push(telling(Cmpxchg, Source::Register)),
        Cmpxchg8b | Cmpxchg16b => wholes.push(telling(mnemonic, Source::None)),
        Add | Sub | Inc | Dec | Adc | Sbb | Xadd | Aadd => wholes.push(telling(Xadd, Source::Register)),
        _ => {}
    }
    match mnemonic {
        Inc | Dec | Neg | Not => wholes.push(same(Source::None, 0)),
        Add | Or | Xor => wholes.extend(either(zeros)),
        Sub => wholes.extend(either(zeros.wrapping_neg() & bits)),
        And => wholes.extend(either(ones)),
        Bts | Btc => wholes.extend(either(u128::from(zeros.trailing_zeros()))),
        Btr => wholes.extend(either(u128::from((!ones).trailing_zeros()))),
        _ => {}
    }
    wholes
}

/// The unit of 4, 8 or 16 bytes in which LOCK CMPXCHG reaches `size` bytes at `address`: where it begins,
/// and how long it is.
fn unit_around(address: u64, size: usize) -> (u64, usize) {
    match size {
        // Inside an aligned doubleword, or across two: then also across whatever `address` is across.
        1 => (address & !3, 4),
        2 if address & 3 != 3 => (address & !3, 4),
        2 => (address - 1, 4),
        size => (address, size),
    }
}

/// The CMPXCHG for a unit of that size.
fn exchange_of(size: usize) -> Kind {
    let (mnemonic, source) =
        if size == 16 { (Mnemonic::Cmpxchg16b, Source::None) } else { (Mnemonic::Cmpxchg, Source::Register) };
    Kind { mnemonic, size, source }
}

impl Accessor<'_> {
    /// [`UserMemory::update`], in the first way that there is.
    pub(crate) fn update_in_one_step(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        let ways = self.threads.atomics.ways;
        let space = self.threads.get(self.thread.tid()).map(|thread| thread.space);
        let others = space.filter(|&space| self.threads.register.has_others(space, self.thread.tid()));
        let shared = lock(&self.space.read().sharing).is_shared(self.thread.tid(), address, size);
        if others.is_none() && !shared {
            return self.update_alone(address, size, update);
        }
        // What replaces the byte of a breakpoint must not reach memory.
        let (unit, length) = unit_around(address, size);
        let meets = self.space.read().store_meets_breakpoint(unit, length);
        if !meets {
            if ways.contains(Ways::WHOLE)
                && let Some(old) = self.update_at_once(address, size, update)
            {
                return Ok(old);
            }
            // In place costs little more than a try where nobody has to be held for it.
            let attempts = if others.is_some() { 64 } else { 4 };
            if ways.contains(Ways::EXCHANGE)
                && let Some(old) = self.update_by_exchange(address, size, attempts, update)
            {
                return Ok(old);
            }
            if ways.contains(Ways::ALONE) && shared {
                return Err(self.leave_to_the_thread(address, size));
            }
        }
        let held = ways.contains(Ways::ALONE)
            && others.is_some_and(|space| self.threads.hold_others(space, self.thread.tid()));
        let result = self.update_alone(address, size, update);
        if held {
            self.threads.release_others();
        }
        result
    }

    /// Has the instruction executed in place, unless it faults there: then that is the fault.
    fn leave_to_the_thread(&mut self, address: u64, size: usize) -> MemoryFault {
        let Err(fault) = self.can_store(address, size) else {
            self.threads.memory_refused = true;
            return MemoryFault { address, access: Access::Write, present: true, protection_key: false };
        };
        fault
    }

    /// Makes the access by one instruction that the thread borrows, and returns what was there, or something else
    /// where the flags are known without; `None`, with nothing changed, if that cannot be.
    fn update_at_once(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Option<u128> {
        let mnemonic = self.threads.atomics.mnemonic;
        for whole in wholes(mnemonic, size, update) {
            let kind = Kind { mnemonic: whole.mnemonic, size, source: whole.source };
            let locked = locked::locked(&self.space.read(), self.thread.tid(), kind);
            let Some(locked) = locked else { continue };
            let values = |own: &libc::user_regs_struct| {
                let expected = locked.expected(own);
                let new = update(expected);
                let source = if whole.mnemonic == Mnemonic::Cmpxchg { new as u64 } else { whole.operand };
                Values { address, source, expected, new }
            };
            match locked::run(self.threads, self.thread, &locked, values) {
                Done::Executed { old, flags } => {
                    if !whole.tells {
                        self.threads.atomics.status = Some(Rflags::from_bits_retain(flags) & Rflags::STATUS);
                    }
                    update(old);
                    return Some(old);
                }
                // Nobody will see what comes of it.
                Done::Gone => return Some(0),
                // Why, the next way finds out.
                Done::Faulted | Done::Unavailable => return None,
            }
        }
        None
    }

    /// Makes the access by a CMPXCHG that the thread borrows, as often as need be but for so many `attempts`, and
    /// returns what was there; `None`, with nothing changed, if that cannot be.
    fn update_by_exchange(
        &mut self,
        address: u64,
        size: usize,
        attempts: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Option<u128> {
        let (unit, length) = unit_around(address, size);
        let shift = address.wrapping_sub(unit) * 8;
        let mask = u128::MAX.checked_shr(128 - size as u32 * 8).unwrap_or(0) << shift;
        let mut bytes = [0; 16];
        // Which byte it is that cannot be accessed, the other way finds out.
        self.read(unit, bytes.get_mut(..length)?, Access::Write).ok()?;
        let mut whole = u128::from_le_bytes(bytes);
        for _ in 0..attempts {
            let locked = locked::locked(&self.space.read(), self.thread.tid(), exchange_of(length))?;
            let old = (whole & mask) >> shift;
            let new = whole & !mask | update(old) << shift & mask;
            let values = |_: &_| Values { address: unit, source: new as u64, expected: whole, new };
            match locked::run(self.threads, self.thread, &locked, values) {
                Done::Executed { old: found, .. } if found == whole => return Some(old),
                Done::Executed { old: found, .. } => whole = found,
                Done::Gone => return Some(old),
                Done::Faulted | Done::Unavailable => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(mnemonic: Mnemonic, size: usize, mut update: impl FnMut(u128) -> u128) -> (Mnemonic, u64, bool) {
        let whole = wholes(mnemonic, size, &mut update)[0];
        (whole.mnemonic, whole.operand, whole.tells)
    }

    #[test]
    fn whatever_adds_is_an_addition() {
        for (mnemonic, addend) in [(Mnemonic::Inc, 1), (Mnemonic::Dec, 0xffff), (Mnemonic::Sub, 0xfff9)] {
            let update = |old: u128| old.wrapping_add(addend) & 0xffff;
            assert_eq!(first(mnemonic, 2, update), (Mnemonic::Xadd, addend as u64, true));
        }
        // Where there is no XADD.
        let wholes = wholes(Mnemonic::Sub, 2, &mut |old| old.wrapping_sub(7) & 0xffff);
        let same = |source| Whole { mnemonic: Mnemonic::Sub, source, operand: 7, tells: false };
        assert_eq!(wholes[1..], [same(Source::Register), same(Source::Immediate(7))]);
    }

    #[test]
    fn the_other_operand_shows_in_what_comes_of_zeros_and_ones() {
        assert_eq!(first(Mnemonic::Or, 4, |old| old | 0x50), (Mnemonic::Or, 0x50, false));
        assert_eq!(first(Mnemonic::Xor, 8, |old| old ^ 0x50), (Mnemonic::Xor, 0x50, false));
        assert_eq!(first(Mnemonic::And, 1, |old| old & 0x5f), (Mnemonic::And, 0x5f, false));
        assert_eq!(first(Mnemonic::Bts, 8, |old| old | 1 << 63), (Mnemonic::Bts, 63, false));
        assert_eq!(first(Mnemonic::Btr, 4, |old| old & !(1 << 5)), (Mnemonic::Btr, 5, false));
        assert_eq!(first(Mnemonic::Btc, 2, |old| old ^ 1 << 15), (Mnemonic::Btc, 15, false));
        assert_eq!(first(Mnemonic::Xchg, 4, |_| 9), (Mnemonic::Xchg, 9, true));
        assert!(wholes(Mnemonic::Cmpbexadd, 4, &mut |old| old).is_empty());
    }
}
