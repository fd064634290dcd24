//! The processor's own answers (SDM volume 1, section 7.3.17 and chapter 20), asked of the processor.
//!
//! What a system call can forbid a thread (CPUID by `ARCH_CPUID`, RDTSC by `PR_SET_TSC`) is not known here.

use crate::decode::flags::Flags;
use crate::decode::processor::Facts;
use crate::host::answers;
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::{Registers, Rflags, gpr};
use crate::model::width::Width;
use crate::model::xsave::{self, feature};
use crate::run::context::Context;
use crate::run::row::Row;
use crate::shape::row;

use crate::families::integer::arith::flag;

pub(super) static ROWS: &[Row] = &[
    row!(Cpuid, Whole, Flags::THIS_CORE, cpuid),
    row!(Rdtsc, Whole, Flags::empty(), rdtsc),
    row!(Rdtscp, Whole, Flags::THIS_CORE, rdtscp),
    row!(Rdpid, Whole, Flags::THIS_CORE, rdpid),
    row!(Rdrand, Wide, Flags::empty(), rdrand),
    row!(Rdseed, Wide, Flags::empty(), rdseed),
    row!(Xgetbv, Whole, Flags::EXTENDED, xgetbv),
    row!(Rdpmc, Whole, Flags::empty(), rdpmc),
    row!(Rdpru, Whole, Flags::THIS_CORE, rdpru),
    row!(Rdpkru, Whole, Flags::PKRU, rdpkru),
    row!(Wrpkru, Whole, Flags::PKRU, wrpkru),
];

/// The low half of a general register.
fn low(registers: &Registers, number: usize) -> u32 {
    registers.gpr[number] as u32
}

/// Writes EDX:EAX.
fn answer(c: &mut Context<'_>, value: u64) -> Result<Outcome, Exception> {
    c.registers.gpr[gpr::RAX] = value & 0xffff_ffff;
    c.registers.gpr[gpr::RDX] = value >> 32;
    Ok(Outcome::Next)
}

fn cpuid(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let answer = answers::cpuid(low(c.registers, gpr::RAX), low(c.registers, gpr::RCX));
    c.registers.gpr[gpr::RAX] = u64::from(answer.eax);
    c.registers.gpr[gpr::RBX] = u64::from(answer.ebx);
    c.registers.gpr[gpr::RCX] = u64::from(answer.ecx);
    c.registers.gpr[gpr::RDX] = u64::from(answer.edx);
    Ok(Outcome::Next)
}

fn rdtsc(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    answer(c, answers::rdtsc())
}

fn rdtscp(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (time, aux) = answers::rdtscp();
    c.registers.gpr[gpr::RCX] = u64::from(aux);
    answer(c, time)
}

fn rdpid(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.write(0, answers::rdpid())?;
    Ok(Outcome::Next)
}

fn rdrand<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    random::<W>(c, answers::rdrand())
}

fn rdseed<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    random::<W>(c, answers::rdseed())
}

/// What RDRAND and RDSEED do with the bits they got: none gives zero, and CF tells.
#[inline(always)]
fn random<W: Width>(c: &mut Context<'_>, (value, valid): (u64, bool)) -> Result<Outcome, Exception> {
    c.write(0, W::truncate(if valid { value } else { 0 }))?;
    c.registers.rflags = c.registers.rflags.difference(Rflags::STATUS) | flag(Rflags::CF, valid);
    Ok(Outcome::Next)
}

fn xgetbv(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    match low(c.registers, gpr::RCX) {
        0 => answer(c, c.decoded.processor.xcr0),
        1 if c.decoded.processor.is(Facts::XGETBV_OF_XINUSE) => {
            let xcr0 = c.decoded.processor.xcr0;
            // Whether components that there is no place for are in use, only the thread itself can tell.
            if xcr0 & !feature::ALL != 0 {
                return Ok(Outcome::Native);
            }
            answer(c, xcr0 & xsave::in_use(c.registers))
        }
        _ => Err(Exception::GeneralProtection(0)),
    }
}

/// Whether user mode may read counters (CR4.PCE), and what is in them, is the thread's own: Linux lets a
/// process that has mapped a perf event.
fn rdpmc(_: &mut Context<'_>) -> Result<Outcome, Exception> {
    Ok(Outcome::Native)
}

/// MPERF and APERF; a register that is not there reads as zero.
fn rdpru(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (value, valid) = answers::rdpru(low(c.registers, gpr::RCX));
    c.registers.rflags = c.registers.rflags.difference(Rflags::STATUS) | flag(Rflags::CF, valid);
    answer(c, value)
}

fn rdpkru(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if low(c.registers, gpr::RCX) != 0 {
        return Err(Exception::GeneralProtection(0));
    }
    answer(c, u64::from(c.registers.pkru))
}

fn wrpkru(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if low(c.registers, gpr::RCX) != 0 || low(c.registers, gpr::RDX) != 0 {
        return Err(Exception::GeneralProtection(0));
    }
    c.registers.pkru = low(c.registers, gpr::RAX);
    Ok(Outcome::Next)
}
