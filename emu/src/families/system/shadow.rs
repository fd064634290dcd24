//! Shadow stacks (SDM volume 1, chapter 17). A thread that has none has no [`Registers::ssp`], and for it
//! the instructions that are not in the encoding space of NOP raise #UD.
//!
//! Linux turns on neither indirect branch tracking for user mode, nor shadow stacks for itself.
//!
//! [`Registers::ssp`]: crate::Registers::ssp

use crate::decode::flags::Flags;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::Rflags;
use crate::model::width::Width;
use crate::run::context::Context;
use crate::run::row::Row;
use crate::shape::row;

use crate::families::integer::arith::flag;

pub(super) static ROWS: &[Row] = &[
    row!([Rdsspd, Rdsspq], Wide, Flags::SHADOW_STACK, rdssp),
    row!([Incsspd, Incsspq], Wide, Flags::SHADOW_STACK, incssp),
    row!(Saveprevssp, Whole, Flags::SHADOW_STACK, saveprevssp),
    row!(Rstorssp, Whole, Flags::SHADOW_STACK, rstorssp),
    row!([Wrssd, Wrssq], Whole, Flags::SHADOW_STACK, wrss),
];

/// The error codes of #CP.
const NEAR_RET: Exception = Exception::ControlProtection(1);
const FAR_RET: Exception = Exception::ControlProtection(2);
const RSTORSSP: Exception = Exception::ControlProtection(4);

/// Bit 0 of a token: it was made in 64-bit mode.
const LONG_MODE: u64 = 1;
/// Bit 1 of a token: it holds the previous stack's pointer.
const PREVIOUS: u64 = 2;

/// Marks a fault as one of a shadow-stack access.
fn shadow_fault(exception: Exception) -> Exception {
    const SHADOW_STACK: u32 = 1 << 6;
    match exception {
        Exception::PageFault { address, error_code } => {
            Exception::PageFault { address, error_code: error_code | SHADOW_STACK }
        }
        other => other,
    }
}

fn load<W: Width>(c: &mut Context<'_>, address: u64) -> Result<W, Exception> {
    c.load(address, Access::Read, false).map_err(shadow_fault)
}

fn store<W: Width>(c: &mut Context<'_>, address: u64, value: W) -> Result<(), Exception> {
    c.check(address, W::BYTES, W::BYTES, false)?;
    let bytes = value.zero_extend().to_le_bytes();
    c.memory.write_shadow_stack(address, &bytes[..W::BYTES]).map_err(|fault| shadow_fault(fault.into()))
}

/// What a near call pushes, where the thread has a shadow stack.
#[inline(always)]
pub(in crate::families) fn near_push(c: &mut Context<'_>, rip: u64) -> Result<(), Exception> {
    match c.registers.ssp {
        None => Ok(()),
        Some(ssp) => {
            let top = ssp.wrapping_sub(8);
            store(c, top, rip)?;
            c.registers.ssp = Some(top);
            Ok(())
        }
    }
}

/// Compares a near return's target, and gives the shadow stack pointer as it is afterwards.
#[inline(always)]
pub(in crate::families) fn near_pop(c: &mut Context<'_>, target: u64) -> Result<Option<u64>, Exception> {
    let Some(ssp) = c.registers.ssp else { return Ok(None) };
    if load::<u64>(c, ssp)? != target {
        return Err(NEAR_RET);
    }
    Ok(Some(ssp.wrapping_add(8)))
}

/// What a far call pushes: CS, RIP and SSP, on a boundary of eight bytes.
pub(super) fn far_push(c: &mut Context<'_>, cs: u64, rip: u64) -> Result<(), Exception> {
    let Some(ssp) = c.registers.ssp else { return Ok(()) };
    store(c, ssp.wrapping_sub(4), 0u32)?;
    let aligned = ssp & !7;
    for (below, word) in [(8, cs), (16, rip), (24, ssp)] {
        store(c, aligned.wrapping_sub(below), word)?;
    }
    c.registers.ssp = Some(aligned.wrapping_sub(24));
    Ok(())
}

/// Compares a far return's target, and gives the shadow stack pointer as it is afterwards.
pub(super) fn far_pop(c: &mut Context<'_>, cs: u16, target: u64) -> Result<Option<u64>, Exception> {
    let Some(ssp) = c.registers.ssp else { return Ok(None) };
    if ssp & 7 != 0 {
        return Err(FAR_RET);
    }
    let previous = load::<u64>(c, ssp)?;
    let rip = load::<u64>(c, ssp.wrapping_add(8))?;
    let saved_cs = load::<u64>(c, ssp.wrapping_add(16))?;
    if previous & 3 != 0 || rip != target || saved_cs != u64::from(cs) {
        return Err(FAR_RET);
    }
    Ok(Some(previous))
}

fn rdssp<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if let Some(ssp) = c.registers.ssp {
        c.write(0, W::truncate(ssp))?;
    }
    Ok(Outcome::Next)
}

/// The first and the last of the words that it pops must be in a shadow stack.
fn incssp<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let ssp = c.registers.ssp.ok_or(Exception::InvalidOpcode)?;
    let size = W::BYTES as u64;
    let count = c.read::<W>(0)?.zero_extend() & 0xff;
    load::<W>(c, ssp)?;
    load::<W>(c, ssp.wrapping_add((count.max(1) - 1) * size))?;
    c.registers.ssp = Some(ssp.wrapping_add(count * size));
    Ok(Outcome::Next)
}

/// Leaves a token on the previous shadow stack, from which RSTORSSP can go back to it.
fn saveprevssp(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let ssp = c.registers.ssp.ok_or(Exception::InvalidOpcode)?;
    let refused = Err(Exception::GeneralProtection(0));
    if ssp & 7 != 0 {
        return refused;
    }
    let token = load::<u64>(c, ssp)?;
    if c.registers.rflags.contains(Rflags::CF) || token & PREVIOUS == 0 {
        return refused;
    }
    let previous = token & !3;
    store(c, previous.wrapping_sub(4), 0u32)?;
    store(c, (previous & !7).wrapping_sub(8), previous | LONG_MODE)?;
    c.registers.ssp = Some(ssp.wrapping_add(8));
    Ok(Outcome::Next)
}

/// Replaces the token of the new shadow stack by one that says where the old one was. The processor does
/// so atomically; here two threads that switch to the same stack at the same time are not kept apart.
fn rstorssp(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let ssp = c.registers.ssp.ok_or(Exception::InvalidOpcode)?;
    let address = c.linear();
    if address & 7 != 0 {
        return Err(Exception::GeneralProtection(0));
    }
    let token = load::<u64>(c, address)?;
    let points_here = (token & !LONG_MODE).wrapping_sub(8) & !7 == address;
    if token & 3 != LONG_MODE || !points_here {
        return Err(RSTORSSP);
    }
    store(c, address, ssp | LONG_MODE | PREVIOUS)?;
    c.registers.ssp = Some(address);
    let hole = flag(Rflags::CF, token & 4 != 0);
    c.registers.rflags = c.registers.rflags.difference(Rflags::STATUS) | hole;
    Ok(Outcome::Next)
}

/// Whether the thread may (`ARCH_SHSTK_WRSS`) is its own.
fn wrss(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if c.registers.ssp.is_some() { Ok(Outcome::Native) } else { Err(Exception::InvalidOpcode) }
}
