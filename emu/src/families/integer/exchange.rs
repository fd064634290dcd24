//! Read-modify-write in one step: compare-and-exchange and exchange-and-add (SDM volume 1, section
//! 7.3.1.2), CMPccXADD and RAO-INT.

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::decode::operand::Kind;
use crate::families::integer::arith::{add, cmp, flag};
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{Rflags, gpr};
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::run::row::by_width;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Xadd, Lockable, Flags::LOCK, xadd, xadd_locked),
    row!(Cmpxchg, Lockable, Flags::LOCK, cmpxchg, cmpxchg_locked),
    row!(Cmpxchg8b, Select, Flags::LOCK, select_cmpxchg8b),
    row!(Cmpxchg16b, Select, Flags::LOCK, select_cmpxchg16b),
    row!(
        [
            Cmpbexadd, Cmpbxadd, Cmplexadd, Cmplxadd, Cmpnbexadd, Cmpnbxadd, Cmpnlexadd, Cmpnlxadd,
            Cmpnoxadd, Cmpnpxadd, Cmpnsxadd, Cmpnzxadd, Cmpoxadd, Cmppxadd, Cmpsxadd, Cmpzxadd
        ],
        Wide,
        Flags::ATOMIC,
        cmpccxadd
    ),
    row!(Aadd, remote::<Aadd>, Flags::ATOMIC),
    row!(Aand, remote::<Aand>, Flags::ATOMIC),
    row!(Aor, remote::<Aor>, Flags::ATOMIC),
    row!(Axor, remote::<Axor>, Flags::ATOMIC),
];

/// The sum is written last: it wins where both operands are the same register.
fn xadd<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let dst = c.read_to_write::<W>(0)?;
    let src = c.read::<W>(1)?;
    let (sum, flags) = add(dst, src, c.registers.rflags);
    if c.decoded.operand[0].kind == Kind::Memory {
        c.write(0, sum)?;
        c.write(1, dst)?;
    } else {
        c.write(1, dst)?;
        c.write(0, sum)?;
    }
    c.registers.rflags = flags;
    Ok(Outcome::Next)
}

fn xadd_locked<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let src = c.read::<W>(1)?;
    let before = c.registers.rflags;
    let old = c.update(c.linear(), c.decoded.address.stack, |dst: W| add(dst, src, before).0)?;
    c.write(1, old)?;
    c.registers.rflags = add(old, src, before).1;
    Ok(Outcome::Next)
}

/// Writes its destination either way: with the value that it had if the comparison fails.
fn cmpxchg<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let dst = c.read_to_write::<W>(0)?;
    let src = c.read::<W>(1)?;
    let accumulator = c.general::<W>(gpr::RAX);
    if accumulator == dst {
        c.write(0, src)?;
    } else {
        // A register is left alone, upper half included, which no manual says.
        if c.decoded.operand[0].kind == Kind::Memory {
            c.write(0, dst)?;
        }
        c.set_general(gpr::RAX, dst);
    }
    c.registers.rflags = cmp(accumulator, dst, c.registers.rflags);
    Ok(Outcome::Next)
}

fn cmpxchg_locked<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let src = c.read::<W>(1)?;
    let accumulator = c.general::<W>(gpr::RAX);
    let old =
        c.update(c.linear(), c.decoded.address.stack, |dst: W| if dst == accumulator { src } else { dst })?;
    if old != accumulator {
        c.set_general(gpr::RAX, old);
    }
    c.registers.rflags = cmp(accumulator, old, c.registers.rflags);
    Ok(Outcome::Next)
}

fn select_cmpxchg8b(form: &Form<'_>) -> Option<Execute> {
    Some(if form.locked() { cmpxchg8b_locked } else { cmpxchg8b })
}

/// A value of twice the width in two registers.
#[inline(always)]
fn pair<W: Width>(c: &Context<'_>, high: usize, low: usize) -> u128 {
    let [high, low] = [high, low].map(|number| u128::from(c.general::<W>(number).zero_extend()));
    high << W::BITS | low
}

/// Compares EDX:EAX or RDX:RAX with what was in memory, and takes that if they differ. Only ZF changes.
#[inline(always)]
fn compare_pair<W: Width>(c: &mut Context<'_>, expected: u128, old: u128) {
    if old != expected {
        c.set_general(gpr::RAX, W::truncate_wide(old));
        c.set_general(gpr::RDX, W::truncate_wide(old >> W::BITS));
    }
    c.registers.rflags = c.registers.rflags.difference(Rflags::ZF) | flag(Rflags::ZF, old == expected);
}

fn cmpxchg8b(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (expected, new) = (pair::<u32>(c, gpr::RDX, gpr::RAX), pair::<u32>(c, gpr::RCX, gpr::RBX));
    let (address, stack) = (c.linear(), c.decoded.address.stack);
    let old = c.load::<u64>(address, Access::Write, stack)?;
    c.store(address, if u128::from(old) == expected { new as u64 } else { old }, stack)?;
    compare_pair::<u32>(c, expected, u128::from(old));
    Ok(Outcome::Next)
}

fn cmpxchg8b_locked(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (expected, new) = (pair::<u32>(c, gpr::RDX, gpr::RAX), pair::<u32>(c, gpr::RCX, gpr::RBX));
    let old = c.update(c.linear(), c.decoded.address.stack, |old: u64| {
        if u128::from(old) == expected { new as u64 } else { old }
    })?;
    compare_pair::<u32>(c, expected, u128::from(old));
    Ok(Outcome::Next)
}

fn select_cmpxchg16b(form: &Form<'_>) -> Option<Execute> {
    Some(if form.locked() { cmpxchg16b_locked } else { cmpxchg16b })
}

/// #GP for an address that is not a multiple of `alignment`, before it is anything else.
#[inline(always)]
fn aligned(address: u64, alignment: u64) -> Result<(), Exception> {
    if address & (alignment - 1) == 0 { Ok(()) } else { Err(Exception::GeneralProtection(0)) }
}

fn cmpxchg16b(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (expected, new) = (pair::<u64>(c, gpr::RDX, gpr::RAX), pair::<u64>(c, gpr::RCX, gpr::RBX));
    let address = c.linear();
    aligned(address, 16)?;
    c.check(address, 16, 16, c.decoded.address.stack)?;
    let mut bytes = [0; 16];
    c.memory.read(address, &mut bytes, Access::Write)?;
    let old = u128::from_le_bytes(bytes);
    c.memory.write(address, &if old == expected { new } else { old }.to_le_bytes())?;
    compare_pair::<u64>(c, expected, old);
    Ok(Outcome::Next)
}

fn cmpxchg16b_locked(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (expected, new) = (pair::<u64>(c, gpr::RDX, gpr::RAX), pair::<u64>(c, gpr::RCX, gpr::RBX));
    let address = c.linear();
    aligned(address, 16)?;
    c.check(address, 16, 16, c.decoded.address.stack)?;
    let old = c.memory.update(address, 16, &mut |old| if old == expected { new } else { old })?;
    compare_pair::<u64>(c, expected, old);
    Ok(Outcome::Next)
}

/// Compares memory with the second operand, and adds the third to it if the condition holds for that
/// comparison; the second operand takes what was there.
fn cmpccxadd<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (compared, addend) = (c.read::<W>(1)?, c.read::<W>(2)?);
    let (before, condition) = (c.registers.rflags, c.decoded.condition);
    let old = c.update(c.linear(), c.decoded.address.stack, |old: W| {
        let holds = condition.holds(cmp(old, compared, before));
        if holds { old.wrapping_add(addend) } else { old }
    })?;
    c.write(1, old)?;
    c.registers.rflags = cmp(old, compared, before);
    Ok(Outcome::Next)
}

/// An operation that leaves flags alone and returns nothing: RAO-INT.
trait Remote {
    fn apply<W: Width>(dst: W, src: W) -> W;
}
struct Aadd;
struct Aand;
struct Aor;
struct Axor;

impl Remote for Aadd {
    #[inline(always)]
    fn apply<W: Width>(dst: W, src: W) -> W {
        dst.wrapping_add(src)
    }
}

impl Remote for Aand {
    #[inline(always)]
    fn apply<W: Width>(dst: W, src: W) -> W {
        dst & src
    }
}

impl Remote for Aor {
    #[inline(always)]
    fn apply<W: Width>(dst: W, src: W) -> W {
        dst | src
    }
}

impl Remote for Axor {
    #[inline(always)]
    fn apply<W: Width>(dst: W, src: W) -> W {
        dst ^ src
    }
}

/// Memory must be aligned to the operand's size.
fn remote<O: Remote>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: Remote>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let src = c.read::<W>(1)?;
        let address = c.linear();
        aligned(address, W::BYTES as u64)?;
        c.update(address, c.decoded.address.stack, |dst: W| O::apply(dst, src))?;
        Ok(Outcome::Next)
    }
    by_width!(form.size(0), run, <O>)
}
