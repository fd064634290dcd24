//! The stack (SDM volume 1, section 6.2 and 7.3.1.4).

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::operand::Kind;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::gpr;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::place::{Imm, Mem, Reg, Source};
use crate::run::row::{Row, by_width};
use crate::shape::row;

use crate::families::system::segment;

pub(super) static ROWS: &[Row] = &[
    row!(Push, Select, Flags::empty(), select_push),
    row!(Pop, Select, Flags::SEGMENTS, select_pop),
    row!(Enter, OperandSize, Flags::empty(), enter),
    row!(Leave, OperandSize, Flags::empty(), leave),
];

fn select_push(form: &Form<'_>) -> Option<Execute> {
    match form.shape(0) {
        Shape::Register => by_width!(form.operand_size(), push, <Reg<0>>),
        Shape::Memory => by_width!(form.operand_size(), push, <Mem>),
        Shape::Immediate => by_width!(form.operand_size(), push, <Imm>),
        Shape::Other => by_width!(form.operand_size(), segment::push),
        _ => None,
    }
}

fn push<W: Width, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = S::read::<W>(c)?;
    c.push(value)?;
    Ok(Outcome::Next)
}

fn select_pop(form: &Form<'_>) -> Option<Execute> {
    match form.shape(0) {
        Shape::None => None,
        Shape::Other => by_width!(form.operand_size(), segment::pop),
        _ => by_width!(form.operand_size(), pop),
    }
}

/// The address of a memory operand is computed with RSP as it is after the pop; POP RSP gets the value.
fn pop<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = c.peek::<W>()?;
    c.release(W::BYTES);
    let written = c.write(0, value);
    if written.is_err() && c.decoded.operand[0].kind == Kind::Memory {
        c.registers.gpr[gpr::RSP] = c.registers.gpr[gpr::RSP].wrapping_sub(W::BYTES as u64);
    }
    written?;
    Ok(Outcome::Next)
}

/// The frame pointers of the enclosing procedures are copied, then room is made for the locals. The
/// processor tests that the new top of the stack can be written.
fn enter<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (size, level) = (c.decoded.instruction.immediate16(), c.decoded.instruction.immediate8_2nd());
    let (rsp, rbp) = (c.registers.gpr[gpr::RSP], c.registers.gpr[gpr::RBP]);
    let step = W::BYTES as u64;
    let frame = rsp.wrapping_sub(step);
    let mut top = frame;
    c.store(top, W::truncate(rbp), true)?;
    for nested in 1..u64::from(level & 31) {
        let outer = c.load::<W>(rbp.wrapping_sub(step * nested), Access::Read, true)?;
        top = top.wrapping_sub(step);
        c.store(top, outer, true)?;
    }
    if level & 31 != 0 {
        top = top.wrapping_sub(step);
        c.store(top, W::truncate(frame), true)?;
    }
    top = top.wrapping_sub(u64::from(size));
    c.load::<W>(top, Access::Write, true)?;
    c.registers.gpr[gpr::RSP] = top;
    c.set_general(gpr::RBP, W::truncate(frame));
    Ok(Outcome::Next)
}

fn leave<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let frame = c.registers.gpr[gpr::RBP];
    let value = c.load::<W>(frame, Access::Read, true)?;
    c.registers.gpr[gpr::RSP] = frame.wrapping_add(W::BYTES as u64);
    c.set_general(gpr::RBP, value);
    Ok(Outcome::Next)
}
