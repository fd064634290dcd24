//! Near control transfer (SDM volume 1, section 7.3.8).

use iced_x86::Mnemonic;

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{Rflags, gpr};
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::row::{Row, by_width};
use crate::shape::row;

use crate::families::system::far;
use crate::families::system::shadow::{near_pop, near_push};

pub(super) static ROWS: &[Row] = &[
    row!(Jmp, Select, Flags::empty(), select_jmp),
    row!(
        [Ja, Jae, Jb, Jbe, Je, Jg, Jge, Jl, Jle, Jne, Jno, Jnp, Jns, Jo, Jp, Js],
        Whole,
        Flags::empty(),
        jcc
    ),
    row!(Call, Select, Flags::SHADOW_STACK, select_call),
    row!([Loop, Loope, Loopne], Select, Flags::empty(), select_loop),
    row!(Jrcxz, Whole, Flags::empty(), jrcxz),
    row!(Jecxz, Whole, Flags::empty(), jecxz),
    row!(Ret, OperandSize, Flags::SHADOW_STACK, ret),
];

/// The operand size is 16 bits with the operand-size prefix where the processor obeys it, and RIP is cut to it.
fn select_jmp(form: &Form<'_>) -> Option<Execute> {
    match form.shape(0) {
        Shape::Immediate => Some(jmp),
        Shape::Memory if form.instruction.is_jmp_far_indirect() => far::select_jmp(form),
        Shape::Register | Shape::Memory => by_width!(form.operand_size(), jmp_indirect),
        _ => None,
    }
}

fn jmp(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.branch(c.decoded.immediate)
}

fn jmp_indirect<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let target = c.read::<W>(0)?.zero_extend();
    c.branch(target)
}

fn jcc(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if c.condition() { c.branch(c.decoded.immediate) } else { Ok(Outcome::Next) }
}

/// LOOP and its like count RCX down, or ECX, without writing flags.
fn select_loop(form: &Form<'_>) -> Option<Execute> {
    fn count<W: Width>(c: &mut Context<'_>, wanted: Option<bool>) -> Result<Outcome, Exception> {
        let count = c.general::<W>(gpr::RCX).wrapping_sub(W::truncate(1));
        let zero = c.registers.rflags.contains(Rflags::ZF);
        let taken = count != W::default() && wanted.is_none_or(|wanted| wanted == zero);
        let outcome = if taken { c.branch(c.decoded.immediate)? } else { Outcome::Next };
        c.set_general(gpr::RCX, count);
        Ok(outcome)
    }
    let repeat = form.repeat_prefix().filter(|_| form.processor.is(Facts::LOOP_OBEYS_REPEAT));
    let wanted = match (form.instruction.mnemonic(), repeat) {
        (Mnemonic::Loop, _) => None,
        (_, Some(prefix)) => Some(prefix == 0xf3),
        (mnemonic, None) => Some(mnemonic == Mnemonic::Loope),
    };
    let wide = form.instruction.op_code().address_size() == 64;
    Some(match (wanted, wide) {
        (None, true) => |c| count::<u64>(c, None),
        (None, false) => |c| count::<u32>(c, None),
        (Some(true), true) => |c| count::<u64>(c, Some(true)),
        (Some(true), false) => |c| count::<u32>(c, Some(true)),
        (Some(false), true) => |c| count::<u64>(c, Some(false)),
        (Some(false), false) => |c| count::<u32>(c, Some(false)),
    })
}

fn jrcxz(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    jump_if(c, c.registers.gpr[gpr::RCX] == 0)
}

fn jecxz(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    jump_if(c, c.registers.gpr[gpr::RCX] as u32 == 0)
}

fn jump_if(c: &mut Context<'_>, condition: bool) -> Result<Outcome, Exception> {
    if condition { c.branch(c.decoded.immediate) } else { Ok(Outcome::Next) }
}

fn select_call(form: &Form<'_>) -> Option<Execute> {
    match form.shape(0) {
        Shape::Memory if form.instruction.is_call_far_indirect() => far::select_call(form),
        Shape::Immediate => by_width!(form.operand_size(), call),
        Shape::Register | Shape::Memory => by_width!(form.operand_size(), call_indirect),
        _ => None,
    }
}

/// A call of the next instruction only asks for its address: it does not go on the shadow stack.
fn call<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let target = c.decoded.immediate;
    let shadowed = target != c.registers.rip;
    call_near::<W>(c, target, shadowed)
}

fn call_indirect<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let target = c.read::<W>(0)?.zero_extend();
    call_near::<W>(c, target, true)
}

#[inline(always)]
fn call_near<W: Width>(c: &mut Context<'_>, target: u64, shadowed: bool) -> Result<Outcome, Exception> {
    let rsp = c.registers.gpr[gpr::RSP];
    if let Err(exception) = c.check_branch(target) {
        // The stack is looked at first.
        let (address, next) = (rsp.wrapping_sub(W::BYTES as u64), c.registers.rip);
        match c.decoded.processor.is(Facts::CALL_STORES_BEFORE_ITS_FAULT) {
            true => c.store::<W>(address, W::truncate(next), true)?,
            false => c.load::<W>(address, Access::Write, true).map(drop)?,
        }
        return Err(exception);
    }
    let next = c.registers.rip;
    c.push(W::truncate(next))?;
    if shadowed && let Err(exception) = near_push(c, next) {
        c.registers.gpr[gpr::RSP] = rsp;
        return Err(exception);
    }
    c.branch(target)
}

/// Without an immediate, nothing more is released than the return address.
fn ret<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let target = c.peek::<W>()?.zero_extend();
    c.check_branch(target)?;
    c.registers.ssp = near_pop(c, target)?;
    c.release(W::BYTES + usize::from(c.decoded.immediate as u16));
    c.branch(target)
}
