//! Near control transfer (SDM volume 1, section 7.3.8).

use crate::context::{Context, Execute};
use crate::exception::Exception;
use crate::outcome::Outcome;
use crate::shape::row;
use crate::table::{Flags, Form, Row, Shape};

pub(super) static ROWS: &[Row] = &[
    row!(Jmp, Select, Flags::empty(), select_jmp),
    row!(
        [Ja, Jae, Jb, Jbe, Je, Jg, Jge, Jl, Jle, Jne, Jno, Jnp, Jns, Jo, Jp, Js],
        Whole,
        Flags::empty(),
        jcc
    ),
    row!(Call, Select, Flags::STACK.union(Flags::SHADOW_STACK), select_call),
    row!(Ret, Select, Flags::STACK.union(Flags::SHADOW_STACK), select_ret),
];

/// Near, with 64-bit targets: what they are without a 66 prefix.
fn select_near(form: &Form<'_>, direct: Execute, indirect: Execute) -> Option<Execute> {
    match (form.shape(0), form.size(0)) {
        (Shape::Immediate, _) => Some(direct),
        (Shape::Register, 8) => Some(indirect),
        (Shape::Memory, 8) if form.instruction.is_jmp_near_indirect() => Some(indirect),
        (Shape::Memory, 8) if form.instruction.is_call_near_indirect() => Some(indirect),
        _ => None,
    }
}

fn select_jmp(form: &Form<'_>) -> Option<Execute> {
    select_near(form, jmp, jmp_indirect)
}

fn jmp(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.branch(c.displaced.immediate)
}

fn jmp_indirect(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let target = c.read::<u64>(0)?;
    c.branch(target)
}

fn jcc(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if c.condition() { c.branch(c.displaced.immediate) } else { Ok(Outcome::Next) }
}

fn select_call(form: &Form<'_>) -> Option<Execute> {
    select_near(form, call, call_indirect)
}

fn call(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    call_near(c, c.displaced.immediate)
}

fn call_indirect(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let target = c.read::<u64>(0)?;
    call_near(c, target)
}

#[inline(always)]
fn call_near(c: &mut Context<'_>, target: u64) -> Result<Outcome, Exception> {
    if !c.displaced.is_canonical(target) {
        return Err(Exception::GeneralProtection(0));
    }
    c.push(c.registers.rip)?;
    c.branch(target)
}

fn select_ret(form: &Form<'_>) -> Option<Execute> {
    match form.instruction.code() {
        iced_x86::Code::Retnq | iced_x86::Code::Retnq_imm16 => Some(ret),
        _ => None,
    }
}

/// Without an immediate, nothing more is released than the return address.
fn ret(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let target = c.peek::<u64>()?;
    let outcome = c.branch(target)?;
    c.release(8 + usize::from(c.displaced.immediate as u16));
    Ok(outcome)
}
