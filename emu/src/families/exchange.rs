//! Compare-and-exchange and exchange-and-add (SDM volume 1, section 7.3.1.2).

use crate::context::{Context, Execute};
use crate::exception::Exception;
use crate::families::arith::{add, cmp};
use crate::families::data::read_to_write;
use crate::outcome::Outcome;
use crate::registers::gpr;
use crate::shape::row;
use crate::table::{Flags, Form, Row};
use crate::width::{Width, by_width};

pub(super) static ROWS: &[Row] =
    &[row!(Xadd, Select, Flags::LOCK, select_xadd), row!(Cmpxchg, Select, Flags::LOCK, select_cmpxchg)];

fn select_xadd(form: &Form<'_>) -> Option<Execute> {
    if form.locked() { by_width!(form.size(0), xadd_locked) } else { by_width!(form.size(0), xadd) }
}

/// The sum is written last: it wins where both operands are the same register.
fn xadd<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let dst = read_to_write::<W>(c, 0)?;
    let src = c.read::<W>(1)?;
    let (sum, flags) = add(dst, src, c.registers.rflags);
    if c.displaced.operand[0].kind == crate::operand::Kind::Memory {
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
    let old = c.update(c.linear(), c.displaced.address.stack, |dst: W| add(dst, src, before).0)?;
    c.write(1, old)?;
    c.registers.rflags = add(old, src, before).1;
    Ok(Outcome::Next)
}

fn select_cmpxchg(form: &Form<'_>) -> Option<Execute> {
    if form.locked() { by_width!(form.size(0), cmpxchg_locked) } else { by_width!(form.size(0), cmpxchg) }
}

/// Writes its destination either way: with the value that it had if the comparison fails.
fn cmpxchg<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let dst = read_to_write::<W>(c, 0)?;
    let src = c.read::<W>(1)?;
    let accumulator = c.general::<W>(gpr::RAX);
    if accumulator == dst {
        c.write(0, src)?;
    } else {
        c.write(0, dst)?;
        c.set_general(gpr::RAX, dst);
    }
    c.registers.rflags = cmp(accumulator, dst, c.registers.rflags);
    Ok(Outcome::Next)
}

fn cmpxchg_locked<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let src = c.read::<W>(1)?;
    let accumulator = c.general::<W>(gpr::RAX);
    let old =
        c.update(c.linear(), c.displaced.address.stack, |dst: W| if dst == accumulator { src } else { dst })?;
    if old != accumulator {
        c.set_general(gpr::RAX, old);
    }
    c.registers.rflags = cmp(accumulator, old, c.registers.rflags);
    Ok(Outcome::Next)
}
