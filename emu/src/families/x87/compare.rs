//! Comparison and classification (SDM volume 1, section 8.3.6).

use iced_x86::MemorySize;

use super::{Double, Doubleword, FLOAT, Number, Single, Word, by_number, in_memory, pops, read, waiting};
use crate::decode::form::Form;
use crate::families::integer::arith::flag;
use crate::host::x87::{self as host, Answer, Binary};
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::{Float80, Rflags, X87};
use crate::model::x87::StackFault;
use crate::model::x87::status::{BEFORE, C0, C1, C2, C3, CONDITION};
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!([Fcom, Fcomp, Fcompp, Ficom, Ficomp], Select, FLOAT, fcom),
    row!([Fucom, Fucomp, Fucompp], Select, FLOAT, fucom),
    row!([Fcomi, Fcomip], Select, FLOAT, fcomi),
    row!([Fucomi, Fucomip], Select, FLOAT, fucomi),
    row!(Ftst, Whole, FLOAT, ftst),
    row!(Fxam, Whole, FLOAT, fxam),
];

/// What a comparison with NaN or an empty register yields.
const UNORDERED: u16 = C3 | C2 | C0;
/// The result of a comparison in C3, C2 and C0, and whether the operands are popped: an unmasked exception keeps
/// processors from popping, but not from writing the result.
#[inline(always)]
fn compared(c: &mut Context<'_>, defined: u16, answer: Option<Answer>) -> (u16, bool) {
    let x87 = &mut c.registers.extended.x87;
    match answer {
        Some(Answer { status, .. }) => (status & UNORDERED, x87.raise(status, defined, BEFORE)),
        None => (UNORDERED, x87.stack_fault(StackFault::Underflow)),
    }
}

/// Compares to the condition codes, then pops.
#[inline(always)]
fn to_conditions(c: &mut Context<'_>, pops: u8, answer: Option<Answer>) {
    let (conditions, done) = compared(c, C1, answer);
    let x87 = &mut c.registers.extended.x87;
    x87.status = x87.status & !UNORDERED | conditions;
    if done {
        x87.pop(pops);
    }
}

/// Compares to CF, PF and ZF, clearing OF, SF and AF, then pops. C1 is for stack faults only.
#[inline(always)]
fn to_flags(c: &mut Context<'_>, pops: u8, answer: Option<Answer>) {
    let (conditions, done) = compared(c, 0, answer);
    c.set_status(
        flag(Rflags::CF, conditions & C0 != 0)
            | flag(Rflags::PF, conditions & C2 != 0)
            | flag(Rflags::ZF, conditions & C3 != 0),
    );
    if done {
        c.registers.extended.x87.pop(pops);
    }
}

/// Compares two registers.
#[inline(always)]
fn registers(
    x87: &X87,
    [left, right]: [u8; 2],
    compare: fn(u16, &Float80, &Float80) -> Answer,
) -> Option<Answer> {
    Some(compare(x87.control, x87.st(left)?, x87.st(right)?))
}

/// The registers compared; those that pop both name none.
#[inline(always)]
fn operands<const POPS: u8>(c: &Context<'_>) -> [u8; 2] {
    let [left, right, ..] = c.decoded.operand;
    if POPS == 2 { [0, 1] } else { [left.number, right.number] }
}

fn fcom(form: &Form<'_>) -> Option<Execute> {
    fn with_register<const POPS: u8>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        waiting(c, |c| {
            let operands = operands::<POPS>(c);
            let answer = registers(&c.registers.extended.x87, operands, host::Fcom::registers);
            to_conditions(c, POPS, answer);
            Ok(())
        })
    }
    fn memory<O: Binary, N: Number, const POPS: u8>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        waiting(c, |c| {
            let right: N::Bits = read(c)?;
            let x87 = &c.registers.extended.x87;
            let answer = x87.st(0).map(|left| N::apply::<O>(x87.control, left, right));
            to_conditions(c, POPS, answer);
            Ok(())
        })
    }
    type O = host::Fcom;
    match (in_memory(form), pops(form)) {
        (true, _) => by_number!(form, memory, <O>),
        (false, 0) => Some(with_register::<0>),
        (false, 1) => Some(with_register::<1>),
        (false, _) => Some(with_register::<2>),
    }
}

fn fucom(form: &Form<'_>) -> Option<Execute> {
    fn run<const POPS: u8>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        waiting(c, |c| {
            let operands = operands::<POPS>(c);
            let answer = registers(&c.registers.extended.x87, operands, host::fucom);
            to_conditions(c, POPS, answer);
            Ok(())
        })
    }
    match pops(form) {
        0 => Some(run::<0>),
        1 => Some(run::<1>),
        _ => Some(run::<2>),
    }
}

/// FCOMI and FUCOMI differ in what they think of quiet NaNs.
#[inline(always)]
fn compare_to_flags<const POPS: u8>(
    c: &mut Context<'_>,
    compare: fn(u16, &Float80, &Float80) -> Answer,
) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let operands = operands::<POPS>(c);
        let answer = registers(&c.registers.extended.x87, operands, compare);
        to_flags(c, POPS, answer);
        Ok(())
    })
}

fn fcomi(form: &Form<'_>) -> Option<Execute> {
    Some(match pops(form) {
        0 => |c| compare_to_flags::<0>(c, host::Fcom::registers),
        _ => |c| compare_to_flags::<1>(c, host::Fcom::registers),
    })
}

fn fucomi(form: &Form<'_>) -> Option<Execute> {
    Some(match pops(form) {
        0 => |c| compare_to_flags::<0>(c, host::fucom),
        _ => |c| compare_to_flags::<1>(c, host::fucom),
    })
}

fn ftst(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let x87 = &c.registers.extended.x87;
        let answer = x87.st(0).map(|st0| host::ftst(x87.control, st0));
        to_conditions(c, 0, answer);
        Ok(())
    })
}

/// Looks at an empty register without a fault: C1 is its sign all the same.
fn fxam(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let x87 = &mut c.registers.extended.x87;
        let class = match x87.st(0) {
            Some(st0) => host::fxam(x87.control, st0).status & CONDITION,
            None => C3 | C0 | if x87.register_mut(0).sign_exponent >> 15 != 0 { C1 } else { 0 },
        };
        x87.set_conditions(class);
        Ok(())
    })
}
