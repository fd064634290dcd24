//! Fences, caches, hints, waiting and transactions (SDM volume 1, sections 7.3.17, 11.4.4, 16 and volume
//! 3, sections 9.2 and 13).

use core::sync::atomic::{Ordering, fence};

use iced_x86::CpuidFeature;

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::decode::operand::{SegmentBase, is_canonical};
use crate::decode::processor::{Facts, Processor};
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{Rflags, gpr};
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::shape::row;

use super::privileged::undefined;

pub(super) static ROWS: &[Row] = &[
    row!([Lfence, Mfence, Sfence, Serialize], Whole, Flags::empty(), serialize),
    row!([Clflush, Clflushopt, Clwb], Whole, Flags::empty(), flush),
    row!(Clzero, Select, Flags::empty(), select_clzero),
    row!(
        [
            Cldemote,
            Prefetch,
            Prefetchit0,
            Prefetchit1,
            Prefetchnta,
            Prefetcht0,
            Prefetcht1,
            Prefetcht2,
            Prefetchw,
            Prefetchwt1
        ],
        Whole,
        Flags::empty(),
        hint
    ),
    // Bounds that Linux no longer lets anyone turn on.
    row!([Bndcl, Bndcn, Bndcu, Bndldx, Bndmk, Bndmov, Bndstx], Whole, Flags::empty(), hint),
    row!(Ptwrite, Whole, Flags::empty(), ptwrite),
    row!(Monitorx, Select, Flags::empty(), |form| unless_absent(form, monitorx)),
    row!(Mwaitx, Select, Flags::empty(), |form| unless_absent(form, mwaitx)),
    row!(Umonitor, Whole, Flags::empty(), umonitor),
    row!([Tpause, Umwait], Whole, Flags::empty(), wait),
    row!(Xbegin, Whole, Flags::empty(), xbegin),
    row!(Xend, Whole, Flags::empty(), |_| Err(Exception::GeneralProtection(0))),
    row!([Xabort, Xsusldtrk, Xresldtrk], Whole, Flags::empty(), hint),
    row!(Xtest, Whole, Flags::empty(), xtest),
];

fn serialize(_: &mut Context<'_>) -> Result<Outcome, Exception> {
    fence(Ordering::SeqCst);
    Ok(Outcome::Next)
}

/// A hint changes nothing and faults on nothing.
fn hint(_: &mut Context<'_>) -> Result<Outcome, Exception> {
    Ok(Outcome::Next)
}

/// Faults as a load of one byte does.
fn touch(c: &mut Context<'_>, address: u64) -> Result<Outcome, Exception> {
    c.load::<u8>(address, Access::Read, c.decoded.address.stack)?;
    Ok(Outcome::Next)
}

/// Caches are coherent: to the thread itself a line written back looks as before.
fn flush(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    touch(c, c.linear())
}

/// The linear address in operand 0, or in RAX, which is cut to the address size and has a segment.
fn implied(c: &Context<'_>) -> u64 {
    let instruction = &c.decoded.instruction;
    let number = match instruction.op_count() {
        0 => gpr::RAX,
        _ => instruction.op0_register().number(),
    };
    let narrow = instruction.op_code().address_size() == 32;
    let offset = if narrow { u64::from(c.general::<u32>(number)) } else { c.general::<u64>(number) };
    let segment = SegmentBase::of(instruction.segment_prefix());
    if segment != SegmentBase::Zero && !is_canonical(offset, c.decoded.processor.offset_sign_bits()) {
        // Left to the check of addresses.
        return offset;
    }
    offset.wrapping_add(segment.base(c.registers))
}

fn select_clzero(form: &Form<'_>) -> Option<Execute> {
    let repeated = form.repeat_prefix().is_some();
    Some(if repeated && form.processor.is(Facts::CLZERO_REFUSES_REPEAT) { undefined } else { clzero })
}

/// Zeros the line of 64 bytes around an address.
fn clzero(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    const LINE: usize = 64;
    let address = implied(c) & !(LINE as u64 - 1);
    c.check(address, LINE, 1, false)?;
    c.memory.write(address, &[0; LINE])?;
    Ok(Outcome::Next)
}

/// The packet goes nowhere while no trace is recorded; the operand is read all the same.
fn ptwrite(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    match c.decoded.instruction.code() {
        iced_x86::Code::Ptwrite_rm64 => c.read::<u64>(0).map(drop)?,
        _ => c.read::<u32>(0).map(drop)?,
    }
    Ok(Outcome::Next)
}

/// #UD without MONITORX, unless a hypervisor makes nothing of it.
fn unless_absent(form: &Form<'_>, execute: Execute) -> Option<Execute> {
    let hidden = form.processor.is(Facts::HIDDEN_MONITORX_DOES_NOTHING);
    Some(if has_monitorx(form.processor) || hidden { execute } else { undefined })
}

fn has_monitorx(processor: &Processor) -> bool {
    processor.features.has(CpuidFeature::MONITORX)
}

/// No extensions are defined.
fn monitorx(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if c.registers.gpr[gpr::RCX] as u32 != 0 {
        return Err(Exception::GeneralProtection(0));
    }
    if has_monitorx(c.decoded.processor) { touch(c, implied(c)) } else { Ok(Outcome::Next) }
}

/// Waiting may end at any time. Two extensions are defined: wake up for interrupts, and a timer.
fn mwaitx(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if c.registers.gpr[gpr::RCX] > 3 { Err(Exception::GeneralProtection(0)) } else { Ok(Outcome::Next) }
}

fn umonitor(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    touch(c, implied(c))
}

/// Waiting may end at any time; CF would say that the operating system's limit ended it.
fn wait(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if c.read::<u32>(0)? > 1 {
        return Err(Exception::GeneralProtection(0));
    }
    c.registers.rflags.remove(Rflags::STATUS);
    Ok(Outcome::Next)
}

/// A transaction may abort at any time: this one does at once, and gives no reason to try again.
fn xbegin(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let outcome = c.branch(c.decoded.immediate)?;
    c.registers.gpr[gpr::RAX] = 0;
    Ok(outcome)
}

/// ZF says that there is no transaction.
fn xtest(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.registers.rflags = c.registers.rflags.difference(Rflags::STATUS) | Rflags::ZF;
    Ok(Outcome::Next)
}
